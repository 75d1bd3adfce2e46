"""Nodes that are gone, or started again: how soon one leads, and that nobody is disturbed."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from .nodes import Node, cluster, leader, same, wait_until
from .relay import Network

SLOW = {"election_ms_min": 60_000, "election_ms_max": 90_000}
"""Nobody is elected by a timeout while a test runs."""


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[list[Node]]:
    """Three voters that would wait long for a leader."""
    with cluster(tmp_path, 3, **SLOW) as nodes:
        yield nodes


def test_when_all_were_started_again_one_leads_without_an_election_timeout(
    nodes: list[Node],
) -> None:
    nodes[0].put("before", "1")
    for node in nodes:
        node.close()
    for node in nodes:
        node.start()
    assert leader(nodes).get("before") == "1"
    assert nodes[2].put("after", "1") > 0
    same(nodes)


def test_when_the_leader_does_not_come_back_the_others_do_without_it_at_once(
    nodes: list[Node],
) -> None:
    """When all nodes have stopped, a leader is elected as soon as a majority of them runs again,
    without an election timeout, whether or not the leader of before is among them."""
    nodes[0].put("before", "1")
    assert nodes[0].leads()
    for node in nodes:
        node.close()
    for node in nodes[1:]:
        node.start()
    assert leader(nodes[1:]).get("before") == "1"
    assert nodes[2].put("after", "1") > 0
    same(nodes[1:])


def test_a_member_alone_knows_no_leader_after_its_start(nodes: list[Node]) -> None:
    nodes[0].put("before", "1")
    same(nodes)
    assert nodes[1].status()["leader"] == nodes[0].id
    for node in nodes:
        node.close()
    nodes[1].start()
    wait_until(lambda: nodes[1].status()["role"] == "follower", what="Raft runs")
    assert nodes[1].status()["leader"] == 0
    nodes[2].start()  # for the order in which they are closed
    leader(nodes[1:])


def test_a_member_that_was_started_again_does_not_disturb_the_leader(nodes: list[Node]) -> None:
    nodes[0].put("before", "1")
    term = nodes[0].status()["term"]
    nodes[1].close()
    nodes[1].start()
    wait_until(lambda: nodes[1].status()["leader"] == nodes[0].id, what="the leader is found")
    assert nodes[1].get("before") == "1"
    assert [node.status()["term"] for node in nodes] == [term] * 3
    assert nodes[0].leads()


def test_a_store_behind_its_log_is_brought_up_after_the_start(nodes: list[Node]) -> None:
    nodes[0].put("before", "1")
    same(nodes)
    for node in nodes:
        node.close()
        node.disk.__init__()
    for node in nodes:
        node.start()
    assert leader(nodes).get("before") == "1"
    same(nodes)


@pytest.mark.parametrize("count", [3, 5])
def test_a_leader_whose_process_is_gone_is_replaced_without_an_election_timeout(
    tmp_path: Path, count: int
) -> None:
    """A leader whose process is gone is replaced at once; one that is heard no more, though its
    machine may be there, when an election timeout is over."""
    with cluster(tmp_path, count, **SLOW) as nodes:
        nodes[0].put("before", "1")
        nodes[0].close()
        new = leader(nodes[1:])
        assert new.get("before") == "1"
        assert new.put("after", "1") > 0
        assert new.status()["term"] == 2
        same(nodes[1:])


def test_a_leader_that_is_there_keeps_its_place_when_its_connections_break(
    tmp_path: Path, network: Network
) -> None:
    with cluster(tmp_path, 3, **SLOW) as nodes:
        nodes[0].put("before", "1")
        term, sessions = nodes[0].status()["term"], nodes[0].status()["sessions"]
        network.cut()
        wait_until(lambda: nodes[0].status()["sessions"] > sessions + 1, what="new connections")
        assert nodes[0].put("after", "1") > 0
        same(nodes)
        assert nodes[0].leads()
        assert [node.status()["term"] for node in nodes] == [term] * 3
