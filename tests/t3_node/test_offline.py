"""Data directories of stopped nodes: audited, each kind of damage found; what is left recovered."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
from hashlib import sha256
from pathlib import Path
from types import SimpleNamespace

import pytest

from dfs import commands
from dfs.contents import DIRECTORY, path_in
from dfs.errors import FailedPrecondition, InvalidArgument, Misconfigured
from dfs.kv import RocksKV
from dfs.limits import INLINE_BYTES_MAX
from dfs.manifest import Manifest
from dfs.offline import acks, audit
from dfs.offline import recover as plans
from dfs.offline.acks import Ack, read_acks
from dfs.offline.audit import verify
from dfs.offline.places import opened
from dfs.offline.recover import RECOVERED_AHEAD, lines, plan, recover
from dfs.offline.restore import Founder
from dfs.proto import dfs_pb2 as pb
from dfs.serve import real_backend
from dfs.store import Store, backup
from dfs.store.layout import CURRENT

from .conftest import Cluster, running_cluster, wait_until
from .test_large_contents import put_content

NODES = ("node1", "node2", "node3")
PUT = 1


class Made:
    """What three nodes left behind: an older copy of all, and the last state of all."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.acks: list[Ack] = []
        self.old_acks = 0

    def copy(self, root: Path, **kind: str) -> list[Path]:
        """Copies to break; `node2="old"` takes the older copy of that one."""
        made = []
        for name in NODES:
            source = self.root / kind.get(name, "new") / name
            shutil.copytree(source, root / name, ignore=shutil.ignore_patterns("*.sock"))
            made.append(root / name)
        return made


async def written(cluster, made: Made, prefix: str, count: int) -> None:
    members = list(cluster.members.values())
    for number in range(count):
        key, data = f"{prefix}/{number}", b"%s %d" % (prefix.encode(), number)
        revision = await members[number % 3].put(key, data, request_id=os.urandom(16))
        made.acks.append(Ack(revision, key, sha256(data).digest()))


async def stopped(cluster) -> None:
    for member in list(cluster.members.values()):
        await member.stop()


def tree(root: Path) -> dict[str, tuple[int, int]]:
    """Size and time of every file."""
    found = {}
    for path in root.rglob("*"):
        at = path.lstat()
        found[str(path)] = at.st_size, at.st_mtime_ns
    return found


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Made:
    """Made once; tests break copies."""
    return asyncio.run(ran(tmp_path_factory.mktemp("made"), make))


@pytest.fixture(scope="module")
def left(tmp_path_factory) -> Path:
    """What a leader leaves behind that proposed a write after the two others had gone."""
    return asyncio.run(ran(tmp_path_factory.mktemp("left"), leave))


async def ran(root: Path, story):
    """The outcome of a story of real nodes."""
    try:
        backend = real_backend()
    except Misconfigured as error:
        pytest.skip(str(error))
    async with contextlib.aclosing(running_cluster(root, backend)) as clusters:
        cluster = await anext(clusters)
        return await story(cluster, root)


async def make(real_cluster: Cluster, tmp_path: Path) -> Made:
    await real_cluster.three()
    found = Made(tmp_path / "made")
    await written(real_cluster, found, "first", 20)
    await stopped(real_cluster)
    for name in NODES:
        shutil.copytree(tmp_path / name, found.root / "old" / name)
    found.old_acks = len(found.acks)
    for name, peers in zip(NODES, (NODES[1:], NODES[::2], NODES[:2]), strict=True):
        await real_cluster.start(name, *peers)
    await written(real_cluster, found, "second", 12)
    deleting = next(iter(real_cluster.members.values()))
    # The last to stop leads: no election adds an entry that some of them do not have.
    await deleting.node.operate({"op": "transfer", "name": NODES[-1]})
    request = pb.DeleteRequest(key="first/3").SerializeToString()
    answer = await deleting.node.write(4, request, 10_000)
    revision = pb.DeleteResponse.FromString(answer).revision
    found.acks.append(Ack(revision, "first/3", b""))
    await stopped(real_cluster)
    for name in NODES:
        shutil.copytree(tmp_path / name, found.root / "new" / name)
    return found


