"""Contents on their way here: fetched from other members, chunk by chunk."""

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from ...contents import Files, lacking
from ...errors import Unavailable
from ...limits import (
    CONTENT_FETCH_CHUNKS,
    CONTENT_FETCHES,
    CONTENT_PULLS_MAX,
    CONTENT_STALL_MS,
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
        self.waits = True
        """For its turn."""
        self.wanted = asyncio.Event()
        """Somebody waits for it."""
        self._waiting = 0
        self.task: asyncio.Task[None]

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
        known: Callable[[bytes], Manifest | None], check_space: Callable[[int], None],
        arrived: Callable[[Manifest], None],
    ) -> None:  # fmt: skip
        """`rate`: of what nobody waits for. `known`: what is known of a content that is here.
        `arrived`: one has come."""
        self._engine, self._files, self._pool, self._rate = engine, files, pool, rate
        self._known, self._check_space, self._arrived = known, check_space, arrived
        self._all: dict[bytes, Pull] = {}
        self._places = asyncio.Semaphore(CONTENT_PULLS_MAX)

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

    def _ended(self, sha256: bytes, task: "asyncio.Task[None]") -> None:
        del self._all[sha256]
        if not task.cancelled():
            task.exception()  # looked at: who waits for it gets it too

    async def _run(self, pull: Pull, base: bytes) -> None:
        manifest = pull.manifest
        async with self._places:
            pull.waits = False
            await self._blocking(self._check_space, manifest.size)
            await self._blocking(self._files.arrive, manifest)
            left = await self.borrowed(manifest, pull.path, base)
            pull.received = manifest.size - sum(map(manifest.length, left))
            await self._fetch_all(pull, left)
            await self._blocking(self._files.complete, manifest)
        self._arrived(manifest)

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

    async def _fetch_all(self, pull: Pull, lacking: Iterable[int]) -> None:
        """Fetches chunks from one source after the other, until all are here. Raises
        Unavailable."""
        left, tried = deque(lacking), 0
        errors: list[str] = []
        while left:
            if tried == len(pull.sources):
                why = "; ".join(errors) or "there is no other member"
                raise Unavailable(
                    f"the content {pull.manifest.sha256.hex()[:16]}… cannot be had: {why}"
                )
            address = pull.sources[tried]
            tried += 1
            found = await asyncio.gather(
                *(self._fetch_from(pull, address, left) for _ in range(CONTENT_FETCHES))
            )
            errors += [error for error in found if error]

    async def _fetch_from(self, pull: Pull, address: str, left: deque[int]) -> str:
        """Takes parts of what is left and fetches them from there, until nothing is left, or the
        source fails: then it says why, and what it did not give is left."""
        manifest = pull.manifest
        while left:
            count = await self._turn(pull, manifest.length(left[0]))
            part = [left.popleft() for _ in range(min(count, len(left)))]
            got: list[int] | str = []
            try:
                got = await self._fetch(pull, address, part)
            finally:
                left.extend(part if isinstance(got, str) else set(part) - set(got))
            if isinstance(got, str):
                return got
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
