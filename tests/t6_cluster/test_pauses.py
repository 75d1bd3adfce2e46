"""Nodes that stand still for a while: nobody tells them what they have missed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dfs.nemesis.processes import Node, running, wait_until
from dfs.nemesis.recorder import Recorder

PAUSES = 6


@contextmanager
def standing_still(node: Node) -> Iterator[None]:
    node.stand_still()
    try:
        yield
    finally:
        node.go_on()


def test_leaders_that_stand_still(tmp_path: Path) -> None:
    """Six clients that meet at the same keys and a watcher, leaders that stand still until another
    leads: every acknowledged write is there afterwards, and the calls that waited at the old leader
    get no stale read."""
    with running(tmp_path) as cluster:
        recorder = Recorder(cluster)
        with recorder.at_work():
            for _ in range(PAUSES):
                old = cluster.leader()
                with standing_still(old):
                    others = [node for node in cluster.nodes if node is not old]
                    wait_until("another leads", lambda o=others: any(map(Node.leads, o)))
                    seen = recorder.progress()
                    wait_until("writes go on", lambda s=seen: recorder.progress() > s)
                wait_until("it follows", lambda n=old: n.status().leader not in ("", n.name))
        cluster.agree()
        recorder.check()
