"""Owners and extended attributes: kept as named, in one encoding."""

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from t1_store.building import START_NS, Writer, entry, operation
from t1_store.test_replay import state_hash_of

from dfs import commands
from dfs.errors import InvalidArgument, TooLarge
from dfs.kv import MemoryKV
from dfs.limits import OWNER_MAX, SMALL_VALUE_BYTES_MAX, XATTR_BYTES_MAX, XATTR_NAME_BYTES_MAX
from dfs.proto.dfs_pb2 import (
    FILE,
    MakeDirRequest,
    Metadata,
    Operation,
    PutRequest,
    Record,
    SymlinkRequest,
    TransactionRequest,
    Xattr,
)
from dfs.proto.internal.log_pb2 import Entry
from dfs.store import UnknownEntry

HEADS = {
    PutRequest: commands.put_head, MakeDirRequest: commands.make_dir_head,
    SymlinkRequest: commands.symlink_head,
}  # fmt: skip


def xattrs(*names, value=b"v"):
    return [Xattr(name=name, value=value) for name in names]


OWNED = Metadata(uid=0, gid=7, xattrs=[Xattr(name="user.a", value=b"\0\xff"), *xattrs("user.b")])


def write(writer, request):
    writer.send(HEADS[type(request)], request)


def owned(record):
    return (
        record.uid if record.HasField("uid") else None,
        record.gid if record.HasField("gid") else None,
        [(xattr.name, xattr.value) for xattr in record.xattrs],
    )


@pytest.mark.parametrize("size", [0, SMALL_VALUE_BYTES_MAX, SMALL_VALUE_BYTES_MAX + 1])
def test_owner_and_attributes_are_kept(writer, size):
    """Owner and group, as numbers, and extended attributes are kept with a key as its writer named
    them; a write that names none leaves none."""
    data = bytes(size)
    write(writer, PutRequest(key="a", data=data, metadata=OWNED, request_id=b"i" * 16))
    record = writer.stat("a")
    assert record == Record(
        kind=FILE, revision=1, created_revision=1, version=1, size=size,
        sha256=hashlib.sha256(data).digest(), mode=0o644, mtime_ns=writer.now, node="node1",
        principal="me", time_ns=writer.now, request_id=b"i" * 16, uid=0, gid=7, xattrs=OWNED.xattrs,
    )  # fmt: skip
    assert writer.get("a") == writer.get("a", at=1) == data
    assert writer.store.bytes == size
    write(writer, PutRequest(key="a", data=b"2", metadata=Metadata(gid=OWNER_MAX)))
    assert owned(writer.stat("a")) == (None, OWNER_MAX, [])
    assert (writer.stat("a").version, writer.stat("a").created_revision) == (2, 1)
    writer.put("a", b"333")
    assert owned(writer.stat("a")) == (None, None, [])
    assert (writer.stat("a").version, writer.store.bytes) == (3, 3)
    assert owned(writer.stat("a", at=1)) == (0, 7, [("user.a", b"\0\xff"), ("user.b", b"v")])
    write(writer, SymlinkRequest(key="l", target="t", metadata=OWNED))
    assert owned(writer.stat("l"))[:2] == (0, 7)
    assert writer.store.state_hash == state_hash_of(writer)


def test_a_directory_keeps_what_is_not_named_anew(writer):
    """And counting its children changes nothing of it."""
    write(writer, MakeDirRequest(key="d", metadata=OWNED))
    made = writer.stat("d").revision
    for key in ("d/a", "d/b", "d/c"):
        writer.put(key)
    writer.delete("d/b")
    assert (writer.stat("d").children, owned(writer.stat("d"))[:2]) == (2, (0, 7))
    assert len(owned(writer.stat("d"))[2]) == 2
    for same in (MakeDirRequest(key="d"), MakeDirRequest(key="d", metadata=OWNED)):
        write(writer, same)
        assert writer.stat("d").revision == made
    write(writer, MakeDirRequest(key="d", metadata=Metadata(uid=5, xattrs=xattrs("user.z"))))
    assert owned(writer.stat("d")) == (5, 7, [("user.z", b"v")])
    assert (writer.stat("d").version, writer.stat("d").children) == (2, 2)
    for revision in (writer.index + 1, writer.index + 1):
        write(writer, MakeDirRequest(key="d", metadata=Metadata(no_xattrs=True)))
        assert owned(writer.stat("d")) == (5, 7, [])
        assert writer.stat("d").revision == revision
    writer.put("i/x")
    write(writer, MakeDirRequest(key="i", metadata=OWNED))
    assert (writer.stat("i").implicit, owned(writer.stat("i"))[:2]) == (False, (0, 7))
    assert writer.store.state_hash == state_hash_of(writer)


def test_moves_copies_and_transactions_take_them_along(writer):
    writer.transaction(
        operation("put", "a/x", data=b"1", metadata=OWNED),
        operation("make_dir", "a/d", metadata=OWNED),
        operation("copy", "a", "b", recursive=True),
        operation("move", "b/x", "c"),
    )
    for key in ("a/x", "a/d", "b/d", "c"):
        assert owned(writer.stat(key)) == (0, 7, [("user.a", b"\0\xff"), ("user.b", b"v")])
    assert writer.store.state_hash == state_hash_of(writer)


