"""Watchers that want the same are told together; who cannot keep up is told alone until it can."""

import asyncio
import random
from contextlib import AsyncExitStack

import pytest

from dfs.errors import Internal, Unavailable
from dfs.limits import STREAM_CHUNK_BYTES_MAX
from dfs.node import Caller, Wanted
from dfs.store import change_of

from . import feed as rig
from .feed import Feed, collect, pickled


@pytest.fixture
def encoded(monkeypatch):
    """Updates in the order in which they were encoded."""
    found = []

    def noted(update, data_bytes_max):
        found.append(rig.read(update, data_bytes_max))
        return pickled(update, data_bytes_max)

    monkeypatch.setattr(rig, "pickled", noted)
    return found


async def until(condition):
    """Lets the event loop go on until something holds."""
    async with asyncio.timeout(20):
        while not condition():
            tick = asyncio.get_running_loop().create_future()
            asyncio.get_running_loop().call_later(0.001, tick.set_result, None)
            await tick


async def follow_all(feed, stack, wanted):
    """Started watches, all of them live."""
    found = [await stack.enter_async_context(feed.follow(**fields)) for fields in wanted]
    for updates in found:
        await anext(updates)
    await until(lambda: feed.live() == len(wanted))
    return found


async def test_what_many_want_is_encoded_once(encoded):
    feed = Feed()
    async with AsyncExitStack() as stack:
        watches = await follow_all(feed, stack, [{"key": "d", "progress_s": 60}] * 50)
        encoded.clear()
        revision = feed.put("d/k", "other")
        assert [[c.key for c in update.changes] for update in encoded] == [["d", "d/k"]]
        for updates in watches:
            assert await collect(updates, revision) == [revision - 1] * 2
        assert len(encoded) == 1
    assert not feed.watches._groups


async def test_the_first_change_goes_out_at_once_and_a_burst_together(encoded, monkeypatch):
    monkeypatch.setattr("dfs.node.watch.group.WATCH_PACE_MS", 60_000)
    feed = Feed()
    async with AsyncExitStack() as stack:
        [updates] = await follow_all(feed, stack, [{"progress_s": 120, "data": 1 << 20}])
        encoded.clear()
        first = feed.put("first")
        assert [update.revision for update in encoded] == [first]
        last = [feed.put(f"k{n}") for n in range(3)][-1]
        assert len(encoded) == 1
        monkeypatch.setattr("dfs.node.watch.group.STREAM_CHUNK_BYTES_MAX", 100)
        last = feed.put("more than one message holds")
        assert [len(update.changes) for update in encoded[1:]] == [4]
        assert await collect(updates, last) == list(range(first, last + 1))


async def test_what_is_held_back_is_sent_by_itself(encoded, monkeypatch):
    monkeypatch.setattr("dfs.node.watch.group.WATCH_PACE_MS", 50)
    feed = Feed()
    async with AsyncExitStack() as stack:
        [updates] = await follow_all(feed, stack, [{"progress_s": 60}])
        first = feed.put("a")
        last = [feed.put("b"), feed.put("c")][-1]
        assert await collect(updates, last) == [first, last - 1, last]
        assert len(encoded) <= 4


class Recorder:
    """Callers that are full when it is said so."""

    def __init__(self):
        self.full, self.sent = set(), []

    def send(self, calls, message):
        self.sent.append(list(calls))
        return [(call, 1) for call in calls if call in self.full]


async def test_who_leaves_an_empty_group_late_does_not_end_the_next_one():
    """Two leave, and between their wake-ups a third finds the group gone and begins another."""
    feed, post = Feed(), Recorder()
    callers = [Caller(number, post) for number in range(3)]
    post.full = {2}
    watching = [
        asyncio.ensure_future(feed.watches.follow(caller, Wanted("", 0, 60), 0, False))
        for caller in callers
    ]
    try:
        await until(lambda: feed.live() == 2 and not callers[2].room.is_set())
        post.full = {0}
        feed.put("a")  # the first is full
        callers[2].room.set()
        post.full = {1}
        [group] = feed.watches._groups[""].values()
        feed.put("b")
        group._send_all()  # as after its pace: the second is full
        post.full = set()
        await until(lambda: feed.live() == 1)
        post.sent.clear()
        feed.put("c")
        await until(lambda: [2] in post.sent)
        for caller in callers:
            caller.room.set()
        await until(lambda: feed.live() == 3)
    finally:
        for one in watching:
            one.cancel()
        await asyncio.gather(*watching, return_exceptions=True)


