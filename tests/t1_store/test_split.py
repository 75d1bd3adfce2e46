"""A transaction whose regular puts stay encoded does what one does that is decoded in full."""

import hashlib
from collections import Counter
from contextlib import contextmanager
from unittest import mock

from hypothesis import given, settings
from hypothesis import strategies as st
from t1_store.building import START_NS, dump, entry, figures, operation
from t1_store.test_encode import U64

from dfs import commands
from dfs._engine import pack_file, pack_part, split_transaction
from dfs.errors import (
    Conflict,
    DfsError,
    InvalidArgument,
    IsADirectory,
    NotADirectory,
    NotFound,
    TooLarge,
)
from dfs.kv import MemoryKV
from dfs.limits import (
    MODE_MAX,
    OWNER_MAX,
    SMALL_VALUE_BYTES_MAX,
    TRANSACTION_BYTES_MAX,
    TRANSACTION_OPERATIONS_MAX,
    VALUE_BYTES_MAX,
)
from dfs.proto.dfs_pb2 import (
    FILE,
    Metadata,
    Operation,
    PutRequest,
    Record,
    TransactionRequest,
    Xattr,
)
from dfs.proto.internal.log_pb2 import Entry
from dfs.store import Store, UnknownEntry, change_of, layout, operations
from dfs.store import transaction as running
from dfs.store.tree import own

RULES = VALUE_BYTES_MAX, MODE_MAX, OWNER_MAX
BYTES_MAX, OPERATIONS_MAX, CHANGES_MAX, RECORD_BYTES_MAX = 3_000, 7, 9, 1_200
"""What is a bound for these tests, so that it is met."""
KEYS = st.sampled_from(["a", "a", "b", "c d", "d", "d/a", "d/e.f/a", "d/e.f/b", "a/b", "x/y"])
BAD_KEYS = st.sampled_from(["", "a//b", "/a", "a/", ".dfs", "a/..", "a\0b", "ü", "x" * 256, "a\n"])
DATA = st.sampled_from(
    [0, 0, 1, 1, SMALL_VALUE_BYTES_MAX, SMALL_VALUE_BYTES_MAX + 1, BYTES_MAX, BYTES_MAX + 1]
).map(bytes)
IDS = st.sampled_from([b"", b"", b"i" * 16, b"j" * 16, bytes(6) + b"\x70\0\x80" + bytes(7)])
REGULAR = st.builds(Metadata, **{
    "mode": st.none() | st.integers(0, MODE_MAX), "uid": st.none() | st.integers(0, OWNER_MAX),
    "mtime_ns": st.none() | st.integers(-(1 << 63), (1 << 63) - 1),
    "gid": st.none() | st.integers(0, OWNER_MAX),
})  # fmt: skip
UNUSUAL = st.sampled_from([
    Metadata(mode=MODE_MAX + 1), Metadata(uid=OWNER_MAX + 1), Metadata(gid=OWNER_MAX + 1),
    Metadata(no_xattrs=True), Metadata(xattrs=[Xattr(name="user.a", value=b"1")]),
    Metadata(xattrs=[Xattr(name="a")]), Metadata.FromString(b"\xf8\x07\x01"),
])  # fmt: skip
BASES = st.sampled_from([None, None, None, 0, 0, 1, 2])
PUT = st.builds(
    PutRequest, key=KEYS, data=DATA, metadata=st.none() | REGULAR, base_revision=BASES
)
ODD_PUT = st.one_of(
    st.builds(PutRequest, key=BAD_KEYS, data=DATA, base_revision=BASES),
    st.builds(PutRequest, key=KEYS, data=DATA, metadata=UNUSUAL, base_revision=BASES),
    st.just(PutRequest(key="a", request_id=b"i" * 16)),
)
OTHER = st.one_of(
    st.builds(lambda key: operation("make_dir", key), KEYS | BAD_KEYS),
    st.builds(lambda key, t: operation("symlink", key, target=t), KEYS, st.sampled_from("t\0")),
    st.builds(lambda key, all_: operation("delete", key, recursive=all_), KEYS, st.booleans()),
    st.builds(lambda key, other: operation("move", key, other), KEYS, KEYS | BAD_KEYS),
    st.builds(lambda key, other: operation("copy", key, other, recursive=True), KEYS, KEYS),
    st.builds(lambda key: operation("put_content", key, size=5_000), KEYS),
)


