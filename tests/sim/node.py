"""A member: the product's node on a simulated engine, with a disk that outlives it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from dfs.errors import DfsError
from dfs.identity import Identity
from dfs.kv import MemoryKV
from dfs.node import Node
from dfs.node.keeping import Floor
from dfs.node.ports import Myself, Refused
from dfs.server import hot
from dfs.server.streams import Streams
from dfs.store import Store

from .engine import SimEngine
from .model import Model
from .raft import Raft
from .world import World

TURN_S: Final = (0.00005, 0.002)
SLOW_TURN_S: Final = 0.3
"""A hot thread that is kept waiting."""
FLUSH_S: Final = (0.05, 2.0)
FLOOR_S: Final = (0.3, 2.0)


class Disk:
    """What survives a crash: what was flushed, and some of what was written since, in order."""

    def __init__(self) -> None:
        self.durable: dict[bytes, bytes] = {}
        self.since: list[Mapping[bytes, bytes | None]] = []
        self.promised = 0
        """The index that was called durable."""

    def flush(self) -> None:
        """All that was written is on disk."""
        self._keep(len(self.since))

    def crash(self, world: World) -> None:
        """Of what was not flushed, the first so many writes are there."""
        kept = world.chance.randint(0, len(self.since))
        world.counts["unflushed writes lost in a crash"] += len(self.since) - kept
        self._keep(kept)
        self.since.clear()

    def replace(self, records: Mapping[bytes, bytes]) -> None:
        """Another content, at once."""
        self.durable, self.since = dict(records), []

    def _keep(self, count: int) -> None:
        for changes in self.since[:count]:
            for key, value in changes.items():
                if value is None:
                    self.durable.pop(key, None)
                else:
                    self.durable[key] = value
        del self.since[:count]


class SimKV(MemoryKV):
    """The key/value port over such a disk."""

    def __init__(self, disk: Disk) -> None:
        super().__init__()
        self._disk = disk
        self._map.update(disk.durable)

    def write(self, changes: Mapping[bytes, bytes | None]) -> None:
        """See KeyValue."""
        super().write(changes)
        self._disk.since.append(dict(changes))

    def flush(self) -> None:
        """See KeyValue."""
        super().flush()
        self._disk.flush()

    def replace(self, records: Any) -> None:
        """See KeyValue."""
        super().replace(records)
        self._disk.replace(self._map)


class CheckedStore(Store):
    """The store; what it makes of each entry is compared with the model."""

    def __init__(self, kv: SimKV, model: Model, name: str) -> None:
        super().__init__(kv)
        self._model, self._name = model, name

    def apply(self, entries: Any, log_id: bytes, membership: bytes) -> Any:
        """See Store."""
        results, events = super().apply(entries, log_id, membership)
        self._model.world.note(f"{self._name} applies up to {self.applied}, {len(events)} changes")
        self._model.compare(entries, results, events)
        return results, events


class SimNode(Node):
    """The node; its threads are turns that the simulation calls."""

    async def start(self) -> None:
        """As the real one, but for what looks at the machine or asks other nodes."""
        self.failed = asyncio.get_running_loop().create_future()
        self._engine.start(self._store.log_id, self._store.membership)
        self._hot.begin()


class Machine:
    """A machine with a disk, on which a member runs or not."""

    def __init__(
        self, world: World, raft: Raft, model: Model, number: int, name: str, folder: Path
    ) -> None:
        self.world, self.raft, self.model = world, raft, model
        self.number, self.name, self.folder = number, name, folder
        self.disk = Disk()
        self.skew_ns = 0
        """By which its clock is wrong."""
        self.engine: SimEngine
        self.node: SimNode
        self.store: CheckedStore
        self._snapshots = 0
        self._turning = False

    @property
    def up(self) -> bool:
        """A member runs."""
        return self.name in self.raft.engines

    def clock(self) -> int:
        """What this machine thinks of the time."""
        return self.world.wall_ns() + self.skew_ns

    async def start(self) -> None:
        """Starts a member from what is on the disk."""
        knobs = self.world.knobs
        store = self.store = CheckedStore(SimKV(self.disk), self.model, self.name)
        self.world.check(
            store.applied >= self.disk.promised,
            f"{self.name} comes back at {store.applied}, behind {self.disk.promised}, which it had "
            "called durable",
        )
        self.world.note(f"{self.name} starts at {store.applied}")
        engine = self.engine = SimEngine(
            self.raft, self.number, self.name, self.clock, lambda: self._turn_soon(engine),
            knobs.stream_bytes,
        )
        codec = hot.codec(store, self.name)
        node = self.node = SimNode(
            engine, store, codec, Identity(self.folder, self.name, self.number, b"c" * 16),
            Myself(self.name, self.number, self.name, f"{self.name}:13000", "sim"), (),
            self.clock, self.world.fail,
        )
        node._floor = Floor(
            codec.record_time, knobs.history_age_s, knobs.history_revisions, 1
        )
        node.serve_streams(Streams(node).natively())
        await node.start()
        self._turn_soon(engine)
        self._flush_later(engine)
        self._move_floor_later(engine)

    def crash(self) -> None:
        """The process is gone, with all that it had in memory."""
        node, engine = self.node, self.engine
        engine.crash()
        for call in list(node._streams._open.values()):
            call.task.cancel()
        for task in sorted(node._tasks, key=lambda task: int(task.get_name().split("-")[1])):
            task.cancel()
        self.disk.promised = engine.durable_index
        self.disk.crash(self.world)
        self.store.close()

    def stop(self) -> None:
        """The process ends in order."""
        self.node._watches.end()
        self.engine.draining = True
        self.node._flusher.flush()
        if self.engine.leading:
            self.raft.elect_another()

    def snapshot(self) -> None:
        """Writes a file of the state."""
        self._snapshots += 1
        path = self.folder / f"{self.name}-{self._snapshots}"
        self.engine.snapshot(str(path))

    # ---- turns -----------------------------------------------------------------------------------
    def _turn_soon(self, engine: SimEngine) -> None:
        if self._turning or engine is not self.engine:
            return
        self._turning = True
        pause = self.world.chance.uniform(*TURN_S)
        if self.world.fault(self.world.knobs.slow_turn):
            pause += self.world.chance.uniform(0, SLOW_TURN_S)
        self.world.later(pause, self._turn)

    def _turn(self) -> None:
        self._turning = False
        if not self.engine.dead:
            self.node._hot.turn()

    def _flush_later(self, engine: SimEngine) -> None:
        def flush() -> None:
            if not engine.dead:
                self.node._flusher.flush()
                self._flush_later(engine)

        self.world.later(self.world.chance.uniform(*FLUSH_S), flush)

    async def _move_floor(self) -> None:
        try:
            await self.node.move_floor()
        except (DfsError, Refused):
            self.world.count("floor not moved", self.name)

    def _move_floor_later(self, engine: SimEngine) -> None:
        def move() -> None:
            if not engine.dead:
                self.node._begin(self._move_floor())
                self._move_floor_later(engine)

        self.world.later(self.world.chance.uniform(*FLOOR_S), move)
