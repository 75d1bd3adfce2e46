"""A transaction: all of its operations under one revision, or none of them."""

import hashlib

import pytest
from t1_store.building import START_NS, dump, entry, figures, operation
from t1_store.test_contents import SHA256, SIZE, named, prune
from t1_store.test_replay import state_hash_of

from dfs import commands
from dfs.errors import Conflict, InvalidArgument, NotADirectory, NotEmpty, NotFound, TooLarge
from dfs.limits import (
    CHUNK_BYTES_MIN,
    COPY_BYTES_MAX,
    ENTRY_RECORD_BYTES_MAX,
    SMALL_VALUE_BYTES_MAX,
    TRANSACTION_BYTES_MAX,
    TRANSACTION_CHANGES_MAX,
    TRANSACTION_OPERATIONS_MAX,
)
from dfs.proto.dfs_pb2 import Metadata, Operation, PutRequest, TransactionRequest
from dfs.proto.internal.log_pb2 import Entry
from dfs.store import UnknownEntry

ID = b"0123456789abcdef"
LARGE = bytes(SMALL_VALUE_BYTES_MAX + 1)


def sha256(size):
    """Of so many zeros."""
    return hashlib.sha256(bytes(size)).digest()


def test_a_transaction_is_one_revision(writer):
    """A transaction makes all its changes, in their order, under one revision; each sees what those
    before it did."""
    writer.put("old/x", b"1")
    writer.put("c", b"0")
    before = writer.index
    revision, changes = writer.transaction(
        operation("put", "a/b", data=LARGE, base_revision=0),
        operation("symlink", "a/link", target="b"),
        operation("make_dir", "a/empty"),
        operation("copy", "a", "copy", recursive=True),
        operation("delete", "old", recursive=True),
        operation("move", "a/b", "old"),
        operation("put", "c", data=b"first"),
        operation("put", "c", data=b"last"),
    )
    assert revision == writer.index == before + 1
    assert writer.keys() == [
        "a", "a/empty", "a/link", "c", "copy", "copy/b", "copy/empty", "copy/link", "old",
    ]
    assert {writer.stat(key).revision for key in writer.keys()} == {revision}  # noqa: SIM118
    assert (writer.get("copy/b"), writer.get("old"), writer.get("c")) == (LARGE, LARGE, b"last")
    told = [event for event in writer.history() if event[0] == revision]
    assert [event[1] for event in reversed(told)] == list(range(changes))
    assert writer.stat("c").version == 3
    assert (writer.get("c", at=before), writer.get("old/x", at=before)) == (b"0", b"1")
    assert writer.store.state_hash == state_hash_of(writer)


def test_a_transaction_of_which_one_operation_is_refused_changes_nothing(writer):
    """A transaction of which one operation is refused changes nothing; the error is that of the
    refused one, and names its number and its key."""
    writer.put("a/b", b"1")
    writer.put("x", b"2")
    state, history = figures(writer.store)[4:5] + figures(writer.store)[6:8], writer.history()
    good = [
        operation("put", "new/key", data=LARGE), operation("delete", "a/b"),
        operation("move", "x", "y"), operation("make_dir", "dir/empty"),
        operation("copy", "y", "a/z"),
    ]  # fmt: skip
    for bad, error, words in (
        (operation("put", "a/z", base_revision=0), Conflict, "put a/z, is refused: a/z: expected"),
        (operation("put", "a/z/below"), NotADirectory, "put a/z/below, .*a/z is a file"),
        (operation("delete", "a"), NotEmpty, "delete a, .*it holds a/z; delete it with"),
        (operation("delete", "a/b"), NotFound, "delete a/b, .*no such key"),
        (operation("move", "x", "z"), NotFound, "move x, .*no such key"),
    ):
        with pytest.raises(error, match=f"nothing was changed, as operation 5 .*{words}") as caught:
            writer.transaction(*good, bad, operation("put", "never"))
        assert caught.value.metadata["operation"] == "5"
        assert caught.value.metadata["key"]
    assert (figures(writer.store)[4:5] + figures(writer.store)[6:8], writer.history()) == (
        state, history,
    )  # fmt: skip
    assert writer.store.state_hash == state_hash_of(writer)
    assert [key for key, _ in dump(writer.kv) if b"new" in key or b"dir" in key] == []
    assert writer.transaction(*good)[0] == writer.index


