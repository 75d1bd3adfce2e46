"""Large contents: files beside the store, of which the state counts who names them."""

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from t1_store.building import Writer, content

from dfs import commands
from dfs.errors import DataLoss, InvalidArgument, NotFound
from dfs.kv import MemoryKV, RocksKV
from dfs.limits import (
    CHUNK_BYTES_MIN,
    CHUNKS_MAX,
    FLOOR_PRUNE_INTERVAL_ENTRIES,
    INLINE_BYTES_MAX,
)
from dfs.manifest import Manifest, chunk_bytes_of
from dfs.proto.dfs_pb2 import FILE, GetRequest, ListResponse, Record
from dfs.store import LargeContent, change_of
from dfs.store.layout import CHUNKS, CONTENT, seal
from dfs.store.soundness import StateCheck

SIZE = 5 << 20
SHA256 = hashlib.sha256(bytes(SIZE)).digest()


def named(writer):
    """{SHA-256: events that name it}."""
    assert StateCheck(writer.kv).problems == []
    with writer.store.view() as view:
        return {sha256: found.events for sha256, found in view.contents()}


def prune(writer):
    """All that may go of history goes."""
    writer.blank()
    writer.set_floor(writer.index)
    for _ in range(FLOOR_PRUNE_INTERVAL_ENTRIES):
        writer.blank()


def test_a_large_content_has_a_record_and_its_digests(writer):
    revision = writer.put_content("d/file", SIZE, mode=0o600)
    assert writer.store.contents == {SHA256: True}
    record = writer.stat("d/file")
    assert record == Record(
        kind=FILE, revision=revision, created_revision=revision, version=1, size=SIZE,
        sha256=SHA256, mode=0o600, mtime_ns=writer.now, node="node1", principal="me",
        time_ns=writer.now, chunk_bytes=CHUNK_BYTES_MIN,
    )  # fmt: skip
    assert writer.store.bytes == SIZE
    with writer.store.view() as view:
        assert view.manifest(SHA256) == Manifest(SHA256, SIZE, CHUNK_BYTES_MIN, b"d" * 64)
        assert view.manifest(bytes(32)) is None


def test_the_store_says_that_the_content_is_elsewhere(writer):
    """To each kind of read, of now and of the past, and to watchers."""
    store = writer.store
    revision = writer.put_content("f", SIZE)
    writer.delete("f")
    writer.put_content("f", SIZE)
    for read in (lambda: store.get_answer("f"), lambda: store.get_answer("f", revision)):
        with pytest.raises(LargeContent) as raised:
            read()
        assert Record.FromString(raised.value.record).sha256 == SHA256
    assert store.get_answers([(1, GetRequest(key="f").SerializeToString())]) == []
    with store.view() as view:
        assert [data for _, _, data in view.list("", True, data_bytes_max=2 * SIZE)] == [None]
        puts = [c for c in view.changes(0) if not c.deleted]
        assert [c.data for c in puts] == [None, None]
    listing = store.listing("", True, "", 0, 2 * SIZE)
    [item] = ListResponse.FromString(listing.next()).items
    assert (item.key, item.has_data) == ("f", False)
    listing.close()


def test_what_is_answered_again_is_never_an_empty_content(writer):
    """A change to a large content makes the kept answer untrue, and gives none of its own."""
    from dfs._engine import changed_gets

    writer.put("f", b"small")
    _, events = writer.store.apply(
        [(writer.index + 1, _entry("f", SIZE), False)], b"id", b""
    )
    assert change_of(events[-1]).data is None
    request = GetRequest(key="f").SerializeToString()
    assert changed_gets(events, 2, 1 << 20) == [(2, request, None)]


def _entry(key, size):
    body = content(key, size).SerializeToString()
    head = commands.put_content_head(content(key, size), len(body), "n", "p")
    return head + body + commands.stamp(5)


