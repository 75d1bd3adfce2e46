"""A backup: one file that says what it is, read back whole or not at all; restored elsewhere."""

import json
import os
from pathlib import Path

import pytest
from t1_store.building import Writer, dump

from dfs.errors import DataLoss, Misconfigured
from dfs.identity import read_identity
from dfs.kv import MemoryKV, RocksKV
from dfs.limits import SMALL_VALUE_BYTES_MAX
from dfs.offline.restore import Founder, restore
from dfs.store import Store, backup
from dfs.store.layout import META_KEY

CLUSTER = bytes(range(16))
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


def saved(writer, path: Path) -> Path:
    with writer.store.view() as view, path.open("wb") as file:
        head = backup.head_of(view.source, CLUSTER, "node1", "1.2", 17)
        for part in backup.encode(view.source, head):
            file.write(part)
    return path


def test_a_backup_says_what_is_in_it(filled, tmp_path):
    head = backup.verify(saved(filled, tmp_path / "b"))
    store = filled.store
    assert head == backup.Head(
        CLUSTER.hex(), "node1", "1.2", 17, store.applied, store.time_ns, store.floor, store.keys,
        store.bytes, store.state_hash.hex(), store.chain.hex(),
    )


def test_any_flipped_bit_and_any_cut_is_noticed(tmp_path):
    """A backup with any flipped bit, or whose end is missing, is refused with a sentence."""
    small = Writer(MemoryKV())
    small.put("d/k", b"v", request_id=bytes(range(16)))
    small.put("d/k", b"w")
    small.delete("d/k")
    small.put("e", b"x")
    path = saved(small, tmp_path / "b")
    whole = path.read_bytes()
    for at in range(len(whole)):
        path.write_bytes(whole[:at] + bytes((whole[at] ^ 1 << at % 8,)) + whole[at + 1 :])
        with pytest.raises(DataLoss, match=str(path)):
            backup.verify(path)
    for size in range(0, len(whole), 97):
        path.write_bytes(whole[:size])
        with pytest.raises(DataLoss, match=str(path)):
            backup.verify(path)
    path.write_bytes(whole + b"\0")
    with pytest.raises(DataLoss, match="digest"):
        backup.verify(path)


def test_a_head_of_another_state_is_noticed(filled, tmp_path):
    """The digest fits, but the head was made for another state."""
    other = Writer(MemoryKV())
    other.put("other")
    path = tmp_path / "b"
    with filled.store.view() as view, other.store.view() as elsewhere, path.open("wb") as file:
        head = backup.head_of(elsewhere.source, CLUSTER, "node1", "1.2", 17)
        for part in backup.encode(view.source, head):
            file.write(part)
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
