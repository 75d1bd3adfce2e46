"""Floor, hashes and snapshots."""

import asyncio
import shutil
import time

import pytest

from dfs.errors import Misconfigured, Unavailable
from dfs.kv import MemoryKV
from dfs.limits import HISTORY_AGE_S
from dfs.node import StateFault
from dfs.node.keeping import Floor, judge, reached
from dfs.proto import dfs_pb2 as pb
from dfs.store import Store

from .conftest import state, wait_until
from .test_watch import Feed

SECOND = 1_000_000_000


# ---- floor ---------------------------------------------------------------------------------------


def floor_of(feed, now_s, age_s=10, revisions_max=1_000, step_min=1):
    floor = Floor(
        lambda record: pb.Record.FromString(record).time_ns,
        age_s,
        revisions_max,
        step_min,
    )
    with feed.store.view() as view:
        return floor.next(view, now_s * SECOND)


@pytest.fixture
def aged():
    """Revision 2 at second 1, revision 3 at second 2 and so on to revision 31."""
    feed = Feed()
    for second in range(1, 31):
        feed.store.time_ns = second * SECOND - 1
        feed.put(f"k{second}")
    return feed


def test_floor_by_age_keeps_all_that_is_younger(aged):
    assert floor_of(aged, now_s=9) == 0
    # At second 25 what is older than second 15 may go: revision 16 is exactly that old.
    assert floor_of(aged, now_s=25) in (15, 16)
    assert floor_of(aged, now_s=1_000) == aged.store.applied


def test_floor_by_count(aged):
    assert floor_of(aged, now_s=1, revisions_max=20) == aged.store.applied - 20
    assert floor_of(aged, now_s=1, revisions_max=100) == 0


def test_floor_moves_in_steps_and_never_back(aged):
    assert floor_of(aged, now_s=25, step_min=100) == 0
    aged.floor(20)
    assert floor_of(aged, now_s=25) == 0
    assert floor_of(aged, now_s=35) > 20


async def test_the_leader_moves_the_floor(cluster, monkeypatch):
    one = await cluster.start("node1")
    for n in range(30):
        await one.put("k", b"%d" % n)
    monkeypatch.setattr(one.node._floor, "_revisions_max", 10)
    monkeypatch.setattr(one.node._floor, "_step_min", 1)
    expected = one.store.applied - 10
    await one.node.move_floor()
    assert one.store.floor == expected


def test_it_is_as_late_as_a_majority_says():
    assert reached([7], 1) == 7
    assert reached([7, 9], 2) == 7
    assert reached([7], 2) == 0
    assert reached([7, 9_000, 8], 3) == 8, "one clock is far ahead"
    assert reached([7, 0, 8], 3) == 7, "one clock is far behind"
    assert reached([9_000, 8], 3) == 8, "one does not answer"
    assert reached([9_000], 3) == 0, "a minority knows nothing"
    assert reached([1, 2, 3, 4], 4) == reached([1, 2, 3, 4, 5], 5) - 1 == 2


async def test_a_clock_that_is_days_ahead_makes_nothing_old(cluster, monkeypatch):
    """The clock of the leader alone drops no history, with which watches go on and repeated
    requests are found; that of a majority does."""
    one, two, _ = await cluster.three()
    for n in range(30):
        await one.put("k", b"%d" % n)
    monkeypatch.setattr(one.node._floor, "_step_min", 1)
    ahead = time.time_ns() + 3 * HISTORY_AGE_S * SECOND
    monkeypatch.setattr(one.node._clocks, "_clock", lambda: ahead)
    floor = one.store.floor
    await one.node.move_floor()
    assert one.store.floor == floor
    monkeypatch.setattr(two.node._clocks, "_clock", lambda: ahead)
    await one.node.move_floor()
    assert one.store.floor > floor


# ---- hashes --------------------------------------------------------------------------------------


