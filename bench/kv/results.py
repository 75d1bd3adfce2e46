"""Measurements, and the table that is made of them."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

from .rows import ROWS
from .systems import BASE, SYSTEMS

HEAD: Final = (
    "row", "system", "result", f"/ {BASE}", "p50 ms", "p99 ms", f"/ {BASE}", "server µs/op",
    f"/ {BASE}", "RSS MiB", f"/ {BASE}", "generator µs/op", "others", "failed",
)
NOTHING: Final = "-"


@dataclass(frozen=True)
class Measurement:
    """One run of one row. What a row does not have is None."""

    system: str
    row: str
    round: int
    """Runs of different systems with the same number belong together."""
    value: float | None
    """In the unit of the row; None when not one operation succeeded."""
    others: float
    """Cores that neither servers nor generator used."""
    failed: int
    """Operations that failed, wrong answers, acknowledged keys that were lost."""
    p50_ms: float | None = None
    p99_ms: float | None = None
    server_us: float | None = None
    generator_us: float | None = None
    rss_mib: float | None = None
    errors: dict[str, int] = field(default_factory=dict)
    """What failed, by message."""


Figure = Callable[[Measurement], float | None]
FIGURES: Final[dict[str, Figure]] = {
    "value": lambda m: m.value,
    "p50_ms": lambda m: m.p50_ms,
    "p99_ms": lambda m: m.p99_ms,
    "server_us": lambda m: m.server_us,
    "generator_us": lambda m: m.generator_us,
    "rss_mib": lambda m: m.rss_mib,
}


def number(value: float) -> str:
    """Three digits or more."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def spread(values: Sequence[float], unit: str = "") -> str:
    """The median, and the range when there are several."""
    if not values:
        return NOTHING
    median = number(statistics.median(values)) + unit
    if len(values) == 1:
        return median
    return f"{median} ({number(min(values))}..{number(max(values))})"


def figures(runs: Iterable[Measurement], figure: str) -> list[float]:
    """A figure of each run that has it."""
    found = (FIGURES[figure](run) for run in runs)
    return [value for value in found if value is not None]


def ratios(runs: Iterable[Measurement], base: Iterable[Measurement], figure: str) -> list[float]:
    """A figure of each run divided by that of the base system in the same round."""
    by_round = {run.round: FIGURES[figure](run) for run in base}
    found = []
    for run in runs:
        mine, theirs = FIGURES[figure](run), by_round.get(run.round)
        if mine is not None and theirs:
            found.append(mine / theirs)
    return found


def line(row: str, unit: str, runs: list[Measurement], base: list[Measurement]) -> list[str]:
    """One line of the table: one row of one system."""

    def ratio(figure: str) -> str:
        if runs[0].system == BASE:
            return ""
        return spread(ratios(runs, base, figure)) if base else ""

    def shown(figure: str) -> str:
        return spread(figures(runs, figure))

    unit = unit if unit.startswith("/") else f" {unit}"
    return [
        row, runs[0].system, spread(figures(runs, "value"), unit), ratio("value"), shown("p50_ms"),
        shown("p99_ms"), ratio("p99_ms"), shown("server_us"), ratio("server_us"),
        shown("rss_mib"), ratio("rss_mib"), shown("generator_us"),
        f"{max(run.others for run in runs):.2f}", str(sum(run.failed for run in runs)),
    ]


def table(measured: Sequence[Measurement]) -> str:
    """All rows of all systems, as Markdown that is also readable in a terminal."""
    lines = [list(HEAD)]
    for row in ROWS:
        runs = [m for m in measured if m.row == row.name]
        base = [m for m in runs if m.system == BASE]
        for system in SYSTEMS:
            mine = [m for m in runs if m.system == system]
            if mine:
                lines.append(line(row.name, row.unit, mine, base))
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    lines.insert(1, ["-" * width for width in widths])
    return "\n".join(
        "| " + " | ".join(map(str.ljust, cells, widths)) + " |" for cells in lines
    )
