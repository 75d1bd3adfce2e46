"""Move and copy through the API: one answer of a watch, one at a time, on every host."""

import asyncio
import os

import grpc
import pytest

import dfs
from dfs.limits import LARGE_CALLS_WAITING_MAX, VALUE_BYTES_MAX
from dfs.proto import dfs_pb2 as pb

from .conftest import refused

Code = grpc.StatusCode


async def put(api, key, data=b""):
    return (await api.files.Put(pb.PutRequest(key=key, data=data))).revision


async def keys(api):
    found = []
    async for answer in api.files.List(pb.ListRequest(recursive=True)):
        found += [item.key for item in answer.items]
    return found


async def test_a_subtree_is_moved_and_copied_at_once(api):
    """All changes of a move or a copy, also of a whole subtree, have one revision and come in one
    answer of a watch: who sees one of them sees all."""
    await put(api, "a/x", b"1" * 5_000)
    await put(api, "a/y/z", b"2")
    watch = api.files.Watch(pb.WatchRequest(data_bytes_max=10_000))
    await watch.read()
    moved = await api.files.Move(pb.MoveRequest(source="a", target="b"))
    told = await watch.read()
    assert (moved.moved, moved.revision, told.revision) == (4, api.applied(), moved.revision)
    assert {event.revision for event in told.events} == {moved.revision}
    assert [(e.type, e.key, e.data, e.previous_revision > 0) for e in told.events] == [
        (pb.Event.PUT, "b", b"", False), (pb.Event.PUT, "b/x", b"1" * 5_000, False),
        (pb.Event.PUT, "b/y", b"", False), (pb.Event.PUT, "b/y/z", b"2", False),
        (pb.Event.DELETE, "a/y/z", b"", True), (pb.Event.DELETE, "a/y", b"", True),
        (pb.Event.DELETE, "a/x", b"", True), (pb.Event.DELETE, "a", b"", True),
    ]
    copied = await api.files.Copy(pb.CopyRequest(source="b", target="c/d", recursive=True))
    told = await watch.read()
    assert (copied.copied, copied.revision) == (4, api.applied())
    assert [e.key for e in told.events] == ["c", "c/d", "c/d/x", "c/d/y", "c/d/y/z"]
    watch.cancel()
    got = await api.files.Get(pb.GetRequest(key="c/d/x"))
    assert (got.data, got.record.revision) == (b"1" * 5_000, copied.revision)
    assert (await refused(api.files.Get(pb.GetRequest(key="a/x")))).code == Code.NOT_FOUND
    assert await keys(api) == [
        "b", "b/x", "b/y", "b/y/z", "c", "c/d", "c/d/x", "c/d/y", "c/d/y/z",
    ]


async def test_what_was_read_before_it_was_replaced_is_not_shown_again(api):
    """Answers that are kept ready are those of the keys that a move makes and takes."""
    await put(api, "a", b"1")
    await put(api, "b", b"2")
    for key in ("a", "b"):
        await api.files.Get(pb.GetRequest(key=key))
    await api.files.Move(pb.MoveRequest(source="a", target="b", replace=True))
    assert (await api.files.Get(pb.GetRequest(key="b"))).data == b"1"
    assert (await refused(api.files.Get(pb.GetRequest(key="a")))).code == Code.NOT_FOUND


async def test_the_asyncio_client(api):
    endpoint = f"unix:{api.running.upstream.absolute()}"
    async with dfs.AsyncClient(endpoint, learn=False) as client:
        first = await client.put("a", b"1")
        moved = await client.move("a", "b/c", base_revision=first)
        copied = await client.copy("b", "d", recursive=True)
        assert copied > moved > first
        assert [item.key async for item in client.list(recursive=True)] == ["b", "b/c", "d", "d/c"]
        with pytest.raises(dfs.Conflict):
            await client.move("b/c", "d/c")
        assert await client.move("b/c", "d/c", replace=True) == api.applied()
        assert await client.get("d/c") == b"1"


async def test_retry_with_the_same_request_id(api):
    await put(api, "a", b"1")
    request = pb.MoveRequest(source="a", target="b", request_id=os.urandom(16))
    first = await api.files.Move(request)
    assert await api.files.Move(request) == first


