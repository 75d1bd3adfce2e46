"""Large contents between members: on a majority before they are named, everywhere soon, kept,
healed, and let go."""

from __future__ import annotations

import asyncio
import errno
import math
import os
import random
import threading
from pathlib import Path

import pytest

from dfs.assembling import Arrival
from dfs.commands import floor_entry
from dfs.errors import FailedPrecondition, OutOfSpace, TooLarge, Unavailable
from dfs.limits import CHUNK_BYTES_MIN, CONTENT_PULLS_MAX, CONTENT_WHOLES_MAX, INLINE_BYTES_MAX
from dfs.manifest import Manifest
from dfs.node.contents import Scrub
from dfs.node.contents.spreading import Spreading
from dfs.proto import dfs_pb2 as pb
from dfs.sealing import SEALED_NS

from .conftest import wait_until

SIZE = 3 * CHUNK_BYTES_MIN + 12_345
PUT_CONTENT = 10


def some(seed: int, size: int = SIZE) -> bytes:
    return random.Random(seed).randbytes(size)


def hand_over(member, data: bytes) -> tuple[Path, Manifest]:
    """Writes a file into the node's incoming directory, as an agent does."""
    name = member.node.contents.files.incoming_path(os.urandom(16).hex())
    arrival = Arrival(name, len(data))
    arrival.add(data)
    manifest = arrival.finish()
    arrival.close()
    return name, manifest


async def put_content(member, key: str, data: bytes, base: bytes = b"") -> Manifest:
    name, manifest = hand_over(member, data)
    await member.node.contents.adopt(name, manifest)
    await member.node.contents.spread(manifest, base)
    await name_it(member, key, manifest)
    return manifest


async def name_it(member, key: str, manifest: Manifest) -> None:
    body = pb.PutContentRequest(key=key, **manifest._asdict()).SerializeToString()
    result = await member.node.write(PUT_CONTENT, body, 10_000)
    assert isinstance(result, bytes), result


def keep_nothing(monkeypatch) -> None:
    """What nothing names goes at once."""
    for module in ("dfs.contents", "dfs.node.contents.contents"):
        monkeypatch.setattr(f"{module}.CONTENT_KEEP_S", -1)


def path_of(member, manifest: Manifest) -> Path:
    return member.node.contents.files.path(manifest.sha256)


def holds(member, manifest: Manifest, data: bytes) -> bool:
    """On its disk is what it must be; never anything else."""
    if manifest.sha256 not in member.node.contents.files:
        return False
    assert path_of(member, manifest).read_bytes() == data
    return True


async def test_a_content_is_on_a_majority_before_it_is_named_and_everywhere_soon(any_cluster):
    """A large content is on the disks of a majority before its entry is proposed, and on all others
    soon after; every node gives it."""
    one, two, three = await any_cluster.three()
    data = some(1)
    name, manifest = hand_over(two, data)
    await two.node.contents.adopt(name, manifest)
    held = []
    await two.node.contents.spread(manifest, told=lambda held_by, of: held.append((held_by, of)))
    assert held[-1][0] >= 2
    assert held[-1][1] == 3
    assert sum(holds(member, manifest, data) for member in (one, two, three)) >= 2
    await name_it(two, "big", manifest)
    for member in (one, two, three):
        await wait_until(lambda m=member: holds(m, manifest, data))
        got = await member.node.contents.whole(manifest.sha256, SIZE)
        assert got == data


async def test_without_a_majority_nothing_is_named(cluster, monkeypatch):
    monkeypatch.setattr("dfs.node.contents.spreading.CONTENT_STALL_MS", 300)
    one, two, three = await cluster.three()
    await two.stop()
    await three.stop()
    name, manifest = hand_over(one, some(2))
    await one.node.contents.adopt(name, manifest)
    with pytest.raises(Unavailable, match="not on a majority of the voters, so nothing was stored"):
        await one.node.contents.spread(manifest)


async def test_a_full_disk_is_said(cluster, monkeypatch):
    monkeypatch.setattr("dfs.node.contents.spreading.CONTENT_STALL_MS", 300)
    one, two, three = await cluster.three()
    for member in (two, three):
        monkeypatch.setattr(member.node.contents.files, "free", lambda: 1 << 20)
    name, manifest = hand_over(one, some(3))
    await one.node.contents.adopt(name, manifest)
    with pytest.raises(OutOfSpace, match=r"node2: .*node3: .* has 1 MiB left"):
        await one.node.contents.spread(manifest)


async def test_who_was_away_gets_what_it_lacks(cluster):
    one, _two, three = await cluster.three()
    await three.stop()
    data = some(4)
    manifest = await put_content(one, "big", data)
    back = await cluster.start("node3", "node1")
    await wait_until(lambda: holds(back, manifest, data))
    assert back.node.contents.missing == 0


