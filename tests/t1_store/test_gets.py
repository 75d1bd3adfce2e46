"""Small files read many at once: the answers are those that the store gives one by one, and what is
kept of them is true until the changes of an apply name it."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from t1_store.building import Writer

from dfs._engine import (
    changed_gets,
    content_answers,
    content_keys,
    get_answers,
    plain_gets,
)
from dfs.errors import DataLoss, DfsError
from dfs.kv import MemoryKV
from dfs.limits import READ_TOGETHER_BYTES_MAX, SMALL_VALUE_BYTES_MAX
from dfs.proto.dfs_pb2 import GetRequest
from dfs.store.layout import CURRENT, pack_event, path_of, seal


def get_requests(keys):
    return [GetRequest(key=key).SerializeToString() for key in keys]


KEYS = ("a", "b", "d/a", "d/b", "d/e/a", "ü", "k" * 200)


TEXT = st.characters(exclude_characters="\0", exclude_categories=["Cs"])


@given(st.lists(st.text(TEXT, min_size=1, max_size=300)))
def test_a_plain_request_is_what_clients_send(keys):
    requests = get_requests(keys)
    events = [(b"", seal(b"", pack_event(
        0, 0, 0, 0, b"", path_of(key), b"record", b"data"
    ))) for key in keys]  # fmt: skip
    assert changed_gets(events, 2, 0) == [(2, request, None) for request in requests]
    expected = [(number, CURRENT + path_of(key)) for number, key in enumerate(keys)]
    assert plain_gets(list(enumerate(requests))) == expected


@given(st.text(max_size=9), st.integers(0, 3), st.integers(0, 1), st.integers(0, 300))
def test_whatever_asks_for_more_is_left_out(key, revision, consistency, min_revision):
    request = GetRequest(
        key=key, revision=revision, consistency=consistency, min_revision=min_revision
    )
    plain = key and "\0" not in key and not (revision or consistency or min_revision)
    found = plain_gets([(7, request.SerializeToString())])
    assert found == ([(7, CURRENT + path_of(key))] if plain else [])


@given(st.binary(max_size=12))
def test_any_bytes_are_plain_only_in_the_one_form(body):
    for number, store_key in plain_gets([(1, body)]):
        assert number == 1
        assert get_requests([store_key[1:].replace(b"\0", b"/").decode()]) == [body]


@given(st.binary(max_size=SMALL_VALUE_BYTES_MAX), st.text(max_size=5), st.booleans())
def test_the_answer_is_that_of_the_store(data, target, link):
    writer = Writer(MemoryKV())
    writer.put("d/file", data)
    writer.put("d/large", bytes(READ_TOGETHER_BYTES_MAX + 1))
    if link and target and "\0" not in target:
        writer.symlink("link", target)
    keys = ["d/file", "d/large", "link", "d", "none", "d//file"]
    found = writer.store.get_answers(list(enumerate(get_requests(keys))))
    assert found == [(0, writer.store.get_answer("d/file"))]


@given(st.binary(max_size=120), st.data())
def test_a_damaged_value_is_left_out(content, data):
    writer = Writer(MemoryKV())
    writer.put("k", content)
    value = writer.kv.get(b"nk")
    at = data.draw(st.integers(0, len(value) - 1))
    damaged = value[:at] + bytes((value[at] ^ data.draw(st.integers(1, 255)),)) + value[at + 1 :]
    gets = [(1, b"nk")]
    assert get_answers(gets, [value]) == [(1, writer.store.get_answer("k"))]
    assert get_answers(gets, [damaged]) == get_answers(gets, [value[:at]]) == []
    assert get_answers([(1, b"nl")], [value]) == []
    writer.kv.write({b"nk": damaged})
    with pytest.raises(DataLoss):
        writer.store.get_answer("k")


def change(writer, rng, number):
    """One random change of one of KEYS; refused or not."""
    key = rng.choice(KEYS)
    match rng.randrange(8):
        case 0:
            return writer.delete(key, recursive=True)
        case 1:
            return writer.delete("d", recursive=True)
        case 2:
            return writer.mkdir(key)
        case 3:
            return writer.symlink(key, "there")
        case _:
            return writer.put(key, b"%d" % number)


def test_kept_answers_are_true_until_the_changes_name_them(writer, monkeypatch):
    rng, kept, hits = random.Random(5), {}, 0
    apply = writer.store.apply

    def applied(*arguments):
        results, changes = apply(*arguments)
        for method, request, answer in changed_gets(changes, 2, SMALL_VALUE_BYTES_MAX):
            assert method == 2
            if answer is None:
                kept.pop(request, None)
            else:
                kept[request] = answer
        return results, changes

    monkeypatch.setattr(writer.store, "apply", applied)
    requests = get_requests(list(KEYS))
    for number in range(2_000):
        try:
            change(writer, rng, number)
        except DfsError:
            pass
        for key, request in zip(KEYS, requests, strict=True):
            try:
                expected = writer.store.get_answer(key)
            except DfsError:
                assert request not in kept
            else:
                hits += request in kept
                assert kept.get(request, expected) == expected
        kept |= {requests[at]: a for at, a in writer.store.get_answers([*enumerate(requests)])}
    assert hits > 1_000


def test_content_that_stands_in_history_is_answered_with_the_rest(writer):
    large = {f"d/{n}": bytes([n]) * (SMALL_VALUE_BYTES_MAX + n) for n in range(5)}
    for key, data in large.items():
        writer.put(key, b"before")
        writer.put(key, data)
    writer.put("d/huge", bytes(READ_TOGETHER_BYTES_MAX + 1))
    writer.put("d/small", b"s")
    keys = [*large, "d/huge", "d/none", "d", "d/small"]
    found = dict(writer.store.get_answers(list(enumerate(get_requests(keys)))))
    expected = {n: writer.store.get_answer(key) for n, key in enumerate(keys) if key in large}
    assert found == {**expected, len(keys) - 1: writer.store.get_answer("d/small")}


def test_damaged_content_in_history_is_left_out(writer):
    writer.put("k", bytes(SMALL_VALUE_BYTES_MAX + 1))
    writer.put("l", bytes(SMALL_VALUE_BYTES_MAX + 1))
    gets = [(1, b"nk")]
    [(number, store_key, place)] = content_keys(gets, [writer.kv.get(b"nk")], 1 << 20)
    value = writer.kv.get(place)
    assert (number, store_key) == gets[0]
    assert content_answers([(1, b"nk", place)], [value]) == [(1, writer.store.get_answer("k"))]
    for at in range(0, len(value), 7):
        damaged = value[:at] + bytes((value[at] ^ 1,)) + value[at + 1 :]
        assert content_answers([(1, b"nk", place)], [damaged]) == []
        assert content_answers([(1, b"nk", place)], [value[:at]]) == []
    assert content_answers([(1, b"nk", place)], [None]) == []
    assert content_answers([(1, b"nl", place)], [value]) == [], "an event of another key"
    [(_, _, other)] = content_keys([(1, b"nl")], [writer.kv.get(b"nl")], 1 << 20)
    assert content_answers([(1, b"nk", other)], [value]) == [], "in the place of another event"
    writer.kv.write({place: None})
    requests = list(enumerate(get_requests(["k"])))
    assert writer.store.get_answers(requests) == [], "who reads it alone says what is wrong"
