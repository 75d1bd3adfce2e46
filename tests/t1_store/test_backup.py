"""A backup: one file that says what it is, read back whole or not at all; restored elsewhere."""

import errno
import hashlib
import json
import operator
import os
import random
import types
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from t1_store.building import Writer, dump

from dfs import identity
from dfs.contents import ARRIVING, DIRECTORY, Files, path_in
from dfs.errors import DataLoss, Misconfigured, OutOfSpace
from dfs.identity import read_identity
from dfs.kv import MemoryKV, RocksKV
from dfs.limits import CHUNK_BYTES_MIN, DISK_FREE_BYTES_MIN, SMALL_VALUE_BYTES_MAX
from dfs.offline.restore import Founder, restore
from dfs.store import Store, backup
from dfs.store.layout import META_KEY

CLUSTER = bytes(range(16))
LEAST = SMALL_VALUE_BYTES_MAX + 1
"""No large content is smaller."""
FOUNDER = Founder("node9", "127.0.0.1:1", "127.0.0.1:2")


@pytest.fixture
def filled(writer):
    writer.blank(membership=b"the members")
    for number in range(12):
        writer.put(f"d{number % 3}/{number}", b"%d" % number, request_id=b"%016d" % number)
    writer.put("large", b"x" * (SMALL_VALUE_BYTES_MAX + 1))
    writer.symlink("l", "t")
    writer.delete("d1", recursive=True)
    return writer


def saved(writer, path: Path, contents=(), with_contents=True) -> Path:
    """The backup of a state whose large contents are these bytes."""
    known = {hashlib.sha256(data).digest(): data for data in contents}
    with writer.store.view() as view, path.open("wb") as file:
        head = backup.head_of(view, CLUSTER, "node1", "1.2", 17, with_contents)
        encoder = backup.Encoder(view, head)
        for part in encoder.state():
            file.write(part)
        for sha256, _ in view.contents() if with_contents else ():
            file.write(encoder.content(sha256))
            manifest = view.manifest(sha256)
            for number in range(manifest.chunks):
                if not manifest.empty(number):
                    at = number * manifest.chunk_bytes
                    file.write(known[sha256][at : at + manifest.length(number)])
        file.write(encoder.end())
    return path


def restored(directory: Path) -> dict[bytes, bytes]:
    """Name → bytes of the large contents of a data directory, and nothing else is there."""
    root = directory / DIRECTORY
    found = {p.relative_to(root): p.read_bytes() for p in root.rglob("*") if p.is_file()}
    return {bytes.fromhex(p.name): data for p, data in found.items() if p.parent.name != ARRIVING}


def test_a_backup_says_what_is_in_it(filled, tmp_path):
    contents = [b"h" * LEAST, b"i" * LEAST]
    for data in contents:
        filled.put_bytes("huge", data)
    head = backup.verify(saved(filled, tmp_path / "b", contents))
    store = filled.store
    assert head == backup.Head(
        CLUSTER.hex(), "node1", "1.2", 17, store.applied, store.time_ns, store.floor, store.keys,
        store.bytes, store.state_hash.hex(), store.chain.hex(), 2, 2 * LEAST, True,
    )
    assert head.lacking == 0


def test_any_flipped_bit_and_any_cut_is_noticed(tmp_path):
    """A backup with any flipped bit, or whose end is missing, is refused with a sentence."""
    small = Writer(MemoryKV())
    small.put("d/k", b"v", request_id=bytes(range(16)))
    small.put("d/k", b"w")
    small.delete("d/k")
    small.put("e", b"x")
    contents = [b"1" * LEAST, b"2" * LEAST]
    for data in contents:
        small.put_bytes("huge", data)
    path = saved(small, tmp_path / "b", contents)
    whole = path.read_bytes()
    for at in range(len(whole)):
        path.write_bytes(whole[:at] + bytes((whole[at] ^ 1 << at % 8,)) + whole[at + 1 :])
        with pytest.raises(DataLoss, match=str(path)):
            backup.verify(path)
    for size in range(0, len(whole), 97):
        path.write_bytes(whole[:size])
        with pytest.raises(DataLoss, match=f"{path}.* ends early, at byte {size:,}"):
            backup.verify(path)
    path.write_bytes(whole + b"\0")
    with pytest.raises(DataLoss, match="something follows behind its end"):
        backup.verify(path)


