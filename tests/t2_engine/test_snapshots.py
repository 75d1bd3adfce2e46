"""Snapshots and purge by bytes; members that come by a snapshot."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from dfs import _engine

from .nodes import CLUSTER, Node, Refused, cluster, leader, same, wait_until

SMALL = {"snapshot_log_bytes": 256 << 10, "log_keep_bytes": 64 << 10}


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[list[Node]]:
    """Two voters with short logs."""
    with cluster(tmp_path, 2, **SMALL) as nodes:
        yield nodes


def fill(node: Node, count: int = 3_000, prefix: str = "k") -> int:
    """Puts `count` values of 200 bytes; the last index."""
    tickets = [node.begin_put(f"{prefix}{i}", "v" * 200) for i in range(count)]
    return max(int(node.wait(t)) for t in tickets)


def flush(*nodes: Node) -> None:
    """Tells the engines that the stores are on disk."""
    for node in nodes:
        node.engine.durable(node.disk.applied)


def cut(nodes: list[Node], beyond: int = 1_000) -> None:
    """Waits until every log has been purged beyond an index."""

    def purged() -> bool:
        flush(*nodes)
        return all(n.status()["purged"] > beyond for n in nodes)

    wait_until(purged, what="purged logs")


def files(nodes: list[Node]) -> int:
    """Written snapshots, of all nodes, with their notes."""
    return sum(len(list((n.path / n.name / "snapshots").iterdir())) for n in nodes)


def test_the_log_is_cut_behind_snapshot_and_durable_store_only(nodes: list[Node]) -> None:
    fill(nodes[0])
    wait_until(lambda: nodes[0].status()["snapshot"] > 1_000, what="a snapshot")
    assert nodes[0].status()["purged"] == 0, "nothing is durable yet"
    cut(nodes)
    status = nodes[0].status()
    assert status["purged"] < min(status["snapshot"], status["durable"])
    assert status["last_log"] - status["purged"] > 100, "some log is kept"
    assert files(nodes) == 0, "nobody needs a file"


def test_a_restart_after_a_cut_goes_on(nodes: list[Node]) -> None:
    fill(nodes[0])
    cut(nodes)
    for node in nodes:
        node.close()
    for node in nodes:
        node.start()
    found = nodes[0].engine.recovery()
    assert found["first"] == found["purged"] + 1 <= found["last"]
    assert nodes[0].status()["snapshot"] >= found["purged"]
    assert leader(nodes).get("k2999") == "v" * 200


def test_a_member_far_behind_comes_by_a_snapshot(nodes: list[Node], tmp_path: Path) -> None:
    fill(nodes[0])
    cut(nodes)
    other = Node(tmp_path, "node3", **SMALL).start()
    try:
        nodes[0].admit(other)
        same([*nodes, other])
        assert other.status()["snapshots_installed"] == 1
        assert nodes[0].status()["snapshots_sent"] == 1
        assert files(nodes) == 2, "of the one that sent it"
        index = other.put("after", "1")
        assert index > 3_000
        wait_until(lambda: other.status()["durable"] > 1_000, what="an installed state is durable")
        other.close()
        other.start()
        assert other.get("after") == "1"
    finally:
        other.close()


def test_a_snapshot_on_request_is_of_the_present_state(nodes: list[Node]) -> None:
    nodes[0].put("a", "1")
    nodes[0].engine.snapshot(5_000)
    assert nodes[0].status()["snapshot"] == nodes[0].disk.applied
    nodes[0].engine.snapshot(5_000)  # there is one already


def test_a_snapshot_that_fails_does_not_stop_the_node(nodes: list[Node]) -> None:
    nodes[0].put("a", "1")
    nodes[0].write_snapshot = (  # type: ignore[method-assign]
        lambda number, *_: nodes[0].engine.finish(number, (8, "the disk is full", b""))
    )
    with pytest.raises(_engine.EngineError, match="the disk is full"):
        nodes[0].engine.snapshot(5_000)
    assert nodes[0].put("b", "1") > 0
    assert nodes[0].status()["snapshot"] == 0


def test_a_build_that_fails_is_not_tried_for_members_again_at_once(
    nodes: list[Node], tmp_path: Path
) -> None:
    """Raft asks again every few milliseconds. Who asks for a snapshot by hand gets a new attempt,
    and its file goes to the members, too."""
    fill(nodes[0])
    cut(nodes)
    write = nodes[0].write_snapshot
    attempts: list[str] = []

    def fail(number: int, path: str, state: str) -> None:
        attempts.append(path)
        nodes[0].engine.finish(number, (8, "the disk is full", b""))

    nodes[0].write_snapshot = fail  # type: ignore[method-assign]
    other = Node(tmp_path, "node3", **SMALL).start()
    try:
        nodes[0].admit(other, promote=False)
        wait_until(
            lambda: "disk is full; tried again in" in nodes[0].member(other)["error"],
            what="an attempt after the failed one",
        )
        assert len(attempts) == 1
        nodes[0].write_snapshot = write  # type: ignore[method-assign]
        nodes[0].engine.snapshot(5_000)
        same([*nodes, other])
    finally:
        other.close()


def test_a_member_that_is_down_gets_no_file_written(nodes: list[Node], tmp_path: Path) -> None:
    other = Node(tmp_path, "node3", **SMALL).start()
    nodes[0].admit(other, promote=False)
    other.close()
    before = nodes[0].status()["last_log"]
    fill(nodes[0])
    cut(nodes, beyond=before)
    wait_until(
        lambda: nodes[0].member(other)["error"].startswith("snapshot:"), what="an attempt to send"
    )
    assert files(nodes) == 0
    other.start()
    try:
        same([*nodes, other])
        assert files(nodes) == 2, "of the one that sent it"
    finally:
        other.close()


def test_a_leader_that_hangs_under_load_hands_leadership_away(tmp_path: Path) -> None:
    """Also when a new mark is due meanwhile, for which the state machine has to answer."""
    with cluster(tmp_path, 3, snapshot_log_bytes=16 << 10, python_ms_max=1_500) as nodes:
        nodes[0].put("a", "1")
        nodes[0].going.clear()
        try:
            tickets = [nodes[1].begin_put(f"k{i}", "v" * 1_000, 30_000) for i in range(100)]
            wait_until(lambda: not nodes[0].leads(), what="another leader")
            leader(nodes[1:]).put("b", "2")
        finally:
            nodes[0].going.set()
        for ticket in tickets:
            with contextlib.suppress(Refused):  # those whose fate the old leader did not know
                nodes[1].wait(ticket)
        same(nodes)


def test_a_file_goes_when_the_log_behind_it_has_grown(nodes: list[Node], tmp_path: Path) -> None:
    fill(nodes[0])
    nodes[0].engine.snapshot(5_000)
    assert files(nodes) == 2
    fill(nodes[0], 6_000)
    wait_until(lambda: files(nodes) == 0, what="a newer mark")


def test_a_member_that_needs_more_than_the_file_has_gets_another(
    nodes: list[Node], tmp_path: Path
) -> None:
    """A file that is older than what Raft means to send must not be sent."""
    fill(nodes[0])
    nodes[0].engine.snapshot(5_000)
    before = nodes[0].status()["snapshot"]
    fill(nodes[0], 6_000)
    cut(nodes, beyond=before)
    other = Node(tmp_path, "node3", **SMALL).start()
    try:
        nodes[0].admit(other)
        same([*nodes, other])
        assert other.status()["snapshots_installed"] == 1
    finally:
        other.close()


def test_two_members_at_once_come_by_one_snapshot(nodes: list[Node], tmp_path: Path) -> None:
    fill(nodes[0])
    cut(nodes)
    written: list[str] = []
    write = nodes[0].write_snapshot

    def noted(number: int, path: str, state: str) -> None:
        written.append(path)
        write(number, path, state)

    nodes[0].write_snapshot = noted  # type: ignore[method-assign]
    others = [Node(tmp_path, f"node{n}", **SMALL).start() for n in (3, 4)]
    try:
        for other in others:
            nodes[0].admit(other, promote=False)
        same([*nodes, *others])
        assert len(written) == 1
    finally:
        for other in others:
            other.close()


def test_a_store_that_lost_its_tail_is_healed_by_the_snapshot(nodes: list[Node]) -> None:
    """A member whose store fell behind its log's beginning is healed by a snapshot file that it
    has, and the log behind it, if the file reaches as far as the store was recorded as safely on
    disk; else the engine does not start from it."""
    fill(nodes[0])
    cut(nodes)
    nodes[0].engine.snapshot(5_000)
    applied = nodes[0].disk.applied
    nodes[0].close()
    nodes[0].disk.__init__()
    nodes[0].start()
    wait_until(lambda: nodes[0].disk.applied >= applied, what="the snapshot and the log behind it")
    assert nodes[0].disk.data["k0"] == "v" * 200
    same(nodes)
    nodes[0].close()
    for file in (nodes[0].path / nodes[0].name / "snapshots").iterdir():
        file.unlink()
    nodes[0].disk.__init__()
    with pytest.raises(_engine.EngineError, match="the store is empty, and the log up to"):
        nodes[0].start()


def test_a_state_that_cannot_be_installed_stops_the_engine(
    nodes: list[Node], tmp_path: Path
) -> None:
    fill(nodes[0])
    cut(nodes)
    other = Node(tmp_path, "node3", **SMALL)
    other.do = (  # type: ignore[method-assign]
        lambda number, *_: other.engine.finish(number, (15, "bad bytes", b""))
    )
    other.start()
    try:
        nodes[0].admit(other, promote=False)
        wait_until(lambda: other.error, what="the engine's end")
        assert isinstance(other.error, _engine.EngineError)
        assert "bad bytes" in str(other.error)
        assert "start the node again" in str(other.error)
    finally:
        other.close()


def test_a_transfer_that_breaks_goes_on_where_it_was(nodes: list[Node], tmp_path: Path) -> None:
    """What has arrived of the same snapshot is not sent again."""
    fill(nodes[0])
    cut(nodes)
    nodes[0].engine.snapshot(5_000)
    found = nodes[0].engine.recovery()
    whole = Path(found["snapshot"]).read_bytes()
    digest = Path(found["snapshot"] + ".meta").read_bytes()[-32:]
    other = Node(tmp_path, "node3", **SMALL)
    parts = tmp_path / "node3" / "snapshots"
    parts.mkdir(parents=True)
    part = parts / f"{digest.hex()}.part"
    part.write_bytes(whole[: len(whole) // 2])
    other.start()
    try:
        nodes[0].admit(other)
        same([*nodes, other])
        assert other.status()["snapshots_installed"] == 1
        assert not part.exists()
    finally:
        other.close()


def test_a_damaged_part_is_noticed_and_sent_again(nodes: list[Node], tmp_path: Path) -> None:
    fill(nodes[0])
    cut(nodes)
    nodes[0].engine.snapshot(5_000)
    found = nodes[0].engine.recovery()
    digest = Path(found["snapshot"] + ".meta").read_bytes()[-32:]
    other = Node(tmp_path, "node3", cluster=CLUSTER, **SMALL)
    parts = tmp_path / "node3" / "snapshots"
    parts.mkdir(parents=True)
    (parts / f"{digest.hex()}.part").write_bytes(b"\x00" * 1_000)
    other.start()
    try:
        nodes[0].admit(other)
        same([*nodes, other])
        assert other.disk.data["k0"] == "v" * 200
    finally:
        other.close()


def test_a_node_that_lost_its_state_fetches_that_of_another_before_it_starts(
    nodes: list[Node],
) -> None:
    fill(nodes[0])
    cut(nodes)
    one, two = nodes
    same(nodes)
    two.close()
    lost = two.disk.applied
    two.disk.__init__()
    two.open()
    assert "the store is empty" in two.engine.objection(b"")
    for index, words in ((lost + 1_000, f"has the state of log index {lost}"), (lost, "")):
        if words:
            with pytest.raises(_engine.EngineError, match=f"{one.addr}: node1 {words}"):
                two.engine.fetch_snapshot(one.addr, index, 2_000)
        else:
            assert two.engine.fetch_snapshot(one.addr, index, 2_000) == lost
    with pytest.raises(ConnectionError, match="connection refused"):
        two.engine.fetch_snapshot(two.addr, lost, 2_000)
    assert two.engine.fetch_snapshot(one.addr, lost, 2_000) == lost, "once more"
    found = two.engine.recovery()
    text = Path(found["snapshot"]).read_text()
    two.disk.load(text, found["snapshot_log_id"], found["snapshot_membership"])
    assert two.engine.objection(two.disk.log_id) == ""
    two.engine.close()
    two.start()
    assert one.put("after", "1") == lost + 1
    same(nodes)


def test_nobody_gives_a_state_that_it_does_not_trust(nodes: list[Node], tmp_path: Path) -> None:
    nodes[0].put("a", "1")
    nodes[0].engine.snapshot(5_000)
    nodes[0].engine.forget_all(True)
    other = Node(tmp_path, "node3")
    other.open()
    with pytest.raises(_engine.EngineError, match="node1 does not trust its own state"):
        other.engine.fetch_snapshot(nodes[0].addr, 1, 2_000)
    foreign = Node(tmp_path, "node4", cluster=bytes(16))
    foreign.open()
    with pytest.raises(_engine.EngineError, match="belongs to cluster"):
        foreign.engine.fetch_snapshot(nodes[1].addr, 1, 2_000)
    for node in (other, foreign):
        node.engine.close()


def test_a_snapshot_file_that_is_damaged_is_not_sent_but_made_again(
    nodes: list[Node], tmp_path: Path
) -> None:
    """A snapshot file whose bytes have changed on disk is never installed: the sender notices it,
    throws it away and makes another."""
    fill(nodes[0])
    cut(nodes)
    nodes[0].engine.snapshot(5_000)
    path = Path(nodes[0].engine.recovery()["snapshot"])
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    other = Node(tmp_path, "node3", **SMALL).start()
    try:
        nodes[0].admit(other)
        same([*nodes, other])
        assert other.status()["snapshots_installed"] == 1
    finally:
        other.close()
