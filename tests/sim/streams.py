"""A streamed answer on its way from a node to a client: in order, and as fast as it is taken."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from dfs.engine_memory.network import Result

if TYPE_CHECKING:
    from .engine import SimEngine


class Sink(Protocol):
    """Where messages arrive."""

    me: str

    def arrived(self, message: bytes) -> None:
        """The next one."""

    def ended(self, result: Result) -> None:
        """There are no more."""


class ServerStream:
    """The node's end."""

    def __init__(self, engine: SimEngine, call_id: int, sink: Sink) -> None:
        self._engine, self._id, self._sink = engine, call_id, sink
        self._untaken = 0
        self._full = False
        self._stalled = False
        """A message was lost: nothing comes behind it, as TCP keeps the order."""
        self._last_at = 0.0

    def push(self, message: bytes) -> int:
        """Bytes that wait if those are too many, 0 if not."""
        self._untaken += len(message)
        self._full = self._untaken > self._engine.stream_bytes
        if self._full:
            self._engine.world.counts["stream full"] += 1
        self._deliver(self._sink.arrived, message)
        return self._untaken if self._full else 0

    def finish(self, result: Result) -> None:
        """Nothing follows."""
        self._deliver(self._sink.ended, result)

    def taken(self, size: int) -> None:
        """The client has taken so many bytes."""
        self._untaken -= size
        if self._full and self._untaken <= self._engine.stream_bytes // 2:
            self._full = False
            self._engine.flow(self._id, True)

    def gone(self) -> None:
        """The client has gone."""
        self._engine.flow(self._id, False)

    def _deliver(self, arrive: Any, what: Any) -> None:
        engine, world = self._engine, self._engine.world
        if self._stalled or engine.network.lost(engine.name, self._sink.me):
            self._stalled = True
            return
        self._last_at = max(self._last_at + 1e-6, world.now + engine.network.latency())
        world.later(self._last_at - world.now, arrive, what)
