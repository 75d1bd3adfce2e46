"""How nodes find together: alone, by peers, by a full list; who is refused and who waits."""

import asyncio
import itertools
import json

import pytest

from dfs.errors import FailedPrecondition, Misconfigured, NotAMember, Unavailable
from dfs.identity import open_identity

from .conftest import REMOVED, wait_until

LIST = ("node1", "node2", "node3")


def stored(cluster, name):
    return json.loads((cluster.root / name / "identity.json").read_text())


async def test_alone_it_is_a_cluster_of_one(any_cluster):
    one = await any_cluster.start("node1")
    await wait_until(lambda: one.role() == "leader")
    assert stored(any_cluster, "node1")["cluster"] == one.node.cluster.hex()
    assert await one.put("k") > 0


async def test_three_nodes_join_one_after_the_other_and_replicate(any_cluster):
    one, two, three = await any_cluster.three()
    assert one.node.cluster == two.node.cluster == three.node.cluster
    revision = await three.put("k", b"v")
    for member in (one, two, three):
        assert await member.get("k") == b"v"
        assert await member.get("k", local=True, min_revision=revision) == b"v"
    assert one.store.state_hash == two.store.state_hash == three.store.state_hash


async def test_full_list_makes_one_cluster_whatever_the_order(any_cluster):
    """Fresh nodes that are started with the same full list of peers make one cluster, in whatever
    order they start."""
    three = await any_cluster.start("node3", *LIST, join=False)
    two = await any_cluster.start("node2", *LIST, join=False)
    one = await any_cluster.start("node1", *LIST, join=False)
    members = one, two, three
    await asyncio.gather(*(member.joining for member in members))
    assert len({member.node.cluster for member in members}) == 1
    await wait_until(lambda: all(member.votes() for member in members))
    await one.put("k", b"v")
    assert await three.get("k") == b"v"


@pytest.mark.parametrize("order", list(itertools.permutations(LIST)), ids="-".join)
async def test_nobody_waits_to_ask_again_when_somebody_tells_him(cluster, monkeypatch, order):
    monkeypatch.setattr("dfs.node.joining.JOIN_RETRY_MS", 3_600_000)
    members = [await cluster.start(name, *LIST, join=False) for name in order]
    async with asyncio.timeout(20):
        await asyncio.gather(*(member.joining for member in members))
    assert len({member.node.cluster for member in members}) == 1


async def test_lists_of_the_others_make_one_cluster(any_cluster):
    """Each node may be given just the others: with itself, all have the same list."""
    members = [
        await any_cluster.start(name, *(n for n in LIST if n != name), join=False) for name in LIST
    ]
    await asyncio.gather(*(member.joining for member in members))
    assert len({member.node.cluster for member in members}) == 1
    await wait_until(lambda: all(member.votes() for member in members))


async def test_the_first_of_the_list_waits_for_all_the_others(cluster, caplog):
    caplog.set_level("INFO")
    one = await cluster.start("node1", *LIST, join=False)
    await wait_until(lambda: "waiting for" in caplog.text)
    assert "node2:1: connection refused; node3:1: connection refused" in caplog.text
    assert "then this node starts the cluster" in caplog.text
    await cluster.start("node2", *LIST, join=False)
    await wait_until(lambda: "waiting for node3:1: connection refused;" in caplog.text)
    assert one.role() == "fresh"
    await cluster.start("node3", *LIST, join=False)
    await one.joining


async def test_lists_that_differ_make_no_two_clusters(cluster, caplog):
    caplog.set_level("INFO")
    one = await cluster.start("node1", "node1", "node2", join=False)
    two = await cluster.start("node2", "node2", "node3", join=False)
    waiting = "with the same peers as this node (it has node2:1, node3:1)"
    await wait_until(lambda: waiting in caplog.text)
    assert not cluster.network.clusters
    assert not one.joining.done()
    assert not two.joining.done()


async def test_the_first_of_the_list_joins_a_cluster_that_is_there(any_cluster):
    two = await any_cluster.start("node2")
    one = await any_cluster.start("node1", *LIST)
    assert one.node.cluster == two.node.cluster


