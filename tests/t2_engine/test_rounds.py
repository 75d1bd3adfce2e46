"""Rounds of reads: a leader answers only while a majority still holds to it."""

from pathlib import Path

import pytest

from .nodes import Node, Refused, cluster, leader, same, wait_until
from .relay import Network


def by_raft(node: Node) -> int:
    """Rounds that saved votes alone did not settle."""
    return int(node.status()["rounds_by_raft"])


def test_a_leader_that_was_replaced_behind_its_back_shows_nothing_old(
    tmp_path: Path, network: Network
) -> None:
    """A leader that was cut off answers no linearizable read until it knows who leads now, and then
    with what was written meanwhile."""
    with cluster(tmp_path, 3, no_leader_ms_max=8_000) as nodes:
        old, *others = nodes
        old.put("a", "old")
        assert old.get("a") == "old"
        network.hold(old.id)
        new = leader(others)
        new.put("a", "new")
        assert old.leads(), "it has heard of nothing"
        with pytest.raises(Refused, match="no_leader"):
            old.barrier(timeout_ms=1_000)
        rounds, slow = old.status()["rounds"], by_raft(old)
        ticket = old.ticket(lambda t: old.engine.barrier(t, 0, 8_000))
        wait_until(lambda: old.status()["rounds"] > rounds, what="a round")
        network.hold(None)  # the questions of this round are answered now
        old.wait(ticket)
        assert old.disk.data["a"] == "new"
        assert by_raft(old) > slow
        same(nodes)


def test_a_round_needs_one_of_two_others(tmp_path: Path) -> None:
    with cluster(tmp_path, 3) as nodes:
        nodes[0].put("a", "0")
        assert nodes[0].get("a") == "0"
        for down, up in ((nodes[1], nodes[2]), (nodes[2], nodes[1])):
            before, rounds = by_raft(nodes[0]), nodes[0].status()["rounds"]
            down.close()
            for i in range(20):
                up.put("a", str(i))
                assert nodes[0].get("a") == str(i)
                assert up.get("a") == str(i)
            assert by_raft(nodes[0]) == before, "one peer's word was enough"
            assert nodes[0].status()["rounds"] >= rounds + 40
            down.start()
            same(nodes)


def test_a_silent_peer_is_replaced_by_another(tmp_path: Path, network: Network) -> None:
    with cluster(tmp_path, 3) as nodes:
        nodes[0].put("a", "0")
        nodes[0].barrier()
        for held in nodes[1:]:
            before = by_raft(nodes[0])
            network.hold(held.id)
            for i in range(20):
                nodes[0].put("a", str(i))
                assert nodes[0].get("a") == str(i)
            assert by_raft(nodes[0]) == before
            network.hold(None)
            same(nodes)


def test_a_round_counts_the_voters_of_now(tmp_path: Path) -> None:
    other = Node(tmp_path, "node4").start()
    with cluster(tmp_path, 3) as nodes:
        try:
            nodes[0].admit(other)
            nodes[0].put("a", "4")
            before = by_raft(nodes[0])
            assert nodes[0].get("a") == "4"
            assert other.get("a") == "4"
            nodes[1].close()
            assert nodes[0].get("a") == "4"
            assert by_raft(nodes[0]) == before
            other.close()
            with pytest.raises(Refused, match=r"no_leader.* 3 of 4 voters are needed"):
                nodes[0].barrier(timeout_ms=1_000)
            nodes[1].start()
            assert leader([nodes[0], nodes[1], nodes[2]]).get("a") == "4"
            leader(nodes).remove(other)
            nodes[1].close()
            assert leader([nodes[0], nodes[2]]).get("a") == "4"
            nodes[1].start()
        finally:
            other.close()
