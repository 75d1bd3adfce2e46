"""How much content may be kept on this machine: room is made before anything is written.

Two bounds. `bytes_max`: of all content together, never passed, not for a moment. `free`: what stays
free on the disk, whoever fills it. When there is no room the least recently used content goes, but
none that is pinned, on its way in, or open: it is in the cluster and comes back when it is wanted.
(Whether anybody has a file open, the mount or its readers, the kernel says: see `Objects.remove`.)

Where the disk is fuller than `free` says and nothing here can go, nothing is kept ahead of its use
any more, but a reader still gets what it asks for, down to half of that bound; it goes again as
soon as it is closed. Runs on the event loop; removing is done in a thread.
"""

from __future__ import annotations

import asyncio
import errno
import os
from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection, Container, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from typing import Final, NamedTuple

from ..limits import FILL_GRACE_MS, REFUSAL_SHOWN_S, ROOM_LOW_MS, ROOM_RETRY_MS, ROOM_WAIT_MS
from ..sizes import NOTHING_FREE, FreeSpace, size_text
from .objects import EMPTY, Content, Objects
from .problems import Problems
from .scrub import Scrub

_SHARE: Final = 10
"""After a look at everything that was in vain the next one waits so many times as long."""


class Disk(NamedTuple):
    """The disk of the state directory, in bytes."""

    total: int
    free: int
    """For this user."""


def disk_of(path: str) -> Disk:
    """Asks the kernel."""
    found = os.statvfs(path)
    return Disk(found.f_blocks * found.f_frsize, found.f_bavail * found.f_frsize)


class NoRoom(OSError):
    """Content cannot be kept here; its text is for the status."""

    def __init__(self, text: str) -> None:
        super().__init__(errno.ENOSPC, text)
        self.text = text

    def __str__(self) -> str:
        return self.text