def wrong(report) -> list[str]:
    """Everything that a report says is wrong."""
    lost = report.acks.problems if report.acks else []
    return [*(p for node in report.nodes for p in node.problems), *report.problems, *lost]


def log_file(place: Path) -> Path:
    (found,) = (place / "log" / "log").glob("*.wal")
    return found


def payload_of(place: Path, key: str) -> bytes:
    """What the log has for a put of a key."""
    with opened(place) as node:
        (found,) = (
            e.payload for e in node.entries(0, 1 << 40) if b"\x0a%c%b" % (len(key), key.encode())
            in e.payload
        )
    return found


async def test_what_nodes_leave_behind_is_sound_and_not_touched(made, tmp_path):
    places = made.copy(tmp_path / "copy")
    before = tree(tmp_path / "copy")
    report = verify(places, made.acks)
    assert wrong(report) == []
    assert report.sound
    assert report.acks.on_all == len(made.acks)
    assert {node.name for node in report.nodes} == set(NODES)
    assert len({node.chain for node in report.nodes if node.applied == made.acks[-1].revision}) == 1
    assert report.compared_entries >= len(made.acks)
    assert all(node.log_entries for node in report.nodes)
    assert tree(tmp_path / "copy") == before
    json.dumps(report.as_json())


async def test_a_member_that_is_behind_is_sound_and_compared_by_the_log(made, tmp_path):
    """Its log and state are of before; the others' log, applied to that state, gives theirs."""
    report = verify(made.copy(tmp_path / "copy", node2="old"), made.acks)
    assert wrong(report) == []
    assert report.notes == []
    assert report.acks.on_majority == len(made.acks) - made.old_acks


async def test_writes_that_a_majority_lost_are_named(made, tmp_path):
    places = made.copy(tmp_path / "copy", node1="old", node3="old")
    report = verify(places, made.acks)
    assert not report.sound
    assert len(report.acks.problems) == len(made.acks) - made.old_acks
    text = report.acks.problems[0]
    assert "second/0, was acknowledged, but only node2 has it, and 2 must" in text
    assert any("is committed, but of these nodes only node2 has it" in p for p in report.problems)
    nobody = verify(places, [Ack(3, "never/written", bytes(32))])
    assert "never/written, was acknowledged, but nobody has it" in nobody.acks.problems[0]


async def test_a_state_that_diverged_is_noticed(made, tmp_path):
    """It is consistent in itself and has applied as much, but one write under another key."""
    places = made.copy(tmp_path / "copy", node2="old")
    with opened(places[0]) as right, opened(places[1]) as behind:
        start, end = behind.next_index, right.meta.applied
        entries = list(right.entries(start, end))
    kv = RocksKV(places[1] / "store")
    store = Store(kv)
    for entry in entries:
        payload = entry.payload.replace(b"second/7", b"second/x") if entry.kind == 1 else b""
        log_id = b"".join(part.to_bytes(8) for part in entry.id)
        store.apply([(entry.id.position, payload, False)], log_id, b"")
    kv.flush()
    kv.close()
    report = verify(places, made.acks)
    assert report.nodes[1].problems == []
    told = " ".join(report.problems)
    assert "state hash" in told
    assert "node2" in told


async def test_a_damaged_record_of_the_state_is_noticed(made, tmp_path):
    places = made.copy(tmp_path / "copy")
    kv = RocksKV(places[2] / "store")
    key = CURRENT + b"first\x005"
    value = kv.get(key)
    kv.write({key: value[:-1] + bytes((value[-1] ^ 1,))})
    kv.flush()
    kv.close()
    report = verify(places, made.acks)
    assert any("the checksum of the record of first/5 does not fit" in p
               for p in report.nodes[2].problems)
    assert wrong(report) != [] == [*report.nodes[0].problems, *report.nodes[1].problems]