@pytest.mark.parametrize(
    ("metadata", "error", "words"),
    [
        (Metadata(uid=OWNER_MAX + 1), InvalidArgument, "uid 4294967295 is nobody's"),
        (Metadata(gid=OWNER_MAX + 1), InvalidArgument, "gid 4294967295 is nobody's"),
        (Metadata(xattrs=xattrs("user.b", "user.a")), InvalidArgument, "not in the order"),
        (Metadata(xattrs=xattrs("user.a", "user.a")), InvalidArgument, "is there twice"),
        (Metadata(xattrs=xattrs("trusted.a")), InvalidArgument, "does not begin with 'user.'"),
        (Metadata(xattrs=xattrs("user.")), InvalidArgument, "does not begin with 'user.'"),
        (Metadata(xattrs=xattrs("")), InvalidArgument, "does not begin with 'user.'"),
        (Metadata(xattrs=xattrs("user.a\0")), InvalidArgument, "NUL"),
        (Metadata(xattrs=xattrs("user.a"), no_xattrs=True), InvalidArgument, "said to be none"),
        (Metadata(xattrs=xattrs("user." + "x" * 251)), InvalidArgument, "more than 255 bytes"),
        (
            Metadata(xattrs=xattrs("user.a", "user.b", value=bytes(XATTR_BYTES_MAX // 2))),
            TooLarge, "4,108 bytes.*4,096 .XATTR_BYTES_MAX",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_breaks_a_rule_is_refused_at_the_door_and_in_apply(metadata, error, words):
    requests = [
        PutRequest(key="a", metadata=metadata), MakeDirRequest(key="a", metadata=metadata),
        SymlinkRequest(key="a", target="t", metadata=metadata),
    ]  # fmt: skip
    for name, request in zip(("put", "make_dir", "symlink"), requests, strict=True):
        writer = Writer(MemoryKV())
        with pytest.raises(error, match=words):
            write(writer, request)
        with pytest.raises(error, match=words):
            writer.transaction(operation(name, "a", **{
                field.name: value for field, value in request.ListFields() if field.name != "key"
            }))  # fmt: skip
        payload = Entry(
            format=commands.ENTRY_FORMAT, time_ns=START_NS, node="n", sha256=bytes(32),
            **{name: request},
        ).SerializeToString()  # fmt: skip
        [result], changes = writer.store.apply([(1, payload, True)], b"id", b"")
        assert isinstance(result, error)
        assert changes == []


def test_the_largest_attributes_are_taken(writer):
    name = "user." + "x" * (XATTR_NAME_BYTES_MAX - 5)
    most = xattrs(name, value=bytes(XATTR_BYTES_MAX - len(name)))
    write(writer, PutRequest(key="a", data=b"1", metadata=Metadata(xattrs=most)))
    assert list(writer.stat("a").xattrs) == most
    assert writer.get("a") == b"1"


def test_a_version_that_would_lose_them_does_not_apply_them(monkeypatch):
    """Members of an older version must not make another record of the same entry: they stop."""
    for request in (
        PutRequest(key="a", metadata=OWNED), MakeDirRequest(key="a", metadata=Metadata(uid=1)),
        SymlinkRequest(key="a", target="t", metadata=Metadata(xattrs=xattrs("user.a"))),
    ):  # fmt: skip
        payload = entry(HEADS[type(request)], request, START_NS)
        assert payload[:2] == b"\x08\x02"
        with monkeypatch.context() as older:
            older.setattr(commands, "ENTRY_FORMAT", 1)
            older.setattr(commands, "FORMAT_PREFIXES", frozenset((commands.FORMAT_PREFIX,)))
            with pytest.raises(UnknownEntry, match="has format 2"):
                Writer(MemoryKV()).apply(payload)
    loses = MakeDirRequest(key="a", metadata=Metadata(no_xattrs=True))
    both = TransactionRequest(operations=[operation("delete", "b"), Operation(make_dir=loses)])
    for payload in (
        entry(commands.make_dir_head, loses, START_NS),
        entry(commands.transaction_head, both, START_NS),
    ):  # fmt: skip
        assert payload[:2] == b"\x08\x03"
        with monkeypatch.context() as older:
            older.setattr(commands, "ENTRY_FORMAT", 2)
            older.setattr(commands, "FORMAT_PREFIXES", frozenset((b"\x08\x01", b"\x08\x02")))
            with pytest.raises(UnknownEntry, match="has format 3"):
                Writer(MemoryKV()).apply(payload)
    plain = entry(commands.put_head, PutRequest(key="a", metadata=Metadata(mode=1)), START_NS)
    assert plain[:2] == commands.FORMAT_PREFIX


@given(
    st.binary(max_size=3_000), st.integers(0, 0o7777), st.integers(-(1 << 63), (1 << 63) - 1),
    st.booleans(),
)  # fmt: skip
def test_a_file_that_names_an_owner_is_packed_as_one_that_names_none(data, mode, mtime_ns, twice):
    """But for the owner."""
    one, other = Writer(MemoryKV()), Writer(MemoryKV())
    metadata = Metadata(mode=mode, mtime_ns=mtime_ns)
    for _ in range(1 + twice):
        write(one, PutRequest(key="a/b", data=data, metadata=metadata))
        owner = Metadata(uid=1)
        owner.MergeFrom(metadata)
        write(other, PutRequest(key="a/b", data=data, metadata=owner))
    first, second = one.stat("a/b"), other.stat("a/b")
    second.ClearField("uid")
    assert first == second
    assert one.get("a/b") == other.get("a/b") == data
    assert one.history() == other.history()
    assert [key for key, _ in one.kv.scan(b"", b"\xff")] == [
        key for key, _ in other.kv.scan(b"", b"\xff")
    ]
