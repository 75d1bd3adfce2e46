"""The data directory of a node that does not run, opened without changing anything in it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from struct import Struct
from typing import Any, Final, NamedTuple

from .._engine import StoredLog
from ..errors import DataLoss, Misconfigured
from ..identity import LOG, STORE, Identity, read_identity
from ..kv import LyingRocks, MemoryKV, Overlay, Snapshot
from ..store import Store, UnknownEntry
from ..store.layout import META_KEY, Meta, unpack_meta

READ_BYTES: Final = 4 << 20
"""Of a log, read at once."""
ENTRY: Final = 1
MEMBERSHIP: Final = 2
"""Kinds of log entries; 0 is blank, of a new leader."""
_LOG_ID: Final = Struct(">QQQ")
"""Term, node, index: as the engine has it in the store."""


class LogId(NamedTuple):
    """Where an entry stands, and which leader put it there; in the order of Raft."""

    term: int
    node: int
    position: int


NOTHING: Final = LogId(0, 0, 0)


class Entry(NamedTuple):
    """One entry of a log."""

    id: LogId
    kind: int
    payload: bytes


class Members(NamedTuple):
    """A membership as store and log have it."""

    voters: frozenset[int]
    """All that have a vote; while it is changed, of both sides."""
    names: dict[int, str]

    @property
    def majority(self) -> int:
        """So many voters must have what is acknowledged."""
        return len(self.voters) // 2 + 1

    def shown(self) -> str:
        """For people."""
        words = [
            name if node in self.voters else f"{name} (learner)"
            for node, name in sorted(self.names.items(), key=lambda row: row[1])
        ]
        return ", ".join(words) or "nobody"


def members_of(membership: bytes) -> Members:
    """Decodes one; b"" has nobody. Raises ValueError, KeyError."""
    found = json.loads(membership or b'{"voters": [], "members": {}}')
    names = {int(node): str(member["name"]) for node, member in found["members"].items()}
    return Members(frozenset(v for side in found["voters"] for v in side), names)


class Stopped:
    """One such directory. `meta` and `members` are what its store says, which may be far behind its
    log; reads of the store raise DataLoss where it is damaged."""

    def __init__(
        self, directory: Path, identity: Identity, log: StoredLog, kv: Snapshot, damage: str
    ) -> None:
        self.directory, self.identity, self.log, self.kv = directory, identity, log, kv
        self.standing: dict[str, Any] = log.state()
        self.damage = damage
        """Not empty: the store cannot even be opened."""
        value = kv.get(META_KEY)
        self.meta = Meta() if value is None else unpack_meta(value)
        self.members = members_of(self.meta.membership)

    @property
    def name(self) -> str:
        """Of the node."""
        return self.identity.name

    @property
    def applied_id(self) -> LogId:
        """Of the last entry that the store has applied."""
        log_id = self.meta.log_id
        return LogId(*_LOG_ID.unpack(log_id)) if len(log_id) == _LOG_ID.size else NOTHING

    @property
    def next_index(self) -> int:
        """Of the first entry that the store has not applied."""
        return self.meta.applied + 1 if self.meta.log_id else 0

    def log_id(self, which: str) -> LogId:
        """Of "last", "committed" or "purged" as the log says; NOTHING where there is none."""
        found = self.standing[which]
        return LogId(*found) if found else NOTHING

    @property
    def last(self) -> LogId:
        """Of the last entry that this node has, in its log or, if that is later, applied."""
        return max(self.log_id("last"), self.applied_id)

    @property
    def committed(self) -> int:
        """Up to here all is committed for sure, as far as this node knows."""
        return max(self.log_id("committed").position, self.meta.applied)

    def members_at(self, end: int) -> Members:
        """The newest membership in the state and in the log up to an index."""
        found = self.members
        for entry in self.entries(self.next_index, end):
            if entry.kind == MEMBERSHIP:
                found = members_of(entry.payload)
        return found

    def entries(self, start: int, end: int) -> Iterator[Entry]:
        """Those with start <= index <= end that are in the log, ascending."""
        while start <= end and (found := self.log.entries(start, READ_BYTES)):
            for index, term, node, kind, payload in found:
                if index > end:
                    return
                yield Entry(LogId(term, node, index), kind, payload)
            start = found[-1][0] + 1


def rolled(place: Stopped, entries: Iterator[Entry]) -> Store:
    """The state of a node with more entries applied to it, in memory. Raises DataLoss, Internal (a
    gap), UnknownEntry."""
    store = Store(Overlay(place.kv))
    for entry in entries:
        payload = entry.payload if entry.kind == ENTRY else b""
        store.apply([(entry.id.position, payload, False)], _LOG_ID.pack(*entry.id), b"")
    return store


@contextmanager
def opened(directory: Path) -> Iterator[Stopped]:
    """Opens a data directory, and keeps nodes out of it meanwhile.

    Raises Misconfigured: it is none, a node runs in it, or another version wrote it.
    """
    identity = read_identity(directory)
    with ExitStack() as stack:
        try:
            log = StoredLog(str(directory / LOG))
        except BlockingIOError:
            raise Misconfigured(
                f"a node runs in {directory}: stop it first, or work on a copy"
            ) from None
        stack.callback(log.close)
        kv, damage = _store(directory / STORE)
        stack.callback(kv.close)
        try:
            yield Stopped(directory, identity, log, kv, damage)
        except UnknownEntry as error:
            raise Misconfigured(f"{directory}: {error}") from None


def _store(path: Path) -> tuple[Snapshot, str]:
    if not path.exists():
        return MemoryKV(), ""
    try:
        kv = LyingRocks(path)
    except DataLoss as error:
        return MemoryKV(), error.text
    try:
        value = kv.get(META_KEY)
        if value is not None:
            unpack_meta(value)
    except DataLoss as error:
        kv.close()
        return MemoryKV(), error.text
    return kv, ""
