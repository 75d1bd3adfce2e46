"""Rows about the agent: a million entries, and its death under readers."""

from __future__ import annotations

import asyncio
import functools
import os
import signal
import time
from collections import Counter
from typing import Any, Final, cast

import grpc.aio

from dfs.client.calls import FILES
from dfs.client.session import channel_options, target
from dfs.nemesis.processes import Node
from dfs.nemesis.waiting import wait_until
from dfs.proto import dfs_pb2 as pb

from .drops import TREE
from .helpers import Reads, helping
from .helpers import read as read_for_ever
from .plan import Meter, Plan, Stock
from .results import Measurement
from .systems import Dfs, peak_mib

KILL_EVERY_S: Final = 2.5
"""More than an agent must live to count as a good one."""
CALM_S: Final = 1.0
"""Before the first kill: how long reads take when nobody is killed."""
CALLS_AT_ONCE: Final = 512
CONNECTIONS: Final = 8
ENTRIES_PER_DIRECTORY: Final = 1_000
CONTENTS: Final = 1_000
"""Different ones among the entries: the row is about the tree, not about the cache."""


# ---- kill -9 -------------------------------------------------------------------------------------
def kill(dfs: Dfs, plan: Plan, stock: Stock, number: int) -> Measurement:
    """The second node's agent is killed again and again while many read its mount."""
    seconds = CALM_S + plan.kills * KILL_EVERY_S
    meter = Meter([dfs], stock)
    tasks = [
        (stock.work.enter, read_for_ever, dfs.views[1] / TREE, stock.files, seconds, seed)
        for seed in range(plan.readers)
    ]
    kills = []
    with helping(tasks) as readers:
        time.sleep(CALM_S)
        for _ in range(plan.kills):
            pid = wait_until("an agent", functools.partial(dfs.agent_pid, 1))
            kills.append(time.monotonic())
            os.kill(pid, signal.SIGKILL)
            time.sleep(KILL_EVERY_S)
        found = [cast(Reads, reader.result()) for reader in readers]
    slow = [span for reads in found for span in reads.slow]
    errors: Counter[str] = sum((reads.errors for reads in found), Counter())
    figures = {
        "errors": float(sum(errors.values())),
        "longest stall": 1000 * max((e - b for b, e in slow if e > kills[0]), default=0.0),
        "longest stall, nobody killed": 1000 * max(
            (e - b for b, e in slow if e <= kills[0]), default=0.0
        ),
    }
    if wrong := sum(reads.wrong for reads in found):
        errors["reads of wrong content"] += wrong
    stalls = [max((e - b for b, e in slow if b <= k + 1 and e > k), default=0.0) for k in kills]
    notes = {
        "reads": sum(reads.count for reads in found),
        "stall_ms_by_kill": [round(1000 * stall) for stall in stalls],
    }
    return Measurement("kill", dfs.name, number, figures, meter.others(), dict(errors), notes)


# ---- a million entries ---------------------------------------------------------------------------
def entries(plan: Plan, stock: Stock) -> Measurement:
    """From the start of an agent until it serves so many entries of a node: with an empty cache,
    and again with what that one left."""
    last, figures, memory = _key(plan.entries - 1), {}, []
    with Dfs(plan.work / "dfs-entries", count=1, mounts=False) as dfs:
        began = time.monotonic()
        asyncio.run(_fill(dfs.nodes[0], plan.entries))
        filled_s, meter = time.monotonic() - began, Meter([dfs], stock)
        for which in ("first", "later"):
            began = time.monotonic()
            with dfs.starting_reader() as (mount, supervisor):
                size = os.stat(mount / last).st_size  # which waits until the mount is served
                figures[f"mount ready after {which} start"] = time.monotonic() - began
                memory.append(peak_mib(supervisor.poll().pid))
            if size != len(_content(plan.entries - 1)):
                return Measurement("entries", dfs.name, 0, {}, errors={f"{last} is wrong": 1})
        figures["most memory of the agent"] = max(memory)
        notes: dict[str, object] = {"entries": plan.entries, "filled in s": round(filled_s)}
        return Measurement("entries", dfs.name, 0, figures, meter.others(), notes=notes)


def _key(number: int) -> str:
    return f"entries/{number // ENTRIES_PER_DIRECTORY:04}/{number:08}"


def _content(number: int) -> bytes:
    return f"content {number % CONTENTS:04}".encode()


async def _fill(node: Node, count: int) -> None:
    """Puts them all, many calls at once: the log takes them in batches."""
    address = target(node.endpoint)
    channels = [
        grpc.aio.insecure_channel(address, options=channel_options(address))
        for _ in range(CONNECTIONS)
    ]
    numbers = iter(range(count))

    async def work(method: Any) -> None:
        for number in numbers:
            request = pb.PutRequest(key=_key(number), data=_content(number))
            await method(request.SerializeToString(), timeout=30.0)

    methods: list[Any] = [channel.unary_unary(FILES + "Put") for channel in channels]
    try:
        await asyncio.gather(*(work(methods[i % CONNECTIONS]) for i in range(CALLS_AT_ONCE)))
    finally:
        for channel in channels:
            await channel.close()


