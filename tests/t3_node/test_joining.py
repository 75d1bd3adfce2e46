"""How nodes find together: alone, by peers, by a full list; who is refused and who waits."""

import asyncio
import json

import pytest

from dfs.errors import FailedPrecondition, Misconfigured, NotAMember, Unavailable

from .conftest import wait_until

LIST = ("node1:1", "node2:1", "node3:1")


async def three(cluster):
    one = await cluster.start("node1")
    two = await cluster.start("node2", "node1:1")
    three = await cluster.start("node3", "node2:1")
    members = one, two, three
    await wait_until(lambda: all(member.votes() for member in members))
    return members


async def test_alone_it_is_a_cluster_of_one(cluster):
    one = await cluster.start("node1")
    assert one.role() == "leader"
    stored = json.loads((cluster.root / "node1" / "identity.json").read_text())
    assert bytes.fromhex(stored["cluster"]) == one.node.cluster == one.engine.cluster


async def test_three_nodes_join_one_after_the_other_and_replicate(cluster):
    one, two, three_ = await three(cluster)
    assert one.node.cluster == two.node.cluster == three_.node.cluster
    revision = await three_.put("k", b"v")
    for member in (one, two, three_):
        assert await member.get("k", min_revision=revision) == b"v"
    assert one.store.state_hash == two.store.state_hash == three_.store.state_hash


async def test_full_list_makes_one_cluster_whatever_the_order(cluster):
    three_ = await cluster.start("node3", *LIST, join=False)
    two = await cluster.start("node2", *LIST, join=False)
    one = await cluster.start("node1", *LIST, join=False)
    await asyncio.gather(one.joining, two.joining, three_.joining)
    assert one.node.cluster == two.node.cluster == three_.node.cluster
    assert len(cluster.network.clusters) == 1
    await wait_until(lambda: all(member.votes() for member in (one, two, three_)))


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
    one = await cluster.start("node1", "node1:1", "node2:1", join=False)
    two = await cluster.start("node2", "node2:1", "node3:1", join=False)
    await wait_until(lambda: "with the same list of peers" in caplog.text)
    assert not cluster.network.clusters
    assert not one.joining.done()
    assert not two.joining.done()


async def test_the_first_of_the_list_joins_a_cluster_that_is_there(cluster):
    two = await cluster.start("node2")
    one = await cluster.start("node1", *LIST)
    assert one.node.cluster == two.node.cluster


async def test_joining_waits_for_the_peer(cluster, caplog):
    caplog.set_level("INFO")
    two = await cluster.start("node2", "node1:1", join=False)
    await wait_until(lambda: "to join, waiting for node1:1: connection refused" in caplog.text)
    assert caplog.text.count("to join, waiting") == 1
    await cluster.start("node1")
    await two.joining


async def test_a_wiped_node_under_its_old_name_is_refused_and_leaves_nothing(cluster):
    one, two, _ = await three(cluster)
    await two.stop()
    with pytest.raises(Misconfigured, match="dfs member remove node2"):
        await cluster.start("node2", "node1:1", data="wiped")
    assert not (cluster.root / "wiped").exists()
    await one.node.operate({"op": "remove", "name": "node2"})
    again = await cluster.start("node2", "node1:1", data="wiped")
    await wait_until(again.votes)


async def test_address_of_another_member_is_refused(cluster):
    await cluster.start("node1")
    two = await cluster.start("node2", "node1:1")
    await two.stop()
    one = cluster.members["node1"]
    with pytest.raises(NotAMember, match="node2:1 is already the address of member node2"):
        await one.node.operate(
            {"op": "join", "name": "node9", "id": 9, "raft": "node2:1", "grpc": "x"}
        )


async def test_two_nodes_of_one_name(cluster):
    await cluster.start("node1")
    with pytest.raises(Misconfigured, match="the node at node1:1 is also called node1"):
        await cluster.start("node1", "node1:1", data="other", address="other:1")


async def test_data_of_another_cluster_is_said_at_once(cluster):
    await cluster.start("node1")
    two = await cluster.start("node2")
    await two.stop()
    with pytest.raises(Misconfigured, match=r"belongs to cluster .* but node1 \(node1:1\) to"):
        await cluster.start("node2", "node1:1")


