"""What is measured: dfs as three real nodes on this machine, and a plain directory beside it."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Final, Protocol

from dfs.cli.agents import Plan, environment
from dfs.contents import DIRECTORY
from dfs.identity import SOCKET
from dfs.mount import MountSupervisor, started
from dfs.nemesis.places import on_loopback
from dfs.nemesis.processes import Cluster, Node
from dfs.nemesis.waiting import wait_until
from dfs.sizes import NOTHING_FREE

from ..failure import BenchError
from ..machine import process_s
from .groups import Group

NODES: Final = 3
AGENT: Final = "dfs.cache.agent"
READY_S: Final = 60.0
READY: Final = b" is ready: "
"""In what a node prints when it takes part."""
POLL_S: Final = 0.002
SECTOR_BYTES: Final = 512
LARGE_BYTES: Final = 1 << 20
MIB: Final = 1 << 20


class System(Protocol):
    """Somewhere to drop files, and where they are read then."""

    name: str
    drop: Path
    views: Sequence[Path]
    """The first is that of the node with the drop directory."""
    whole: bool
    """It promises to show nothing before it is whole."""

    def cpu_s(self) -> float:
        """CPU time of its processes so far."""
        ...

    def split_s(self) -> dict[str, float]:
        """The same by process, of those that run."""
        ...

    def peaks_mib(self) -> dict[str, float]:
        """The most memory that each process had since `forget_peaks`."""
        ...

    def forget_peaks(self) -> None:
        """From here on."""
        ...

    def disk_bytes(self) -> int:
        """What all its directories take on the disk."""
        ...

    def refusal(self, name: str) -> str:
        """Why it does not take a dropped file; "" as far as it says nothing."""
        ...


Fresh = Callable[[], AbstractContextManager[Path]]
"""A view that nobody has looked at."""


# ---- the floor -----------------------------------------------------------------------------------
class Ext4:
    """A plain directory beside the data of dfs: nothing is replicated or checked."""

    name = "ext4"
    whole = False

    def __init__(self, root: Path) -> None:
        root.mkdir(parents=True)
        self.drop = root
        self.views: Sequence[Path] = [root]

    def cpu_s(self) -> float:
        """It has no processes."""
        return 0.0

    def split_s(self) -> dict[str, float]:
        """It has no processes."""
        return {}

    def peaks_mib(self) -> dict[str, float]:
        """It has no processes."""
        return {}

    def forget_peaks(self) -> None:
        """It has no processes."""

    def disk_bytes(self) -> int:
        """What the directory takes on the disk."""
        return used_bytes(self.drop)

    def refusal(self, name: str) -> str:  # noqa: ARG002
        """It takes everything."""
        return ""

    @contextmanager
    def fresh(self) -> Iterator[Path]:
        """The directory: there is nothing in between that could be cold."""
        yield self.drop


# ---- dfs -----------------------------------------------------------------------------------------
class Dfs:
    """Nodes on loopback, each with a cache directory and a mount. As a context they run."""

    name = "dfs"
    whole = True

    def __init__(self, root: Path, count: int = NODES, mounts: bool = True) -> None:
        """`mounts`: they have agents."""
        self.root, self._mounts = root, mounts
        self._stack = ExitStack()
        self.groups = [self._group(f"node{i + 1}") for i in range(count)]
        self._readers = self._group("readers")
        places = [
            replace(place, enter=group.enter)
            for place, group in zip(on_loopback(count), self.groups, strict=True)
        ]
        self.cluster = Cluster(root, mounts=mounts, places=places)
        self.nodes: list[Node] = self.cluster.nodes
        self.drop = self.nodes[0].cache
        self.views: Sequence[Path] = [node.mount for node in self.nodes]

    def _group(self, name: str) -> Group:
        group = Group(name)
        self._stack.callback(group.close)
        return group

    def __enter__(self) -> Dfs:
        with self._stack as stack:
            stack.enter_context(self.cluster)
            for node in self.nodes if self._mounts else ():
                wait_until(f"{node.name} shows its mount", partial(shown, node), READY_S)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.__exit__(*error)  # type: ignore[arg-type]

    def cpu_s(self) -> float:
        """Of all nodes and agents since they were started, also of those that ended."""
        return sum(group.cpu_s() for group in [*self.groups, self._readers])

    def split_s(self) -> dict[str, float]:
        """By process, of those that run."""
        return {
            name: process_s(Path(f"/proc/{pid}/stat").read_text())
            for name, pid in self._processes().items()
        }

    def peaks_mib(self) -> dict[str, float]:
        """The most resident memory that each process had since `forget_peaks`."""
        return {name: peak_mib(pid) for name, pid in self._processes().items()}

    def forget_peaks(self) -> None:
        """From here on."""
        for pid in self._processes().values():
            Path(f"/proc/{pid}/clear_refs").write_text("5")  # proc(5): resets the peak

    def _processes(self) -> dict[str, int]:
        found = {}
        for number, group in enumerate(self.groups, 1):
            for pid in by_age(group.pids()):
                role = "node"
                if is_agent(pid):
                    role = "standby" if f"agent{number}" in found else "agent"
                found[f"{role}{number}"] = pid
        return found

    def agent_pid(self, number: int) -> int:
        """Of node `number`, counted from 0; 0 while it has none."""
        return next((pid for pid in by_age(self.groups[number].pids()) if is_agent(pid)), 0)

    def disk_bytes(self) -> int:
        """Data and cache directories of all nodes."""
        return sum(used_bytes(d) for node in self.nodes for d in (node.data, node.cache))

    def refusal(self, name: str) -> str:
        """What the dropping node's agent says of a file."""
        problems = self.nodes[0].status().agent.problems
        return next((line for line in problems if line.startswith(name)), "")

    @contextmanager
    def reader(self, *options: str) -> Iterator[Path]:
        """A mount that was made just now, of an agent of its own beside the last node; what it
        cached in an earlier life is there, as after a restart. `options`: of the agent."""
        with self.starting_reader(*options) as (path, _):
            os.stat(path)  # which waits until the mount is served
            yield path

    @contextmanager
    def starting_reader(self, *options: str) -> Iterator[tuple[Path, MountSupervisor]]:
        """As `reader`, with the agent just started: it may not serve yet."""
        path, state = self.root / "reader" / "mount", self.root / "reader" / "state"
        path.mkdir(parents=True, exist_ok=True)
        plan = Plan(
            cache=None, mount=path, mount_asked=True, state=state,
            contents=self.nodes[-1].data / DIRECTORY, name="reader", cache_size=0,
            cache_free=NOTHING_FREE, delete_delay=None, notes=[],
        )
        endpoint = f"unix:{self.nodes[-1].data / SOCKET}"
        with MountSupervisor(
            lambda fd, adopt: [
                *self._readers.enter, *quiet(self.root / "reader" / "log"),
                *plan.argv([endpoint], fd, adopt), *options,
            ],
            str(path), env=environment(),
        ) as supervisor:
            yield path, supervisor


