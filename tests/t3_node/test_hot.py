"""The hot thread: calls of the wire, refusals, and when the process must end."""

import asyncio
import os
import threading

import pytest

from dfs.errors import DataLoss, OutOfSpace
from dfs.limits import READ_TOGETHER_BYTES_MAX, STREAM_CHUNK_BYTES_MAX
from dfs.node import Caller, Mailboxes, StateFault, Wanted
from dfs.proto import dfs_pb2 as pb

LARGE = READ_TOGETHER_BYTES_MAX + 1_000
"""Read by itself, not with the others of a turn."""


async def test_put_and_get_by_the_wire(cluster):
    one = await cluster.start("node1")
    revision = await one.put("a/b", b"x")
    assert revision == one.store.applied
    assert await one.get("a/b") == b"x"


async def test_many_calls_at_once(cluster):
    one = await cluster.start("node1")
    revisions = await asyncio.gather(*(one.put(f"k{n}", b"%d" % n) for n in range(2_000)))
    assert sorted(revisions) == list(range(min(revisions), min(revisions) + 2_000))
    assert await asyncio.gather(*(one.get(f"k{n}") for n in range(2_000))) == [
        b"%d" % n for n in range(2_000)
    ]


async def test_refusals_of_the_door_and_of_apply_look_alike(cluster):
    one = await cluster.start("node1")
    await one.put("file")
    code, text, details = await one.call(1, pb.PutRequest(key="a//b").SerializeToString())
    assert (code, text) == (3, "bad key 'a//b': it holds '//': a component is empty")
    assert details
    code, text, details = await one.call(1, pb.PutRequest(key="file/x").SerializeToString())
    assert code == 9
    assert "file" in text
    assert details
    assert (await one.call(2, b"\xff"))[0] == 3


async def test_large_answers_are_spread_over_turns(cluster, monkeypatch):
    monkeypatch.setattr("dfs.node.hot.TURN_ANSWER_BYTES_MAX", 60_000)
    one = await cluster.start("node1")
    await one.put("k", bytes(LARGE))
    answers = []
    step = one.engine.step

    def counted(applied, propose, respond, *others):
        answers.append(sum(len(result) for _, result in respond))
        return step(applied, propose, respond, *others)

    monkeypatch.setattr(one.engine, "step", counted)
    get = pb.GetRequest(key="k").SerializeToString()
    found = await asyncio.gather(*(one.call(2, get) for _ in range(50)))
    assert all(pb.GetResponse.FromString(answer).data == bytes(LARGE) for answer in found)
    assert max(answers) < 60_000 + LARGE + 1_000
    assert await one.put("k2") > 0


async def test_small_calls_do_not_wait_for_large_answers(cluster, monkeypatch):
    monkeypatch.setattr("dfs.node.hot.TURN_ANSWER_BYTES_MAX", 1)
    one = await cluster.start("node1")
    await one.put("k", bytes(LARGE))
    step, asked, answered, before = one.engine.step, threading.Event(), [0], []

    def counted(applied, propose, respond, *others):
        asked.wait()
        answered[0] += len(respond)
        return step(applied, propose, respond, *others)

    monkeypatch.setattr(one.engine, "step", counted)
    get = pb.GetRequest(key="k").SerializeToString()
    large = [one.engine.call(2, get) for _ in range(200)]
    small = one.engine.call(1, pb.PutRequest(key="small").SerializeToString())
    small.add_done_callback(lambda _: before.append(answered[0]))
    asked.set()
    found = await asyncio.gather(*map(asyncio.wrap_future, large))
    assert all(len(answer) > LARGE for answer in found)
    assert before[0] < 10


async def test_lists_that_are_looked_at_in_vain_are_spread_over_turns(cluster, monkeypatch):
    monkeypatch.setattr("dfs.node.hot.TURN_ANSWER_BYTES_MAX", STREAM_CHUNK_BYTES_MAX)
    one = await cluster.start("node1")
    step, asked, turns, looked = one.engine.step, threading.Event(), [0], []

    def counted(*arguments):
        asked.wait()
        turns[0] += 1
        return step(*arguments)

    monkeypatch.setitem(one.node._codec.streams, 7, lambda _body: looked.append(turns[0]))
    monkeypatch.setattr(one.engine, "step", counted)
    calls = [one.engine.stream(7, pb.ListRequest().SerializeToString()) for _ in range(6)]
    asked.set()
    for call in calls:
        assert await asyncio.to_thread(call.take)
    assert [looked.count(turn) for turn in sorted(set(looked))] == [2, 2, 2]