def test_damage_of_a_content_is_told_with_its_place(tmp_path):
    writer = Writer(MemoryKV())
    data = random.Random(1).randbytes(2 * CHUNK_BYTES_MIN + 99)
    sha256 = writer.put_bytes("huge", data)
    path = saved(writer, tmp_path / "b", [data])
    whole = bytearray(path.read_bytes())
    at = len(whole) - 32 - 99 - 7
    whole[at] ^= 1
    path.write_bytes(whole)
    end = f"{len(whole) - 32 - 99:,}"
    with pytest.raises(DataLoss, match=f"chunk 1 of the content {sha256.hex()}.* byte {end}"):
        backup.verify(path)
    with pytest.raises(DataLoss, match="chunk 1 of the content"):
        restore(path, tmp_path / "data", FOUNDER)
    assert not (tmp_path / "data").exists()


SIZES = st.sampled_from([LEAST, 9_999, CHUNK_BYTES_MIN, CHUNK_BYTES_MIN + 3, 2 * CHUNK_BYTES_MIN])


@settings(max_examples=25)
@given(st.lists(st.tuples(SIZES, st.integers(0, 9)), max_size=4), st.data())
def test_whatever_is_saved_is_restored_and_damage_anywhere_is_noticed(kinds, drawn):
    """Contents of any size, also such as are nothing but zeros, in whole or in part."""
    writer, contents = Writer(MemoryKV()), {}
    for number, (size, seed) in enumerate(kinds):
        begin = bytes(min(size, CHUNK_BYTES_MIN)) if seed < 5 else b""
        data = begin + random.Random(seed).randbytes(size - len(begin))
        contents[writer.put_bytes(f"f{number % 3}", data)] = data
    with TemporaryDirectory() as root:
        path, target = saved(writer, Path(root) / "b", contents.values()), Path(root) / "data"
        assert backup.verify(path).contents == len(contents)
        found = restore(path, target, FOUNDER)
        assert found.lacking.contents == 0
        assert restored(target) == contents
        assert os.listdir(target / DIRECTORY / ARRIVING) == []
        whole = bytearray(path.read_bytes())
        at = drawn.draw(st.integers(0, len(whole) - 1))
        whole[at] ^= 1 << drawn.draw(st.integers(0, 7))
        path.write_bytes(whole)
        with pytest.raises(DataLoss, match=str(path)):
            restore(path, Path(root) / "other", FOUNDER)
        assert not (Path(root) / "other").exists()


def test_chunks_of_nothing_but_zeros_take_no_room(tmp_path):
    """Neither in the backup nor where it is restored."""
    writer = Writer(MemoryKV())
    data = bytes(3 * CHUNK_BYTES_MIN) + b"end"
    sha256 = writer.put_bytes("sparse", data)
    path = saved(writer, tmp_path / "b", [data])
    assert path.stat().st_size < 10_000
    restore(path, tmp_path / "data", FOUNDER)
    file = path_in(tmp_path / "data" / DIRECTORY, sha256)
    assert file.read_bytes() == data
    assert file.stat().st_blocks * 512 < CHUNK_BYTES_MIN


def test_other_contents_than_the_records_name_are_noticed(tmp_path):
    """All digests fit, but the contents were taken from another state."""
    writer, other = Writer(MemoryKV()), Writer(MemoryKV())
    writer.put_bytes("huge", b"m" * LEAST)
    sha256 = other.put_bytes("huge", b"t" * LEAST)
    path = tmp_path / "b"
    with writer.store.view() as view, other.store.view() as elsewhere, path.open("wb") as file:
        encoder = backup.Encoder(view, backup.head_of(view, CLUSTER, "node1", "1.2", 17, True))
        file.write(b"".join(encoder.state()))
        encoder._view = elsewhere
        file.write(encoder.content(sha256) + b"t" * LEAST + encoder.end())
    with pytest.raises(DataLoss, match="not those that its records name"):
        backup.verify(path)


def test_a_backup_without_its_contents_says_so_and_gets_them_elsewhere(tmp_path):
    """From data directories and from other backups; what is damaged there is not taken."""
    writer = Writer(MemoryKV())
    datas = [b"%d" % number * LEAST for number in range(4)]
    contents = {writer.put_bytes(f"f{n}", data): data for n, data in enumerate(datas)}
    path = saved(writer, tmp_path / "b", with_contents=False)
    head = backup.verify(path)
    assert (head.contents, head.contents_bytes, head.lacking) == (4, 4 * LEAST, 4)
    found = restore(path, tmp_path / "alone", FOUNDER)
    assert found.lacking == (4, 4 * LEAST, ["f0", "f1", "f2", "f3"])
    assert restored(tmp_path / "alone") == {}

    other = Writer(MemoryKV())
    for data in (datas[2], b"u" * LEAST):
        other.put_bytes("elsewhere", data)
    more = saved(other, tmp_path / "more", [datas[2], b"u" * LEAST])
    for name, data in (("one", datas[0]), ("one", datas[1]), ("two", datas[1])):
        place = path_in(tmp_path / name / DIRECTORY, hashlib.sha256(data).digest())
        place.parent.mkdir(parents=True)
        place.write_bytes(data if (name, data[:1]) != ("one", b"1") else b"?" * LEAST)
    sources = [tmp_path / "one", more, tmp_path / "two"]
    found = restore(path, tmp_path / "gathered", FOUNDER, sources=sources)
    assert found.lacking == (1, LEAST, ["f3"])
    assert restored(tmp_path / "gathered") == {
        sha256: data for sha256, data in contents.items() if not data.startswith(b"3")
    }


