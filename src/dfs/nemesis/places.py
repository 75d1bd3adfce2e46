"""Where a node runs and how it is reached."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..config import LOOPBACK
from .ports import free_ports


@dataclass(frozen=True)
class Place:
    """For one node, which may come and go there."""

    raft: str
    """host:port for the other nodes."""
    grpc: str
    """host:port for callers in the same network."""
    enter: Sequence[str] = ()
    """The command that starts a command there."""
    descriptors: Sequence[int] = ()
    """That this command needs."""
    options: Sequence[str] = ()
    """That a node needs there."""
    reachable: bool = True
    """`grpc` can be reached from here; otherwise the node's socket has to do."""


def on_loopback(count: int) -> list[Place]:
    """Places that share this machine's loopback."""
    ports = free_ports(2 * count)
    return [
        Place(f"{LOOPBACK}:{raft}", f"{LOOPBACK}:{grpc}")
        for raft, grpc in zip(ports[:count], ports[count:], strict=True)
    ]
