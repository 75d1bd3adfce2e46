"""History: what changed, and what the floor takes away."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from t1_store.building import Writer, dump

from dfs.errors import FailedPrecondition, InvalidArgument, NotFound, OutOfRange
from dfs.kv import MemoryKV
from dfs.limits import (
    FLOOR_PRUNE_BYTES_MAX,
    FLOOR_PRUNE_EVENTS_MAX,
    FLOOR_PRUNE_INTERVAL_ENTRIES,
    SMALL_VALUE_BYTES_MAX,
)
from dfs.proto.dfs_pb2 import Record
from dfs.store.layout import HISTORY_STEP, PLACE

LARGE = b"x" * (SMALL_VALUE_BYTES_MAX + 1)


def changes(writer, after):
    with writer.store.view() as view:
        return [change[:4] for change in view.changes(after)]


def events_stored(writer):
    return len([key for key, _ in dump(writer.kv) if key[:1] == b"h"])


def test_every_change_is_an_event(writer):
    made = writer.put("a/b/f", LARGE)
    changed = writer.put("a/b/f", b"2")
    gone, _ = writer.delete("a/b/f")
    with writer.store.view() as view:
        events = list(view.changes(0))
    assert [event[:4] for event in events] == [
        (made, 0, False, "a"), (made, 1, False, "a/b"), (made, 2, False, "a/b/f"),
        (changed, 0, False, "a/b/f"), (gone, 0, True, "a/b/f"), (gone, 1, True, "a/b"),
        (gone, 2, True, "a"),
    ]  # fmt: skip
    assert [event.data for event in events] == [b"", b"", LARGE, b"2", b"", b"", b""]
    assert [event.previous for event in events] == [0, 0, 0, made, changed, made, made]
    last = Record.FromString(events[4].record)
    assert (last.revision, last.version) == (changed, 2), "a deletion shows what was deleted"


def test_apply_returns_the_same_changes_that_history_keeps(writer):
    returned = []
    for key in ("a/1", "a/2", "a/1"):
        writer.put(key, key.encode())
    send = writer.send
    writer.send = lambda head, request: returned.append(send(head, request)[1]) or (b"", [])
    before = writer.index
    writer.delete("a", recursive=True)
    writer.put("b", LARGE)
    with writer.store.view() as view:
        assert [change for batch in returned for change in batch] == list(view.changes(before))


def test_changes_resume_behind_any_revision(writer):
    for number in range(5):
        writer.put(f"d/{number}")
    whole = changes(writer, 0)
    for after in range(writer.index + 2):
        assert changes(writer, after) == [change for change in whole if change[0] > after]


def test_history_of_a_key_of_a_subtree_and_of_everything(writer):
    """The retained changes of a key, of a subtree or of everything can be listed, newest first."""
    one = writer.put("d/f", b"1")
    other = writer.put("d.x", b"1")
    two = writer.put("d/f", b"2")
    third = writer.put("d/g", b"1")
    assert [event[:2] for event in writer.history("d/f")] == [(two, 0), (one, 1)]
    assert [event[:2] for event in writer.history("d")] == [
        (third, 0), (two, 0), (one, 1), (one, 0),
    ]  # fmt: skip
    assert [event[0] for event in writer.history()] == [third, two, other, one, one]
    assert [event[0] for event in writer.history("d/f", before=two)] == [one]
    assert [event[0] for event in writer.history(before=third)] == [two, other, one, one]
    assert writer.history("never") == []
    with pytest.raises(InvalidArgument):
        writer.history("a//b")


def test_history_of_a_key_that_is_gone_stays(writer):
    made = writer.put("f")
    gone, _ = writer.delete("f")
    assert [event[:3] for event in writer.history("f")] == [(gone, 0, True), (made, 0, False)]


@pytest.mark.parametrize("versions", [1, HISTORY_STEP - 1, HISTORY_STEP, 3 * HISTORY_STEP + 2])
def test_every_version_of_two_lives_is_found(writer, versions):
    """However far back a revision is, the walk to it begins near it and ends at it."""
    born = [writer.put("f", b"%d" % n) for n in range(versions)]
    gone, _ = writer.delete("f")
    again = [writer.put("f", b"again %d" % n) for n in range(versions)]
    other = writer.put("g")
    for n in range(versions):
        assert writer.get("f", born[n]) == b"%d" % n
        assert writer.get("f", again[n]) == b"again %d" % n
    assert writer.get("f", other) == writer.get("f")
    with pytest.raises(NotFound, match="was deleted before"):
        writer.get("f", gone)
    events = [*reversed(again), gone, *reversed(born)]
    assert [event[0] for event in writer.history("f")] == events
    for before in (born[0], born[-1], gone, again[0], other):
        assert [e[0] for e in writer.history("f", before)] == [e for e in events if e < before]
    indexed = [key for key, _ in dump(writer.kv) if key[:1] == b"i"]
    assert len(indexed) == 1 + 2 * (versions // HISTORY_STEP)


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["a", "a.b", "d/x", "d/y"]),
        st.sampled_from(["put"] * 8 + ["large", "link", "delete", "floor"]),
    ),
    max_size=80,
)


@settings(max_examples=60, deadline=None)
@given(STEPS)
def test_the_past_is_what_a_list_of_all_states_says(steps):
    writer = Writer(MemoryKV())
    states = [{}]
    for key, step in steps:
        state = dict(states[-1])
        data = b"%d" % writer.index
        if step == "floor":
            writer.set_floor(max(writer.index - 20, 0))
        elif step == "delete":
            if state.pop(key, None) is None:
                continue
            writer.delete(key)
        elif step == "link":
            writer.symlink(key, "to")
            state[key] = None
        else:
            state[key] = LARGE + data if step == "large" else data
            writer.put(key, state[key])
        states.append(state)
    for revision in range(max(writer.store.floor, 1), writer.index + 1):
        for key in ("a", "a.b", "d/x", "d/y"):
            expected = states[revision].get(key, NotFound)
            if expected is NotFound or expected is None:
                with pytest.raises(expected or FailedPrecondition):
                    writer.get(key, revision)
            else:
                assert writer.get(key, revision) == expected
    with writer.store.view() as view:
        everything = list(view.history())
        for key in ("a", "a.b", "d", "d/x"):
            expected = [c for c in everything if c.key == key or c.key.startswith(key + "/")]
            assert list(view.history(key)) == expected
    indexed = [key for key, _ in dump(writer.kv) if key[:1] == b"i"]
    places = {key[-PLACE.size :] for key in indexed}
    assert places <= {key[1:] for key, _ in dump(writer.kv) if key[:1] == b"h"}


# ---- the floor -----------------------------------------------------------------------------------


def test_below_the_floor_nothing_is_answered(writer):
    first = writer.put("a", b"1")
    second = writer.put("a", b"2")
    third = writer.put("a", b"3")
    writer.set_floor(second)
    assert writer.store.floor == second
    with pytest.raises(OutOfRange, match=f"revision {first} is no longer .* starts at {second}"):
        writer.get("a", first)
    with pytest.raises(OutOfRange, match=f"history starts at {second}") as refusal:
        changes(writer, 0)
    assert refusal.value.metadata == {"floor": str(second)}
    assert [change[0] for change in changes(writer, second - 1)] == [second, third]
    assert [event[0] for event in writer.history("a")] == [third, second]


def test_a_read_at_the_floor_or_later_stays_right(writer):
    """What a key was at the floor counts, though its own revision is below."""
    writer.put("kept/large", LARGE)
    writer.put("changed", LARGE + b"1")
    writer.put("gone")
    writer.put("was/gone/before")
    writer.delete("was/gone/before")
    floor = writer.put("x")
    writer.put("changed", b"2")
    writer.delete("gone")
    writer.set_floor(floor)
    assert writer.get("kept/large") == writer.get("kept/large", floor) == LARGE
    assert writer.get("changed", floor) == LARGE + b"1"
    assert writer.get("changed") == b"2"
    assert writer.get("gone", floor) == b""
    assert writer.stat("kept", floor).children == 1
    with pytest.raises(NotFound):
        writer.get("was/gone/before", floor)


def test_pruning_leaves_one_event_a_live_key(writer):
    for round_ in range(3):
        for number in range(10):
            writer.put(f"d/{number}", b"%d" % round_, request_id=b"%016d" % writer.index)
    writer.put("e/gone")
    writer.delete("e/gone")
    floor = writer.put("last")
    writer.set_floor(floor)
    families = [key[:1] for key, _ in dump(writer.kv)]
    assert {family: families.count(family) for family in sorted(set(families))} == {
        b"h": 12, b"m": 1, b"n": 12,
    }  # fmt: skip
    for number in range(10):
        assert writer.get(f"d/{number}", floor) == b"2"
    writer.put("d/0", b"3")
    writer.set_floor(writer.index)
    assert writer.get("d/0") == b"3"
    assert events_stored(writer) == 12 + 1, "and what is at the floor or above it"


def test_the_floor_only_goes_forward_and_never_ahead(writer):
    for _ in range(4):
        writer.put("a")
    writer.set_floor(3)
    writer.set_floor(2)
    assert writer.store.floor == 3
    with pytest.raises(InvalidArgument, match="yet to come"):
        writer.set_floor(100)


def test_pruning_is_bounded_by_bytes_and_keeps_up_with_large_content(writer):
    large = bytes(FLOOR_PRUNE_BYTES_MAX // 8)
    for _ in range(30):
        writer.put("f", large)
    floor = writer.index
    writer.set_floor(floor)
    assert events_stored(writer) == 30 - 8 + 1, "one step, and its last event stays"
    writer.put("f", large)
    assert events_stored(writer) == 23 + 1 - 2, "twice as much as came"
    for _ in range(10):
        writer.put("f", large)
    assert changes(writer, floor - 1)[0][0] == floor
    assert events_stored(writer) == 1 + 12, "the last below the floor, all from there on"


def written_and_deleted(writer, rounds):
    """Trees that are made in new directories and removed as a whole."""
    for round_ in range(rounds):
        for n in range(30):
            writer.put(f"d/{round_}/{n}/a/f", b"%d" % n)
        writer.delete("d", recursive=True)


def test_pruning_keeps_up_with_entries_of_many_events(writer):
    """However many events an entry has, those below the floor do not pile up."""
    written_and_deleted(writer, 20)
    most = events_stored(writer)
    for _ in range(5):
        writer.set_floor(writer.index)
        written_and_deleted(writer, 20)
        assert events_stored(writer) <= most + FLOOR_PRUNE_EVENTS_MAX


def test_pruning_is_the_same_whatever_the_batches(writer):
    """Also where the floor moves to an entry of the same batch."""
    sent = []
    apply = writer.apply

    def noted(payload, membership=b""):
        sent.append(payload)
        return apply(payload, membership)

    writer.apply = noted
    for _ in range(12):
        written_and_deleted(writer, 2)
        writer.set_floor(writer.index - 3)
    entries = [(n, payload, False) for n, payload in enumerate(sent, 1)]
    for size in (7, 100, len(entries)):
        other = Writer(MemoryKV())
        for begin in range(0, len(entries), size):
            batch = entries[begin : begin + size]
            other.store.apply(batch, b"id%d" % batch[-1][0], b"")
        assert dump(other.kv) == dump(writer.kv)


def test_pruning_goes_by_steps_counted_by_log_index(writer):
    for _ in range(FLOOR_PRUNE_EVENTS_MAX + 20):
        writer.put("f")
    writer.set_floor(writer.index)
    assert events_stored(writer) == 21, "the first step went with the command itself"
    while (writer.index + 1) % FLOOR_PRUNE_INTERVAL_ENTRIES:
        writer.blank()
    assert events_stored(writer) == 21
    writer.blank()
    assert events_stored(writer) == 2
    assert writer.get("f") == b""