async def test_a_damaged_file_of_the_store_is_noticed(made, tmp_path):
    places = made.copy(tmp_path / "copy")
    tables = sorted((places[0] / "store").glob("db-*/*.sst"), key=lambda p: p.stat().st_size)
    whole = tables[-1].read_bytes()
    tables[-1].write_bytes(whole[:300] + bytes(64) + whole[364:])
    report = verify(places)
    assert report.nodes[0].problems
    assert not report.sound


async def test_a_gap_in_a_log_is_noticed(made, tmp_path):
    """One entry is cut out of the file, with all its bytes: every other record is whole."""
    places = made.copy(tmp_path / "copy")
    payload = payload_of(places[0], "second/4")
    path = log_file(places[0])
    whole = path.read_bytes()
    at = whole.index(payload) - 33  # kind of record, log id, kind and length of the payload
    path.write_bytes(whole[:at] + whole[at + 33 + len(payload) + 8 :])  # and its checksum
    report = verify(places)
    assert any("stands behind entry" in p for p in report.nodes[0].problems), wrong(report)


async def test_a_damaged_log_is_noticed_and_a_torn_end_is_none(made, tmp_path):
    places = made.copy(tmp_path / "copy")
    payload = payload_of(places[0], "first/2")
    path = log_file(places[0])
    whole = path.read_bytes()
    at = whole.index(payload) + len(payload) // 2
    path.write_bytes(whole[:at] + bytes((whole[at] ^ 8,)) + whole[at + 1 :])
    report = verify(places)
    assert any("is damaged at byte" in p for p in report.nodes[0].problems)
    path.write_bytes(whole[:-3])
    report = verify(places)
    assert wrong(report) == []
    assert any("are no whole record" in note for note in report.nodes[0].notes)


async def test_a_store_that_went_back_is_noticed(made, tmp_path):
    places = made.copy(tmp_path / "copy")
    shutil.rmtree(places[1] / "store")
    shutil.copytree(made.root / "old" / "node2" / "store", places[1] / "store")
    report = verify(places)
    assert any("it went back, or an old copy was put there" in p for p in wrong(report))


async def test_a_snapshot_is_read_and_told_when_it_will_heal_the_store(made, tmp_path):
    """A start restores a whole one; a damaged one is a problem of its own."""
    places = made.copy(tmp_path / "copy")
    with opened(places[1]) as node:
        applied = node.meta.applied
    kv = RocksKV(places[1] / "store")
    store = Store(kv)
    snapshots = places[1] / "log" / "snapshots"
    snapshot = snapshots / f"snapshot-1-1-{applied}"
    with store.view() as view:
        store.export(view, str(snapshot))
    kv.close()
    snapshot.with_name(snapshot.name + ".meta").write_bytes(b"the engine's note")
    assert wrong(verify(places)) == []
    shutil.rmtree(places[1] / "store")
    shutil.copytree(made.root / "old" / "node2" / "store", places[1] / "store")
    report = verify(places[1:2])
    assert wrong(report) == []
    assert any("a start restores it from the snapshot" in note for note in report.nodes[0].notes)
    snapshot.write_bytes(snapshot.read_bytes()[:-1])
    assert any("snapshot" in p and "ends early" in p for p in wrong(verify(places)))


async def test_directories_that_do_not_belong_together_are_noticed(made, tmp_path):
    places = made.copy(tmp_path / "copy")
    report = verify([places[0], places[0].rename(tmp_path / "x"), made.root / "new" / "node1"][1:])
    assert any("directories have the name node1" in p for p in report.problems)
    assert any("directories have the id" in p for p in report.problems)
    with pytest.raises(Misconfigured, match="no data directory of a node"):
        verify([tmp_path / "nothing"])


async def test_a_directory_in_use_is_refused(real_cluster, tmp_path):
    await real_cluster.start("node1")
    with pytest.raises(Misconfigured, match="stop it first"):
        verify([tmp_path / "node1"])


