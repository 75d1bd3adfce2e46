"""kill -9 of nodes under load: nothing that was acknowledged is lost."""

from __future__ import annotations

import itertools
import threading
from dataclasses import dataclass, field
from pathlib import Path

import dfs

from .cluster import Cluster, running, wait_until

WRITERS = 6
KILLS = 10
KEYS_PER_WRITER = 20


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