def test_large_contents_in_a_transaction_are_named_with_it(writer):
    """As by puts of their own; by one that is refused they are not."""
    writer.put_content("before", SIZE)
    parts = (
        operation("put_content", "a/large", size=SIZE + 1, metadata=Metadata(mode=0o600)),
        operation("put", "a/small", data=b"1"),
        operation("put_content", "a/also", size=SIZE), operation("copy", "a/large", "copy"),
        operation("move", "a/also", "moved"), operation("delete", "before"),
    )  # fmt: skip
    with pytest.raises(NotFound, match="operation 6 of the transaction, delete none"):
        writer.transaction(*parts, operation("delete", "none"))
    assert (named(writer), writer.store.contents) == ({SHA256: 1}, {})
    revision, _ = writer.transaction(*parts, request_id=ID)
    assert named(writer) == {SHA256: 3, sha256(SIZE + 1): 2}
    assert writer.store.contents == {sha256(SIZE + 1): True}
    record = writer.stat("a/large")
    assert (record.revision, record.size, record.mode) == (revision, SIZE + 1, 0o600)
    assert (record.chunk_bytes, record.sha256) == (CHUNK_BYTES_MIN, sha256(SIZE + 1))
    assert writer.stat("copy").sha256 == record.sha256
    assert writer.stat("moved").sha256 == SHA256
    assert writer.store.state_hash == state_hash_of(writer)
    other = operation("put_content", "a/large", size=SIZE + 2)
    with pytest.raises(InvalidArgument, match="used for another request"):
        writer.transaction(other, *parts[1:], request_id=ID)
    writer.delete("a", recursive=True)
    writer.delete("copy")
    writer.delete("moved")
    prune(writer)
    assert named(writer) == {}


def test_contents_of_a_transaction_have_their_rules(writer):
    good = operation("put", "x")
    for wrong in (
        {"size": SMALL_VALUE_BYTES_MAX}, {"chunk_bytes": 1 << 20}, {"digests": b"d" * 32},
        {"sha256": b"short"}, {"key": "a//b"},
    ):  # fmt: skip
        bad = operation("put_content", "f", size=SIZE)
        for name, value in wrong.items():
            setattr(bad.put_content, name, value)
        with pytest.raises(InvalidArgument, match="operation 1 of the transaction, put "):
            writer.transaction(good, bad)
        payload = raw(TransactionRequest(operations=[good, bad]), sha256=bytes(32))
        with pytest.raises(InvalidArgument, match="operation 1 of the transaction, put "):
            writer.apply(payload)
    assert writer.keys() == []


def test_what_came_before_in_the_same_batch_stays(writer):
    """A refusal takes back its own changes, not those of the entries before it."""
    sent = []
    writer.send = lambda head, request: sent.append(entry(head, request, START_NS)) or (b"", [])
    writer.put("d/a", b"1")
    writer.transaction(operation("put", "d/b", data=LARGE), operation("delete", "none"))
    writer.put("d/c", b"3")
    writer.transaction(operation("delete", "d/a"), operation("put", "d/b", data=b"2"))
    entries = [(index, payload, True) for index, payload in enumerate(sent, 1)]
    results, events = writer.store.apply(entries, b"id", b"")
    assert isinstance(results[1], NotFound)
    assert len(events) == 5
    assert (writer.keys(), writer.get("d/b")) == (["d", "d/b", "d/c"], b"2")
    assert writer.stat("d").children == 2
    assert writer.store.state_hash == state_hash_of(writer)


def test_a_repeated_transaction_gets_the_first_answer(writer):
    parts = operation("put", "a", data=b"1"), operation("put", "b", data=b"2")
    first = writer.transaction(*parts, request_id=ID)
    assert writer.stat("a").request_id == writer.stat("b").request_id == ID
    writer.put("a", b"3")
    assert writer.transaction(*parts, request_id=ID) == first
    assert writer.get("a") == b"3"
    for other in (
        parts[:1], parts[::-1], (*parts, operation("delete", "a")),
        (parts[0], operation("put", "b", data=b"x")), (parts[0], operation("put", "c", data=b"2")),
    ):  # fmt: skip
        with pytest.raises(InvalidArgument, match="used for another request"):
            writer.transaction(*other, request_id=ID)
    writer.put("a")
    writer.put("b")
    writer.set_floor(writer.put("x"))
    assert [key for key, _ in dump(writer.kv) if key[:1] == b"d"] == []


def test_one_that_changes_nothing_has_the_revision_of_what_is_there(writer):
    writer.mkdir("a")
    made = writer.mkdir("b")
    writer.put("c")
    parts = operation("make_dir", "b"), operation("make_dir", "a")
    assert writer.transaction(*parts, request_id=ID) == (made, 0)
    assert [key for key, _ in dump(writer.kv) if key[:1] == b"d"] == []


