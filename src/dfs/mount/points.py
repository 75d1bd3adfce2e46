"""What is mounted where, and by whom."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ..places import real_place

KIND: Final = "fuse.dfs"
MOUNTINFO: Final = "/proc/self/mountinfo"


# ---- what is mounted -----------------------------------------------------------------------------
@dataclass(frozen=True)
class Mounted:
    """A line of /proc/self/mountinfo."""

    point: str
    kind: str
    source: str


def mounts(text: str | None = None) -> list[Mounted]:
    """What is mounted, lowest first. Reads no file system but /proc."""
    found = []
    for line in (text or Path(MOUNTINFO).read_text()).splitlines():
        fields = line.split(" ")
        dash = fields.index("-", 6)
        found.append(Mounted(unescape(fields[4]), fields[dash + 1], unescape(fields[dash + 2])))
    return found


def unescape(text: str) -> str:
    """Undoes the \\040 of mountinfo."""
    head, *rest = text.split("\\")
    return head + "".join(chr(int(part[:3], 8)) + part[3:] for part in rest)


def top_mount(point: str) -> Mounted | None:
    """What is seen at a path, if it is a mount point."""
    return next((m for m in reversed(mounts()) if m.point == point), None)


def locate(mountpoint: str) -> str:
    """The path as the kernel names it, without touching what may be mounted there: a dead file
    system could hang whoever asks."""
    path = real_place(os.path.abspath(mountpoint))
    return path if top_mount(path) else os.path.realpath(path)


# ---- who made it ---------------------------------------------------------------------------------
def identity() -> str:
    """The source of our mounts: names this process so that another can tell whether it lives."""
    return f"dfs:{os.getpid()}:{started(os.getpid())}"


def started(pid: int) -> str:
    """When a process was started, in ticks since boot; "" when there is none."""
    return (stat_fields(pid) + [""] * 20)[19]


def stat_fields(pid: int) -> list[str]:
    """The fields of /proc/PID/stat from the third (the state) on; none when there is no process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return []


def owner(source: str) -> int:
    """The living process that made a mount of ours; 0 when it is gone."""
    kind, _, rest = source.partition(":")
    pid, _, since = rest.partition(":")
    if kind != "dfs" or not pid.isdigit() or not since:
        return 0
    alive = started(int(pid)) == since and not half_dead(int(pid))
    return int(pid) if alive else 0


def half_dead(pid: int) -> bool:
    """The process has ended but cannot be reaped yet. An agent may stay so: one of its threads is
    stuck in the kernel, waiting for a lock whose holder waits for the mount."""
    return stat_fields(pid)[:1] == ["Z"]
