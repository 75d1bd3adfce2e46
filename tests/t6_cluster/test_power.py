"""Power cuts: only what was synced to the disk is there afterwards."""

from __future__ import annotations

import os
from contextlib import ExitStack
from pathlib import Path

import pytest

from dfs.nemesis.disk import Disk
from dfs.nemesis.processes import Cluster, Node, wait_until
from dfs.nemesis.recorder import Recorder

CUTS_OF_ALL = 4
CUTS_OF_ONE = 4

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="mounts disks: needs root")


def lose_power(nodes: list[Node], disks: dict[str, Disk]) -> None:
    """All nodes stand still before the first disk is gone. Nobody may act on an fdatasync that was
    under way: the kernel ends it without an error, where a machine without power ends nothing."""
    for node in nodes:
        assert not (said := node.complaints()), said
        node.stand_still()
    for node in nodes:
        disks[node.name].cut()
    for node in nodes:
        node.kill()
        disks[node.name].restore()


def test_power_cuts_under_load(tmp_path: Path) -> None:
    """Six clients that meet at the same keys and a watcher, power cuts of all nodes at once and of
    one: every acknowledged write is there afterwards, no read is stale, no revision is given twice
    or goes back, the watcher has heard of each change once."""
    cluster = Cluster(tmp_path)
    with ExitStack() as stack:
        disks = {}
        for node in cluster.nodes:
            disk = Disk(node.root / "image", node.root / "disk")
            disks[node.name] = stack.enter_context(disk)
            node.data = disk.mount / "data"
            node.data.mkdir()
        stack.enter_context(cluster)
        recorder = Recorder(cluster)
        with recorder.at_work():
            for cut in range(CUTS_OF_ALL + CUTS_OF_ONE):
                one = cluster.leader() if cut % 4 == 1 else cluster.nodes[cut % 3]
                victims = cluster.nodes if cut % 2 == 0 else [one]
                lose_power(victims, disks)
                for node in victims:
                    node.start()
                seen = recorder.progress()
                wait_until("writes go on", lambda s=seen: recorder.progress() > s)
                wait_until("all are back", lambda: all(n.status().leader for n in cluster.nodes))
        cluster.agree()
        recorder.check()
