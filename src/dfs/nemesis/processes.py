"""Node processes, for whoever breaks them."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Final

from .. import client
from ..config import PREFIX
from ..errors import DfsError
from ..identity import SOCKET
from ..proto import dfs_pb2 as pb
from .places import Place, on_loopback
from .waiting import Stuck, require, wait_until

STOP_S: Final = 15.0
STATUS_S: Final = 2.0
BROKEN_LOG_WORDS: Final = (
    "Traceback (most recent call last)", "panicked at", " ERROR ", " CRITICAL "
)


class Node:
    """One `dfs serve` process with its directories; survives being killed and started again."""

    def __init__(
        self, root: Path, name: str, place: Place, peers: str, *, caches: bool = False,
        mounts: bool = False,
    ) -> None:
        """`caches`, `mounts`: whether its cache directory is watched, and its mount is there."""
        self.root, self.name, self.place, self.peers = root, name, place, peers
        self.data, self.cache, self.mount = root / "data", root / "cache", root / "mount"
        self.caches, self.mounts = caches, mounts
        for directory in (self.cache, self.mount):
            directory.mkdir(parents=True, exist_ok=True)
        self.program: tuple[str, ...] = ("-m", "dfs")
        self.environment: dict[str, str] = {}
        """Added to that of this process."""
        self.process: subprocess.Popen[bytes] | None = None
        self._lives: set[int] = set()
        """Process ids since its helpers were gone for certain: each is a session of its own."""

    @property
    def endpoint(self) -> str:
        """Where a client of this process reaches it."""
        return self.place.grpc if self.place.reachable else f"unix:{self.data / SOCKET}"

    @property
    def log(self) -> Path:
        """What it said on both outputs, of all its processes."""
        return self.root / "log"

    def start(self, *extra: str) -> None:
        """Starts the process; does not wait until it serves."""
        argv = [
            *self.place.enter, sys.executable, "-P", *self.program, "serve", "-id", self.name,
            "-raft", self.place.raft, "-grpc", self.place.grpc, "-data", str(self.data),
            "-cache", str(self.cache) if self.caches else "",
            "-mount", str(self.mount) if self.mounts else "",
        ]
        argv += self.place.options
        if self.peers:
            argv += ["-peers", self.peers]
        environment = {k: v for k, v in os.environ.items() if not k.startswith(PREFIX)}
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [*argv, *extra], cwd=self.root, env=environment | self.environment,
                stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                pass_fds=tuple(self.place.descriptors),
                # A session of its own: Ctrl-C is for whoever started it and stops it in order.
                start_new_session=True,
            )
            self._lives.add(self.process.pid)

    def alive(self) -> bool:
        """The process runs."""
        return self.process is not None and self.process.poll() is None

    def kill(self) -> None:
        """kill -9, and waits until the process is gone."""
        process = self._started()
        process.kill()
        process.wait()

    def stand_still(self) -> None:
        """SIGSTOP; returns when all its threads have stopped."""
        process = self._started()
        process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WNOWAIT)

    def kill_helpers(self) -> None:
        """kill -9 of all processes that it has started in its lives, and waits until they are
        gone."""

        def gone() -> bool:
            helpers = [pid for pid in _sessions(self._lives) if pid not in self._lives]
            for pid in helpers:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            return not helpers

        wait_until(f"the helpers of {self.name} are gone", gone)
        self._lives = {self._started().pid}

    def unmount(self) -> None:
        """Takes the mount away that it has left, if there is one."""
        argv = ["umount", "-l", str(self.mount)]
        subprocess.run(argv, check=False, capture_output=True)

    def go_on(self) -> None:
        """SIGCONT."""
        self._started().send_signal(signal.SIGCONT)

    def _started(self) -> subprocess.Popen[bytes]:
        if self.process is None:
            raise ValueError(f"{self.name} was never started")
        return self.process

    def stop(self) -> int:
        """SIGTERM; the exit code."""
        process = self._started()
        process.send_signal(signal.SIGTERM)
        try:
            return process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self.kill()
            text = f"{self.name} did not stop within {STOP_S} s:\n{self.tail()}"
            raise Stuck(text) from None

    def tail(self, lines: int = 40) -> str:
        """The end of its log."""
        text = self.log.read_text(errors="replace") if self.log.exists() else ""
        return "\n".join(text.splitlines()[-lines:])

    def put_log_away(self) -> None:
        """What it has said so far goes to a file beside its log: it was expected."""
        number = sum(1 for _ in self.root.glob(f"{self.log.name}.*"))
        shutil.copyfile(self.log, self.log.with_suffix(f".{number}"))
        os.truncate(self.log, 0)

    def complaints(self) -> list[str]:
        """Lines of its log that no test expects."""
        lines = self.log.read_text(errors="replace").splitlines()
        return [line for line in lines if any(word in line for word in BROKEN_LOG_WORDS)]

    def client(self) -> client.Client:
        """A client of this node alone."""
        return client.connect(self.endpoint, learn=False)

    def status(self) -> pb.NodeStatus:
        """What this node says of itself, without asking others."""
        with self.client() as caller:
            return caller.status(local=True, timeout=STATUS_S).nodes[0]

    def leads(self) -> bool:
        """It is the leader."""
        return self.status().role == "leader"


def _sessions(leaders: Collection[int]) -> list[int]:
    """The processes of these sessions that are not gone: a zombie may have threads that end yet."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            with contextlib.suppress(OSError):
                # proc(5): behind the name, which may have any character: state, ppid, pgrp, session
                state, _, _, session = (entry / "stat").read_text().rpartition(")")[2].split()[:4]
                ended = state == "Z" and len(list((entry / "task").iterdir())) < 2
                if int(session) in leaders and not ended:
                    found.append(int(entry.name))
    return found