def test_acknowledged_writes_are_read_line_by_line(tmp_path):
    path = tmp_path / "acks"
    path.write_text(
        '{"revision": 7, "key": "a", "sha256": "00ff"}\n\n'
        '{"revision": 8, "key": "a", "deleted": true}\n'
    )
    assert list(read_acks(path)) == [Ack(7, "a", b"\x00\xff"), Ack(8, "a", b"")]
    for line in ('{"revision": 7}', "[]", "x", '{"revision": 7, "key": "a", "sha256": "zz"}'):
        path.write_text(line)
        with pytest.raises(InvalidArgument, match="line 1 of"):
            list(read_acks(path))


# ---- recover -------------------------------------------------------------------------------------


async def leave(real_cluster: Cluster, tmp_path: Path) -> Path:
    one, two, three = await real_cluster.three()
    await one.put("safe", b"acknowledged")
    for member in (two, three):
        await member.stop()
    body = pb.PutRequest(key="tail", data=b"of the log").SerializeToString()
    assert not isinstance(await one.node.write(PUT, body, 700), bytes)
    await one.stop()
    return tmp_path / "node1"


def founded(path: Path) -> dict[str, bytes]:
    kv = RocksKV(path / "store")
    try:
        with Store(kv).view() as view:
            found = view.list(recursive=True, data_bytes_max=1 << 20)
            return {key: data for key, _, data in found}
    finally:
        kv.close()


FOUNDER = Founder("node9", "127.0.0.1:1", "127.0.0.1:2")


async def test_the_tail_of_a_survivor_is_shown_and_applied_or_dropped(left, tmp_path):
    """Entries of the last survivor that are not known to be committed are named by the plan, and
    applied by recovery unless it is asked not to: a lost leader may have acknowledged them."""
    before = tree(left)
    found = plan([left])
    assert (found.refusal, found.lost, found.majority) == ("", ["node2", "node3"], 2)
    assert found.tail.shown[-1].endswith("put tail")
    assert found.tail.count == len(found.tail.shown) == found.survivors[0].last - (
        found.survivors[0].committed
    )
    assert any("cannot be known and is lost" in line for line in lines(found))
    done = recover([], left, tmp_path / "with", FOUNDER, tmp_path / "b1", 7)
    assert done.applied == found.tail.count
    assert founded(tmp_path / "with") == {"safe": b"acknowledged", "tail": b"of the log"}
    assert done.founded.revision == found.survivors[0].last + RECOVERED_AHEAD
    head = backup.verify(tmp_path / "b1")
    assert (head.cluster, head.revision) == (found.survivors[0].cluster, found.survivors[0].last)
    recover([], left, tmp_path / "out", FOUNDER, tmp_path / "b2", 7, with_tail=False)
    assert founded(tmp_path / "out") == {"safe": b"acknowledged"}
    assert tree(left) == before
    assert verify([tmp_path / "with"]).sound


async def test_a_backup_and_a_directory_that_are_there_are_not_overwritten(left, tmp_path):
    (tmp_path / "b").write_text("mine")
    with pytest.raises(Misconfigured, match="never overwrites"):
        recover([], left, tmp_path / "new", FOUNDER, tmp_path / "b", 7)
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "mine").write_text("")
    with pytest.raises(Misconfigured, match="is not empty"):
        recover([], left, tmp_path / "new", FOUNDER, tmp_path / "b2", 7)
    assert not (tmp_path / "b2").exists()


async def test_a_majority_is_not_recovered_and_the_best_survivor_is_taken(made, tmp_path):
    places = made.copy(tmp_path / "copy", node2="old")
    found = plan(places[:2])
    assert "2 of 3 voters are here, and 2 are a majority: start them" in found.refusal
    assert found.chosen == str(places[0])
    with pytest.raises(FailedPrecondition, match="has a more recent log than"):
        recover(places, places[1], tmp_path / "new", FOUNDER, tmp_path / "b", 7)
    assert not (tmp_path / "new").exists()
    assert plan(places[1:2]).refusal == ""


