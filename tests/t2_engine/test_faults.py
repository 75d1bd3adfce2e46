"""Peers and disks that misbehave."""

import os
import resource
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from dfs import _engine

from .nodes import Node, cluster, leader, same, wait_until

ZERO = b"\x00\x00\x00\x01\x00"
"""A frame with one zero byte: welcome, or success."""
PURPOSE_AT = 4 + 8 + 2


class Silent:
    """Welcomes every connection and says nothing more, except to heartbeats if `alive`."""

    def __init__(self, alive: bool = False) -> None:
        self.alive = alive
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.addr = f"127.0.0.1:{self.listener.getsockname()[1]}"
        self.taken: list[socket.socket] = []
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self) -> None:
        """Answers each hello with an empty sentence, which is a welcome."""
        while True:
            try:
                taken, _ = self.listener.accept()
            except OSError:
                return
            self.taken.append(taken)
            hello = taken.recv(1 << 16)
            taken.sendall(ZERO)
            if self.alive and hello[PURPOSE_AT : PURPOSE_AT + 1] == b"C":
                threading.Thread(target=self.succeed, args=(taken,), daemon=True).start()

    def succeed(self, taken: socket.socket) -> None:
        """Answers every heartbeat."""
        try:
            while taken.recv(1 << 16):
                taken.sendall(ZERO)
        except OSError:
            return

    def close(self) -> None:
        """Ends all of it."""
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        for taken in self.taken:
            taken.close()


@pytest.fixture
def silent() -> Iterator[Silent]:
    """A silent peer."""
    peer = Silent()
    yield peer
    peer.close()


def test_a_peer_that_owes_an_answer_gets_a_new_session(tmp_path: Path, silent: Silent) -> None:
    with cluster(tmp_path, 1, answer_ms_max=200) as (node,):
        node.change(77, (77, "silent", silent.addr, "", False))
        before = node.status()["sessions"]
        node.put("a", "1")
        wait_until(lambda: node.status()["sessions"] >= before + 2, what="new sessions")
        (found,) = [m for m in node.status()["members"] if m["id"] == 77]
        assert "no answer" in found["error"]
        assert found["contact_ms"] == -1
        assert node.put("b", "1") > 0


def test_a_peer_that_lives_but_accepts_nothing_gets_a_new_session(tmp_path: Path) -> None:
    """Heartbeats pass and no answer is overdue: only that nothing moves shows it."""
    peer = Silent(alive=True)
    try:
        with cluster(tmp_path, 1, answer_ms_max=60_000, progress_ms_max=300) as (node,):
            node.change(77, (77, "idle", peer.addr, "", False))
            node.put("a", "1")
            wait_until(lambda: node.status()["sessions"] >= 3, what="new sessions")
            (found,) = [m for m in node.status()["members"] if m["id"] == 77]
            assert 0 <= found["contact_ms"] < 1_000
    finally:
        peer.close()


def test_a_silent_peer_costs_few_dials(tmp_path: Path, silent: Silent) -> None:
    with cluster(tmp_path, 1, answer_ms_max=200) as (node,):
        node.change(77, (77, "silent", silent.addr, "", False))
        wait_until(lambda: node.status()["dials"] > 5)
        before = node.status()["dials"]
        for i in range(100):
            node.put(f"k{i}", "1")
        assert node.status()["dials"] - before < 100


def test_a_question_to_a_silent_peer_has_an_end(tmp_path: Path, silent: Silent) -> None:
    with (
        cluster(tmp_path, 1) as (node,),
        pytest.raises(TimeoutError, match=f"{silent.addr}: no answer within 300 ms"),
    ):
        node.engine.ask(silent.addr, b"hello", 300)


def test_noise_on_the_peer_port_is_answered_or_closed(tmp_path: Path) -> None:
    with cluster(tmp_path, 1) as (node,):
        host, port = node.addr.split(":")
        for noise in (
            b"GET / HTTP/1.1\r\nhost: x\r\n\r\n",
            b"\xff\xff\xff\xff" + bytes(100),
            b"\x00\x00\x00\x20" + os.urandom(32),
            b"\x00\x00\x00\x00",
        ):
            with socket.create_connection((host, int(port)), 5) as peer:
                peer.sendall(noise)
                peer.shutdown(socket.SHUT_WR)
                peer.settimeout(5)
                answer = peer.recv(1 << 16)
            assert not answer or answer[4] == 1, "refused"
        assert node.put("a", "1") > 0


def test_a_leader_may_remove_itself(tmp_path: Path) -> None:
    with cluster(tmp_path, 3) as nodes:
        nodes[0].put("a", "1")
        nodes[0].remove(nodes[0])
        others = nodes[1:]
        assert leader(others).get("a") == "1"
        assert others[0].put("b", "1") > 0
        same(others)
        assert not others[0].member(nodes[0])


def test_the_last_voter_stays(tmp_path: Path) -> None:
    with (
        cluster(tmp_path, 1) as (node,),
        pytest.raises(_engine.EngineError, match="without a voter there is no cluster"),
    ):
        node.remove(node)


def test_a_log_that_cannot_be_written_stops_the_engine(tmp_path: Path) -> None:
    """The error is told once, nothing is acknowledged after it, a restart heals it."""
    script = (
        "import resource, signal, sys; from pathlib import Path\n"
        "from t2_engine.nodes import Node, Refused, wait_until\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "node = Node(Path(sys.argv[1]), 'node1'); node.id = 7; node.start()\n"
        "node.engine.initialize(5_000)\n"
        "acknowledged = 0\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))\n"
        "try:\n"
        "    for i in range(10_000):\n"
        "        node.put(f'k{i}', 'v' * 100, timeout_ms=2_000)\n"
        "        acknowledged += 1\n"
        "except (Refused, AssertionError):\n"
        "    pass\n"
        "wait_until(lambda: node.error)\n"
        "print(acknowledged, node.error)\n"
        "node.close()\n"
    )
    path = [str(Path(__file__).parent.parent), *(p for p in sys.path if p)]
    result = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path)},
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    count, _, error = result.stdout.partition(" ")
    assert "cannot be written" in error
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] != 200_000
    node = Node(tmp_path, "node1")
    node.id = 7
    node.start()
    try:
        node.barrier()
        assert set(node.disk.data) >= {f"k{i}" for i in range(int(count))}
    finally:
        node.close()