async def test_plain_reads_of_a_turn_are_answered_together_and_kept(cluster):
    one = await cluster.start("node1")
    for key in ("a", "b"):
        await one.put(f"d/{key}", key.encode())
    bodies = [pb.GetRequest(key=f"d/{k}").SerializeToString() for k in "abx"]
    bodies += [pb.GetRequest(key="d").SerializeToString(), b"\xff"]
    for _ in range(2):
        found = await asyncio.gather(*(one.call(2, body) for body in bodies))
        data = [pb.GetResponse.FromString(answer).data for answer in found[:2]]
        assert data == [b"a", b"b"]
        assert [code for code, _, _ in found[2:]] == [5, 9, 3]
        assert await asyncio.gather(*(one.node.read(2, b, False, 1_000) for b in bodies)) == found
    assert [one.engine.kept.find(2, body) is not None for body in bodies] == [
        True, True, False, False, False
    ]
    stat = await one.call(3, bodies[0])
    assert pb.StatResponse.FromString(stat).record.size == 1
    await one.put("d/a", b"new")
    found = await asyncio.gather(*(one.call(2, body) for body in bodies[:2]))
    assert [pb.GetResponse.FromString(answer).data for answer in found] == [b"new", b"b"]


@pytest.mark.allow_logs("stops serving its state: the checksum of the record of bad")
async def test_damage_is_said_to_whom_it_concerns_and_ends_the_service(cluster):
    one = await cluster.start("node1")
    for key in ("good", "bad"):
        await one.put(key, b"v")
    store_key = b"nbad"
    kv = one.store._kv
    kv.write({store_key: kv.get(store_key)[:-1] + b"?"})
    one.engine.forget_all(False)  # What was written is known without a look at the store.
    bodies = [pb.GetRequest(key=key).SerializeToString() for key in ("good", "bad")]
    good, bad = await asyncio.gather(*(one.call(2, body) for body in bodies))
    assert pb.GetResponse.FromString(good).data == b"v"
    assert (bad[0], bad[1]) == (15, "the checksum of the record of bad does not fit: the disk lies")
    with pytest.raises(StateFault, match="the record of bad"):
        await one.node.failed
    assert (await one.call(2, bodies[0]))[0] == 14
    assert "the record of bad" in one.running.identity.fault


@pytest.mark.parametrize("error", [DataLoss("a block is damaged"), ZeroDivisionError("x")])
@pytest.mark.allow_logs("internal error")
async def test_reads_that_fail_together_are_answered_one_by_one(cluster, monkeypatch, error):
    one = await cluster.start("node1")
    await one.put("k", b"v")

    def broken(_keys):
        raise error

    monkeypatch.setattr(one.store._kv, "get_many", broken)
    found = await one.call(2, pb.GetRequest(key="k").SerializeToString())
    assert pb.GetResponse.FromString(found).data == b"v"


async def test_a_read_that_is_behind_waits_for_its_revision(cluster):
    one = await cluster.start("node1")
    revision = await one.put("k", b"old")
    reading = asyncio.ensure_future(one.get("k", min_revision=revision + 1))
    await one.put("k", b"new")
    assert await reading == b"new"
    body = pb.GetRequest(key="k", min_revision=1 << 40).SerializeToString()
    assert (await one.node.read(2, body, True, 50))[0] == 4


async def test_without_a_leader_writes_fail_and_local_reads_go_on(cluster, monkeypatch):
    """Without a leader writes and linearizable reads fail with UNAVAILABLE within their deadline;
    reads of what is applied here go on."""
    monkeypatch.setattr("dfs.engine_memory.engine.LEADER_WAIT_MS_MAX", 50)
    one = await cluster.start("node1")
    await one.put("k", b"v")
    cluster.network.depose(one.engine)
    put = pb.PutRequest(key="k2").SerializeToString()
    get = pb.GetRequest(key="k").SerializeToString()
    assert (await one.node.write(1, put, 1_000))[:2] == (14, "no leader, nothing was done")
    assert (await one.call(1, put))[0] == 14
    assert (await one.node.read(2, get, False, 50))[0] == 14
    found = await one.node.read(2, get, True, 50)
    assert pb.GetResponse.FromString(found).data == b"v"
    assert not one.node.ready()
    cluster.network.elect(one.engine)
    assert await one.put("k2") > 0
    assert one.node.ready()


