"""Measurements, what we aim at, and the table that is made of both."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from ..kv.results import number, spread

BASE: Final = "ext4"
HEAD: Final = ("row", "figure", "system", "result", "% of ext4", "aim", "is / aim", "")


@dataclass(frozen=True)
class Measurement:
    """One run of one row on one system."""

    row: str
    system: str
    round: int
    """Runs of different systems with the same number belong together."""
    figures: dict[str, float]
    others: float = 0.0
    """Cores that neither the systems nor the benchmark used."""
    errors: dict[str, int] = field(default_factory=dict)
    """What failed or was wrong, by message, and how often. Anything here makes the run fail."""
    notes: dict[str, object] = field(default_factory=dict)
    """Details for whoever looks for the reasons."""


class Aim(NamedTuple):
    """At most, or at least, so much: in the figure's unit, or in percent of ext4."""

    limit: float
    least: bool = False
    percent: bool = False

    def __str__(self) -> str:
        sign = "≥" if self.least else "≤"
        return f"{sign} {self.limit:g}{' %' if self.percent else ''}"


class Figure(NamedTuple):
    """One line of the table."""

    row: str
    key: str
    unit: str
    aims: dict[str, Aim] = {}
    """By system."""
    compared: bool = False
    """The table says how it is beside ext4."""
    faster: bool = True
    """More is better."""


def _most(limit: float) -> dict[str, Aim]:
    return {"dfs": Aim(limit)}


def _least(limit: float, no_open: float = 0.0) -> dict[str, Aim]:
    aims = {"dfs": Aim(limit, least=True, percent=True)}
    if no_open:
        aims["dfs --no-open"] = Aim(no_open, least=True, percent=True)
    return aims


FIGURES: Final = (
    Figure("drop", "p50", "ms", _most(7)),
    Figure("drop", "p99", "ms", _most(16)),
    Figure("drop", "max", "ms"),
    Figure("drop", "the write itself, p50", "ms"),
    Figure("drop", "looks this far apart, p50", "ms"),
    Figure("drop", "cores used for looking", ""),
    Figure("tree", "identical", "s", _most(5)),
    Figure("tree", "the copy itself", "s"),
    Figure("tree", "CPU", "s", _most(10)),
    Figure("tree", "disk per byte", ""),
    Figure("big", "identical", "s", _most(6)),
    Figure("big", "the copy itself", "s"),
    Figure("big", "CPU", "s", _most(6)),
    Figure("big", "most memory of a process", "MiB", _most(200)),
    Figure("big", "disk per byte", ""),
    Figure("away", "identical after it is up", "s", _most(0.5)),
    Figure("away", "identical after its start", "s"),
    Figure("away", "ready after its start", "s"),
    Figure("away", "CPU", "s"),
    Figure("read", "cold small files", "/s", _least(20), True),
    Figure("read", "warm small files", "/s", _least(30, no_open=75), True),
    Figure("read", "stat", "/s", _least(70), True),
    Figure("read", "ls -lR cold", "ms", {}, True, False),
    Figure("read", "ls -lR", "ms", _least(80), True, False),
    Figure("read", "find cold", "ms", {}, True, False),
    Figure("read", "find", "ms", {}, True, False),
    Figure("read", "sequential cold", "MB/s", _least(80), True),
    Figure("read", "sequential warm", "MB/s", _least(90), True),
    Figure("entries", "mount ready after first start", "s", _most(5)),
    Figure("entries", "mount ready after later start", "s", _most(5)),
    Figure("entries", "most memory of the agent", "MiB", _most(400)),
    Figure("kill", "errors", "", _most(0)),
    Figure("kill", "longest stall", "ms", _most(200)),
    Figure("kill", "longest stall, nobody killed", "ms"),
)


def percent(mine: float, base: float, faster: bool) -> float:
    """How fast mine is beside the base: 100 = the same, more is better."""
    return 100 * (mine / base if faster else base / mine)


def percents(
    figure: Figure, runs: Sequence[Measurement], base: Sequence[Measurement]
) -> list[float]:
    """Of each run beside ext4 in the same round."""
    by_round = {run.round: run.figures.get(figure.key) for run in base}
    found = []
    for run in runs:
        mine, theirs = run.figures.get(figure.key), by_round.get(run.round)
        if mine and theirs:
            found.append(percent(mine, theirs, figure.faster))
    return found


def judged(aim: Aim | None, values: Sequence[float], percents: Sequence[float]) -> list[str]:
    """The cells aim, is / aim, and whether it is reached."""
    measured = percents if aim is not None and aim.percent else values
    if aim is None or not measured:
        return [str(aim or ""), "", ""]
    value = statistics.median(measured)
    reached = value >= aim.limit if aim.least else value <= aim.limit
    ratio = number(value / aim.limit) if aim.limit else number(value)
    return [str(aim), ratio, "reached" if reached else "**behind**"]


def line(figure: Figure, runs: Sequence[Measurement], base: Sequence[Measurement]) -> list[str]:
    """One line of the table; empty when nobody measured it."""
    values = [run.figures[figure.key] for run in runs if figure.key in run.figures]
    if not values:
        return []
    system = runs[0].system
    beside = percents(figure, runs, base) if figure.compared and system != BASE else []
    unit = figure.unit if figure.unit.startswith("/") else f" {figure.unit}".rstrip()
    return [
        figure.row, figure.key, system, spread(values, unit),
        spread(beside) if beside else "", *judged(figure.aims.get(system), values, beside),
    ]


def table(measured: Sequence[Measurement]) -> str:
    """All figures of all systems, as Markdown that is also readable in a terminal."""
    lines = [list(HEAD)]
    systems = list(dict.fromkeys(m.system for m in measured))
    for figure in FIGURES:
        runs = [m for m in measured if m.row == figure.row]
        base = [m for m in runs if m.system == BASE]
        found = (line(figure, [m for m in runs if m.system == s], base) for s in systems)
        lines += [cells for cells in found if cells]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    lines.insert(1, ["-" * width for width in widths])
    return "\n".join(
        "| " + " | ".join(map(str.ljust, cells, widths)) + " |" for cells in lines
    )


def failures(measured: Sequence[Measurement]) -> list[str]:
    """One line for each thing that failed."""
    return [
        f"{one.row} of {one.system}, round {one.round}: {message} ({count:,} times)"
        for one in measured for message, count in one.errors.items()
    ]
