"""The same log gives the same state: compared with a model, with itself, and between stores."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from t1_store.building import START_NS, Writer, dump, entry, figures
from xxhash import xxh3_128_digest

from dfs import commands
from dfs.errors import DfsError
from dfs.kv import MemoryKV, RocksKV
from dfs.limits import SMALL_VALUE_BYTES_MAX
from dfs.proto.dfs_pb2 import (
    DIRECTORY,
    FILE,
    SYMLINK,
    DeleteRequest,
    MakeDirRequest,
    PutRequest,
    Record,
    SymlinkRequest,
)
from dfs.store import Store

KEYS = ["a", "b", "a/x", "a/y", "a/x/1", "b/x", "c", "c/x/y"]


class Model:
    """The tree as a dict of what was written; directories in between are worked out."""

    def __init__(self):
        self.nodes = {}

    def tree(self):
        """{key: (kind, content, implicit)} with all directories."""
        whole = {}
        for key in self.nodes:
            parts = key.split("/")
            for depth in range(1, len(parts)):
                whole["/".join(parts[:depth])] = (DIRECTORY, b"", True)
        for key, (kind, content, _) in self.nodes.items():
            whole[key] = (kind, content, False)
        return whole

    def blocked(self, key):
        """Something above is no directory."""
        parts = key.split("/")
        above = ("/".join(parts[:depth]) for depth in range(1, len(parts)))
        return any(self.nodes.get(up, (DIRECTORY,))[0] != DIRECTORY for up in above)

    def write(self, index, key, kind, content, base):
        kind_now = self.tree().get(key, (None,))[0]
        revision_now = self.nodes[key][2] if key in self.nodes else 0
        if kind_now == DIRECTORY or (base is not None and base != revision_now):
            return False
        if self.blocked(key):
            return False
        self.nodes[key] = (kind, content, index)
        return True

    def make_dir(self, index, key):
        kind_now = self.tree().get(key, (DIRECTORY,))[0]
        if kind_now != DIRECTORY or self.blocked(key):
            return False
        self.nodes.setdefault(key, (DIRECTORY, b"", index))
        return True

    def delete(self, key, recursive):
        tree = self.tree()
        below = [name for name in tree if name.startswith(key + "/")]
        if key not in tree or (below and not recursive):
            return False
        for name in [key, *below]:
            self.nodes.pop(name, None)
        return True


OPERATION = st.one_of(
    st.tuples(
        st.just("put"), st.sampled_from(KEYS), st.sampled_from([b"", b"1", b"x" * 5_000]),
        st.sampled_from([None, None, None, 0, 1, 2, 3]),
    ),
    st.tuples(
        st.just("content"), st.sampled_from(KEYS), st.sampled_from([3_000, 4_000]),
        st.sampled_from([None, None, 0, 1, 2]),
    ),
    st.tuples(st.just("delete"), st.sampled_from(KEYS), st.booleans()),
    st.tuples(st.just("mkdir"), st.sampled_from(KEYS)),
    st.tuples(st.just("symlink"), st.sampled_from(KEYS), st.sampled_from(["t", "u"])),
)  # fmt: skip


def act(model, writer, operation):
    """Does it on both; whether each of them agreed to."""
    name, key, *more = operation
    index = writer.index + 1
    try:
        if name == "put":
            expected = model.write(index, key, FILE, more[0], more[1])
            writer.put(key, more[0], base=more[1])
        elif name == "content":
            expected = model.write(index, key, FILE, bytes(more[0]), more[1])
            writer.put_content(key, more[0], base=more[1])
        elif name == "delete":
            expected = model.delete(key, *more)
            writer.delete(key, recursive=more[0])
        elif name == "mkdir":
            expected = model.make_dir(index, key)
            writer.mkdir(key)
        else:
            expected = model.write(index, key, SYMLINK, more[0].encode(), None)
            writer.symlink(key, more[0])
    except DfsError:
        return expected, False
    return expected, True


def shown(writer):
    """The tree as the store lists it, in the model's terms."""
    whole = {}
    with writer.store.view() as view:
        for key, encoded, data in view.list(recursive=True, data_bytes_max=1 << 20):
            record = Record.FromString(encoded)
            content = record.target.encode() if record.kind == SYMLINK else data or b""
            if record.chunk_bytes:
                assert data is None
                content = bytes(record.size)
            whole[key] = (record.kind, content, record.implicit)
            assert view.stat(key) == encoded
    return whole


def state_hash_of(writer):
    """The state hash, worked out from nothing but the live records."""
    total = 0
    with writer.store.view() as view:
        for key, record, _ in view.list(recursive=True):
            part = xxh3_128_digest(b"n" + key.encode().replace(b"/", b"\0") + record)
            total += int.from_bytes(part, "little")
    return (total % (1 << 128)).to_bytes(16, "little")


def check(model, writer):
    tree = model.tree()
    assert shown(writer) == tree
    assert writer.store.keys == len(tree)
    assert writer.store.bytes == sum(len(c) for kind, c, _ in tree.values() if kind == FILE)
    for key, (kind, _, _) in tree.items():
        if kind == DIRECTORY:
            below = [name for name in tree if name.rpartition("/")[0] == key]
            assert writer.stat(key).children == len(below)
    assert writer.store.state_hash == state_hash_of(writer)


