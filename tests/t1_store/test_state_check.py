"""The audit of a state: silent on every state that operations can make, loud on all else."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from t1_store.building import Writer, dump
from t1_store.test_replay import OPERATION, Model, act

from dfs.kv import MemoryKV, Overlay
from dfs.limits import SMALL_VALUE_BYTES_MAX
from dfs.store.layout import INDEX, META_KEY
from dfs.store.soundness import StateCheck


def problems(kv):
    return StateCheck(kv).problems


@settings(max_examples=150)
@given(st.lists(OPERATION, max_size=40), st.integers(0, 40))
def test_nothing_is_wrong_with_what_operations_make(operations, floor):
    """Whatever they were, and however far history is pruned."""
    model, writer = Model(), Writer(MemoryKV())
    for number, operation in enumerate(operations):
        act(model, writer, operation)
        if number == floor:
            writer.set_floor(number)
    assert problems(writer.kv) == []
    writer.set_floor(writer.index)
    for _ in range(300):
        writer.blank()  # pruning goes on
    found = StateCheck(writer.kv)
    assert found.problems == []
    assert (found.keys, found.bytes) == (writer.store.keys, writer.store.bytes)
    assert found.state_hash.to_bytes(16, "little") == writer.store.state_hash


@pytest.fixture
def filled(writer):
    for number in range(40):
        writer.put(f"d{number % 3}/{number}", b"%d" % number, request_id=b"%016d" % number)
        writer.put("often", b"%d" % number)
    writer.put("large", b"x" * (SMALL_VALUE_BYTES_MAX + 1))
    writer.symlink("l", "t")
    writer.mkdir("m")
    writer.delete("d1", recursive=True)
    assert problems(writer.kv) == []
    return writer


def test_each_damaged_record_is_noticed(filled, kv):
    for key, value in dump(kv):
        if key not in (META_KEY,) and value:
            broken = Overlay(kv)
            broken.write({key: value[:-1] + bytes((value[-1] ^ 4,))})
            assert problems(broken), key


def test_each_missing_record_is_noticed(filled, kv):
    """Of keys, versions, deletions, of the index and of request ids."""
    for key, _ in dump(kv):
        if key != META_KEY:
            broken = Overlay(kv)
            broken.write({key: None})
            assert problems(broken), key


def test_an_older_version_in_place_of_the_newest_is_noticed(writer):
    writer.put("k", b"old")
    older = dict(dump(writer.kv))
    writer.put("k", b"new")
    for key, value in older.items():
        if key[:1] == b"n":
            broken = Overlay(writer.kv)
            broken.write({key: value})
            found = problems(broken)
            assert any("state hash" in text for text in found)
            assert any("is not shown by the record of k" in text for text in found)


def test_a_record_that_comes_from_nowhere_is_noticed(filled, kv):
    other = Writer(MemoryKV())
    other.put("stranger", b"x")
    for key, value in dump(other.kv):
        if key != META_KEY and key not in dict(dump(kv)):
            broken = Overlay(kv)
            broken.write({key: value})
            assert problems(broken), key
    broken = Overlay(kv)
    broken.write({b"q": b"what"})
    assert "of no kind" in problems(broken)[0]
    broken = Overlay(kv)
    broken.write({next(k for k, _ in dump(kv) if k[:1] == INDEX): b"v"})
    assert "has a value" in problems(broken)[0]
