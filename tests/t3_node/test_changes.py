"""Changes of the membership at the leader: in place of a member, one at a time, asked for twice."""

import asyncio

import pytest

from dfs.errors import FailedPrecondition, NotAMember, Unavailable
from dfs.proto import dfs_pb2 as pb

from .conftest import REMOVED, wait_until


def join(member, **fields):
    """The question of a node that asks to be taken in."""
    me = member.running.identity
    return {
        "ask": "join", "name": me.name, "id": me.id, "raft": member.raft,
        "grpc": f"{me.name}:grpc", **fields,
    }


def ids(member):
    return {m["id"] for m in member.engine.status()["members"]}


async def waiting(cluster, name, *peers, **fields):
    """An empty node that nobody has let in yet."""
    node = await cluster.start(name, *peers, join=False, **fields)
    await wait_until(lambda: node.running.identity.directory.exists())
    return node


async def test_a_node_that_lost_its_data_joins_in_its_own_place(any_cluster):
    """Who says that he was the member of that name is believed when that one is gone: the old id is
    removed and the new one added by one entry. Whoever asks again is told the same."""
    one, two, _ = await any_cluster.three()
    lost = two.running.identity.id
    await two.stop()
    again = await waiting(any_cluster, "node2", "node1", data="emptied")
    question = join(again, replaces=lost)
    config = one.engine.status()["config"]
    answers = [await again.node._cluster.ask(one.raft, question) for _ in range(2)]
    assert {a["cluster"] for a in answers} == {one.node.cluster.hex()}
    assert lost not in ids(one)
    assert answers[0]["config"] > config
    await again.joining
    await wait_until(again.votes)


async def test_nobody_takes_the_place_of_a_member_that_lives(cluster):
    one, two, _ = await cluster.three()
    other = await waiting(cluster, "node2", "node9", data="twin", address="twin")
    lives = two.running.identity.id
    before = ids(one)
    with pytest.raises(Unavailable, match=r"node2 answers at .* can join in its place when it is"):
        await other.node._cluster.ask(one.raft, join(other, replaces=lives))
    with pytest.raises(FailedPrecondition, match=r"node2 answers at .*Stop it first; .* --force"):
        await one.node.operate({"op": "replace", "name": "node2", "raft": other.raft})
    with pytest.raises(NotAMember, match=r"node2 is a member already, and answers at .*DFS_ID"):
        await other.node._cluster.ask(one.raft, join(other))
    assert ids(one) == before


async def test_another_id_than_the_present_one_is_not_replaced(cluster):
    one, two, _ = await cluster.three()
    await two.stop()
    again = await waiting(cluster, "node2", "node9", data="emptied")
    before = ids(one)
    with pytest.raises(FailedPrecondition, match="dfs member replace node2"):
        await again.node._cluster.ask(one.raft, join(again, replaces=12345))
    assert ids(one) == before


async def test_a_dead_node_is_replaced_by_one_of_another_name(any_cluster):
    one, two, three = await any_cluster.three()
    lost = two.running.identity.id
    await two.stop()
    four = await waiting(any_cluster, "node4", "node9")
    operation = {"op": "replace", "name": "node2", "id": lost, "raft": four.raft}
    shown = await three.node.operate({**operation, "dry_run": True})
    assert lost in ids(one)
    done = await three.node.operate(operation)
    assert shown["plan"] == done["plan"]
    await four.joining
    await wait_until(four.votes)
    assert {m["name"] for m in one.node.members()} == {"node1", "node3", "node4"}
    again = await three.node.operate(operation)
    assert again["plan"]["nothing"]


async def test_what_is_to_be_replaced_and_by_what_has_to_be_there(cluster):
    one, two, _ = await cluster.three()
    with pytest.raises(NotAMember, match="node7 is no member; there are node1, node2, node3"):
        await one.node.operate({"op": "replace", "name": "node7"})
    with pytest.raises(NotAMember, match=r"node2 at .* is the member itself"):
        await one.node.operate({"op": "replace", "name": "node2"})
    await two.stop()
    with pytest.raises(NotAMember, match=r"no node waits at .* with an empty data directory first"):
        await one.node.operate({"op": "replace", "name": "node2"})