async def test_one_that_has_data_but_no_cluster_yet_is_waited_for(cluster, caplog, monkeypatch):
    """Its start was interrupted: it will know its cluster in a moment."""
    caplog.set_level("INFO")
    two = await cluster.start("node2", *LIST[:2], join=False)
    two.engine.initialize(0)
    two.joining.cancel()
    one = await cluster.start("node1", *LIST[:2], join=False)
    await wait_until(lambda: "waiting for node2 to be in a cluster" in caplog.text)
    assert one.role() == "fresh"
    again = asyncio.ensure_future(two.node.become_member())
    await asyncio.gather(one.joining, again)
    assert one.node.cluster == two.node.cluster


async def test_a_cluster_that_cannot_take_it_in_yet_is_waited_for(cluster, caplog):
    """It never starts a second cluster beside one that is there."""
    caplog.set_level("INFO")
    two = await cluster.start("node2")
    cluster.network.depose(two.engine)
    one = await cluster.start("node1", *LIST[:2], join=False)
    await wait_until(lambda: "waiting for node2 to take this node in" in caplog.text)
    assert "knows no leader at the moment" in caplog.text
    assert one.role() == "fresh"
    cluster.network.elect(two.engine)
    await one.joining
    assert one.node.cluster == two.node.cluster


async def test_joining_waits_for_the_peer(any_cluster, caplog):
    caplog.set_level("INFO")
    two = await any_cluster.start("node2", "node1", join=False)
    waiting = f"waiting for {any_cluster.at('node1')}"
    await wait_until(lambda: waiting in caplog.text)
    assert caplog.text.count(waiting) == 1
    await any_cluster.start("node1")
    await two.joining


async def test_a_wiped_node_waits_until_it_may_take_its_old_place(any_cluster, caplog):
    """A node whose data directory was wiped is not let in under its old name: it waits and says
    what to type, and leaves nothing on disk when it is stopped. `dfs member replace`, on whichever
    node, removes its former self and takes it in, and it catches up and votes."""
    caplog.set_level("INFO")
    one, two, three = await any_cluster.three()
    before = one.engine.status()["config"]
    await two.stop()
    again = await any_cluster.start("node2", "node1", data="wiped", join=False)
    await wait_until(lambda: "run `dfs member replace node2` on any machine" in caplog.text)
    await again.stop()
    assert not (any_cluster.root / "wiped").exists()
    again = await any_cluster.start("node2", "node1", data="wiped", join=False)
    assert one.engine.status()["config"] == before
    await wait_until(lambda: caplog.text.count("run `dfs member replace node2`") > 1)
    revision = await one.put("k", b"v")
    found = await three.node.operate({"op": "replace", "name": "node2"})
    assert found["plan"]["summary"].startswith("node2 is removed, and the empty node2 at ")
    await again.joining
    await wait_until(again.votes)
    assert await again.get("k", min_revision=revision) == b"v"
    assert len(one.node.members()) == 3


async def test_address_of_another_member_is_refused(cluster):
    one, _, _ = await cluster.three()
    with pytest.raises(NotAMember, match="node2:1 is already the address of member node2"):
        await one.node.operate(
            {"op": "join", "name": "node9", "id": 9, "raft": "node2:1", "grpc": "x"}
        )


async def test_two_nodes_of_one_name(any_cluster):
    await any_cluster.start("node1")
    with pytest.raises(Misconfigured, match="is also called node1: give each node its own DFS_ID"):
        await any_cluster.start("node1", "node1", data="other", address="other")


async def test_data_of_another_cluster_is_said_at_once(any_cluster):
    """A data directory that belongs to another cluster is refused with one sentence."""
    await any_cluster.start("node1")
    two = await any_cluster.start("node2")
    await two.stop()
    with pytest.raises(Misconfigured, match=r"node1 belongs to cluster .*the caller to .*/node2\)"):
        await any_cluster.start("node2", "node1")