async def test_a_member_that_lacks_contents_gets_no_vote(cluster, monkeypatch):
    """A learner becomes a voter when it has all large contents, as it is counted on for them
    then."""
    one = await cluster.start("node1")
    data = some(5)
    manifest = await put_content(one, "big", data)
    gate = []

    def closed(*_arguments):
        if not gate:
            raise ConnectionError("not yet")
        return original(*_arguments)

    from dfs.engine_memory import MemoryEngine

    original = MemoryEngine.fetch_chunks
    monkeypatch.setattr(MemoryEngine, "fetch_chunks", lambda _self, *a: closed(_self, *a))
    two = await cluster.start("node2", "node1")
    await wait_until(lambda: two.node.contents.missing == 1)
    await wait_until(lambda: two.store.applied == one.store.applied)
    assert not two.votes()
    gate.append(True)
    await wait_until(two.votes)
    assert holds(two, manifest, data)


async def test_only_changed_chunks_are_moved(cluster, monkeypatch):
    """Of a new version of a large file members fetch the chunks alone that differ."""
    one, two, three = await cluster.three()
    data = some(6)
    before = await put_content(one, "big", data)
    for member in (two, three):
        await wait_until(lambda m=member: holds(m, before, data))
    fetched = []
    from dfs.engine_memory import MemoryEngine

    original = MemoryEngine.fetch_chunks

    def counting(self, addr, content, size, chunk_bytes, wanted, *more):
        fetched.extend(number for number, _ in wanted)
        return original(self, addr, content, size, chunk_bytes, wanted, *more)

    monkeypatch.setattr(MemoryEngine, "fetch_chunks", counting)
    changed = bytearray(data)
    changed[CHUNK_BYTES_MIN + 5] ^= 1
    after = await put_content(one, "big", bytes(changed), before.sha256)
    for member in (two, three):
        await wait_until(lambda m=member: holds(m, after, bytes(changed)))
    assert sorted(fetched) == [1, 1]


async def test_holes_stay_holes_and_are_not_moved(cluster, monkeypatch):
    one, two, three = await cluster.three()
    fetched = []
    from dfs.engine_memory import MemoryEngine

    original = MemoryEngine.fetch_chunks

    def counting(self, addr, content, size, chunk_bytes, wanted, *more):
        fetched.extend(number for number, _ in wanted)
        return original(self, addr, content, size, chunk_bytes, wanted, *more)

    monkeypatch.setattr(MemoryEngine, "fetch_chunks", counting)
    data = bytes(3 * CHUNK_BYTES_MIN) + b"end"
    manifest = await put_content(one, "sparse", data)
    for member in (two, three):
        await wait_until(lambda m=member: holds(m, manifest, data))
        assert path_of(member, manifest).stat().st_blocks * 512 < CHUNK_BYTES_MIN
    assert set(fetched) == {3}


@pytest.mark.allow_logs("fetched again from other members")
async def test_a_damaged_content_is_never_given_and_heals(any_cluster):
    """A large content that is damaged on the disk of a member is never served: the member has the
    damaged chunks again from others."""
    members = await any_cluster.three()
    data = some(7)
    manifest = await put_content(members[0], "big", data)
    for member in members:
        await wait_until(lambda m=member: holds(m, manifest, data))
    path = path_of(members[1], manifest)
    path.chmod(0o600)
    with path.open("r+b") as file:
        file.seek(2 * CHUNK_BYTES_MIN + 77)
        file.write(bytes((data[2 * CHUNK_BYTES_MIN + 77] ^ 4,)))
    contents = members[1].node.contents
    assert await contents.read(manifest, 0) == data[:CHUNK_BYTES_MIN]
    assert await contents.read(manifest, 2) == data[2 * CHUNK_BYTES_MIN : 3 * CHUNK_BYTES_MIN]
    assert holds(members[1], manifest, data)
    kept = list((contents.files.root / "quarantine").iterdir())
    assert [p.name for p in kept] == [f"{manifest.sha256.hex()}.2"]


@pytest.mark.allow_logs("fetched again from other members")
async def test_damage_of_a_content_that_nobody_reads_is_found(cluster, monkeypatch):
    """A large content that is damaged on disk and that nobody reads is read all the same, little by
    little, and healed from the others."""
    members = await cluster.three()
    data = some(16)
    manifest = await put_content(members[0], "big", data)
    for member in members:
        await wait_until(lambda m=member: holds(m, manifest, data))
    path = path_of(members[2], manifest)
    path.chmod(0o600)
    with path.open("r+b") as file:
        file.seek(3 * CHUNK_BYTES_MIN)
        file.write(b"damaged")
    scrub = Scrub(members[2].node.contents)
    for _ in range(4):
        await scrub.step()
    assert path.read_bytes() == data


