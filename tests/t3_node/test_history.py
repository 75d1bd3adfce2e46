"""The history of a key as answers: bounded in memory and in the time that one step takes."""

import pytest
from t1_store.building import Writer

from dfs.kv import MemoryKV
from dfs.node import history
from dfs.node.history import Past

LARGE = bytes(1 << 20)


@pytest.fixture
def writer():
    return Writer(MemoryKV())


def pieces(view, key, limit=0):
    """All of them, as lists of (revision, key)."""
    past = Past(view, key, 0, limit)
    found = []
    while not past.done:
        found.append([(change.revision, change.key) for change in past.next()])
    return found


def test_pieces_hold_no_content(writer):
    revisions = [writer.put("f", LARGE) for _ in range(3)]
    with writer.store.view() as view:
        assert [c.data for c in view.history("f")] == [LARGE] * 3
        found = Past(view, "f", 0, 0).next()
    assert [(c.revision, c.data) for c in found] == [(r, b"") for r in reversed(revisions)]


@pytest.mark.parametrize(
    ("bound", "value"), [("HISTORY_SCAN_MAX", 10), ("HISTORY_SCAN_BYTES_MAX", 10 << 10)]
)
def test_changes_of_others_are_passed_in_bounded_steps(writer, monkeypatch, bound, value):
    """A step that finds nothing ends, too, and the next goes on behind it."""
    first = writer.put("d/first")
    for n in range(40):
        writer.put("other", bytes(1 << 10) + b"%d" % n)
    last = writer.put("d/last")
    monkeypatch.setattr(history, bound, value)
    with writer.store.view() as view:
        found = pieces(view, "d")
        everything = [(c.revision, c.key) for c in view.history("d")]
    assert [change for piece in found for change in piece] == everything
    assert everything == [(last, "d/last"), (first, "d/first"), (first, "d")]
    assert 5 <= len(found) <= 6
    assert [] in found


def test_pieces_and_limits_are_counted_in_changes(writer, monkeypatch):
    for n in range(7):
        writer.put("d/f", b"%d" % n)
    monkeypatch.setattr(history, "HISTORY_ITEMS_MAX", 3)
    with writer.store.view() as view:
        assert [len(piece) for piece in pieces(view, "d/f")] == [3, 3, 1]
        assert [len(piece) for piece in pieces(view, "d/f", limit=4)] == [3, 1]
        assert [len(piece) for piece in pieces(view, "d/f", limit=3)] == [3]
        assert pieces(view, "none") == [[]]
