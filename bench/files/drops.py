"""Rows of what is dropped: one file at a time, a tree, one large file, changes while a node is
away."""

from __future__ import annotations

import math
import random
import subprocess
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from ..machine import back_memory
from .content import MISSING, OK, File, small, state, write
from .helpers import seen, watching
from .plan import Meter, Plan, Stock, last, wrongs
from .results import Measurement
from .systems import Away, Dfs, System

DROP_BYTES: Final = 1 << 10
GAP_S_MAX: Final = 0.1
"""Between two drops: the system is idle when the next one comes."""
LOOK_S: Final = 0.000_3
"""Between two looks at the mounts. There are no events to wait for on a mount; looking without a
pause would take one core away from what is measured."""
REFUSED_LOOK_S: Final = 0.5
OVERWRITTEN: Final = 0.3
"""Of the changes while a node is away; the others are new files."""
DROP: Final = "drop"
TREE: Final = "tree"
AWAY: Final = "away"
MEMORY_BYTES: Final = 2 << 30
MEMORY_PER_BYTE: Final = 8
"""The machine has so much at hand before it copies: twice what the page cache takes of it."""
SETTLE_S: Final = 0.5
"""After things have become visible the nodes still tidy up: their CPU time counts as well."""


# ---- one small file ------------------------------------------------------------------------------
def drop(system: System, plan: Plan, stock: Stock, number: int) -> Measurement:
    """One file of 1 KiB at a time; from before it is opened until it was read on all others."""
    chance = random.Random(number)
    (system.drop / DROP).mkdir()
    found: dict[str, list[float]] = {"visible": [], "write": [], "apart": []}
    errors: Counter[str] = Counter()
    meter, looked_s = Meter([system], stock), 0.0
    began = time.monotonic()
    for count in range(plan.drops):
        time.sleep(chance.random() * GAP_S_MAX)
        name, data = f"{DROP}/f{count:05}", chance.randbytes(DROP_BYTES)
        cpu_s, begin = time.process_time(), time.monotonic()
        file = write(system.drop, name, data)
        written = time.monotonic()
        visible, apart = _wait_for(system, file, begin + plan.limit_s, errors)
        looked_s += time.process_time() - cpu_s
        if visible is not None:
            found["visible"].append((visible - begin) * 1000)
            found["write"].append((written - begin) * 1000)
            found["apart"].append(apart * 1000)
    figures = {
        "cores used for looking": looked_s / (time.monotonic() - began),
        "the write itself, p50": percentile(found["write"], 0.5),
        "looks this far apart, p50": percentile(found["apart"], 0.5),
    }
    for key, share in (("p50", 0.5), ("p99", 0.99), ("max", 1.0)):
        figures[key] = percentile(found["visible"], share)
    return Measurement(
        "drop", system.name, number, figures if found["visible"] else {}, meter.others(),
        dict(errors), {"n": len(found["visible"]), "cpu_s": meter.split_s()},
    )


def _wait_for(
    system: System, file: File, end: float, errors: Counter[str]
) -> tuple[float | None, float]:
    """When all other views had the file, and how long before that the last one had not."""
    waiting = list(system.views[1:])
    looked = last_look = time.monotonic()
    while waiting:
        last_look, looked = looked, time.monotonic()
        for view in list(waiting):
            got = state(view, file)
            if got == OK:
                waiting.remove(view)
            elif got != MISSING:
                errors[f"a drop was read {got}"] += 1
        if time.monotonic() > end:
            errors["a drop did not become visible"] += 1
            return None, 0.0
        if waiting:
            time.sleep(LOOK_S)
    now = time.monotonic()
    return now, now - last_look


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that this share of the values does not exceed; 0 without values."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)] if ordered else 0.0


# ---- many, and one large -------------------------------------------------------------------------
def tree(system: System, plan: Plan, stock: Stock, number: int) -> Measurement:
    """`cp -r` of many small files, until each of them was read on every mount."""
    bytes_ = sum(file.size for file in stock.files)
    return _copied("tree", system, plan, stock, number, stock.tree, stock.files, bytes_)