@settings(max_examples=150)
@given(st.lists(OPERATION, max_size=25))
def test_the_store_does_what_the_model_does(operations):
    model, writer = Model(), Writer(MemoryKV())
    for operation in operations:
        expected, done = act(model, writer, operation)
        assert done == expected, operation
    check(model, writer)


@settings(max_examples=60)
@given(st.lists(OPERATION, max_size=25))
def test_events_replayed_give_the_tree(operations):
    model, writer = Model(), Writer(MemoryKV())
    for operation in operations:
        act(model, writer, operation)
    replayed, newest = {}, {}
    with writer.store.view() as view:
        for change in view.changes(0):
            assert change.previous == newest.get(change.key, 0)
            newest[change.key] = 0 if change.deleted else change.revision
            if change.deleted:
                assert change.key in replayed
                del replayed[change.key]
            else:
                size = Record.FromString(change.record).size
                replayed[change.key] = bytes(size) if change.data is None else change.data
    assert replayed == {
        key: content if kind == FILE else b"" for key, (kind, content, _) in model.tree().items()
    }


def test_the_state_hash_is_that_of_the_tree_not_of_the_way_there():
    one, other = Writer(MemoryKV()), Writer(MemoryKV())
    one.put("a/b", b"1")
    one.delete("a/b")
    assert one.store.state_hash == other.store.state_hash == bytes(16)
    assert one.store.chain != other.store.chain


# ---- one log, many batches -----------------------------------------------------------------------


def log(seed, length):
    """Entries of all kinds, good and bad, with retries, floors and Raft's own in between."""
    chance = random.Random(seed)
    payloads = []
    for index in range(1, length + 1):
        key = "/".join(chance.choice("abc") for _ in range(chance.randint(1, 3)))
        request_id = bytes([chance.randrange(200)]) * 16 if chance.random() < 0.3 else b""
        kind = chance.random()
        now = START_NS + chance.randrange(10**9)
        if kind < 0.6:
            size = chance.choice([0, 10, SMALL_VALUE_BYTES_MAX, SMALL_VALUE_BYTES_MAX + 1])
            request = PutRequest(key=key, data=chance.randbytes(size), request_id=request_id)
            payloads.append(entry(commands.put_head, request, now))
        elif kind < 0.75:
            request = DeleteRequest(key=key, recursive=chance.random() < 0.5, request_id=request_id)
            payloads.append(entry(commands.delete_head, request, now))
        elif kind < 0.85:
            payloads.append(
                entry(commands.make_dir_head, MakeDirRequest(key=key, request_id=request_id), now)
            )
        elif kind < 0.92:
            payloads.append(
                entry(commands.symlink_head, SymlinkRequest(key=key, target="t"), now)
            )
        elif kind < 0.94:
            floor = max(index - chance.randrange(400), 0)
            payloads.append(commands.floor_entry(floor, "n") + commands.stamp(now))
        elif kind < 0.96:
            payloads.append(chance.choice(payloads) if payloads else b"")
        elif kind < 0.97:
            payloads.append(b"\x08\x01garbage")
        else:
            payloads.append(b"")
    return payloads


def replay(kv, payloads, sizes):
    """Applies a log in batches of the sizes that `sizes` gives."""
    store = Store(kv)
    entries = [(index, payload, index % 3 == 0) for index, payload in enumerate(payloads, 1)]
    results, changes = [], []
    while entries:
        size = next(sizes)
        batch, entries = entries[:size], entries[size:]
        log_id = b"id%d" % batch[-1][0]
        more_results, more_changes = store.apply(batch, log_id, b"m" if batch[0][0] == 1 else b"")
        results += [str(r) if isinstance(r, DfsError) else r for r in more_results]
        changes += more_changes
    return store, results, changes


def one_by_one():
    while True:
        yield 1


def by_chance(seed):
    chance = random.Random(seed)
    while True:
        yield chance.choice([1, 2, 7, 48, 300])


@pytest.mark.parametrize("seed", [2, 3, 4])
def test_batch_boundaries_and_stores_make_no_difference(tmp_path, seed):
    """Two members that cut the same log into other batches hold the same bytes, pruning too."""
    payloads = log(seed, 1_500)
    memory, rocks = MemoryKV(), RocksKV(tmp_path / "kv")
    first, first_results, first_changes = replay(memory, payloads, one_by_one())
    second, second_results, second_changes = replay(rocks, payloads, by_chance(seed))
    assert first_results == second_results
    assert first_changes == second_changes
    assert figures(first) == figures(second)
    assert dump(memory) == dump(rocks)
    assert first.floor > 0
    assert first.keys > 5
    assert sum(isinstance(result, str) for result in first_results) > 20
    rocks.close()


def test_another_entry_gives_another_chain():
    payloads = log(1, 50)
    first, _, _ = replay(MemoryKV(), payloads, one_by_one())
    payloads[20] = b""
    second, _, _ = replay(MemoryKV(), payloads, one_by_one())
    assert first.chain != second.chain