@pytest.mark.allow_logs("fetched again from other members")
async def test_a_content_that_is_gone_or_cut_comes_back(cluster):
    members = await cluster.three()
    data = some(8)
    manifest = await put_content(members[0], "big", data)
    for member in members:
        await wait_until(lambda m=member: holds(m, manifest, data))
    path_of(members[1], manifest).unlink()
    os.truncate(path_of(members[2], manifest), CHUNK_BYTES_MIN)
    for member in members[1:]:
        assert await member.node.contents.read(manifest, 3) == data[3 * CHUNK_BYTES_MIN :]
        assert holds(member, manifest, data)


async def test_what_nothing_names_goes_after_a_while(cluster, monkeypatch):
    """A content whose last version history has passed goes; one that is being put stays."""
    monkeypatch.setattr("dfs.node.node.CONTENT_CHECK_MS", 10)
    one = await cluster.start("node1")
    manifest = await put_content(one, "big", some(9))
    keep_nothing(monkeypatch)
    await one.put("big", b"small now")
    await one.put("other")
    assert manifest.sha256 in one.node.contents.files, "history has it yet"
    applied = one.store.applied
    await one.node._hot.submit(floor_entry(applied, "node1"), 10_000)
    await wait_until(lambda: manifest.sha256 not in one.node.contents.files)
    assert not path_of(one, manifest).exists()


async def test_what_is_left_over_stays_as_long_as_it_is_not_known_what_is_named(
    cluster, monkeypatch
):
    """Without a read barrier nothing goes: others may count on it by now."""
    one, two, three = await cluster.three()
    name, manifest = hand_over(one, some(10))
    await one.node.contents.adopt(name, manifest)
    keep_nothing(monkeypatch)
    one.node.contents.restart()
    await one.node.contents.check()

    async def no_barrier() -> None:
        raise Unavailable("no leader")

    with pytest.raises(Unavailable):
        await one.node.contents.tidy(no_barrier)
    assert path_of(one, manifest).exists()
    await two.stop()
    await three.stop()


async def test_what_a_put_counts_on_stays_though_it_was_about_to_go(cluster, monkeypatch):
    """A content that is asked for, or named, while it is about to be removed stays."""
    one = await cluster.start("node1")
    asked, named, spare = map(some, (20, 21, 22))
    contents, manifests = one.node.contents, []
    for data in (asked, named, spare):
        name, manifest = hand_over(one, data)
        await contents.adopt(name, manifest)
        os.utime(path_of(one, manifest), ns=(0, SEALED_NS))
        manifests.append(manifest)
    contents.restart()
    await contents.check()

    async def barrier() -> None:
        question = {**manifests[0]._asdict(), "base": "", "from": ""}
        question["sha256"], question["digests"] = (
            manifests[0].sha256.hex(), manifests[0].digests.hex(),
        )  # fmt: skip
        assert (await contents._asked(question))["here"]
        await name_it(one, "named", manifests[1])
        os.utime(path_of(one, manifests[1]), ns=(0, SEALED_NS))

    contents._tidied_s = -math.inf
    await contents.tidy(barrier)
    assert holds(one, manifests[0], asked)
    assert holds(one, manifests[1], named)
    assert not holds(one, manifests[2], spare)


async def test_what_changes_while_all_is_compared_counts(cluster):
    """The state goes on while all contents of it are compared with what is here."""
    one = await cluster.start("node1")
    contents, loop = one.node.contents, asyncio.get_running_loop()
    lacking, view = os.urandom(32), contents._view

    def frozen():
        found = view()
        done = threading.Event()
        loop.call_soon_threadsafe(lambda: (contents.changed({lacking: True}), done.set()))
        assert done.wait(10)
        return found

    contents._view = frozen
    contents.restart()
    assert contents.missing, "as long as it is not known, nobody is given a vote"
    await contents._compare()
    contents._view = view
    assert contents.missing == 1
    contents.changed({lacking: False})
    assert contents.missing == 0


async def test_a_name_that_is_not_on_disk_for_sure_does_not_count(cluster, monkeypatch):
    """The directory of a content cannot be synced: it is not here, and can be handed over again."""
    one = await cluster.start("node1")
    name, manifest = hand_over(one, some(23))

    def fails(_directory: Path) -> None:
        raise OSError(errno.EIO, "Input/output error")

    path_of(one, manifest).parent.mkdir(exist_ok=True)
    with monkeypatch.context() as broken:
        broken.setattr("dfs.contents.sync_directory", fails)
        with pytest.raises(OSError, match="Input/output"):
            await one.node.contents.adopt(name, manifest)
    assert manifest.sha256 not in one.node.contents.files
    assert not path_of(one, manifest).exists()
    name, _ = hand_over(one, some(23))
    await one.node.contents.adopt(name, manifest)
    assert holds(one, manifest, some(23))


