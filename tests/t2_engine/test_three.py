"""Three nodes: replication, forwarding, failover, membership."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from dfs import _engine

from .nodes import CLUSTER, FAILURES, Node, Refused, cluster, leader, same, wait_until


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[list[Node]]:
    """Three voters; the first leads."""
    with cluster(tmp_path, 3) as nodes:
        yield nodes


def test_what_the_leader_puts_is_on_all(nodes: list[Node]) -> None:
    for i in range(100):
        nodes[0].put(f"k{i}", str(i))
    same(nodes)
    assert nodes[2].disk.data["k99"] == "99"


def test_a_follower_takes_puts_and_gets_the_result_of_apply(nodes: list[Node]) -> None:
    index = nodes[1].put("a", "1")
    assert nodes[0].get("a") == "1"
    assert nodes[1].put("a", "2") > index


def test_a_follower_reads_what_another_has_just_put(nodes: list[Node]) -> None:
    """A read is linearizable on every node: it shows every write that was acknowledged, by
    whichever node, before the read began."""
    for i in range(50):
        nodes[i % 3].put("a", str(i))
        assert nodes[(i + 1) % 3].get("a") == str(i)


def test_many_at_once_on_all_nodes(nodes: list[Node]) -> None:
    tickets = [(n, n.begin_put(f"{n.name}-{i}", str(i))) for i in range(300) for n in nodes]
    indexes = [int(n.wait(t)) for n, t in tickets]
    assert len(set(indexes)) == 900
    same(nodes)


def test_large_values_pass_from_any_node(nodes: list[Node]) -> None:
    value = "x" * (5 << 20)
    for node in nodes:
        node.put(node.name, value)
    same(nodes)
    assert nodes[0].disk.data["node3"] == value


def test_a_failure_of_apply_comes_back_from_the_leader(nodes: list[Node]) -> None:
    refusal = (9, "not like this", b"why")
    for node in nodes:
        node.disk.apply = _refusing(node, refusal)  # type: ignore[method-assign]
    with pytest.raises(Refused) as refused:
        nodes[1].put("a", "1")
    assert refused.value.args == refusal


def _refusing(node: Node, refusal: tuple[int, str, bytes]):  # type: ignore[no-untyped-def]
    def apply(entries: list[tuple[int, bytes, bool]]) -> list[object]:
        node.disk.applied = entries[-1][0]
        return [refusal if wanted else None for _, _, wanted in entries]

    return apply


def test_a_leader_that_ends_is_replaced_and_nothing_is_lost(nodes: list[Node]) -> None:
    for i in range(100):
        nodes[0].put(f"k{i}", str(i))
    nodes[0].close()
    next_leader = leader(nodes[1:])
    assert next_leader.get("k99") == "99"
    nodes[2].put("after", "1")
    nodes[0].start()
    assert nodes[0].get("after") == "1"
    same(nodes)


def test_leadership_goes_where_it_is_sent(nodes: list[Node]) -> None:
    nodes[0].engine.transfer_leader(nodes[2].id, 5_000)
    assert leader(nodes) is nodes[2]
    nodes[2].engine.transfer_leader(0, 5_000)
    assert leader(nodes) is not nodes[2]
    with pytest.raises(_engine.EngineError, match="is not the leader"):
        nodes[2].engine.transfer_leader(nodes[0].id, 1_000)


def test_nobody_that_is_gone_is_asked_to_lead(nodes: list[Node]) -> None:
    """So the last one that is stopped does not wait for the others."""
    for other in nodes[1:]:
        other.close()
    with pytest.raises(_engine.EngineError, match="no other voter in reach"):
        nodes[0].engine.transfer_leader(0, 1_000)


def test_drain_hands_leadership_away(nodes: list[Node]) -> None:
    term = nodes[0].status()["term"]
    nodes[0].engine.drain(5_000)
    assert leader(nodes) is not nodes[0]
    assert nodes[0].status()["term"] == term + 1


def test_puts_go_on_through_a_change_of_leader(nodes: list[Node]) -> None:
    tickets = []
    for i in range(300):
        tickets.append((nodes[1], nodes[1].begin_put(f"k{i}", str(i))))
        if i == 100:
            nodes[0].engine.transfer_leader(nodes[2].id, 5_000)
    for node, ticket in tickets:
        node.wait(ticket)
    same(nodes)
    assert len(nodes[0].disk.data) == 300


def test_without_a_quorum_a_put_says_who_is_silent(nodes: list[Node]) -> None:
    nodes[0].put("a", "1")
    for node in nodes[1:]:
        node.close()
    # While the lease lasts the leader takes it and cannot know what becomes of it.
    with pytest.raises(Refused, match=r"no_leader|outcome_unknown"):
        nodes[0].put("b", "1", timeout_ms=1_000)
    with pytest.raises(Refused) as refused:
        nodes[0].put("b", "1", timeout_ms=2_000)
    code, text, details = refused.value.args
    assert code == 14
    assert details.startswith(FAILURES["no_leader"][2])
    assert "node2 silent for" in text
    assert "(connection refused)" in text
    assert "2 of 3 voters are needed" in text
    with pytest.raises(Refused, match="no_leader"):
        nodes[0].barrier(timeout_ms=500)


def test_a_member_is_added_promoted_and_removed(nodes: list[Node], tmp_path: Path) -> None:
    other = Node(tmp_path, "node4").start()
    try:
        nodes[0].admit(other, promote=False)
        nodes[0].admit(other, promote=False)  # again: nothing to do
        assert not nodes[0].member(other)["voter"]
        nodes[0].put("a", "1")
        wait_until(lambda: other.disk.data.get("a") == "1")
        assert other.status()["role"] == "learner"
        nodes[0].admit(other)
        assert nodes[0].member(other)["voter"]
        assert other.put("b", "1") > 0
        nodes[0].remove(other)
        assert not nodes[0].member(other)
        nodes[0].remove(other)
    finally:
        other.close()


def test_a_member_may_move_to_another_address(nodes: list[Node]) -> None:
    nodes[2].close()
    nodes[2].addr = Node(nodes[2].path, "nobody").addr
    nodes[2].start()
    nodes[0].admit(nodes[2], promote=False)
    nodes[0].put("a", "1")
    same(nodes)
    assert nodes[0].member(nodes[2])["voter"]


def test_a_name_belongs_to_one_data_directory(nodes: list[Node], tmp_path: Path) -> None:
    twin = Node(tmp_path / "elsewhere", "node2").start()
    try:
        with pytest.raises(_engine.EngineError, match="two members would have one name"):
            nodes[0].admit(twin)
    finally:
        twin.close()


def test_a_wiped_node_neither_votes_nor_appends(nodes: list[Node], tmp_path: Path) -> None:
    """A wiped node that comes back under its name and address neither votes nor takes entries: it
    has another id, and the others refuse it."""
    nodes[0].put("a", "1")
    nodes[2].close()
    wiped = Node(tmp_path / "wiped", "node3")
    wiped.addr = nodes[2].addr
    wiped.start()
    try:
        nodes[0].put("b", "1")
        wait_until(lambda: "dfs member replace node3" in nodes[0].member(nodes[2])["error"])
        assert wiped.status()["last_log"] == 0
        assert wiped.status()["term"] == 0
        wiped.engine.set_cluster(CLUSTER)
        nodes[0].remove(nodes[2])
        nodes[0].admit(wiped)
        assert wiped.get("b") == "1"
    finally:
        wiped.close()
        nodes[2].start()  # so that it can be closed as the others


def test_another_cluster_is_refused_with_a_sentence(nodes: list[Node], tmp_path: Path) -> None:
    foreign = Node(tmp_path, "foreign", cluster=bytes(16)).start()
    try:
        with pytest.raises(_engine.EngineError, match="node1 belongs to cluster 00010203-0405"):
            foreign.engine.ask(nodes[0].addr, b"x", 2_000)
        nodes[0].admit(foreign, promote=False)
        wait_until(lambda: "foreign belongs to cluster" in nodes[0].member(foreign)["error"])
        assert foreign.status()["last_log"] == 0
    finally:
        foreign.close()


def test_questions_are_answered_by_python(nodes: list[Node], tmp_path: Path) -> None:
    assert nodes[1].engine.ask(nodes[0].addr, b"hello", 2_000) == b"node2:hello"
    fresh = Node(tmp_path, "fresh", cluster=b"").start()
    try:
        assert fresh.engine.ask(nodes[0].addr, b"hello", 2_000) == b":hello"
        nodes[0].answer = lambda _, body: (9, f"no {body.decode()}", b"")
        with pytest.raises(_engine.EngineError, match="no hello"):
            fresh.engine.ask(nodes[0].addr, b"hello", 2_000)
        nodes[0].going.clear()
        with pytest.raises(TimeoutError, match=nodes[0].addr):
            fresh.engine.ask(nodes[0].addr, b"hello", 300)
        with pytest.raises(ConnectionError, match=r"127\.0\.0\.1:1: connection refused"):
            fresh.engine.ask("127.0.0.1:1", b"hello", 1_000)
    finally:
        nodes[0].going.set()
        fresh.close()


def test_a_leader_whose_python_hangs_hands_leadership_away(nodes: list[Node]) -> None:
    nodes[0].put("a", "1")
    nodes[0].going.clear()
    ticket = nodes[1].begin_put("b", "1")
    wait_until(lambda: not nodes[0].leads(), what="another leader")
    assert leader(nodes[1:]).get("a") == "1"
    nodes[0].going.set()
    try:
        nodes[1].wait(ticket)
    except Refused as refused:
        assert refused.args[0] == 14  # noqa: PT017
    same(nodes)


def test_few_dials_while_a_member_is_down(nodes: list[Node]) -> None:
    """openraft dials again at once; the engine pauses."""
    nodes[2].close()
    before = nodes[0].status()["dials"]
    for i in range(400):
        nodes[0].put(f"k{i}", str(i))
    nodes[0].barrier()
    assert nodes[0].status()["dials"] - before < 500
    nodes[2].start()
