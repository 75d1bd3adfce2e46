"""The systems under test: how one node of three is started on loopback, as shipped.

All of them answer a put when it is flushed to the disks of a majority.
"""

from __future__ import annotations

import itertools
import os
import shutil
import socket
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final, NamedTuple

from ..failure import BenchError
from ..machine import ROOT, WORK
from .rows import Row

BIN: Final = WORK / "bin"
INSTALLED_ETCD: Final = "etcd"
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
    """One system, by the name that people know it under here."""

    name: str
    kind: str
    """What the load generator calls those that it talks to in the same way."""
    command: Callable[[Place, Sequence[Place]], list[str]]
    packages: tuple[str, ...] = ()
    """Of Go, below bench/kv, that make its executable."""
    only_puts_and_gets: bool = False
    """It has no lists, watches and status, and linearizable reads at the leader alone."""

    def can(self, row: Row) -> bool:
        """Has what a row needs."""
        if not self.only_puts_and_gets:
            return True
        return row.only_puts_and_gets and not (row.mode == "get" and row.anywhere)


def python() -> str:
    """The interpreter that runs dfs."""
    return sys.executable if os.environ.get("PYTHON") else str(ROOT / ".venv/bin/python")


def _dfs(me: Place, peers: Sequence[Place]) -> list[str]:
    return [
        python(), "-P", "-m", "dfs", "-id", me.name, "-raft", me.peer, "-grpc", me.client,
        "-data", str(me.data), "-peers", ",".join(p.peer for p in peers),
        "-cache", "", "-mount", "",
    ]


def _etcd(me: Place, peers: Sequence[Place], program: str = str(BIN / "etcd")) -> list[str]:
    client, peer = f"http://{me.client}", f"http://{me.peer}"
    return [
        program, "--name", me.name, "--data-dir", str(me.data),
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
    system.name: system
    for system in (
        System("dfs", "dfs", _dfs),
        System("etcd", "etcd", _etcd, ("etcd",)),
        System("etcd-installed", "etcd", partial(_etcd, program=INSTALLED_ETCD)),
        System("hraft", "hraft", _hraft, ("hraft",), only_puts_and_gets=True),
    )
}
BASE: Final = "etcd"
"""What ratios refer to."""


def etcd_is_installed() -> bool:
    """Whether the distribution, or the user, has put one onto PATH."""
    return shutil.which(INSTALLED_ETCD) is not None


def chosen(wanted: str) -> list[System]:
    """The systems that a comma-separated list names; without one dfs and what etcd there is."""
    if not wanted:
        wanted = "dfs,etcd,etcd-installed" if etcd_is_installed() else "dfs,etcd"
    names = [name.strip() for name in wanted.split(",") if name.strip()]
    for name in names:
        if name not in SYSTEMS:
            raise BenchError(f"there is no system {name!r}; there are: {', '.join(SYSTEMS)}")
        if name == "etcd-installed" and not etcd_is_installed():
            raise BenchError("etcd is not installed; on Debian: apt-get install etcd-server")
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