async def test_restart_needs_no_peers_and_changes_nothing(cluster):
    _, two, _ = await three(cluster)
    before = (cluster.root / "node2" / "identity.json").read_bytes()
    await two.stop()
    again = await cluster.start("node2", "node1:1")
    assert (cluster.root / "node2" / "identity.json").read_bytes() == before
    assert again.votes()


async def test_a_stop_between_membership_and_identity_is_made_good(cluster):
    one, two, _ = await three(cluster)
    for member in (two, one):
        path = cluster.root / member.name / "identity.json"
        await member.stop()
        lost = json.loads(path.read_text())
        path.write_text(json.dumps({**lost, "cluster": None}))
        again = await cluster.start(member.name)
        assert again.node.cluster.hex() == lost["cluster"]


async def test_operations_are_forwarded_to_the_leader(cluster):
    one, two, three_ = await three(cluster)
    assert one.role() == "leader"
    assert await two.node.operate({"op": "transfer", "name": "node3"}) == {"leader": "node3"}
    assert three_.role() == "leader"
    await two.node.operate({"op": "remove", "name": "node1"})
    await wait_until(lambda: {m["name"] for m in two.node.members()} == {"node2", "node3"})
    with pytest.raises(NotAMember, match="node1 is no member; there are node2, node3"):
        await two.node.operate({"op": "remove", "name": "node1"})


async def test_the_leader_can_be_removed_through_any_node(cluster):
    one, two, _ = await three(cluster)
    await two.node.operate({"op": "remove", "name": "node1"})
    assert one.role() != "leader"
    assert {m["name"] for m in two.node.members()} == {"node2", "node3"}


async def test_operations_without_a_leader(cluster):
    one, two, _ = await three(cluster)
    cluster.network.depose(one.engine)
    with pytest.raises(Unavailable, match="node2 knows no leader at the moment"):
        await two.node.operate({"op": "promote", "name": "node3"})


async def test_add_a_node_that_waits(cluster):
    one = await cluster.start("node1")
    two = await cluster.start("node2", "node9:1", join=False)
    operation = {"op": "add", "raft": "node2:1", "name": "node2", "promote": False}
    assert await one.node.operate(operation) == {"cluster": one.node.cluster.hex()}
    await two.joining
    assert not two.running.identity.voter
    await one.put("k", b"v")
    assert await two.get("k") == b"v"
    await one.node.operate({"op": "promote", "name": "node2"})
    assert two.votes()


async def test_add_refuses_what_it_does_not_find(cluster):
    one = await cluster.start("node1")
    await cluster.start("node2")
    for fields, words in (
        ({"raft": "node2:1", "name": "node3"}, "is node2"),
        ({"raft": "node2:1", "id": 7}, "has the id"),
        ({"raft": "node2:1"}, "belongs to another cluster"),
    ):
        with pytest.raises(FailedPrecondition, match=words):
            await one.node.operate({"op": "add", **fields})


async def test_status_of_all_with_one_that_is_silent(cluster):
    one, two, three_ = await three(cluster)
    revision = await two.put("k", b"v")
    await three_.get("k", min_revision=revision)
    await three_.stop()
    rows = await two.node.status(False)
    assert [row["member"]["name"] for row in rows] == ["node1", "node2", "node3"]
    assert [row["role"] for row in rows] == ["leader", "follower", ""]
    assert rows[2]["error"] == "node3:1: connection refused"
    assert rows[0]["member"]["leader"]
    assert rows[0]["state_hash"] == rows[1]["state_hash"]
    assert one.node.leads()


async def test_leadership_is_handed_away_at_the_end(cluster):
    one, two, three_ = await three(cluster)
    await one.stop()
    assert "leader" in (two.role(), three_.role())


@pytest.mark.allow_logs("a question that makes no sense")
async def test_nonsense_from_a_peer_is_refused(cluster):
    one = await cluster.start("node1")
    two = await cluster.start("node2", "node1:1")
    for body in (b"", b"[]", b"{}", b'{"ask": "join"}', b"\xff"):
        with pytest.raises(Exception, match="the question makes no sense"):
            await asyncio.to_thread(two.engine.ask, "node1:1", body, 1_000)
    found = await asyncio.to_thread(two.engine.ask, "node1:1", b'{"ask": "what"}', 1_000)
    assert json.loads(found)["error"]["reason"] == "INVALID_ARGUMENT"
    assert one.role() == "leader"