async def test_restart_needs_no_peers_and_changes_nothing(any_cluster):
    _, two, _ = await any_cluster.three()
    revision = await two.put("k", b"v")
    before = stored(any_cluster, "node2")
    await two.stop()
    again = await any_cluster.start("node2")
    assert stored(any_cluster, "node2") == before
    await wait_until(again.votes)
    assert await again.get("k", min_revision=revision) == b"v"


async def test_all_restart_without_peers(any_cluster):
    members = await any_cluster.three()
    revision = await members[0].put("k", b"v")
    for member in members:
        await member.stop()
    again = [await any_cluster.start(name) for name in LIST]
    if not any_cluster.real:
        any_cluster.network.elect(again[1].engine)
    await wait_until(lambda: all(member.node.ready() for member in again))
    for member in again:
        assert await member.get("k", min_revision=revision) == b"v"


async def test_a_stop_between_membership_and_identity_is_made_good(any_cluster):
    members = await any_cluster.three()
    for member in members[:2]:
        await member.stop()
        identity = open_identity(any_cluster.root / member.name, member.name)
        lost, identity.cluster = identity.cluster, b""
        identity.save()
        again = await any_cluster.start(member.name)
        assert again.node.cluster == lost


@pytest.mark.allow_logs(REMOVED)
async def test_operations_are_forwarded_to_the_leader(any_cluster):
    one, two, three = await any_cluster.three()
    assert one.role() == "leader"
    assert await two.node.operate({"op": "transfer", "name": "node3"}) == {"leader": "node3"}
    await wait_until(lambda: three.role() == "leader")
    await wait_until(lambda: two.engine.status()["leader"] == three.running.identity.id)
    await two.node.operate({"op": "remove", "name": "node1"})
    await wait_until(lambda: {m["name"] for m in two.node.members()} == {"node2", "node3"})
    with pytest.raises(NotAMember, match="node1 is no member; there are node2, node3"):
        await two.node.operate({"op": "remove", "name": "node1"})


@pytest.mark.allow_logs(REMOVED)
async def test_the_leader_can_be_removed_through_any_node(any_cluster):
    """Changes of the membership can be asked of any node, the removal of the leader included."""
    one, two, _ = await any_cluster.three()
    await two.node.operate({"op": "remove", "name": "node1"})
    await wait_until(lambda: {m["name"] for m in two.node.members()} == {"node2", "node3"})
    assert one.role() != "leader"
    assert await two.put("k") > 0


async def test_operations_without_a_leader(cluster, monkeypatch):
    one, two, _ = await cluster.three()
    cluster.network.depose(one.engine)
    monkeypatch.setattr("dfs.node.cluster.CLUSTER_MS_MAX", 300)
    with pytest.raises(Unavailable, match="node2 knows no leader at the moment"):
        await two.node.operate({"op": "promote", "name": "node3"})


async def test_add_a_node_that_waits(any_cluster):
    one = await any_cluster.start("node1")
    two = await any_cluster.start("node2", "node9", join=False)
    operation = {"op": "add", "raft": two.raft, "name": "node2", "promote": False}
    found = await one.node.operate(operation)
    assert found["cluster"] == one.node.cluster.hex()
    await two.joining
    assert not two.running.identity.voter
    revision = await one.put("k", b"v")
    assert await two.get("k", local=True, min_revision=revision) == b"v"
    assert not two.votes()
    await one.node.operate({"op": "promote", "name": "node2"})
    await wait_until(two.votes)


async def test_add_refuses_what_it_does_not_find(any_cluster):
    one = await any_cluster.start("node1")
    two = await any_cluster.start("node2", "node9", join=False)
    other = await any_cluster.start("node3")
    await wait_until(lambda: one.role() == "leader")
    with pytest.raises(NotAMember, match="node3 belongs to cluster"):
        await one.node.operate({"op": "add", "raft": other.raft})
    for fields, words in (
        ({"name": "node3"}, "is node2"),
        ({"id": 7}, "has the id"),
    ):
        with pytest.raises(FailedPrecondition, match=words):
            await one.node.operate({"op": "add", "raft": two.raft, **fields})


