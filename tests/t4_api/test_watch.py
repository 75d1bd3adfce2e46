"""Watches and history: every change once, in order, from any retained revision on."""

import asyncio

import grpc
import pytest

from dfs.limits import SMALL_VALUE_BYTES_MAX
from dfs.proto import dfs_pb2 as pb

from .conftest import refused

Code = grpc.StatusCode


async def put(api, key, data=b""):
    return (await api.files.Put(pb.PutRequest(key=key, data=data))).revision


async def events(call, count):
    """The next `count` events, and the last revision told."""
    found, revision = [], 0
    while len(found) < count:
        answer = await call.read()
        assert answer.revision >= revision
        assert not answer.gap_floor
        revision = answer.revision
        found += answer.events
    assert len(found) == count
    return found, revision


async def test_from_now_on(api):
    await put(api, "before")
    call = api.files.Watch(pb.WatchRequest(data_bytes_max=3))
    started = await call.read()
    assert started.revision == api.applied()
    first = await put(api, "k", b"abc")
    second = await put(api, "k", b"abcd")
    await api.files.Delete(pb.DeleteRequest(key="k"))
    found, revision = await events(call, 3)
    assert [(e.type, e.key, e.data, e.has_data) for e in found] == [
        (pb.Event.PUT, "k", b"abc", True),
        (pb.Event.PUT, "k", b"", False),
        (pb.Event.DELETE, "k", b"", False),
    ]
    assert [e.previous_revision for e in found] == [0, first, second]
    assert found[2].record.revision == second
    assert found[2].revision == revision == api.applied()
    call.cancel()


async def test_a_subtree_only(api):
    call = api.files.Watch(pb.WatchRequest(key="d"))
    await call.read()
    for key in ("d1", "d.x", "d/a", "e/d/a", "d/b/c"):
        await put(api, key)
    assert [e.key for e in (await events(call, 4))[0]] == ["d", "d/a", "d/b", "d/b/c"]
    call.cancel()


async def test_snapshot_first_then_what_follows(api):
    """A watch with a snapshot sends first everything as of one revision and then every change
    since."""
    await put(api, "a", b"1")
    await api.files.MakeDir(pb.MakeDirRequest(key="d"))
    call = api.files.Watch(pb.WatchRequest(snapshot=True, data_bytes_max=10))
    items = []
    while not (answer := await call.read()).snapshot_end:
        items += answer.items
        assert answer.revision == api.applied()
    assert [(i.key, i.data, i.has_data) for i in items] == [("a", b"1", True), ("d", b"", False)]
    revision = await put(api, "b")
    found, told = await events(call, 1)
    assert (found[0].key, told) == ("b", revision)
    call.cancel()


async def test_a_snapshot_with_content_of_later_revisions_only(api):
    """A snapshot for a watch that names `data_after_revision` has every item, and content only of
    those that have changed since that revision."""
    small, larger = b"small", b"l" * (SMALL_VALUE_BYTES_MAX + 1)  # which stands elsewhere
    for key in ("kept", "old", "kept2", "old2"):
        await put(api, key, larger if "2" in key else small)
    after = api.applied()
    await put(api, "old", b"new")
    await put(api, "old2", larger + b"!")
    await api.files.MakeDir(pb.MakeDirRequest(key="d"))
    request = pb.WatchRequest(snapshot=True, data_bytes_max=1 << 20, data_after_revision=after)
    call = api.files.Watch(request)
    items = []
    while not (answer := await call.read()).snapshot_end:
        items += answer.items
    assert {i.key: i.data if i.has_data else None for i in items} == {
        "kept": None, "kept2": None, "old": b"new", "old2": larger + b"!", "d": None
    }
    await put(api, "kept", b"again")
    assert [(e.key, e.data) for e in (await events(call, 1))[0]] == [("kept", b"again")]
    call.cancel()


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"data_bytes_max": 9}, "set snapshot, or leave it out"),
        ({"data_bytes_max": 9, "after_revision": 1}, "set snapshot, or leave it out"),
        ({"snapshot": True}, "set data_bytes_max, or leave it out"),
    ],
)
async def test_content_of_later_revisions_is_for_a_snapshot_with_content(api, fields, why):
    await put(api, "a")
    call = api.files.Watch(pb.WatchRequest(data_after_revision=1, **fields))
    found = await refused(call.read())
    assert found.code == Code.INVALID_ARGUMENT
    assert found.text.endswith(why)


@pytest.mark.parametrize(
    ("key", "expected"), [("d", ["d", "d/x"]), ("d/x", ["d/x"]), ("none", []), ("e", ["e"])]
)
async def test_snapshot_of_one_key_shows_itself_and_below(api, key, expected):
    await put(api, "d/x")
    await put(api, "f")
    await api.files.MakeDir(pb.MakeDirRequest(key="e"))
    call = api.files.Watch(pb.WatchRequest(key=key, snapshot=True))
    items = []
    while not (answer := await call.read()).snapshot_end:
        items += answer.items
    assert [i.key for i in items] == expected
    call.cancel()


