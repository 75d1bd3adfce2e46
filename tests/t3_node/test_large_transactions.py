"""Large contents that transactions name: all of them are on a majority before the entry is made."""

from __future__ import annotations

import math
import os

import pytest

from dfs.errors import FailedPrecondition, InvalidArgument, Unavailable
from dfs.limits import CONTENT_KEEP_S
from dfs.proto import dfs_pb2 as pb
from dfs.server.contents import Contents

from .conftest import wait_until
from .test_large_contents import hand_over, holds, keep_nothing, path_of, some

TRANSACTION = 22


def put(key: str, manifest, **fields) -> pb.Operation:
    return pb.Operation(put_content=pb.PutContentRequest(key=key, **manifest._asdict(), **fields))


def request(*operations: pb.Operation) -> bytes:
    return pb.TransactionRequest(operations=operations).SerializeToString()


async def commit(member, body: bytes) -> int:
    """The revision. As the server does it."""
    body = await Contents(member.node).held(body)
    result = await member.node.write(TRANSACTION, body, 10_000)
    assert isinstance(result, bytes), result
    return pb.TransactionResponse.FromString(result).revision


async def given(member, seed: int):
    """A content that a member has on its disk, and no other."""
    path, manifest = hand_over(member, some(seed))
    await member.node.contents.adopt(path, manifest)
    return manifest


async def test_all_contents_of_a_transaction_are_on_a_majority_before_it_is_made(any_cluster):
    """All large contents that a transaction names are on the disks of a majority before its entry
    is proposed, and on all others soon after."""
    members = await any_cluster.three()
    one, two, _ = members
    elsewhere, here = await given(one, 31), await given(two, 32)
    path, handed_over = hand_over(two, some(33))
    body = await Contents(two.node).held(request(
        put("d/elsewhere", elsewhere), pb.Operation(put=pb.PutRequest(key="d/small", data=b"1")),
        put("d/here", here), put("d/incoming", handed_over, incoming=path.name),
    ))  # fmt: skip
    wanted = {elsewhere: 31, here: 32, handed_over: 33}
    for manifest, seed in wanted.items():
        assert sum(holds(member, manifest, some(seed)) for member in members) >= 2
    assert b"incoming" not in body.replace(b"d/incoming", b"")
    assert not path.exists()
    result = await two.node.write(TRANSACTION, body, 10_000)
    revision = pb.TransactionResponse.FromString(result).revision
    for member in members:
        for manifest, seed in wanted.items():
            await wait_until(lambda m=member, f=manifest, s=seed: holds(m, f, some(s)))
    assert await one.get("d/here") == some(32)
    assert {record_of(one, key).revision for key in ("d/elsewhere", "d/incoming")} == {revision}


def record_of(member, key: str) -> pb.Record:
    with member.store.view() as view:
        return pb.Record.FromString(view.stat(key))


async def test_a_content_that_is_gone_is_said_and_nothing_is_changed(cluster):
    one, *_ = await cluster.three()
    kept, gone = await given(one, 34), await given(one, 35)
    path_of(one, gone).unlink()
    body = request(put("a", kept), put("b", gone))
    with pytest.raises(Unavailable, match=r"nothing was changed, as operation 1 .* put b, .* had"):
        await commit(one, body)
    assert one.store.keys == 0
    path, again = hand_over(one, some(35))
    await one.node.contents.adopt(path, again)
    revision = await commit(one, body)
    assert record_of(one, "a").revision == record_of(one, "b").revision == revision


async def test_without_a_majority_no_transaction_is_made(cluster, monkeypatch):
    monkeypatch.setattr("dfs.node.contents.spreading.CONTENT_STALL_MS", 300)
    one, two, three = await cluster.three()
    manifest = await given(one, 36)
    await two.stop()
    await three.stop()
    with pytest.raises(Unavailable, match="put a, is refused: the content is not on a majority"):
        await Contents(one.node).held(request(put("a", manifest)))


async def test_digests_that_are_not_those_of_the_content_are_refused(cluster):
    """What they name could be read by nobody, also not by who puts the same content later."""
    one, *_ = await cluster.three()
    contents, manifest = one.node.contents, await given(one, 37)
    wrong = manifest._replace(digests=os.urandom(len(manifest.digests)))
    for known in (True, False):
        if not known:
            contents._held.clear()  # as after a start
        with pytest.raises(FailedPrecondition, match=r"put a, is refused: .* other chunks"):
            await commit(one, request(put("a", wrong)))
    await commit(one, request(put("a", manifest)))
    with pytest.raises(FailedPrecondition, match=r"put b, is refused: .* other chunks"):
        await commit(one, request(put("b", wrong)))
    assert await one.get("a") == some(37)


async def test_what_breaks_a_rule_is_refused_before_anything_is_moved(cluster):
    one, two, _ = await cluster.three()
    manifest = await given(one, 38)
    for bad in (put("a//b", manifest), put("a", manifest._replace(chunk_bytes=7)), pb.Operation()):
        with pytest.raises(InvalidArgument, match="operation 1 of the transaction"):
            await Contents(one.node).held(request(put("a", manifest), bad))
    assert not holds(two, manifest, some(38))


async def test_it_is_looked_again_whether_all_are_held(cluster, monkeypatch):
    """What was found on a majority long ago, or by other voters, does not count any more."""
    one, *_ = await cluster.three()
    contents, looked = one.node.contents, []

    async def look(name: str) -> None:
        looked.append(name)
        if len(looked) == 2:
            monkeypatch.setattr("dfs.node.contents.contents._now_s", lambda: clock[0] + late)
        if len(looked) == 4:
            monkeypatch.setattr("dfs.node.contents.contents.voters", lambda _engine: {1, 2})

    clock, late = [100.0], CONTENT_KEEP_S / 4 + 1
    monkeypatch.setattr("dfs.node.contents.contents._now_s", lambda: clock[0])
    await contents.spread_all(["a", "b"], look)
    assert looked == ["a", "b"] * 3


async def test_a_content_that_no_transaction_names_goes_after_a_while(cluster, monkeypatch):
    one = await cluster.start("node1")
    contents, manifest = one.node.contents, await given(one, 39)
    assert contents.held(manifest.sha256) == manifest
    keep_nothing(monkeypatch)
    contents._tidied_s = -math.inf
    await contents.tidy(passed)
    assert not path_of(one, manifest).exists()
    assert contents.held(manifest.sha256) is None


async def passed() -> None:
    """A read barrier."""