def test_contents_that_cannot_be_linked_are_copied(tmp_path, monkeypatch):
    """Whole, holes as holes, or not under their name."""

    def refused(_self, _target):
        raise OSError(errno.EPERM, "Operation not permitted")

    writer = Writer(MemoryKV())
    data = bytes(CHUNK_BYTES_MIN) + b"content"
    place = path_in(tmp_path / "a" / DIRECTORY, writer.put_bytes("f", data))
    place.parent.mkdir(parents=True)
    place.write_bytes(data)
    path = saved(writer, tmp_path / "b", with_contents=False)
    monkeypatch.setattr(Path, "hardlink_to", refused)
    assert restore(path, tmp_path / "x", FOUNDER, sources=[tmp_path / "a"]).lacking.contents == 0
    copy = path_in(tmp_path / "x" / DIRECTORY, hashlib.sha256(data).digest())
    assert copy.read_bytes() == data
    assert copy.stat().st_ino != place.stat().st_ino
    assert copy.stat().st_blocks * 512 < CHUNK_BYTES_MIN


def test_a_full_disk_is_said_and_leaves_nothing(tmp_path, monkeypatch):
    """Before anything is written where it can be known, else when it happens."""
    writer = Writer(MemoryKV())
    writer.put_bytes("f", b"f" * LEAST)
    path = saved(writer, tmp_path / "b", [b"f" * LEAST])
    left = types.SimpleNamespace(f_bavail=DISK_FREE_BYTES_MIN // 4_096, f_frsize=4_096)
    monkeypatch.setattr(os, "statvfs", lambda _where: left)
    with pytest.raises(OutOfSpace, match="has 128 MiB left, which is too little for the backup"):
        restore(path, tmp_path / "data", FOUNDER)
    assert not (tmp_path / "data").exists()
    monkeypatch.undo()

    def full(_self, _manifest):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Files, "complete", full)
    with pytest.raises(OutOfSpace, match=f"the disk of {tmp_path / 'data'} is full"):
        restore(path, tmp_path / "data", FOUNDER)
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("existed", [False, True])
@pytest.mark.parametrize("step", ["Identity._write_temporary", "sync_directory"])
def test_what_fails_at_the_identity_is_said_and_leaves_nothing(
    tmp_path, monkeypatch, step, existed
):
    """Its temporary file is there then, or the identity itself: they go, too, and what hindered it
    is what is told."""
    path = saved(Writer(MemoryKV()), tmp_path / "b")
    data = tmp_path / "data"
    if existed:
        data.mkdir()

    taken = operator.attrgetter(step)(identity)

    def refused(subject):
        taken(subject)
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(f"dfs.identity.{step}", refused)
    with pytest.raises(Misconfigured, match="Input/output error"):
        restore(path, data, FOUNDER)
    monkeypatch.undo()
    assert data.exists() == existed
    assert restore(path, data, FOUNDER).head.keys == 0


def test_a_backup_of_the_former_format_is_read(tmp_path):
    """It has no large contents, and says how many are lacking."""
    path = Path(__file__).with_name("backup-format-1")
    head = backup.verify(path)
    assert (head.version, head.keys, head.contents, head.lacking) == ("0.1", 3, 1, 1)
    found = restore(path, tmp_path / "data", FOUNDER)
    assert found.lacking == (1, 3_000, ["large"])
    assert found.head == head
    opened = RocksKV(tmp_path / "data" / "store")
    assert Writer(opened).get("d/k") == b"w"
    opened.close()
    whole = path.read_bytes()
    broken = tmp_path / "broken"
    for at in range(len(whole)):
        broken.write_bytes(whole[:at] + bytes((whole[at] ^ 1 << at % 8,)) + whole[at + 1 :])
        with pytest.raises(DataLoss, match=str(broken)):
            backup.verify(broken)
    broken.write_bytes(whole + b"\0")
    with pytest.raises(DataLoss, match="something follows behind its end"):
        backup.verify(broken)


