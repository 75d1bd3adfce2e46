"""Calls that are answered by a stream, whichever host serves them."""

import asyncio

import grpc
import pytest

from dfs.errors import OutOfRange
from dfs.limits import MESSAGE_BYTES_MAX
from dfs.proto import dfs_pb2 as pb

from .conftest import refused
from .test_watch import put

Code = grpc.StatusCode
METHODS = ("List", "Watch", "History")
MANY = 300


def one_item(key, data=b""):
    """A ListResponse."""
    return pb.ListResponse(items=[pb.Item(key=key, data=data)]).SerializeToString()


def lists(api, monkeypatch, made):
    """Lists are what `made` yields, and none is small enough to be made at once."""
    monkeypatch.setattr(api.running.store, "list_answer", lambda *_: None)
    monkeypatch.setattr(api.running.node, "list_answers", made)


def raw(api, method, body, **how):
    """A call with a body of any bytes."""
    return api.channel.unary_stream(f"/dfs.FileService/{method}")(body, **how)


async def watches(api, count):
    """Returns when the node has so many watches; it hears of their ends by itself."""
    async with asyncio.timeout(20):
        while api.running.node._watches._count != count:
            tick = asyncio.get_running_loop().create_future()
            asyncio.get_running_loop().call_later(0.01, tick.cancel)
            await asyncio.wait([tick])


@pytest.mark.parametrize("method", METHODS)
async def test_a_good_answer_has_no_metadata_of_its_own(api, method):
    await put(api, "k")
    call = raw(api, method, pb.ListRequest(key="k").SerializeToString())
    assert await call.read()
    assert dict(await call.initial_metadata()) == {}
    if method == "Watch":
        call.cancel()
        return
    assert await call.read() is grpc.aio.EOF
    assert await call.code() == Code.OK
    assert await call.details() == ""
    assert dict(await call.trailing_metadata()) == {}


@pytest.mark.parametrize("method", METHODS)
async def test_requests_that_are_none_are_refused(api, method):
    found = await refused(raw(api, method, b"\x0a\x7f").read())
    assert (found.code, found.reason) == (Code.INVALID_ARGUMENT, "INVALID_ARGUMENT")
    assert f"{method}Request" in found.text
    found = await refused(raw(api, method, pb.ListRequest(key="/k").SerializeToString()).read())
    assert (found.code, found.reason) == (Code.INVALID_ARGUMENT, "INVALID_ARGUMENT")
    assert "/k" in found.text
    found = await refused(raw(api, method, bytes(MESSAGE_BYTES_MAX + 1)).read())
    assert (found.code, found.reason) == (Code.RESOURCE_EXHAUSTED, "TOO_LARGE")
    assert found.metadata["limit"] == "MESSAGE_BYTES_MAX"


async def test_a_refusal_behind_messages_is_whole(api, monkeypatch):
    async def broken(*_):
        yield one_item("k")
        raise OutOfRange("the rest is gone", limit="SOME_LIMIT")

    lists(api, monkeypatch, broken)
    call = api.files.List(pb.ListRequest())
    assert (await call.read()).items[0].key == "k"
    found = await refused(call.read())
    assert (found.code, found.text) == (Code.OUT_OF_RANGE, "the rest is gone")
    assert (found.reason, found.metadata) == ("OUT_OF_RANGE", {"limit": "SOME_LIMIT"})


async def test_a_bug_within_a_stream_is_a_number(api, monkeypatch, allow_logs):
    allow_logs("internal error [0-9a-f]{8}")

    async def broken(*_):
        yield 7, []
        raise ZeroDivisionError("secret")

    monkeypatch.setattr(api.running.node, "history", broken)
    call = api.files.History(pb.HistoryRequest())
    assert await call.read()
    found = await refused(call.read())
    assert (found.code, found.reason) == (Code.INTERNAL, "INTERNAL")
    assert "secret" not in found.text


async def test_a_cancelled_watch_is_forgotten(api):
    call = api.files.Watch(pb.WatchRequest())
    await call.read()
    await watches(api, 1)
    call.cancel()
    await watches(api, 0)
    assert await call.code() == Code.CANCELLED


async def test_a_watch_ends_at_its_callers_deadline(api):
    call = api.files.Watch(pb.WatchRequest(), timeout=0.3)
    await call.read()
    assert (await refused(call.read())).code == Code.DEADLINE_EXCEEDED
    await watches(api, 0)


async def test_a_caller_that_does_not_read_slows_the_list_down(api, monkeypatch):
    """What is made and not taken is bounded; read to its end the list is whole."""
    pieces, made = 60, []

    async def items(*_):
        for n in range(pieces):
            made.append(n)
            yield one_item(f"k{n:03}", bytes(1 << 20))

    lists(api, monkeypatch, items)
    call = api.files.List(pb.ListRequest())
    assert (await call.read()).items[0].key == "k000"
    await put(api, "other")  # others are served meanwhile
    assert len(made) < pieces / 2
    found = []
    while (answer := await call.read()) is not grpc.aio.EOF:
        found.append(answer.items[0].key)
    assert found == [f"k{n:03}" for n in range(1, pieces)]


def lists_without_end(api, monkeypatch):
    """Has each list go on for ever; what is returned is done when one is ended."""
    ended = asyncio.get_running_loop().create_future()

    async def items(*_):
        try:
            while True:
                yield one_item("k", bytes(1 << 20))
        finally:
            ended.set_result(True)

    lists(api, monkeypatch, items)
    return ended


async def test_a_caller_that_does_not_read_for_long_is_told_why_its_list_ends(api, monkeypatch):
    monkeypatch.setattr("dfs.node.streams.PINNED_WAIT_MS", 50)
    ended = lists_without_end(api, monkeypatch)
    call = api.files.List(pb.ListRequest())
    await call.read()
    async with asyncio.timeout(20):
        await ended

    async def rest():
        while await call.read() is not grpc.aio.EOF:
            pass

    found = await refused(rest())
    assert (found.code, found.reason) == (Code.UNAVAILABLE, "UNAVAILABLE")
    assert found.metadata["limit"] == "PINNED_WAIT_MS"
    assert "read faster" in found.text


async def test_a_list_that_is_left_halfway_is_ended(api, monkeypatch):
    ended = lists_without_end(api, monkeypatch)
    call = api.files.List(pb.ListRequest())
    await call.read()
    call.cancel()
    assert await asyncio.wait_for(ended, 20)


async def test_many_watches_of_one_connection_all_hear(api):
    calls = [api.files.Watch(pb.WatchRequest(key="d")) for _ in range(MANY)]
    for call in calls:
        await call.read()
    await watches(api, MANY)
    revision = await put(api, "d/k")
    for call in calls:
        while not (answer := await call.read()).events:
            pass
        assert answer.events[-1].revision == revision
        call.cancel()
    await watches(api, 0)
