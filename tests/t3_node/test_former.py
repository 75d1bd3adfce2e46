"""A log that is damaged, gone or old: the node never acts under its id again, and comes back as
somebody else."""

import asyncio
import errno
import shutil

import pytest

from dfs.errors import Misconfigured
from dfs.identity import LOG, NOTHING_PROMISED, open_identity
from dfs.limits import FLUSH_INTERVAL_MS
from dfs.nemesis.damage import DAMAGES, cut, delete, flip, put_away, swap
from dfs.proto import dfs_pb2 as pb

from .conftest import state, wait_until

AT = [(flip, 0.02), (flip, 0.9), (cut, 0.9), (cut, 0.0), *((damage, 0.5) for damage in DAMAGES)]


@pytest.fixture
def quick_flushes(monkeypatch):
    """What is on disk is written down at once."""
    assert FLUSH_INTERVAL_MS > 50
    monkeypatch.setattr("dfs.node.keeping.FLUSH_INTERVAL_MS", 50)


async def fill(member, prefix, count=50):
    contents = {f"{prefix}/{n}": b"%d" % n * 300 for n in range(count)}
    await asyncio.gather(*(member.put(key, data) for key, data in contents.items()))
    return contents


async def settled(*members):
    """All have applied the same, and have written down that their logs have it."""

    def equal():
        if len({state(m) for m in members}) > 1:
            return False
        indexes = [int.from_bytes(m.running.identity.promises()[:8], "big") for m in members]
        return all(index >= m.store.applied for index, m in zip(indexes, members, strict=True))

    await wait_until(equal)


@pytest.mark.allow_logs("dfs.healing")
async def test_a_node_whose_log_is_damaged_comes_back_as_another(real_cluster, quick_flushes):
    """A log with a flipped bit, a block of zeros, a short end, that is missing or was exchanged:
    the node neither votes nor acknowledges under its id again. Log and state are put away, and it
    takes the place of its former self by itself, as a new node, when a majority agrees."""
    one, two, three = await real_cluster.three()
    contents = await fill(one, "first")
    data = real_cluster.root / "node3"
    for number, (damage, at) in enumerate(AT):
        contents |= await fill(one, f"{number}", 5)
        await settled(one, two, three)
        former = three.running.identity.id
        await three.stop()
        shutil.rmtree(data / "quarantine", ignore_errors=True)
        (file,) = (data / LOG / "log").glob("*.wal")
        if damage is swap:
            (other,) = (real_cluster.root / "node2" / LOG / "log").glob("*.wal")
            file.write_bytes(other.read_bytes())
        else:
            damage(file, at)
        case = f"{damage.__name__} {at}"
        three = await real_cluster.start("node3", "node1")
        await wait_until(three.votes)
        members = {m["id"] for m in one.engine.status()["members"]}
        assert three.running.identity.id in members, case
        if damage is not swap:
            assert put_away(data) == ["log", "promises.json", "store"], case
            assert former not in members, case
        for key, value in contents.items():
            assert await three.get(key) == value, case


@pytest.mark.allow_logs("dfs.healing")
async def test_an_old_log_or_that_of_another_is_noticed(real_cluster, quick_flushes):
    """An old copy of the log alone, the log of another node, and a log that is gone are noticed in
    the same way, by what was written down beside the log while it was there."""
    one, two, three = await real_cluster.three()
    data = real_cluster.root / "node3"
    await settled(one, two, three)
    for case in ("old", "another's", "gone", "gone without a trace"):
        await three.stop()
        copy = real_cluster.root / "copy"
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(data / LOG, copy)
        three = await real_cluster.start("node3", "node1")
        await wait_until(three.votes)
        contents = await fill(one, case)
        await settled(one, two, three)
        former = three.running.identity.id
        await three.stop()
        shutil.rmtree(data / "quarantine", ignore_errors=True)
        shutil.rmtree(data / LOG)
        if case == "old":
            shutil.copytree(copy, data / LOG)
        elif case == "another's":
            shutil.copytree(real_cluster.root / "node2" / LOG, data / LOG)
        elif case == "gone without a trace":
            (data / "promises.json").unlink()
        three = await real_cluster.start("node3", "node1")
        await wait_until(three.votes)
        assert three.running.identity.id != former, case
        for key, value in contents.items():
            assert await three.get(key) == value, case
        await settled(one, two, three)


