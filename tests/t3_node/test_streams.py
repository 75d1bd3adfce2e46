"""Streamed answers as the engine's port has them made, over engines in memory."""

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from dfs.errors import OutOfRange, Unavailable
from dfs.proto import dfs_pb2 as pb

from .conftest import wait_until

LIST, WATCH, HISTORY = 7, 8, 9


async def take(call):
    """The next message of a call; None at its end."""
    return await asyncio.to_thread(call.take)


def watch(member, **fields):
    return member.engine.stream(WATCH, pb.WatchRequest(**fields).SerializeToString())


@pytest.fixture
async def one(cluster):
    return await cluster.start("node1")


async def test_a_watch_goes_on_until_its_caller_goes(one):
    call = watch(one, key="d")
    started = pb.WatchResponse.FromString(await take(call))
    revision = await one.put("d/k")
    answer = pb.WatchResponse.FromString(await take(call))
    assert started.revision < answer.revision == revision
    assert [event.key for event in answer.events] == ["d", "d/k"]
    assert one.node._hot.watched
    call.cancel()
    await wait_until(lambda: not one.node._hot.watched)
    assert one.node._streams._open == {}


async def test_a_list_waits_for_a_caller_that_does_not_take(one, monkeypatch):
    made = []

    async def items(*_):
        for n in range(20):
            made.append(n)
            yield bytes(1 << 20)

    monkeypatch.setattr(one.node, "list_answers", items)
    monkeypatch.setattr(one.node._store, "list_answer", lambda *_: None)
    call = one.engine.stream(LIST, pb.ListRequest().SerializeToString())
    first = await take(call)
    await one.put("k")  # the event loop has turned
    assert len(made) <= 3
    messages = [first]
    while message := await take(call):
        messages.append(message)
    assert len(messages) == len(made) == 20
    assert call.ended.result() == b""


@pytest.fixture
def views(one, monkeypatch):
    """The frozen states that the node made."""
    made = []
    snapshot = one.store._kv.snapshot

    def noted(*arguments):
        made.append(snapshot(*arguments))
        return made[-1]

    monkeypatch.setattr(one.store._kv, "snapshot", noted)
    return made


def is_closed(view):
    try:
        view.get(b"m")
    except Unavailable:
        return True
    return False


@pytest.mark.parametrize(
    ("method", "wanted"),
    [
        (LIST, pb.ListRequest(data_bytes_max=1 << 20)),
        (HISTORY, pb.HistoryRequest()),
        (WATCH, pb.WatchRequest(snapshot=True, data_bytes_max=1 << 20)),
    ],
)
async def test_a_caller_that_takes_nothing_does_not_pin_a_state(
    one, views, monkeypatch, method, wanted
):
    for n in range(4):
        await one.put(f"k{n}", bytes(1 << 20))
    monkeypatch.setattr("dfs.node.streams.PINNED_WAIT_MS", 50)
    monkeypatch.setattr("dfs.node.history.HISTORY_ITEMS_MAX", 1)
    monkeypatch.setattr(one.engine._streams, "_bytes_max", 10)
    call = one.engine.stream(method, wanted.SerializeToString())
    await wait_until(lambda: views and all(map(is_closed, views)))
    while await take(call) is not None:
        pass
    code, text, _ = call.ended.result()
    assert (code, "PINNED_WAIT_MS" in text) == (14, True)


async def test_a_watch_that_is_live_may_be_read_whenever_its_caller_likes(one, monkeypatch):
    monkeypatch.setattr("dfs.node.streams.PINNED_WAIT_MS", 0)
    monkeypatch.setattr(one.engine._streams, "_bytes_max", 10)
    call = watch(one, data_bytes_max=1 << 20)
    await take(call)
    for n in range(4):
        last = await one.put(f"k{n}", bytes(1 << 20))
    until = 0
    while until < last:
        until = pb.WatchResponse.FromString(await take(call)).revision
    assert not call.ended.done()


async def test_a_caller_that_goes_ends_what_is_made_for_it(one, monkeypatch):
    ended = asyncio.Event()

    async def items(*_):
        try:
            while True:
                yield bytes(1 << 20)
        finally:
            ended.set()

    monkeypatch.setattr(one.node, "list_answers", items)
    monkeypatch.setattr(one.node._store, "list_answer", lambda *_: None)
    call = one.engine.stream(LIST, pb.ListRequest().SerializeToString())
    await take(call)
    call.cancel()
    async with asyncio.timeout(10):
        await ended.wait()
    assert not call.ended.done()


