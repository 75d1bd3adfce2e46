"""Reading: now, in the past, in lists; from a view that does not move."""

import threading

import pytest

from dfs.errors import (
    FailedPrecondition,
    InvalidArgument,
    IsADirectory,
    NotFound,
    OutOfRange,
    Unavailable,
)
from dfs.limits import SMALL_VALUE_BYTES_MAX
from dfs.proto.dfs_pb2 import GetResponse, Record, StatResponse

LARGE = b"x" * (SMALL_VALUE_BYTES_MAX + 1)


@pytest.fixture
def tree(writer):
    for key in ("a.txt", "a/1", "a/2/x", "a/2/y", "a/3", "b", "a\u00e4", "a-"):
        writer.put(key, key.encode())
    writer.mkdir("a/empty")
    writer.symlink("a/link", "1")
    return writer


# ---- one key -------------------------------------------------------------------------------------


def test_reads_of_what_is_no_file_say_so(tree):
    with tree.store.view() as view:
        for get in (view.get, tree.store.get_answer):
            with pytest.raises(NotFound, match="no such key: nope"):
                get("nope")
            with pytest.raises(NotFound):
                get("b/below")
            with pytest.raises(IsADirectory, match="a/2 is a directory"):
                get("a/2")
            with pytest.raises(FailedPrecondition, match="a/link is a symlink to 1"):
                get("a/link")
            with pytest.raises(InvalidArgument, match="empty"):
                get("")
            with pytest.raises(InvalidArgument, match="control character"):
                get("a\0001")
        for stat in (view.stat, tree.store.stat_answer):
            with pytest.raises(NotFound):
                stat("nope")


@pytest.mark.parametrize("data", [b"small", LARGE], ids=["small", "large"])
def test_a_past_revision_is_read(writer, data):
    first = writer.put("a/f", data + b"1")
    second = writer.put("a/f", data + b"2")
    gone, _ = writer.delete("a/f")
    again = writer.put("a/f", data + b"3")
    assert writer.get("a/f", first) == data + b"1"
    assert writer.get("a/f", second) == data + b"2"
    assert writer.get("a/f", again) == writer.get("a/f") == data + b"3"
    answer = GetResponse.FromString(writer.store.get_answer("a/f", first))
    assert (answer.data, answer.record.revision) == (data + b"1", first)
    assert StatResponse.FromString(writer.store.stat_answer("a", second)).record.implicit
    with pytest.raises(NotFound, match=f"no such key at revision {gone}: a/f was deleted before"):
        writer.get("a/f", gone)
    with pytest.raises(NotFound, match=f"no such key at revision {gone}"):
        writer.stat("a", gone)
    with pytest.raises(OutOfRange, match=f"revision {again + 1} is yet to come"):
        writer.get("a/f", again + 1)


def test_a_past_revision_between_two_changes_shows_the_earlier(writer):
    writer.put("f", b"1")
    writer.put("other")
    between = writer.put("other")
    writer.put("f", b"2")
    assert writer.get("f", between) == b"1"
    writer.put("late")
    with pytest.raises(NotFound, match="no such key at revision 1: late"):
        writer.get("late", 1)


def test_the_kind_that_it_was_then_counts(writer):
    file = writer.put("k")
    writer.symlink("k", "t")
    link = writer.store.applied
    writer.delete("k")
    made = writer.mkdir("k")
    assert writer.get("k", file) == b""
    with pytest.raises(FailedPrecondition, match="symlink"):
        writer.get("k", link)
    with pytest.raises(IsADirectory):
        writer.get("k", made)


# ---- lists ---------------------------------------------------------------------------------------


def test_lists_sort_by_component(tree):
    assert tree.keys() == [
        "a", "a/1", "a/2", "a/2/x", "a/2/y", "a/3", "a/empty", "a/link", "a-", "a.txt", "a\u00e4",
        "b",
    ]  # fmt: skip
    assert tree.keys("a/2") == ["a/2/x", "a/2/y"]
    assert tree.keys("a/empty") == []