@pytest.mark.allow_logs("dfs.healing", "not done, tried again later", "no hashes")
async def test_without_a_majority_nobody_comes_back_as_another(real_cluster, quick_flushes):
    """Two of three have lost their logs: what was acknowledged may be lost with them, so they wait,
    as nobody, and nothing is served that could be wrong, until a person decides."""
    members = await real_cluster.three()
    await fill(members[0], "k")
    await settled(*members)
    for member in members:
        await member.stop()
    for name in ("node1", "node2"):
        delete(next((real_cluster.root / name / LOG / "log").glob("*.wal")))
    peers = ("node1", "node2", "node3")
    one, two, three = [await real_cluster.start(name, *peers, join=False) for name in peers]
    put = pb.PutRequest(key="x").SerializeToString()
    for member in (one, two, three):
        found = await member.node.write(1, put, 500)
        assert found[0] in (4, 14), found
    assert not one.node.cluster
    assert not two.node.cluster
    assert one.running.identity.former
    assert await three.get("k/7", local=True) == b"7" * 300


@pytest.mark.allow_logs("dfs.healing")
async def test_a_log_that_nobody_can_replace_is_refused(real_cluster, quick_flushes):
    """The only member has lost its log: refused with a sentence, and nothing is touched."""
    one = await real_cluster.start("node1")
    await fill(one, "k")
    await settled(one)
    await one.stop()
    data = real_cluster.root / "node1"
    file = next((data / LOG / "log").glob("*.wal"))
    cut(file)
    for _ in range(2):
        with pytest.raises(Misconfigured, match=r"the log of node1 cannot.*restore a backup"):
            await real_cluster.start("node1")
    assert open_identity(data, "node1").id == one.running.identity.id
    assert file.exists()
    assert put_away(data) == []


def test_what_was_promised_is_kept_and_damage_to_it_is_no_promise(tmp_path):
    identity = open_identity(tmp_path, "node1")
    assert identity.promises() == NOTHING_PROMISED
    identity.keep_promises(b"12345678")
    assert identity.promises() == b"12345678"
    path = tmp_path / "promises.json"
    whole = path.read_bytes()
    for position in range(len(whole) - 1):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 1]) + whole[position + 1 :])
        assert identity.promises() == NOTHING_PROMISED, position
    path.write_bytes(whole)
    identity.start_over()
    assert identity.promises() == NOTHING_PROMISED, "another's"
    again = open_identity(tmp_path, "node1")
    assert (again.id, again.former) == (identity.id, identity.former)


def test_a_full_disk_is_no_reason_to_stop(tmp_path, monkeypatch):
    """What helps to notice damage is not written then; other errors of the disk are."""
    identity = open_identity(tmp_path, "node1")
    identity.keep_promises(b"12345678")

    def refusing(number):
        def refuse(_descriptor):
            raise OSError(number, "no")

        return refuse

    monkeypatch.setattr("os.fsync", refusing(errno.ENOSPC))
    identity.keep_promises(b"87654321")
    identity.remember_addresses("a:1", ["b:1"])
    assert identity.promises() == b"12345678"
    monkeypatch.setattr("os.fsync", refusing(errno.EIO))
    with pytest.raises(Misconfigured, match=r"promises\.json cannot be written: no; look for"):
        identity.keep_promises(b"87654321")


@pytest.mark.allow_logs("dfs.healing")
async def test_no_other_cluster_is_started_with_one_that_lost_its_log(real_cluster, quick_flushes):
    """An empty node that is the first of the list waits, though nobody is in a cluster."""
    members = await real_cluster.three()
    await settled(*members)
    for member in members:
        await member.stop()
    shutil.rmtree(real_cluster.root / "node1")
    peers = ("node1", "node2", "node3")
    for name in peers[1:]:
        delete(next((real_cluster.root / name / LOG / "log").glob("*.wal")))
        await real_cluster.start(name, *peers, join=False)
    one = await real_cluster.start("node1", *peers, join=False)
    answers, _ = await one.node._joining._discover_all()
    assert [answer["former"] for answer in answers] == [True, True]
    await asyncio.wait([one.joining], timeout=1.0)
    assert not one.joining.done()
    assert not one.node.cluster