async def test_status_of_all_with_one_that_is_silent(any_cluster):
    one, two, three = await any_cluster.three()
    revision = await two.put("k", b"v")
    await two.get("k", min_revision=revision)
    await three.stop()
    rows = await two.node.status(False)
    assert [row["member"]["name"] for row in rows] == ["node1", "node2", "node3"]
    assert [row["role"] for row in rows] == ["leader", "follower", ""]
    assert any_cluster.at("node3") in rows[2]["error"]
    assert rows[0]["member"]["leader"]
    assert rows[0]["state_hash"] == rows[1]["state_hash"]
    assert one.node.leads()


async def test_leadership_is_handed_away_at_the_end(any_cluster):
    one, two, three = await any_cluster.three()
    await one.stop()
    assert "leader" in (two.role(), three.role())


async def test_a_minority_refuses_but_answers_local_reads(any_cluster):
    one, two, three = await any_cluster.three()
    revision = await two.put("k", b"v")
    await two.get("k", min_revision=revision)
    await one.stop()
    await three.stop()
    if not any_cluster.real:
        any_cluster.network.depose(two.engine)
    await wait_until(lambda: not two.node.ready())
    assert await two.get("k", local=True) == b"v"
    assert (await two.node.write(1, b"\x0a\x01x", 300))[0] in (4, 14)
    assert (await two.node.read(2, b"\x0a\x01k", False, 300))[0] in (4, 14)


@pytest.mark.allow_logs("a question that makes no sense")
async def test_nonsense_from_a_peer_is_refused(any_cluster):
    one = await any_cluster.start("node1")
    two = await any_cluster.start("node2", "node1")
    for body in (b"", b"[]", b"{}", b'{"ask": "join"}', b"\xff"):
        with pytest.raises(Exception, match="the question makes no sense"):
            await asyncio.to_thread(two.engine.ask, one.raft, body, 1_000)
    found = await asyncio.to_thread(two.engine.ask, one.raft, b'{"ask": "what"}', 1_000)
    assert json.loads(found)["error"]["reason"] == "INVALID_ARGUMENT"
    assert one.role() == "leader"


async def test_a_learner_that_holds_nothing_yet_gets_no_vote(cluster, monkeypatch):
    one = await cluster.start("node1")
    await one.put("k")
    two = await cluster.start("node2", "node9", join=False)
    await one.node.operate({"op": "add", "raft": two.raft, "promote": False})
    await two.joining
    for matched, applied, voter in ((0, 0, False), (3, 0, False), (0, 3, False), (3, 3, True)):
        monkeypatch.setattr(
            one.engine, "_member_status",
            lambda member, _leads, m=matched: {
                **member, "matched": m, "contact_ms": 0, "error": ""
            },
        )
        question = {"op": "promote", "name": "node2", "automatic": True, "applied": applied}
        assert (await one.node.operate(question))["voter"] == voter


async def test_a_learner_that_is_silent_gets_no_vote(any_cluster, monkeypatch):
    monkeypatch.setattr("dfs.node.changes.ASK_MS_MAX", 600)
    one = await any_cluster.start("node1")
    two = await any_cluster.start("node2", "node9", join=False)
    await one.node.operate({"op": "add", "raft": two.raft, "promote": False})
    await two.joining
    revision = await one.put("k")
    await two.get("k", local=True, min_revision=revision)
    await two.stop()
    for n in range(3):
        await one.put(f"k{n}")
    await wait_until(lambda: any(m["error"] for m in one.engine.status()["members"]))
    with pytest.raises(NotAMember, match=r"node2 is .* log entries behind: .*refused"):
        await one.node.operate({"op": "promote", "name": "node2"})
    assert await one.put("still") > 0


@pytest.mark.allow_logs(REMOVED)
async def test_a_node_that_was_removed_says_so(any_cluster, monkeypatch):
    monkeypatch.setattr("dfs.node.node.REMOVAL_CHECK_MS", 100)
    one, _, three = await any_cluster.three()
    await one.node.operate({"op": "remove", "name": "node3"})
    await wait_until(lambda: three.node._joining.removed)
    assert not three.node.ready()
    (row,) = await three.node.status(True)
    assert "it was removed" in row["error"]
    assert not one.node._joining.removed
