"""Large content on its way here: readers get each chunk as soon as it is there.

The engine reads the chunks that are marked out of the file into which they come, verified, here; a
read of others is a miss. What somebody waits for comes first, then what follows it. The rest comes
while somebody has the file open; what has come is used again later.
"""

from __future__ import annotations

import asyncio
import hashlib
import io
import logging
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from typing import NamedTuple, TypeVar

from ..chunks import Order
from ..client.values import Stat
from ..contents import right
from ..errors import (
    DataLoss,
    DeadlineExceeded,
    DfsError,
    FailedPrecondition,
    NotFound,
    OutOfRange,
    Unavailable,
)
from ..limits import ARRIVING_FETCHES, ARRIVING_LOOK_MS, CONTENT_HOLD_WAIT_MS, FETCH_MS_MAX
from ..manifest import Manifest
from .feeder import Feeder
from .large import Large
from .objects import Objects
from .ports import Client, Part, Tree
from .room import Room

log = logging.getLogger(__name__)
T = TypeVar("T")
Fetch = Callable[[int], Awaitable[None]]
"""Has a chunk, by its number, in the file, verified. Raises DfsError, OSError."""


class Wanted(NamedTuple):
    """A version of a file that somebody reads."""

    key: str
    version: int
    at: int
    """A revision as of which it is there: its own, or of the past that somebody looks at, which
    history has longer."""
    path: str
    """Where the mount shows it."""

    @property
    def name(self) -> tuple[str, int]:
        """By which the mount knows it."""
        return self.path, self.version

    async def read_by(self, read: Callable[..., Awaitable[T]]) -> T:
        """What a read gives that takes a `revision`; without one it is of now. Local reads are
        enough: a version never changes, and whoever reads it compares the SHA-256."""
        try:
            return await read(revision=self.at)
        except (OutOfRange, NotFound):
            # History no longer reaches back to that version, but it may be the present one.
            return await read()


class File:
    """An open file. It is closed when nobody has this any more: a thread whose work was given up
    may still write."""

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def __del__(self) -> None:
        os.close(self.fd)

    def write(self, data: memoryview, offset: int) -> None:
        """Writes all of it there. Blocks. Raises OSError."""
        while data:
            written = os.pwrite(self.fd, data, offset)
            data, offset = data[written:], offset + written


class Way(NamedTuple):
    """How a content comes."""

    file: File
    """Into which chunks come."""
    fetch: Fetch
    end: Callable[[bool], Awaitable[str | None]]
    """Nothing more comes; told whether all is here. Where it is then. Raises DfsError, OSError."""


