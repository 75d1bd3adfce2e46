"""The tree as SEMANTICS.md has it: entries in, outcomes and changes out, nothing clever.

It is fed each entry when it is committed. What the members' stores make of the same entries is
compared with it, one by one.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_left
from collections.abc import Iterable
from typing import Any, Final, NamedTuple

from dfs.errors import DfsError
from dfs.proto import dfs_pb2 as pb
from dfs.proto.internal.log_pb2 import Entry
from dfs.store import change_of

from .world import World


class Leaf(NamedTuple):
    """What a key is."""

    kind: int
    revision: int
    content: bytes
    """SHA-256 of a file, target of a symlink."""
    implicit: bool = False


class Told(NamedTuple):
    """One change."""

    revision: int
    sub: int
    key: str
    deleted: bool
    kind: int
    content: bytes
    previous: int


class Refused(Exception):
    """The class name of the refusal."""


class Request(NamedTuple):
    """What a request id did."""

    index: int
    what: tuple[str, str, bytes]
    answer: tuple[int, int]


Outcome = str | tuple[int, int]
"""The class of the refusal, or (revision, keys deleted)."""
NONE: Final = Leaf(-1, 0, b"")


class Model:
    """The tree, its past, and the outcome of every entry."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.tree: dict[str, Leaf] = {}
        self.changes: list[Told] = []
        self.copied: set[tuple[int, str]] = set()
        """(revision, key) of what moves and copies made."""
        self.outcomes: dict[int, tuple[Outcome, ...]] = {}
        """By index: what may come out of it; more than one only for a request id whose entry
        history has forgotten or is about to."""
        self.applied = 0
        self.floor = self.floor_time_ns = self.time_ns = 0
        self.repeated = 0
        """Entries that came again and were not applied again."""
        self._times: list[tuple[int, int]] = []
        """(revision, time) of each change."""
        self._requests: dict[bytes, Request] = {}
        self._decided: dict[int, Any] = {}

    # ---- one entry -------------------------------------------------------------------------------
    def commit(self, index: int, payload: bytes) -> None:
        """The next entry of the log."""
        self.world.check(index == self.applied + 1, f"{index} is committed after {self.applied}")
        self.applied = index
        if not payload:
            self.outcomes[index] = ("nothing",)
            return
        entry = Entry.FromString(payload)
        self.time_ns = max(self.time_ns + 1, entry.time_ns)
        name = entry.WhichOneof("operation")
        request = getattr(entry, name)
        before = len(self.changes)
        self.outcomes[index] = self._outcomes(index, name, request, entry)
        self._times += [(told.revision, self.time_ns) for told in self.changes[before:]]

    def _outcomes(self, index: int, name: str, request: Any, entry: Any) -> tuple[Outcome, ...]:
        request_id = b"" if name == "set_floor" else request.request_id
        if not request_id:
            return (self._outcome(index, name, request, entry),)
        what = _asked(name, request, entry)
        known = self._requests.get(request_id)
        too_old = _made_ns(request_id) < self.floor_time_ns
        if known is not None:
            self.repeated += 1
            again = known.answer if known.what == what else "InvalidArgument"
            if known.index >= self.floor or not too_old:
                return (again,)  # Else nobody would refuse it once it is forgotten.
            return again, "RequestTooOld"
        if too_old:
            self.world.counts["request id too old"] += 1
            return ("RequestTooOld",)
        outcome = self._outcome(index, name, request, entry)
        if isinstance(outcome, tuple) and outcome[0] == index:
            self._requests[request_id] = Request(index, what, outcome)
        return (outcome,)

    def _outcome(self, index: int, name: str, request: Any, entry: Any) -> Outcome:
        try:
            return getattr(self, f"_{name}")(index, request, entry)  # type: ignore[no-any-return]
        except Refused as refusal:
            return str(refusal)

    # ---- operations ------------------------------------------------------------------------------
    def _put(self, index: int, request: Any, entry: Any) -> Outcome:
        return self._leaf(index, request, pb.FILE, entry.sha256)

    def _symlink(self, index: int, request: Any, _entry: Any) -> Outcome:
        return self._leaf(index, request, pb.SYMLINK, request.target.encode())

    def _leaf(self, index: int, request: Any, kind: int, content: bytes) -> Outcome:
        old = self.tree.get(request.key)
        if old is not None and old.kind == pb.DIRECTORY:
            raise Refused("IsADirectory")
        self._must_be(request, old)
        if old is None:
            self._parents(index, request.key)
        self._set(index, request.key, Leaf(kind, index, content))
        return index, 0

    def _make_dir(self, index: int, request: Any, _entry: Any) -> Outcome:
        old = self.tree.get(request.key)
        if old is None:
            self._parents(index, request.key)
        elif old.kind != pb.DIRECTORY:
            raise Refused("NotADirectory")
        elif not old.implicit:
            return old.revision, 0
        self._set(index, request.key, Leaf(pb.DIRECTORY, index, b""))
        return index, 0

    def _delete(self, index: int, request: Any, _entry: Any) -> Outcome:
        key = request.key
        old = self.tree.get(key)
        if old is None:
            raise Refused("NotFound")
        self._must_be(request, old)
        below = sorted(self.below(key), key=lambda k: k.split("/"))
        if below and not request.recursive:
            raise Refused("NotEmpty")
        for gone in [*reversed(below), key]:
            self._drop(index, gone)
        self._empty_above(index, key)
        return index, len(below) + 1

    def _empty_above(self, index: int, key: str) -> None:
        while "/" in key:
            key = key.rpartition("/")[0]
            if not self.tree[key].implicit or self.below(key):
                break
            self._drop(index, key)

    def _move(self, index: int, request: Any, _entry: Any) -> Outcome:
        found = self._copied(index, request, True)
        for gone in reversed(found):
            self._drop(index, gone)
        self._empty_above(index, request.source)
        return index, len(found)

    def _copy(self, index: int, request: Any, _entry: Any) -> Outcome:
        return index, len(self._copied(index, request, request.recursive))

    def _copied(self, index: int, request: Any, recursive: bool) -> list[str]:
        source, target = request.source, request.target
        top, old = self.tree.get(source), self.tree.get(target)
        if top is None:
            raise Refused("NotFound")
        self._must_be(request, top)
        below = sorted(self.below(source), key=lambda k: k.split("/"))
        if below and not recursive:
            raise Refused("NotEmpty")
        if old is None:
            self._parents(index, target)
        elif old.kind == pb.DIRECTORY:
            raise Refused("IsADirectory")
        elif top.kind == pb.DIRECTORY:
            raise Refused("NotADirectory")
        elif not request.replace:
            raise Refused("Conflict")
        for key in (source, *below):
            place = target + key[len(source) :]
            self._set(index, place, self.tree[key]._replace(revision=index))
            self.copied.add((index, place))
        return [source, *below]

    def _transaction(self, index: int, request: Any, _entry: Any) -> Outcome:
        tree, count, copied = dict(self.tree), len(self.changes), set(self.copied)
        done = 0
        try:
            for operation in request.operations:
                name = operation.WhichOneof("operation")
                part = getattr(operation, name)
                data = Entry(sha256=digest(part.data)) if name == "put" else None
                done = max(done, getattr(self, f"_{name}")(index, part, data)[0])
        except Refused:
            self.tree, self.copied = tree, copied
            del self.changes[count:]
            raise
        return done, len(self.changes) - count

    def _set_floor(self, index: int, request: Any, _entry: Any) -> Outcome:
        if request.revision > index:
            raise Refused("InvalidArgument")
        if request.revision > self.floor:
            self.floor = request.revision
            later = bisect_left(self._times, (self.floor, 0))
            self.floor_time_ns = self._times[later][1] if later < len(self._times) else self.time_ns
            self.world.count("floor moved", str(self.floor))
        return self.floor, 0

    def _must_be(self, request: Any, old: Leaf | None) -> None:
        found = old.revision if old else 0
        if request.HasField("base_revision") and request.base_revision != found:
            raise Refused("Conflict")

    def _parents(self, index: int, key: str) -> None:
        missing = []
        while "/" in key:
            key = key.rpartition("/")[0]
            found = self.tree.get(key)
            if found is not None:
                if found.kind != pb.DIRECTORY:
                    raise Refused("NotADirectory")
                break
            missing.append(key)
        for directory in reversed(missing):
            self._set(index, directory, Leaf(pb.DIRECTORY, index, b"", True))

    def _set(self, index: int, key: str, leaf: Leaf) -> None:
        self._tell(index, key, False, leaf, self.tree.get(key, NONE).revision)
        self.tree[key] = leaf

    def _drop(self, index: int, key: str) -> None:
        old = self.tree.pop(key)
        self._tell(index, key, True, old, old.revision)

    def _tell(self, index: int, key: str, deleted: bool, leaf: Leaf, previous: int) -> None:
        last = self.changes[-1] if self.changes else None
        sub = last.sub + 1 if last is not None and last.revision == index else 0
        self.changes.append(Told(index, sub, key, deleted, leaf.kind, leaf.content, previous))

    # ---- questions -------------------------------------------------------------------------------
    def below(self, key: str) -> list[str]:
        """The keys under a directory."""
        return [k for k in self.tree if k.startswith(key + "/")]

    def after(self, revision: int) -> list[Told]:
        """The changes after a revision."""
        return self.changes[bisect_left(self.changes, (revision + 1,)) :]

    def tree_at(self, revision: int, below: str = "") -> dict[str, int]:
        """Everything below a directory as of a revision, and the revision of each."""
        found: dict[str, int] = {}
        for change in self.changes[: bisect_left(self.changes, (revision + 1,))]:
            if below and not change.key.startswith(below + "/"):
                continue
            if change.deleted:
                del found[change.key]
            else:
                found[change.key] = change.revision
        return found

    def between(self, first: int, last: int) -> list[int]:
        """The revisions at which the tree changed within [first, last], and `first`."""
        begin, end = bisect_left(self.changes, (first + 1,)), bisect_left(self.changes, (last + 1,))
        return [first, *sorted({change.revision for change in self.changes[begin:end]})]

    def leaf_at(self, key: str, revision: int) -> int | None:
        """The revision of a file or symlink as of a revision; None: it was neither."""
        for change in reversed(self.changes[: bisect_left(self.changes, (revision + 1,))]):
            if change.key == key:
                alone = not change.deleted and change.kind != pb.DIRECTORY
                return change.revision if alone else None
        return None

    def content_at(self, key: str, revision: int) -> bytes | None:
        """Of a file as of a revision; None: there was none."""
        for change in reversed(self.changes[: bisect_left(self.changes, (revision + 1,))]):
            if change.key == key:
                return None if change.deleted else change.content
        return None

    # ---- comparing -------------------------------------------------------------------------------
    def compare(self, entries: list[Any], results: list[Any], events: list[Any]) -> None:
        """What a member's store made of some entries."""
        told = [_told(event) for event in events]
        first, last = entries[0][0], entries[-1][0]
        wanted = self.changes[
            bisect_left(self.changes, (first,)) : bisect_left(self.changes, (last + 1,))
        ]
        if told != wanted:
            wrong = next(
                pair for pair in zip([*told, None], [*wanted, None], strict=False)
                if pair[0] != pair[1]
            )
            self.world.fail(f"entries {first}..{last} changed {wrong[0]}, not {wrong[1]}")
        for (index, _, wanted_result), result in zip(entries, results, strict=True):
            if wanted_result:
                self._compare(index, result)

    def _compare(self, index: int, result: Any) -> None:
        found = type(result).__name__ if isinstance(result, DfsError) else _answer(result)
        possible = self.outcomes[index]
        self.world.check(
            found in possible,
            f"entry {index} was answered with {found}, not with {' or '.join(map(str, possible))}",
        )
        first = self._decided.setdefault(index, found)
        self.world.check(
            found == first, f"entry {index}: {first} on one member, {found} on another"
        )

    def same_tree(self, items: Iterable[tuple[str, bytes, Any]], where: str) -> None:
        """The records of a whole list are those of the tree."""
        found = {key: pb.Record.FromString(record).revision for key, record, _ in items}
        wanted = {key: leaf.revision for key, leaf in self.tree.items()}
        if found != wanted:
            other = sorted(found.items() ^ wanted.items())[:4]
            self.world.fail(f"{where} shows another tree: {other}")


def _asked(name: str, request: Any, entry: Any) -> tuple[str, str, bytes]:
    """What a request id stands for."""
    if name == "transaction":
        return name, "", b"".join(o.SerializeToString() for o in request.operations)
    if name in ("move", "copy"):
        return name, request.source, request.target.encode()
    return name, request.key, request.target.encode() if name == "symlink" else entry.sha256


def _told(event: Any) -> Told:
    change = change_of(event)
    record = pb.Record.FromString(change.record)
    return Told(
        change.revision, change.sub, change.key, change.deleted, record.kind,
        record.target.encode() or record.sha256, change.previous,
    )


def _answer(result: bytes) -> tuple[int, int]:
    answer = pb.DeleteResponse.FromString(result)
    return answer.revision, answer.deleted


def _made_ns(request_id: bytes) -> int:
    """The end of the millisecond in which a UUID of version 7 was made."""
    return (int.from_bytes(request_id[:6], "big") + 1) * 1_000_000


def digest(data: bytes) -> bytes:
    """SHA-256, by which contents are compared."""
    return hashlib.sha256(data).digest()


