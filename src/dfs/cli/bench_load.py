"""One process of the load generator: a closed loop of calls, as fast as grpcio can."""

from __future__ import annotations

import asyncio
import itertools
import os
import random
import resource
import signal
import time
from array import array
from collections import Counter
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import grpc.aio

from ..client.calls import FILES, consistency, uuid7
from ..client.faults import fault_of
from ..client.session import channel_options, target
from ..proto import dfs_pb2 as pb

CALL_TIMEOUT_S: Final = 10.0
CALLS_PER_CONNECTION: Final = 64
PAUSE_AFTER_ERROR_S: Final = 0.05
KEYS_PER_DIRECTORY: Final = 1_000
"""So that a directory can be removed with one delete."""


@dataclass(frozen=True)
class Load:
    """What to do; the same for all processes."""

    what: str
    endpoints: tuple[str, ...]
    prefix: str
    keys: int
    size: int
    local: bool
    warm_up_s: float
    seconds: float

    def key(self, number: int) -> str:
        """The key with a number below `keys`."""
        return f"{self.prefix}/{number // KEYS_PER_DIRECTORY:04}/{number:08}"

    def value(self, number: int) -> bytes:
        """Content that differs from one number to the next."""
        return number.to_bytes(8, "big").ljust(self.size, b".")[: self.size]


class Outcome(NamedTuple):
    """What one process saw."""

    latencies_ns: array[int]
    """Of the successful calls after the warm-up."""
    errors: dict[str, int]
    calls: int
    """Successful ones, warm-up included."""
    cpu_s: float
    seconds: float


def work(load: Load, clients: int, pipe: Any) -> None:
    """Says "ready", waits for "go", runs, sends the outcome. No retries: errors are counted."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that started us.
    pipe.send("ready")
    pipe.recv()
    pipe.send(asyncio.run(_run(load, clients)))


class _Tally:
    def __init__(self) -> None:
        self.latencies_ns = array("q")
        self.errors: Counter[str] = Counter()
        self.calls = 0


async def _run(load: Load, clients: int) -> Outcome:
    name = "Put" if load.what == "put" else "Get"
    connections = -(-clients // CALLS_PER_CONNECTION)
    targets = [target(endpoint) for endpoint in load.endpoints]
    channels = [
        grpc.aio.insecure_channel(one, options=channel_options(one))
        for one in itertools.islice(itertools.cycle(targets), max(connections, len(targets)))
    ]
    methods: list[Any] = [channel.unary_unary(FILES + name) for channel in channels]
    tally = _Tally()
    before_s = _cpu_s()
    begin_ns = time.perf_counter_ns()
    warm_ns = begin_ns + int(load.warm_up_s * 1e9)
    end_ns = warm_ns + int(load.seconds * 1e9)
    await asyncio.gather(*(
        _client(load, i, clients, methods[i % len(methods)], tally, warm_ns, end_ns)
        for i in range(clients)
    ))
    seconds = (time.perf_counter_ns() - warm_ns) / 1e9
    cpu_s = _cpu_s() - before_s
    for channel in channels:
        await channel.close()
    return Outcome(tally.latencies_ns, dict(tally.errors), tally.calls, cpu_s, seconds)


async def _client(
    load: Load, number: int, clients: int, method: Any, tally: _Tally, warm_ns: int, end_ns: int
) -> None:
    """One caller: the next call when the last one is answered."""
    chance = random.Random(os.getpid() * clients + number)
    clock = time.perf_counter_ns
    begin_ns = clock()
    while begin_ns < end_ns:
        request = _request(load, chance.randrange(load.keys), chance.getrandbits(32))
        try:
            answer = await method(request, timeout=CALL_TIMEOUT_S)
        except grpc.aio.AioRpcError as error:
            why = fault_of(error, "the node", load.what == "put")
            tally.errors[f"{type(why.error).__name__}: {why.error.text}"] += 1
            await asyncio.sleep(PAUSE_AFTER_ERROR_S)
            begin_ns = clock()
            continue
        now_ns = clock()
        tally.calls += 1
        if load.what == "get" and len(answer) < load.size:
            tally.errors["wrong content"] += 1
        elif begin_ns >= warm_ns:
            tally.latencies_ns.append(now_ns - begin_ns)
        begin_ns = now_ns


def _request(load: Load, key: int, number: int) -> bytes:
    if load.what == "get":
        return pb.GetRequest(
            key=load.key(key), consistency=consistency(load.local)
        ).SerializeToString()
    return pb.PutRequest(
        key=load.key(key), data=load.value(number), request_id=uuid7()
    ).SerializeToString()


def _cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime
