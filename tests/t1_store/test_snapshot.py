"""The whole state written to a file and taken back: equal, or not at all."""

import hashlib
import os
import subprocess
import sys
from errno import ENOSPC
from pathlib import Path

import pytest
from t1_store.building import Writer, dump, figures

from dfs.errors import DataLoss, Unavailable
from dfs.kv import MemoryKV, RocksKV
from dfs.limits import SMALL_VALUE_BYTES_MAX
from dfs.store import Store, UnknownEntry

LARGE = b"x" * (SMALL_VALUE_BYTES_MAX + 1)


@pytest.fixture
def filled(writer):
    writer.blank(membership=b"the members")
    for number in range(300):
        writer.put(f"d{number % 7}/{number}", b"%d" % number, request_id=b"%016d" % number)
    writer.put("large", LARGE * 300)
    writer.put("large", LARGE)
    writer.symlink("l", "t")
    writer.mkdir("m")
    writer.delete("d3", recursive=True)
    writer.set_floor(40)
    return writer


def exported(writer, path):
    with writer.store.view() as view:
        writer.store.export(view, str(path))
    return path


def test_a_restored_state_is_equal_in_every_byte(filled, kv, tmp_path):
    path = exported(filled, tmp_path / "snapshot")
    for other in (MemoryKV(), RocksKV(tmp_path / "other")):
        store = Store(other)
        store.apply([(1, b"", False)], b"other", b"")
        store.restore(str(path))
        assert figures(store) == figures(filled.store)
        assert dump(other) == dump(kv)
        writer = Writer(other)
        assert writer.history() == filled.history()
        assert writer.put("d2/100", b"100", request_id=b"%016d" % 100) == 102, "a late retry"
        assert writer.put("new") == filled.index + 2
        other.close()


def test_restore_replaces_and_never_merges(filled, tmp_path):
    path = exported(filled, tmp_path / "snapshot")
    filled.put("only/here")
    filled.delete("l")
    before = dump(filled.kv)
    filled.store.restore(str(path))
    assert not {"only", "only/here"} & set(filled.keys())
    assert filled.stat("l").target == "t"
    assert dump(filled.kv) != before


def test_a_snapshot_shows_its_view_while_writes_go_on(filled, tmp_path):
    with filled.store.view() as view:
        expected = figures(filled.store)
        filled.put("later", LARGE)
        filled.store.export(view, str(tmp_path / "snapshot"))
    store = Store(MemoryKV())
    store.restore(str(tmp_path / "snapshot"))
    assert figures(store) == expected


def test_views_end_when_the_state_is_replaced(filled, tmp_path):
    path = exported(filled, tmp_path / "snapshot")
    view = filled.store.view()
    walk = view.list(recursive=True)
    next(walk)
    filled.store.restore(str(path))
    with pytest.raises(Unavailable, match="repeat the call"):
        view.get("large")
    with pytest.raises(Unavailable):
        list(view.list())


def test_the_state_after_a_restore_is_there_after_a_restart(tmp_path):
    source = Writer(MemoryKV())
    source.put("a", LARGE)
    path = exported(source, tmp_path / "snapshot")
    kv = RocksKV(tmp_path / "kv")
    store = Store(kv)
    store.apply([(1, b"", False)], b"x", b"")
    store.restore(str(path))
    kv.close()
    kv = RocksKV(tmp_path / "kv")
    assert dump(kv) == dump(source.kv)
    kv.close()


def test_an_empty_state_can_be_exported(writer, tmp_path):
    path = exported(writer, tmp_path / "snapshot")
    store = Store(MemoryKV())
    store.restore(str(path))
    assert figures(store) == figures(writer.store)


# ---- damage --------------------------------------------------------------------------------------