class Arriving:
    """One content on its way. Event loop only."""

    def __init__(
        self, part: Part, chunks: int, fetch: Fetch, to_the_end: bool
    ) -> None:
        """`to_the_end`: it comes until a chunk is not to be had, whoever wants it."""
        self.part = part
        self.ended = False
        """Nothing comes any more."""
        self.place: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        """Where it is, once all of it is here."""
        self._fetch, self._to_the_end = fetch, to_the_end
        self._error: Exception | None = None
        """Why a chunk did not come, and none since."""
        self._order = Order()
        self._order.begin(range(chunks))
        self._wanting = 0

    @contextmanager
    def wanted(self) -> Iterator[None]:
        """It goes on while in this block."""
        self._wanting += 1
        try:
            yield
        finally:
            self._wanting -= 1

    async def have(self, first: int, upto: int) -> None:
        """Waits for chunks, from one on up to another. Raises DfsError, OSError."""
        await asyncio.gather(*(self._order.have(number) for number in range(first, upto)))

    async def whole(self, stall_s: float) -> str:
        """Waits until all is here; where it is. Raises DfsError, OSError, also when nothing more
        has come for so long."""
        while not self.place.done():
            before = len(self._order.lacking or ())
            await asyncio.wait({self.place}, timeout=stall_s)
            if not self.place.done() and len(self._order.lacking or ()) == before:
                raise self._error or DeadlineExceeded(f"no node gave more within {stall_s:g} s")
        return self.place.result()

    def end(self, error: Exception) -> None:
        """Nothing comes any more: for who waits."""
        self._order.end(error)
        if not self.place.done():
            self.place.set_exception(error)
            self.place.exception()  # Looked at: there may be nobody who waits.

    async def run(self) -> bool:
        """Fetches until all is here, or nobody has wanted it for a moment; whether all is here."""
        loop, look_s = asyncio.get_running_loop(), ARRIVING_LOOK_MS / 1000
        wanted_s = tried_s = loop.time()
        try:
            async with asyncio.TaskGroup() as group:
                work = [group.create_task(self._work()) for _ in range(ARRIVING_FETCHES)]
                while self._order.lacking and loop.time() - wanted_s <= look_s:
                    await self._order.changed(look_s)
                    now_s = loop.time()
                    wanted_s = now_s if self._is_wanted() else wanted_s
                    if now_s - tried_s >= look_s:
                        self._order.retry()
                        tried_s = now_s
                self.ended = True
                for task in work:
                    task.cancel()
        finally:
            self.ended = True
        return not self._order.lacking

    def _is_wanted(self) -> bool:
        to_the_end = self._to_the_end and self._error is None
        return to_the_end or self._wanting > 0 or self.part.used()

    async def _work(self) -> None:
        while True:
            taken = self._order.take(1) if self._is_wanted() else []
            if not taken:
                await self._order.changed(ARRIVING_LOOK_MS / 1000)
                continue
            [number] = taken
            try:
                await self._fetch(number)
            except (DfsError, OSError) as error:
                self._error = error
                self._order.failed(number, error)
            else:
                self._error = None
                self.part.mark(number)
                self._order.arrived([number])