def field(number, body):
    """One that holds bytes."""
    return commands.varint(number << 3 | 2) + commands.varint(len(body)) + body


def as_part(put):
    """An encoded Operation."""
    return field(1, put.SerializeToString())


PUT_BODY = st.one_of(
    PUT.map(PutRequest.SerializeToString), ODD_PUT.map(PutRequest.SerializeToString),
    st.tuples(PUT, PUT).map(lambda two: b"".join(map(PutRequest.SerializeToString, two))),
)  # fmt: skip
GOOD = st.one_of(
    st.builds(PutRequest, key=KEYS, data=DATA, metadata=REGULAR).map(as_part), PUT.map(as_part),
    OTHER.map(Operation.SerializeToString),
)
PART = GOOD | PUT_BODY.map(lambda body: field(1, body))
ODD_PART = st.one_of(
    st.tuples(PART, PART).map(b"".join),
    st.sampled_from([
        b"", field(9, b""), b"\x0a\x05\x0a\x03a", b"\x08\x01", b"\x8a\0\x03\x0a\x01a",
    ]),
)


@st.composite
def entries(draw):
    """A transaction as a member finds it in the log, which may be none."""
    kind = draw(st.sampled_from([GOOD, GOOD, PART, PART, PART | ODD_PART]))
    found = draw(st.lists(kind, min_size=1, max_size=OPERATIONS_MAX + 1))
    body = [field(1, part) for part in found]
    if request_id := draw(IDS):
        body.insert(draw(st.integers(0, len(body))), field(5, request_id))
    digests = sum(part[:1] == b"\x0a" for part in found) + draw(st.sampled_from([0] * 14 + [1, -1]))
    whole = [
        bytes((8, draw(st.sampled_from([1, 1, 1, 3])))), b"\x1a\x05node1", b"\x22\x02me",
        field(5, b"".join(bytes([n + 1]) * 32 for n in range(digests))),
        field(24, b"".join(body)), commands.stamp(START_NS + draw(st.integers(0, 9))),
    ]  # fmt: skip
    match draw(st.integers(0, 19)):
        case 0:
            del whole[draw(st.integers(0, 5))]
        case 1:
            whole.append(draw(st.sampled_from([*whole, b"\xf8\x07\x01", field(17, b"")])))
        case 2:
            whole = [b"".join(whole)[: -draw(st.integers(1, 40))]]
    return b"".join(whole)


BEFORE = entry(commands.transaction_head, TransactionRequest(operations=[
    operation("put", "a"), operation("put", "d/a", data=b"1"), operation("make_dir", "b"),
]), START_NS)  # fmt: skip


@contextmanager
def small_bounds():
    """All members have the same."""
    asked = {"VALUE_BYTES_MAX": BYTES_MAX, "TRANSACTION_OPERATIONS_MAX": OPERATIONS_MAX}
    done = {"TRANSACTION_CHANGES_MAX": CHANGES_MAX, "ENTRY_RECORD_BYTES_MAX": RECORD_BYTES_MAX}
    with (
        mock.patch.multiple(commands, **asked), mock.patch.multiple(operations, **asked),
        mock.patch.multiple(running, **done),
    ):  # fmt: skip
        yield


def applied(payloads):
    """All that a member says and keeps of a log, entry by entry."""
    kv, told = MemoryKV(), []
    store = Store(kv)
    for index, payload in enumerate([BEFORE, *payloads], 1):
        try:
            [result], events = store.apply([(index, payload, True)], b"id", b"")
        except UnknownEntry as unknown:
            return told, str(unknown), dump(kv), figures(store)
        if isinstance(result, DfsError):
            result = type(result), str(result), result.metadata
        told.append((result, [change_of(event) for event in events], dict(store.contents)))
    return told, "", dump(kv), figures(store)


def fate(payload):
    """What becomes of it."""
    command = operations._split(payload)
    if command is None:
        return "decoded in full"
    decoded = {isinstance(part, operations.Command) for part in command.parts}
    return "both" if len(decoded) == 2 else "others" if decoded.pop() else "regular puts"


