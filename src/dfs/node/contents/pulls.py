"""Contents on their way here: fetched from other members, chunk by chunk."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any

from ...chunks import Order
from ...contents import Files, lacking
from ...errors import OutOfSpace, Unavailable
from ...limits import (
    CONTENT_FETCH_CHUNKS,
    CONTENT_FETCHES,
    CONTENT_PULLS_MAX,
    CONTENT_STALL_MS,
    DISK_FREE_BYTES_MIN,
)
from ...manifest import Manifest
from ..ports import Engine
from ..tasks import in_thread
from .rate import Rate


class Pull:
    """One content on its way here."""

    def __init__(self, manifest: Manifest, path: Path) -> None:
        """`path`: the file that is filled."""
        self.manifest, self.path = manifest, path
        self.sources: list[str] = []
        """Peer addresses of members that may have it, the best one first."""
        self.received = 0
        """Bytes that are here and right."""
        self.turn = asyncio.Event()
        """Set when it is its turn."""
        self.begun = asyncio.Event()
        """Set when the file is there into which it comes, or it has ended."""
        self.order = Order()
        """Of the chunks."""
        self.wanted = asyncio.Event()
        """Somebody waits for it."""
        self._waiting = 0
        self.task: asyncio.Task[None]

    @property
    def waits(self) -> bool:
        """For its turn."""
        return not self.turn.is_set()

    @contextmanager
    def awaited(self) -> Iterator[None]:
        """Inside, somebody waits for it: it comes as fast as it goes."""
        self._waiting += 1
        self.wanted.set()
        try:
            yield
        finally:
            self._waiting -= 1
            if not self._waiting:
                self.wanted.clear()


class Pulls:
    """All of them. Asyncio thread only."""

    def __init__(
        self, engine: Engine, files: Files, pool: Executor, rate: Rate,
        known: Callable[[bytes], Manifest | None], arrived: Callable[[Manifest], None],
    ) -> None:  # fmt: skip
        """`rate`: of what nobody waits for. `known`: what is known of a content that is here.
        `arrived`: one has come."""
        self._engine, self._files, self._pool, self._rate = engine, files, pool, rate
        self._known, self._arrived = known, arrived
        self._all: dict[bytes, Pull] = {}
        self._turns = Turns()

    async def close(self) -> None:
        """Ends all; what has arrived stays."""
        tasks = [pull.task for pull in self._all.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def __len__(self) -> int:
        return len(self._all)

    def __contains__(self, sha256: bytes) -> bool:
        return sha256 in self._all

    @property
    def contents(self) -> list[bytes]:
        """Which are on their way."""
        return list(self._all)

    def get(self, sha256: bytes) -> Pull | None:
        """The pull of a content, if there is one."""
        return self._all.get(sha256)

    def begin(self, manifest: Manifest, sources: Sequence[str], base: bytes = b"") -> Pull:
        """The pull of a content, begun if there is none; it tries these sources, too. `base`: see
        `Contents.spread`."""
        pull = self._all.get(manifest.sha256)
        if pull is None:
            path = self._files.arriving / manifest.sha256.hex()
            pull = self._all[manifest.sha256] = Pull(manifest, path)
            pull.task = asyncio.ensure_future(self._run(pull, base))
            pull.task.add_done_callback(lambda task: self._ended(manifest.sha256, task))
        pull.sources += [address for address in sources if address not in pull.sources]
        return pull

    def hurry(self, pull: Pull) -> None:
        """It is its turn, whoever waits."""
        self._turns.hurry(pull)

    def _ended(self, sha256: bytes, task: "asyncio.Task[None]") -> None:
        pull = self._all.pop(sha256)
        error = Unavailable("the node ends") if task.cancelled() else task.exception()
        pull.begun.set()
        if isinstance(error, Exception):  # who waits for it gets it too
            pull.order.end(error)

    async def _run(self, pull: Pull, base: bytes) -> None:
        manifest = pull.manifest
        async with self._turns.of(pull):
            await self._blocking(self._make_room, manifest)
            pull.begun.set()
            left = await self.borrowed(manifest, pull.path, base)
            pull.received = manifest.size - sum(map(manifest.length, left))
            pull.order.begin(left)
            await self._fetch_all(pull)
            await self._blocking(self._files.complete, manifest)
        self._arrived(manifest)

    def _make_room(self, manifest: Manifest) -> None:
        """The file is there into which it comes, and the disk has space for what lacks of it.
        Raises OutOfSpace, OSError."""
        path = self._files.arrive(manifest)
        check_space(self._files, max(manifest.size - path.stat().st_blocks * 512, 0))

    async def borrowed(self, manifest: Manifest, path: Path, base: bytes) -> list[int]:
        """Numbers of the chunks that lack in a file that is being filled, when it has what another
        content, which is here, has of them. Raises OSError."""
        left: list[int] = await self._blocking(lacking, path, manifest)
        if left and (known := self._known(base)):
            done = await self._blocking(self._files.borrow, manifest, left, known, path)
            left = sorted(set(left) - set(done))
        return left

    async def fetched(
        self, manifest: Manifest, path: Path, left: Sequence[int], sources: Iterable[str]
    ) -> list[int]:
        """Fetches what there is from members that may have some of a content, of which nobody has
        proved the digests; numbers of the chunks that still lack. Raises OSError."""
        pull, rest = Pull(manifest, path), list(left)
        for address in sources:
            for at in range(0, len(left), CONTENT_FETCH_CHUNKS):
                part = [n for n in left[at : at + CONTENT_FETCH_CHUNKS] if n in rest]
                got = await self._fetch(pull, address, part, unfinished=True)
                if isinstance(got, str):
                    break
                rest = [n for n in rest if n not in got]
        return rest

    async def _fetch_all(self, pull: Pull) -> None:
        """Fetches chunks from one source after the other, until all are here. Raises
        Unavailable."""
        tried = 0
        errors: list[str] = []
        while pull.order.lacking:
            if tried == len(pull.sources):
                why = "; ".join(errors) or "there is no other member"
                raise Unavailable(
                    f"the content {pull.manifest.sha256.hex()[:16]}… cannot be had: {why}"
                )
            address = pull.sources[tried]
            tried += 1
            found = await asyncio.gather(
                *(self._fetch_from(pull, address) for _ in range(CONTENT_FETCHES))
            )
            errors += [error for error in found if error]

    async def _fetch_from(self, pull: Pull, address: str) -> str:
        """Takes parts of what is left and fetches them from there, until nothing is left, or the
        source fails: then it says why, and what it did not give is left."""
        manifest, order = pull.manifest, pull.order
        while order.left:
            count = await self._turn(pull, manifest.length(order.left[0]))
            part = order.take(count)
            if not part:
                break  # others took it meanwhile
            got: list[int] | str = []
            try:
                got = await self._fetch(pull, address, part)
            finally:
                order.give_back(part if isinstance(got, str) else set(part).difference(got))
            if isinstance(got, str):
                return got
            order.arrived(got)
            if len(got) < len(part):
                return f"{address} lacks {len(part) - len(got)} chunks"
        return ""

    async def _turn(self, pull: Pull, size: int) -> int:
        """Returns when a chunk of that size may be fetched, and how many may be."""
        while not pull.wanted.is_set():
            if not (wait_s := self._rate.wait_s(size)):
                return 1 if self._rate.bytes_s else CONTENT_FETCH_CHUNKS
            with suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    await pull.wanted.wait()
        return CONTENT_FETCH_CHUNKS

    async def _fetch(
        self, pull: Pull, address: str, part: Sequence[int], unfinished: bool = False
    ) -> list[int] | str:
        """Fetches some chunks from there: those that are here then, or why there are none. Raises
        OSError."""
        manifest = pull.manifest
        wanted = [(number, manifest.digest(number)) for number in part]
        try:
            got: list[int] = await self._blocking(
                self._engine.fetch_chunks, address, manifest.sha256, manifest.size,
                manifest.chunk_bytes, wanted, str(pull.path), CONTENT_STALL_MS,
                unfinished,
            )
        except OSError as error:
            if not isinstance(error, ConnectionError | TimeoutError):
                raise
            return f"{address}: {error}"
        except Exception as error:  # boundary: EngineError has the other's sentence
            return str(error) if address in str(error) else f"{address}: {error}"
        pull.received += sum(map(manifest.length, got))
        return got

    async def _blocking(self, work: Callable[..., Any], *arguments: Any) -> Any:
        return await in_thread(work, *arguments, pool=self._pool)


def check_space(files: Files, size: int) -> None:
    """Raises OutOfSpace when there is none for so many bytes more, OSError."""
    free = files.free()
    if free - size < DISK_FREE_BYTES_MIN:
        raise OutOfSpace(
            f"{files.root} has {free >> 20:,} MiB left, which is too little for a content"
            f" of {size >> 20:,} MiB and {DISK_FREE_BYTES_MIN >> 20:,} MiB that stay free"
            " (DISK_FREE_BYTES_MIN): make room there",
            limit="DISK_FREE_BYTES_MIN",
        )


class Turns:
    """CONTENT_PULLS_MAX contents come at once; what somebody reads does not wait for others."""

    def __init__(self) -> None:
        self._waiting: deque[Pull] = deque()
        self._under_way = 0

    @asynccontextmanager
    async def of(self, pull: Pull) -> AsyncIterator[None]:
        """Waits for the turn of a content, which ends with this block."""
        if pull.waits:
            self._waiting.append(pull)
            self._next()
        try:
            await pull.turn.wait()
            yield
        finally:
            if pull.waits:
                self._waiting.remove(pull)
            else:
                self._under_way -= 1
            self._next()

    def hurry(self, pull: Pull) -> None:
        """It is its turn, whoever waits."""
        if pull.waits:
            with suppress(ValueError):  # its task has not begun yet
                self._waiting.remove(pull)
            self._begin(pull)

    def _next(self) -> None:
        while self._waiting and self._under_way < CONTENT_PULLS_MAX:
            self._begin(self._waiting.popleft())

    def _begin(self, pull: Pull) -> None:
        self._under_way += 1
        pull.turn.set()
