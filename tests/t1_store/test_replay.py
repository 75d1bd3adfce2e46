"""The same log gives the same state: compared with a model, with itself, and between stores."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from t1_store.building import START_NS, Writer, dump, entry, figures
from t1_store.building import operation as part
from xxhash import xxh3_128_digest

from dfs import commands
from dfs.errors import DfsError, NotFound
from dfs.kv import MemoryKV, RocksKV
from dfs.limits import SMALL_VALUE_BYTES_MAX
from dfs.proto.dfs_pb2 import (
    DIRECTORY,
    FILE,
    SYMLINK,
    CopyRequest,
    DeleteRequest,
    MakeDirRequest,
    MoveRequest,
    PutRequest,
    Record,
    SymlinkRequest,
    TransactionRequest,
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

    def copy(self, index, source, target, replace, stays, recursive=True):
        tree = self.tree()
        below = [name for name in tree if name.startswith(source + "/")]
        if source not in tree or target == source or target.startswith(source + "/"):
            return False
        if (below and not recursive) or self.blocked(target):
            return False
        old = tree.get(target)
        if old is not None and (
            not replace or DIRECTORY in (old[0], tree[source][0])
        ):
            return False
        for name in [source, *below]:
            if name in self.nodes:
                kind, content, _ = self.nodes[name] if stays else self.nodes.pop(name)
                self.nodes[target + name[len(source) :]] = kind, content, index
        return True


OPERATION = st.one_of(
    st.tuples(
        st.just("put"), st.sampled_from(KEYS), st.sampled_from([b"", b"1", b"x" * 5_000]),
        st.sampled_from([None, None, None, 0, 1, 2, 3]),
    ),
    st.tuples(st.just("delete"), st.sampled_from(KEYS), st.booleans()),
    st.tuples(st.just("mkdir"), st.sampled_from(KEYS)),
    st.tuples(st.just("symlink"), st.sampled_from(KEYS), st.sampled_from(["t", "u"])),
    st.tuples(st.just("move"), st.sampled_from(KEYS), st.sampled_from(KEYS), st.booleans()),
    st.tuples(
        st.just("copy"), st.sampled_from(KEYS), st.sampled_from(KEYS), st.booleans(),
        st.booleans(),
    ),
    st.tuples(
        st.just("content"), st.sampled_from(KEYS), st.sampled_from([3_000, 4_000]),
        st.sampled_from([None, None, 0, 1, 2]),
    ),
)  # fmt: skip

ANYTHING = st.one_of(
    OPERATION, st.tuples(st.just("transaction"), st.lists(OPERATION, min_size=1, max_size=5))
)


def modelled(model, index, operation):
    """Whether the model agreed to it."""
    name, key, *more = operation
    match name:
        case "put":
            return model.write(index, key, FILE, *more)
        case "content":
            return model.write(index, key, FILE, bytes(more[0]), more[1])
        case "delete":
            return model.delete(key, *more)
        case "mkdir":
            return model.make_dir(index, key)
        case "symlink":
            return model.write(index, key, SYMLINK, more[0].encode(), None)
        case "move":
            return model.copy(index, key, *more, False)
        case "copy":
            return model.copy(index, key, *more[:2], True, more[2])
        case "transaction":
            before = dict(model.nodes)
            agreed = all(modelled(model, index, part) for part in key)
            model.nodes = model.nodes if agreed else before
            return agreed


def written(writer, operation):
    """Whether the store agreed to it."""
    name, key, *more = operation
    try:
        match name:
            case "put":
                writer.put(key, more[0], base=more[1])
            case "content":
                writer.put_content(key, more[0], base=more[1])
            case "delete":
                writer.delete(key, recursive=more[0])
            case "mkdir":
                writer.mkdir(key)
            case "symlink":
                writer.symlink(key, more[0])
            case "move":
                writer.move(key, more[0], replace=more[1])
            case "copy":
                writer.copy(key, more[0], replace=more[1], recursive=more[2])
            case "transaction":
                writer.transaction(*map(part_of, key))
    except DfsError:
        return False
    return True


def part_of(operation):
    """The same as an operation of a transaction."""
    name, key, *more = operation
    match name:
        case "put":
            return part("put", key, data=more[0], base_revision=more[1])
        case "content":
            return part("put_content", key, size=more[0], base_revision=more[1])
        case "delete":
            return part("delete", key, recursive=more[0])
        case "mkdir":
            return part("make_dir", key)
        case "symlink":
            return part("symlink", key, target=more[0])
        case "move":
            return part("move", key, more[0], replace=more[1])
        case "copy":
            return part("copy", key, more[0], replace=more[1], recursive=more[2])


def act(model, writer, operation):
    """Does it on both; whether each of them agreed to."""
    expected = modelled(model, writer.index + 1, operation)
    return expected, written(writer, operation)


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
@given(st.lists(ANYTHING, max_size=25))
def test_the_store_does_what_the_model_does(operations):
    model, writer = Model(), Writer(MemoryKV())
    for operation in operations:
        expected, done = act(model, writer, operation)
        assert done == expected, operation
    check(model, writer)
    for key, (_, _, index) in model.nodes.items():
        assert writer.stat(key).revision == index


@settings(max_examples=60)
@given(st.lists(ANYTHING, max_size=25))
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


def seen_at(view, key, revision):
    """What a key was, in the model's terms; None: nothing."""
    try:
        record = Record.FromString(view.stat(key, revision))
    except NotFound:
        return None
    content = record.target.encode()
    if record.chunk_bytes:
        content = bytes(record.size)
    elif record.kind == FILE:
        content = view.get(key, revision)[1]
    return record.kind, content, record.implicit


