"""Log entries: made of head, body and stamp; their numbers never change."""

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dfs import commands
from dfs.errors import InvalidArgument, TooLarge
from dfs.limits import VALUE_BYTES_MAX
from dfs.proto import dfs_pb2
from dfs.proto.dfs_pb2 import (
    CopyRequest,
    DeleteRequest,
    MakeDirRequest,
    Metadata,
    MoveRequest,
    Operation,
    PutContentRequest,
    PutRequest,
    Record,
    SymlinkRequest,
    TransactionRequest,
)
from dfs.proto.internal.log_pb2 import Entry, SetFloor

HEADS = {
    "put": (commands.put_head, PutRequest),
    "delete": (commands.delete_head, DeleteRequest),
    "make_dir": (commands.make_dir_head, MakeDirRequest),
    "symlink": (commands.symlink_head, SymlinkRequest),
}


def numbers(message):
    return {field.name: field.number for field in message.DESCRIPTOR.fields}


def test_the_numbers_that_stand_in_logs_and_stores_on_disk():
    assert numbers(Entry) == {
        "format": 1, "time_ns": 2, "node": 3, "principal": 4, "sha256": 5, "put": 16,
        "delete": 17, "make_dir": 18, "symlink": 19, "set_floor": 20, "put_content": 21,
        "move": 22, "copy": 23, "transaction": 24,
    }  # fmt: skip
    assert numbers(PutRequest) == {
        "key": 1, "data": 2, "metadata": 3, "base_revision": 4, "request_id": 5,
    }  # fmt: skip
    assert numbers(DeleteRequest) == {
        "key": 1, "recursive": 2, "base_revision": 4, "request_id": 5,
    }  # fmt: skip
    assert numbers(MakeDirRequest) == {"key": 1, "metadata": 3, "request_id": 5}
    assert numbers(SymlinkRequest) == {
        "key": 1, "target": 2, "metadata": 3, "base_revision": 4, "request_id": 5,
    }  # fmt: skip
    assert numbers(PutContentRequest) == {
        "key": 1, "sha256": 2, "metadata": 3, "base_revision": 4, "request_id": 5, "size": 6,
        "chunk_bytes": 7, "digests": 8, "incoming": 9,
    }  # fmt: skip
    assert numbers(MoveRequest) == {
        "source": 1, "target": 2, "base_revision": 4, "request_id": 5, "replace": 6,
    }  # fmt: skip
    assert numbers(CopyRequest) == {**numbers(MoveRequest), "recursive": 7}
    assert numbers(TransactionRequest) == {"operations": 1, "request_id": 5}
    assert numbers(Operation) == {
        "put": 1, "delete": 2, "make_dir": 3, "symlink": 4, "move": 5, "copy": 6, "put_content": 7,
    }  # fmt: skip
    assert numbers(SetFloor) == {"revision": 1}
    assert numbers(Metadata) == {
        "mode": 1, "mtime_ns": 2, "uid": 3, "gid": 4, "xattrs": 5, "no_xattrs": 6,
    }  # fmt: skip
    assert numbers(dfs_pb2.Xattr) == {"name": 1, "value": 2}
    assert numbers(Record) == {
        "kind": 1, "revision": 2, "created_revision": 3, "version": 4, "size": 5, "sha256": 6,
        "mode": 7, "mtime_ns": 8, "target": 9, "node": 10, "principal": 11, "time_ns": 12,
        "request_id": 13, "implicit": 14, "children": 15, "chunk_bytes": 16, "uid": 17, "gid": 18,
        "xattrs": 19,
    }  # fmt: skip
    assert dict(dfs_pb2.Kind.items()) == {"FILE": 0, "DIRECTORY": 1, "SYMLINK": 2}
    assert numbers(dfs_pb2.GetResponse) == {"data": 1, "record": 2}
    assert numbers(dfs_pb2.GetRequest)["key"] == 1
    assert [
        commands.PUT, commands.DELETE, commands.MAKE_DIR, commands.SYMLINK, commands.SET_FLOOR,
        commands.PUT_CONTENT, commands.MOVE, commands.COPY, commands.TRANSACTION,
    ] == [16, 17, 18, 19, 20, 21, 22, 23, 24]  # fmt: skip
    assert commands.ENTRY_FORMAT == 3


