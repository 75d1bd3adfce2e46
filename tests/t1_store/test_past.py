"""Lists as of past revisions and times, beside what was listed when those were the present."""

from contextlib import closing, suppress
from random import Random

import pytest
from t1_store.building import START_NS, Writer

from dfs.errors import DataLoss, DfsError, InvalidArgument, NotFound, OutOfRange
from dfs.kv import MemoryKV
from dfs.limits import LIST_ITEMS_MAX, SMALL_VALUE_BYTES_MAX
from dfs.paths import is_below, parent
from dfs.proto.dfs_pb2 import DIRECTORY, ListResponse, Record
from dfs.store.layout import HISTORY_STEP

KEYS = ["a", "b", "a/x", "a/x/1", "a/y", "b/x", "b\u00fc/x", "b!", "c", "c/x/y"]
LARGE = b"x" * (SMALL_VALUE_BYTES_MAX + 1)
DATA_MAX = 2 * len(LARGE)


def past(writer, key="", recursive=True, after="", limit=0, data_bytes_max=0, *, at=0, time=None,
         items_max=LIST_ITEMS_MAX):  # fmt: skip
    """(revision, [(key, record, data)]) of a list as of a revision or time."""
    listing = writer.store.past_listing(
        key, recursive, after, limit, data_bytes_max, at, time
    )
    found, revisions = [], set()
    with closing(listing):
        while (answer := listing.next(items_max)) is not None:
            decoded = ListResponse.FromString(answer)
            assert len(decoded.items) <= items_max
            revisions.add(decoded.revision)
            found += [
                (i.key, i.record, i.data if i.has_data else None) for i in decoded.items
            ]
            if listing.done:
                break
    [revision] = revisions
    return revision, found


def keys(writer, *wanted, **more):
    return [key for key, _, _ in past(writer, *wanted, **more)[1]]


def without_children(record):
    """A past record of a directory says how many children it had when it was written."""
    copy = Record()
    copy.CopyFrom(record)
    copy.ClearField("children")
    return copy


def present(writer):
    """{key: (record, data)} of everything that is there now."""
    with writer.store.view() as view:
        return {
            key: (without_children(Record.FromString(record)), data)
            for key, record, data in view.list("", True, "", DATA_MAX)
        }


def expected(then, key, recursive, after, limit, data_bytes_max):
    """The same list out of what was there then."""
    if key and key not in then:
        return NotFound
    if key and then[key][0].kind != DIRECTORY:
        shown = [] if after else [key]
    elif after and not (is_below(after, key) and (recursive or parent(after) == key)):
        return InvalidArgument
    else:
        # In the order of store keys, in which what is below a key comes right behind it.
        order = sorted(then, key=lambda k: k.replace("/", "\0").encode())
        place = after.replace("/", "\0").encode()
        shown = [
            k for k in order
            if is_below(k, key) and (recursive or parent(k) == key)
            and (not after or k.replace("/", "\0").encode() > place)
        ]  # fmt: skip
    shown = shown[: limit or len(shown)]
    found = [(k, *then[k]) for k in shown]
    return [
        (k, record, data if data is not None and len(data) <= data_bytes_max > 0 else None)
        for k, record, data in found
    ]


OPERATIONS = ["put", "put", "put", "mkdir", "symlink", "delete", "move", "blank", "floor"]
EVERYTHING = ("", True, "", 0, DATA_MAX)


def change(writer, operation, key, other, size):
    match operation:
        case "put":
            writer.put(key, bytes(size))
        case "mkdir":
            writer.mkdir(key, mode=0o700 + size % 2)
        case "symlink":
            writer.symlink(key, other)
        case "delete":
            writer.delete(key, recursive=True)
        case "move":
            writer.move(key, other)
        case "blank":
            writer.blank()
        case "floor":
            writer.set_floor(max(writer.index - 30, 1))


@pytest.mark.parametrize("seed", range(40))
def test_any_past_listed_in_any_way(monkeypatch, seed):
    """A list can be had as of every past revision that history retains: it shows what a list showed
    when that was the newest revision, keys that were removed since too."""
    chance = Random(seed)
    monkeypatch.setattr("dfs.store.core.FLOOR_PRUNE_INTERVAL_ENTRIES", chance.randint(1, 5))
    if seed % 2:
        monkeypatch.setattr("dfs.store.listing.STREAM_CHUNK_BYTES_MAX", 300)
    writer = Writer(MemoryKV())
    then = {}
    for _ in range(60):
        with suppress(DfsError):
            change(
                writer, chance.choice(OPERATIONS), chance.choice(KEYS), chance.choice(KEYS),
                chance.choice([0, 1, len(LARGE)]),
            )  # fmt: skip
        then[writer.index] = present(writer)
    for at, tree in then.items():
        if at < writer.store.floor:
            with pytest.raises(OutOfRange, match="no longer retained"):
                past(writer, at=at)
            continue
        compare(writer, at, tree, EVERYTHING, chance.randint(1, 4))
        for _ in range(5):
            wanted = (
                chance.choice(["", *KEYS]), chance.random() < 0.5, chance.choice(["", "", *KEYS]),
                chance.randint(0, 5), chance.choice([0, 1, DATA_MAX]),
            )  # fmt: skip
            compare(writer, at, tree, wanted, chance.randint(1, 4))


