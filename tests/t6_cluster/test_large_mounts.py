"""Large files that are dropped, and read at mounts: the memory of agents, and more than 4 GiB."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from dfs.nemesis.processes import Cluster, Node, running, wait_until

from .test_large import MIB, digest, kept, needs_fuse, size_on_disk
from .test_mount_client import environment, servers

ENDS_S = 10
SHOWN_S = 60.0
MEMORY_MAX = 200 * MIB
GROWTH_MAX = 32 * MIB
"""Of an agent whose node is on the same machine: all bytes go through files."""


class Site(NamedTuple):
    """Where an agent works, and who has started it."""

    cache: Path
    mount: Path
    pid: int

    def agents(self) -> list[int]:
        """The processes of the agent, and of the one that stands by, if it is there yet."""
        children = Path(f"/proc/{self.pid}/task").glob("*/children")
        return [
            int(child) for child in " ".join(path.read_text() for path in children).split()
            if b"dfs.cache.agent" in Path(f"/proc/{child}/cmdline").read_bytes()
        ]

    def drop(self, source: Path) -> None:
        """Moves a file into the cache directory."""
        source.rename(self.cache / source.name)

    def shows(self, name: str, sha256: str) -> bool:
        """Reads the file from the mount, if it is there."""
        path = self.mount / name
        return path.exists() and digest(path) == sha256


@contextmanager
def elsewhere(cluster: Cluster, root: Path) -> Iterator[Site]:
    """`dfs mount` on a machine that is no node."""
    cache, mount = root / "cache", root / "mount"
    for directory in (cache, mount):
        directory.mkdir(parents=True)
    argv = [
        sys.executable, "-P", "-m", "dfs", "mount", "--servers", servers(cluster), "--mount", mount,
        "--cache", cache, "--state", root / "state",
    ]
    with (root / "log").open("wb") as log:
        process = subprocess.Popen(argv, cwd=root, env=environment(), stdout=log, stderr=log)
    try:
        wait_until("it is mounted", (mount / ".dfs/version").exists)
        yield Site(cache, mount, process.pid)
    finally:
        process.terminate()
        assert process.wait(ENDS_S) == 0, (root / "log").read_text()


def site_of(node: Node) -> Site:
    """Of a node, when its agent serves the mount."""
    wait_until("it is mounted", (node.mount / ".dfs/version").exists)
    assert node.process is not None
    return Site(node.cache, node.mount, node.process.pid)


def made(path: Path, size: int) -> str:
    """Writes a file of which no two parts are equal; its digest."""
    block = os.urandom(MIB)
    with path.open("wb") as file:
        for number in range(size // MIB):
            file.write(b"%08d" % number + block[8:])
    return digest(path)


def peak(pid: int) -> int:
    """The most memory that a process has had until now."""
    [line] = [s for s in Path(f"/proc/{pid}/status").read_text().splitlines() if "VmHWM" in s]
    return int(line.split()[1]) * 1024


@needs_fuse
def test_the_memory_of_agents_stays_small_while_large_files_go_through(tmp_path: Path) -> None:
    """An agent holds no more than pieces of a large file in memory, whether it is dropped in its
    cache directory or read at its mount, on a node and elsewhere."""
    sizes = {"here": 300 * MIB, "elsewhere": 100 * MIB}
    digests = {name: made(tmp_path / name, size) for name, size in sizes.items()}
    with (
        running(tmp_path / "nodes", mounts=True) as cluster,
        elsewhere(cluster, tmp_path / "apart") as other,
    ):
        nodes = [site_of(node) for node in cluster.nodes]
        before = {agent: peak(agent) for site in nodes for agent in site.agents()[:1]}
        nodes[0].drop(tmp_path / "here")
        other.drop(tmp_path / "elsewhere")
        for name, sha256 in digests.items():
            for site in (nodes[2], other):
                wait_until(f"{name} is shown", lambda s=site, n=name, d=sha256: s.shows(n, d))
        peaks = {agent: peak(agent) for site in (*nodes, other) for agent in site.agents()}
    assert before.keys() < peaks.keys()
    for agent, most in peaks.items():
        assert most < MEMORY_MAX, f"{agent} had {most / MIB:.0f} MiB"
    for agent, least in before.items():
        assert peaks[agent] - least < GROWTH_MAX, f"{least / MIB:.0f} MiB before: {peaks}"


@needs_fuse
def test_a_file_of_more_than_4_gib_is_dropped_and_read_behind_them(tmp_path: Path) -> None:
    """A file of more than 4 GiB, of which most is a hole, is shown with its size, and what stands
    at its end and across 4 GiB is read there; it takes no more of the disk than what it holds."""
    size, edge = (4 << 30) + MIB, 4 << 30
    parts = {0: os.urandom(MIB), edge - 100_000: os.urandom(200_000), size - 9: b"the last."}
    source = tmp_path / "huge"
    with source.open("wb") as file:
        file.truncate(size)
        for at, data in parts.items():
            os.pwrite(file.fileno(), data, at)
    with running(tmp_path / "nodes", 1, mounts=True) as cluster:
        [node] = cluster.nodes
        source.rename(node.cache / "huge")
        shown = node.mount / "huge"
        wait_until("it is shown", shown.exists, SHOWN_S)
        assert shown.stat().st_size == size
        with shown.open("rb", buffering=0) as file, node.client() as client:
            for at, data in parts.items():
                assert os.pread(file.fileno(), len(data), at) == data
                got = io.BytesIO()
                client.download("huge", got, offset=at, length=len(data))
                assert got.getvalue() == data
            assert os.pread(file.fileno(), MIB, size - 9) == parts[size - 9]
            assert os.pread(file.fileno(), 1, size) == b""
            assert os.pread(file.fileno(), MIB, edge // 2 + 1) == bytes(MIB)
        [content] = kept(node)
        assert content.stat().st_size == size
        assert size_on_disk(content) * 512 < 3 * MIB