@given(
    st.sampled_from(sorted(HEADS)),
    st.text(alphabet="abc/ö", min_size=1, max_size=8),
    st.binary(max_size=300),
    st.integers(0, (1 << 64) - 1),
    st.text(max_size=5),
)
def test_head_body_and_stamp_are_one_entry(name, key, data, time_ns, principal):
    make_head, message = HEADS[name]
    request = message(key=key.strip("/").replace("//", "/") or "k", request_id=b"i" * 16)
    if name == "put":
        request.data = data
    if name == "symlink":
        request.target = "t" + data.hex()
    body = request.SerializeToString()
    head = make_head(request, len(body), "node1", principal)
    entry = Entry.FromString(head + body + commands.stamp(time_ns))
    assert entry.WhichOneof("operation") == name
    assert getattr(entry, name) == request
    assert (entry.format, entry.time_ns, entry.node) == (1, time_ns, "node1")
    assert entry.principal == principal
    assert entry.sha256 == (hashlib.sha256(data).digest() if name == "put" else b"")
    assert head[:2] == commands.FORMAT_PREFIX


def test_a_body_that_is_encoded_in_another_way_keeps_its_length():
    body = b"\x12\x00" + b"\x0a\x01k" + b"\x12\x01v" + b"\xf2\x3f\x03new"
    request = PutRequest.FromString(body)
    head = commands.put_head(request, len(body), "n", "")
    entry = Entry.FromString(head + body + commands.stamp(7))
    assert (entry.put.key, entry.put.data, entry.time_ns) == ("k", b"v", 7)


@given(st.text(alphabet="abc", min_size=1), st.sampled_from(["move", "copy"]))
def test_head_of_a_move_or_a_copy(key, name):
    make_head, message = {
        "move": (commands.move_head, MoveRequest), "copy": (commands.copy_head, CopyRequest),
    }[name]  # fmt: skip
    request = message(source=key, target=f"{key}2", request_id=b"i" * 16)
    body = request.SerializeToString()
    head = make_head(request, len(body), "node1", "me")
    entry = Entry.FromString(head + body + commands.stamp(7))
    assert (entry.WhichOneof("operation"), getattr(entry, name)) == (name, request)
    with pytest.raises(InvalidArgument, match="below itself"):
        make_head(message(source=key, target=f"{key}/x"), 0, "n", "")
    with pytest.raises(InvalidArgument, match="15 bytes"):
        make_head(message(source=key, target="other", request_id=b"x" * 15), 0, "n", "")


def test_head_of_a_transaction_has_the_digests_of_its_puts():
    puts = [Operation(put=PutRequest(key=f"k{n}", data=b"%d" % n)) for n in range(3)]
    request = TransactionRequest(operations=[
        puts[0], Operation(delete=DeleteRequest(key="d")), *puts[1:],
    ])  # fmt: skip
    body = request.SerializeToString()
    head = commands.transaction_head(request, len(body), "node1", "me")
    entry = Entry.FromString(head + body + commands.stamp(7))
    assert (entry.WhichOneof("operation"), entry.transaction) == ("transaction", request)
    assert entry.sha256 == b"".join(hashlib.sha256(b"%d" % n).digest() for n in range(3))


def test_floor_entry():
    entry = Entry.FromString(commands.floor_entry(300, "node1") + commands.stamp(5))
    assert (entry.set_floor.revision, entry.node, entry.time_ns) == (300, "node1", 5)


@pytest.mark.parametrize("name", sorted(HEADS))
def test_a_bad_key_or_request_id_is_refused_at_the_door(name):
    make_head, message = HEADS[name]
    good = {"target": "t"} if name == "symlink" else {}
    with pytest.raises(InvalidArgument, match=r"'//'"):
        make_head(message(key="a//b", **good), 0, "n", "")
    with pytest.raises(InvalidArgument, match=r"15 bytes, it must have 16"):
        make_head(message(key="a", request_id=b"x" * 15, **good), 0, "n", "")


def test_a_value_over_the_limit_is_refused_with_limit_and_knob():
    largest = PutRequest(key="a", data=bytes(VALUE_BYTES_MAX))
    assert commands.put_head(largest, 1, "n", "")
    with pytest.raises(TooLarge, match=r"16,777,217 bytes.*16,777,216 \(VALUE_BYTES_MAX\)"):
        commands.put_head(PutRequest(key="a", data=bytes(VALUE_BYTES_MAX + 1)), 1, "n", "")


def test_a_mode_of_more_than_12_bits_is_refused():
    metadata = Metadata(mode=0o10000)
    with pytest.raises(InvalidArgument, match=r"0o10000 has more than 12 bits"):
        commands.put_head(PutRequest(key="a", metadata=metadata), 1, "n", "")
    with pytest.raises(InvalidArgument, match=r"12 bits"):
        commands.make_dir_head(MakeDirRequest(key="a", metadata=metadata), 1, "n", "")


def test_a_symlink_without_target_is_refused():
    with pytest.raises(InvalidArgument, match=r"target: it is empty"):
        commands.symlink_head(SymlinkRequest(key="a"), 1, "n", "")
