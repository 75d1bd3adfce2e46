"""One node alone."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from dfs import _engine, limits

from .nodes import FAILURES, Node, Refused, cluster, wait_until


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    """A cluster of one."""
    with cluster(tmp_path, 1) as nodes:
        yield nodes[0]


def test_a_put_returns_its_index_and_is_read_back(node: Node) -> None:
    first = node.put("a", "1")
    assert node.put("a", "2") == first + 1
    assert node.get("a") == "2"


def test_the_leader_stamps_its_time_in_nanoseconds(node: Node) -> None:
    before = time.time_ns()
    node.put("a", "1")
    assert before <= node.disk.stamps[-1] <= time.time_ns()


def test_what_was_put_is_there_after_a_restart(node: Node) -> None:
    for i in range(50):
        node.put(f"k{i}", str(i))
    node.close()
    node.disk.__init__()  # the store loses everything: the log replays it
    node.start()
    assert node.get("k49") == "49"
    assert len(node.disk.data) == 50


def test_a_restart_goes_on_where_the_store_is(node: Node) -> None:
    last = node.put("a", "1")
    node.close()
    assert node.disk.applied >= last
    node.start()
    assert node.put("b", "2") > last
    assert node.disk.data == {"a": "1", "b": "2"}


def test_a_restarted_leader_begins_a_new_term(node: Node) -> None:
    """In its old term it would give away log ids again that others have seen."""
    term = node.status()["term"]
    node.close()
    node.start()
    wait_until(node.leads)
    assert node.status()["term"] > term


def test_many_at_once_share_batches(node: Node) -> None:
    tickets = [node.begin_put(f"k{i}", str(i)) for i in range(2_000)]
    indexes = [int(node.wait(t)) for t in tickets]
    assert len(set(indexes)) == 2_000
    assert max(node.batches) > 10


def test_a_barrier_with_a_revision_waits_for_just_that(node: Node) -> None:
    index = node.put("a", "1")
    node.barrier(index)
    with pytest.raises(Refused) as refused:
        node.barrier(index + 100, timeout_ms=200)
    assert refused.value.args[0] == FAILURES["deadline"][0]
    assert refused.value.args[1].startswith(f"deadline: revision {index + 100}")


def test_initialize_twice_changes_nothing(node: Node) -> None:
    before = node.status()
    node.engine.initialize(1_000)
    assert node.status()["last_log"] == before["last_log"]


def test_status_says_who_is_who(node: Node) -> None:
    status = node.status()
    assert status["role"] == "leader"
    assert status["leader"] == status["id"] == node.id
    (me,) = status["members"]
    assert (me["name"], me["raft"], me["voter"], me["error"]) == ("node1", node.addr, True, "")


def test_a_node_that_belongs_to_nothing_says_so(tmp_path: Path) -> None:
    node = Node(tmp_path, "fresh", no_leader_ms_max=300).start()
    try:
        assert node.status()["role"] == "fresh"
        with pytest.raises(Refused) as refused:
            node.put("a", "1")
        code, text, details = refused.value.args
        assert (code, text) == (14, "no_leader: fresh belongs to no cluster yet")
        assert details.startswith(FAILURES["no_leader"][2])
        with pytest.raises(Refused, match="no_leader"):
            node.barrier()
    finally:
        node.close()


def test_a_directory_has_one_process(node: Node) -> None:
    other = Node(node.path, node.name)
    with pytest.raises(BlockingIOError, match="another process has the data directory"):
        other.open()


def test_a_port_in_use_is_named(node: Node, tmp_path: Path) -> None:
    other = Node(tmp_path, "other")
    other.addr = node.addr
    other.open()
    with pytest.raises(OSError, match=node.addr) as error:
        other.engine.start(b"", b"")
    assert error.value.errno == 98
    other.engine.close()


def test_unknown_options_and_missing_failures_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="heartbeat"):
        Node(tmp_path, "a", heartbeat=1).open()
    assert _engine.OPTIONS["heartbeat_ms"] == 50
    del FAILURES["no_leader"]
    try:
        with pytest.raises(ValueError, match="no_leader"):
            Node(tmp_path, "a").open()
    finally:
        FAILURES["no_leader"] = (14, "no_leader", b"details of no_leader")


def test_defaults_are_those_of_limits() -> None:
    """Rust has its own table, so that it runs without Python; the reasons stand in limits."""
    own = {"insecure", "threads"}
    expected = {n: getattr(limits, n.upper()) for n in _engine.OPTIONS if n not in own}
    assert {n: v for n, v in _engine.OPTIONS.items() if n not in own} == expected


def test_a_store_that_went_back_is_refused(node: Node) -> None:
    """A store that lost what was recorded as safely on disk is not started from; an empty one is,
    while the log has everything since the beginning."""
    node.put("a", "1")
    old = node.disk.dump(), node.disk.log_id, node.disk.membership
    index = node.put("b", "1")
    node.engine.durable(index)
    wait_until(lambda: node.status()["durable"] == index)
    node.close()
    node.disk.load(*old)
    node.open()
    assert f"safe on disk up to {index}" in node.engine.objection(node.disk.log_id)
    with pytest.raises(_engine.EngineError, match=f"safe on disk up to {index}"):
        node.engine.start(node.disk.log_id, node.disk.membership)
    node.engine.close()
    node.disk.__init__()
    node.start()
    assert node.get("b") == "1"


def test_a_store_of_another_log_is_refused(node: Node) -> None:
    """A store that has applied another entry than the log has at its index is not started from."""
    node.put("a", "1")
    node.close()
    log_id = node.disk.log_id
    term, leader, index = log_id[:8], log_id[8:16], log_id[16:]
    node.disk.log_id = term[:-1] + bytes([term[-1] + 1]) + leader + index
    node.open()
    with pytest.raises(_engine.EngineError, match="it is another's"):
        node.engine.start(node.disk.log_id, node.disk.membership)
    node.engine.close()
    node.disk.log_id = log_id
    node.start()


def test_results_for_a_batch_that_is_not_out_are_refused(tmp_path: Path) -> None:
    node = Node(tmp_path, "a")
    node.open()
    with pytest.raises(ValueError, match="batch 7"):
        node.engine.step([(7, [])], [], [], [], [], 10, 0)
    assert node.engine.step([], [], [], [], [], 10, 0) == ([], [], [], [], [])
    node.engine.close()
    with pytest.raises(_engine.EngineError, match="closed"):
        node.engine.step([], [], [], [], [], 10, 0)
