"""Content that is not here: fetched when a reader waits for it, or in the background when small.

One fetch for each content, however many wait. A reader gets the bytes or, at the deadline, an
errno; it never hangs. What the last run of the agent left on disk is verified before it is used.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import functools
import hashlib
import logging
import os
import time
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO, NamedTuple, TypeVar

from ..at_once import some_at_once
from ..client.values import Event, Stat
from ..errors import DataLoss, DeadlineExceeded, DfsError, NotFound, OutOfRange, Unavailable
from ..limits import (
    AGENT_DATA_BYTES_MAX,
    AGENT_RETRY_MS,
    AGENT_RETRY_MS_MAX,
    FETCH_MS_MAX,
    MISSES_MAX,
    WARM_FETCHES_MAX,
)
from .feeder import Feeder
from .known import Version
from .large import Large
from .objects import Objects
from .past import TOP, Past
from .ports import Client, Tree
from .room import Room
from .tasks import Serving

log = logging.getLogger(__name__)
T = TypeVar("T")

Key = bytes | tuple[str, int]
"""What one fetch is for: a content, or a past version whose content is not known yet."""


class Wanted(NamedTuple):
    """A version of a file that somebody reads."""

    key: str
    version: int
    at: int
    """A revision as of which it is there: its own, or of the past that somebody looks at, which
    history has longer."""


class Fetcher:
    """Serves the mount's misses and warms the cache."""

    def __init__(
        self, client: Client, objects: Objects, feeder: Feeder, tree: Tree, large: Large,
        room: Room, past: Past, deadline_ms: int = FETCH_MS_MAX,
    ) -> None:
        self._client, self._objects, self._feeder, self._tree = client, objects, feeder, tree
        self._large, self._room, self._past = large, room, past
        self.deadline_s = deadline_ms / 1000
        """How long a reader waits at most."""
        self._fetching: dict[Key, asyncio.Task[str]] = {}
        self._serving = Serving("misses", tree.next_misses, self._serve)
        self._pool = ThreadPoolExecutor(2, "fetcher")

    async def run(self) -> None:
        """Serves misses and keeps the cache warm, for ever."""
        self._serving.start()
        try:
            await self._warm_for_ever()
        finally:
            self._serving.stop()
            for task in self._fetching.values():
                task.cancel()
            self._pool.shutdown(wait=False, cancel_futures=True)

    # ---- misses ----------------------------------------------------------------------------------
    async def _serve(self, miss: int, path: str, version: int) -> None:
        result: str | int
        wanted = Wanted(path, version, version)
        try:
            if path.startswith(f"{TOP}/"):
                wanted = await self._of_the_past(path, version)
            result = await self._once(wanted)
        except DeadlineExceeded as error:
            log.warning("%s: a reader waited in vain: %s", path, error)
            result = errno.ETIMEDOUT
        except DfsError as error:
            log.warning("%s: content of revision %d is not to be had: %s", path, version, error)
            result = errno.EIO
        except OSError as error:
            log.warning("%s: content cannot be kept: %s", path, error)
            result = error.errno or errno.EIO
        self._tree.fulfil(miss, result)
        if isinstance(result, str) and (stat := self._stat(wanted)):
            self._feeder.place([(stat.sha256, stat.size)])

    async def _of_the_past(self, path: str, version: int) -> Wanted:
        try:
            async with asyncio.timeout(self.deadline_s):
                key, at = await self._past.place(path)
        except TimeoutError:
            text = f"no node said within {self.deadline_s:g} s which revision it is"
            raise DeadlineExceeded(text) from None
        return Wanted(key, version, at)

    def _stat(self, wanted: Wanted) -> Stat | None:
        """What is known of it, if the tree has that version now."""
        stat = self._feeder.known.get(wanted.key)
        return stat if stat is not None and stat.revision == wanted.version else None

    async def _once(self, wanted: Wanted) -> str:
        """The content of one version, from the disk or the node; shared by all who want it."""
        stat = self._stat(wanted)
        key: Key = stat.sha256 if stat else (wanted.key, wanted.version)
        task = self._fetching.get(key)
        if task is None:
            task = asyncio.create_task(self._content(wanted, stat))
            self._fetching[key] = task
            task.add_done_callback(lambda _: self._fetching.pop(key, None))
        return await asyncio.shield(task)

    async def _content(self, wanted: Wanted, stat: Stat | None) -> str:
        end_s = time.monotonic() + self.deadline_s
        large = await self._as_large(wanted, stat, end_s)
        if large is not None:
            return await self._large_content(wanted, large, end_s)
        if stat is None:
            data, sha256 = await self._download(wanted, None, end_s)
            async with self._room.reserved(sha256, len(data), wanted.key):
                return await self._keep(sha256, data)
        with self._room.held(stat.sha256):
            here = await self._thread(lambda: self._objects.verify(stat.sha256))
            if here is not None:
                return here
            async with self._room.reserved(stat.sha256, stat.size, wanted.key):
                data, sha256 = await self._download(wanted, stat, end_s)
                return await self._keep(sha256, data)

    async def _keep(self, sha256: bytes, data: bytes) -> str:
        return self._kept(sha256, await self._thread(lambda: self._objects.add(sha256, data)))

    def _kept(self, sha256: bytes, backing: str) -> str:
        """Where content is that has come just now; that of a past version goes again."""
        if sha256 not in self._feeder.needed:
            self._objects.retire(sha256)
        return backing

    async def _as_large(
        self, wanted: Wanted, stat: Stat | None, end_s: float
    ) -> Stat | None:
        """Its record, if the file is a large one; of a past version it has to be asked for."""
        if stat is None:
            try:
                stat = await self._tried(wanted.key, end_s, lambda left_s: self._client.stat(
                    wanted.key, revision=wanted.at, local=True, min_revision=wanted.at,
                    timeout=left_s,
                ))
            except (OutOfRange, NotFound):
                return None  # The present one, or gone; whoever reads it finds out.
        return stat if stat.chunk_bytes else None

    async def _large_content(self, wanted: Wanted, stat: Stat, end_s: float) -> str:
        """A large file: where the node of this machine has it, else downloaded."""
        if self._large.local:
            return await self._large.have(stat, lambda: end_s - time.monotonic())
        with self._room.held(stat.sha256):
            here = await self._thread(lambda: self._objects.verify(stat.sha256))
            if here is not None:
                return here
            async with self._room.reserved(stat.sha256, stat.size, wanted.key):
                backing = await self._download_large(wanted, stat, end_s)
                return self._kept(stat.sha256, backing)

    async def _download_large(self, wanted: Wanted, stat: Stat, end_s: float) -> str:
        temporary = self._objects.new_file()
        try:
            async with asyncio.timeout(end_s - time.monotonic()):
                with Path(temporary).open("wb") as file:  # noqa: ASYNC230 - a moment
                    await self._get_large(wanted, stat, file)
            return await self._thread(
                lambda: self._objects.adopt(temporary, stat.sha256, stat.size)
            )
        except TimeoutError:
            text = f"no node gave all of it within {self.deadline_s:g} s"
            raise DeadlineExceeded(text) from None
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary)

    async def _get_large(self, wanted: Wanted, stat: Stat, file: BinaryIO) -> None:
        download, (key, version, at) = self._client.download, wanted
        try:
            found = await download(key, file, revision=at, local=True, min_revision=at)
        except (OutOfRange, NotFound):
            found = await download(key, file, local=True, min_revision=at)
        if found.sha256 != stat.sha256:
            raise NotFound(f"revision {version} of {key} is gone; now it is {found.revision}")

    async def _download(
        self, wanted: Wanted, stat: Stat | None, end_s: float
    ) -> tuple[bytes, bytes]:
        """Reads the version from the node until it is right or the time is up."""
        return await self._tried(
            wanted.key, end_s, lambda left_s: self._read(wanted, stat, left_s)
        )

    async def _tried(
        self, path: str, end_s: float, attempt: Callable[[float], Awaitable[T]]
    ) -> T:
        """What an attempt gives, which is told how many seconds are left; repeated until the
        monotonic time `end_s` while no node answers. Raises DeadlineExceeded, DataLoss."""
        wait_ms = AGENT_RETRY_MS
        while True:
            left_s = end_s - time.monotonic()
            if left_s <= 0:
                raise DeadlineExceeded(f"no node gave it within {self.deadline_s:g} s")
            try:
                return await attempt(left_s)
            except (Unavailable, DataLoss) as error:
                if isinstance(error, DataLoss) and wait_ms >= AGENT_RETRY_MS_MAX:
                    raise
                last = error
            log.debug("%s: trying again: %s", path, last)
            await asyncio.sleep(min(wait_ms / 1000, max(end_s - time.monotonic(), 0)))
            wait_ms = min(wait_ms * 2, AGENT_RETRY_MS_MAX)

    async def _read(
        self, wanted: Wanted, stat: Stat | None, timeout_s: float
    ) -> tuple[bytes, bytes]:
        """A local read is enough: a version never changes, and its hash is checked here."""
        read, (key, version, at) = self._client.read, wanted
        try:
            data, found = await read(
                key, revision=at, local=True, min_revision=at, timeout=timeout_s
            )
        except (OutOfRange, NotFound):
            # History no longer reaches back to that version, but it may be the present one.
            data, found = await read(key, local=True, min_revision=at, timeout=timeout_s)
        if found.revision != version:
            raise NotFound(f"revision {version} of {key} is gone; now it is {found.revision}")
        sha256 = stat.sha256 if stat else found.sha256
        if hashlib.sha256(data).digest() != sha256:
            raise DataLoss(f"the node sent content of {key} with another SHA-256")
        return data, sha256

    async def _thread(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._pool, work)

    # ---- warming ---------------------------------------------------------------------------------
    async def _warm_for_ever(self) -> None:
        while True:
            await self._feeder.resynced.wait()
            self._feeder.resynced.clear()
            await self._warm()

    async def _warm(self) -> None:
        """All small content is to be here without a miss: verifies what is, fetches the rest."""
        contents = {
            file.sha256: (path, file) for path, file in self._feeder.known.entries(absent=True)
            if file.size <= AGENT_DATA_BYTES_MAX
        }
        wanted = list(contents.values())
        here = [w for w in wanted if w[1].sha256 in self._objects]
        for start in range(0, len(here), MISSES_MAX):
            part = here[start : start + MISSES_MAX]
            await self._thread(functools.partial(self._verify, part))
            self._feeder.place([(file.sha256, file.size) for _, file in part])
        await self._warm_changed(self._missing(wanted))
        await some_at_once(WARM_FETCHES_MAX, self._missing(wanted), self._warm_one)

    def _missing(self, wanted: Sequence[tuple[str, Version]]) -> list[tuple[str, Version]]:
        return [(p, s) for p, s in wanted if self._objects.backing(s.sha256, s.size) is None]

    async def _warm_changed(self, missing: Sequence[tuple[str, Version]]) -> None:
        """What is missing has mostly changed while no agent was here: one stream of those changes
        brings the content of all of them. It does not matter if it fails."""
        until = self._feeder.revision
        after = changed_since([stat.revision for _, stat in missing], until)
        if after == until:
            return
        try:
            async with asyncio.timeout(self.deadline_s), contextlib.aclosing(self._client.watch(
                "", after_revision=after, data_bytes_max=AGENT_DATA_BYTES_MAX, on_lost=_give_up,
            )) as updates:  # type: ignore[type-var]  # An async generator, typed as less.
                async for update in updates:
                    await self._keep_all(update.events)
                    if update.revision >= until:
                        return
        except (DfsError, OSError) as error:  # TimeoutError is one.
            log.debug("what changed since revision %d is fetched one by one: %s", after, error)

    async def _keep_all(self, events: Sequence[Event]) -> None:
        """Content of versions that the tree has, as far as there is room."""
        contents = []
        for event in events:
            wanted = Wanted(event.key, event.revision, event.revision)
            if event.data is not None and self._stat(wanted) is not None:
                contents.append((event.stat.sha256, event.data))
        async with self._room.ahead(contents, False) as kept:
            await self._thread(lambda: [self._objects.add(*content) for content in kept])
        self._feeder.place([(sha256, len(data)) for sha256, data in contents])

    def _verify(self, part: Sequence[tuple[str, Version]]) -> None:
        for _, file in part:
            self._objects.verify(file.sha256)

    async def _warm_one(self, wanted: tuple[str, Version]) -> None:
        path, file = wanted
        try:
            if self._room.fits(file.size):
                await self.bring(path, file)
        except (DfsError, OSError) as error:
            # Nobody waits for it: a reader will make us try again, and hear why not.
            log.debug("%s: not fetched ahead: %s", path, error)

    async def bring(self, path: str, file: Version) -> None:
        """Has the content of a file here ahead of its use, if the tree still has that version.
        Raises DfsError, OSError."""
        wanted = Wanted(path, file.revision, file.revision)
        if self._stat(wanted) is not None:
            await self._once(wanted)
            self._feeder.place([(file.sha256, file.size)])


def changed_since(revisions: Sequence[int], until: int) -> int:
    """The earliest revision behind which every second one up to `until`, at least, is among
    `revisions`: so little comes along that nobody wants."""
    after = until
    for count, revision in enumerate(sorted(revisions, reverse=True), 1):
        if until - revision < 2 * count:
            after = revision - 1
    return after


def _give_up(error: DfsError) -> None:
    raise error