class Cluster:
    """Several nodes that share one peer list. As a context: they run, and are gone afterwards."""

    def __init__(
        self, root: Path, count: int = 3, mounts: bool = False,
        places: Sequence[Place] | None = None,
    ) -> None:
        places = on_loopback(count) if places is None else places
        peers = ",".join(place.raft for place in places)
        self.nodes = [
            Node(
                root / f"node{i + 1}", f"node{i + 1}", place, peers, caches=mounts, mounts=mounts
            )
            for i, place in enumerate(places)
        ]

    def __enter__(self) -> Cluster:
        for node in self.nodes:
            node.start()
        try:
            wait_until("all members are voters and agree on a leader", self.complete)
        except BaseException as error:
            self._describe(error)
            self._end()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if error is not None:
                self._describe(error)
                return
            for node in self.nodes:
                if node.alive():
                    code = node.stop()
                    require(code == 0, f"{node.name} ended with {code}:\n{node.tail()}")
            for node in self.nodes:
                require(not (said := node.complaints()), f"{node.name}: {said[:5]}")
        finally:
            self._end()

    def _describe(self, error: BaseException) -> None:
        for node in self.nodes:
            error.add_note(f"---- {node.name}\n{node.tail()}")

    def _end(self) -> None:
        for node in self.nodes:
            if node.alive():
                node.kill()
        for node in self.nodes:
            node.unmount()  # A helper may hang on it.
        for node in self.nodes:
            if node.process is not None:
                node.kill_helpers()

    def client(self) -> client.Client:
        """A client that knows all nodes."""
        return client.connect(*(node.endpoint for node in self.nodes), learn=False)

    def complete(self) -> bool:
        """Every node runs, knows the same leader, and all are voters."""
        leaders = set()
        for node in self.nodes:
            if not node.alive():
                raise Stuck(f"{node.name} ended:\n{node.tail()}")
            leaders.add(node.status().leader)
        with self.client() as caller:
            members = caller.members()
        voters = [m for m in members.members if m.voter]
        return len(leaders) == 1 and "" not in leaders and len(voters) == len(self.nodes)

    def leader(self) -> Node:
        """The node that leads now; waits for one."""

        def find() -> Node | None:
            for node in self.nodes:
                if node.alive():
                    with contextlib.suppress(DfsError):
                        if node.leads():
                            return node
            return None

        return wait_until("a leader", find)

    def agree(self) -> None:
        """Waits until the cluster is whole and all nodes have applied the same entries: they must
        have the same state hash then. Raises Violation."""

        def settled() -> dict[str, bytes] | None:
            seen = {node.name: node.status() for node in self.nodes}
            equal = len({status.applied for status in seen.values()}) == 1
            return {name: status.state_hash for name, status in seen.items()} if equal else None

        wait_until("the cluster is whole", self.complete)
        hashes = wait_until("equal applied index", settled)
        require(len(set(hashes.values())) == 1, f"different states: {hashes}")


@contextlib.contextmanager
def running(root: Path, count: int = 3, mounts: bool = False) -> Iterator[Cluster]:
    """A cluster on loopback that is complete, and gone afterwards."""
    with Cluster(root, count, mounts) as cluster:
        yield cluster
