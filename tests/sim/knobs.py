"""Bounds of the product that a seed makes small, so that what happens beyond them happens often."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Final

import dfs.cache.uploader
import dfs.node.history
import dfs.node.hot
import dfs.node.streams
import dfs.node.watch.group
import dfs.node.watch.watcher
import dfs.server.hot
import dfs.store.batch
import dfs.store.core
import dfs.store.listing

MIB: Final = 1 << 20
WATCH = dfs.node.watch
_BOUNDS: Final[tuple[tuple[str, tuple[ModuleType, ...], tuple[int, ...]], ...]] = (
    ("WATCH_EVENTS_MAX", (WATCH.watcher,), (1, 3, 1_000)),
    ("WATCH_BYTES_MAX", (WATCH.watcher,), (200, MIB)),
    ("WATCH_SCAN_MAX", (WATCH.watcher,), (1, 4, 10_000)),
    ("WATCH_PACE_MS", (WATCH.group,), (0, 5, 300)),
    (
        "STREAM_CHUNK_BYTES_MAX", (WATCH.group, WATCH.watcher, dfs.store.listing),
        (1, 150, MIB),
    ),
    ("LIST_ITEMS_MAX", (dfs.store.listing,), (1, 3, 2_000)),
    ("LIST_HOT_ITEMS_MAX", (dfs.store.core,), (1, 4, 256)),
    ("STORE_SCAN_RECORDS_MIN", (dfs.store.listing,), (1, 8)),
    ("STORE_SCAN_RECORDS_MAX", (dfs.store.listing,), (1, 3, 256)),
    ("HISTORY_ITEMS_MAX", (dfs.node.history,), (1, 3, 500)),
    ("HISTORY_SCAN_MAX", (dfs.node.history,), (1, 3, 10_000)),
    ("FLOOR_PRUNE_INTERVAL_ENTRIES", (dfs.store.core,), (3, 20, 256)),
    ("READ_TOGETHER_BYTES_MAX", (dfs.store.core,), (10, 32 << 10)),
    ("SMALL_VALUE_BYTES_MAX", (dfs.store.batch, dfs.server.hot), (0, 8, 2_048)),
    ("TURN_ANSWER_BYTES_MAX", (dfs.node.hot,), (0, 32 * MIB)),
    ("PINNED_WAIT_MS", (dfs.node.streams,), (300, 60_000)),
    ("DROP_BATCHES", (dfs.cache.uploader,), (1, 2, 3)),
    ("DROPS_TOGETHER_MAX", (dfs.cache.uploader,), (1, 2, 256)),
)
PRUNED_AT_ONCE: Final = (1, 3, 512)


@dataclass(frozen=True)
class Knobs:
    """Of one seed."""

    turn_items: int
    batch_entries: int
    stream_bytes: int
    slow_turn: float
    keys: int
    """So many keys are put, read and deleted by all: the fewer, the more often they meet."""
    copies: float
    """Of requests that change something, so many arrive twice."""
    resets: float
    """Of streams, so many break by themselves."""
    dies_answering: float
    """Of answers to writes, so many are the last thing that a member would have done."""
    callers_ahead_s: float
    """The clocks of clients are ahead by so much."""
    history_revisions: int
    history_age_s: int
    bounds: dict[str, int]
    pruned_at_once: int


def choose(chance: random.Random) -> Knobs:
    """Half of the seeds have most bounds as they are."""
    tight = 0.5 if chance.random() < 0.6 else 0.1

    def bound(values: tuple[int, ...]) -> int:
        return chance.choice(values[:-1]) if chance.random() < tight else values[-1]

    return Knobs(
        turn_items=bound((1, 3, 512)), batch_entries=chance.choice((1, 2, 6, 50)),
        stream_bytes=bound((1, 300, MIB)), slow_turn=chance.choice((0.0, 0.02, 0.1)),
        keys=chance.choice((1, 2, 4)),
        copies=chance.choice((0.0, 0.15, 0.4)), resets=chance.choice((0.0, 0.4, 0.9)),
        dies_answering=chance.choice((0.0, 0.0, 0.1, 0.25)),
        callers_ahead_s=chance.choice((0.0, 0.0, 0.5, 4.0)),
        history_revisions=chance.choice((4, 12, 40, 1_000_000)),
        history_age_s=chance.choice((1, 4, 86_400)),
        bounds={name: bound(values) for name, _, values in _BOUNDS},
        pruned_at_once=bound(PRUNED_AT_ONCE),
    )


@contextmanager
def turned(knobs: Knobs) -> Iterator[None]:
    """The product with these bounds."""
    before: list[tuple[ModuleType, str, Any]] = []
    prune = dfs.store.batch.Batch.prune
    defaults = prune.__defaults__
    try:
        for name, modules, _ in _BOUNDS:
            for module in modules:
                before.append((module, name, getattr(module, name)))
                setattr(module, name, knobs.bounds[name])
        assert defaults is not None
        prune.__defaults__ = (knobs.pruned_at_once, *defaults[1:])
        yield
    finally:
        prune.__defaults__ = defaults
        for module, name, value in before:
            setattr(module, name, value)