def test_about_how_large_a_backup_will_be(filled, tmp_path):
    filled.put_bytes("huge", b"h" * 7_000_000)
    whole = saved(filled, tmp_path / "b", [b"h" * 7_000_000]).read_bytes()
    assert backup.expected_bytes(whole[:4_200]) == filled.store.bytes
    alone = saved(filled, tmp_path / "a", with_contents=False).read_bytes()
    assert backup.expected_bytes(alone[:4_200]) == filled.store.bytes - 7_000_000
    assert backup.expected_bytes(b"what is this") == 0


def test_a_head_of_another_state_is_noticed(filled, tmp_path):
    """The digest fits, but the head was made for another state."""
    other = Writer(MemoryKV())
    other.put("other")
    path = tmp_path / "b"
    with filled.store.view() as view, other.store.view() as elsewhere, path.open("wb") as file:
        head = backup.head_of(elsewhere, CLUSTER, "node1", "1.2", 17, False)
        encoder = backup.Encoder(view, head)
        file.write(b"".join(encoder.state()) + encoder.end())
    with pytest.raises(DataLoss, match="head is that of another state"):
        backup.verify(path)


def test_damage_is_never_passed_on(filled, kv, tmp_path):
    key, value = next(kv.scan(b"h", b"i"))
    kv.write({key: value[:-1] + bytes((value[-1] ^ 1,))})
    with pytest.raises(DataLoss, match="checksum"):
        saved(filled, tmp_path / "b")


def test_restored_and_saved_again_all_records_are_the_same(filled, kv, tmp_path):
    """Content, history, request ids and state hash are those of the backup, byte for byte; only
    what says where the state stands in the log differs. Revisions go on."""
    path = saved(filled, tmp_path / "b")
    found = restore(path, tmp_path / "data", FOUNDER)
    opened = RocksKV(tmp_path / "data" / "store")
    assert [r for r in dump(opened) if r[0] != META_KEY] == [
        r for r in dump(kv) if r[0] != META_KEY
    ]
    again = Writer(opened)
    store = again.store
    assert (store.applied, found.revision) == (filled.index, filled.index)
    assert (store.state_hash, store.chain) == (filled.store.state_hash, filled.store.chain)
    assert store.log_id == bytes(16) + filled.index.to_bytes(8)
    membership = json.loads(store.membership)
    assert membership["voters"] == [[found.id]]
    assert membership["members"][str(found.id)] == {
        "name": "node9", "raft": "127.0.0.1:1", "grpc": "127.0.0.1:2"
    }
    assert again.put("d2/11", b"11", request_id=b"%016d" % 11) == 13, "a late retry"
    assert again.put("new") == filled.index + 2
    opened.close()


def test_a_restored_node_is_somebody_else_in_another_cluster(filled, tmp_path):
    path = saved(filled, tmp_path / "b")
    one, two = (restore(path, tmp_path / name, FOUNDER) for name in "xy")
    assert len({one.cluster, two.cluster, CLUSTER.hex()}) == 3
    assert one.id != two.id
    identity = read_identity(tmp_path / "x")
    assert (identity.cluster.hex(), identity.id, identity.name) == (one.cluster, one.id, "node9")


def test_revisions_can_go_on_ahead_of_what_clients_have_seen(filled, tmp_path):
    path = saved(filled, tmp_path / "b")
    found = restore(path, tmp_path / "data", FOUNDER, ahead=1_000)
    assert found.revision == filled.index + 1_000
    opened = RocksKV(tmp_path / "data" / "store")
    store = Store(opened)
    assert store.applied == filled.index + 1_000
    assert store.log_id == bytes(16) + store.applied.to_bytes(8)
    assert Writer(opened).put("new") == filled.index + 1_001
    opened.close()


def test_only_an_empty_directory_is_filled(filled, tmp_path):
    path = saved(filled, tmp_path / "b")
    taken = tmp_path / "data"
    taken.mkdir()
    (taken / "mine").write_text("keep")
    with pytest.raises(Misconfigured, match="is not empty"):
        restore(path, taken, FOUNDER)
    assert os.listdir(taken) == ["mine"]


def test_a_damaged_backup_leaves_nothing_behind(filled, tmp_path):
    path = saved(filled, tmp_path / "b")
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(DataLoss):
        restore(path, tmp_path / "data", FOUNDER)
    assert not (tmp_path / "data").exists()
