"""Content that is not here: fetched when a reader waits for it, or in the background when small.

One fetch for each content, however many wait. A reader gets the bytes or, at the deadline, an
errno; it never hangs. What the last run of the agent left on disk is verified before it is used.
Of a large content that is not here a reader waits only for what it reads: see `arriving`.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import functools
import hashlib
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from ..at_once import some_at_once
from ..client.values import Event, Stat
from ..errors import DataLoss, DeadlineExceeded, DfsError, NotFound, OutOfRange, Unavailable
from ..limits import (
    AGENT_DATA_BYTES_MAX,
    AGENT_RETRY_MS,
    AGENT_RETRY_MS_MAX,
    FETCH_MS_MAX,
    MISSES_MAX,
    REFUSAL_SHOWN_S,
    WARM_FETCHES_MAX,
)
from .arriving import Arrivals, Arriving, Wanted
from .feeder import Feeder
from .known import Version
from .large import Large
from .objects import Objects
from .past import place
from .ports import Client, Tree
from .problems import Problems
from .room import Room
from .tasks import Serving

log = logging.getLogger(__name__)
T = TypeVar("T")

Key = bytes | tuple[str, int]
"""What one fetch is for: a content, or a past version whose content is not known yet."""


class Fetcher:
    """Serves the mount's misses and warms the cache."""

    def __init__(
        self, client: Client, objects: Objects, feeder: Feeder, tree: Tree, large: Large,
        room: Room, problems: Problems, deadline_ms: int = FETCH_MS_MAX, to_the_end: bool = False,
    ) -> None:
        """`to_the_end`: see `Arrivals`."""
        self._client, self._objects, self._feeder, self._tree = client, objects, feeder, tree
        self._large, self._room, self._problems = large, room, problems
        self.deadline_s = deadline_ms / 1000
        """How long a reader waits at most, whatever it waits for."""
        self._arrivals = Arrivals(client, objects, feeder, tree, large, room, to_the_end)
        self._fetching: dict[Key, asyncio.Task[str | Arriving]] = {}
        self._serving = Serving("misses", tree.next_misses, self._serve)
        self._shown: asyncio.TimerHandle | None = None
        """Until when the status says why a reader got an error."""
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
            self._arrivals.close()
            self._pool.shutdown(wait=False, cancel_futures=True)

    # ---- misses ----------------------------------------------------------------------------------
    async def _serve(self, miss: int, path: str, version: int, first: int, upto: int) -> None:
        past = place(path)
        key, at = past or (path, version)
        wanted = Wanted(key, version, at, path)
        try:
            async with asyncio.timeout(self.deadline_s):
                await self._answer(miss, wanted, first, upto)
            return
        except (DeadlineExceeded, TimeoutError) as error:
            why = str(error) or f"no node gave it within {self.deadline_s:g} s"
            self._refused(f"{path}: a reader waited in vain: {why}")
            result = errno.ETIMEDOUT
        except DfsError as error:
            if past is not None and isinstance(error, (OutOfRange, NotFound)):
                log.info("%s: history does not reach it any more: %s", path, error)
                result = errno.ERANGE
            else:
                self._refused(f"{path}: content of revision {version} is not to be had: {error}")
                result = errno.EIO
        except OSError as error:
            log.warning("%s: content cannot be kept: %s", path, error)
            result = error.errno or errno.EIO
        self._tree.fulfil(miss, result)

    def _refused(self, why: str) -> None:
        """A reader gets an error: the status says the reason of the last one for a while."""
        self._problems.set("(content)", why)
        if self._shown is not None:
            self._shown.cancel()
        loop = asyncio.get_running_loop()
        self._shown = loop.call_later(REFUSAL_SHOWN_S, self._problems.clear, "(content)")

    async def _answer(self, miss: int, wanted: Wanted, first: int, upto: int) -> None:
        """Has the content here, or begun, and these chunks of it, and says so to who waits."""
        while True:
            found = await self._once(wanted)
            if isinstance(found, str):
                self._tree.fulfil(miss, found)
                if stat := self._stat(wanted):
                    self._feeder.place([(stat.sha256, stat.size)])
                return
            if not found.ended:
                with found.wanted():
                    await found.have(first, upto)
                    self._tree.fulfil(miss, found.part)
                    return
            await asyncio.wait({found.place})  # It has just come to its end.

    def _stat(self, wanted: Wanted) -> Stat | None:
        """What is known of it, if the tree has that version now."""
        stat = self._feeder.known.get(wanted.key)
        return stat if stat is not None and stat.revision == wanted.version else None

    async def _once(self, wanted: Wanted) -> str | Arriving:
        """The content of one version, from the disk or the node, or a large one on its way; shared
        by all who want it."""
        if (arriving := self._arrivals.named(wanted)) is not None:
            return arriving
        stat = self._stat(wanted)
        key: Key = stat.sha256 if stat else (wanted.key, wanted.version)
        task = self._fetching.get(key)
        if task is None:
            task = asyncio.create_task(self._content(wanted, stat))
            self._fetching[key] = task
            task.add_done_callback(functools.partial(self._fetched, key))
        return await asyncio.shield(task)

    def _fetched(self, key: Key, task: asyncio.Task[str | Arriving]) -> None:
        self._fetching.pop(key, None)
        if not task.cancelled():
            task.exception()  # Looked at: who waited may be gone.

    async def _content(self, wanted: Wanted, stat: Stat | None) -> str | Arriving:
        end_s = time.monotonic() + self.deadline_s
        large = await self._as_large(wanted, stat, end_s)
        if large is not None:
            return await self._large_content(wanted, large)
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

    async def _large_content(self, wanted: Wanted, stat: Stat) -> str | Arriving:
        """A large file: where it is, if all of it is here, be it that the node has it; else on its
        way."""
        here = self._objects.elsewhere(stat.sha256, stat.size)
        if here is None:
            with self._room.held(stat.sha256):
                here = await self._thread(lambda: self._objects.verify(stat.sha256))
        return here or await self._arrivals.begin(wanted, stat)

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
        key, version = wanted.key, wanted.version
        data, found = await wanted.read_by(functools.partial(
            self._client.read, key, local=True, min_revision=wanted.at, timeout=timeout_s
        ))
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
            wanted = Wanted(event.key, event.revision, event.revision, event.key)
            if event.data is not None and self._stat(wanted) is not None:
                contents.append((event.stat.sha256, event.data))
        async with self._room.ahead(contents, False) as kept:
            await self._thread(
                lambda: [self._objects.add(*left) for left in self._objects.add_together(kept)]
            )
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
        wanted = Wanted(path, file.revision, file.revision, path)
        if self._stat(wanted) is None:
            return
        found = await self._once(wanted)
        if isinstance(found, Arriving):
            with found.wanted():
                await found.whole(self.deadline_s)
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
