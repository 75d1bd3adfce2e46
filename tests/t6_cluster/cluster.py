"""Three real node processes on loopback, for tests that break them."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from ports import free_ports

import dfs
from dfs.proto import dfs_pb2 as pb

READY_S = 30.0
STOP_S = 15.0
POLL_S = 0.05
T = TypeVar("T")
BROKEN_LOG_WORDS = ("Traceback (most recent call last)", "panicked at", " ERROR ", " CRITICAL ")


def wait_until(what: str, condition: Callable[[], T], timeout_s: float = READY_S) -> T:
    """The condition's first true value; fails with `what` and its last exception otherwise."""
    end = time.monotonic() + timeout_s
    last: Exception | None = None
    while True:
        try:
            if value := condition():
                return value
            last = None
        except (dfs.DfsError, OSError) as error:
            last = error
        if time.monotonic() > end:
            raise AssertionError(f"not within {timeout_s:.0f} s: {what} ({last})")
        threading.Event().wait(POLL_S)


class Node:
    """One `dfs serve` process with its directories; survives being killed and started again."""

    def __init__(
        self, root: Path, name: str, raft: int, grpc: int, peers: str, mount: bool
    ) -> None:
        self.root, self.name, self.raft, self.grpc, self.peers = root, name, raft, grpc, peers
        self.data, self.cache, self.mount = root / "data", root / "cache", root / "mount"
        self.mounts = mount
        for directory in (self.data, self.cache, self.mount):
            directory.mkdir(parents=True, exist_ok=True)
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def endpoint(self) -> str:
        return f"127.0.0.1:{self.grpc}"

    @property
    def log(self) -> Path:
        return self.root / "log"

    def start(self, *extra: str) -> None:
        """Starts the process; does not wait until it serves."""
        argv = [sys.executable, "-m", "dfs", "-id", self.name, "-raft", f"127.0.0.1:{self.raft}"]
        argv += ["-grpc", self.endpoint, "-data", str(self.data)]
        if self.peers:
            argv += ["-peers", self.peers]
        if self.mounts:
            argv += ["-cache", str(self.cache), "-mount", str(self.mount)]
        else:
            argv += ["-cache", "", "-mount", ""]
        environment = {k: v for k, v in os.environ.items() if not k.startswith("DFS_")}
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [*argv, *extra], cwd=self.root, env=environment, stdout=log, stderr=log
            )

    def alive(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def kill(self) -> None:
        """kill -9, and waits until the process is gone."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def stand_still(self) -> None:
        """SIGSTOP; returns when all its threads have stopped."""
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, self.process.pid, os.WSTOPPED | os.WNOWAIT)

    def go_on(self) -> None:
        """SIGCONT."""
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)

    def stop(self) -> int:
        """SIGTERM; the exit code."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise AssertionError(
                f"{self.name} did not stop within {STOP_S} s:\n{self.tail()}"
            ) from None

    def tail(self, lines: int = 40) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])

    def complaints(self) -> list[str]:
        """Lines of its log that no test expects."""
        lines = self.log.read_text(errors="replace").splitlines()
        return [line for line in lines if any(word in line for word in BROKEN_LOG_WORDS)]

    def client(self) -> dfs.Client:
        return dfs.connect(self.endpoint)

    def status(self) -> pb.NodeStatus:
        """What this node says of itself, without asking others."""
        with self.client() as client:
            return client.status(local=True, timeout=2.0).nodes[0]

    def leads(self) -> bool:
        """It is the leader."""
        return self.status().role == "leader"


class Cluster:
    """Several nodes that share one peer list."""

    def __init__(self, root: Path, count: int = 3, mounts: bool = False) -> None:
        ports = free_ports(2 * count)
        rafts, grpcs = ports[:count], ports[count:]
        peers = ",".join(f"127.0.0.1:{port}" for port in rafts)
        self.nodes = [
            Node(root / f"node{i + 1}", f"node{i + 1}", rafts[i], grpcs[i], peers, mounts)
            for i in range(count)
        ]

    def __enter__(self) -> Cluster:
        for node in self.nodes:
            node.start()
        try:
            wait_until("all members are voters and agree on a leader", self.complete)
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        try:
            if kind is None:
                for node in self.nodes:
                    if node.alive():
                        assert node.stop() == 0, node.tail()
                for node in self.nodes:
                    assert not (said := node.complaints()), f"{node.name}: {said[:5]}"
            else:
                for node in self.nodes:
                    print(f"---- {node.name}\n{node.tail()}")
        finally:
            self._end()

    def _end(self) -> None:
        for node in self.nodes:
            if node.alive():
                node.kill()
            if os.path.ismount(node.mount):
                subprocess.run(["umount", "-l", str(node.mount)], check=False)

    def client(self) -> dfs.Client:
        """A client that knows all nodes."""
        return dfs.connect(*(node.endpoint for node in self.nodes))

    def complete(self) -> bool:
        """Every node runs, knows the same leader, and all are voters."""
        leaders = set()
        for node in self.nodes:
            assert node.alive(), f"{node.name} ended:\n{node.tail()}"
            leaders.add(node.status().leader)
        with self.client() as client:
            members = client.members()
        voters = [m for m in members.members if m.voter]
        return len(leaders) == 1 and "" not in leaders and len(voters) == len(self.nodes)

    def leader(self) -> Node:
        """The node that leads now; waits for one."""

        def find() -> Node | None:
            for node in self.nodes:
                if node.alive():
                    with contextlib.suppress(dfs.DfsError):
                        if node.leads():
                            return node
            return None

        return wait_until("a leader", find)

    def agree(self) -> None:
        """Waits until the cluster is whole and all nodes have applied the same entries: they must
        have the same state hash then."""

        def settled() -> dict[str, bytes] | None:
            seen = {node.name: node.status() for node in self.nodes}
            equal = len({status.applied for status in seen.values()}) == 1
            return {name: status.state_hash for name, status in seen.items()} if equal else None

        wait_until("the cluster is whole", self.complete)
        hashes = wait_until("equal applied index", settled)
        assert len(set(hashes.values())) == 1, hashes


@contextlib.contextmanager
def running(root: Path, count: int = 3, mounts: bool = False) -> Iterator[Cluster]:
    """A cluster that is complete, and gone afterwards."""
    with Cluster(root, count, mounts) as cluster:
        yield cluster