@pytest.mark.allow_logs("there is space on the disk again", "MiB left")
async def test_a_full_disk_refuses_writes_but_no_deletes(cluster, monkeypatch):
    """When the disk is nearly full writes are refused with RESOURCE_EXHAUSTED while reads and
    deletions go on, and writes are taken again as soon as there is space."""
    one = await cluster.start("node1")
    await one.put("k", b"v")
    space = one.node._space
    monkeypatch.setattr(space, "_bytes_min", 1 << 62)
    await space.check()
    put = pb.PutRequest(key="k2").SerializeToString()
    for found in (await one.call(1, put), await one.node.write(1, put, 1_000)):
        assert found[0] == 8
        assert "DISK_FREE_BYTES_MIN" in found[1]
    assert await one.get("k") == b"v"
    assert isinstance(await one.call(4, pb.DeleteRequest(key="k").SerializeToString()), bytes)
    (row,) = await one.node.status(True)
    assert "MiB left" in row["error"]
    monkeypatch.setattr(space, "_bytes_min", 1)
    await space.check()
    assert await one.put("k2") > 0


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (ZeroDivisionError("x"), "going on could serve wrong data"),
        (OutOfSpace("full"), "the store cannot be written"),
        (OSError("I/O error"), "I/O error"),
    ],
)
async def test_an_exception_in_apply_ends_the_process(cluster, monkeypatch, error, words):
    one = await cluster.start("node1")

    def broken(*_):
        raise error

    monkeypatch.setattr(one.store, "apply", broken)
    died = asyncio.Event()
    loop = asyncio.get_running_loop()

    def die(text):
        cluster.deaths.append(text)
        loop.call_soon_threadsafe(died.set)

    monkeypatch.setattr(one.node._hot, "_die", die)
    call = one.engine.call(1, pb.PutRequest(key="k").SerializeToString())
    await died.wait()
    (text,) = cluster.deaths
    assert words in text
    cluster.deaths.clear()
    assert not call.done()


@pytest.mark.parametrize("reader", ["list", "history", "watch", "backup", "snapshot"])
@pytest.mark.allow_logs("the checksum of", "could not be written")
async def test_damage_that_any_reader_finds_ends_the_service(cluster, reader):
    one = await cluster.start("node1")
    await one.put("d/k", b"v")
    kv, node = one.store._kv, one.node
    for store_key, value in list(kv.scan(b"", b"\xff")):
        if store_key[:1] in (b"n", b"h"):
            kv.write({store_key: value[:-1] + b"?"})

    async def read():
        if reader == "list":
            return [a async for a in node.list_answers("", True, "", 0, 0)]
        if reader == "history":
            return [piece async for piece in node.history("", 0, 10)]
        if reader == "backup":
            return [piece async for piece in node.backup(True)]
        if reader == "watch":
            caller = Caller(1, Mailboxes())
            return await node.watch(caller, Wanted("", 0, 1.0), 1, False, 0)
        return await asyncio.to_thread(one.engine.snapshot, 5_000)

    with pytest.raises(Exception, match="the checksum of"):
        await read()
    with pytest.raises(StateFault, match="the checksum of"):
        await node.failed


@pytest.mark.allow_logs("stops serving its state: bad sum")
async def test_damage_that_apply_finds_ends_the_service(cluster, monkeypatch):
    one = await cluster.start("node1")

    def broken(*_):
        raise DataLoss("bad sum")

    monkeypatch.setattr(one.store, "apply", broken)
    call = one.engine.call(1, pb.PutRequest(key="k").SerializeToString())
    with pytest.raises(StateFault, match="bad sum"):
        await one.node.failed
    assert not call.done(), "it has not been applied"


async def test_a_storage_error_of_the_engine_ends_the_process(cluster, monkeypatch):
    one = await cluster.start("node1")
    died = asyncio.Event()
    loop = asyncio.get_running_loop()
    monkeypatch.setattr(one.node._hot, "_die", lambda _text: loop.call_soon_threadsafe(died.set))
    one.engine.fail("the log could not be written")
    await died.wait()


async def test_the_store_is_flushed_and_the_engine_told(cluster):
    one = await cluster.start("node1")
    await one.put("k")
    await asyncio.to_thread(one.node._flusher.flush)
    assert one.engine.durable_index == one.store.applied
    engine = one.engine
    await one.put("k2")
    applied = one.store.applied
    await one.stop()
    assert engine.durable_index == applied


async def test_retries_with_one_id_are_applied_once(cluster):
    one = await cluster.start("node1")
    request_id = os.urandom(16)
    first = await one.put("k", b"1", request_id=request_id)
    assert await one.put("k", b"1", request_id=request_id) == first
