"""A request with an id is applied once."""

import pytest
from t1_store.building import START_NS, Writer, dump, entry

from dfs.errors import Conflict, InvalidArgument, NotFound, RequestTooOld
from dfs.kv import MemoryKV, RocksKV

ID = b"0123456789abcdef"


def uuid7(time_ns):
    return (time_ns // 1_000_000).to_bytes(6, "big") + b"\x70\x01\x80" + bytes(7)


def test_a_retry_gets_the_first_answer_and_changes_nothing(writer):
    first = writer.put("a", b"1", request_id=ID)
    writer.put("a", b"2")
    before = dump(writer.kv)[:-2]
    assert writer.put("a", b"1", request_id=ID) == first
    assert writer.get("a") == b"2"
    assert len(writer.history("a")) == 2
    assert [key for key, _ in dump(writer.kv)][: len(before)] == [key for key, _ in before]


@pytest.mark.parametrize("name", ["put", "mkdir", "symlink", "delete"])
def test_every_operation_is_applied_once(writer, name):
    writer.put("there/x")
    arguments = {
        "put": ["k", b"v"], "mkdir": ["k"], "symlink": ["k", "t"], "delete": ["there"],
    }[name]  # fmt: skip
    options = {"recursive": True} if name == "delete" else {}
    first = getattr(writer, name)(*arguments, request_id=ID, **options)
    events = writer.history()
    writer.blank()
    assert getattr(writer, name)(*arguments, request_id=ID, **options) == first
    assert writer.history() == events
    if name == "delete":
        assert first == (2, 2)


def test_both_in_one_batch_are_applied_once(writer):
    sent = []
    writer.send = lambda head, request: sent.append((head, request)) or (b"", [])
    writer.put("a", b"1", request_id=ID)
    payload = entry(*sent[0], START_NS)
    results, changes = writer.store.apply([(1, payload, True), (2, payload, True)], b"id", b"")
    assert results[0] == results[1]
    assert len(changes) == 1


def test_a_retry_is_known_after_a_restart(tmp_path):
    kv = RocksKV(tmp_path / "kv")
    first = Writer(kv).put("a", b"1", request_id=ID)
    kv.flush()
    kv.close()
    kv = RocksKV(tmp_path / "kv")
    assert Writer(kv).put("a", b"1", request_id=ID) == first
    kv.close()


def test_a_retry_is_known_where_the_state_was_restored(writer, tmp_path):
    first = writer.put("a", b"1", request_id=ID)
    with writer.store.view() as view:
        writer.store.export(view, str(tmp_path / "snapshot"))
    other = Writer(MemoryKV())
    other.store.restore(str(tmp_path / "snapshot"))
    assert other.put("a", b"1", request_id=ID) == first
    assert len(other.history("a")) == 1


def test_a_refused_request_may_succeed_later(writer):
    writer.put("a")
    with pytest.raises(Conflict):
        writer.put("a", b"new", base=0, request_id=ID)
    writer.delete("a")
    assert writer.put("a", b"new", base=0, request_id=ID) == writer.index
    with pytest.raises(NotFound):
        writer.delete("b", request_id=b"z" * 16)


def test_an_id_that_is_used_for_something_else_is_refused(writer):
    """A request id that was used for another request is refused."""
    first = writer.put("a", b"1", request_id=ID)
    for again in (
        lambda: writer.put("a", b"2", request_id=ID),
        lambda: writer.put("b", b"1", request_id=ID),
        lambda: writer.delete("a", request_id=ID),
    ):
        with pytest.raises(InvalidArgument, match=rf"used for another request \(revision {first}"):
            again()


def test_an_id_is_kept_as_long_as_the_history_that_names_it(writer):
    first = writer.put("a", b"1", request_id=ID)
    writer.put("x")
    writer.set_floor(first)
    assert writer.put("a", b"1", request_id=ID) == first
    writer.set_floor(first + 1)
    assert [key for key, _ in dump(writer.kv) if key[:1] == b"d"] == []


def test_an_id_from_a_clock_that_is_ahead_is_remembered_until_it_is_refused(writer):
    """As long as nothing would refuse its repetition, history keeps what the request did, though
    the floor has passed it."""
    ahead = uuid7(writer.now + 10**9)
    first = writer.put("a", b"1", request_id=ahead)
    writer.put("a", b"2")
    writer.set_floor(writer.put("x"))
    assert writer.put("a", b"1", request_id=ahead) == first, "not applied again"
    writer.now += 2 * 10**9
    writer.set_floor(writer.put("x"))
    with pytest.raises(RequestTooOld):
        writer.put("a", b"1", request_id=ahead)
    assert [key for key, _ in dump(writer.kv) if key[:1] == b"d"] == []


def test_an_id_older_than_history_is_refused(writer):
    """A request whose id is a UUID of version 7 and older than the retained history is refused,
    because nobody knows any more whether it was applied."""
    old = uuid7(writer.now)
    writer.now += 10**9
    writer.put("a", b"1", request_id=old)
    writer.now += 10**9
    fresh = uuid7(writer.now + 2_000_000)
    floor = writer.put("x")
    writer.set_floor(floor)
    with pytest.raises(RequestTooOld, match="older than the retained history"):
        writer.put("a", b"1", request_id=old)
    assert writer.put("a", b"2", request_id=fresh) == writer.index
    assert writer.put("a", b"3", request_id=bytes(15) + b"4") == writer.index, "no UUIDv7, no age"
