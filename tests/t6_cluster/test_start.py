"""`dfs serve` and `dfs mount` as processes: what they say when they start, or why they do not."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import dfs
from dfs.nemesis.ports import free_ports
from dfs.nemesis.processes import wait_until

SOURCE = str(Path(dfs.__file__).parents[1])
ENDS_S = 20
needs_mount = pytest.mark.skipif(
    not Path("/dev/fuse").exists() or os.geteuid() != 0, reason="needs /dev/fuse and root"
)
no_defaults = pytest.mark.skipif(
    Path("/mnt/hostfs").exists() or Path("/mnt/dfs").exists(), reason="this machine has them"
)
Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def ports() -> tuple[int, int]:
    raft, grpc = free_ports(2)
    return raft, grpc


@pytest.fixture
def start(tmp_path: Path, ports: tuple[int, int]) -> Iterator[Start]:
    """Starts `dfs` in tmp_path with the ports as variables; ends what still runs afterwards."""
    started: list[subprocess.Popen[str]] = []
    environment = {k: v for k, v in os.environ.items() if not k.startswith("DFS_")}
    environment |= {
        "PYTHONPATH": SOURCE, "DFS_ID": "node1", "DFS_RAFT": f"127.0.0.1:{ports[0]}",
        "DFS_GRPC": f"127.0.0.1:{ports[1]}", "DFS_ENDPOINT": f"127.0.0.1:{ports[1]}",
    }

    def run(*arguments: str, **variables: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "dfs", *arguments], cwd=tmp_path, text=True,
            env={**environment, **variables}, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )
        started.append(process)
        return process

    yield run
    for process in started:
        with process:
            if process.poll() is None:
                process.terminate()
                process.wait(ENDS_S)


def until_ready(process: subprocess.Popen[str], last: str = "dfs status") -> str:
    """What a process says until it says `last`."""
    assert process.stderr is not None
    said = ""
    while last not in (line := process.stderr.readline()):
        assert line, f"it ended with {process.wait(ENDS_S)}:\n{said}"
        said += line
    return said + line


def refused(process: subprocess.Popen[str]) -> str:
    """The one sentence of a process that does not start."""
    _, said = process.communicate(timeout=ENDS_S)
    assert process.returncode == 2, said
    sentence = said.splitlines()[-1]
    assert sentence.startswith("dfs: ")
    assert "Traceback" not in said
    return sentence


@no_defaults
def test_the_command_of_the_seed(start: Start, ports: tuple[int, int], tmp_path: Path) -> None:
    """`DFS_ID=node1 dfs` alone is a cluster of one; without /mnt/hostfs and /mnt/dfs it serves the
    API and says how to get them."""
    node = start()
    said = until_ready(node)
    assert "no cache: /mnt/hostfs does not exist; make it (mkdir -p /mnt/hostfs)" in said
    assert "no mount: /mnt/dfs does not exist; make it (mkdir -p /mnt/dfs)" in said
    assert "node1 is ready: gRPC 127.0.0.1" in said
    with dfs.connect(f"127.0.0.1:{ports[1]}") as client:
        client.put("foo", b"bar")
        assert client.get("foo") == b"bar"
        (status,) = client.status().nodes
        assert any("/mnt/dfs does not exist" in line for line in status.agent.problems)
    assert (tmp_path / "data").is_dir()
    node.terminate()
    assert node.wait(ENDS_S) == 0


def test_a_second_node_joins_by_its_peers(
    start: Start, ports: tuple[int, int], tmp_path: Path
) -> None:
    until_ready(start("-cache", "", "-mount", ""))
    raft, grpc = free_ports(2)
    until_ready(start(
        "-id=node2", "--raft", f"127.0.0.1:{raft}", "-grpc", f"127.0.0.1:{grpc}", "-data", "data2",
        "-cache=none", "-mount=none", DFS_PEERS=f"localhost:{ports[0]}",
    ))
    with dfs.connect(f"127.0.0.1:{grpc}", learn=False) as client:
        client.put("foo", b"bar")
        wait_until("a voter", lambda: all(m.voter for m in client.members().members))
        assert sorted(m.name for m in client.members().members) == ["node1", "node2"]


def test_what_is_in_the_way_is_said_and_nothing_is_changed(
    start: Start, ports: tuple[int, int], tmp_path: Path
) -> None:
    """A port in use, an unreadable dfs.yaml, a mount point or cache that cannot be used: one
    sentence with the remedy, exit code 2, nothing changed on disk."""
    (tmp_path / "file").write_text("")
    before = sorted(tmp_path.rglob("*"))
    assert "file is no directory" in refused(start("-cache", "file"))
    assert "cannot be made in" in refused(start("-cache", "file/below"))
    assert "file is no directory; choose another one with -mount" in refused(
        start("-cache", "", "-mount", "file")
    )
    assert "is not empty ('file' is in it)" in refused(start("-cache", "", "-mount", "."))
    assert sorted(tmp_path.rglob("*")) == before
    (tmp_path / "dfs.yaml").write_text("id: [\n")
    assert "dfs.yaml line 2, column 1" in refused(start())
    (tmp_path / "dfs.yaml").unlink()
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind(("127.0.0.1", ports[1]))
        taken.listen()
        said = refused(start("-cache", "", "-mount", ""))
    assert f"127.0.0.1:{ports[1]}" in said
    assert "choose another with -raft or -grpc" in said


def test_a_data_directory_in_use(start: Start, ports: tuple[int, int]) -> None:
    until_ready(start("-cache", "", "-mount", ""))
    raft, grpc = free_ports(2)
    said = refused(start(
        "-cache", "", "-mount", "", "-raft", f"127.0.0.1:{raft}", "-grpc", f"127.0.0.1:{grpc}"
    ))
    assert "another process uses the data directory" in said


@needs_mount
def test_directories_that_are_asked_for_are_made(
    start: Start, ports: tuple[int, int], tmp_path: Path
) -> None:
    node = start("-cache", "new/cache", "-mount", "new/mount")
    until_ready(node)
    (tmp_path / "new/cache/foo").write_text("bar")
    wait_until("the drop is shown", (tmp_path / "new/mount/foo").exists)
    assert (tmp_path / "new/mount/foo").read_text() == "bar"
    node.send_signal(signal.SIGINT)
    assert node.wait(ENDS_S) == 0
    assert not os.path.ismount(tmp_path / "new/mount")


@needs_mount
def test_a_machine_that_is_no_node_has_cache_and_mount(
    start: Start, ports: tuple[int, int], tmp_path: Path
) -> None:
    """`dfs mount` serves the tree of a cluster on another machine; a killed agent is replaced."""
    until_ready(start("-cache", "", "-mount", ""))
    other = start("mount", "-mount", "there", "-cache", "here", "-state", "kept")
    until_ready(other, "serving")
    (tmp_path / "here/a").write_text("1")
    with dfs.connect(f"127.0.0.1:{ports[1]}") as client:
        wait_until("the drop is in the tree", lambda: client.get("a") == b"1")
        wait_until("and on the mount", (tmp_path / "there/a").exists)
        client.put("b", b"2")
        wait_until("so is a put", (tmp_path / "there/b").exists)
    assert (tmp_path / "there/b").read_bytes() == b"2"
    other.terminate()
    assert other.wait(ENDS_S) == 0
    assert not os.path.ismount(tmp_path / "there")


def test_a_cache_without_a_mount(start: Start, ports: tuple[int, int], tmp_path: Path) -> None:
    """The agent runs for the cache alone, and again when it is killed."""
    node = start("-cache", "here", "-mount", "none")
    until_ready(node)
    with dfs.connect(f"127.0.0.1:{ports[1]}") as client:

        def taken(key: str) -> Callable[[], bool]:
            return lambda: client.get(key) == b"x"

        (tmp_path / "here/a").write_text("x")
        wait_until("the drop is in the tree", taken("a"))
        os.kill(agent_of(node.pid), signal.SIGKILL)
        (tmp_path / "here/b").write_text("x")
        wait_until("another agent takes the next", taken("b"))
    node.terminate()
    assert node.wait(ENDS_S) == 0


def agent_of(pid: int) -> int:
    """The process of the agent that a node has started; the one that stands by is younger."""
    children = Path(f"/proc/{pid}/task").glob("*/children")
    for child in " ".join(c.read_text() for c in children).split():
        if b"dfs.cache.agent" in Path(f"/proc/{child}/cmdline").read_bytes():
            return int(child)
    raise AssertionError("no agent")
