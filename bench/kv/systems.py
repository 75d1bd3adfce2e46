"""The systems under test: how one node of three is started on loopback, as shipped.

All of them answer a put when it is flushed to the disks of a majority.
"""

from __future__ import annotations

import itertools
import os
import socket
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

from .failure import BenchError
from .rows import Row

ROOT: Final = Path(__file__).parent.parent.parent
WORK: Final = ROOT / "bench" / ".work"
BIN: Final = WORK / "bin"
NODES: Final = 3
FIRST_PORT, LAST_PORT = 10_000, 32_000
"""Below the range from which the kernel takes the ports of outgoing connections."""


class Place(NamedTuple):
    """Where one node lives."""

    name: str
    data: Path
    client: str
    peer: str


@dataclass(frozen=True)
class System:
    """One system; `kind` is what the load generator calls it."""

    kind: str
    command: Callable[[Place, Sequence[Place]], list[str]]
    packages: tuple[str, ...] = ()
    """Of Go, below bench/kv, that make its executable."""
    only_puts_and_gets: bool = False
    """It has no lists and watches, and linearizable reads at the leader alone."""

    def can(self, row: Row) -> bool:
        """Has what a row needs."""
        if not self.only_puts_and_gets:
            return True
        return not row.lists_or_watches and not (row.mode == "get" and row.anywhere)


def python() -> str:
    """The interpreter that runs dfs."""
    return sys.executable if os.environ.get("PYTHON") else str(ROOT / ".venv/bin/python")


def _dfs(me: Place, peers: Sequence[Place]) -> list[str]:
    return [
        python(), "-P", "-m", "dfs", "-id", me.name, "-raft", me.peer, "-grpc", me.client,
        "-data", str(me.data), "-peers", ",".join(p.peer for p in peers),
        "-cache", "", "-mount", "",
    ]


def _etcd(me: Place, peers: Sequence[Place]) -> list[str]:
    client, peer = f"http://{me.client}", f"http://{me.peer}"
    return [
        str(BIN / "etcd"), "--name", me.name, "--data-dir", str(me.data),
        "--listen-client-urls", client, "--advertise-client-urls", client,
        "--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer,
        "--initial-cluster", ",".join(f"{p.name}=http://{p.peer}" for p in peers),
        "--initial-cluster-state", "new",
    ]


def _hraft(me: Place, peers: Sequence[Place]) -> list[str]:
    return [
        str(BIN / "hraft"), "-id", me.name, "-raft", me.peer, "-grpc", me.client,
        "-data", str(me.data), "-peers", ",".join(p.peer for p in peers),
    ]


SYSTEMS: Final = {
    system.kind: system
    for system in (
        System("dfs", _dfs),
        System("etcd", _etcd, ("etcd",)),
        System("hraft", _hraft, ("hraft",), only_puts_and_gets=True),
    )
}
BASE: Final = "etcd"
"""What ratios refer to."""


def chosen(wanted: str) -> list[System]:
    """The systems that a comma-separated list names."""
    names = [name.strip() for name in wanted.split(",") if name.strip()]
    for name in names:
        if name not in SYSTEMS:
            raise BenchError(f"there is no system {name!r}; there are: {', '.join(SYSTEMS)}")
    if not names:
        raise BenchError("--systems needs at least one name")
    return [SYSTEMS[name] for name in dict.fromkeys(names)]


def places(folder: Path) -> list[Place]:
    """Three of them, below a directory, with ports that are free now."""
    ports = _free_ports(os.getpid())
    return [
        Place(
            f"node{i + 1}", folder / f"node{i + 1}",
            f"127.0.0.1:{next(ports)}", f"127.0.0.1:{next(ports)}",
        )
        for i in range(NODES)
    ]


def _free_ports(seed: int) -> Iterator[int]:
    """Different ones each time."""
    count = LAST_PORT - FIRST_PORT
    for number in itertools.islice(itertools.count(seed * 61), count):
        port = FIRST_PORT + number % count
        with socket.socket() as probe:
            # As servers do: what was just closed does not matter.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        yield port