def test_judge_finds_the_minority_at_a_common_index():
    right, wrong = "aa", "bb"
    assert judge({1: {5: right}, 2: {6: right}}, 1) == (0, set())
    assert judge({1: {5: right, 6: right}, 2: {5: right}, 3: {5: right}}, 1) == (5, set())
    assert judge({1: {5: right}, 2: {5: wrong}, 3: {5: right}}, 1) == (5, {2})
    assert judge({1: {5: wrong}, 2: {5: right}, 3: {5: right}}, 1) == (5, {1})
    # Nobody can arbitrate: the leader's word counts.
    assert judge({1: {5: right}, 2: {5: wrong}}, 1) == (5, {2})
    assert judge({1: {5: right}, 2: {5: wrong}}, 2) == (5, {1})
    # The latest index that the most have.
    marks = {1: {4: right, 5: right, 9: right}, 2: {4: right, 5: right, 9: right}, 3: {5: right}}
    assert judge(marks, 1) == (5, set())


async def test_equal_members_are_found_equal(any_cluster):
    one, two, three = await any_cluster.three()
    for n in range(20):
        last = await two.put(f"k{n}")
    await three.get("k0", min_revision=last)
    await two.get("k0", min_revision=last)
    await one.node._hashes.compare()
    assert one.node._hashes.compared > 0
    assert await three.get("k0", local=True) == b""


@pytest.mark.allow_logs("differs from that of the other members")
async def test_a_member_that_differs_serves_nothing_more(cluster):
    one, two, three = await cluster.three()
    last = await one.put("k", b"v")
    for member in (two, three):
        await member.get("k", min_revision=last)
    get = pb.GetRequest(key="k").SerializeToString()
    assert isinstance(await three.call(2, get), bytes)
    await three.differ()
    last = await one.put("k2")
    await two.get("k", min_revision=last)
    await three.get("k", min_revision=last)
    await one.node._hashes.compare()
    assert await two.get("k") == b"v"
    hashes = [m.store.state_hash.hex() for m in (three, two)]
    for local in (True, False):
        found = await three.node.read(2, get, local, 1_000)
        assert found[0] == Unavailable.row.code
        assert all(text in found[1] for text in ["ask another", "state of node3", *hashes])
    assert (await three.node.write(1, b"\x0a\x01x", 1_000))[0] == Unavailable.row.code
    assert (await three.call(1, b"\x0a\x01x"))[0] == Unavailable.row.code
    assert (await three.call(2, get))[0] == Unavailable.row.code, "not even what was kept"
    assert not three.node.ready()
    with pytest.raises(Unavailable):
        three.node.view()
    with pytest.raises(StateFault, match="differs from that of the other members"):
        await three.node.failed
    assert three.running.identity.fault_index > 0


@pytest.mark.allow_logs("differs from that of the other members", "dfs.healing")
async def test_of_two_that_differ_no_state_is_thrown_away(cluster):
    """The one that does not lead stops; a person decides by removing its state."""
    one = await cluster.start("node1")
    two = await cluster.start("node2", "node1")
    await two.differ()
    await two.get("k", min_revision=await one.put("k"))
    await one.node._hashes.compare()
    with pytest.raises(StateFault):
        await two.node.failed
    await two.stop()
    for _ in range(2):
        with pytest.raises(Misconfigured, match=r"nobody can say which is right.*remove .*store"):
            await cluster.start("node2", "node1")
    shutil.rmtree(cluster.root / "node2/store")
    two = await cluster.start("node2", "node1")
    await wait_until(lambda: state(two) == state(one))
    assert await one.put("k2") > 0


@pytest.mark.allow_logs("the state of node2 differs")
async def test_of_three_nobody_is_judged_by_one(cluster, caplog):
    one, two, three = await cluster.three()
    await three.stop()
    await two.differ()
    await two.get("k", min_revision=await one.put("k"))
    await one.node._hashes.compare()
    assert "the state of node2 differs" in caplog.text
    assert two.node._hot.fault is None
    three = await cluster.start("node3", "node1")
    last = await one.put("k")
    for member in (two, three):
        await member.get("k", min_revision=last)
    await one.node._hashes.compare()
    with pytest.raises(StateFault):
        await two.node.failed