def test_a_content_is_named_as_long_as_history_has_a_version_with_it(writer):
    """By the newest version however old it is, and by those before until history passes them."""
    writer.put_content("a", SIZE)
    writer.put_content("b", SIZE)
    assert named(writer) == {SHA256: 2}
    writer.put("a", b"other")
    writer.delete("b")
    assert named(writer) == {SHA256: 2}
    prune(writer)
    assert named(writer) == {}
    writer.put_content("a", SIZE)
    prune(writer)
    assert named(writer) == {SHA256: 1}


@pytest.mark.parametrize("replace", ["put", "symlink", "content"])
def test_whatever_replaces_it_lets_it_go(writer, replace):
    writer.put_content("f", SIZE)
    if replace == "put":
        writer.put("f", b"x")
    elif replace == "symlink":
        writer.symlink("f", "t")
    else:
        writer.put_content("f", SIZE + 1)
    assert named(writer)[SHA256] == 1
    writer.blank()
    writer.set_floor(writer.index)
    assert writer.store.contents == {SHA256: False}
    left = {content("f", SIZE + 1).sha256} if replace == "content" else set()
    assert set(named(writer)) == left


def test_a_content_that_comes_back_is_named_again(writer):
    writer.put_content("f", SIZE)
    writer.delete("f")
    prune(writer)
    assert named(writer) == {}
    writer.put_content("f", SIZE)
    assert writer.store.contents == {SHA256: True}
    assert named(writer) == {SHA256: 1}


def test_what_is_named_and_not_known_is_damage(writer):
    """A copy would else be of a content without digests, which nobody could fetch."""
    writer.put_content("big", SIZE)
    writer.kv.write({CONTENT + SHA256: None})
    with pytest.raises(DataLoss, match=r"the state is damaged.* is missing"):
        writer.copy("big", "again")


def test_the_check_of_a_state_counts_the_digests(writer):
    writer.put_content("big", SIZE)
    key = CHUNKS + SHA256
    writer.kv.write({key: seal(key, b"d" * 32)})
    [problem] = StateCheck(writer.kv).problems
    assert "another number of chunks than digests" in problem


@pytest.mark.parametrize("target", [MemoryKV, RocksKV])
def test_a_snapshot_has_what_is_known_of_contents(writer, tmp_path, target):
    writer.put_content("a/f", SIZE)
    with writer.store.view() as view:
        writer.store.export(view, str(tmp_path / "snap"))
    copy = Writer(target() if target is MemoryKV else target(tmp_path / "other"))
    copy.store.restore(str(tmp_path / "snap"))
    assert named(copy) == {SHA256: 1}
    copy.store.close()


@pytest.mark.parametrize("wrong", [
    {"size": 2_048}, {"chunk_bytes": 1 << 20}, {"digests": b"d" * 32}, {"sha256": b"short"},
    {"request_id": b"5"}, {"size": 0},
])  # fmt: skip
def test_what_does_not_fit_is_refused(writer, wrong):
    request = content("f", SIZE)
    for name, value in wrong.items():
        setattr(request, name, value)
    with pytest.raises(InvalidArgument):
        writer.send(commands.put_content_head, request)
    body = request.SerializeToString()
    head = commands._head(commands.PUT_CONTENT, len(body), "n", "p")
    with pytest.raises(InvalidArgument):
        writer.apply(head + body + commands.stamp(writer.now))
    with pytest.raises(NotFound):
        writer.stat("f")


def test_small_content_belongs_into_the_log():
    with pytest.raises(InvalidArgument, match="INLINE_BYTES_MAX"):
        commands.put_content_head(content("f", INLINE_BYTES_MAX), 1, "n", "")


@given(st.integers(1, 1 << 60))
def test_chunks_are_as_small_as_their_number_allows(size):
    chunk_bytes = chunk_bytes_of(size)
    assert -(-size // chunk_bytes) <= CHUNKS_MAX
    smaller = chunk_bytes // 2
    assert chunk_bytes == CHUNK_BYTES_MIN or -(-size // smaller) > CHUNKS_MAX