class Away:
    """A node that was killed, agent and all."""

    def __init__(self, node: Node) -> None:
        """kill -9 of both."""
        self.node = node
        node.kill()
        node.kill_helpers()

    def back(self) -> tuple[float, float]:
        """Starts it; when that was, and when it said that it is ready."""
        said = self.node.log.stat().st_size
        began = time.monotonic()
        self.node.start()
        while READY not in self.node.log.read_bytes()[said:]:
            if time.monotonic() - began > READY_S or not self.node.alive():
                raise BenchError(f"{self.node.name} did not come back:\n{self.node.tail()}")
            time.sleep(POLL_S)
        return began, time.monotonic()


def shown(node: Node) -> bool:
    """Its agent says that the mount is served."""
    return node.status().agent.mount_mode in ("passthrough", "read")


def quiet(log: Path) -> tuple[str, ...]:
    """The beginning of a command line whose outputs go to a file."""
    return "sh", "-c", f'exec "$@" >>"{log}" 2>&1', "sh"


def is_agent(pid: int) -> bool:
    """By its command line; a process that is gone is none."""
    with contextlib.suppress(OSError):
        return AGENT.encode() in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    return False


def by_age(pids: Iterable[int]) -> list[int]:
    """The oldest first: an agent is older than the one that stands by for it."""
    return sorted(pids, key=lambda pid: int(started(pid) or 0))


def peak_mib(pid: int) -> float:
    """The most resident memory of a process so far."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) * 1024 / MIB


def used_bytes(top: Path) -> int:
    """Blocks of all files below a directory that is no mount and has none in it."""
    total = 0
    for directory, _, files in os.walk(top):
        for name in files:
            with contextlib.suppress(FileNotFoundError):  # Removed meanwhile.
                total += os.lstat(os.path.join(directory, name)).st_blocks * SECTOR_BYTES
    return total


def remove_large(top: Path) -> None:
    """Makes room, and leaves all small files: ext4 does not use an inode again for minutes after it
    was deleted, and passes over each such one by one, so that many deleted files make every new
    file on that disk several times as dear."""
    for directory, _, files in os.walk(top):
        for name in files:
            path = os.path.join(directory, name)
            if os.lstat(path).st_size > LARGE_BYTES:
                os.unlink(path)