@settings(max_examples=60)
@given(st.lists(ANYTHING, min_size=1, max_size=25), st.floats(0, 1))
def test_every_retained_revision_is_as_it_was(operations, pruned):
    """Also where one revision changed a key several times, and where history was pruned."""
    model, writer, trees = Model(), Writer(MemoryKV()), {}
    for operation in operations:
        act(model, writer, operation)
        trees[writer.index] = model.tree()
    floor = round(pruned * writer.index)
    writer.set_floor(floor)
    keys = set().union(*trees.values())
    with writer.store.view() as view:
        for revision, tree in trees.items():
            if revision >= max(floor, 1):
                assert {key: seen_at(view, key, revision) for key in keys} == {
                    key: tree.get(key) for key in keys
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
        elif kind < 0.88:
            other = "/".join(chance.choice("abc") for _ in range(chance.randint(1, 3)))
            if other != key and not other.startswith(key + "/"):
                head, message = chance.choice(MOVES)
                request = message(
                    source=key, target=other, replace=chance.random() < 0.5, request_id=request_id
                )
                payloads.append(entry(head, request, now))
            else:
                payloads.append(b"")
        elif kind < 0.9:
            request = TransactionRequest(operations=parts(chance), request_id=request_id)
            payloads.append(entry(commands.transaction_head, request, now))
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


def parts(chance):
    """Operations of a transaction, of which few are refused."""
    found = []
    for _ in range(chance.randint(1, 4)):
        key = "/".join(chance.choice("abc") for _ in range(chance.randint(2, 4)))
        size = chance.choice([0, 10, SMALL_VALUE_BYTES_MAX + 1])
        found.append(chance.choice([
            part("put", key, data=chance.randbytes(size)),
            part("put", f"{key}/d", data=chance.randbytes(size)),
            part("put_content", key, size=chance.choice([3_000, 5 << 20])),
            part("delete", key[:1], recursive=True),
            part("make_dir", key),
            part("copy", key[:1], f"d{chance.randrange(9)}", recursive=True),
        ]))  # fmt: skip
    return found


MOVES = [
    (commands.move_head, MoveRequest),
    (commands.copy_head, lambda **fields: CopyRequest(recursive=True, **fields)),
]


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
