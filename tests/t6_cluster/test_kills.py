"""kill -9 of nodes under load: nothing that was acknowledged is lost."""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import dataclass, field
from pathlib import Path

import dfs
from dfs.nemesis.node import LIMITS
from dfs.nemesis.processes import Cluster, running, wait_until
from dfs.nemesis.recorder import Recorder, require_variety
from dfs.nemesis.world import PROGRAM

KILLS = 10
LOADERS = 96
"""Tasks that put and get in turn: more than two cores can serve without queues."""
KILLS_UNDER_FULL_LOAD = 6
CUTS_S = 2.0
"""The engine looks twice a second whether it may cut the log: at least three looks."""


def test_kill_nodes_under_load(tmp_path: Path) -> None:
    """Six clients that meet at the same keys and a watcher, ten kills of changing nodes: every
    acknowledged write is there afterwards, no read is stale, no revision is given twice or goes
    back, the watcher has heard of each change once; all nodes have the same state hash at the same
    index."""
    with running(tmp_path) as cluster:
        recorder = Recorder(cluster)
        with recorder.at_work():
            for kill in range(KILLS):
                victim = cluster.leader() if kill % 2 == 0 else cluster.nodes[kill % 3]
                victim.kill()
                seen = recorder.progress()
                wait_until("writes go on without it", lambda s=seen: recorder.progress() > s)
                victim.start()
                wait_until("the node is back", lambda v=victim: v.status().leader)
        cluster.agree()
        recorder.check()
        require_variety(recorder.outcomes())


def test_the_log_keeps_what_the_store_has_not_on_disk(tmp_path: Path) -> None:
    """A node whose log is cut often and whose store is never flushed has everything after a
    kill."""
    limits = {
        "SNAPSHOT_LOG_BYTES": 64 << 10, "LOG_KEEP_BYTES": 32 << 10, "FLUSH_INTERVAL_MS": 600_000,
    }
    cluster = Cluster(tmp_path, 1)
    (node,) = cluster.nodes
    node.program, node.environment[LIMITS] = PROGRAM, json.dumps(limits)
    with cluster, cluster.client() as client:
        until_s, count = time.monotonic() + CUTS_S, 0
        while count < 400 or time.monotonic() < until_s:
            client.put(f"k{count}", bytes([count % 256]) * 1_000)
            count += 1
        node.kill()
        node.start()
        wait_until("it is back", cluster.complete)
        for n in range(count):
            assert client.get(f"k{n}") == bytes([n % 256]) * 1_000


@dataclass
class Loader:
    """Puts numbered values under one key and reads each back, as fast as answers come."""

    key: str
    attempted: int = 0
    possible: set[int] = field(default_factory=set)
    """What the key may hold: the last acknowledged value, and those of which nothing is known."""
    unknown: set[int] = field(default_factory=set)
    acknowledged: int = 0
    failed: int = 0

    async def run(self, client: dfs.AsyncClient, stop: asyncio.Event) -> None:
        while not stop.is_set():
            self.attempted += 1
            self.possible.add(self.attempted)
            try:
                await client.put(self.key, str(self.attempted).encode(), timeout=5.0)
            except (dfs.Unavailable, dfs.OutcomeUnknown, dfs.DeadlineExceeded):
                self.unknown.add(self.attempted)
                self.failed += 1
                continue
            self.acknowledged += 1
            self.possible = {self.attempted} | self.unknown
            try:
                self.check(await client.get(self.key, timeout=5.0))
            except (dfs.Unavailable, dfs.DeadlineExceeded):
                self.failed += 1

    def check(self, data: bytes) -> None:
        assert int(data) in self.possible, f"{self.key}: {data!r}, possible {self.possible}"


async def test_kill_nodes_under_full_load(tmp_path: Path) -> None:
    """With both cores busy and calls queueing at every node: no acknowledged write is lost, no
    linearizable read misses one, and leaders change because they are killed alone."""
    with running(tmp_path) as cluster:
        stop = asyncio.Event()
        loaders = [Loader(f"load/{number}") for number in range(LOADERS)]
        async with dfs.AsyncClient(*(node.endpoint for node in cluster.nodes)) as client:
            async with asyncio.TaskGroup() as tasks:
                for loader in loaders:
                    tasks.create_task(loader.run(client, stop))
                try:
                    await asyncio.to_thread(_kill_by_turns, cluster, loaders)
                finally:
                    stop.set()
            for loader in loaders:
                loader.check(await client.get(loader.key))
                assert loader.acknowledged > KILLS_UNDER_FULL_LOAD, loader
        await asyncio.to_thread(cluster.agree)


def _kill_by_turns(cluster: Cluster, loaders: list[Loader]) -> None:
    def acknowledged() -> int:
        return sum(loader.acknowledged for loader in loaders)

    for kill in range(KILLS_UNDER_FULL_LOAD):
        victim = cluster.leader() if kill % 2 == 0 else cluster.nodes[kill % 3]
        victim.kill()
        seen = acknowledged()
        wait_until("writes go on", lambda s=seen: acknowledged() > s + 5 * LOADERS)
        victim.start()
        wait_until("the node is back", lambda v=victim: v.status().leader)


def test_kill_all_nodes_at_once(tmp_path: Path) -> None:
    """After kill -9 of every node at the same moment everything acknowledged is there, without
    any manual step."""
    with running(tmp_path) as cluster:
        with cluster.client() as client:
            revisions = {f"a/{i}": client.put(f"a/{i}", str(i).encode()) for i in range(200)}
        for node in cluster.nodes:
            assert node.process is not None
            node.process.kill()
        for node in cluster.nodes:
            node.kill()
            node.start()
        wait_until("the cluster is whole", cluster.complete)
        with cluster.client() as client:
            for key, revision in revisions.items():
                data, stat = client.read(key)
                assert (data, stat.revision) == (key.removeprefix("a/").encode(), revision)
        cluster.agree()
