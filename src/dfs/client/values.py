"""What the client hands out: plain immutable values, no protobuf."""

from __future__ import annotations

import enum
from typing import Final, NamedTuple

from ..proto import dfs_pb2 as pb


class Kind(enum.IntEnum):
    """What a key is."""

    FILE = 0
    DIRECTORY = 1
    SYMLINK = 2


KINDS: Final = tuple(Kind)
"""By number."""


class Stat(NamedTuple):
    """What is known of a key."""

    kind: Kind
    revision: int
    """Of this version; cluster-wide and increasing."""
    created_revision: int
    version: int
    """Count of versions since the key was last absent, 1 for the first."""
    size: int
    """Bytes."""
    sha256: bytes
    """Of the content; empty for directories and symlinks."""
    mode: int
    mtime_ns: int
    target: str
    """Symlinks only."""
    node: str
    """The node that took the write, and on whose behalf."""
    principal: str
    time_ns: int
    """Commit time, nanoseconds since 1970."""
    request_id: bytes
    implicit: bool
    """Directories only: it goes with its last child."""
    children: int
    chunk_bytes: int = 0
    """Not 0: the content is large, members hold it as a file of its own."""
    uid: int | None = None
    """None: the writer named none."""
    gid: int | None = None
    xattrs: tuple[tuple[str, bytes], ...] = ()
    """Extended attributes, (name, value), in the order of names."""

    @property
    def is_file(self) -> bool:
        """It is a file."""
        return self.kind is Kind.FILE

    @property
    def is_directory(self) -> bool:
        """It is a directory."""
        return self.kind is Kind.DIRECTORY

    @property
    def is_symlink(self) -> bool:
        """It is a symbolic link."""
        return self.kind is Kind.SYMLINK


class Item(NamedTuple):
    """A key, what is known of it, and its content where that was asked for and fits."""

    key: str
    stat: Stat
    data: bytes | None


class Event(NamedTuple):
    """One change."""

    key: str
    revision: int
    deleted: bool
    stat: Stat
    """The new record; of a deletion the last one."""
    data: bytes | None
    """The content where that was asked for and fits."""
    previous_revision: int
    """0: the key did not exist."""
    sub: int
    """Order within one revision."""


class Update(NamedTuple):
    """One message of a watch. Progress marks have neither items nor events."""

    items: list[Item]
    """Part of a snapshot."""
    snapshot_end: bool
    """The snapshot is complete with these items; it shows `revision`."""
    events: list[Event]
    """Whole revisions, in order."""
    revision: int
    """All changes up to here have been handed out: a later watch resumes after it. 0 within a
    snapshot."""
    snapshot_begin: bool = False
    """A snapshot begins: forget the items of one that did not come to its end."""


class Told(NamedTuple):
    """One message of a watch as it came, for whoever has it read by the engine."""

    encoded: bytes
    """A WatchResponse."""
    after: int
    """Events up to this revision were handed out before."""
    changes: int
    """How many events there are."""
    snapshot: bool
    """Part of a snapshot, which shows `revision` at its end."""
    snapshot_begin: bool
    snapshot_end: bool
    revision: int
    """As in Update."""


def stat_of(record: pb.Record) -> Stat:
    """A record as the API shows it."""
    return Stat(
        KINDS[record.kind], record.revision, record.created_revision, record.version,
        record.size, record.sha256, record.mode, record.mtime_ns, record.target, record.node,
        record.principal, record.time_ns, record.request_id, record.implicit, record.children,
        record.chunk_bytes,
        record.uid if record.HasField("uid") else None,
        record.gid if record.HasField("gid") else None,
        tuple((xattr.name, xattr.value) for xattr in record.xattrs),
    )


def item_of(item: pb.Item) -> Item:
    """An item as the API shows it."""
    return Item(item.key, stat_of(item.record), item.data if item.has_data else None)


def event_of(event: pb.Event) -> Event:
    """An event as the API shows it."""
    return Event(
        event.key, event.revision, event.type == pb.Event.DELETE, stat_of(event.record),
        event.data if event.has_data else None, event.previous_revision, event.sub,
    )
