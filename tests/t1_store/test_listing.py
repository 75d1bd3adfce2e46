"""Lists as encoded answers: what the engine makes of many records at once is, byte for byte, what
the general walk and the generated code make of them one by one."""

import sys
import threading
from contextlib import closing
from itertools import islice

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from t1_store.building import Writer

from dfs.errors import DataLoss, DfsError, InvalidArgument, NotFound, Unavailable
from dfs.kv import MemoryKV
from dfs.limits import (
    LIST_HOT_ITEMS_MAX,
    LIST_ITEMS_MAX,
    SMALL_VALUE_BYTES_MAX,
    STORE_SCAN_RECORDS_MIN,
    STREAM_CHUNK_BYTES_MAX,
)
from dfs.proto.dfs_pb2 import Item, ListResponse

KEYS = ["", "a", "b", "a/x", "a/x/1", "a/y", "b/x", "b\u00fc/x", "b!", "c", "c/x/y", "none"]
LARGE = b"x" * (SMALL_VALUE_BYTES_MAX + 1)


def encoded(found):
    """One item, by the generated code."""
    key, record, data = found
    item = Item(key=key, data=data or b"", has_data=data is not None)
    item.record.MergeFromString(record)
    return item


def expected(view, key, recursive, after, limit, data_bytes_max, items_max):
    """All answers of a list, by the general walk."""
    answers, piece, size = [], [], 0
    items = islice(view.list(key, recursive, after, data_bytes_max), limit or sys.maxsize)
    for item in items:
        more = len(item[0].encode()) + len(item[1]) + len(item[2] or b"")
        if piece and (size + more > STREAM_CHUNK_BYTES_MAX or len(piece) == items_max):
            answers.append(piece)
            piece, size = [], 0
        piece.append(item)
        size += more
    if piece or not answers:
        answers.append(piece)
    return [
        ListResponse(items=map(encoded, piece), revision=view.revision).SerializeToString()
        for piece in answers
    ]


def answers(listing, items_max=LIST_ITEMS_MAX):
    with closing(listing):
        found = [listing.next(items_max)]
        while not listing.done and (answer := listing.next(items_max)) is not None:
            found.append(answer)
        assert listing.done or listing.next(items_max) is None
        return found


def outcome(work, *arguments):
    """What it returns, or how it refuses."""
    try:
        return work(*arguments)
    except DfsError as error:
        return type(error), str(error)


def compare(store, *wanted, items_max=LIST_ITEMS_MAX):
    """Both ways, for one list; returns what both say."""
    def general():
        with store.view() as view:
            return expected(view, *wanted, items_max)

    found = outcome(lambda: answers(store.listing(*wanted), items_max))
    assert found == outcome(general)
    small = outcome(store.list_answer, *wanted)
    if isinstance(found, tuple):
        assert small in (found, None)
    elif small is not None:
        assert found == [small] or items_max < LIST_HOT_ITEMS_MAX
    return found


def test_a_small_list_counts_items_and_not_what_lies_below_them(writer):
    """The records that it may fetch are used up by children of the last directory, just where the
    limit seems to be reached: it ended there, with fewer items than there are."""
    for number in range(LIST_HOT_ITEMS_MAX - STORE_SCAN_RECORDS_MIN):
        writer.put(f"a{number:03}")
    for number in range(2 * STORE_SCAN_RECORDS_MIN):
        writer.put(f"b/{number:03}")
        writer.put(f"c{number:03}")
    [found] = compare(writer.store, "", False, "", LIST_HOT_ITEMS_MAX, 0)
    assert len(ListResponse.FromString(found).items) == LIST_HOT_ITEMS_MAX


@pytest.fixture
def tree(writer):
    """Files of all sizes, directories with and without content, links, a name behind '/'."""
    for number in range(30):
        writer.put(f"d{number:02}/f", b"%d" % number)
        writer.put(f"d{number:02}!", b"")
    for number in range(LIST_HOT_ITEMS_MAX + 60):
        writer.put(f"deep/{number % 7}/k{number:03}", b"v" * number)
        writer.put(f"flat/k{number:03}", b"v" * number)
    writer.mkdir("empty")
    writer.symlink("flat/link", "there")
    writer.put("flat/large", LARGE)
    writer.put("flat/k\u00fc", LARGE + LARGE)
    return writer


@pytest.mark.parametrize("recursive", [False, True])
@pytest.mark.parametrize("key", ["", "flat", "deep", "deep/3", "empty", "flat/large", "none"])
def test_both_ways_give_the_same_bytes(tree, key, recursive):
    for data_bytes_max in (0, 100, len(LARGE), 1 << 20):
        for limit in (0, 1, 31, 300):
            compare(tree.store, key, recursive, "", limit, data_bytes_max)
    for items_max in (1, 7, 61):
        compare(tree.store, key, recursive, "", 0, 100, items_max=items_max)


