"""Watchers that are slow, late or overtaken by the floor, without any network."""

import asyncio
from itertools import chain, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dfs.errors import Overloaded, Unavailable
from dfs.kv import MemoryKV
from dfs.limits import STREAM_CHUNK_BYTES_MAX, WATCH_EVENTS_MAX
from dfs.node.watch.watcher import Queue
from dfs.proto import dfs_pb2 as pb
from dfs.store import Store, revision_of, told_bytes
from dfs.store.layout import history_key, pack_event, seal

from .feed import Feed, collect


async def test_a_slow_watcher_gets_every_change_once_though_its_queue_overflows():
    feed = Feed()
    async with feed.follow() as updates:
        start = (await anext(updates)).revision
        for n in range(5):
            feed.put(*(f"k{n}-{m}" for m in range(WATCH_EVENTS_MAX // 2)))
        last = feed.store.applied
        assert await collect(updates, last) == list(range(start + 1, last + 1))
        live = feed.put("live")
        assert await collect(updates, live) == [live]
    assert not feed.watched


@pytest.mark.parametrize("snapshot", [False, True])
async def test_a_node_without_any_state_begins_no_watch(snapshot):
    """Who was told revision 0 and resumed after it would be told what comes from then on only."""
    feed = Feed()
    feed.store = Store(MemoryKV())

    async def not_applied(revision):
        raise Unavailable(f"no leader, so revision {revision} cannot be had")

    feed.watches._wait_for = not_applied
    async with feed.follow(snapshot=snapshot) as updates:
        with pytest.raises(Unavailable, match="no leader"):
            await anext(updates)


async def test_bytes_overflow_as_well_as_counts(monkeypatch):
    monkeypatch.setattr("dfs.node.watch.watcher.WATCH_BYTES_MAX", 10_000)
    feed = Feed()
    for n in range(5):
        feed.put(f"big{n}", data=bytes(STREAM_CHUNK_BYTES_MAX))
    async with feed.follow(snapshot=True, data=2 << 20) as updates:  # more than is taken
        start = (await anext(updates)).revision
        (watcher,) = feed.watches._alone[""]
        for n in range(5):
            feed.put(f"k{n}", data=bytes(4_000))
            assert watcher.behind == (n > 1)
        assert not watcher._queue
        last = feed.store.applied
        assert await collect(updates, last) == list(range(start + 1, last + 1))


async def test_a_slow_watcher_that_the_floor_has_passed_gets_a_gap():
    feed = Feed()
    async with feed.follow() as updates:
        start = (await anext(updates)).revision
        feed.put("first")
        await anext(updates)
        while feed.live():
            feed.put(*(f"k{n}" for n in range(WATCH_EVENTS_MAX)))
        last = feed.put("nobody is told")
        floor = feed.store.applied + 1
        feed.floor(floor)
        found = [update async for update in updates]
    assert [update.gap_floor for update in found if update.gap_floor] == [floor]
    assert not found[-1].changes
    told = [change.revision for update in found for change in update.changes]
    assert told == list(range(start + 2, start + 2 + len(told)))
    assert told[-1] < last


async def test_changes_during_the_snapshot_follow_it_once():
    feed = Feed()
    last = feed.put(*(f"k{n:05}" for n in range(3_000)))
    async with feed.follow(snapshot=True) as updates:
        items = (await anext(updates)).items
        new = feed.put("k00000", "new")
        async for update in updates:
            assert update.revision == last
            items += update.items
            if update.snapshot_end:
                break
        keys = [item.key for item in pb.WatchResponse.FromString(items).items]
        assert keys == [f"k{n:05}" for n in range(3_000)]
        assert await collect(updates, new) == [new - 1, new]


async def test_history_pieces_end_between_revisions(monkeypatch):
    monkeypatch.setattr("dfs.node.watch.watcher.WATCH_SCAN_MAX", 7)
    feed = Feed()
    last = feed.put(*(f"k{n}" for n in range(50)))
    async with feed.follow(after=1) as updates:
        assert await collect(updates, last) == list(range(2, last + 1))
        live = feed.put("live")
        assert await collect(updates, live) == [live]


async def test_history_pieces_hold_no_more_content_than_a_queue(monkeypatch):
    """Also where content is not told."""
    monkeypatch.setattr("dfs.node.watch.watcher.WATCH_BYTES_MAX", 10_000)
    feed = Feed()
    last = [feed.put(f"k{n}", data=bytes(4_000)) for n in range(9)][-1]
    async with feed.follow(after=1) as updates:
        told = []
        while len(told) < 9:
            changes = (await anext(updates)).changes
            assert len(changes) <= 2
            told += [change.revision for change in changes]
    assert told == list(range(last - 8, last + 1))


def stored(revision, sub, data):
    """A change as the store has it."""
    store_key = history_key(revision, sub)
    return store_key, seal(store_key, pack_event(0, 0, 0, 0, b"", b"k", b"record", data))


SIZES = st.integers(0, 40)


@given(st.lists(st.lists(SIZES, min_size=1, max_size=3), max_size=12), st.integers(0, 40), SIZES)
def test_pieces_of_a_queue_are_whole_revisions(revisions, data_bytes_max, skipped):
    changes = [
        stored(revision, sub, bytes(size))
        for revision, sizes in enumerate(revisions, 1) for sub, size in enumerate(sizes)
    ]  # fmt: skip
    queue = Queue(data_bytes_max)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("dfs.node.watch.watcher.STREAM_CHUNK_BYTES_MAX", 150)
        for revision in range(1, len(revisions) + 1):
            queue.put([c for c in changes if revision_of(c) == revision])
        queue.skip(skipped)
        pieces = []
        while queue:
            pieces.append(queue.take())
    assert queue.bytes == 0
    assert [*chain(*pieces)] == [c for c in changes if revision_of(c) > skipped]
    for piece, following in pairwise(pieces):
        last, first = revision_of(piece[-1]), revision_of(following[0])
        assert last < first, "a revision is in one piece"
        with_next = [*piece, following[0]]
        assert sum(told_bytes(c, data_bytes_max) for c in with_next) > 150, "it was full"
    for piece in pieces:
        before_last = [c for c in piece if revision_of(c) < revision_of(piece[-1])]
        assert sum(told_bytes(c, data_bytes_max) for c in before_last) <= 150


async def test_history_without_anything_of_interest_still_tells_progress(monkeypatch):
    monkeypatch.setattr("dfs.node.watch.watcher.WATCH_SCAN_MAX", 7)
    feed = Feed()
    last = feed.put(*(f"k{n}" for n in range(50)))
    async with feed.follow(key="other", after=1) as updates:
        told = []
        async for update in updates:
            assert not update.changes
            told.append(update.revision)
            if update.revision >= last:
                break
    assert told == sorted(told)
    assert len(told) > 3


async def test_a_replaced_state_sends_watchers_back_to_history():
    feed = Feed()
    async with feed.follow() as updates:
        start = (await anext(updates)).revision
        feed.watched = False  # as if these had come with an installed snapshot
        last = feed.put("a", "b", "c")
        feed.watched = True
        feed.watches.fall_behind()
        assert await collect(updates, last) == list(range(start + 1, last + 1))


async def test_only_watchers_of_the_key_or_above_are_woken():
    feed = Feed()
    async with feed.follow("a/b", data=5) as below, feed.follow("a", data=5) as above:
        await anext(below)
        await anext(above)
        last = feed.put("a/c", "a/b/x", "ab", "a/b", data=b"12345")  # the last one is refused
        found = await collect(above, last)
        assert len(set(found)) == 2
        async for update in below:
            if update.changes:
                assert {c.key for c in update.changes} == {"a/b", "a/b/x"}
                break


async def test_more_watches_than_the_limit_are_refused(monkeypatch):
    monkeypatch.setattr("dfs.node.watch.watches.WATCHES_MAX", 1)
    feed = Feed()
    async with feed.follow() as one, feed.follow() as two:
        await anext(one)
        with pytest.raises(Overloaded, match="WATCHES_MAX"):
            await anext(two)
    async with feed.follow() as three:
        assert (await anext(three)).revision == feed.store.applied


async def test_a_cancelled_watch_leaves_nothing_behind():
    feed = Feed()

    async def follow():
        async with feed.follow(progress_s=60) as updates:
            async for _ in updates:
                pass

    task = asyncio.ensure_future(follow())
    while not feed.watched:
        await asyncio.wait([task], timeout=0.001)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert not feed.watched
    assert not feed.watches._alone
    assert not feed.watches._groups
