"""One content on its way from other members, and whose turn it is."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from ...chunks import Order
from ...contents import Manifest
from ...errors import Unavailable
from ...limits import CONTENT_FETCH_CHUNKS, CONTENT_FETCHES, CONTENT_PULLS_MAX, CONTENT_STALL_MS
from ..ports import Engine

Blocking = Callable[..., Any]
"""Awaits a function in a thread."""


class Pull:
    """One content on its way here."""

    def __init__(self, manifest: Manifest) -> None:
        self.manifest = manifest
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
        self.task: asyncio.Task[None]

    @property
    def waits(self) -> bool:
        """For its turn."""
        return not self.turn.is_set()

    async def fetch(self, engine: Engine, path: Path, blocking: Blocking) -> None:
        """Fetches chunks from one source after the other, until all are here. Raises
        Unavailable."""
        tried = 0
        errors: list[str] = []
        while self.order.lacking:
            if tried == len(self.sources):
                why = "; ".join(errors) or "there is no other member"
                raise Unavailable(
                    f"the content {self.manifest.sha256.hex()[:16]}… cannot be had: {why}"
                )
            address = self.sources[tried]
            tried += 1
            found = await asyncio.gather(*(
                self._fetch_from(engine, address, str(path), blocking)
                for _ in range(CONTENT_FETCHES)
            ))  # fmt: skip
            errors += [error for error in found if error]

    async def _fetch_from(
        self, engine: Engine, address: str, path: str, blocking: Blocking
    ) -> str:
        """Takes parts of what is left and fetches them from there, until nothing is left, or the
        source fails: then it says why, and what it did not give is left."""
        manifest, order = self.manifest, self.order
        while part := order.take(CONTENT_FETCH_CHUNKS):
            try:
                got = await blocking(
                    engine.fetch_chunks, address, manifest.sha256, manifest.size,
                    manifest.chunk_bytes, [(n, manifest.digest(n)) for n in part], path,
                    CONTENT_STALL_MS,
                )  # fmt: skip
            except OSError as error:
                order.give_back(part)
                if not isinstance(error, ConnectionError | TimeoutError):
                    raise
                return f"{address}: {error}"
            except Exception as error:  # boundary: EngineError has the other's sentence
                order.give_back(part)
                return str(error) if address in str(error) else f"{address}: {error}"
            self.received += sum(map(manifest.length, got))
            order.arrived(got)
            if len(got) < len(part):
                order.give_back(set(part) - set(got))
                return f"{address} lacks {len(part) - len(got)} chunks"
        return ""


class Turns:
    """CONTENT_PULLS_MAX contents come at once; what somebody reads does not wait for others."""

    def __init__(self) -> None:
        self._waiting: deque[Pull] = deque()
        self._under_way = 0

    @asynccontextmanager
    async def of(self, pull: Pull) -> AsyncIterator[None]:
        """Waits for the turn of a content, which ends with this block."""
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
        if pull in self._waiting:
            self._waiting.remove(pull)
            self._begin(pull)

    def _next(self) -> None:
        while self._waiting and self._under_way < CONTENT_PULLS_MAX:
            self._begin(self._waiting.popleft())

    def _begin(self, pull: Pull) -> None:
        self._under_way += 1
        pull.turn.set()