async def test_a_caller_that_goes_at_once_leaves_nothing(one):
    body = pb.WatchRequest().SerializeToString()
    one.node._streams.turn(([(1_000, WATCH, body)], []))
    one.node._streams.turn(([], [(1_000, False)]))
    await wait_until(lambda: not one.node._streams._open)
    assert not one.node._hot.watched


async def test_what_is_made_at_once_needs_no_task(one, monkeypatch):
    monkeypatch.setitem(one.node._codec.streams, LIST, lambda body: b"all of " + body)
    monkeypatch.setattr(one.node._streams, "_methods", {})
    call = one.engine.stream(LIST, b"it")
    assert (await take(call), await take(call)) == (b"all of it", None)


async def test_a_history_has_no_empty_answers_but_for_one_that_is_all(one, monkeypatch):
    monkeypatch.setattr("dfs.node.history.HISTORY_SCAN_MAX", 1)
    await one.put("d/k")
    await one.put("other")
    for key, expected in (("d", [["d/k"], ["d"]]), ("none", [[]])):
        call = one.engine.stream(HISTORY, pb.HistoryRequest(key=key).SerializeToString())
        found = []
        while (message := await take(call)) is not None:
            events = pb.HistoryResponse.FromString(message).events
            found.append([event.key for event in events])
        assert found == expected


async def test_refusals_reach_the_caller(one):
    call = one.engine.stream(LIST, pb.ListRequest(key="none").SerializeToString())
    assert await take(call) is None
    code, text, details = call.ended.result()
    assert (code, details != b"") == (5, True)
    assert "none" in text
    call = watch(one, after_revision=1 << 40)
    one.node._watches.end()
    assert await take(call) is None
    assert call.ended.result()[0] == 14


@pytest.fixture
async def one_reader():
    """The event loop has one thread for reads meanwhile."""
    loop, readers = asyncio.get_running_loop(), ThreadPoolExecutor(1)
    loop.set_default_executor(readers)
    yield readers
    loop.set_default_executor(ThreadPoolExecutor())


async def test_slow_reads_hold_up_neither_snapshots_nor_the_end(
    one, tmp_path, monkeypatch, one_reader
):
    path, free, finished = str(tmp_path / "snapshot"), threading.Event(), []
    monkeypatch.setattr(one.engine, "finish", lambda *what: finished.append(what))
    await one.put("k", b"in the snapshot")
    one_reader.submit(free.wait)

    async def work():
        await one.node._snapshots._snapshot(1, one.store.view(), path)
        log_id, membership = one.store.log_id, one.store.membership
        data = b"".join(len(x).to_bytes(4, "big") + x for x in (log_id, membership))
        await one.node._snapshots._install(2, path, data)
        await one.node.drain()

    done, late = await asyncio.wait([asyncio.ensure_future(work())], timeout=10)
    free.set()
    assert not late
    await done.pop()
    assert finished == [(1, b""), (2, b"")]
    assert await one.get("k", local=True) == b"in the snapshot"


async def test_streams_end_with_the_node(cluster):
    one = await cluster.start("node1")
    call = watch(one)
    await take(call)
    await one.stop()
    assert await take(call) is None
    code, text, _ = call.ended.result()
    assert (code, "shutting down" in text) == (14, True)


async def test_a_watch_is_told_that_a_revision_does_not_exist_only_when_nobody_has_it(
    cluster, monkeypatch
):
    """A node that lags and reaches no leader sends who resumes a watch elsewhere, which is tried
    again; a revision that is yet to come is refused."""
    one, _, three = await cluster.three()
    cluster.network.cut(three.raft)
    revision = await one.put("k", b"v")
    monkeypatch.setattr("dfs.node.node.WATCH_WAIT_MS_MAX", 50)
    lagging = watch(three, after_revision=revision)
    assert await take(lagging) is None
    code, text, *_ = lagging.ended.result()
    assert code == Unavailable.row.code, text
    monkeypatch.undo()
    cluster.network.cut(three.raft, False)
    resumed = watch(three, after_revision=revision)
    last, until = await one.put("k", b"w"), 0
    while until < last:
        until = pb.WatchResponse.FromString(await take(resumed)).revision
    resumed.cancel()
    unborn = watch(three, after_revision=revision + 1_000)
    assert await take(unborn) is None
    code, text, *_ = unborn.ended.result()
    assert code == OutOfRange.row.code, text
    assert "does not exist yet" in text
