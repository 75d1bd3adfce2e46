"""What each operation does to the tree, and what it refuses."""

import hashlib

import pytest
from t1_store.building import START_NS, entry

from dfs import commands
from dfs.errors import (
    Conflict,
    FailedPrecondition,
    InvalidArgument,
    IsADirectory,
    NotADirectory,
    NotEmpty,
    NotFound,
    TooLarge,
)
from dfs.limits import DELETE_KEYS_MAX, SMALL_VALUE_BYTES_MAX
from dfs.proto.dfs_pb2 import (
    DIRECTORY,
    FILE,
    SYMLINK,
    GetResponse,
    PutRequest,
    Record,
    StatResponse,
)
from dfs.store import operations

# ---- put -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, SMALL_VALUE_BYTES_MAX, SMALL_VALUE_BYTES_MAX + 1, 100_000])
def test_a_value_of_any_size_is_read_back_with_its_record(writer, size):
    data = bytes(range(256)) * (size // 256) + bytes(size % 256)
    revision = writer.put("a/file", data)
    record = writer.stat("a/file")
    assert writer.get("a/file") == data
    assert record == Record(
        kind=FILE, revision=revision, created_revision=revision, version=1, size=size,
        sha256=hashlib.sha256(data).digest(), mode=0o644, mtime_ns=record.time_ns, node="node1",
        principal="me", time_ns=writer.now,
    )  # fmt: skip
    assert GetResponse.FromString(writer.store.get_answer("a/file")) == GetResponse(
        data=data, record=record
    )
    assert StatResponse.FromString(writer.store.stat_answer("a/file")).record == record


def test_the_revision_is_the_log_index(writer):
    """The revision of a change is the index of its entry in the log: there is one order of all
    changes, over all keys."""
    writer.blank()
    assert writer.put("a") == 2
    assert writer.put("b") == 3
    assert writer.store.applied == 3


def test_overwriting_counts_versions_and_keeps_the_created_revision(writer):
    first = writer.put("a", b"1")
    second = writer.put("a", b"22")
    record = writer.stat("a")
    assert (record.created_revision, record.revision, record.version) == (first, second, 2)
    assert (writer.store.keys, writer.store.bytes) == (1, 2)
    writer.delete("a")
    third = writer.put("a", b"333")
    record = writer.stat("a")
    assert (record.created_revision, record.revision, record.version) == (third, third, 1)


def test_mode_and_mtime_are_kept_when_named_and_default_again_when_not(writer):
    writer.put("a", mode=0o4755, mtime_ns=-5)
    assert (writer.stat("a").mode, writer.stat("a").mtime_ns) == (0o4755, -5)
    writer.put("a", mode=0, mtime_ns=0)
    assert (writer.stat("a").mode, writer.stat("a").mtime_ns) == (0, 0)
    writer.put("a")
    assert (writer.stat("a").mode, writer.stat("a").mtime_ns) == (0o644, writer.now)


def test_a_file_below_a_file_is_refused_naming_the_other(writer):
    writer.put("a/b")
    with pytest.raises(NotADirectory, match=r"^a/b is a file: nothing can be below it") as refusal:
        writer.put("a/b/c/d")
    assert refusal.value.metadata == {"other": "a/b"}
    writer.symlink("l", "a")
    with pytest.raises(NotADirectory, match=r"^l is a symlink"):
        writer.put("l/x")
    with pytest.raises(NotADirectory):
        writer.mkdir("a/b/c")
    with pytest.raises(NotADirectory):
        writer.symlink("a/b/c", "x")


def test_a_file_over_a_directory_is_refused_naming_it(writer):
    writer.put("a/b/c")
    writer.mkdir("empty")
    for key in ("a", "a/b", "empty"):
        with pytest.raises(IsADirectory, match=f"^{key} is a directory"):
            writer.put(key)
        with pytest.raises(IsADirectory):
            writer.symlink(key, "x")


def test_a_file_may_replace_a_symlink_and_the_other_way_round(writer):
    writer.put("a", b"12")
    writer.symlink("a", "b")
    record = writer.stat("a")
    assert (record.kind, record.target, record.size, record.version) == (SYMLINK, "b", 0, 2)
    assert writer.store.bytes == 0
    writer.put("a", b"12")
    assert (writer.stat("a").kind, writer.stat("a").version) == (FILE, 3)


def test_a_refused_write_changes_nothing(writer):
    """A write that is refused changes nothing."""
    writer.put("a/b")
    before = (writer.store.state_hash, writer.store.keys, writer.history())
    with pytest.raises(NotADirectory):
        writer.put("a/b/c")
    assert (writer.store.state_hash, writer.store.keys, writer.history()) == before


# ---- base revision -------------------------------------------------------------------------------


def test_a_base_revision_is_compared(writer):
    first = writer.put("a", base=0)
    second = writer.put("a", base=first)
    with pytest.raises(
        Conflict, match=f"a: expected revision {first}, but it is at revision {second}"
    ) as refusal:
        writer.put("a", base=first)
    assert refusal.value.metadata == {
        "key": "a", "expected": str(first), "revision": str(second),
    }  # fmt: skip
    with pytest.raises(Conflict, match=f"expected it not to exist, but it is at revision {second}"):
        writer.put("a", base=0)
    with pytest.raises(Conflict, match=r"b: expected revision 7, but it does not exist"):
        writer.put("b", base=7)
    with pytest.raises(Conflict):
        writer.symlink("a", "t", base=first)
    with pytest.raises(Conflict):
        writer.delete("a", base=first)
    assert writer.delete("a", base=second)[1] == 1


# ---- directories ---------------------------------------------------------------------------------


def test_implicit_directories_come_and_go_with_their_content(writer):
    """The directories that a key needs are made with it and vanish with their last content."""
    writer.put("a/b/c")
    assert writer.keys() == ["a", "a/b", "a/b/c"]
    record = writer.stat("a/b")
    assert (record.kind, record.implicit, record.children, record.mode) == (
        DIRECTORY, True, 1, 0o755,
    )  # fmt: skip
    writer.put("a/b/d")
    assert (writer.stat("a").children, writer.stat("a/b").children) == (1, 2)
    writer.delete("a/b/c")
    assert writer.keys() == ["a", "a/b", "a/b/d"]
    assert writer.delete("a/b/d") == (writer.store.applied, 1)
    assert writer.keys() == []
    assert writer.store.keys == 0


def test_a_directory_that_was_made_stays(writer):
    """A directory that was made on purpose stays when it is empty, until it is removed."""
    writer.mkdir("a/b")
    writer.put("a/b/c/d")
    writer.delete("a/b/c/d")
    assert writer.keys() == ["a", "a/b"]
    assert (writer.stat("a/b").implicit, writer.stat("a/b").children) == (False, 0)
    writer.delete("a/b")
    assert writer.keys() == []


def test_mkdir_of_an_implicit_directory_makes_it_stay(writer):
    implicit = writer.put("a/b")
    made = writer.mkdir("a", mode=0o700)
    record = writer.stat("a")
    assert (record.revision, record.created_revision, record.version) == (made, implicit, 2)
    assert (record.mode, record.implicit, record.children) == (0o700, False, 1)
    writer.delete("a/b")
    assert writer.keys() == ["a"]


def test_mkdir_of_an_existing_directory_is_no_error_and_no_change(writer):
    made = writer.mkdir("a", mode=0o750)
    assert writer.mkdir("a") == made
    assert writer.mkdir("a", mode=0o750) == made
    assert writer.stat("a").version == 1
    changed = writer.mkdir("a", mtime_ns=5)
    record = writer.stat("a")
    assert (record.revision, record.mode, record.mtime_ns) == (changed, 0o750, 5)


def test_mkdir_over_a_file_is_refused_naming_it(writer):
    writer.put("a")
    with pytest.raises(NotADirectory, match=r"^a is a file"):
        writer.mkdir("a")


def test_symlinks_are_kept_as_given(writer):
    writer.symlink("a/l", "../nowhere")
    record = writer.stat("a/l")
    assert (record.kind, record.target, record.mode) == (SYMLINK, "../nowhere", 0o777)
    with pytest.raises(FailedPrecondition, match=r"a/l is a symlink to ../nowhere"):
        writer.get("a/l")


# ---- delete --------------------------------------------------------------------------------------


def test_a_directory_with_content_is_deleted_only_recursively(writer):
    writer.put("a/b/c", b"1")
    writer.put("a/d", b"2")
    writer.put("ab", b"3")
    with pytest.raises(NotEmpty, match=r"^a is a dir.* it holds a/b and 1 more; .*recursive"):
        writer.delete("a")
    with pytest.raises(NotEmpty, match=r"it holds a/b/c; "):
        writer.delete("a/b")
    revision, deleted = writer.delete("a", recursive=True)
    assert deleted == 4
    assert writer.keys() == ["ab"]
    assert (writer.store.keys, writer.store.bytes) == (1, 1)
    assert writer.history()[:4] == [
        (revision, 3, True, "a"), (revision, 2, True, "a/b"), (revision, 1, True, "a/b/c"),
        (revision, 0, True, "a/d"),
    ]  # fmt: skip


def test_delete_of_what_is_not_there(writer):
    writer.put("a/b")
    for key in ("x", "a/c", "a/b/c"):
        with pytest.raises(NotFound, match=f"no such key: {key}"):
            writer.delete(key, recursive=True)


def test_one_delete_is_bounded(writer):
    """A recursive delete removes all or nothing; one of more than 10,000 keys is refused."""
    entries = []
    for number in range(DELETE_KEYS_MAX):
        request = PutRequest(key=f"big/{number:05}")
        entries.append((number + 1, entry(commands.put_head, request, START_NS), False))
    writer.store.apply(entries, b"id", b"")
    with pytest.raises(TooLarge, match=r"big .* 10,000 keys \(DELETE_KEYS_MAX\)"):
        writer.delete("big", recursive=True)
    writer.delete("big/00000")
    assert writer.delete("big", recursive=True)[1] == DELETE_KEYS_MAX
    assert writer.keys() == []


@pytest.mark.parametrize("name", ["put", "delete", "mkdir", "symlink"])
def test_the_root_cannot_be_written(writer, name):
    more = ["target"] if name == "symlink" else []
    with pytest.raises(InvalidArgument, match="the root is no key"):
        getattr(writer, name)("", *more)


# ---- time ----------------------------------------------------------------------------------------


def test_time_never_stands_or_goes_back(writer):
    """Commit times grow with the revisions, also when the clock of a leader stands or goes back."""
    writer.put("a")
    at = writer.store.time_ns
    writer.now -= 10**12
    writer.put("b")
    assert writer.store.time_ns == writer.stat("b").time_ns == at + 1
    writer.now += 10**13
    writer.put("c")
    assert writer.store.time_ns == writer.now


def test_a_time_beyond_what_fits_is_not_taken(writer):
    writer.put("a")
    at = writer.store.time_ns
    writer.now = (1 << 64) - 1_001
    writer.put("b")
    assert writer.stat("b").mtime_ns == at + 1


def test_defaults_are_those_of_the_documents():
    assert (operations.FILE_MODE, operations.DIRECTORY_MODE) == (0o644, 0o755)