class Arrivals:
    """The large contents that are on their way to this machine. Event loop only."""

    def __init__(
        self, client: Client, objects: Objects, feeder: Feeder, tree: Tree, large: Large,
        room: Room, to_the_end: bool,
    ) -> None:
        """`to_the_end`: what was begun comes to its end, as nobody says whether it is still
        read."""
        self._client, self._objects, self._feeder, self._tree = client, objects, feeder, tree
        self._large, self._room, self._to_the_end = large, room, to_the_end
        self.deadline_s = FETCH_MS_MAX / 1000
        """For one chunk."""
        self._begun: dict[bytes, asyncio.Future[Arriving]] = {}
        self._named: dict[tuple[str, int], Arriving] = {}
        """By the names that the mount has for them."""
        self._tasks: set[asyncio.Task[None]] = set()
        self._pool = ThreadPoolExecutor(ARRIVING_FETCHES, "arriving")

    def close(self) -> None:
        """What is here of them stays."""
        for task in self._tasks:
            task.cancel()
        self._pool.shutdown(wait=False, cancel_futures=True)

    def named(self, wanted: Wanted) -> Arriving | None:
        """What was begun for that version, which need not be in the tree any more."""
        return self._named.get(wanted.name)

    async def begin(self, wanted: Wanted, stat: Stat) -> Arriving:
        """A content on its way, begun unless it is. Raises DfsError, OSError."""
        begun = self._begun.get(stat.sha256)
        if begun is None:
            begun = self._begun[stat.sha256] = asyncio.get_running_loop().create_future()
            task = asyncio.create_task(self._run(wanted, stat, begun))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        return await asyncio.shield(begun)

    async def _run(self, wanted: Wanted, stat: Stat, begun: asyncio.Future[Arriving]) -> None:
        error: Exception = Unavailable(f"{wanted.key} comes no further")
        try:
            await self._bring(wanted, stat, begun)
        except (DfsError, OSError) as caught:
            error = caught
        finally:
            del self._begun[stat.sha256]
            if begun.done():
                begun.result().end(error)
            else:
                begun.set_exception(error)
                begun.exception()  # Looked at: who waited may be gone.

    async def _bring(self, wanted: Wanted, stat: Stat, begun: asyncio.Future[Arriving]) -> None:
        manifest = await self._manifest(stat)
        place = self._at_the_node if self._large.local else self._among_the_objects
        async with place(wanted, manifest) as way:
            part = self._tree.part(
                *wanted.name, way.file.fd, manifest.size, manifest.chunk_bytes
            )
            arriving = Arriving(part, manifest.chunks, way.fetch, self._to_the_end)
            self._named[wanted.name] = arriving
            begun.set_result(arriving)
            whole, backing = False, None
            try:
                whole = await arriving.run()
            finally:
                del self._named[wanted.name]
                backing = await way.end(whole)
        if backing is not None:
            self._feeder.place([(stat.sha256, stat.size)])
            arriving.place.set_result(backing)

    async def _manifest(self, stat: Stat) -> Manifest:
        async with self._deadline():
            while True:
                answer = await self._client.have_content(
                    stat.sha256, wait_ms=CONTENT_HOLD_WAIT_MS, manifest=True
                )
                if answer.digests:
                    return Manifest(stat.sha256, stat.size, answer.chunk_bytes, answer.digests)
                if answer.here:
                    raise FailedPrecondition(
                        "the node does not say what its chunks must be, as it is older than this"
                        " agent: bring the nodes to its version first"
                    )

    # ---- where the node is on this machine -------------------------------------------------------
    @asynccontextmanager
    async def _at_the_node(self, wanted: Wanted, manifest: Manifest) -> AsyncIterator[Way]:
        """The node has the chunks come, into a file of its own."""
        sha256, have = manifest.sha256, self._client.have_content

        async def fetch(number: int) -> None:
            async with self._deadline():
                while not (
                    await have(sha256, wait_ms=CONTENT_HOLD_WAIT_MS, chunk=number)
                ).chunk_here:
                    log.debug("%s: chunk %d is not here yet", wanted.key, number)

        async def end(whole: bool) -> str | None:
            end_s = time.monotonic() + self.deadline_s

            def left_s() -> float:
                return end_s - time.monotonic()

            return await self._large.have(sha256, manifest.size, left_s) if whole else None

        yield Way(File(self._large.open_arriving(sha256)), fetch, end)

    # ---- where it is elsewhere -------------------------------------------------------------------
    @asynccontextmanager
    async def _among_the_objects(self, wanted: Wanted, manifest: Manifest) -> AsyncIterator[Way]:
        """Chunks are downloaded into a file for which there is room."""
        sha256, size, objects = manifest.sha256, manifest.size, self._objects
        here = objects.size(sha256) or 0
        async with self._room.reserved(sha256, max(size - here, 0), wanted.key) as counted:
            file = File(await self._thread(lambda: objects.begin_part(sha256, size)))

            async def fetch(number: int) -> None:
                if not await self._thread(lambda: right(file.fd, manifest, number)):
                    async with self._deadline():
                        await self._download(wanted, manifest, file, number)
                    objects.grow_part(sha256, manifest.length(number))
                    counted(manifest.length(number))

            async def end(whole: bool) -> str | None:
                backing = objects.end_part(sha256, whole)
                if sha256 not in self._feeder.needed:
                    objects.retire(sha256)
                return backing

            yield Way(file, fetch, end)

    async def _download(
        self, wanted: Wanted, manifest: Manifest, file: File, number: int
    ) -> None:
        """Nothing is written but what is right."""
        key, version, at = wanted.key, wanted.version, wanted.at
        offset, into = number * manifest.chunk_bytes, io.BytesIO()

        async def read(**as_of: int) -> Stat:
            into.seek(0)
            return await self._client.download(
                key, into, offset=offset, length=manifest.length(number), local=True,
                min_revision=at, **as_of,
            )

        found = await wanted.read_by(read)
        if found.sha256 != manifest.sha256:
            raise NotFound(f"revision {version} of {key} is gone; now it is {found.revision}")
        data = into.getbuffer()

        def write() -> None:
            if hashlib.sha256(data).digest() != manifest.digest(number):
                raise DataLoss(f"the node sent chunk {number} of {key} with another SHA-256")
            file.write(data, offset)

        await self._thread(write)

    async def _thread(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._pool, work)

    @asynccontextmanager
    async def _deadline(self) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout(self.deadline_s):
                yield
        except TimeoutError:
            text = f"no node gave it within {self.deadline_s:g} s"
            raise DeadlineExceeded(text) from None
