"""Runs the rows: each stage on a fresh cluster of each system, one system behind the other."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from ..machine import Others, rss_mib
from . import recovery
from .cluster import Cluster, Result, errors_of, prefix
from .results import Measurement
from .rows import Row
from .systems import System

OTHERS_CORES_MAX: Final = 0.25
"""A row that others disturbed more is run again."""
AGAIN_MAX: Final = 2
"""So often at most; the calmest run counts."""
WATCH_RATE: Final = 100
"""Puts a second."""
FAILOVER_TIMEOUT_MS: Final = 300
"""Of a put while leaders are killed: part of the gap, as a caller sees it."""
FAILOVER_BEFORE_S: Final = 1.0
FAILOVER_AFTER_S: Final = 5.0
FIRST_READ_S_MAX: Final = 300.0
TAIL_S: Final = 3.0
"""Puts right before all nodes are killed: they have something to recover."""


@dataclass(frozen=True)
class Plan:
    """What to run and how long."""

    systems: Sequence[System]
    work: Path
    rounds: int
    seconds: float
    warmup_s: float
    kills: int
    again: bool
    """Repeat what others disturbed."""

    def kills_in(self, number: int) -> range:
        """The numbers of the kills of a round: all rounds together have all of them."""
        first = number * self.kills // self.rounds
        return range(first, (number + 1) * self.kills // self.rounds)


Report = Callable[[Measurement], None]


def run(plan: Plan, stages: dict[str, list[Row]], report: Report) -> None:
    """Everything, round by round; `report` gets each measurement when it is there."""
    for number in range(plan.rounds):
        for stage, rows in stages.items():
            if stage == "restart" or (stage == "long" and number > 0):
                continue
            if stage == "recovery":
                recovery.run(plan.systems, plan.work, rows, plan.kills_in(number), report)
                continue
            for system in plan.systems:
                able = [row for row in rows if system.can(row)]
                if able:
                    with Cluster(system, plan.work) as cluster:
                        cluster.start_all()
                        cluster.ready()
                        if stage == "failover":
                            _failover(plan, cluster, able[0], number, report)
                        elif stage == "long":
                            _long(plan, cluster, able[0], report)
                        else:
                            _loads(plan, cluster, able, number, report)
    if "restart" in stages:
        _restart(plan, stages["restart"], report)


# ---- rows that are one run of the generator ------------------------------------------------------
def _loads(
    plan: Plan, cluster: Cluster, rows: Sequence[Row], number: int, report: Report
) -> None:
    for value in dict.fromkeys(row.value for row in rows if row.mode != "watch"):
        cluster.load(max(row.keys for row in rows if row.value == value), value)
    for row in rows:
        report(_calmest(plan, cluster, row, number))


def _calmest(plan: Plan, cluster: Cluster, row: Row, number: int) -> Measurement:
    best = _once(plan, cluster, row, number)
    for _ in range(AGAIN_MAX if plan.again else 0):
        if best.others < OTHERS_CORES_MAX:
            break
        best = min(best, _once(plan, cluster, row, number), key=lambda m: m.others)
    return best


def _once(plan: Plan, cluster: Cluster, row: Row, number: int) -> Measurement:
    others = Others(cluster.pids)
    result = cluster.run(
        row.mode, clients=row.clients, value=row.value, keys=row.keys, listed=row.listed,
        watchers=row.watchers, rate=WATCH_RATE, spread="all" if row.anywhere else "leader",
        prefix="watch/" if row.mode == "watch" else prefix(row.value),
        warmup=f"{plan.warmup_s}s", duration=f"{row.seconds or plan.seconds}s",
        pids=_pids(cluster),
    )
    value = result["ops_per_s"]
    if row.mode == "watch":
        value = (result.get("latency") or {}).get("p50_ms")
    return _measurement(cluster, row, number, value, result, others.cores())


def _measurement(
    cluster: Cluster, row: Row, number: int, value: float | None, result: Result, others: float
) -> Measurement:
    """What the generator printed, as part of the table."""
    latency = result.get("latency") or {}
    return Measurement(
        cluster.system.name, row.name, number, value, others, result["failed"],
        latency.get("p50_ms"), latency.get("p99_ms"), result["server_us_per_op"],
        result["generator_us_per_op"], result["server_rss_mib"], errors_of(result),
    )


def _pids(cluster: Cluster) -> str:
    return ",".join(map(str, cluster.pids()))


# ---- does the leader stay? -----------------------------------------------------------------------
def _long(plan: Plan, cluster: Cluster, row: Row, report: Report) -> None:
    cluster.load(row.keys, row.value)
    before = cluster.term()
    measured = _once(plan, cluster, row, 0)
    if elections := cluster.term() - before:
        errors = measured.errors | {"elections under load": elections}
        measured = replace(measured, failed=measured.failed + elections, errors=errors)
    report(measured)


# ---- kill -9 of the leader -----------------------------------------------------------------------
def _failover(plan: Plan, cluster: Cluster, row: Row, number: int, report: Report) -> None:
    for kill in plan.kills_in(number):
        others = Others(cluster.pids)
        generator = cluster.generator(
            "failover", clients=row.clients, value=row.value, keys=row.keys,
            prefix=prefix(row.value), warmup="0s", timeout=f"{FAILOVER_TIMEOUT_MS}ms",
            duration=f"{FAILOVER_BEFORE_S + FAILOVER_AFTER_S}s",
        )
        killed = _kill_leader(cluster, generator)
        result = cluster.result(generator)
        gap_s = result["extra"]["longest_gap_ms"] / 1000
        report(
            Measurement(
                cluster.system.name, row.name, kill, gap_s, others.cores(), result["failed"],
                errors=errors_of(result),
            )
        )
        cluster.start(killed)
        cluster.ready()


def _kill_leader(cluster: Cluster, generator: subprocess.Popen[str]) -> int:
    try:
        time.sleep(FAILOVER_BEFORE_S)
        leader = cluster.leader()
        cluster.kill(leader)
    except BaseException:
        generator.kill()
        generator.communicate()
        raise
    return leader


# ---- kill -9 of all ------------------------------------------------------------------------------
def _restart(plan: Plan, rows: Sequence[Row], report: Report) -> None:
    """Loads each system once, then restarts them by turns; only one runs at a time."""
    named = {row.mode: row for row in rows}
    with ExitStack() as stack:
        clusters = []
        for system in plan.systems:
            cluster = stack.enter_context(Cluster(system, plan.work))
            clusters.append(cluster)
            cluster.start_all()
            cluster.ready()
            others = Others(cluster.pids)
            result = cluster.load(rows[0].keys, rows[0].value)
            if row := named.get("load"):
                rate = result["ops_per_s"]
                report(_measurement(cluster, row, 0, rate, result, others.cores()))
            if row := named.get("get"):
                report(_calmest(plan, cluster, row, 0))
            _tail(cluster, rows[0])
            cluster.kill_all()
        if row := named.get("first-read"):
            for number in range(plan.rounds):
                for cluster in clusters:
                    report(_first_read(cluster, row, number))


def _first_read(cluster: Cluster, row: Row, number: int) -> Measurement:
    others = Others(cluster.pids)
    generator = cluster.generator(
        "first-read", value=row.value, keys=row.keys, prefix=prefix(row.value),
        duration=f"{FIRST_READ_S_MAX}s",
    )
    time.sleep(0.1)  # it is running when the nodes start
    began = time.time()
    cluster.start_all()
    result = cluster.result(generator)
    seconds = result["extra"]["first_read_unix"] - began
    cores = others.cores()
    cluster.ready()
    read = cluster.run(
        "get", value=row.value, keys=row.keys, prefix=prefix(row.value), warmup="0s",
        duration="1s",
    )
    memory = rss_mib(cluster.pids())
    _tail(cluster, row)
    cluster.kill_all()
    return Measurement(
        cluster.system.name, row.name, number, seconds, cores, result["failed"] + read["failed"],
        rss_mib=memory, errors=errors_of(result) | errors_of(read),
    )


def _tail(cluster: Cluster, row: Row) -> None:
    cluster.run(
        "put", value=row.value, keys=row.keys, prefix=prefix(row.value), warmup="0s",
        duration=f"{TAIL_S}s",
    )
