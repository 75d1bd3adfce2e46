"""What is encoded by hand is what the generated code encodes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dfs import commands
from dfs._engine import pack_file, plain_puts
from dfs.limits import VALUE_BYTES_MAX
from dfs.proto.dfs_pb2 import (
    DIRECTORY,
    FILE,
    DeleteResponse,
    GetResponse,
    Metadata,
    PutRequest,
    PutResponse,
    Record,
    StatResponse,
)
from dfs.proto.internal.log_pb2 import Entry
from dfs.store import encode, layout

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
    NUMBER, st.integers(0, 1 << 20), NUMBER, NUMBER, st.integers(0, 1 << 40), st.integers(0, 99),
    st.integers(1, (1 << 63) - 1), st.integers(0, 0o7777), st.integers(-(1 << 63), (1 << 63) - 1),
    st.text(max_size=3), st.text(max_size=3), st.binary(min_size=32, max_size=32),
    st.just(b"") | st.binary(min_size=16, max_size=16), st.binary(max_size=300), st.booleans(),
)  # fmt: skip
def test_packed_file(
    revision, sub, created, number, previous, previous_sub, time_ns, mode, mtime_ns, node,
    principal, sha256, request_id, data, inline,
):  # fmt: skip
    """The engine packs a file as `layout` and the generated code would."""
    path = b"dir\0file"
    record = Record(
        revision=revision, created_revision=created, version=number, size=len(data), sha256=sha256,
        mode=mode, mtime_ns=mtime_ns, node=node, principal=principal, time_ns=time_ns,
        request_id=request_id,
    ).SerializeToString(deterministic=True)  # fmt: skip
    current, history = layout.CURRENT + path, layout.history_key(revision, sub)
    digest = layout.digest_of(current, record)
    version = layout.pack_version(
        FILE, layout.INLINE if inline else 0, sub, revision, created, number, len(data), digest,
        record, data if inline else b"",
    )  # fmt: skip
    event = layout.pack_event(
        False, previous_sub, previous, time_ns, request_id, path, record, data
    )
    assert pack_file(
        revision, sub, path, created, number, previous, previous_sub, time_ns, mode, mtime_ns,
        node, principal, sha256, request_id, data, inline,
    ) == (
        current, layout.seal(current, version), history, layout.seal(history, event),
        layout.index_key(path, revision, sub), record, digest,
    )  # fmt: skip


def entry(request, node="n", principal="p", time_ns=7):
    body = request.SerializeToString()
    return commands.put_head(request, len(body), node, principal) + body + commands.stamp(time_ns)


@given(
    st.sampled_from(["k", "a/b", "d/e/f g", "ü/x"]), st.binary(max_size=200), st.text(max_size=3),
    st.text(max_size=3), st.integers(0, (1 << 63) - 1),
)  # fmt: skip
def test_plain_put(key, data, node, principal, time_ns):
    """The engine decodes a plain Put as the generated code does."""
    payload = entry(PutRequest(key=key, data=data), node, principal, time_ns)
    decoded = Entry.FromString(payload)
    [put] = plain_puts([(1, payload, False)], VALUE_BYTES_MAX)
    assert put == (
        decoded.time_ns, decoded.node, decoded.principal, decoded.sha256, decoded.put.key,
        layout.path_of(key), decoded.put.data,
    )  # fmt: skip


@given(st.binary(max_size=120))
def test_plain_put_of_noise(noise):
    """Whatever the bytes are, only what the generated code reads alike is a plain Put."""
    for payload in (noise, commands.FORMAT_PREFIX + noise):
        [put] = plain_puts([(1, payload, False)], VALUE_BYTES_MAX)
        if put is not None:
            decoded = Entry.FromString(payload)
            assert put[4] == decoded.put.key
            assert put[6] == decoded.put.data


@pytest.mark.parametrize(
    "request_",
    [
        PutRequest(key="k", metadata=Metadata(mode=1)),
        PutRequest(key="k", base_revision=0),
        PutRequest(key="k", request_id=bytes(16)),
    ],
)
def test_a_put_that_asks_for_more_is_not_plain(request_):
    payload = entry(request_)
    assert plain_puts([(1, payload, False), (2, b"", False)], 99) == [None, None]


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
