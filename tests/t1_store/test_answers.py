"""Answers that are kept ready are always those that the store would give."""

import random

import pytest

from dfs.errors import DfsError
from dfs.limits import SMALL_VALUE_BYTES_MAX
from dfs.proto.dfs_pb2 import GetRequest
from dfs.store import answers
from dfs.store.answers import Answers, plain_request

KEYS = ("a", "b", "d/a", "d/b", "d/e/a", "ü")


def ask(store, key):
    """What the node does for a plain Get."""
    request = plain_request(key)
    found = store.recent.find(request)
    if found is not None:
        return found
    answer = store.get_answer(key)
    store.recent.remember(request, key, answer)
    return answer


def test_plain_request_is_what_clients_send():
    for key in (*KEYS, "k" * 200):
        assert plain_request(key) == GetRequest(key=key).SerializeToString()


def test_kept_answers_follow_every_change(writer):
    rng, hits = random.Random(5), 0
    for number in range(2_000):
        key = rng.choice(KEYS)
        try:
            match rng.randrange(8):
                case 0:
                    writer.delete(key, recursive=True)
                case 1:
                    writer.delete("d", recursive=True)
                case 2:
                    writer.mkdir(key)
                case 3:
                    writer.symlink(key, "there")
                case _:
                    writer.put(key, b"%d" % number)
        except DfsError:
            pass
        for asked in KEYS:
            try:
                expected = writer.store.get_answer(asked)
            except DfsError:
                assert writer.store.recent.find(plain_request(asked)) is None
            else:
                hits += writer.store.recent.find(plain_request(asked)) is not None
                assert ask(writer.store, asked) == expected
    assert hits > 1_000


def test_a_replaced_state_forgets_all(writer, tmp_path):
    writer.put("k", b"old")
    with writer.store.view() as view:
        writer.store.export(view, str(tmp_path / "snapshot"))
    writer.put("k", b"new")
    ask(writer.store, "k")
    writer.store.restore(str(tmp_path / "snapshot"))
    assert b"old" in ask(writer.store, "k")


def test_only_small_plain_answers_are_kept():
    kept = Answers()
    kept.remember(plain_request("k"), "k", bytes(3 * SMALL_VALUE_BYTES_MAX))
    kept.remember(GetRequest(key="k", revision=3).SerializeToString(), "k", b"answer")
    assert len(kept) == 0


@pytest.mark.parametrize("count", [10, 1_000])
def test_the_oldest_goes_when_there_are_too_many_bytes(monkeypatch, count):
    monkeypatch.setattr(answers, "ANSWERS_BYTES_MAX", 50 * 300)
    kept = Answers()
    for number in range(count):
        key = f"{number:06}"
        kept.remember(plain_request(key), key, bytes(300 - 200 - 8))
    assert len(kept) == min(count, 50)
    assert kept.find(plain_request(f"{count - 1:06}")) is not None
