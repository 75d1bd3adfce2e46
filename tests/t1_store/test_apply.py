"""apply: batches, Raft's own entries, bad entries, entries of newer versions."""

import pytest
from t1_store.building import START_NS, Writer, dump, entry, figures

from dfs import commands
from dfs.errors import DataLoss, DfsError, Internal, InvalidArgument, TooLarge
from dfs.kv import MemoryKV
from dfs.limits import MODE_MAX, VALUE_BYTES_MAX
from dfs.proto.dfs_pb2 import MakeDirRequest, Metadata, PutRequest, SymlinkRequest
from dfs.proto.internal.log_pb2 import Entry
from dfs.store import Store, UnknownEntry, change_of
from dfs.store.layout import STORE_FORMAT, STORE_FORMAT_MIN

PUT = entry(commands.put_head, PutRequest(key="a", data=b"1"), START_NS)


def test_results_only_where_wanted(writer):
    bad = entry(commands.put_head, PutRequest(key="a/b"), START_NS)
    results, changes = writer.store.apply(
        [(1, PUT, False), (2, PUT, True), (3, bad, False), (4, bad, True), (5, b"", True)],
        b"id", b"",
    )  # fmt: skip
    assert results[:3] == [None, b"\x08\x02", None]
    assert isinstance(results[3], DfsError)
    assert results[4] is None
    assert [change_of(event).revision for event in changes] == [1, 2]


def test_entries_of_a_batch_see_each_other(writer):
    payloads = [
        entry(commands.put_head, PutRequest(key="d/x", base_revision=0), START_NS),
        entry(commands.put_head, PutRequest(key="d/x", base_revision=1), START_NS),
        entry(commands.put_head, PutRequest(key="d/x/y"), START_NS),
        entry(commands.put_head, PutRequest(key="d/z"), START_NS),
    ]
    results, _ = writer.store.apply(
        [(index + 1, payload, True) for index, payload in enumerate(payloads)], b"id", b""
    )
    assert [isinstance(result, bytes) for result in results] == [True, True, False, True]
    assert writer.stat("d").children == 2
    assert writer.stat("d/x").version == 2


def test_rafts_own_entries_move_index_chain_and_membership_only(writer):
    chain = writer.store.chain
    writer.blank(membership=b"three nodes")
    assert (writer.store.applied, writer.store.log_id) == (1, b"id1")
    assert writer.store.membership == b"three nodes"
    assert writer.store.chain != chain
    writer.put("a")
    assert writer.store.membership == b"three nodes"
    assert writer.keys() == ["a"]


def test_a_first_entry_with_index_0_is_taken(kv):
    store = Store(kv)
    store.apply([(0, b"", False), (1, PUT, False)], b"id", b"m")
    assert store.applied == 1


@pytest.mark.parametrize("index", [1, 2, 4])
def test_an_index_that_does_not_follow_stops_the_node(writer, index):
    writer.put("a")
    writer.put("b")
    before = figures(writer.store), dump(writer.kv)
    with pytest.raises(Internal, match=f"entry {index} is to be applied behind entry 2"):
        writer.store.apply([(index, PUT, True)], b"id", b"")
    assert (figures(writer.store), dump(writer.kv)) == before


def test_everything_is_there_when_the_store_is_opened_again(kv):
    first = Writer(kv)
    first.put("a/b", b"1", request_id=b"r" * 16)
    first.blank(membership=b"m")
    first.set_floor(1)
    assert figures(Store(kv)) == figures(first.store)


# ---- bad entries ---------------------------------------------------------------------------------


def raw(**fields):
    fields.setdefault("format", commands.ENTRY_FORMAT)
    return Entry(time_ns=START_NS, node="n", **fields).SerializeToString(deterministic=True)


