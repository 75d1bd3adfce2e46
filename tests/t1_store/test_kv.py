"""The key/value port: both implementations keep the same promises."""

import random
import threading
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dfs.errors import DataLoss, Unavailable
from dfs.kv import Closed, MemoryKV, RocksKV, rocks

RECORDS = {b"a": b"1", b"b": b"2", b"c\0": b"3", b"c\xff": b"4", b"d": b"5"}


def test_a_value_that_was_written_is_read_and_a_deleted_one_is_not(kv):
    kv.write({b"k": b"1", b"l": b"2"})
    kv.write({b"k": b"3", b"l": None, b"never": None})
    assert kv.get(b"k") == b"3"
    assert kv.get(b"l") is None
    assert kv.get_many([b"l", b"k", b"k"]) == [None, b"3", b"3"]
    kv.write({b"empty": b""})
    assert kv.get(b"empty") == b""


@pytest.mark.parametrize("frozen", [False, True])
def test_a_scan_takes_begin_but_not_end_in_both_directions(kv, frozen):
    kv.write(RECORDS)
    source = kv.snapshot() if frozen else kv
    assert [key for key, _ in source.scan(b"b", b"d")] == [b"b", b"c\0", b"c\xff"]
    assert [key for key, _ in source.scan(b"b", b"d", reverse=True)] == [b"c\xff", b"c\0", b"b"]
    assert list(source.scan(b"", b"\xff")) == list(RECORDS.items())
    assert list(source.scan(b"bb", b"c")) == list(source.scan(b"x", b"y")) == []
    assert list(source.scan(b"d", b"a")) == list(source.scan(b"d", b"a", reverse=True)) == []


def test_a_snapshot_does_not_move(kv):
    kv.write({b"a": b"1", b"b": b"1"})
    frozen = kv.snapshot()
    kv.write({b"a": b"2", b"b": None, b"c": b"2"})
    assert dict(frozen.scan(b"", b"\xff")) == {b"a": b"1", b"b": b"1"}
    assert (frozen.get(b"a"), frozen.get(b"b"), frozen.get(b"c")) == (b"1", b"1", None)
    frozen.close()
    frozen.close()
    with pytest.raises(Closed):
        frozen.get(b"a")
    with pytest.raises(Closed):
        list(frozen.scan(b"", b"\xff"))


def test_a_snapshot_is_read_by_another_thread(kv):
    kv.write(RECORDS)
    frozen = kv.snapshot()
    seen = []
    thread = threading.Thread(target=lambda: seen.extend(frozen.scan(b"", b"\xff")))
    thread.start()
    thread.join()
    assert dict(seen) == RECORDS


def test_replace_changes_everything_and_ends_snapshots(kv):
    kv.write(RECORDS)
    frozen = kv.snapshot()
    under_way = frozen.scan(b"", b"\xff")
    next(under_way)
    kv.replace([(b"b", b"new"), (b"z", b"z")])
    assert dict(kv.scan(b"", b"\xff")) == {b"b": b"new", b"z": b"z"}
    with pytest.raises(Unavailable, match="repeat the call"):
        frozen.get(b"a")
    kv.write({b"b": b"newer"})
    assert kv.get(b"b") == b"newer"


def test_replace_by_a_source_that_fails_changes_nothing(kv):
    def failing():
        yield b"x", b"y"
        raise DataLoss("the source is damaged")

    kv.write(RECORDS)
    frozen = kv.snapshot()
    with pytest.raises(DataLoss, match="source is damaged"):
        kv.replace(failing())
    assert dict(kv.scan(b"", b"\xff")) == dict(frozen.scan(b"", b"\xff")) == RECORDS


@given(st.lists(st.dictionaries(st.binary(max_size=2), st.none() | st.binary(max_size=3))))
def test_in_memory_it_is_a_sorted_dict(batches):
    kv, model = MemoryKV(), {}
    for batch in batches:
        kv.write(batch)
        model.update(batch)
    alive = sorted((key, value) for key, value in model.items() if value is not None)
    assert list(kv.scan(b"", b"\xff\xff\xff")) == alive
    assert list(kv.scan(b"", b"\xff\xff\xff", reverse=True)) == alive[::-1]


def test_close_gives_the_directory_back_even_with_readers_open(tmp_path):
    first = RocksKV(tmp_path / "kv")
    first.write(RECORDS)
    first.flush()
    frozen = first.snapshot()
    scans = [first.scan(b"", b"\xff"), frozen.scan(b"", b"\xff")]
    assert [next(scan)[0] for scan in scans] == [b"a", b"a"]
    first.close()
    first.close()
    second = RocksKV(tmp_path / "kv")
    assert dict(second.scan(b"", b"\xff")) == RECORDS
    second.close()
    with pytest.raises(Closed):
        first.get(b"a")


def test_a_second_opener_is_refused(tmp_path):
    first = RocksKV(tmp_path / "kv")
    with pytest.raises(BlockingIOError, match="another process has"):
        RocksKV(tmp_path / "kv")
    first.close()


