"""What is encoded by hand is what the generated code encodes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from xxhash import xxh3_128_digest

from dfs import commands
from dfs._engine import (
    chain_entries,
    encode_events,
    encode_stored,
    pack_file,
    pack_put,
    plain_puts,
)
from dfs.errors import DataLoss
from dfs.limits import OWNER_MAX, SMALL_VALUE_BYTES_MAX, VALUE_BYTES_MAX
from dfs.paths import check_key
from dfs.proto.dfs_pb2 import (
    DIRECTORY,
    FILE,
    SYMLINK,
    DeleteResponse,
    Event,
    GetResponse,
    HistoryResponse,
    Metadata,
    PutRequest,
    PutResponse,
    Record,
    StatResponse,
    WatchResponse,
    Xattr,
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


MODULUS = 1 << 128
NAMED = st.fixed_dictionaries({}, optional={
    "uid": st.integers(0, OWNER_MAX), "gid": st.integers(0, OWNER_MAX),
    "xattrs": st.lists(
        st.builds(Xattr, name=st.text(max_size=9), value=st.binary(max_size=200)), max_size=3
    ),
})  # fmt: skip
"""What a writer may name of owner and extended attributes."""
SIZES = st.binary(max_size=300) | st.just(b"x" * (SMALL_VALUE_BYTES_MAX + 1))


@st.composite
def versions_before(draw):
    """None, or a version that a file may replace."""
    kind = draw(st.sampled_from([None, FILE, SYMLINK]))
    if kind is None:
        return None
    flags = draw(st.sampled_from([0, layout.INLINE, layout.LARGE])) if kind == FILE else 0
    return layout.Version(
        kind, flags, draw(st.integers(0, 99)), draw(NUMBER), draw(NUMBER),
        draw(st.integers(1, 40)), draw(st.integers(0, 1 << 40)),
        draw(st.binary(min_size=16, max_size=16)), 3,
    )  # fmt: skip


@given(
    versions_before(), NUMBER, st.integers(0, 1 << 20), st.integers(1, (1 << 63) - 1),
    st.integers(0, 0o7777), st.integers(-(1 << 63), (1 << 63) - 1), st.text(max_size=3),
    st.text(max_size=3), st.binary(min_size=32, max_size=32),
    st.just(b"") | st.binary(min_size=16, max_size=16), SIZES, NAMED,
)  # fmt: skip
def test_packed_file(
    old, revision, sub, time_ns, mode, mtime_ns, node, principal, sha256, request_id, data, named
):
    """The engine packs a file as `layout` and the generated code would."""
    path = b"dir\0file"
    inline = len(data) <= SMALL_VALUE_BYTES_MAX
    created, number = (old.created, old.number + 1) if old else (revision, 1)
    record = Record(
        revision=revision, created_revision=created, version=number, size=len(data), sha256=sha256,
        mode=mode, mtime_ns=mtime_ns, node=node, principal=principal, time_ns=time_ns,
        request_id=request_id, **named,
    ).SerializeToString(deterministic=True)  # fmt: skip
    tail = Record(**named).SerializeToString(deterministic=True)
    current, history = layout.CURRENT + path, layout.history_key(revision, sub)
    digest = layout.digest_of(current, record)
    version = layout.Version(
        FILE, layout.INLINE if inline else 0, sub, revision, created, number, len(data), digest,
        len(record),
    )  # fmt: skip
    value = layout.pack_version(*version[:-1], record, data if inline else b"")
    flags = layout.PREVIOUS_INDEXED if old and old.indexed else 0
    flags |= layout.PREVIOUS_LARGE if old and old.large else 0
    event = layout.pack_event(
        flags, old.sub if old else 0, old.revision if old else 0,
        time_ns, request_id, path, record, data,
    )  # fmt: skip
    before = None
    if old is not None:
        before = layout.seal(current, layout.pack_version(*old[:-1], b"rec", b"content"))
    hashes = [int.from_bytes(d, "little") for d in (digest, old.digest if old else b"")]
    assert pack_file(
        current, before, revision, sub, time_ns, mode, mtime_ns, node, principal, sha256,
        request_id, tail, data, SMALL_VALUE_BYTES_MAX,
    ) == (
        layout.seal(current, value), history, layout.seal(history, event),
        layout.index_key(path, revision, sub) if version.indexed else None,
        (hashes[0] - hashes[1]) % MODULUS,
        len(data) - (old.size if old and old.kind == FILE else 0),
    )  # fmt: skip


def test_a_file_replaces_no_directory_and_no_damage():
    def packed(before):
        return pack_file(b"nk", before, 1, 0, 0, 0, 0, "", "", bytes(32), b"", b"", b"", 9)

    directory = layout.pack_version(DIRECTORY, 0, 0, 1, 1, 1, 0, bytes(16), b"", b"")
    file = layout.pack_version(FILE, 0, 0, 1, 1, 1, 0, bytes(16), b"", b"")
    assert packed(layout.seal(b"nk", file)) is not None
    assert packed(layout.seal(b"nk", directory)) is None
    assert packed(layout.seal(b"other", file)) is None


def entry(request, node="n", principal="p", time_ns=7):
    body = request.SerializeToString()
    return commands.put_head(request, len(body), node, principal) + body + commands.stamp(time_ns)


PLAIN_KEYS = st.from_regex(r"[A-Za-z0-9_-][A-Za-z0-9_. -]{0,3}(/[a-z][. ]?){0,3}", fullmatch=True)
PUTS = st.tuples(
    PLAIN_KEYS, st.binary(max_size=200), st.text(max_size=3), st.text(max_size=3),
    st.integers(0, (1 << 63) - 1),
)  # fmt: skip


@given(PUTS)
def test_plain_put(put):
    """The engine decodes a plain Put as the generated code does."""
    key, data, node, principal, time_ns = put
    payload = entry(PutRequest(key=key, data=data), node, principal, time_ns)
    [decoded] = plain_puts([(1, payload, False)], VALUE_BYTES_MAX)
    assert decoded == (time_ns, layout.CURRENT + layout.path_of(key))


@given(PUTS, st.integers(0, 0o7777), st.integers(0, 200))
def test_packed_put(put, mode, inline_max):
    """A plain Put is packed as a file of which everything is given."""
    key, data, node, principal, time_ns = put
    payload = entry(PutRequest(key=key, data=data), node, principal, time_ns)
    store_key = layout.CURRENT + layout.path_of(key)
    for before in (None, layout.seal(store_key, layout.pack_version(
        FILE, 0, 0, 1, 1, 15, 5, bytes(16), b"", b""
    ))):  # fmt: skip
        assert pack_put(payload, store_key, before, 9, 1, 5, mode, inline_max) == pack_file(
            store_key, before, 9, 1, 5, mode, 5, node, principal,
            Entry.FromString(payload).sha256, b"", b"", data, inline_max,
        )  # fmt: skip


@given(PUTS)
def test_head_of_a_plain_put(put):
    """The engine makes the same head as the general code."""
    key, data, node, principal, _ = put
    request = PutRequest(key=key, data=data)
    body = request.SerializeToString()
    head = commands.put_head(request, len(body), node, principal)
    assert commands.plain_put_head(body, node, principal) == head


@given(st.text(max_size=6) | st.sampled_from([".dfs", "a//b", "/a", "a/", ".", "a/..", "a" * 256]))
def test_a_key_that_is_plain_breaks_no_rule(key):
    body = PutRequest(key=key).SerializeToString()
    if commands.plain_put_head(body, "n", "") is not None:
        check_key(key)


@given(st.binary(max_size=120))
def test_plain_put_of_noise(noise):
    """Whatever the bytes are, only what the generated code reads alike is a plain Put."""
    for payload in (noise, commands.FORMAT_PREFIX + noise):
        [put] = plain_puts([(1, payload, False)], VALUE_BYTES_MAX)
        if put is not None:
            assert put[1] == layout.CURRENT + layout.path_of(Entry.FromString(payload).put.key)
    head = commands.plain_put_head(noise, "n", "p")
    if head is not None:
        request = PutRequest.FromString(noise)
        assert head == commands.put_head(request, len(noise), "n", "p")


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
    assert commands.plain_put_head(request_.SerializeToString(), "n", "p") is None


PAYLOADS = st.binary(max_size=40) | st.sampled_from([8 << 10, 9 << 10, 100_000]).map(bytes)


@given(st.lists(PAYLOADS), st.binary(min_size=16, max_size=16))
def test_chain(payloads, chain):
    expected = chain
    for index, payload in enumerate(payloads, 7):
        expected = xxh3_128_digest(expected + index.to_bytes(8, "little") + payload)
    entries = [(index, payload, False) for index, payload in enumerate(payloads, 7)]
    assert chain_entries(chain, entries) == expected


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


KEYS = st.text(st.characters(exclude_characters="\0", codec="utf-8"), min_size=1, max_size=200)


@st.composite
def stored_changes(draw):
    """Records of history: changes of keys of any kind, some of them to large contents."""
    kind = draw(st.sampled_from([FILE, FILE, DIRECTORY, SYMLINK]))
    large = draw(st.booleans()) and kind == FILE
    data = draw(st.binary(max_size=40) | st.just(b"x" * 20_000))
    deleted = draw(st.booleans())
    flags = layout.DELETED * deleted | layout.LARGE_EVENT * large
    record = Record(
        kind=kind, revision=draw(NUMBER), size=len(data), sha256=draw(st.binary(max_size=32)),
        mtime_ns=draw(st.integers(-1, 1)), target=draw(st.text(max_size=9)),
    )
    body = layout.pack_event(
        flags, draw(st.integers(0, 300)), draw(st.just(0) | NUMBER), draw(NUMBER), b"",
        layout.path_of(draw(KEYS)), record.SerializeToString(),
        data if kind == FILE and not large and not deleted else b"",
    )  # fmt: skip
    store_key = layout.history_key(draw(NUMBER), draw(st.integers(0, 300)))
    return store_key, layout.seal(store_key, body)


def event_message(change):
    """Without content."""
    return Event(
        type=Event.DELETE if change.deleted else Event.PUT, key=change.key,
        record=Record.FromString(change.record), revision=change.revision,
        previous_revision=change.previous, sub=change.sub,
    )


@given(
    st.lists(stored_changes()), st.sampled_from([0, 1, 30, 30_000]),
    st.sampled_from([0, 60, 90_000]), st.integers(0, 9),
)
def test_events_with_content(found, data_bytes_max, bytes_max, revision):
    events, left = [], bytes_max
    for change in map(layout.change_of, found):
        events.append(event := event_message(change))
        most = min(data_bytes_max, left)
        is_file = event.record.kind == FILE and not change.deleted and change.data is not None
        if is_file and len(change.data) <= most and most:
            event.data, event.has_data = change.data, True
            left -= len(change.data)
    rest = WatchResponse(revision=revision).SerializeToString()
    number = WatchResponse.EVENTS_FIELD_NUMBER
    encoded = encode_stored(number, found, data_bytes_max, bytes_max, rest)
    assert encoded == WatchResponse(events=events, revision=revision).SerializeToString()


@given(st.lists(stored_changes()))
def test_events_without_content(found):
    changes = [layout.change_of(stored) for stored in found]
    encoded = encode_events(HistoryResponse.EVENTS_FIELD_NUMBER, changes)
    events = map(event_message, changes)
    assert encoded == HistoryResponse(events=events).SerializeToString()


def test_events_that_are_cut_short_are_refused():
    store_key = layout.history_key(5, 1)
    value = layout.seal(store_key, layout.pack_event(0, 0, 0, 0, b"", b"k", b"record", b""))
    for length in range(len(value)):
        with pytest.raises(ValueError, match="cut short"):
            encode_stored(3, [(store_key, value[:length])], 9, 9, b"")
    for length in range(len(store_key)):
        with pytest.raises(ValueError, match="cut short"):
            encode_stored(3, [(store_key[:length], value)], 9, 9, b"")


@given(stored_changes(), st.sampled_from([0, 1, 30, 30_000]))
def test_what_is_looked_up_in_a_stored_change(stored, data_bytes_max):
    change = layout.change_of(stored)
    assert layout.revision_of(stored) == change.revision
    assert layout.changed_key(stored) == change.key
    data = change.data or b""
    told = len(data) if len(data) <= data_bytes_max else 0
    expected = len(change.key.encode()) + len(change.record) + told
    assert layout.told_bytes(stored, data_bytes_max) == expected
    assert layout.checked(stored) == stored


@given(stored_changes(), st.data())
def test_a_stored_change_that_is_damaged_is_noticed(stored, data):
    store_key, value = stored
    at = data.draw(st.integers(0, len(value) - 1))
    damaged = value[:at] + bytes((value[at] ^ data.draw(st.integers(1, 255)),)) + value[at + 1 :]
    with pytest.raises(DataLoss, match="checksum"):
        layout.checked((store_key, damaged))