@pytest.mark.allow_logs("differs from that of the other members")
async def test_a_leader_that_differs_finds_itself(cluster):
    one, two, three = await cluster.three()
    await one.differ()
    last = await one.put("k")
    for member in (two, three):
        await member.get("k", min_revision=last)
    await one.node._hashes.compare()
    with pytest.raises(StateFault, match="the state of node1 differs"):
        await one.node.failed
    assert not one.node.ready()
    await one.stop()
    await wait_until(lambda: "leader" in (two.role(), three.role()))
    assert await two.put("k2") > last


# ---- snapshots -----------------------------------------------------------------------------------


async def test_a_new_member_gets_a_snapshot_when_the_log_is_gone(cluster):
    one = await cluster.start("node1")
    for n in range(50):
        await one.put(f"k{n}", b"%d" % n)
    await asyncio.to_thread(one.engine.snapshot, 5_000)
    await one.put("after")
    two = await cluster.start("node2", "node1")
    await wait_until(lambda: state(two) == state(one))
    assert await two.get("k7", local=True) == b"7"
    last = await one.put("later")
    assert await two.get("later", min_revision=last) == b""
    await one.node._hashes.compare()
    assert one.node._hashes.compared > 0


async def test_calls_are_refused_while_the_state_is_replaced(cluster, monkeypatch):
    one = await cluster.start("node1")
    await one.put("k", b"v")
    await asyncio.to_thread(one.engine.snapshot, 5_000)
    began, release = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()
    restore = Store.restore

    def slow(store, path):
        loop.call_soon_threadsafe(began.set)
        asyncio.run_coroutine_threadsafe(release.wait(), loop).result()
        restore(store, path)

    monkeypatch.setattr(Store, "restore", slow)
    two = await cluster.start("node2", "node1")
    await began.wait()
    get = pb.GetRequest(key="k").SerializeToString()
    for found in (await two.node.read(2, get, True, 1_000), await two.node.write(1, get, 1_000)):
        assert found[0] == 14
        assert "replacing its state" in found[1]
    assert not two.node.ready()
    release.set()
    await wait_until(two.node.ready)
    assert await two.get("k", local=True) == b"v"


async def test_a_replaced_state_forgets_the_answers_of_the_old_one(cluster, monkeypatch):
    one = await cluster.start("node1")
    two = await cluster.start("node2", "node1")
    await two.get("k0", min_revision=await one.put("k0"))
    await two.get("k", min_revision=await one.put("k", b"old"))
    get = pb.GetRequest(key="k").SerializeToString()
    assert pb.GetResponse.FromString(await two.call(2, get)).data == b"old"
    await wait_until(lambda: two.engine.kept.find(2, get))
    cluster.network.cut(two.raft)
    await one.put("k", b"new")
    await asyncio.to_thread(one.engine.snapshot, 5_000)
    seen = []
    restore = Store.restore

    def watched(store, path):
        seen.append(two.engine.kept.find(2, get))
        restore(store, path)

    monkeypatch.setattr(Store, "restore", watched)
    cluster.network.cut(two.raft, False)
    assert pb.GetResponse.FromString(await two.call(2, get)).data == b"new"
    assert seen == [None]


async def test_writes_go_on_while_a_snapshot_is_written(cluster, monkeypatch):
    one = await cluster.start("node1")
    await one.put("k")
    began, release = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()
    export = one.store.export

    def slow(view, path):
        loop.call_soon_threadsafe(began.set)
        asyncio.run_coroutine_threadsafe(release.wait(), loop).result()
        export(view, path)

    monkeypatch.setattr(one.store, "export", slow)
    taking = asyncio.ensure_future(asyncio.to_thread(one.engine.snapshot, 5_000))
    await began.wait()
    last = await one.put("k2")
    release.set()
    await taking
    assert one.engine.status()["snapshot"] == last - 1
    fresh = Store(MemoryKV())
    fresh.restore(one.engine.recovery()["snapshot"])
    assert fresh.applied == last - 1


@pytest.mark.allow_logs("could not be written: no room")
async def test_a_snapshot_that_fails_is_said_and_the_node_goes_on(cluster, monkeypatch):
    one = await cluster.start("node1")

    def broken(*_):
        raise OSError("no room")

    monkeypatch.setattr(one.store, "export", broken)
    with pytest.raises(Exception, match="no room"):
        await asyncio.to_thread(one.engine.snapshot, 5_000)
    assert await one.put("k") > 0