def test_a_database_that_is_gone_is_noticed(tmp_path):
    RocksKV(tmp_path / "kv").close()
    (tmp_path / "kv" / "db-1").rename(tmp_path / "elsewhere")
    with pytest.raises(DataLoss, match="is gone"):
        RocksKV(tmp_path / "kv")


def test_leftovers_of_an_interrupted_replace_go_at_open(tmp_path):
    first = RocksKV(tmp_path / "kv")
    first.write(RECORDS)
    first.close()
    RocksKV(tmp_path / "other").close()
    (tmp_path / "other" / "db-1").rename(tmp_path / "kv" / "db-2")
    again = RocksKV(tmp_path / "kv")
    assert dict(again.scan(b"", b"\xff")) == RECORDS
    assert {path.name for path in (tmp_path / "kv").iterdir()} == {"current", "db-1"}
    again.close()


def damaged(tmp_path, position):
    """A store of 1,000 records in one table, with one byte changed in the middle of it."""
    kv = RocksKV(tmp_path / "kv")
    kv.write({b"%04d" % number: bytes([number % 251]) * 50 for number in range(1_000)})
    kv.flush()
    kv.close()
    [table] = (tmp_path / "kv" / "db-1").glob("*.sst")
    content = bytearray(table.read_bytes())
    content[int(len(content) * position)] ^= 1
    table.write_bytes(content)
    return RocksKV(tmp_path / "kv")


@pytest.mark.parametrize("reverse", [False, True])
def test_a_scan_over_a_damaged_block_raises_instead_of_ending(tmp_path, reverse):
    kv = damaged(tmp_path, 0.3)
    with pytest.raises(DataLoss, match="the store is damaged"):
        list(kv.scan(b"", b"\xff", reverse))
    frozen = kv.snapshot()
    with pytest.raises(DataLoss):
        list(frozen.scan(b"", b"\xff", reverse))
    kv.close()


def test_reads_of_a_damaged_block_raise_and_the_others_are_right(tmp_path):
    kv = damaged(tmp_path, 0.3)
    frozen = kv.snapshot()
    lost = 0
    for number in range(1_000):
        for source in (kv, frozen):
            try:
                assert source.get(b"%04d" % number) == bytes([number % 251]) * 50
            except DataLoss:
                lost += 1
    assert 0 < lost < 400
    with pytest.raises(DataLoss):
        kv.get_many([b"%04d" % number for number in range(1_000)])
    kv.close()


def test_scans_and_gets_of_one_snapshot_do_not_disturb_each_other(kv):
    kv.write({b"%04d" % number: b"old" for number in range(1_000)})
    frozen = kv.snapshot()
    up, down = frozen.scan(b"", b"\xff"), frozen.scan(b"", b"\xff", reverse=True)
    kv.write({b"%04d" % number: b"new" for number in range(0, 2_000, 3)})
    kv.flush()
    seen = []
    for (low, value), (high, _) in zip(up, down, strict=True):
        assert value == frozen.get(high) == b"old"
        seen.append((low, high))
    numbers = [b"%04d" % number for number in range(1_000)]
    assert seen == list(zip(numbers, reversed(numbers), strict=True))


def test_a_scan_goes_on_when_the_keys_it_stands_on_are_deleted(kv):
    kv.write({b"%04d" % number: b"v" for number in range(600)})
    walk = kv.scan(b"0100", b"0500")
    first = [next(walk)[0] for _ in range(50)]
    kv.write({b"%04d" % number: None for number in range(600)})
    assert first + [key for key, _ in walk] == [b"%04d" % number for number in range(100, 500)]
    assert list(kv.scan(b"", b"\xff")) == []


# ---- walks ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("walk", [None, (b"b", b"d"), (b"a", b"z")])
@pytest.mark.parametrize("records_max", [1, 2, 3, 9])
@pytest.mark.parametrize("moves", [True, False])
def test_parts_of_a_range_are_the_range(kv, walk, records_max, moves):
    kv.write(RECORDS)
    frozen = kv.snapshot(walk) if moves else kv.unfrozen(walk or (b"x", b"y"))
    if moves:
        kv.write({b"bb": b"later", b"c\0": None})
    begin, end = walk or (b"b", b"d")
    expected = [record for record in RECORDS.items() if begin <= record[0] < end]
    found, ended = [], False
    while not ended:
        part, ended = frozen.part(begin, end, records_max)
        assert len(part) <= records_max
        assert part or ended
        found += part
        begin = found[-1][0] + b"\0"
        assert frozen.get(b"a") == b"1", "other reads are not in the way"
    assert found == expected
    assert frozen.part(b"c", b"c\xff", 9) == ([(b"c\0", b"3")], True), "off the walk"
    frozen.close()
    with pytest.raises(Closed):
        frozen.part(b"a", b"z", 1)


@pytest.mark.parametrize("records_max", [1, 7, 50, 51])
def test_a_walk_is_the_quick_way(tmp_path, monkeypatch, records_max):
    kv = RocksKV(tmp_path / "kv")
    records = {b"%03d" % n: bytes(n) for n in range(200)}
    kv.write(records)
    begin, end = b"100", b"150"
    frozen = kv.snapshot((begin, end))
    monkeypatch.delattr(rocks, "_take")  # there is always a record behind: no need of the cursor
    found, ended = [], False
    while not ended:
        part, ended = frozen.part(begin, b"15" + b"0", records_max)  # other objects each time
        found += part
        begin = found[-1][0] + b"\0"
    assert found == list(records.items())[100:150]
    kv.close()