async def test_groups_are_told_only_what_they_want(encoded):
    feed = Feed()
    wanted = [
        {"key": key, "data": data, "progress_s": 60} for key in ("", "d", "d/x") for data in (0, 4)
    ]
    async with AsyncExitStack() as stack:
        watches = await follow_all(feed, stack, wanted + wanted)
        encoded.clear()
        revision = feed.put("d/x", data=b"1234")
        feed.put("e", data=b"12345")
        for updates, fields in zip(watches, wanted + wanted, strict=True):
            changes = [c for c in (await anext(updates)).changes if c.key == "d/x"]
            assert [(c.revision, c.data) for c in changes] == [
                (revision, b"1234" if fields["data"] else None)
            ]
        assert len(encoded) == 6


async def test_who_does_not_read_is_left_behind_and_nobody_waits_for_it():
    feed = Feed()
    async with AsyncExitStack() as stack:
        watches = await follow_all(feed, stack, [{"data": 1 << 20}] * 3)
        start, slow = feed.store.applied, watches[1]
        for n in range(8):
            last = feed.put(f"k{n}", data=bytes(STREAM_CHUNK_BYTES_MAX // 2))
            for updates in (watches[0], watches[2]):
                assert await collect(updates, last) == [last]
        await until(lambda: feed.live() == 2)
        assert await collect(slow, last) == list(range(start + 1, last + 1))
        await until(lambda: feed.live() == 3)
        live = feed.put("live")
        assert [await collect(updates, live) for updates in watches] == [[live]] * 3


async def test_joining_while_a_burst_is_held_back_repeats_nothing(monkeypatch):
    monkeypatch.setattr("dfs.node.watch.group.WATCH_PACE_MS", 200)
    feed = Feed()
    async with AsyncExitStack() as stack:
        [early] = await follow_all(feed, stack, [{"progress_s": 60}])
        start = feed.put("a")
        feed.put("b")  # held back
        late = await stack.enter_async_context(feed.follow(progress_s=60))
        later = await stack.enter_async_context(feed.follow(after=start, progress_s=60))
        assert (await anext(late)).revision == start + 1
        assert await collect(later, start + 1) == [start + 1]
        await until(lambda: feed.live() == 3)
        last = feed.put("c")
        assert await collect(late, last) == [last]
        assert await collect(later, last) == [last]
        assert await collect(early, last) == [start, start + 1, last]


async def test_a_watcher_that_saw_more_than_was_delivered_is_told_no_less():
    """A view shows what the hot thread has applied; what is delivered of it follows."""
    feed = Feed()
    async with feed.follow(progress_s=0.01) as updates:
        await anext(updates)
        deliver, held = feed.watches.deliver, []
        feed.watches.deliver = held.append
        last = feed.put("a", "b", "c")
        async with feed.follow(progress_s=0.01) as ahead:
            assert (await anext(ahead)).revision == last
            await until(lambda: feed.live() == 2)
            for _ in range(3):  # marks of progress
                assert await anext(ahead) == (last, [], b"", False, 0)
            feed.watches.fall_behind()
            await until(lambda: feed.live() == 2)
            more = feed.put("d")
            for turn in held:
                deliver(turn)
            assert await collect(ahead, more) == [more]
            assert await collect(updates, more) == list(range(last - 2, more + 1))


async def test_a_watcher_that_saw_all_of_a_message_gets_a_mark_of_progress():
    feed = Feed()
    async with AsyncExitStack() as stack:
        [updates] = await follow_all(feed, stack, [{"progress_s": 60}])
        deliver, held = feed.watches.deliver, []
        feed.watches.deliver = held.append
        first, last = feed.put("a"), feed.put("b")
        ahead = await stack.enter_async_context(feed.follow(progress_s=60))
        assert (await anext(ahead)).revision == last
        await until(lambda: feed.live() == 2)
        deliver(held[0])
        assert await collect(updates, first) == [first]
        async with asyncio.timeout(10):
            assert await anext(ahead) == (last, [], b"", False, 0)


async def test_all_changes_of_a_revision_stay_together_in_pieces(monkeypatch):
    monkeypatch.setattr("dfs.node.watch.watcher.STREAM_CHUNK_BYTES_MAX", 1)
    feed = Feed()
    async with AsyncExitStack() as stack:
        [updates] = await follow_all(feed, stack, [{}])
        last = feed.put(*(f"dir{n}/of/new/k" for n in range(20)))
        told = []
        while not told or told[-1][1] < last:
            update = await anext(updates)
            told.append((len(update.changes), update.revision))
            assert len({c.revision for c in update.changes}) <= 1
        assert sum(count for count, _ in told) == 80


async def test_a_node_that_refuses_ends_its_live_watches():
    feed = Feed()
    async with AsyncExitStack() as stack:
        watches = await follow_all(feed, stack, [{"progress_s": 60}] * 3)
        feed.refusal = Internal("this node is unsound")
        feed.put("a")
        for updates in watches:
            with pytest.raises(Internal, match="unsound"):
                await anext(updates)
    assert not feed.watches._groups
    assert not feed.watched


async def test_a_node_that_stops_ends_its_live_watches():
    feed = Feed()
    async with AsyncExitStack() as stack:
        watches = await follow_all(feed, stack, [{"progress_s": 60}] * 3)
        feed.watches.end()
        for updates in watches:
            with pytest.raises(Unavailable, match="shutting down"):
                await anext(updates)


async def test_a_message_that_cannot_be_made_ends_the_watches_of_its_group(monkeypatch):
    feed = Feed()
    async with AsyncExitStack() as stack:
        broken, sound = await follow_all(feed, stack, [{"key": "a"}, {"key": "b"}])
        encode = feed.watches._encode

        def failing(update, most):
            if any(change.key == "a" for change in rig.read(update, most).changes):
                raise ZeroDivisionError
            return encode(update, most)

        for groups in feed.watches._groups.values():
            for group in groups.values():
                group._encode = failing
        feed.put("a")
        last = feed.put("b")
        with pytest.raises(ZeroDivisionError):
            await collect(broken, last)
        assert await collect(sound, last) == [last]


async def test_a_caller_that_is_gone_is_forgotten_with_the_next_message():
    feed = Feed()
    async with AsyncExitStack() as stack:
        watches = await follow_all(feed, stack, [{"progress_s": 60}] * 2)
        gone = min(feed.mailboxes._open)
        del feed.mailboxes._open[gone]  # as if its host had lost it
        last = feed.put("a")
        await until(lambda: feed.watches._count == 1)
        assert await collect(watches[1], last) == [last]


# ---- everything at random, against a model -------------------------------------------------------


class Told:
    """One watch of a random run, and what it has been told."""

    def __init__(self, updates, key, after):
        self.updates, self.key = updates, key
        self.after = after
        """None = whatever its first message says."""
        self.revision = 0
        self.found = []

    async def take(self):
        update = await anext(self.updates)
        assert not update.gap_floor
        assert update.revision >= self.revision
        if self.after is None:
            assert not update.changes
            self.after = update.revision
        self.revision = update.revision
        self.found += [(c.revision, c.sub, c.key) for c in update.changes]
        assert all(c.revision <= update.revision for c in update.changes)

    def expected(self, changes):
        return [
            change for change in changes
            if change[0] > self.after
            and (not self.key or change[2] == self.key or change[2].startswith(self.key + "/"))
        ]  # fmt: skip


def note_changes(feed):
    """All changes that are ever delivered, in order."""
    noted = []
    deliver = feed.watches.deliver

    def noting(turn):
        noted.extend((c.revision, c.sub, c.key) for c in map(change_of, turn[1]))
        deliver(turn)

    feed.watches.deliver = noting
    return noted


@pytest.mark.parametrize("seed", range(8))
async def test_everybody_is_told_everything_once_and_in_order(seed, monkeypatch):
    rng = random.Random(seed)
    for name, value in {
        "streams.STREAM_BYTES": 3_000,
        "watch.group.WATCH_PACE_MS": rng.choice([0, 1, 5]),
        "watch.group.STREAM_CHUNK_BYTES_MAX": 1_000,
        "watch.watcher.STREAM_CHUNK_BYTES_MAX": 1_000,
        "watch.watcher.WATCH_EVENTS_MAX": 40,
        "watch.watcher.WATCH_SCAN_MAX": 30,
    }.items():
        monkeypatch.setattr(f"dfs.node.{name}", value)
    feed = Feed()
    feed.watched = True
    feed._set_watched = lambda _watched: None
    feed.watches._on_watched = lambda _watched: None
    noted = note_changes(feed)
    keys = [f"{a}/{b}" for a in "abc" for b in "xyz"]
    async with AsyncExitStack() as stack:
        watches = []
        for _ in range(400):
            match rng.randrange(8):
                case 0 if len(watches) < 25:
                    key = rng.choice(["", "a", "b", "b/x", "none"])
                    after = rng.choice([0, rng.randint(1, feed.store.applied)])
                    updates = await stack.enter_async_context(
                        feed.follow(key, after, data=rng.choice([0, 50]), progress_s=0.02)
                    )
                    watches.append(Told(updates, key, after or None))
                case 1 | 2 | 3:
                    some = rng.choices(keys, k=rng.choice([1, 1, 2, 30]))
                    feed.put(*some, data=bytes(rng.choice([0, 40, 200])))
                case 4 | 5 if watches:
                    await rng.choice(watches).take()
                case 6 if watches:
                    for told in rng.sample(watches, len(watches) // 2):
                        await told.take()
                case _:
                    await asyncio.sleep(0)
        last = feed.put("a/x")
        for told in watches:
            while told.revision < last:
                await told.take()
    assert len(watches) > 5
    for told in watches:
        assert told.found == told.expected(noted)
