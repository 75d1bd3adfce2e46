"""Lists as of a past revision.

What was there then is there still, or was removed since: then its deletion stands in the index. So
the keys of both, each once and in order, are all that may have been there. What each of them was,
if anything, its events say.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from heapq import merge
from itertools import groupby
from typing import NamedTuple

from dfs.errors import NotFound
from dfs.kv import Reads
from dfs.limits import HISTORY_SCAN_BYTES_MAX, LIST_ITEMS_MAX
from dfs.proto.dfs_pb2 import DIRECTORY, FILE, Record
from dfs.store.encode import list_answer, list_item
from dfs.store.layout import INDEX, Event, key_of, path_of, subtree
from dfs.store.listing import Piece
from dfs.store.read import (
    Found,
    Item,
    View,
    behind_all,
    check_after,
    check_revision,
    event_of,
    list_range,
    listed,
    live_below,
    past_event,
    path_indexed,
)


class Looked(NamedTuple):
    """What one key was then."""

    item: Item | None
    """None: it was not there."""
    size: int
    """About so many bytes were read to find out."""


class PastListing:
    """One list under way, as of a past revision: encoded ListResponses of bounded size, as those of
    `Listing`. Any thread, but one at a time; `close` when done."""

    def __init__(
        self, view: View, key: str, recursive: bool, after: str, limit: int, data_bytes_max: int,
        revision: int, time_ns: int | None,
    ) -> None:  # fmt: skip
        """Takes over `view`. `revision`, or the last one that was not committed after `time_ns`.
        The rest as in `View.list`. Reads nothing yet."""
        self._view, self._revision = view, revision
        self._walk = self._looked(key, recursive, after, data_bytes_max, time_ns)
        self._ahead: Looked | None = None
        """What had no room in the last answer."""
        self._left = limit or sys.maxsize
        self._begun = False
        self.done = False
        """Everything is in the answers."""

    def next(self, items_max: int = LIST_ITEMS_MAX) -> bytes | None:
        """The next answer; None at the end, but the first one always comes. Where much has been
        removed it may be empty before the end, too: never long blocked. Raises OutOfRange (history
        does not reach back so far, or that is yet to come), NotFound (nothing was there then),
        InvalidArgument, DataLoss, Unavailable."""
        piece = Piece(min(items_max, self._left))
        looked_at = read = 0
        while piece.items_max and looked_at < LIST_ITEMS_MAX and read < HISTORY_SCAN_BYTES_MAX:
            looked = self._ahead or next(self._walk, None)
            self._ahead = None
            if looked is None:
                self.done = True
                break
            looked_at += 1
            read += looked.size
            if looked.item is None:
                continue
            key, record, data = looked.item
            size = len(key) + len(record) + len(data or b"")
            if piece.count and size > piece.bytes_max:
                self._ahead = looked
                break
            piece.add(list_item(*looked.item), 1, size)
        self._left -= piece.count
        self.done = self.done or not self._left
        if self.done and self._begun and not piece.count:
            return None
        self._begun = True
        return list_answer(piece.items, self._revision)

    def close(self) -> None:
        """Lets go of the frozen state. Idempotent."""
        self._view.close()

    def _looked(
        self, key: str, recursive: bool, after: str, data_bytes_max: int,
        time_ns: int | None,
    ) -> Iterator[Looked]:  # fmt: skip
        view = self._view
        if time_ns is not None:
            self._revision = view.revision_at(time_ns)
        revision = self._revision
        check_revision(revision, view.floor, view.revision)
        if key:
            event = past_event(view.source, key, revision)
            if Record.FromString(event.record).kind != DIRECTORY:
                if not after:
                    yield _shown(key, event, data_bytes_max)
                return
        check_after(key, recursive, after)
        for path, found in _candidates(view.source, key, recursive, after):
            yield _look(view.source, path, found, revision, data_bytes_max)


def _look(
    source: Reads, path: bytes, found: Found | None, revision: int, data_bytes_max: int
) -> Looked:
    """What a key was as of a revision. `found`: what it is now."""
    if found is not None and found[1].revision <= revision:
        return _unchanged(source, found, data_bytes_max)
    key = key_of(path)
    try:
        return _shown(key, past_event(source, key, revision), data_bytes_max)
    except NotFound:
        return Looked(None, len(path))


def _unchanged(source: Reads, found: Found, data_bytes_max: int) -> Looked:
    path, version, value = found
    if version.kind == DIRECTORY:
        # Its record counts the children of now; its event is what a past record is everywhere.
        return _shown(key_of(path), event_of(source, path, version.revision, version.sub), 0)
    item = listed(source, found, data_bytes_max)
    return Looked(item, len(value) + len(item[2] or b""))


def _shown(key: str, event: Event, data_bytes_max: int) -> Looked:
    size = len(event.record) + len(event.data)
    data = None
    if data_bytes_max and not event.large and len(event.data) <= data_bytes_max:
        data = event.data if Record.FromString(event.record).kind == FILE else None
    return Looked((key, event.record, data), size)


def _candidates(
    source: Reads, key: str, recursive: bool, after: str
) -> Iterator[tuple[bytes, Found | None]]:
    """The paths of all that is there now or was and is in history yet, each with what it is now."""
    begin, end = list_range(key, recursive, after)
    live = ((found[0], found) for found in live_below(source, begin, end, recursive))
    indexed = ((path, None) for path in _indexed(source, path_of(key), recursive, after))
    both: Iterator[tuple[bytes, Found | None]] = merge(live, indexed, key=lambda pair: pair[0])
    for path, same in groupby(both, key=lambda pair: pair[0]):
        yield path, next((found for _, found in same if found is not None), None)


def _indexed(source: Reads, path: bytes, recursive: bool, after: str) -> Iterator[bytes]:
    """The paths below `path` that the index has something of, each once, in order. For children
    alone those count, too, that only have something below them in it."""
    begin, end = subtree(INDEX, path)
    children_from = len(path) + 1 if path else 0
    if after:
        begin = _behind(path_of(after), recursive)
    elif path:
        begin += b"\x01"  # Behind the places of the directory itself.
    while True:
        store_key, _ = next(source.scan(begin, end), (b"", b""))
        if not store_key:
            return
        found = path_indexed(store_key)
        if not recursive:
            cut = found.find(b"\0", children_from)
            found = found if cut < 0 else found[:cut]
        yield found
        begin = _behind(found, recursive)


def _behind(path: bytes, recursive: bool) -> bytes:
    """Where the index goes on behind a path; if not `recursive`, behind all that is below it."""
    return behind_all(path) if recursive else INDEX + path + b"\x01"