BAD = {
    "no protobuf": commands.FORMAT_PREFIX + b"\xff\xff",
    "no protobuf, no format": b"\xff",
    "not UTF-8": commands.FORMAT_PREFIX + b"\x82\x01\x03\x0a\x01\xff",
    "format 0": raw(format=0, put=PutRequest(key="a")),
    "no operation": raw(),
    "no digest": raw(put=PutRequest(key="new")),
    "empty key": raw(put=PutRequest(), sha256=bytes(32)),
    "bad key": raw(put=PutRequest(key="a/../b"), sha256=bytes(32)),
    "reserved key": raw(make_dir=MakeDirRequest(key=".dfs/x")),
    "NUL for slash": raw(put=PutRequest(key="d\0x"), sha256=bytes(32)),
    "short request id": raw(put=PutRequest(key="a", request_id=b"1"), sha256=bytes(32)),
    "wide mode": raw(
        put=PutRequest(key="a", metadata=Metadata(mode=MODE_MAX + 1)), sha256=bytes(32)
    ),
    "no target": raw(symlink=SymlinkRequest(key="l")),
}


@pytest.mark.parametrize("payload", BAD.values(), ids=BAD)
def test_a_bad_entry_is_refused_and_the_rest_goes_on(writer, payload):
    writer.put("d/x", b"kept")
    state_hash = writer.store.state_hash
    results, changes = writer.store.apply(
        [(2, payload, True), (3, PUT, True)], b"id", b""
    )
    assert isinstance(results[0], InvalidArgument)
    assert results[1] == b"\x08\x03"
    assert len(changes) == 1
    assert writer.get("d/x") == b"kept"
    writer.delete("a")
    assert writer.store.state_hash == state_hash


def test_a_value_over_the_limit_is_refused_in_apply_too(writer):
    payload = raw(put=PutRequest(key="a", data=bytes(VALUE_BYTES_MAX + 1)), sha256=bytes(32))
    [result], _ = writer.store.apply([(1, payload, True)], b"id", b"")
    assert isinstance(result, TooLarge)


def test_an_entry_of_a_newer_format_stops_the_node(writer):
    payload = raw(format=commands.ENTRY_FORMAT + 1, put=PutRequest(key="a"))
    with pytest.raises(UnknownEntry, match="format 4, this version of dfs knows 3: update"):
        writer.store.apply([(1, PUT, True), (2, payload, True)], b"id", b"")
    assert (writer.store.applied, dump(writer.kv)) == (0, [])


def test_an_operation_of_a_newer_version_stops_the_node(writer):
    payload = raw() + b"\x9a\x06\x00"
    with pytest.raises(UnknownEntry, match="operation 99, which this version"):
        writer.store.apply([(1, payload, True)], b"id", b"")


def test_a_state_of_a_newer_format_is_not_opened(kv, monkeypatch):
    monkeypatch.setattr("dfs.store.layout.STORE_FORMAT", STORE_FORMAT + 1)
    Writer(kv).put("a")
    monkeypatch.undo()
    with pytest.raises(UnknownEntry, match=f"this version of dfs knows {STORE_FORMAT}"):
        Store(kv)


def test_a_state_of_an_older_format_says_what_is_left_to_do(kv, monkeypatch):
    monkeypatch.setattr("dfs.store.layout.STORE_FORMAT", STORE_FORMAT_MIN - 1)
    Writer(kv).put("a")
    monkeypatch.undo()
    with pytest.raises(UnknownEntry, match=r"it is older; .*, or begin with an empty directory"):
        Store(kv)


def test_a_state_without_large_contents_is_that_of_the_format_before(kv, monkeypatch):
    monkeypatch.setattr("dfs.store.layout.STORE_FORMAT", STORE_FORMAT_MIN)
    Writer(kv).put("a")
    monkeypatch.undo()
    writer = Writer(kv)
    writer.put_content("b", 3_000)
    assert writer.keys() == ["a", "b"]


def test_records_without_the_one_that_describes_them_are_not_opened():
    kv = MemoryKV()
    kv.write({b"na": b"x"})
    with pytest.raises(DataLoss, match="not the one that says what they are"):
        Store(kv)