def test_a_damaged_snapshot_is_refused_and_the_state_stays(tmp_path):
    source = Writer(MemoryKV())
    source.put("a/b", b"1")
    source.put("c", LARGE)
    whole = exported(source, tmp_path / "snapshot").read_bytes()
    target = Writer(MemoryKV())
    target.put("mine")
    before = figures(target.store), dump(target.kv)
    broken = tmp_path / "broken"
    for position in range(0, len(whole), 13):
        broken.write_bytes(
            whole[:position] + bytes([whole[position] ^ 0x40]) + whole[position + 1 :]
        )
        with pytest.raises((DataLoss, UnknownEntry)):
            target.store.restore(str(broken))
    for size in (0, 1, 8, 20, len(whole) // 2, len(whole) - 1):
        broken.write_bytes(whole[:size])
        with pytest.raises(DataLoss):
            target.store.restore(str(broken))
    broken.write_bytes(whole + b"x")
    with pytest.raises(DataLoss, match="something follows behind its end"):
        target.store.restore(str(broken))
    assert (figures(target.store), dump(target.kv)) == before


def test_a_snapshot_whose_records_are_not_those_of_its_state_hash_is_refused(tmp_path):
    source = Writer(MemoryKV())
    source.put("a", b"1")
    value = source.kv.get(b"na")
    source.put("a", b"2")
    source.kv.write({b"na": value})
    path = exported(source, tmp_path / "snapshot")
    with pytest.raises(DataLoss, match="other records than its state hash says"):
        Store(MemoryKV()).restore(str(path))


def test_a_damaged_state_is_not_exported(tmp_path):
    source = Writer(MemoryKV())
    source.put("a", b"1")
    source.kv.write({b"na": source.kv.get(b"na")[:-1] + b"2"})
    with source.store.view() as view, pytest.raises(DataLoss, match="the record of a"):
        source.store.export(view, str(tmp_path / "snapshot"))
    assert list(tmp_path.iterdir()) == []


def test_a_snapshot_that_found_no_space_leaves_nothing_and_the_next_one_is_whole(
    filled, kv, tmp_path, monkeypatch
):
    """No part of the one that failed is in the next one."""

    def full(_descriptor):
        raise OSError(ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        exported(filled, tmp_path / "snapshot")
    assert os.listdir(tmp_path) in ([], ["store"])
    monkeypatch.undo()
    filled.delete("l")
    path = exported(filled, tmp_path / "snapshot")
    empty = MemoryKV()
    Store(empty).restore(str(path))
    assert dump(empty) == dump(kv)


def test_a_snapshot_of_a_newer_format_is_refused(writer, tmp_path):
    path = exported(writer, tmp_path / "snapshot")
    content = bytearray(path.read_bytes())
    content[8] = 2
    content[-32:] = hashlib.sha256(content[:-32]).digest()
    path.write_bytes(content)
    with pytest.raises(UnknownEntry, match="snapshot has format 2"):
        writer.store.restore(str(path))
    path.write_bytes(b"something else entirely")
    with pytest.raises(DataLoss, match="no snapshot of dfs"):
        writer.store.restore(str(path))


# ---- crashes -------------------------------------------------------------------------------------

CRASHING_RESTORE = """
import os, sys
from dfs.kv import RocksKV
from dfs.store import Store

# Crashes at the n-th of the calls that change what is on disk.
left = int(sys.argv[1])

def crashing(function):
    def call(*arguments, **options):
        global left
        left -= 1
        if left < 0:
            os.kill(os.getpid(), 9)
        return function(*arguments, **options)
    return call

store = Store(RocksKV(sys.argv[2]))
os.fsync = crashing(os.fsync)
os.replace = crashing(os.replace)
os.rename = crashing(os.rename)
import dfs.kv.rocks as rocks, pathlib, shutil
pathlib.Path.replace = crashing(pathlib.Path.replace)
shutil.rmtree = crashing(shutil.rmtree)
rocks._write = crashing(rocks._write)
rocks._flush = crashing(rocks._flush)
store.restore(sys.argv[3])
store.close()
"""


def test_a_crash_at_any_point_of_a_restore_leaves_the_old_or_the_new_state(tmp_path):
    new = Writer(MemoryKV())
    for number in range(50):
        new.put(f"new/{number}", LARGE)
    snapshot = exported(new, tmp_path / "snapshot")
    old = RocksKV(tmp_path / "kv")
    Writer(old).put("old", b"1")
    old_dump, new_dump = dump(old), dump(new.kv)
    old.close()
    outcomes = []
    for calls in range(30):
        command = [sys.executable, "-c", CRASHING_RESTORE, str(calls), tmp_path / "kv", snapshot]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        code = subprocess.run(command, env=environment, check=False).returncode
        kv = RocksKV(tmp_path / "kv")
        outcomes.append([old_dump, new_dump].index(dump(kv)))
        kv.close()
        assert len(list(Path(tmp_path / "kv").iterdir())) == 2
        if code == 0:
            break
        assert code == -9
    assert code == 0
    assert outcomes == sorted(outcomes), "once new, always new"
    assert outcomes.count(0) >= 4
    assert outcomes[-1] == 1


def test_a_flush_that_meets_a_restore_promises_nothing(filled, tmp_path):
    path = exported(filled, tmp_path / "snapshot")
    for _ in range(50):
        filled.put("later")
    flush, answers = filled.kv.flush, []

    def restore_first():
        filled.store.restore(str(path))
        flush()

    filled.kv.flush = restore_first
    assert filled.store.flush() == 0
    filled.kv.flush = flush
    replace = filled.kv.replace

    def flush_last(records):
        replace(records)
        answers.append(filled.store.flush())

    filled.kv.replace = flush_last
    filled.store.restore(str(path))
    assert answers == [0]
    assert filled.store.flush() == filled.index