def compare(writer, at, then, wanted, items_max):
    """One list as of a revision, with what was there then."""
    right = expected(then, *wanted)
    if isinstance(right, type):
        with pytest.raises(right):
            past(writer, *wanted, at=at)
        return
    revision, found = past(writer, *wanted, at=at, items_max=items_max)
    assert revision == at
    assert [(k, without_children(r), d) for k, r, d in found] == right
    for key, record, _ in found:
        assert record == writer.stat(key, at)


def test_a_list_of_the_past_does_not_move_and_pages_stay_in_it(writer):
    for number in range(9):
        writer.put(f"d/{number}", b"old")
    at = writer.index
    pages, after = [], ""
    for number in range(9):
        page = keys(writer, "d", False, after, 2, at=at)
        pages += page
        after = page[-1] if page else after
        writer.delete(f"d/{8 - number}")
        writer.put(f"d/new{number}")
    assert pages == [f"d/{number}" for number in range(9)]


def test_revisions_out_of_reach(writer):
    writer.put("a")
    with pytest.raises(OutOfRange, match="yet to come"):
        past(writer, at=writer.index + 1)
    for _ in range(9):
        writer.put("a")
    writer.set_floor(5)
    with pytest.raises(OutOfRange, match="no longer retained: history starts at 5"):
        past(writer, at=4)
    assert keys(writer, at=5) == ["a"]


def test_where_much_was_removed_answers_come_all_the_same(writer, monkeypatch):
    """Each after a bounded number of keys that were looked at, with nothing in it perhaps."""
    monkeypatch.setattr("dfs.store.past.LIST_ITEMS_MAX", 10)
    writer.put("z/last")
    for number in range(35):
        writer.put(f"d/{number:02}")
    writer.delete("d", recursive=True)
    at = writer.index
    writer.put("d/there")
    listing = writer.store.past_listing("", True, "", 0, 0, at, None)
    with closing(listing):
        counts = []
        while not listing.done and (answer := listing.next()) is not None:
            counts.append(len(ListResponse.FromString(answer).items))
    assert counts[:3] == [0, 0, 0]
    assert sum(counts) == 2, "z and z/last"


def test_many_versions_and_a_key_that_came_and_went(writer):
    at = {}
    for number in range(3 * HISTORY_STEP):
        at[writer.put("k", b"%d" % number)] = b"%d" % number
    writer.delete("k")
    writer.put("k", b"again")
    for revision, data in at.items():
        assert past(writer, "k", False, "", 0, 100, at=revision)[1][0][2] == data
    assert keys(writer, at=writer.index - 1) == []


def test_damage_of_what_was_there_is_an_error(writer):
    writer.put("d/k", LARGE)
    at = writer.index
    writer.delete("d/k")
    [(key, value)] = [pair for pair in writer.kv.scan(b"h", b"i") if LARGE in pair[1]]
    writer.kv.write({key: value[:-1] + b"?"})
    with pytest.raises(DataLoss, match="d/k"):
        past(writer, at=at)


# ---- times ---------------------------------------------------------------------------------------


def test_the_revision_of_a_time(writer):
    """A time stands for the last revision that was not committed after it."""
    times = {}
    for number in range(40):
        revision = writer.put(f"k{number % 3}")
        times[revision] = writer.store.time_ns
        if number % 4 == 0:
            writer.blank()
    with writer.store.view() as view:
        for revision, time_ns in times.items():
            assert view.revision_at(time_ns) == revision
            assert view.revision_at(time_ns + 999) == revision
        assert view.revision_at(time_ns + 10**18) == revision, "no other came since"
        with pytest.raises(OutOfRange, match="nothing was stored yet"):
            view.revision_at(START_NS)
    first = min(times)
    assert past(writer, time=times[first])[0] == first
    assert keys(writer, time=times[first]) == ["k0"]


def test_a_time_before_the_floor_is_refused_and_one_behind_it_is_not(writer):
    times = {}
    for _ in range(9):
        revision = writer.put("k")
        times[revision] = writer.store.time_ns
    writer.set_floor(6)
    with writer.store.view() as view:
        with pytest.raises(OutOfRange, match="no longer retained: history starts at 6"):
            view.revision_at(times[6] - 1)
        assert view.revision_at(times[6]) == 6


def test_without_any_change_since_the_floor_the_floor_is_the_revision(writer):
    writer.put("k")
    for _ in range(9):
        writer.blank()
    writer.set_floor(8)
    with writer.store.view() as view:
        assert view.revision_at(writer.store.time_ns) == 8
    assert keys(writer, at=8) == ["k"]