@pytest.mark.parametrize(
    ("request_", "code", "reason"),
    [
        (pb.MoveRequest(source="none", target="x"), Code.NOT_FOUND, "NOT_FOUND"),
        (pb.MoveRequest(source="a", target="b"), Code.FAILED_PRECONDITION, "CONFLICT"),
        (pb.MoveRequest(source="a", target="d"), Code.FAILED_PRECONDITION, "IS_A_DIRECTORY"),
        (pb.MoveRequest(source="d", target="a"), Code.FAILED_PRECONDITION, "NOT_A_DIRECTORY"),
        (pb.MoveRequest(source="d", target="d/e"), Code.INVALID_ARGUMENT, "INVALID_ARGUMENT"),
        (pb.CopyRequest(source="d", target="e"), Code.FAILED_PRECONDITION, "NOT_EMPTY"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_refusals(api, request_, code, reason):
    for key in ("a", "b", "d/x"):
        await put(api, key)
    before = api.running.store.state_hash
    method = api.files.Move if isinstance(request_, pb.MoveRequest) else api.files.Copy
    found = await refused(method(request_))
    assert (found.code, found.reason) == (code, reason)
    assert api.running.store.state_hash == before


async def test_more_content_than_an_answer_of_a_watch_holds_is_left_out(api):
    """A copy of a large subtree is one revision, so one answer; who wants the rest reads it."""
    piece = VALUE_BYTES_MAX // 4
    for number in range(6):
        await put(api, f"a/{number}", bytes(piece))
    watch = api.files.Watch(pb.WatchRequest(data_bytes_max=piece))
    await watch.read()
    await api.files.Copy(pb.CopyRequest(source="a", target="b", recursive=True))
    told = await watch.read()
    watch.cancel()
    assert [(e.has_data, len(e.data)) for e in told.events[1:]] == [
        (True, piece), (True, piece), (True, piece), (True, piece), (False, 0), (False, 0),
    ]


async def test_a_node_has_one_under_way_and_few_that_wait(api, monkeypatch):
    """Each may take much memory of every member."""
    await put(api, "a")
    under_way, most = 0, 0
    write, go_on = api.running.node.write, asyncio.Event()

    async def counted(method, body, limit):
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        await go_on.wait()
        found = await write(method, body, limit)
        under_way -= 1
        return found

    monkeypatch.setattr(api.running.node, "write", counted)
    calls = [
        asyncio.ensure_future(api.files.Copy(pb.CopyRequest(source="a", target=f"b{number}")))
        for number in range(LARGE_CALLS_WAITING_MAX + 1)
    ]
    done, waiting = await asyncio.wait(calls, return_when=asyncio.FIRST_COMPLETED)
    go_on.set()
    await asyncio.wait(waiting)
    assert most == 1
    [late] = done
    found = await refused(late)
    assert (found.code, found.reason) == (Code.RESOURCE_EXHAUSTED, "OVERLOADED")
    assert "LARGE_CALLS_WAITING_MAX" in found.text
    assert found.retry_ms > 0
    assert all(call.exception() is None for call in waiting)


async def test_a_caller_that_goes_leaves_its_entry_under_way(api, monkeypatch):
    """Its place is free when the entry is through, not when the caller has gone."""
    await put(api, "a")
    write, begun, go_on = api.running.node.write, asyncio.Event(), asyncio.Event()
    order = []

    async def held(method, body, limit):
        order.append("begins")
        begun.set()
        await go_on.wait()
        found = await write(method, body, limit)
        order.append("ends")
        return found

    monkeypatch.setattr(api.running.node, "write", held)
    first = api.files.Copy(pb.CopyRequest(source="a", target="b"))
    await begun.wait()
    first.cancel()
    second = asyncio.ensure_future(api.files.Copy(pb.CopyRequest(source="a", target="c")))
    await api.files.Stat(pb.StatRequest(key="a"))
    assert order == ["begins"]
    go_on.set()
    await second
    assert order == ["begins", "ends", "begins", "ends"]
    assert await api.files.Stat(pb.StatRequest(key="b"))