def test_nothing_is_written_between_a_walk_and_its_snapshot(tmp_path, monkeypatch):
    kv = RocksKV(tmp_path / "kv")
    kv.write({b"a": b"1"})
    make = rocks._items
    writer = threading.Thread(target=lambda: kv.write({b"a": b"2"}))

    def interrupted(db, walk):
        made = make(db, walk)
        writer.start()
        writer.join(0.1)
        assert writer.is_alive()
        return made

    monkeypatch.setattr(rocks, "_items", interrupted)
    frozen = kv.snapshot((b"a", b"b"))
    writer.join()
    assert frozen.get(b"a") == b"1"
    assert frozen.part(b"a", b"b", 2) == ([(b"a", b"1")], True)
    assert kv.get(b"a") == b"2"
    kv.close()


def test_a_walk_that_meets_damage_says_so(tmp_path):
    """The quick iterator ends there as if all was told."""
    kv = RocksKV(tmp_path / "kv")
    kv.write({b"%04d" % n: random.Random(n).randbytes(100) for n in range(1_000)})
    kv.flush()
    kv.close()
    [table] = (tmp_path / "kv" / "db-1").glob("*.sst")
    whole = table.read_bytes()
    middle = len(whole) // 2
    table.write_bytes(whole[:middle] + bytes([whole[middle] ^ 4]) + whole[middle + 1 :])
    kv = RocksKV(tmp_path / "kv")
    frozen = kv.snapshot((b"", b"\xff"))
    found = []

    def read_all():
        ended = False
        while not ended:
            part, ended = frozen.part(found[-1] + b"\0" if found else b"", b"\xff", 100)
            found.extend(key for key, _ in part)

    with pytest.raises(DataLoss, match="damaged"):
        read_all()
    assert 100 < len(found) < 900
    kv.close()


def blob_bytes(path):
    """Bytes of large values on disk."""
    size = 0
    for file in path.glob("db-*/*.blob"):
        with suppress(FileNotFoundError):  # removed meanwhile
            size += file.stat().st_size
    return size


LARGE_WORDS = 16 << 10


def write_large(kv, numbers, part=16):
    """Large values under these numbers; on disk in files of `part` of them."""
    numbers = list(numbers)
    for start in range(0, len(numbers), part):
        kv.write({b"h%06d" % n: n.to_bytes(4, "big") * LARGE_WORDS for n in numbers[start:][:part]})
        kv.flush()


def test_large_values_are_written_once_and_merging_does_not_copy_them(tmp_path):
    kv = RocksKV(tmp_path / "kv")
    write_large(kv, range(640))
    tables = sum(file.stat().st_size for file in tmp_path.glob("kv/db-1/*.sst"))
    size = 640 * 4 * LARGE_WORDS
    assert size <= blob_bytes(tmp_path / "kv") < size * 1.01
    assert tables < size * 0.01
    assert kv.get(b"h000639") == (639).to_bytes(4, "big") * LARGE_WORDS
    kv.close()
    kv = RocksKV(tmp_path / "kv")
    assert [int.from_bytes(value[:4], "big") for _, value in kv.scan(b"h", b"i")] == [*range(640)]
    kv.close()


def test_large_values_that_were_deleted_give_their_space_back(tmp_path):
    """Though each of their files still has one that is needed."""
    kv = RocksKV(tmp_path / "kv")
    write_large(kv, range(320))
    before = blob_bytes(tmp_path / "kv")
    kept = [n for n in range(320) if n % 16 == 7]
    kv.write({b"h%06d" % n: None for n in range(320) if n not in kept})
    number = 1_000

    def smaller():
        nonlocal number
        number += 1
        write_large(kv, [number])
        return blob_bytes(tmp_path / "kv") < before / 2

    assert any(smaller() for _ in range(200))
    assert all(kv.get(b"h%06d" % n) == n.to_bytes(4, "big") * LARGE_WORDS for n in kept)
    kv.close()


def test_damage_that_merging_meets_is_told_and_closes(tmp_path):
    """Whoever writes next hears of it; the store can be closed and opened again in this process."""
    kv = RocksKV(tmp_path / "store")
    chance = random.Random(1)

    def fill(times, count):
        for _ in range(times):
            for _ in range(count):
                kv.write({b"n%d" % chance.randrange(1_000): chance.randbytes(500)})
            kv.flush()

    fill(1, 2_000)
    table = max((tmp_path / "store/db-1").glob("*.sst"), key=lambda path: path.stat().st_size)
    with table.open("r+b") as file:
        file.seek(table.stat().st_size // 2)
        byte = file.read(1)[0]
        file.seek(-1, 1)
        file.write(bytes([byte ^ 4]))
    with pytest.raises(DataLoss, match="Corruption"):
        fill(100, 300)
    kv.close()
    RocksKV(tmp_path / "store").close()