@pytest.mark.allow_logs(REMOVED)
async def test_a_living_member_is_replaced_when_told_so(cluster):
    one, two, _ = await cluster.three()
    four = await waiting(cluster, "node4", "node9")
    await one.node.operate({"op": "replace", "name": "node2", "raft": four.raft, "force": True})
    await four.joining
    await wait_until(four.votes)
    assert two.running.identity.id not in ids(one)


async def test_a_change_for_other_members_than_those_there_is_refused(cluster):
    """A change that names the configuration it was planned for is refused when another was made
    first, and told what is there now."""
    one, two, _ = await cluster.three()
    config = one.engine.status()["config"]
    shown = await two.node.operate({"op": "remove", "name": "node3", "dry_run": True})
    assert shown["plan"]["config"] == shown["config"] == config
    four = await waiting(cluster, "node4", "node9")
    await one.node.operate({"op": "add", "raft": four.raft, "promote": False})
    with pytest.raises(
        FailedPrecondition,
        match=rf"meant for configuration {config}, now it is \d+ with the voters node1, node2, node"
        r"3 and the learners node4. Look at the new plan and try again",
    ):
        await two.node.operate({"op": "remove", "name": "node3", "config": config})
    assert len(ids(one)) == 4


@pytest.mark.allow_logs(REMOVED)
async def test_changes_at_once_are_made_one_after_the_other(any_cluster):
    """Changes that are asked for at the same time are made one after the other, and each is planned
    on what it finds; of those that name the same configuration one alone is made."""
    one, two, three = await any_cluster.three()
    new = [await waiting(any_cluster, f"node{n}", "node9") for n in (4, 5, 6)]
    askers = (one, two, three)

    def add(node, asker, **fields):
        return asker.node.operate({"op": "add", "raft": node.raft, "promote": False, **fields})

    config = one.engine.status()["config"]
    found = await asyncio.gather(
        *(add(node, asker, config=config) for node, asker in zip(new, askers, strict=True)),
        return_exceptions=True,
    )
    assert sorted(isinstance(f, FailedPrecondition) for f in found) == [False, True, True], found
    await asyncio.gather(*(add(node, asker) for node, asker in zip(new, askers, strict=True)))
    assert {n.running.identity.id for n in new} < ids(one)
    await asyncio.gather(*(two.node.operate({"op": "remove", "name": n.name}) for n in new))
    assert len(ids(one)) == 3


@pytest.mark.allow_logs(REMOVED)
async def test_a_removal_that_is_asked_for_twice_is_done_once(any_cluster):
    one, two, three = await any_cluster.three()
    number = three.running.identity.id
    operation = {"op": "remove", "name": "node3", "id": number}
    first, second = [await two.node.operate(operation) for _ in range(2)]
    assert not first["plan"]["nothing"]
    assert second["plan"]["nothing"]
    assert len(ids(one)) == 2


async def test_a_removal_that_would_end_the_majority_is_refused(any_cluster):
    one, two, three = await any_cluster.three()
    await three.stop()
    await wait_until(lambda: any(m["error"] for m in one.engine.status()["members"]))
    for name in ("node2", "node1"):
        with pytest.raises(
            FailedPrecondition,
            match=rf"without {name}, only 1 of 2 voters would answer and 2 are needed:.*node3",
        ):
            await two.node.operate({"op": "remove", "name": name})
    assert await one.put("still") > 0


@pytest.mark.allow_logs(REMOVED)
async def test_a_node_that_was_removed_answers_nobody_any_more(any_cluster):
    """A node that was removed is told so: it refuses every call with what to do, and its callers go
    on at a member. When it is added again, with its data, it answers again."""
    one, _, three = await any_cluster.three()
    await one.put("k", b"old")
    await one.node.operate({"op": "remove", "name": "node3"})
    assert not three.node.ready()
    await one.put("k", b"new")
    request = pb.GetRequest(key="k").SerializeToString()
    for found in (
        await three.node.read(2, request, False, 5_000),
        await three.node.read(2, request, True, 5_000),
        await three.node.write(1, pb.PutRequest(key="x").SerializeToString(), 5_000),
    ):
        assert found[0] == 14, found
        assert "node3 is no member of its cluster any more, it was removed: stop it" in found[1]
    with pytest.raises(Unavailable, match="node3 is no member"):
        await three.node.operate({"op": "add", "raft": three.raft})
    await one.node.operate({"op": "add", "raft": three.raft, "promote": True})
    await wait_until(three.node.ready)
    assert await three.get("k") == b"new"
    await wait_until(three.votes)
