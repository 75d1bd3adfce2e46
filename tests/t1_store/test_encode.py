"""What is encoded by hand is what the generated code encodes."""

from hypothesis import given
from hypothesis import strategies as st

from dfs.proto.dfs_pb2 import (
    DIRECTORY,
    DeleteResponse,
    GetResponse,
    PutResponse,
    Record,
    StatResponse,
)
from dfs.store import encode

U64 = st.one_of(st.integers(0, 1 << 22), st.integers(0, (1 << 63) - 1))
EDGES = [127, 128, 16_383, 16_384, (1 << 28) - 1, 1 << 28]
NUMBER = st.integers(1, 1 << 40) | st.sampled_from(EDGES)


@given(U64 | NUMBER)
def test_varint(number):
    assert b"\x08" * bool(number) + encode.varint(number) * bool(number) == PutResponse(
        revision=number
    ).SerializeToString()
    assert encode.varint(0) == b"\0"


@given(
    NUMBER, NUMBER, NUMBER, st.integers(0, 1 << 24), st.binary(min_size=32, max_size=32),
    st.integers(0, 0o7777), st.integers(-(1 << 63), (1 << 63) - 1), st.text(max_size=3),
    st.text(max_size=3), st.integers(1, (1 << 63) - 1),
    st.just(b"") | st.binary(min_size=16, max_size=16),
)  # fmt: skip
def test_file_record(
    revision, created, number, size, sha256, mode, mtime_ns, node, principal, time_ns, request_id
):
    writer = encode.writer_fields(node, principal)
    encoded = encode.file_record(
        revision, created, number, size, sha256, mode, mtime_ns, writer, time_ns, request_id
    )
    assert encoded == Record(
        revision=revision, created_revision=created, version=number, size=size, sha256=sha256,
        mode=mode, mtime_ns=mtime_ns, node=node, principal=principal, time_ns=time_ns,
        request_id=request_id,
    ).SerializeToString(deterministic=True)  # fmt: skip


@given(st.integers(0, 1 << 30), st.integers(0, 1 << 30))
def test_with_children(old, new):
    def record(children):
        return Record(
            kind=DIRECTORY, revision=9, implicit=True, children=children
        ).SerializeToString(deterministic=True)

    assert encode.with_children(record(old), old, new) == record(new)


@given(NUMBER, st.integers(0, 1 << 20), st.binary(max_size=300))
def test_answers(revision, deleted, data):
    record = Record(revision=revision, size=len(data))
    encoded = record.SerializeToString()
    assert encode.done_answer(revision, deleted) == DeleteResponse(
        revision=revision, deleted=deleted
    ).SerializeToString()
    assert encode.get_answer(encoded, data) == GetResponse(
        data=data, record=record
    ).SerializeToString()
    assert encode.stat_answer(encoded) == StatResponse(record=record).SerializeToString()