def test_a_list_of_direct_children_steps_over_what_is_below_them(tree):
    assert tree.keys(recursive=False) == ["a", "a-", "a.txt", "a\u00e4", "b"]
    assert tree.keys("a", recursive=False) == ["a/1", "a/2", "a/3", "a/empty", "a/link"]


def test_a_list_of_a_file_is_that_file(tree):
    assert tree.keys("b") == tree.keys("b", recursive=False) == ["b"]
    assert tree.keys("a/link") == ["a/link"]
    assert tree.keys("b", after="b") == []
    with pytest.raises(NotFound, match="no such key: nope"):
        tree.keys("nope")


@pytest.mark.parametrize("recursive", [False, True])
@pytest.mark.parametrize("key", ["", "a"])
def test_a_list_goes_on_behind_any_key_that_it_showed(tree, key, recursive):
    whole = tree.keys(key, recursive=recursive)
    for position, after in enumerate(whole):
        assert tree.keys(key, recursive=recursive, after=after) == whole[position + 1 :]


def test_a_list_goes_on_behind_a_key_that_is_gone(tree):
    tree.delete("a/2", recursive=True)
    assert tree.keys("a", after="a/2/x") == ["a/3", "a/empty", "a/link"]
    assert tree.keys("a", after="a/2", recursive=False) == ["a/3", "a/empty", "a/link"]


def test_a_list_cannot_go_on_behind_what_it_never_shows(tree):
    with pytest.raises(InvalidArgument, match="behind b"):
        tree.keys("a", after="b")
    with pytest.raises(InvalidArgument, match="behind a/2/x"):
        tree.keys("a", recursive=False, after="a/2/x")


def test_a_list_carries_content_up_to_the_size_asked_for(writer):
    writer.put("d/empty")
    writer.put("d/large", LARGE)
    writer.put("d/small", b"12345")
    writer.mkdir("d/dir")
    with writer.store.view() as view:
        def data(limit):
            return {key: data for key, _, data in view.list("d", True, "", limit)}

        assert set(data(0).values()) == {None}
        assert data(4) == {"d/dir": None, "d/empty": b"", "d/large": None, "d/small": None}
        assert data(5)["d/small"] == b"12345"
        assert data(len(LARGE)) == {
            "d/dir": None, "d/empty": b"", "d/large": LARGE, "d/small": b"12345",
        }  # fmt: skip
        records = {key: Record.FromString(record) for key, record, _ in view.list("d", True)}
    assert records["d/large"].size == len(LARGE)
    assert records["d/dir"].children == 0


# ---- views ---------------------------------------------------------------------------------------


def test_a_view_does_not_move(tree):
    view = tree.store.view()
    revision = tree.store.applied
    before = list(view.list(recursive=True, data_bytes_max=100))
    under_way = view.list(recursive=True, data_bytes_max=100)
    head = [next(under_way)]
    tree.put("a/1", b"changed")
    tree.put("new/x", LARGE)
    tree.delete("a/2", recursive=True)
    assert view.revision == revision
    assert list(view.list(recursive=True, data_bytes_max=100)) == before
    assert head + list(under_way) == before
    assert view.get("a/1")[1] == b"a/1"
    assert next(view.history())[0] == revision
    assert list(view.changes(revision)) == []
    with pytest.raises(NotFound):
        view.stat("new")
    view.close()
    view.close()
    assert tree.get("a/1") == b"changed"


def test_a_view_is_read_by_other_threads_at_once(tree):
    with tree.store.view() as view:
        expected = list(view.list(recursive=True, data_bytes_max=100))
        seen = []
        threads = [
            threading.Thread(
                target=lambda: seen.append(list(view.list(recursive=True, data_bytes_max=100)))
            )
            for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert seen == [expected] * 4


def test_a_closed_view_says_that_the_call_is_to_be_repeated(tree):
    view = tree.store.view()
    view.close()
    with pytest.raises(Unavailable, match="repeat the call"):
        view.get("b")
    with pytest.raises(Unavailable):
        next(view.list())


def test_the_view_of_an_empty_store_is_empty(writer):
    with writer.store.view() as view:
        assert (view.revision, view.floor) == (0, 0)
        assert list(view.list()) == list(view.history()) == list(view.changes(0)) == []
