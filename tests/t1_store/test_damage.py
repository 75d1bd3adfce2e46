"""Wrong bytes are never served: every value that is read is what was written under its key."""

from itertools import pairwise

import pytest
from t1_store.building import Writer, dump

from dfs.errors import DataLoss, DfsError
from dfs.kv import MemoryKV, RocksKV
from dfs.limits import SMALL_VALUE_BYTES_MAX
from dfs.store import Store

LARGE = b"x" * (SMALL_VALUE_BYTES_MAX + 1)


@pytest.fixture
def filled():
    writer = Writer(MemoryKV())
    writer.put("d/small", b"1")
    writer.put("d/large", LARGE)
    writer.put("d/other", LARGE[:-1] + b"y", request_id=b"r" * 16)
    return writer


def everything(writer):
    """Reads all there is to read."""
    with writer.store.view() as view:
        return (
            list(view.list(recursive=True, data_bytes_max=1 << 20)),
            list(view.changes(0)),
            [view.get(key, at) for key in ("d/small", "d/large") for at in (0, 2)],
        )


def test_any_flipped_bit_in_any_value_is_noticed(filled):
    """Whatever is read from the store is checked: a single wrong bit in any stored value is an
    error, never an answer."""
    readers = {
        b"n": lambda: everything(filled),
        b"h": lambda: everything(filled),
        b"m": lambda: Store(filled.kv),
        b"d": lambda: filled.put("d/other", LARGE[:-1] + b"y", request_id=b"r" * 16),
    }
    flipped = 0
    for key, value in dump(filled.kv):
        for position in range(0, len(value), 1 + len(value) // 40):
            bad = value[:position] + bytes([value[position] ^ 0x10]) + value[position + 1 :]
            filled.kv.write({key: bad})
            with pytest.raises(DataLoss):
                readers[key[:1]]()
            flipped += 1
        filled.kv.write({key: value})
    assert everything(filled)
    assert flipped > 300


def test_a_value_under_another_key_is_noticed(filled):
    good = dict(dump(filled.kv))
    for family in (b"n", b"h"):
        keys = [key for key in good if key.startswith(family)]
        for key, other in pairwise(keys):
            filled.kv.write({key: good[other]})
            with pytest.raises(DataLoss):
                everything(filled)
            filled.kv.write({key: good[key]})


def test_the_error_names_the_key(filled):
    filled.kv.write({b"nd\0small": b"damaged and short"})
    with pytest.raises(DataLoss, match="the record of d/small"):
        filled.store.get_answer("d/small")
    [large] = [key for key, value in dump(filled.kv) if key[:1] == b"h" and LARGE in value]
    filled.kv.write({large: filled.kv.get(large)[:-1] + b"!"})
    with pytest.raises(DataLoss, match="d/large at revision 2"):
        filled.store.get_answer("d/large")
    filled.kv.write({large: None})
    with pytest.raises(DataLoss, match=r"d/large at revision 2.*not where it must be"):
        filled.store.get_answer("d/large")


def test_apply_over_a_damaged_record_stops_the_node_instead_of_diverging(filled):
    filled.kv.write({b"nd\0small": filled.kv.get(b"nd\0small")[:-1] + b"!"})
    before = dump(filled.kv)
    with pytest.raises(DataLoss):
        filled.put("d/small", b"2")
    filled.kv.write({b"nd\0small": None, b"nd": None})
    with pytest.raises(DataLoss):
        filled.delete("d/large")
    assert filled.store.applied == 3
    assert len(before) > 5


def test_a_damaged_table_on_disk_is_never_served(tmp_path):
    kv = RocksKV(tmp_path / "kv")
    writer = Writer(kv)
    for number in range(300):
        writer.put(f"d/{number:03}", b"%d" % number * 50)
    kv.flush()
    kv.close()
    [table] = (tmp_path / "kv" / "db-1").glob("*.sst")
    whole = table.read_bytes()
    noticed = 0
    for position in range(100, len(whole), len(whole) // 12):
        table.write_bytes(whole[:position] + bytes([whole[position] ^ 4]) + whole[position + 1 :])
        try:
            kv = RocksKV(tmp_path / "kv")
        except DataLoss:
            noticed += 1
            continue
        try:
            with Store(kv).view() as view:
                found = list(view.list("d", True, data_bytes_max=1_000))
                assert [data for _, _, data in found] == [b"%d" % n * 50 for n in range(300)]
                assert len(list(view.changes(0))) == 301
        except DataLoss:
            noticed += 1
        finally:
            kv.close()
    assert noticed >= 9
    assert issubclass(DataLoss, DfsError)


def test_a_damaged_file_of_large_values_is_never_served(tmp_path):
    kv = RocksKV(tmp_path / "kv")
    writer = Writer(kv)
    large = {f"d/{number}": bytes([number]) * 10_000 for number in range(10)}
    for key, data in large.items():
        writer.put(key, data)
    kv.flush()
    kv.close()
    [blobs] = (tmp_path / "kv" / "db-1").glob("*.blob")
    whole = blobs.read_bytes()
    noticed = 0
    for position in range(100, len(whole), len(whole) // 12):
        blobs.write_bytes(whole[:position] + bytes([whole[position] ^ 4]) + whole[position + 1 :])
        kv = RocksKV(tmp_path / "kv")
        try:
            with Store(kv).view() as view:
                assert {key: view.get(key)[1] for key in large} == large
        except DataLoss:
            noticed += 1
        finally:
            kv.close()
    assert noticed >= 9


def test_an_index_that_names_the_event_of_another_key_is_noticed(filled):
    [large] = [key for key, _ in dump(filled.kv) if key.startswith(b"id\0large")]
    filled.kv.write({b"id\0small" + large[len(b"id\0large") :]: b""})
    with pytest.raises(DataLoss, match="d/small at revision 2"):
        filled.get("d/small", 1)
