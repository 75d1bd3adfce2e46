"""How soon writes are acknowledged again after nodes, or their machines, have failed.

Each node has its data on a disk of its own: an ext4 file system in a file, which loses its power as
machines do (`dfs.nemesis.disk`). Only one system runs at a time.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

from dfs.nemesis.disk import Disk

from ..failure import BenchError
from ..machine import Others
from .cluster import Cluster, errors_of, prefix
from .results import Measurement
from .rows import Row
from .systems import System

Report = Callable[[Measurement], None]

DISK_BYTES: Final = 4 << 30
"""Of a file with holes: it takes what is written."""
TIMEOUT_MS: Final = 300
"""Of a put, then the next node is tried; part of the time that is measured, as a caller sees it."""
BEFORE_S: Final = 1.0
AWAY_S: Final = 1.0
"""How long a leader that was killed stays away."""
AFTER_S: Final = 6.0
FELT_S: Final = 0.1
"""So late after a strike the last answers of before may arrive."""
NEVER: Final = f"no put was acknowledged again within {AFTER_S:g} s"


def impossible() -> str:
    """Why this machine, or this user, cannot have such disks; "" when it can."""
    if os.geteuid() != 0:
        return "recovery needs root: each node gets an ext4 disk of its own, in a file; use sudo"
    missing = [tool for tool in ("mkfs.ext4", "mount", "umount") if shutil.which(tool) is None]
    return f"recovery needs {' and '.join(missing)} on PATH" if missing else ""


class DiskCluster(Cluster):
    """A cluster each of whose nodes has a disk of its own."""

    def __init__(self, system: System, work: Path) -> None:
        super().__init__(system, work)
        self._stack = ExitStack()
        self._disks: list[Disk] = []

    def __enter__(self) -> DiskCluster:
        with self._stack as stack:
            for place in self.places:
                mount = place.data
                mount.rmdir()
                disk = Disk(self.folder / f"{place.name}.img", mount, DISK_BYTES)
                self._disks.append(stack.enter_context(disk))
            self._stack = stack.pop_all()
        # Not the root of a file system: there is a lost+found.
        self.places = [place._replace(data=place.data / "data") for place in self.places]
        for place in self.places:
            place.data.mkdir()
        return self

    def __exit__(self, *error: Any) -> None:
        self.kill_all()
        self._stack.__exit__(*error)
        super().__exit__(*error)

    def kill_all_and_start(self) -> float:
        """kill -9 of all; the time at which they were started again."""
        self.kill_all()
        began = time.time()
        self.start_all()
        return began

    def cut_power_and_start(self) -> float:
        """All machines lose their power at once; the time at which their nodes were started.

        The processes go first: none may act on an fdatasync that was under way, which the kernel
        ends without an error, where a machine without power ends nothing.
        """
        self.kill_all()
        for disk in self._disks:
            disk.cut()
        for disk in self._disks:
            disk.restore()
        began = time.time()
        self.start_all()
        return began

    def kill_leader_and_start(self) -> float:
        """kill -9 of the leader, which comes back later; the time at which it was killed."""
        leader = self.leader()
        began = time.time()
        self.kill(leader)
        time.sleep(AWAY_S)
        self.start(leader)
        return began


STRIKES: Final[dict[str, Callable[[DiskCluster], float]]] = {
    "kill-leader": DiskCluster.kill_leader_and_start,
    "kill-all": DiskCluster.kill_all_and_start,
    "power-cut": DiskCluster.cut_power_and_start,
}
"""By the mode of a row: what is done, and from when on recovery is measured."""


def run(
    systems: Sequence[System], work: Path, rows: Sequence[Row], cycles: Iterable[int],
    report: Report,
) -> None:
    """Each cycle has every strike at every system: what disturbs the machine hits all alike."""
    with ExitStack() as stack:
        clusters = [stack.enter_context(DiskCluster(system, work)) for system in systems]
        for cycle in cycles:
            for cluster in clusters:
                cluster.start_all()
                cluster.ready()
                for row in rows:
                    report(_strike(cluster, row, cycle))
                    cluster.ready()
                cluster.kill_all()


def _strike(cluster: DiskCluster, row: Row, cycle: int) -> Measurement:
    others = Others(cluster.pids)
    generator = cluster.generator(
        "failover", clients=row.clients, value=row.value, keys=row.keys, prefix=prefix(row.value),
        warmup="0s", timeout=f"{TIMEOUT_MS}ms", duration=f"{BEFORE_S + AFTER_S}s",
    )
    try:
        time.sleep(BEFORE_S)
        began = STRIKES[row.mode](cluster)
    except BaseException:
        _end(generator)
        raise
    result = cluster.result(generator)
    failed, errors = result["failed"], errors_of(result)
    seconds = recovered(result["extra"]["gaps_unix"], result["extra"]["end_unix"], began)
    if seconds is None:
        failed, errors = failed + 1, errors | {NEVER: 1}
    return Measurement(
        cluster.system.name, row.name, cycle, seconds, others.cores(), failed, errors=errors
    )


def recovered(gaps: Iterable[tuple[float, float]], end: float, began: float) -> float | None:
    """From `began` until puts were acknowledged again; None when they were not until the `end`.

    `gaps`: beginning and end of times without. What follows later, as when the node that was away
    comes back, does not count. Raises BenchError when nothing was to be felt.
    """
    struck = [(to - came, to) for came, to in gaps if came < began + FELT_S and to > began]
    if not struck:
        raise BenchError("puts went on being acknowledged while nodes were struck: that cannot be")
    _, after = max(struck)
    return after - began if after < end else None


def _end(generator: subprocess.Popen[str]) -> None:
    generator.kill()
    generator.communicate()
