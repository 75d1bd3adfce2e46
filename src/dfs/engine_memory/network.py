"""Clusters in memory: logs that their members share, and who can reach whom."""

import json
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .engine import MemoryEngine

Failure = tuple[int, str, bytes]
Result = bytes | Failure


@dataclass
class LogItem:
    """One entry, and who waits for its result."""

    payload: bytes
    membership: bytes
    answer: Callable[[Result], None] | None


@dataclass
class Cluster:
    """A log that all members share."""

    log: list[LogItem] = field(default_factory=list)
    members: dict[int, dict[str, Any]] = field(default_factory=dict)
    config: int = 0
    """Index of the entry that says who the members are."""
    leader: int = 0
    term: int = 1
    purged: int = 0
    snapshot: tuple[str, int, bytes] = ("", 0, b"")
    """Path, index, membership."""

    def append_membership(self) -> int:
        """Logs who the members are now; returns the index."""
        self.log.append(LogItem(b"", json.dumps(list(self.members.values())).encode(), None))
        self.config = len(self.log)
        return self.config


@dataclass
class Waiting:
    """A proposal or barrier that waits for a leader, a barrier that waits for an index."""

    answer: Callable[[Result], None]
    deadline: float
    entry: bytes | None = None
    index: int = 0
    """What has to be applied; 0 = ask the leader."""


class MemoryNetwork:
    """Connects the engines of one process."""

    def __init__(self) -> None:
        self.changed = threading.Condition(threading.RLock())
        self.engines: dict[str, MemoryEngine] = {}
        self.clusters: list[Cluster] = []
        self.silent: set[str] = set()

    def cut(self, raft: str, silent: bool = True) -> None:
        """Cuts the engine with this peer address off, or connects it again."""
        with self.changed:
            (self.silent.add if silent else self.silent.discard)(raft)
            self.changed.notify_all()

    def elect(self, engine: "MemoryEngine") -> None:
        """Makes `engine` lead its cluster."""
        self._lead(engine, engine.node_id)

    def depose(self, engine: "MemoryEngine") -> None:
        """Leaves the cluster of `engine` without a leader."""
        self._lead(engine, 0)

    def _lead(self, engine: "MemoryEngine", leader: int) -> None:
        with self.changed:
            cluster = engine.cluster_log
            assert cluster is not None
            cluster.leader, cluster.term = leader, cluster.term + 1
            self.changed.notify_all()

    def cluster_of(self, node_id: int) -> Cluster | None:
        """The cluster that has this member."""
        return next((c for c in self.clusters if node_id in c.members), None)


def member(node_id: int, name: str, raft: str, grpc: str, voter: bool) -> dict[str, Any]:
    """One row of a membership."""
    return {"id": node_id, "name": name, "raft": raft, "grpc": grpc, "voter": voter}


def log_id(term: int, index: int) -> bytes:
    """A log id as these engines write it."""
    return term.to_bytes(8, "big") + index.to_bytes(8, "big")
