"""kill -9 of nodes under load: nothing that was acknowledged is lost."""

from __future__ import annotations

import asyncio
import itertools
import threading
from dataclasses import dataclass, field
from pathlib import Path

import dfs

from .cluster import Cluster, running, wait_until

WRITERS = 6
KILLS = 10
KEYS_PER_WRITER = 20
LOADERS = 96
"""Tasks that put and get in turn: more than two cores can serve without queues."""
KILLS_UNDER_FULL_LOAD = 6


@dataclass
class Writer:
    """Puts numbered values under its own keys one by one; remembers what was acknowledged."""

    number: int
    cluster: Cluster
    acknowledged: dict[str, tuple[int, int]] = field(default_factory=dict)
    attempted: dict[str, int] = field(default_factory=dict)
    failed: int = 0

    def run(self, stop: threading.Event) -> None:
        with self.cluster.client() as client:
            for value in itertools.count(1):
                if stop.is_set():
                    return
                key = f"writer{self.number}/key{value % KEYS_PER_WRITER}"
                self.attempted[key] = value
                try:
                    revision = client.put(key, str(value).encode(), timeout=5.0)
                except (dfs.Unavailable, dfs.OutcomeUnknown, dfs.DeadlineExceeded):
                    self.failed += 1
                else:
                    self.acknowledged[key] = (value, revision)

    def count(self) -> int:
        return len(self.acknowledged)


def progress(writers: list[Writer]) -> int:
    """The newest revision that any writer has seen acknowledged."""
    return max((r for w in writers for _, r in list(w.acknowledged.values())), default=0)


def check(cluster: Cluster, writers: list[Writer]) -> int:
    """Every key holds its last acknowledged value, or a later attempt of the same writer."""
    checked = 0
    with cluster.client() as client:
        for writer in writers:
            for key, (value, revision) in writer.acknowledged.items():
                data, stat = client.read(key)
                assert stat.revision >= revision, f"{key}: revision {stat.revision} < {revision}"
                assert value <= int(data) <= writer.attempted[key], (
                    f"{key}: {data!r}, acked {value}"
                )
                checked += 1
    return checked


def test_kill_nodes_under_load(tmp_path: Path) -> None:
    """Six writers, ten kills of changing nodes: every acknowledged write is there afterwards; all
    nodes have the same state hash at the same index."""
    with running(tmp_path) as cluster:
        writers = [Writer(n, cluster) for n in range(WRITERS)]
        stop = threading.Event()
        threads = [threading.Thread(target=w.run, args=(stop,)) for w in writers]
        for thread in threads:
            thread.start()
        try:
            for kill in range(KILLS):
                victim = cluster.leader() if kill % 2 == 0 else cluster.nodes[kill % 3]
                victim.kill()
                seen = progress(writers)
                wait_until("writes go on without the node", lambda s=seen: progress(writers) > s)
                victim.start()
                wait_until("the node is back", lambda v=victim: v.status().leader)
        finally:
            stop.set()
            for thread in threads:
                thread.join()
        wait_until("the cluster is whole", cluster.complete)
        assert check(cluster, writers) == WRITERS * KEYS_PER_WRITER
        hashes = cluster.same_state()
        assert len(set(hashes.values())) == 1, hashes


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
        await asyncio.to_thread(wait_until, "the cluster is whole", cluster.complete)
        hashes = await asyncio.to_thread(cluster.same_state)
        assert len(set(hashes.values())) == 1, hashes


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
        hashes = cluster.same_state()
        assert len(set(hashes.values())) == 1, hashes
