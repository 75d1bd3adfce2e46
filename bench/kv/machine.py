"""The machine: what it is, and who else uses it."""

from __future__ import annotations

import contextlib
import os
import platform
import re
import resource
import subprocess
import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from . import systems

TICKS_PER_S: Final = os.sysconf("SC_CLK_TCK")
IDLE_FIELDS: Final = (3, 4)
"""Of the first line of /proc/stat: idle, and waiting for the disk."""
BUSY_FIELDS: Final = 8
"""Those behind are guests, who are in "user" too."""


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
def describe(wanted: Iterable[systems.System], work: Path) -> list[str]:
    """Lines that say on what and with what it was measured."""
    memory = _found(r"MemTotal:\s+(\d+) kB", _read("/proc/meminfo"))
    model = _found(r"model name\s*: (.*)", _read("/proc/cpuinfo")) or platform.machine()
    kind = _output("stat", "--file-system", "--format=%T", str(work))
    return [
        f"date: {datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        f"machine: {os.cpu_count()} cores {model},"
        f" {int(memory or 0) / (1 << 20):.0f} GiB, {kind}, Linux {platform.release()}",
        "versions: " + "; ".join(_version(system) for system in wanted)
        + f"; {_output('go', 'version').removeprefix('go version ')}",
    ]


def _version(system: systems.System) -> str:
    if system.kind == "dfs":
        commit = _output("git", "-C", str(systems.ROOT), "describe", "--always", "--dirty")
        return f"dfs {commit or '(no commit)'}, Python {platform.python_version()}"
    if system.kind == "etcd":
        installed = system.name == "etcd-installed"
        program = systems.INSTALLED_ETCD if installed else str(systems.BIN / "etcd")
        said = _output(program, "--version")
        return f"{system.name} " + _found(r"etcd Version: (\S+)", said)
    modules = _read(str(systems.ROOT / "bench/kv/go.mod"))
    raft, wal = (_found(rf"hashicorp/{name} v(\S+)", modules) for name in ("raft", "raft-wal"))
    return f"hraft: raft {raft}, raft-wal {wal}"


def _read(path: str) -> str:
    return Path(path).read_text()


def _found(pattern: str, text: str) -> str:
    match = re.search(pattern, text)
    return match[1] if match else ""


def _output(*argv: str) -> str:
    with contextlib.suppress(OSError):
        return subprocess.run(argv, capture_output=True, text=True, check=False).stdout.strip()
    return ""