def big(system: System, plan: Plan, stock: Stock, number: int) -> Measurement:
    """`cp` of one large file, until it was read on every mount."""
    source, file = stock.big.source, stock.big.file
    return _copied("big", system, plan, stock, number, source, [file], file.size)


def _copied(
    row: str, system: System, plan: Plan, stock: Stock, number: int, source: Path,
    files: Sequence[File], bytes_: int,
) -> Measurement:
    tops = [view / TREE if row == "tree" else view for view in system.views]
    enter, before = stock.work.enter, system.disk_bytes()
    back_memory(MEMORY_BYTES + MEMORY_PER_BYTE * bytes_)
    with watching(enter, tops, files, plan.limit_s) as watchers:
        system.forget_peaks()
        meter, began = Meter([system], stock), time.monotonic()
        subprocess.run(
            [*enter, "cp", "-r", str(source), str(system.drop / source.name)], check=True
        )
        copied = time.monotonic()
        if row == "big" and (why := _refusal(system, files[0], tops, plan.limit_s)):
            return Measurement(row, system.name, number, {}, meter.others(), {why: 1})
        found = seen(watchers)
    time.sleep(SETTLE_S if system.whole else 0)
    peaks, used = system.peaks_mib(), system.disk_bytes() - before
    figures = last(found, began) | {
        "the copy itself": copied - began, "disk per byte": used / bytes_,
    }
    if peaks:
        figures |= {"CPU": meter.cpu_s(), "most memory of a process": max(peaks.values())}
    notes = {"cpu_s": meter.split_s(), "peaks_mib": {k: round(v) for k, v in peaks.items()}}
    return Measurement(
        row, system.name, number, figures, meter.others(), wrongs(system, found), notes
    )


def _refusal(system: System, file: File, tops: Sequence[Path], limit_s: float) -> str:
    """Waits until a dropped file is visible somewhere, refused (then why), or too late."""
    end = time.monotonic() + limit_s
    while not any((top / file.name).exists() for top in tops) and time.monotonic() < end:
        if why := system.refusal(file.name):
            return why
        time.sleep(REFUSED_LOOK_S)
    return ""


# ---- a node away ---------------------------------------------------------------------------------
def away(dfs: Dfs, plan: Plan, stock: Stock, number: int) -> Measurement:
    """The third node is killed; files are changed; it starts again: until all of them are right."""
    chance, enter, tops = random.Random(number), stock.work.enter, [v / AWAY for v in dfs.views]
    (dfs.drop / AWAY).mkdir()
    names = [f"f{i:05}" for i in range(plan.changes)]
    former = [
        write(dfs.drop / AWAY, name, small(chance))
        for name in names[: int(plan.changes * OVERWRITTEN)]
    ]
    with watching(enter, tops, former, plan.limit_s) as watchers:
        before = seen(watchers)
    gone = Away(dfs.nodes[2])
    changed = [write(dfs.drop / AWAY, name, small(chance)) for name in names]
    old = {file.name: file for file in former}
    with watching(enter, tops[:2], changed, plan.limit_s, old) as watchers:
        others = seen(watchers)
    meter = Meter([dfs], stock)
    with watching(enter, tops[2:], changed, plan.limit_s, old) as watchers:
        began, up = gone.back()
        found = seen(watchers)
    time.sleep(SETTLE_S)
    figures = {"CPU": meter.cpu_s(), "ready after its start": up - began}
    if after := last(found, began):
        figures["identical after its start"] = after["identical"]
        figures["identical after it is up"] = max(0.0, after["identical"] - (up - began))
    return Measurement(
        "away", dfs.name, number, figures, meter.others(),
        wrongs(dfs, [*before, *others, *found]), {"cpu_s": meter.split_s()},
    )


# ---- for other rows ------------------------------------------------------------------------------
def ensure(system: System, plan: Plan, stock: Stock, files: Sequence[File]) -> None:
    """The tree, or the large file, is there, without measuring how it came."""
    row, place = (tree, TREE) if files is stock.files else (big, stock.big.file.name)
    if not (system.drop / place).exists():
        row(system, plan, stock, 0)
