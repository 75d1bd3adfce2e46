"""What is measured: the rows of the table."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from ..failure import BenchError

KIB: Final = 1024
BULK_KEYS: Final = 1_000_000
LONG_S: Final = 180.0
"""Of the row that shows whether a cluster keeps its leader under full load."""
KILLS: Final = 20
RECOVERY_CLIENTS: Final = 6
QUICK_SHARE: Final = 10
"""--quick has this part of the keys; the rows that restart nodes even fewer."""
QUICK_BULK_KEYS: Final = 20_000
QUICK_LONG_S: Final = 3.0


@dataclass(frozen=True)
class Row:
    """One load. Rows of one stage run one behind the other on one fresh cluster."""

    name: str
    stage: str
    mode: str
    clients: int = 1
    value: int = 100
    keys: int = 100_000
    anywhere: bool = False
    """Clients connect to all nodes, not just to the leader."""
    listed: int = 100
    watchers: int = 1
    seconds: float | None = None
    """Not as long as --seconds says; then it is run once, not in each round."""
    unit: str = "/s"
    """Of the result: more is better for "/s", less for times."""

    @property
    def only_puts_and_gets(self) -> bool:
        """Needs no more of a system."""
        return self.mode not in ("list", "watch") and self.stage != "long"


def _put(name: str, clients: int, value: int, keys: int, stage: str) -> Row:
    return Row(f"put {name} c{clients}", stage, "put", clients, value, keys)


ROWS: Final = (
    *(_put("100B", clients, 100, 100_000, "small") for clients in (1, 16, 64, 128, 256)),
    Row("get 100B c1", "small", "get", 1),
    Row("get 100B c64", "small", "get", 64),
    Row("get 100B c64 any node", "small", "get", 64, anywhere=True),
    Row("get local 100B c64", "small", "get-local", 64, anywhere=True),
    Row("mixed 90:10 100B c64", "small", "mixed", 64),
    Row("list 100 keys c16", "small", "list", 16, listed=100),
    Row("list 10000 keys c1", "small", "list", 1, listed=10_000),
    _put("4KiB", 64, 4 * KIB, 2_000, "large"),
    _put("64KiB", 16, 64 * KIB, 500, "large"),
    _put("1MiB", 4, 1024 * KIB, 20, "large"),
    Row("watch x100", "watch", "watch", 1, keys=1_000, anywhere=True, watchers=100, unit="ms"),
    Row("watch x1000", "watch", "watch", 1, keys=1_000, anywhere=True, watchers=1_000, unit="ms"),
    Row("failover", "failover", "failover", 16, unit="s"),
    Row("recovery leader killed", "recovery", "kill-leader", RECOVERY_CLIENTS, unit="s"),
    Row("recovery all killed", "recovery", "kill-all", RECOVERY_CLIENTS, unit="s"),
    Row("recovery power cut", "recovery", "power-cut", RECOVERY_CLIENTS, unit="s"),
    Row("long put 100B c64", "long", "put", 64, seconds=LONG_S),
    Row("load 1M keys c256", "restart", "load", 256, keys=BULK_KEYS),
    Row("bulk get 1M keys c64", "restart", "get", 64, keys=BULK_KEYS),
    Row("restart 1M keys", "restart", "first-read", keys=BULK_KEYS, unit="s"),
)


def chosen(wanted: str) -> list[Row]:
    """The rows that a comma-separated list names, by their names or how those begin."""
    if not wanted:
        return list(ROWS)
    found: set[str] = set()
    for word in filter(None, map(str.strip, wanted.split(","))):
        exact = {row.name for row in ROWS if row.name == word}
        matching = exact or {row.name for row in ROWS if row.name.startswith(word)}
        if not matching:
            names = ", ".join(row.name for row in ROWS)
            raise BenchError(f"there is no row {word!r}; there are: {names}")
        found |= matching
    return [row for row in ROWS if row.name in found]


def quick(row: Row) -> Row:
    """The same with fewer keys: shows that everything works, and no more."""
    if row.stage == "restart":
        return replace(row, keys=QUICK_BULK_KEYS)
    if row.stage in ("failover", "recovery"):  # each failed put uses a key up
        return row
    if row.seconds:
        row = replace(row, seconds=QUICK_LONG_S)
    fewest = max(4 * row.clients, row.listed if row.mode == "list" else 0)
    return replace(row, keys=min(row.keys, max(row.keys // QUICK_SHARE, fewest)))


def stages(rows: list[Row]) -> dict[str, list[Row]]:
    """The rows by stage, in order."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(row.stage, []).append(row)
    return found