async def test_who_no_longer_holds_it_does_not_count(any_cluster):
    one, *_ = await any_cluster.three()
    spreading = Spreading(one.engine, hand_over(one, some(24))[1], lambda _held, _voters: None)
    member = next(m for m in spreading.others() if m["name"] == "node2")
    spreading.received(member, SIZE, True, False)
    assert spreading.done()
    spreading.received(member, 0, False, False)
    assert not spreading.done()


async def test_a_learner_does_not_keep_a_put_waiting(any_cluster, monkeypatch):
    """What a learner gets brings nobody nearer to a majority of the voters."""
    monkeypatch.setattr("dfs.node.contents.spreading.CONTENT_STALL_MS", 0)
    one, *_ = await any_cluster.three()
    spreading = Spreading(one.engine, hand_over(one, some(25))[1], lambda _held, _voters: None)
    voter = next(m for m in spreading.others() if m["name"] == "node2")
    learner = {**voter, "id": 1, "name": "learner", "voter": False}
    began = spreading._moved
    spreading.received(learner, 5, False, True)
    assert spreading._moved == began
    spreading.received(voter, 5, False, False)
    assert spreading._moved > began
    moved = spreading._moved
    spreading.received(voter, 5, False, False)
    assert spreading._moved == moved


async def test_few_contents_are_read_whole_at_once(cluster, monkeypatch):
    """Each stands in memory whole."""
    one = await cluster.start("node1")
    manifest = await put_content(one, "big", some(26))
    contents, under_way, most = one.node.contents, 0, 0
    read = contents.read

    async def counted(*arguments):
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        found = await read(*arguments)
        under_way -= 1
        return found

    monkeypatch.setattr(contents, "read", counted)
    wholes = [contents.whole(manifest.sha256, SIZE) for _ in range(3 * CONTENT_WHOLES_MAX)]
    assert await asyncio.gather(*wholes) == [some(26)] * len(wholes)
    assert most == CONTENT_WHOLES_MAX


async def test_get_gives_what_fits_into_a_message(cluster, monkeypatch):
    one, two, three = await cluster.three()
    data = some(11)
    await put_content(one, "big", data)
    for member in (one, two, three):
        assert await member.get("big") == data
    monkeypatch.setattr("dfs.node.contents.contents.VALUE_BYTES_MAX", SIZE - 1)
    body = pb.GetRequest(key="big").SerializeToString()
    code, text, _ = await one.node.read(2, body, False, 10_000)
    assert code == 8
    assert "use Download" in text


async def test_what_was_not_handed_over_is_refused(cluster):
    one = await cluster.start("node1")
    _, manifest = hand_over(one, some(12))
    with pytest.raises(FailedPrecondition, match="hand it over again"):
        await one.node.contents.adopt(one.node.contents.files.incoming_path("0" * 32), manifest)
    name, short = hand_over(one, some(13)[:-1])
    with pytest.raises(FailedPrecondition, match="hand it over again"):
        await one.node.contents.adopt(name, short._replace(size=short.size + 1))
    with pytest.raises(TooLarge):
        await one.node.contents.whole(manifest.sha256, 1 << 30)


async def test_a_content_that_could_not_be_synced_is_not_tried_again(cluster, monkeypatch):
    """A sync that failed once may hide the loss the next time: the file goes, and is handed over
    anew."""
    one = await cluster.start("node1")
    path, manifest = hand_over(one, some(17))
    sync = os.fsync

    def fails(descriptor: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fsync", fails)
    with pytest.raises(OSError, match="Input/output error"):
        await one.node.contents.adopt(path, manifest)
    monkeypatch.setattr(os, "fsync", sync)
    with pytest.raises(FailedPrecondition, match="hand it over again"):
        await one.node.contents.adopt(path, manifest)
    assert manifest.sha256 not in one.node.contents.files


async def test_many_contents_at_once_wait_for_their_turn(cluster, monkeypatch):
    """A member that gets others first is not taken for one that does not get any further."""
    monkeypatch.setattr("dfs.node.contents.spreading.CONTENT_STALL_MS", 1_500)
    monkeypatch.setattr("dfs.node.contents.contents.CONTENT_HOLD_WAIT_MS", 200)
    one, *_ = await cluster.three()
    from dfs.engine_memory import MemoryEngine

    original = MemoryEngine.fetch_chunks

    def slow(self, *arguments):
        go_on.wait(0.4)
        return original(self, *arguments)

    go_on = threading.Event()
    monkeypatch.setattr(MemoryEngine, "fetch_chunks", slow)
    count = 4 * CONTENT_PULLS_MAX
    made = [hand_over(one, some(20 + n, INLINE_BYTES_MAX + n + 1)) for n in range(count)]
    for path, manifest in made:
        await one.node.contents.adopt(path, manifest)
    await asyncio.gather(*(one.node.contents.spread(manifest) for _, manifest in made))