def test_what_stays_encoded_does_what_is_decoded():
    """Whatever it is, good or bad: members that read it in either way hold the same bytes."""
    met = Counter()

    @settings(max_examples=400)
    @given(st.lists(entries(), min_size=1, max_size=6))
    def check(payloads):
        with small_bounds():
            told, stopped, *state = applied(payloads)
            met.update(map(fate, payloads))
            with mock.patch.object(operations, "_split", return_value=None):
                assert applied(payloads) == (told, stopped, *state)
        met.update("done" if isinstance(result, bytes) else result[0] for result, *_ in told)
        met["stopped"] += bool(stopped)

    check()
    for what in (
        "decoded in full", "both", "others", "regular puts", "done", "stopped", Conflict,
        InvalidArgument, IsADirectory, NotADirectory, NotFound, TooLarge,
    ):  # fmt: skip
        assert met[what] >= 5, (what, met)


@given(
    PUT, st.integers(0, 3), U64, st.integers(0, 99), st.text(max_size=3), st.text(max_size=3),
    IDS, st.booleans(),
)  # fmt: skip
def test_a_regular_put_is_packed_as_a_file(put, before, time_ns, sub, node, principal, id_, there):
    """Wherever it stands in the transaction."""
    parts = [operation("delete", "x"), *[Operation(put=PutRequest(key="y"))] * before]
    request = TransactionRequest(operations=[*parts, Operation(put=put)], request_id=id_)
    payload = entry(commands.transaction_head, request, time_ns, node, principal)
    found = split_transaction(payload, *RULES)
    assert found[:4] == (time_ns, node, principal, id_)
    assert found[4][0] == (parts[0].SerializeToString(), b"")
    store_key, base, size, sha256, begin, end = part = found[4][-1]
    assert store_key == layout.CURRENT + layout.path_of(put.key)
    assert base == (put.base_revision if put.HasField("base_revision") else None)
    assert (size, sha256) == (len(put.data), hashlib.sha256(put.data).digest())
    assert payload[begin:end] == put.SerializeToString()
    body = layout.pack_version(FILE, 0, 0, 1, 1, 15, 5, bytes(16), b"", b"")
    old = layout.seal(store_key, body) if there else None
    described, owned = put.metadata, Record()
    own(owned, described)
    assert pack_part(
        payload, part, old, 9, sub, 7, 0o640, node, principal, id_, SMALL_VALUE_BYTES_MAX
    ) == pack_file(
        store_key, old, 9, sub, 7, described.mode if described.HasField("mode") else 0o640,
        described.mtime_ns if described.HasField("mtime_ns") else 7, node, principal, sha256, id_,
        owned.SerializeToString(deterministic=True), put.data, SMALL_VALUE_BYTES_MAX,
    )  # fmt: skip


@given(st.lists(GOOD, min_size=1, max_size=4), IDS)
def test_head_of_regular_puts(parts, request_id):
    """The engine makes the same head as the general code, and leaves it what it does not know."""
    request = TransactionRequest(
        operations=map(Operation.FromString, parts), request_id=request_id
    )
    body = request.SerializeToString()
    head = commands.regular_transaction_head(body, "node1", "me")
    regular = all(part.HasField("put") for part in request.operations)
    assert (head is not None) == regular
    if regular:
        assert head == commands.transaction_head(request, len(body), "node1", "me")


def test_what_is_too_much_has_no_head_of_regular_puts():
    put = Operation(put=PutRequest(key="a"))
    most = TransactionRequest(operations=[put] * TRANSACTION_OPERATIONS_MAX)
    assert commands.regular_transaction_head(most.SerializeToString(), "n", "") is not None
    most.operations.append(put)
    assert commands.regular_transaction_head(most.SerializeToString(), "n", "") is None
    half = PutRequest(key="a", data=bytes(TRANSACTION_BYTES_MAX // 2))
    large = TransactionRequest(operations=[Operation(put=half)] * 2)
    assert commands.regular_transaction_head(large.SerializeToString(), "n", "") is None


@given(st.binary(max_size=80))
def test_noise_is_no_transaction_that_others_would_not_read(noise):
    for body in (noise, field(1, noise), field(1, field(1, b"\x0a\x01k" + noise))):
        digests = commands.regular_transaction_head(body, "n", "p")
        if digests is not None:
            request = TransactionRequest.FromString(body)
            assert digests == commands.transaction_head(request, len(body), "n", "p")
        payload = commands.FORMAT_PREFIX + field(24, body) + commands.stamp(5)
        if split_transaction(payload, *RULES) is not None:
            assert Entry.FromString(payload).WhichOneof("operation") == "transaction"
