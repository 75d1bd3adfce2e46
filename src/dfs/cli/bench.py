"""bench: how fast puts or gets are, as a Python program sees it, and what they cost the nodes."""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import os
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, NamedTuple

from ..client import Client
from ..errors import DfsError, InvalidArgument, Unavailable
from ..limits import VALUE_BYTES_MAX
from ..proto import dfs_pb2 as pb
from . import output, parsing, shared
from .bench_load import Load, Outcome, work

KEYS: Final = 1_000
CLIENTS_MAX: Final = 10_000
WARM_UP_S: Final = 1.0
"""Connections, caches and the interpreter get going; not counted."""
PREPARING_THREADS: Final = 32
START_S_MAX: Final = 30.0
BUSY_SHARE: Final = 0.85
"""From here on the generator is probably what limits the figure."""


def bench_flags(parser: argparse.ArgumentParser) -> None:
    """Arguments of `dfs bench`."""
    parser.add_argument("what", choices=("put", "get"))
    parser.add_argument("-c", "--clients", type=int, default=64, help="Calls at once. Default: 64.")
    parser.add_argument("-s", "--size", type=int, default=100, help="Bytes. Default: 100.")
    parser.add_argument("--seconds", type=float, default=10.0, help="Default: 10.")
    parser.add_argument("--keys", type=int, default=KEYS, help=f"Default: {KEYS:,}.")
    parser.add_argument(
        "--processes", type=int, default=0, help="Of the generator. Default: one for each core."
    )
    parser.add_argument("--local", action="store_true", help="Gets of what is applied, no barrier.")
    parser.add_argument("--keep", action="store_true", help="Leave the keys there (bench/…).")
    parsing.output_flag(parser)


def bench(args: argparse.Namespace) -> int:
    """Loads the cluster in a closed loop and prints one table."""
    _check(args)
    endpoints = parsing.settings(args).settings.endpoint
    prefix = f"bench/{os.getpid():x}-{time.time_ns():x}"
    count = args.processes or min(os.cpu_count() or 1, args.clients)
    load = Load(
        what=args.what, endpoints=endpoints, prefix=prefix, keys=args.keys, size=args.size,
        local=args.local, warm_up_s=WARM_UP_S, seconds=args.seconds,
    )
    with shared.client(args) as client:
        _prepare(client, load)
        try:
            before = _cpu_us(client)
            outcomes = _run(load, args.clients, count)
            after = _cpu_us(client)
        finally:
            if not args.keep:
                _clean(client, prefix)
    result = summarize(load, args.clients, count, outcomes, _spent(before, after))
    _print(result, args.output)
    return 1 if result["operations"] == 0 else 0


def _check(args: argparse.Namespace) -> None:
    for name, low, high in (
        ("clients", 1, CLIENTS_MAX), ("size", 0, VALUE_BYTES_MAX), ("keys", 1, 10_000_000),
        ("processes", 0, 1_000),
    ):
        if not low <= getattr(args, name) <= high:
            raise InvalidArgument(f"--{name} must be from {low:,} to {high:,}")
    if args.seconds <= 0:
        raise InvalidArgument("--seconds must be more than 0")


def _prepare(client: Client, load: Load) -> None:
    """Gets need something to get; puts change keys that exist, as most puts do."""
    needed = load.keys if load.what == "get" else 1
    with (
        output.progress("preparing", needed) as shown,
        ThreadPoolExecutor(PREPARING_THREADS) as pool,
    ):
        puts = pool.map(lambda n: client.put(load.key(n), load.value(n)), range(needed))
        for number, _ in enumerate(puts):
            shown.update(number + 1)


def _clean(client: Client, prefix: str) -> None:
    with contextlib.suppress(DfsError):  # what stays is harmless, and the result is there
        # One delete takes a bounded count of keys.
        for item in list(client.list(prefix)):
            client.delete(item.key, recursive=True)
        client.delete(prefix, recursive=True)


class Cpu(NamedTuple):
    """CPU time of the nodes that answered, by name."""

    us: dict[str, int]
    rss_bytes: dict[str, int]


def _cpu_us(client: Client) -> Cpu:
    nodes: list[pb.NodeStatus] = [n for n in client.status().nodes if n.cpu_us]
    return Cpu(
        {n.member.name: n.cpu_us for n in nodes}, {n.member.name: n.rss_bytes for n in nodes}
    )