async def test_resume_tells_each_change_once(api):
    revisions = [await put(api, f"k{n}") for n in range(5)]
    call = api.files.Watch(pb.WatchRequest(after_revision=revisions[1]))
    found, _ = await events(call, 3)
    assert [e.revision for e in found] == revisions[2:]
    more = await put(api, "more")
    assert [e.revision for e in (await events(call, 1))[0]] == [more]
    call.cancel()


async def test_resume_while_writes_go_on_neither_loses_nor_repeats(api):
    """A watch tells every change once and in the order of revisions, and one that resumes after a
    revision tells all that came after it, while writes go on."""
    async def write(writer):
        return [await put(api, f"w{writer}/{n}") for n in range(100)]

    writers = [asyncio.ensure_future(write(w)) for w in range(4)]
    seen, after = [], 1
    while len(seen) < 400:
        call = api.files.Watch(pb.WatchRequest(after_revision=after))
        for _ in range(3):
            answer = await call.read()
            seen += [e.revision for e in answer.events if "/" in e.key]
            after = answer.revision
        call.cancel()
    written = sorted(r for revisions in await asyncio.gather(*writers) for r in revisions)
    assert seen == written


async def test_all_changes_of_a_revision_come_in_one_answer(api):
    """All changes of one revision come in one answer of a watch."""
    for n in range(5):
        await put(api, f"d/{n}")
    after = api.applied()
    call = api.files.Watch(pb.WatchRequest(after_revision=after))
    revision = (await api.files.Delete(pb.DeleteRequest(key="d", recursive=True))).revision
    while not (answer := await call.read()).events:
        assert answer.revision < revision
    assert {e.revision for e in answer.events} == {revision}
    assert [e.sub for e in answer.events] == sorted({e.sub for e in answer.events})
    assert len(answer.events) >= 5
    call.cancel()


async def test_progress_without_changes(api):
    call = api.files.Watch(pb.WatchRequest(key="quiet", progress_ms=20))
    await call.read()
    revision = await put(api, "elsewhere")
    while (answer := await call.read()).revision < revision:
        assert not answer.events
    assert not answer.events
    call.cancel()


async def test_gap_when_the_floor_has_passed(api):
    """A watch that asks for changes which history no longer has gets a gap that says so, and ends;
    it never just leaves them out."""
    for n in range(6):
        await put(api, f"k{n}")
    floor = api.applied() - 2
    node = api.running.node
    await node._hot.submit(node._codec.floor_entry(floor), 5000)
    call = api.files.Watch(pb.WatchRequest(after_revision=1))
    answer = await call.read()
    assert (answer.gap_floor, list(answer.events)) == (floor, [])
    assert await call.read() == grpc.aio.EOF
    call = api.files.Watch(pb.WatchRequest(after_revision=floor - 1))
    assert [e.revision for e in (await events(call, 3))[0]] == [floor, floor + 1, floor + 2]
    call.cancel()


async def test_a_revision_that_does_not_come_is_refused(api, monkeypatch):
    monkeypatch.setattr("dfs.node.node.WATCH_WAIT_MS_MAX", 50)
    found = await refused(api.files.Watch(pb.WatchRequest(after_revision=1 << 40)).read())
    assert (found.code, found.reason) == (Code.OUT_OF_RANGE, "OUT_OF_RANGE")


async def test_history_newest_first(api):
    revisions = [await put(api, "d/k", b"%d" % n) for n in range(4)]
    await put(api, "other")
    await api.files.Delete(pb.DeleteRequest(key="d/k"))
    answers = [a async for a in api.files.History(pb.HistoryRequest(key="d/k"))]
    found = [e for answer in answers for e in answer.events]
    assert [e.type for e in found] == [pb.Event.DELETE, *[pb.Event.PUT] * 4]
    assert [e.revision for e in found[1:]] == revisions[::-1]
    assert {answer.floor for answer in answers} == {api.running.store.floor}

    request = pb.HistoryRequest(key="d/k", before_revision=revisions[3], limit=2)
    page = [e.revision async for a in api.files.History(request) for e in a.events]
    assert page == [revisions[2], revisions[1]]
    answers = [a async for a in api.files.History(pb.HistoryRequest(key="never"))]
    assert [len(a.events) for a in answers] == [0]


async def test_long_history_in_pieces(api):
    revisions = [await put(api, "k") for _ in range(1100)]
    answers = [a async for a in api.files.History(pb.HistoryRequest(key="k"))]
    assert len(answers) > 1
    assert [e.revision for a in answers for e in a.events] == revisions[::-1]
    request = pb.HistoryRequest(key="k", limit=700)
    limited = [e async for a in api.files.History(request) for e in a.events]
    assert len(limited) == 700


async def test_watches_end_at_once_when_the_node_stops(api):
    call = api.files.Watch(pb.WatchRequest(progress_ms=60_000))
    await call.read()
    draining = asyncio.ensure_future(api.running.node.drain())
    found = await refused(call.read())
    assert (found.code, found.reason) == (Code.UNAVAILABLE, "UNAVAILABLE")
    assert found.retry_ms > 0
    assert "shutting down" in found.text
    await draining
