"""Control groups: the CPU time of everything that was ever started in one, children included."""

from __future__ import annotations

import contextlib
import os
import re
from pathlib import Path
from typing import Final

from ..failure import BenchError

ROOT: Final = Path("/sys/fs/cgroup")
FIRST_VERSION: Final = ROOT / "cpuacct"
"""Where it is there, the second version is not used."""


class Group:
    """One control group; needs root."""

    def __init__(self, name: str) -> None:
        self._first = FIRST_VERSION.is_dir()
        self.path = (FIRST_VERSION if self._first else ROOT) / f"dfs-bench-{os.getpid()}-{name}"
        try:
            self.path.mkdir()
        except OSError as error:
            raise BenchError(
                f"no control group can be made in {self.path.parent} ({error.strerror}): CPU time"
                " is counted with it; run as root, with cgroups writable"
            ) from None

    @property
    def enter(self) -> tuple[str, ...]:
        """The beginning of a command line: what follows runs in the group, as the same process."""
        return "sh", "-c", f'echo $$ > "{self.path}/cgroup.procs" && exec "$@"', "sh"

    def cpu_s(self) -> float:
        """Since it was made, user and system."""
        if self._first:
            return int((self.path / "cpuacct.usage").read_text()) / 1e9
        match = re.search(r"usage_usec (\d+)", (self.path / "cpu.stat").read_text())
        if match is None:
            raise BenchError(f"{self.path} does not count CPU time")
        return int(match[1]) / 1e6

    def pids(self) -> list[int]:
        """Who is in it now."""
        return [int(line) for line in (self.path / "cgroup.procs").read_text().split()]

    def close(self) -> None:
        """All its processes have to be gone."""
        with contextlib.suppress(FileNotFoundError):
            self.path.rmdir()