class Room:
    """The room for the objects of one agent."""

    def __init__(
        self, objects: Objects, problems: Problems, show: Callable[[Collection[bytes]], None],
        bytes_max: int = 0, free: FreeSpace = NOTHING_FREE,
        disk: Callable[[str], Disk] = disk_of,
    ) -> None:
        """`show`: tells the mount anew where these contents are. `bytes_max`: 0 = no limit."""
        self.bytes_max = bytes_max
        self.pinned: Callable[[], Container[bytes]] = frozenset
        """Contents that stay."""
        self.needed: Container[bytes] = frozenset()
        """Contents that the tree has; others go first."""
        self._objects, self._problems, self._show = objects, problems, show
        self._free, self._disk_of = free, disk
        self._reserved = 0
        """Bytes that are being written now."""
        self._held: Counter[bytes] = Counter()
        self._refused_s = 0.0
        self._vain_s = 0.0
        """Until then nothing is looked for that can go: there was none just now, and each time
        costs a look at everything, in which nothing else is done."""
        self._low_s: float | None = None
        """Since when the disk is too full."""
        self._pool = ThreadPoolExecutor(1, "room")
        self._scrub = Scrub(objects)
        self._making = asyncio.Lock()

    def close(self) -> None:
        """Ends its thread after what it removes now."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    # ---- for who brings content ------------------------------------------------------------------
    @asynccontextmanager
    async def reserved(
        self, sha256: bytes, size: int, path: str
    ) -> AsyncIterator[Callable[[int], None]]:
        """Room for content that a reader waits for, or a pin: to be written in this block, which
        may say of how many bytes they are counted among the objects already. Raises NoRoom."""
        left = size

        def counted(bytes_written: int) -> None:
            nonlocal left
            part = min(left, bytes_written)
            self._reserved -= part
            left -= part

        with self.held(sha256):
            await self._make(size, path)
            try:
                yield counted
            finally:
                self._reserved -= left

    @asynccontextmanager
    async def ahead(
        self, contents: Sequence[Content], evict: bool
    ) -> AsyncIterator[Sequence[Content]]:
        """Those of the contents that nobody waits for and for which there is room. `evict`: they
        are fresh, and older content may go for them."""
        total = sum(len(data) for _, data in contents)
        try:
            full = self._lack(total) > 0 or bool(self.bytes_max and total > self.bytes_max)
        except OSError:
            full = True  # `trim` says what is wrong with the disk.
        if full:
            yield ()
            return
        async with self._making:
            if evict and self._over(total) > 0:
                await self._evict(self._over(total), {sha256 for sha256, _ in contents})
            fits = self._over(total) <= 0
            self._reserved += total if fits else 0
        try:
            yield contents if fits else ()
        finally:
            self._reserved -= total if fits else 0

    def fits(self, size: int) -> bool:
        """Whether so much could be kept without anything going for it. Raises OSError."""
        return self._over(size) <= 0 and self._lack(size) <= 0

    @contextmanager
    def held(self, sha256: bytes) -> Iterator[None]:
        """While in this block, and until whoever waited for it has it open, it stays."""
        self._held[sha256] += 1
        try:
            yield
        finally:
            asyncio.get_running_loop().call_later(FILL_GRACE_MS / 1000, self._release, sha256)

    def _release(self, sha256: bytes) -> None:
        self._held[sha256] -= 1
        if self._held[sha256] <= 0:
            del self._held[sha256]

    # ---- for the housekeeping --------------------------------------------------------------------
    async def trim(self) -> None:
        """Keeps both bounds when others fill the disk, or the limit is lower than last time."""
        try:
            await self._trim()
        except OSError as error:
            self._problems.set(
                "(room)", f"{self._objects.root} cannot be kept within its bounds "
                f"({error.strerror}); look for errors of that disk in the kernel log"
            )
        else:
            self._problems.clear("(room)")

    async def _trim(self) -> None:
        now_s = asyncio.get_running_loop().time()
        if now_s - self._refused_s > REFUSAL_SHOWN_S:
            self._problems.clear("(cache-size)")
        over = max(self._over(0), self._lack(0))
        if over > 0 and now_s >= self._vain_s:
            async with self._making:
                freed, took_s = await self._evict(over)
            if not freed:
                self._vain_s = asyncio.get_running_loop().time() + _SHARE * took_s
        if self._lack(0) <= 0:
            self._low_s = None
            self._problems.clear("(cache-free)")
            return
        self._low_s = self._low_s or now_s
        if now_s - self._low_s < ROOM_LOW_MS / 1000:
            return
        self._problems.set(
            "(cache-free)",
            f"the disk of {self._objects.root} is fuller than it should be: "
            f"{size_text(self._free.least(self._disk().total))} are to stay free (-cache-free). "
            "Content is fetched when it is read and not kept; make room there, or choose another "
            "-state"
        )

    async def scrub(self) -> None:
        """Reads the next objects again, if it is time; damaged ones are shown no more."""
        if self._scrub.due:
            loop = asyncio.get_running_loop()
            if damaged := await loop.run_in_executor(self._pool, self._scrub.turn):
                self._show(damaged)

    async def evict(self, chosen: Collection[bytes]) -> int:
        """Takes these away, but for what is pinned, on its way in or open. Returns the bytes."""
        if any(sha256 in self._held for sha256 in chosen):
            await asyncio.sleep(FILL_GRACE_MS / 1000)  # It came just now.
        async with self._making:
            pinned = self.pinned()
            return await self._remove([
                s for s in chosen if s not in pinned and s not in self._held and s != EMPTY
            ])

    # ---- bounds ----------------------------------------------------------------------------------
    def _disk(self) -> Disk:
        return self._disk_of(self._objects.root)

    def _over(self, size: int) -> int:
        """By how much the limit would be passed with so much more."""
        if not self.bytes_max:
            return 0
        return self._objects.bytes + self._reserved + size - self.bytes_max

    def _lack(self, size: int) -> int:
        """How much less than it should be would be free on the disk with so much more. Raises
        OSError."""
        if not self._free:
            return 0
        disk = self._disk()
        return self._free.least(disk.total) - (disk.free - self._reserved - size)

    async def _make(self, size: int, path: str) -> None:
        """Reserves room, and waits a moment for what is just being closed."""
        if self.bytes_max and size > self.bytes_max:
            raise self._refused(NoRoom(
                f"{path} has {size_text(size)} and cannot be read here: the cache may hold "
                f"{size_text(self.bytes_max)} in all; raise -cache-size"
            ))
        loop = asyncio.get_running_loop()
        end_s = loop.time() + ROOM_WAIT_MS / 1000
        while True:
            took_s = 0.0
            async with self._making:
                if max(self._over(size), self._lack(size)) > 0:
                    _, took_s = await self._evict(max(self._over(size), self._lack(size)))
                if self._over(size) <= 0 and (self._lack(size) <= 0 or self._enough(size)):
                    self._reserved += size
                    return
            if loop.time() >= end_s:
                raise self._refused(self._why(size, path))
            pause_s = max(ROOM_RETRY_MS / 1000, _SHARE * took_s)
            await asyncio.sleep(min(pause_s, end_s - loop.time()))

    def _enough(self, size: int) -> bool:
        """There is not the room that there should be, but it does for one who waits."""
        disk = self._disk()
        return disk.free - self._reserved - size >= self._free.least(disk.total) // 2

    def _refused(self, error: NoRoom) -> NoRoom:
        self._problems.set("(cache-size)", error.text)
        self._refused_s = asyncio.get_running_loop().time()
        return error

    def _why(self, size: int, path: str) -> NoRoom:
        if self._over(size) <= 0:
            return NoRoom(
                f"{path} has {size_text(size)} and cannot be read here: "
                f"{size_text(self._disk().free)} are free on the disk of {self._objects.root}, of "
                "which half of -cache-free is left alone; make room there"
            )
        pinned = self.pinned()
        kept = sum(n for sha256, n in self._objects.sizes() if sha256 in pinned)
        return NoRoom(
            f"{path} has {size_text(size)} and cannot be read here now: of the "
            f"{size_text(self.bytes_max)} that the cache may hold (-cache-size), {size_text(kept)} "
            f"are pinned and {size_text(self._objects.bytes + self._reserved - kept)} are open or "
            "on their way in; raise -cache-size, or unpin something"
        )

    # ---- eviction --------------------------------------------------------------------------------
    async def _evict(
        self, bytes_wanted: int, spared: Container[bytes] = ()
    ) -> tuple[int, float]:
        """The least recently used go until so many bytes are free, and a sixteenth of the bound
        more: each time costs a look at the whole tree. Returns the bytes that are free now, and how
        many seconds it took."""
        begin_s = asyncio.get_running_loop().time()
        bytes_wanted += (self.bytes_max or self._free.least(self._disk().total)) // 16
        pinned, needed = self.pinned(), self.needed
        known = self._objects.sizes()
        chosen: list[bytes] = []
        for unneeded in (True, False):  # What no version has any more goes first.
            for sha256, size in known:
                if bytes_wanted <= 0:
                    break
                if (sha256 in needed) is unneeded or not size or sha256 in spared:
                    continue
                if sha256 not in pinned and sha256 not in self._held:
                    chosen.append(sha256)
                    bytes_wanted -= size
        freed = await self._remove(chosen)
        return freed, asyncio.get_running_loop().time() - begin_s

    async def _remove(self, chosen: Sequence[bytes]) -> int:
        if not chosen:
            return 0
        for sha256 in chosen:
            self._objects.hide(sha256)
        self._show(set(chosen))
        loop = asyncio.get_running_loop()
        freed = await loop.run_in_executor(self._pool, self._remove_all, chosen)
        left = {sha256 for sha256 in chosen if sha256 in self._objects}
        if left:
            self._show(left)  # They were open, and stay.
        return freed

    def _remove_all(self, chosen: Sequence[bytes]) -> int:
        return sum(self._objects.remove(sha256) for sha256 in chosen)