def test_one_transaction_is_bounded(writer):
    """A transaction has no more than 10,000 operations and 16 MiB, large contents not counted; one
    with more is refused, and the text names the limit."""
    puts = [operation("put", f"d/{n:05}") for n in range(TRANSACTION_OPERATIONS_MAX)]
    with pytest.raises(TooLarge, match=r"10,001 operations.*TRANSACTION_OPERATIONS_MAX"):
        writer.transaction(*puts, operation("put", "more"))
    assert writer.transaction(*puts)[1] == TRANSACTION_OPERATIONS_MAX + 1
    half = bytes(TRANSACTION_BYTES_MAX // 2)
    with pytest.raises(TooLarge, match=r"bytes.*TRANSACTION_BYTES_MAX"):
        writer.transaction(operation("put", "x", data=half), operation("put", "y", data=half))
    for empty in ([], [Operation()]):
        with pytest.raises(InvalidArgument, match=r"no operation|operation 0 of the .* is none"):
            writer.transaction(*empty)
    with pytest.raises(InvalidArgument, match="operation 1 of the transaction has a request id"):
        writer.transaction(puts[0], operation("put", "a", request_id=ID))


def test_what_one_transaction_does_is_bounded(writer):
    """However much its operations do that need few bytes."""
    writer.transaction(*(operation("put", f"d/{n}") for n in range(TRANSACTION_CHANGES_MAX // 4)))
    copies = [operation("copy", "d", f"copy{n}", recursive=True) for n in range(5)]
    state_hash = writer.store.state_hash
    with pytest.raises(TooLarge, match=r"operation 3 .*20,004 changes.*TRANSACTION_CHANGES_MAX"):
        writer.transaction(*copies)
    writer.put("large", bytes(COPY_BYTES_MAX // 8))
    copies = [operation("copy", "large", f"c{n}") for n in range(9)]
    with pytest.raises(TooLarge, match=r"operation 8 .*copied content.*COPY_BYTES_MAX"):
        writer.transaction(*copies)
    assert writer.transaction(*copies[:8])[1] == 8
    writer.delete("c0")
    links = [operation("symlink", "link/a", target="t" * 4_000)]
    links += [operation("copy", "link/a", f"link/{n}") for n in range(9_000)]
    with pytest.raises(TooLarge, match=r"bytes of metadata.*ENTRY_RECORD_BYTES_MAX"):
        writer.transaction(*links)
    assert ENTRY_RECORD_BYTES_MAX < 4_000 * 9_000
    assert state_hash != writer.store.state_hash == state_hash_of(writer)


def raw(request, **fields):
    """An entry that no door has looked at."""
    return Entry(
        format=commands.ENTRY_FORMAT, time_ns=START_NS, node="n", transaction=request, **fields
    ).SerializeToString(deterministic=True)


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        ([], "no operation"),
        ([operation("put", "a//b")], "operation 0 .*bad key"),
        ([operation("put", "a"), operation("put", "x\0y")], "operation 1 .*bad key"),
        ([operation("put", "a"), operation("put", "b")], "operation 1 .*no digest"),
        ([operation("put", "a", request_id=ID)], "has a request id"),
        ([operation("make_dir", "a"), operation("move", "a", "a/b")], "operation 1 .*below itself"),
        ([operation("symlink", "a")], "operation 0 .*target"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_rules_are_those_of_apply_too(writer, parts, words):
    payload = raw(TransactionRequest(operations=parts), sha256=bytes(32))
    [result], changes = writer.store.apply([(1, payload, True)], b"id", b"")
    assert isinstance(result, InvalidArgument)
    with pytest.raises(InvalidArgument, match=words):
        raise result
    assert (changes, writer.store.keys) == ([], 0)


def test_more_operations_than_are_allowed_are_refused_in_apply_too(writer):
    request = TransactionRequest(
        operations=[operation("put", "a")] * (TRANSACTION_OPERATIONS_MAX + 1)
    )
    payload = raw(request, sha256=bytes(32 * len(request.operations)))
    [result], changes = writer.store.apply([(1, payload, True)], b"id", b"")
    assert (type(result), changes) == (TooLarge, [])


def test_an_operation_of_a_newer_version_stops_the_node(writer):
    unknown = Operation.FromString(b"\xa2\x06\x00")
    request = TransactionRequest(operations=[Operation(put=PutRequest(key="a")), unknown])
    payload = raw(request, sha256=bytes(32))
    with pytest.raises(UnknownEntry, match=r"a transaction .* holds operation 100, which this"):
        writer.store.apply([(1, payload, True)], b"id", b"")