def _spent(before: Cpu, after: Cpu) -> int | None:
    """Microseconds of all nodes together; None when a node was away or restarted."""
    if not before.us or before.us.keys() != after.us.keys():
        return None
    spent = [after.us[name] - us for name, us in before.us.items()]
    return sum(spent) if min(spent) >= 0 else None


def _run(load: Load, clients: int, count: int) -> list[Outcome]:
    """Starts the processes, has them begin together, collects what they saw."""
    context = multiprocessing.get_context("spawn")
    shares = [clients // count + (i < clients % count) for i in range(count)]
    running = []
    for share in (s for s in shares if s):
        mine, theirs = context.Pipe()
        process = context.Process(target=work, args=(load, share, theirs), daemon=True)
        process.start()
        theirs.close()
        running.append((process, mine))
    try:
        for _, pipe in running:
            _receive(pipe, START_S_MAX)
        for _, pipe in running:
            pipe.send("go")
        total_s = load.warm_up_s + load.seconds
        with output.progress(load.what, round(total_s * 10)) as shown:
            begin_s = time.monotonic()
            while (passed_s := time.monotonic() - begin_s) < total_s:
                shown.update(round(passed_s * 10))
                time.sleep(0.1)
        return [_receive(pipe, START_S_MAX) for _, pipe in running]
    finally:
        for process, _ in running:
            process.terminate()
            process.join()


def _receive(pipe: Any, timeout_s: float) -> Any:
    if not pipe.poll(timeout_s):
        raise Unavailable("a process of the generator does not answer; the machine is overloaded")
    try:
        return pipe.recv()
    except EOFError:
        raise Unavailable("a process of the generator ended; its message stands above") from None


def summarize(
    load: Load, clients: int, processes: int, outcomes: list[Outcome], cpu_us: int | None
) -> dict[str, Any]:
    """The figures under the names of the JSON output."""
    latencies = sorted(ns for outcome in outcomes for ns in outcome.latencies_ns)
    errors: Counter[str] = Counter()
    for outcome in outcomes:
        errors.update(outcome.errors)
    done, seconds = len(latencies), max((o.seconds for o in outcomes), default=load.seconds)
    all_calls = sum(o.calls for o in outcomes)
    generator_s = sum(o.cpu_s for o in outcomes)
    whole_s = seconds + load.warm_up_s
    cores = min(processes, os.cpu_count() or 1)
    return {
        "what": load.what, "local": load.local, "clients": clients, "size": load.size,
        "seconds": round(seconds, 2), "processes": processes, "operations": done,
        "per_second": round(done / seconds, 1),
        "p50_ms": _percentile(latencies, 0.50), "p95_ms": _percentile(latencies, 0.95),
        "p99_ms": _percentile(latencies, 0.99), "max_ms": _percentile(latencies, 1.0),
        "errors": dict(errors),
        # The nodes' CPU time covers warm-up too, so it is divided by all calls.
        "server_cpu_us_per_operation": (
            round(cpu_us / all_calls, 1) if cpu_us is not None and all_calls else None
        ),
        "generator_cpu_us_per_operation": round(generator_s * 1e6 / all_calls, 1)
        if all_calls else None,
        "generator_busy": round(generator_s / (whole_s * cores), 2) if whole_s else None,
    }


def _percentile(ordered: list[int], share: float) -> float | None:
    if not ordered:
        return None
    return round(ordered[min(int(len(ordered) * share), len(ordered) - 1)] / 1e6, 3)


def _print(result: dict[str, Any], form: str) -> None:
    if form == "json":
        output.json(result)
    else:
        failed = sum(result["errors"].values())
        cpu = result["server_cpu_us_per_operation"]
        output.table(
            ("what", "clients", "size", "ops/s", "p50 ms", "p95 ms", "p99 ms", "max ms", "errors",
             "server cpu/op"),
            [(
                result["what"], result["clients"], output.size(result["size"]),
                f"{result['per_second']:,.0f}", result["p50_ms"], result["p95_ms"],
                result["p99_ms"], result["max_ms"], failed,
                "unknown" if cpu is None else f"{cpu} µs",
            )],
        )
    for text, count in result["errors"].items():
        output.note(f"{count:,} times {text}")
    busy = result["generator_busy"] or 0.0
    output.note(
        f"generator: {result['processes']} processes, {result['generator_cpu_us_per_operation']} µs"
        f" CPU for each call, {busy:.0%} of its cores"
    )
    if busy > BUSY_SHARE:
        output.note(
            "the generator was busy all the time: the nodes can do more than this figure says"
        )