async def test_a_damaged_survivor_is_not_taken(made, tmp_path):
    places = made.copy(tmp_path / "copy")
    kv = RocksKV(places[0] / "store")
    kv.write({CURRENT + b"first\x005": None})
    kv.flush()
    kv.close()
    found = plan(places[:1])
    assert "is damaged" in found.refusal
    with pytest.raises(FailedPrecondition, match="is damaged"):
        recover([], places[0], tmp_path / "new", FOUNDER, tmp_path / "b", 7)


def logged(head, request) -> SimpleNamespace:
    """An entry as it stands in a log."""
    body = request.SerializeToString()
    payload = head(request, len(body), "node1", "") + body + commands.stamp(7)
    return SimpleNamespace(kind=audit.ENTRY, id=SimpleNamespace(position=9), payload=payload)


def test_what_a_log_holds_of_moves_and_transactions_is_checked_and_described():
    parts = [pb.Operation(put=pb.PutRequest(key=f"k{n}", data=b"content%d" % n)) for n in (1, 2)]
    parts.append(pb.Operation(delete=pb.DeleteRequest(key="d")))
    entry = logged(commands.transaction_head, pb.TransactionRequest(operations=parts))
    assert audit._wrong(entry) == ""
    assert plans._described(entry) == "transaction of 3 operations"
    entry.payload = entry.payload.replace(b"content2", b"contentX")
    assert audit._wrong(entry) == "entry 9: the content is not that of its digest"
    entry = logged(commands.move_head, pb.MoveRequest(source="a", target="b/c"))
    assert audit._wrong(entry) == ""
    assert plans._described(entry) == "move a to b/c"


async def with_a_large_content(cluster: Cluster, _root: Path) -> Manifest:
    """A content on the disks of all three, who then stop."""
    members = await cluster.three()
    manifest = await put_content(members[0], "large", b"much " * (INLINE_BYTES_MAX // 4))
    for member in members:
        await wait_until(lambda m=member: manifest.sha256 in m.node.contents.files)
    move = pb.MoveRequest(source="large", target="moved")
    parts = [
        pb.Operation(put=pb.PutRequest(key="small", data=b"1")),
        pb.Operation(delete=pb.DeleteRequest(key="moved")),
        pb.Operation(put_content=pb.PutContentRequest(key="again", **manifest._asdict())),
    ]
    both = pb.TransactionRequest(operations=parts)
    for number, request in ((20, move), (22, both)):
        assert isinstance(
            await members[0].node.write(number, request.SerializeToString(), 10_000), bytes
        )
    await stopped(cluster)
    return manifest


async def test_what_the_log_says_of_a_write_is_enough(tmp_path):
    """Whatever stored a key: a content, a move, or a part of a transaction."""
    manifest = await ran(tmp_path, with_a_large_content)
    with opened(tmp_path / "node1") as place:
        written = acks._logged(place, set(range(1, place.meta.applied + 1)))
    said = [keys for keys in written.values() if keys]
    digest = sha256(b"1").digest()
    assert said == [
        {"large": manifest.sha256}, {"moved": acks.MOVED},
        {"small": digest, "moved": b"", "again": manifest.sha256},
    ]  # fmt: skip


async def test_large_contents_are_read_and_those_that_nobody_has_are_told(tmp_path):
    """What one lacks is a note while another has it; damage is told; lost is what none has."""
    manifest = await ran(tmp_path, with_a_large_content)
    places = [tmp_path / name for name in NODES]
    first, second, third = (path_in(place / DIRECTORY, manifest.sha256) for place in places)
    assert wrong(verify(places)) == []

    first.unlink()
    report = verify(places)
    assert wrong(report) == []
    assert "1 of 1 large contents are yet to come" in report.nodes[0].notes

    with second.open("r+b") as file:
        file.write(b"M")
    assert wrong(verify(places)) == [f"the large content {second} is damaged"]

    third.unlink()
    (nowhere,) = verify(places).problems
    assert "1 large contents are whole on none of these nodes" in nowhere
    assert manifest.sha256.hex()[:16] in nowhere
