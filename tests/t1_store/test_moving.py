"""Move and copy: one revision for a whole subtree, no content from outside."""

import re

import pytest
from t1_store.building import START_NS, Writer, dump, entry, operation
from t1_store.test_contents import named, prune
from t1_store.test_replay import state_hash_of

from dfs import commands
from dfs.errors import (
    Conflict,
    DataLoss,
    DfsError,
    InvalidArgument,
    IsADirectory,
    NotADirectory,
    NotEmpty,
    NotFound,
    TooLarge,
)
from dfs.kv import MemoryKV
from dfs.limits import (
    COPY_BYTES_MAX,
    COPY_KEYS_MAX,
    ENTRY_RECORD_BYTES_MAX,
    FLOOR_PRUNE_ENTRY_BYTES_MIN,
    KEY_BYTES_MAX,
    SMALL_VALUE_BYTES_MAX,
    TARGET_BYTES_MAX,
    VALUE_BYTES_MAX,
)
from dfs.proto.dfs_pb2 import PutRequest, SymlinkRequest
from dfs.store.layout import HISTORY

ID = b"0123456789abcdef"
SMALL = b"small"
LARGE = bytes(range(256)) * (SMALL_VALUE_BYTES_MAX // 256) + b"and more"


def kept(record):
    """What a move and a copy leave as it is."""
    return (
        record.kind, record.size, record.sha256, record.mode, record.mtime_ns, record.target,
        record.implicit, record.children,
    )  # fmt: skip


def plant(writer):
    """A tree with everything in it; what is kept of each key below it, and the contents."""
    writer.put("a/small", SMALL, mode=0o600, mtime_ns=-5)
    writer.put("a/b/large", LARGE, mode=0o4755, mtime_ns=7)
    writer.symlink("a/b/link", "../small")
    writer.mkdir("a/empty", mode=0o700, mtime_ns=9)
    writer.put("ab", b"a neighbour")
    return {key[1:]: kept(writer.stat(key)) for key in writer.keys("a")} | {
        "": kept(writer.stat("a"))
    }


def planted(writer, root):
    return {key[len(root) :]: kept(writer.stat(key)) for key in [root, *writer.keys(root)]}


# ---- what they do --------------------------------------------------------------------------------


def test_a_move_is_one_revision(writer):
    """A move gives a file, a symlink or a whole subtree another key in one revision. Content, mode
    and mtime stay, versions are counted anew. What it was before can still be read, as of every
    revision before, under the old keys."""
    before = plant(writer)
    last, figures = writer.index, (writer.store.keys, writer.store.bytes)
    revision, moved = writer.move("a", "c/d")
    assert (revision, moved) == (writer.index, len(before))
    assert planted(writer, "c/d") == before
    assert (writer.get("c/d/small"), writer.get("c/d/b/large")) == (SMALL, LARGE)
    assert writer.keys() == ["ab", "c", *sorted(f"c/d{rest}" for rest in before)]
    assert (writer.store.keys, writer.store.bytes) == (figures[0] + 1, figures[1])
    record = writer.stat("c/d/small")
    assert (record.revision, record.created_revision, record.version) == (revision, revision, 1)
    assert (record.node, record.principal, record.time_ns) == ("node1", "me", writer.now)
    assert writer.get("a/b/large", at=last) == LARGE
    assert writer.stat("a/b/link", at=last).target == "../small"
    with pytest.raises(NotFound):
        writer.get("a/small")
    with pytest.raises(NotFound):
        writer.stat("c/d", at=last)
    assert writer.store.state_hash == state_hash_of(writer)


def test_a_copy_is_one_revision_and_leaves_the_source(writer):
    before = plant(writer)
    records = [writer.stat(key) for key in ("a", *writer.keys("a"))]
    figures = writer.store.keys, writer.store.bytes
    revision, copied = writer.copy("a", "c", recursive=True)
    assert (revision, copied) == (writer.index, len(before))
    assert planted(writer, "c") == planted(writer, "a") == before
    assert [writer.stat(key) for key in ("a", *writer.keys("a"))] == records
    assert (writer.get("c/small"), writer.get("c/b/large")) == (SMALL, LARGE)
    size = len(SMALL) + len(LARGE)
    assert (writer.store.keys, writer.store.bytes) == (figures[0] + copied, figures[1] + size)
    writer.delete("a", recursive=True)
    assert writer.get("c/b/large") == LARGE
    assert writer.store.state_hash == state_hash_of(writer)


def test_the_changes_of_a_move_never_show_neither(writer):
    """Whoever takes its changes one by one finds each content at both keys for a moment, and never
    at none; a directory comes before what is in it, and goes after it."""
    plant(writer)
    writer.move("a/b", "x/y")
    told = [(sub, gone, key) for _, sub, gone, key in reversed(writer.history(before=0)[:8])]
    assert told[-7:] == [
        (0, False, "x"), (1, False, "x/y"), (2, False, "x/y/large"), (3, False, "x/y/link"),
        (4, True, "a/b/link"), (5, True, "a/b/large"), (6, True, "a/b"),
    ]  # fmt: skip


def test_directories_that_go_with_their_content_do(writer):
    writer.put("p/q/only", b"1")
    created = writer.stat("p").created_revision
    assert writer.move("p/q/only", "p/other")[1] == 1
    assert writer.keys() == ["p", "p/other"]
    assert (writer.stat("p").created_revision, writer.stat("p").children) == (created, 1)
    writer.move("p/other", "top")
    assert writer.keys() == ["top"]
    writer.mkdir("made")
    writer.move("top", "made/x")
    writer.move("made/x", "top")
    assert writer.keys() == ["made", "top"]
    assert writer.stat("made").children == 0


def test_one_may_replace_a_file_or_link_and_counts_its_versions_on(writer):
    first = writer.put("to", b"old")
    writer.put("from", LARGE)
    revision, moved = writer.move("from", "to", replace=True)
    record = writer.stat("to")
    assert (record.created_revision, record.version, moved) == (first, 2, 1)
    assert (writer.get("to"), writer.get("to", at=first)) == (LARGE, b"old")
    writer.symlink("link", "t")
    writer.copy("link", "to", replace=True)
    assert (writer.stat("to").target, writer.stat("to").version) == ("t", 3)
    writer.copy("link", "new", replace=True)
    assert writer.keys() == ["link", "new", "to"]
    assert writer.get("to", at=revision) == LARGE
    assert writer.store.state_hash == state_hash_of(writer)


def test_what_was_moved_twice_within_one_batch_is_whole(writer):
    """Each sees what the one before did, though nothing of it is stored yet."""
    sent = []
    writer.send = lambda head, request: sent.append(entry(head, request, START_NS)) or (b"", [])
    writer.put("a/x", LARGE)
    writer.copy("a", "b", recursive=True)
    writer.move("b", "c")
    writer.delete("a", recursive=True)
    writer.move("c/x", "d")
    entries = [(index, payload, True) for index, payload in enumerate(sent, 1)]
    results, _ = writer.store.apply(entries, b"id", b"")
    assert not [result for result in results if isinstance(result, DfsError)]
    assert (writer.keys(), writer.get("d")) == (["d"], LARGE)
    assert writer.store.state_hash == state_hash_of(writer)


def test_the_content_of_a_copy_outlives_history(writer):
    """It is a version of its own: nothing of the source is needed for it."""
    writer.put("a", LARGE)
    writer.copy("a", "b")
    writer.put("a", b"other")
    writer.delete("a")
    writer.set_floor(writer.put("x"))
    assert writer.get("b") == LARGE
    writer.delete("b")
    writer.delete("x")
    writer.set_floor(writer.put("x"))
    left = [key for key, _ in dump(writer.kv) if key[:1] == HISTORY]
    assert len(left) == 1, "of the live key"


def test_history_below_the_floor_goes_as_fast_as_copies_come():
    """A copy is a short entry and much content: pruning goes by the content."""
    writer = Writer(MemoryKV())
    writer.put("a", bytes(2 * FLOOR_PRUNE_ENTRY_BYTES_MIN))
    for _ in range(40):
        writer.copy("a", "b", replace=True)
    writer.set_floor(writer.index)
    writer.delete("b")
    for _ in range(20):
        writer.copy("a", "b", replace=True)
    size = sum(len(value) for key, value in dump(writer.kv) if key[:1] == HISTORY)
    assert size < 25 * 2 * FLOOR_PRUNE_ENTRY_BYTES_MIN


# ---- requests ------------------------------------------------------------------------------------


def test_a_repeated_move_or_copy_gets_the_first_answer(writer):
    plant(writer)
    moved = writer.move("a", "c", request_id=ID)
    assert writer.stat("c").request_id == ID
    assert writer.stat("c/small").request_id == b""
    writer.put("a", b"another")
    assert writer.move("a", "c", request_id=ID) == moved
    with pytest.raises(InvalidArgument, match="used for another request"):
        writer.move("a", "d", request_id=ID)
    with pytest.raises(InvalidArgument, match="used for another request"):
        writer.copy("a", "c", request_id=ID)
    copied = writer.copy("c", "d", recursive=True, request_id=b"z" * 16)
    writer.delete("d", recursive=True)
    assert writer.copy("c", "d", recursive=True, request_id=b"z" * 16) == copied
    assert "d" not in set(writer.keys())


def test_the_id_of_a_move_goes_with_its_history(writer):
    writer.put("a")
    writer.move("a", "b", request_id=ID)
    writer.put("b", b"2")
    writer.set_floor(writer.put("x"))
    assert [key for key, _ in dump(writer.kv) if key[:1] == b"d"] == []


# ---- refusals ------------------------------------------------------------------------------------


def test_a_move_that_is_refused_changes_nothing(writer):
    """A move that is refused changes nothing."""
    plant(writer)
    writer.put("file", b"f")
    writer.mkdir("dir")
    revision = writer.stat("a/small").revision
    cases = [
        (("none", "x"), {}, NotFound, "no such key: none"),
        (("a/none", "x"), {}, NotFound, "no such key: a/none"),
        (("a", "a"), {}, InvalidArgument, "a cannot be its own target"),
        (("a", "a/b/c"), {}, InvalidArgument, "a cannot go below itself, to a/b/c"),
        (("a", "file"), {}, NotADirectory, "file is a file: the directory a cannot"),
        (("a", "file"), {"replace": True}, NotADirectory, "file is a file"),
        (("file", "dir"), {"replace": True}, IsADirectory, "dir is a directory, and nothing"),
        (("a", "dir"), {"replace": True}, IsADirectory, "dir is a directory"),
        (("a/b", "a"), {}, IsADirectory, "a is a directory"),
        (("a/small", "file"), {}, Conflict, "file: expected it not to exist, .* say that it may"),
        (("a", "file/x/y"), {}, NotADirectory, "file is a file: nothing can be below it"),
        (("a/small", "a/b/link/x"), {}, NotADirectory, "a/b/link is a symlink"),
        (("a/small", "x"), {"base": revision + 1}, Conflict, f"but it is at revision {revision}"),
        (("a/small", "x"), {"base": 0}, Conflict, "expected it not to exist"),
        (("a//b", "x"), {}, InvalidArgument, "bad key"),
        (("a", ".dfs/x"), {}, InvalidArgument, "bad key"),
        (("a", "x\0y"), {}, InvalidArgument, "bad key"),
        (("", "x"), {}, InvalidArgument, "the root is no key"),
        (("a", ""), {}, InvalidArgument, "the root is no key"),
    ]
    before, state_hash = writer.history(), writer.store.state_hash
    for (source, target), options, error, words in cases:
        for act in (writer.move, lambda *a, **o: writer.copy(*a, recursive=True, **o)):
            with pytest.raises(error, match=words):
                act(source, target, **options)
    assert (writer.history(), writer.store.state_hash) == (before, state_hash)
    assert writer.store.state_hash == state_hash_of(writer)


def test_a_directory_with_content_is_copied_only_recursively(writer):
    plant(writer)
    with pytest.raises(NotEmpty, match=r"a is a dir.* holds a/b and 2 more; copy it with recur"):
        writer.copy("a", "c")
    assert writer.copy("a/empty", "c")[1] == 1
    assert kept(writer.stat("c")) == kept(writer.stat("a/empty"))


def test_rules_are_those_of_apply_too(writer):
    """The door is not trusted: another version may have let an entry in."""
    writer.put("a", b"1")
    for source, target in (("a", "a/b"), ("a", "a"), ("a", "x\0y"), ("a", "/x"), ("a\0", "b")):
        writer.send = lambda *_: (b"", [])
        body = commands.MoveRequest(source=source, target=target)
        head = commands._head(commands.MOVE, body.ByteSize(), "n", "")
        payload = head + body.SerializeToString() + commands.stamp(START_NS)
        [result], changes = writer.store.apply([(writer.index + 1, payload, True)], b"id", b"")
        assert isinstance(result, InvalidArgument)
        assert changes == []


def filled(writer, requests):
    """Applies puts and symlinks in one go."""
    entries = [
        (index, entry(head, request, START_NS), False)
        for index, (head, request) in enumerate(requests, writer.index + 1)
    ]
    writer.store.apply(entries, b"id", b"")


def test_one_move_or_copy_is_bounded(writer):
    """A move or a copy does all or nothing; one of more than 10,000 keys, or that would write more
    than 64 MiB of content again, is refused, and the text names the limit."""
    filled(writer, [
        (commands.put_head, PutRequest(key=f"big/{number:05}")) for number in range(COPY_KEYS_MAX)
    ])  # fmt: skip
    words = r"big .* more than the 10,000 keys \(COPY_KEYS_MAX\) of one move or copy"
    for act in (writer.move, lambda *keys: writer.copy(*keys, recursive=True)):
        with pytest.raises(TooLarge, match=words) as refusal:
            act("big", "new")
        assert refusal.value.metadata == {"limit": "COPY_KEYS_MAX"}
    writer.delete("big/00000")
    assert writer.copy("big", "copy", recursive=True)[1] == COPY_KEYS_MAX
    assert writer.move("big", "new")[1] == COPY_KEYS_MAX
    assert "big" not in set(writer.keys())
    assert writer.store.keys == 2 * COPY_KEYS_MAX
    for number in range(COPY_BYTES_MAX // VALUE_BYTES_MAX):
        writer.put(f"heavy/{number}", bytes(VALUE_BYTES_MAX))
    assert writer.move("heavy", "h")[1] == COPY_BYTES_MAX // VALUE_BYTES_MAX + 1
    writer.put("h/more", b"1")
    with pytest.raises(TooLarge, match=r"h has 67,108,865 bytes of content, .*COPY_BYTES_MAX"):
        writer.move("h", "heavy")


def test_large_contents_do_not_count_as_content_that_is_written_again(writer):
    """Their bytes stand beside the store, so a move or copy of any amount of them is short: it
    names them once more, and lets go of none."""
    sizes = {f"big/{n}": COPY_BYTES_MAX + n for n in range(3)}
    contents = {}
    for key, size in sizes.items():
        writer.put_content(key, size, mode=0o600, sha256=bytes([size % 256]) * 32)
        contents[writer.stat(key).sha256] = 1
    writer.put("big/small", SMALL)
    assert named(writer) == contents
    before = {key[3:]: kept(writer.stat(key)) for key in writer.keys("big")}
    figures = writer.store.keys, writer.store.bytes
    assert figures[1] > 3 * COPY_BYTES_MAX
    stored = sum(len(value) for _, value in dump(writer.kv))
    revision, moved = writer.move("big", "new/place")
    assert moved == len(sizes) + 2
    assert {key[9:]: kept(writer.stat(key)) for key in writer.keys("new/place")} == before
    assert named(writer) == dict.fromkeys(contents, 2)
    assert writer.stat("big/1", at=revision - 1).size == sizes["big/1"]
    assert writer.copy("new/place", "copy", recursive=True)[1] == moved
    writer.transaction(
        operation("copy", "copy", "again", recursive=True), operation("move", "again", "end")
    )
    assert named(writer) == dict.fromkeys(contents, 5)
    assert sum(len(value) for _, value in dump(writer.kv)) < stored + (1 << 20)
    assert writer.store.bytes == 3 * figures[1]
    for key in ("new", "copy", "end"):
        writer.delete(key, recursive=True)
    assert named(writer) == dict.fromkeys(contents, 5)
    prune(writer)
    assert named(writer) == {}
    assert writer.store.state_hash == state_hash_of(writer)


def test_records_of_one_move_are_bounded(writer):
    """All of its changes are one message to a watcher."""
    target = "t" * TARGET_BYTES_MAX
    count = ENTRY_RECORD_BYTES_MAX // (2 * TARGET_BYTES_MAX)
    filled(writer, [
        (commands.symlink_head, SymlinkRequest(key=f"d/{n}", target=target)) for n in range(count)
    ])  # fmt: skip
    with pytest.raises(TooLarge, match=r"bytes of names and metadata.*ENTRY_RECORD_BYTES_MAX"):
        writer.move("d", "e")


def test_keys_that_would_become_too_long_are_refused(writer):
    writer.put("a/" + "/".join(["x" * 200] * 5), b"1")
    longest = "b" * 17
    with pytest.raises(InvalidArgument, match=re.escape(f"limit is {KEY_BYTES_MAX:,}")):
        writer.move("a", longest + "bbbb")
    writer.move("a", longest)
    assert max(map(len, writer.keys())) == KEY_BYTES_MAX - 2


def test_damaged_content_is_not_copied(writer):
    writer.put("a", LARGE)
    [place] = [key for key, _ in dump(writer.kv) if key[:1] == HISTORY]
    for damage in (None, writer.kv.get(place)[:-1] + b"?"):
        other = MemoryKV()
        other.write(dict(dump(writer.kv)))
        other.write({place: damage})
        with pytest.raises(DataLoss):
            Writer(other).copy("a", "b")
