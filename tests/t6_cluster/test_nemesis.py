"""Campaigns of faults: networks that are cut, lose, delay and reorder; two faults at a time."""

from __future__ import annotations

import os
import random
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

import dfs
from dfs.nemesis.campaign import Campaign, Plan, Report
from dfs.nemesis.faults import CUT, FAULTS
from dfs.nemesis.large import LargeFiles
from dfs.nemesis.network import between, everyone
from dfs.nemesis.switch import Rule
from dfs.nemesis.waiting import Violation, wait_until
from dfs.nemesis.world import Setting, World

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="makes networks and disks: needs root")

PARTITIONS = ("isolate", "deaf", "mute", "ring", "swizzle", "flap")
BAD_NETWORKS = ("loss", "delay", "narrow")


def campaign(root: Path, seed: int, faults: Sequence[str], rounds: int, **more: int) -> Report:
    setting = Setting(
        more.get("nodes", 3), shims=any(FAULTS[name].shims for name in faults),
        mounts=bool(more.get("mounts")),
    )
    plan = Plan(seed, faults, rounds, at_once=more.get("at_once", 1), setting=setting)
    report = Campaign(plan, root, print).run()
    assert report.packets["passed"] > 1_000, report.packets
    return report


class Listing:
    """A client for whom the tree is these keys, at these revisions."""

    def __init__(self, found: dict[str, int]) -> None:
        self._found = found

    def list(self, directory: str) -> list[Any]:
        """What is in the directory."""
        return [
            SimpleNamespace(key=f"{directory}/{name}", stat=SimpleNamespace(revision=revision))
            for name, revision in self._found.items()
        ]


def test_a_transaction_that_is_seen_in_part_is_noticed() -> None:
    large = LargeFiles("epoch")
    large._look(cast("dfs.Client", Listing({"0": 7, "1": 7})))
    assert large.pairs == 1
    for part in ({"0": 7}, {"0": 7, "1": 8}, {}):
        with pytest.raises(Violation, match="a transaction is seen in part: epoch-large/pair has"):
            large._look(cast("dfs.Client", Listing(part)))


def test_power_cuts(tmp_path: Path) -> None:
    """Power cuts of one node and of all at once, under load: every acknowledged write is there
    afterwards, no read is stale, no revision is given twice or goes back, a watcher has heard of
    each change once, and no file of a mount shows what was not committed or goes back."""
    campaign(tmp_path, 5, ("power", "power-all"), 8, mounts=True)


def test_processes_that_stand_still(tmp_path: Path) -> None:
    """Leaders and followers stand still, for longer and shorter than an election takes: calls that
    waited at an old leader get no stale read."""
    campaign(tmp_path, 4, ("pause",), 8)


def test_partitions(tmp_path: Path) -> None:
    """Nodes that are alone, deaf, mute or flap, links that fail one by one: no acknowledged write
    is lost, no read is stale, and writes go on with every majority."""
    report = campaign(tmp_path, 7, PARTITIONS, 12)
    assert report.packets["blocked"] > 100, report.packets


def test_bad_networks(tmp_path: Path) -> None:
    """Packets are lost, repeated, late, overtaken and throttled: slow, and never wrong."""
    report = campaign(tmp_path, 3, (*BAD_NETWORKS, "kill"), 12)
    for what in ("lost", "repeated", "delayed"):
        assert report.packets[what] > 20, report.packets


def test_a_leader_is_replaced_where_each_answer_takes_a_quarter_of_a_second(
    tmp_path: Path,
) -> None:
    """An election needs answers within 0.3 s, and a new connection three of them."""
    slow = Rule(delay_ms=120)
    with ExitStack() as stack:
        world = stack.enter_context(World(tmp_path, Setting(disks=False), random.Random(1)))
        stack.enter_context(world.links(dict.fromkeys(everyone(3), slow)))
        for _ in range(2):
            old = world.cluster.leader()
            old.stand_still()
            others = [node for node in world.nodes if node is not old]
            wait_until("another leads", lambda o=others: any(map(world.leads, o)), 10)
            old.go_on()
            wait_until("it follows", lambda n=old: n.status().leader not in ("", n.name))


def test_a_leader_without_a_majority_is_replaced_by_a_node_that_still_hears_it(
    tmp_path: Path,
) -> None:
    """Two of five nodes are gone, and the leader hears only one of the other two, which hears both:
    that one alone has a majority, and leads within seconds. Whoever loses the majority as a leader
    falls silent, else its last follower would stay with it."""
    setting = Setting(5, disks=False)
    with World(tmp_path, setting, random.Random(1)) as world:
        leader = world.cluster.leader()
        middle, far, *gone = (node for node in world.nodes if node is not leader)
        for node in gone:
            world.kill(node)
        with world.links(
            dict.fromkeys(between([world.number(leader)], [world.number(far)]), CUT)
        ):
            wait_until("the one in the middle leads", lambda: world.leads(middle), 10)
            with middle.client() as client:
                client.put("k", b"v", timeout=10)
        wait_until("it follows", lambda: leader.status().leader == middle.name)


def test_two_faults_at_once(tmp_path: Path) -> None:
    """Kills, power cuts, pauses and partitions, two at a time, on five nodes."""
    faults = ("kill", "kill-all", "power", "power-all", "pause", "isolate", "halves", "loss")
    campaign(tmp_path, 11, faults, 10, nodes=5, at_once=2)


def test_members_that_come_and_go_among_kills(tmp_path: Path) -> None:
    """Members are removed and added again, and lose their disks and are replaced, while another
    fault strikes: no acknowledged write is lost, and no read is stale."""
    campaign(tmp_path, 6, ("remove", "replace", "kill", "isolate"), 8, nodes=5, at_once=2)


def test_disks_and_clocks_that_fail(tmp_path: Path) -> None:
    """Disks are slow, do not answer, are full, fail and tear writes, files are damaged, and the
    clocks of all nodes jump: no acknowledged write is lost, no read is stale or wrong, and every
    node is well again."""
    faults = (
        "slow-disk", "failing-disk", "torn-write", "full-disk", "full-disks", "clocks", "damage",
    )
    report = campaign(tmp_path, 12, faults, 14)
    assert report.counts["disk: error"] + report.counts["disk: torn"] > 0, report.counts
