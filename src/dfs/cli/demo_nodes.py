"""The demo's nodes: three processes on loopback, each with its own directories."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from ..client import Client, connect
from ..config import LOOPBACK
from ..errors import DfsError, Misconfigured, Unavailable
from ..limits import GRPC_PORT, RAFT_PORT
from ..nemesis.places import Place
from ..nemesis.processes import Node
from ..proto import dfs_pb2 as pb
from . import output

COUNT: Final = 3
MARK: Final = ".dfs-demo"
"""In a directory that is ours to empty; locked while a demo runs, lists its processes."""
READY_S: Final = 60.0
STOP_S: Final = 15.0
TAIL_LINES: Final = 5
"""Of a node's log that are shown when it has ended."""
POLL_S: Final = 0.05
OTHER_PORTS: Final = range(21_000, 32_000)
"""Below the range from which the kernel takes ports for outgoing connections."""


class Nodes:
    """All three, and a client that knows them."""

    def __init__(self, root: Path, mounts: bool) -> None:
        self.root, self.mounts = root, mounts
        places = [
            Place(f"{LOOPBACK}:{raft}", f"{LOOPBACK}:{grpc}")
            for raft, grpc in zip(_ports(RAFT_PORT), _ports(GRPC_PORT), strict=True)
        ]
        peers = ",".join(place.raft for place in places)
        self.all = [
            Node(root / f"node{i}", f"node{i}", place, peers, caches=True, mounts=mounts)
            for i, place in enumerate(places, 1)
        ]
        self.client: Client = connect(*(n.endpoint for n in self.all), learn=False, timeout=5.0)

    def start(self, node: Node) -> None:
        """Starts a node and writes down its process for a demo after this one."""
        node.start()
        processes = [n.process.pid for n in self.all if n.process is not None]
        (self.root / MARK).write_text("\n".join(map(str, processes)))

    def wait(self, what: str, condition: Callable[[], bool], timeout_s: float = READY_S) -> float:
        """Waits for a condition; returns the seconds it took. Raises Unavailable."""
        begin_s = time.monotonic()
        last = ""
        while True:
            for node in self.all:
                if node.process is not None and not node.alive():
                    raise Unavailable(
                        f"{node.name} ended with exit code {node.process.returncode}; the end of"
                        f" {node.log}:\n{node.tail(TAIL_LINES)}"
                    )
            try:
                if condition():
                    return time.monotonic() - begin_s
            except (DfsError, OSError) as error:
                last = f" ({error})"
            if time.monotonic() - begin_s > timeout_s:
                text = f"not within {timeout_s:.0f} s: {what}{last}; see {self.root}/*/log"
                raise Unavailable(text)
            time.sleep(POLL_S)

    def complete(self) -> bool:
        """Three voters, one leader, and every node answers."""
        nodes = self.status()
        voters = [n for n in nodes if n.member.voter and n.role]
        return len(voters) == COUNT and bool(self.leader(nodes))

    def status(self) -> list[pb.NodeStatus]:
        """What the nodes say of themselves."""
        return sorted(self.client.status(timeout=2.0).nodes, key=lambda n: n.member.name)

    def leader(self, nodes: list[pb.NodeStatus] | None = None) -> str:
        """The name of the leader; "" when there is none."""
        names = [n.member.name for n in nodes or self.status() if n.role == "leader"]
        return names[0] if len(names) == 1 else ""

    def named(self, name: str) -> Node:
        """A node by its name."""
        return next(node for node in self.all if node.name == name)

    def stop(self) -> None:
        """Ends all processes and leaves no mount behind."""
        self.client.close()
        for node in self.all:
            if node.alive():
                assert node.process is not None
                node.process.send_signal(signal.SIGTERM)
        end_s = time.monotonic() + STOP_S
        for node in self.all:
            if node.process is None:
                continue
            try:
                node.process.wait(max(end_s - time.monotonic(), 0.1))
            except subprocess.TimeoutExpired:
                output.note(f"{node.name} did not stop within {STOP_S:.0f} s and was killed")
                node.kill()
        for node in self.all:
            unmount(node.mount)
        with contextlib.suppress(OSError):
            (self.root / MARK).write_text("")


def unmount(mount: Path) -> None:
    """Takes a mount away that a node has left behind."""
    if not _mounted(mount):
        return
    for command in (["umount", "-l"], ["fusermount3", "-uz"], ["fusermount", "-uz"]):
        with contextlib.suppress(OSError):
            subprocess.run([*command, str(mount)], check=False, stderr=subprocess.DEVNULL)
        if not _mounted(mount):
            return
    output.note(f"{mount} is still mounted. Try: umount -l {mount}")


def _mounted(mount: Path) -> bool:
    path = str(mount.parent.resolve() / mount.name).replace(" ", "\\040")
    try:
        lines = Path("/proc/self/mountinfo").read_text().splitlines()
    except OSError:
        return False
    return any(line.split()[4] == path for line in lines)


def _ports(base: int) -> list[int]:
    """base + 1 … base + 3 if they are free, else others."""
    wanted = [base + i + 1 for i in range(COUNT)]
    if all(_free(port) for port in wanted):
        return wanted
    # The kinds of ports start at different places: one search does not find the other's.
    begin = 0 if base == RAFT_PORT else len(OTHER_PORTS) // 2
    found = []
    for port in OTHER_PORTS[begin:]:
        if _free(port):
            found.append(port)
        if len(found) == COUNT:
            return found
    raise Misconfigured("no three free ports on loopback")


def _free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
    return True


@contextlib.contextmanager
def directory(root: Path) -> Iterator[Path]:
    """An empty directory for the demo, locked. What an earlier demo left there is taken away."""
    mark = root / MARK
    try:
        if root.exists() and any(root.iterdir()) and not mark.exists():
            raise Misconfigured(f"{root} is not empty and no demo's: give another with --dir")
        root.mkdir(parents=True, exist_ok=True)
        lock = mark.open("a+")
    except OSError as error:
        raise Misconfigured(f"{root} cannot be used: {error.strerror}; try --dir") from None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Misconfigured(f"a demo runs in {root}: stop it, or give another --dir") from None
        lock.seek(0)
        _end_leftovers(root, [int(word) for word in lock.read().split() if word.isdigit()])
        parts = [part for part in root.iterdir() if part.name != MARK]
        if parts:
            output.note(f"clearing {root} of an earlier demo")
        for part in parts:
            unmount(part / "mount")
            shutil.rmtree(part)
        yield root.resolve()


def _end_leftovers(root: Path, processes: list[int]) -> None:
    """Nodes of a demo that was killed; only those whose command line names this directory."""
    for pid in processes:
        try:
            command = Path(f"/proc/{pid}/cmdline").read_bytes()
        except OSError:
            continue
        if os.fsencode(str(root.resolve()) + os.sep) not in command:
            continue
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        end_s = time.monotonic() + STOP_S
        while Path(f"/proc/{pid}").exists() and time.monotonic() < end_s:
            time.sleep(POLL_S)
