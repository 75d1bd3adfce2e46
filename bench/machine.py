"""The machine: what it is, what it runs, how busy it is."""

from __future__ import annotations

import contextlib
import mmap
import os
import platform
import re
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parent.parent
"""Of the repository."""
WORK: Final = ROOT / "bench" / ".work"
"""Executables, data of nodes while they run, results; git ignores it."""
TICKS_PER_S: Final = os.sysconf("SC_CLK_TCK")
IDLE_FIELDS: Final = (3, 4)
"""Of the first line of /proc/stat: idle, and waiting for the disk."""
BUSY_FIELDS: Final = 8
"""Those behind are guests, who are in "user" too."""
LEFT_FREE_BYTES: Final = 1 << 30
"""For whoever needs memory while `back_memory` has all other."""
_POPULATE_WRITE: Final = 23
"""madvise(2): has all pages of a range there."""


def say(text: str) -> None:
    """Progress, for the person who waits."""
    sys.stderr.write(f"{time.strftime('%H:%M:%S')} {text}\n")
    sys.stderr.flush()


def busy_s(stat: str) -> float:
    """CPU seconds of everybody, the hypervisor's other guests included, from /proc/stat."""
    fields = stat.split("\n", 1)[0].split()[1:][:BUSY_FIELDS]
    return sum(int(f) for i, f in enumerate(fields) if i not in IDLE_FIELDS) / TICKS_PER_S


def process_s(stat: str) -> float:
    """CPU seconds of a process, from /proc/PID/stat."""
    fields = stat.rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS_PER_S


def rss_mib(pids: Iterable[int]) -> float:
    """Resident memory of processes together."""
    pages = sum(int(Path(f"/proc/{pid}/statm").read_text().split()[1]) for pid in pids)
    return pages * resource.getpagesize() / (1 << 20)


def back_memory(bytes_: int) -> None:
    """Has the host give this machine so much of its free memory, by using it once. A host takes
    free memory back from virtual machines, and then the first use of a page costs ten times of what
    there is to measure, of all that goes through the page cache above all."""
    free = int(found(r"MemFree:\s+(\d+) kB", Path("/proc/meminfo").read_text()) or 0) << 10
    size = min(bytes_, free - LEFT_FREE_BYTES)
    if size > 0:
        with mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as memory:
            memory.madvise(mmap.MADV_HUGEPAGE)
            memory.madvise(_POPULATE_WRITE)


class Others:
    """How many cores others used since this was made: a foreign load makes figures worthless."""

    def __init__(self, pids: Callable[[], Iterable[int]]) -> None:
        """`pids`: of the children that run; those that ended are known to the kernel."""
        self._pids = pids
        self._began_s = time.monotonic()
        self._foreign_s = self._foreign()

    def cores(self) -> float:
        """Since the start. Call it when every child but the nodes has ended."""
        spent_s = self._foreign() - self._foreign_s
        return max(0.0, spent_s / (time.monotonic() - self._began_s))

    def _foreign(self) -> float:
        mine = sum(
            used.ru_utime + used.ru_stime
            for used in map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
        )
        running = sum(process_s(Path(f"/proc/{p}/stat").read_text()) for p in self._pids())
        return busy_s(Path("/proc/stat").read_text()) - mine - running


# ---- for the head of the table -------------------------------------------------------------------
def describe(work: Path) -> list[str]:
    """When, and on which machine and file system."""
    memory = found(r"MemTotal:\s+(\d+) kB", Path("/proc/meminfo").read_text())
    cpus = Path("/proc/cpuinfo").read_text()
    model = found(r"model name\s*: (.*)", cpus) or platform.machine()
    kind = output("stat", "--file-system", "--format=%T", str(work))
    return [
        f"date: {datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        f"machine: {os.cpu_count()} cores {model},"
        f" {int(memory or 0) / (1 << 20):.0f} GiB, {kind}, Linux {platform.release()}",
    ]


def dfs_version() -> str:
    """The commit that is measured, and the interpreter."""
    commit = output("git", "-C", str(ROOT), "describe", "--always", "--dirty")
    return f"dfs {commit or '(no commit)'}, Python {platform.python_version()}"


def found(pattern: str, text: str) -> str:
    """The first group of a pattern in a text; "" without a match."""
    match = re.search(pattern, text)
    return match[1] if match else ""


def output(*argv: str) -> str:
    """What a command prints; "" when there is no such command."""
    with contextlib.suppress(OSError):
        return subprocess.run(argv, capture_output=True, text=True, check=False).stdout.strip()
    return ""