@pytest.mark.parametrize("recursive", [False, True])
def test_both_ways_go_on_behind_any_key(tree, recursive):
    for after in tree.keys()[::17]:
        for key in ("", "flat", "deep"):
            compare(tree.store, key, recursive, after, 3, 100)
    assert compare(tree.store, "flat", False, "deep", 0, 0)[0] is InvalidArgument
    assert compare(tree.store, "none", False, "deep", 0, 0)[0] is NotFound


SIZES = st.sampled_from([0, 1, 100, SMALL_VALUE_BYTES_MAX, SMALL_VALUE_BYTES_MAX + 1, 20_000])
OPERATIONS = st.tuples(
    st.sampled_from(["put", "put", "put", "mkdir", "symlink", "delete"]),
    st.sampled_from(KEYS[1:]), SIZES,
)  # fmt: skip
WANTED = st.tuples(
    st.sampled_from(KEYS), st.booleans(), st.sampled_from(KEYS), st.integers(0, 5), SIZES
)


@pytest.mark.parametrize("key", ["", "flat", "deep", "deep/3", "empty", "flat/large", "none"])
def test_a_list_that_shows_a_directory_itself_begins_with_it(tree, key):
    with tree.store.view() as view:
        shown = key and outcome(view.stat, key)
        below = outcome(lambda: list(view.list(key, True, "", 100)))
    expected = below if isinstance(below, list) else []
    if isinstance(shown, bytes) and [item[0] for item in expected[:1]] != [key]:
        expected.insert(0, (key, shown, None))
    with closing(tree.store.listing(key, True, "", 0, 100, itself=True)) as listing:
        pieces = [listing.items(7)]
        while items := listing.items(7):
            pieces.append(items)
    found = [ListResponse.FromString(items).items for items in pieces]
    assert [item for items in found for item in items] == list(map(encoded, expected))
    assert all(len(items) == 7 for items in found[:-1])
    assert listing.revision == tree.store.applied


