"""How much of everything, and what the rows share."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from resource import RUSAGE_SELF, getrusage

from ..machine import busy_s
from .content import Big, File
from .groups import Group
from .helpers import Seen
from .systems import System


@dataclass(frozen=True)
class Plan:
    """What is stored and how often it is done."""

    work: Path
    drops: int
    small: int
    big_mib: int
    changes: int
    entries: int
    readers: int
    kills: int
    limit_s: float
    """How long anything may take to become identical."""


@dataclass(frozen=True)
class Stock:
    """The content of a run, made once."""

    tree: Path
    files: Sequence[File]
    big: Big
    work: Group
    """Where helpers and copies run: their CPU time is the benchmark's own."""


class Meter:
    """CPU time while something is measured."""

    def __init__(self, systems: Sequence[System], stock: Stock) -> None:
        self._systems, self._stock = systems, stock
        self._began_s = time.monotonic()
        self._foreign_s = self._foreign()
        self._cpu_s = [system.cpu_s() for system in systems]
        self._split_s = [system.split_s() for system in systems]

    def cpu_s(self, number: int = 0) -> float:
        """Of one of the systems since this was made."""
        return self._systems[number].cpu_s() - self._cpu_s[number]

    def split_s(self, number: int = 0) -> dict[str, float]:
        """The same by process."""
        before, now = self._split_s[number], self._systems[number].split_s()
        return {name: round(s - before.get(name, 0.0), 2) for name, s in now.items()}

    def others(self) -> float:
        """Cores that neither the systems nor the benchmark used."""
        return max(0.0, (self._foreign() - self._foreign_s) / (time.monotonic() - self._began_s))

    def _foreign(self) -> float:
        me = getrusage(RUSAGE_SELF)
        known = me.ru_utime + me.ru_stime + self._stock.work.cpu_s()
        known += sum(system.cpu_s() for system in self._systems)
        return busy_s(Path("/proc/stat").read_text()) - known


def wrongs(system: System, seen: Sequence[Seen]) -> dict[str, int]:
    """What watchers found that must not be, as errors."""
    found: Counter[str] = Counter()
    for one in seen:
        found["files that are not identical in time"] += one.left
        if system.whole:
            found["reads of a file that was not whole"] += one.partial
            found["reads of wrong content"] += one.wrong
    return dict(+found)


def last(seen: Sequence[Seen], began: float) -> dict[str, float]:
    """The figure "identical": seconds until the last of all was right; none if one was not."""
    done = [one.done for one in seen]
    times = [at for at in done if at is not None]
    return {"identical": max(times) - began} if len(times) == len(done) else {}