@pytest.mark.parametrize("key", ["", "flat", "flat/large"])
def test_content_of_later_revisions_only_both_ways(tree, key):
    for data_after in (0, 1, tree.store.applied // 2, tree.store.applied - 1, tree.store.applied):
        wanted = key, True, "", 1 << 20, data_after
        with tree.store.view() as view:
            expected = [encoded(item).SerializeToString() for item in view.list(*wanted)]
        listing = tree.store.listing(key, True, "", 0, 1 << 20, data_after=data_after)
        found = [ListResponse.FromString(answer).items for answer in answers(listing)]
        items = [item for part in found for item in part]
        assert [item.SerializeToString() for item in items] == expected
        for item in items:
            small_file = not item.record.kind
            assert item.has_data == (small_file and item.record.revision > data_after)


@given(st.lists(OPERATIONS, max_size=40), st.lists(WANTED, min_size=1, max_size=10), st.data())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_tree_listed_in_any_way(monkeypatch, operations, lists, data):
    writer = Writer(MemoryKV())
    for operation, key, size in operations:
        try:
            match operation:
                case "put":
                    writer.put(key, bytes(size))
                case "mkdir":
                    writer.mkdir(key)
                case "symlink":
                    writer.symlink(key, "t")
                case _:
                    writer.delete(key, recursive=True)
        except DfsError:
            pass
    chunk = data.draw(st.sampled_from([300, 21_000, STREAM_CHUNK_BYTES_MAX]))
    records = data.draw(st.integers(1, 5))
    with monkeypatch.context() as patch:
        patch.setattr("dfs.store.listing.STREAM_CHUNK_BYTES_MAX", chunk)
        patch.setattr(f"{__name__}.STREAM_CHUNK_BYTES_MAX", chunk)
        patch.setattr("dfs.store.listing.STORE_SCAN_RECORDS_MAX", records)
        patch.setattr("dfs.store.listing.STORE_SCAN_RECORDS_MIN", 1)
        for wanted in lists:
            compare(writer.store, *wanted, items_max=data.draw(st.integers(1, 4)))


@pytest.mark.parametrize("position", [0, 5, 20, 80])
def test_damage_is_the_same_error_both_ways(writer, position):
    for number in range(9):
        writer.put(f"d/{number}", b"v" * number)
    writer.put("d/large", LARGE)
    good = dict(writer.kv.scan(b"", b"\xff"))
    [large] = [key for key, value in good.items() if key[:1] == b"h" and LARGE in value]
    for key in (b"nd\x004", large):
        bad = good[key][:position] + bytes([good[key][position] ^ 1]) + good[key][position + 1 :]
        for value in (bad, good[key][:position], None):
            writer.kv.write({key: value})
            found = compare(writer.store, "d", True, "", 0, len(LARGE))
            if value is not None or key == large:
                assert found[0] is DataLoss
                assert ("d/4" if key != large else "d/large") in found[1]
        writer.kv.write({key: good[key]})


def test_a_small_list_is_one_answer_and_a_larger_one_is_left(tree):
    store = tree.store
    [whole] = compare(store, "deep", False, "", 0, 0)
    assert store.list_answer("deep", False, "", 0, 0) == whole
    assert store.list_answer("flat", False, "", 0, 0) is None
    assert store.list_answer("flat", False, "", LIST_HOT_ITEMS_MAX, 0) is not None
    assert store.list_answer("flat", False, "", LIST_HOT_ITEMS_MAX + 1, 0) is None
    assert store.list_answer("deep", True, "", 0, 0) is None, "what is below counts too"
    for number in range(300):
        tree.put(f"wide/{number}", bytes(STREAM_CHUNK_BYTES_MAX // 200))
    assert store.list_answer("wide", False, "", LIST_HOT_ITEMS_MAX, 1 << 20) is None, "two pieces"


@pytest.fixture
def counted(tree, monkeypatch):
    """What `list_answer` fetched: how many records at once."""
    found = []
    unfrozen = tree.kv.unfrozen

    def noting(walk):
        source = unfrozen(walk)
        part = source.part

        def noted(begin, end, records_max):
            found.append(records_max)
            return part(begin, end, records_max)

        monkeypatch.setattr(source, "part", noted)
        return source

    monkeypatch.setattr(tree.kv, "unfrozen", noting)
    return found


@pytest.mark.parametrize(
    ("key", "recursive", "small"),
    [("", True, False), ("", False, True), ("deep", True, False), ("many", False, False)],
)
def test_a_list_of_unknown_size_is_looked_at_within_bounds_only(
    tree, counted, key, recursive, small
):
    """Its head says how many children there are, but not how much stands below them."""
    for number in range(1_500):
        tree.put(f"many/{number % 50}/{number}")
    assert (tree.store.list_answer(key, recursive, "", 0, 0) is not None) == small
    assert 0 < sum(counted) <= LIST_HOT_ITEMS_MAX


def test_content_that_stands_in_history_is_not_fetched_between_puts_and_gets(tree, monkeypatch):
    monkeypatch.setattr("dfs.store.listing.listed", None)
    assert tree.store.list_answer("flat/large", False, "", 0, len(LARGE)) is None
    assert tree.store.list_answer("flat", False, "flat/k314", 9, len(LARGE)) is None
    assert tree.store.list_answer("flat", False, "flat/k314", 9, 100) is not None


def test_a_list_under_way_does_not_move(tree):
    view = tree.store.view()
    listing = tree.store.listing("", True, "", 0, 100)
    found = [listing.next(50)]
    tree.put("a/new")
    tree.delete("deep", recursive=True)
    tree.put("flat/k300", b"changed")
    found += answers(listing, 50)
    assert found == expected(view, "", True, "", 0, 100, 50)


def test_a_list_that_is_closed_says_that_the_call_is_to_be_repeated(tree):
    listing = tree.store.listing("flat", True, "", 0, 0)
    listing.next(5)
    tree.kv.replace([])
    with pytest.raises(Unavailable, match="repeat the call"):
        answers(listing, 50)


def test_what_a_list_shows_is_the_state_of_its_revision_while_another_thread_writes(writer):
    """Each write puts the number of its revision everywhere at once, as far as one entry can."""
    writer.put("d/k", b"%d" % (writer.index + 1))
    stop = threading.Event()

    def write():
        while not stop.is_set():
            writer.put("d/k", b"%d" % (writer.index + 1))

    thread = threading.Thread(target=write)
    thread.start()
    try:
        for _ in range(500):
            [answer] = answers(writer.store.listing("d", True, "", 0, 100))
            response = ListResponse.FromString(answer)
            [item] = response.items
            assert item.data == b"%d" % response.revision
            assert item.record.revision == response.revision
    finally:
        stop.set()
        thread.join()


def test_a_list_closes_what_it_reads_from(tree, monkeypatch):
    """Also when it is refused."""
    made = []
    kv = tree.store._kv

    def noted(make):
        def noting(walk):
            made.append(make(walk))
            return made[-1]

        return noting

    monkeypatch.setattr(kv, "snapshot", noted(kv.snapshot))
    monkeypatch.setattr(kv, "unfrozen", noted(kv.unfrozen))
    for list_it in (tree.store.listing, tree.store.list_answer):
        with pytest.raises(NotFound):
            list_it("none", False, "", 0, 0)
    tree.store.list_answer("deep", False, "", 0, 0)
    tree.store.listing("deep", False, "", 0, 0).close()
    assert len(made) >= 4
    for source in made:
        with pytest.raises(Unavailable):
            source.get(b"m")


def test_pieces_of_large_content_are_bounded(writer):
    for number, size in enumerate([600_000, 300_000, 10, 600_000, 3 << 20, 10, 10]):
        writer.put(f"d/{number}", bytes(size))
    found = compare(writer.store, "d", False, "", 0, 4 << 20)
    assert [len(ListResponse.FromString(answer).items) for answer in found] == [3, 1, 1, 2]
