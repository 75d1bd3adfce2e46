"""Lists, from a frozen state to encoded items.

`View.list` says what a list shows. This is the fast way to the same: the key/value store hands over
many records at once, and the engine checks and encodes them in one call. One by one is looked only
at what the engine leaves: content that stands in history alone, and damage.
"""

from __future__ import annotations

import sys

from dfs._engine import list_items
from dfs.errors import NotFound
from dfs.kv import Record, Snapshot
from dfs.limits import (
    LIST_ITEMS_MAX,
    STORE_SCAN_RECORDS_MAX,
    STORE_SCAN_RECORDS_MIN,
    STREAM_CHUNK_BYTES_MAX,
)
from dfs.proto.dfs_pb2 import DIRECTORY
from dfs.store.encode import list_answer, list_item
from dfs.store.layout import CURRENT, unpack_version
from dfs.store.read import check_after, list_head, list_range, listed, shows_data


class Listing:
    """One list under way: encoded items, a bounded answer of them at a time, of one revision.

    Any thread, but one at a time; `close` when done.
    """

    def __init__(
        self, source: Snapshot, revision: int, key: str, recursive: bool, after: str, limit: int,
        data_bytes_max: int, itself: bool = False, data_after: int = 0,
    ) -> None:  # fmt: skip
        """Takes over `source`, the state at `revision`, whose walk is best `list_range`. `limit`:
        at most so many items, 0 = all. `itself`: a directory comes before what is in it, and a
        list of nothing is empty. The rest, and what is raised, as in `View.list`."""
        self.revision = revision
        self._source = source
        self._recursive = recursive
        self._data_bytes_max, self._data_after = data_bytes_max, data_after
        self._left = limit or sys.maxsize
        self._begin, self._end = list_range(key, recursive, after)
        """What has not been fetched, unless `_last`."""
        self._last = False
        self._records: list[Record] = []
        self._at = 0
        """Those from here on were fetched, but are in no answer yet."""
        self._fetch_max = STORE_SCAN_RECORDS_MAX
        """So many at once: of a directory, no more than it has children, and the one behind."""
        self._begun = False
        self.done = False
        """Everything is in the answers."""
        self.items_expected = 0
        """About so many items: as if `after` were at the beginning and nothing below children. 0
        for the whole tree, of which it is not known."""
        try:
            head = list_head(source, key)
        except NotFound:
            if not itself:
                raise
            self._last = True
            return
        if head is None or head[1].kind == DIRECTORY:
            check_after(key, recursive, after)
            if head is not None:
                children = head[1].size
                self._fetch_max = min(children + 1, STORE_SCAN_RECORDS_MAX)
                self.items_expected = min(children, self._left)
            elif not recursive:
                self._fetch_max = STORE_SCAN_RECORDS_MIN
        else:
            itself, self._last = not after, True
        if head is not None and itself:
            path, _, value = head
            self._records = [(CURRENT + path, value)]

    def next(self, items_max: int | None = None) -> bytes | None:
        """The next ListResponse; None at the end, but the first one always comes. Otherwise as
        `items`."""
        items = self.items(items_max)
        if self._begun and not items:
            return None
        self._begun = True
        return list_answer([items], self.revision)

    def items(self, items_max: int | None = None) -> bytes:
        """The items of the next answer; empty at the end. Items and bytes up to LIST_ITEMS_MAX and
        about STREAM_CHUNK_BYTES_MAX, one larger item travels alone. Blocks. Raises DataLoss,
        Unavailable."""
        piece = Piece(min(items_max or LIST_ITEMS_MAX, self._left))
        while piece.items_max and self._fetched(piece.items_max) and self._take(piece):
            pass
        self._left -= piece.count
        self.done = not self._left or (self._last and self._at == len(self._records))
        return b"".join(piece.items)

    def at_once(self, records_max: int) -> bytes | None:
        """The whole list as one answer, if that takes little: so many records at most, those below
        children included, and nothing that stands elsewhere. If it is None all there is left to do
        is `close`."""
        piece = Piece(min(records_max, self._left))
        while piece.items_max and self._fetched(min(piece.items_max, records_max)):
            found = len(self._records)
            records_max -= found
            if self._take_usual(piece) or self._at < found:
                return None
            # Not every record was an item: what is below a child is passed over.
            if not records_max and not self._last and self._left > piece.count:
                return None
        return list_answer(piece.items, self.revision)

    def _fetched(self, wanted: int) -> bool:
        """Sees to it that there are records; False: no more."""
        if self._at < len(self._records):
            return True
        if self._last:
            return False
        self._records, self._last = self._source.part(
            self._begin, self._end, min(wanted, self._fetch_max)
        )
        self._at = 0
        self._fetch_max = min(self._fetch_max * 2, STORE_SCAN_RECORDS_MAX)
        if self._records:
            self._begin = self._records[-1][0] + b"\0"
        return bool(self._records)

    def _take(self, piece: Piece) -> bool:
        """Moves records into the piece; whether there is room for more."""
        if self._take_usual(piece):
            return self._take_one(piece)
        return self._at == len(self._records)

    def _take_usual(self, piece: Piece) -> bool:
        """The same up to a record that has to be looked at alone; whether it has come to one."""
        encoded, self._at, count, size, unusual, beyond = list_items(
            self._records, self._at, self._recursive, self._data_bytes_max, self._data_after,
            piece.items_max, piece.bytes_max, not piece.count,
        )  # fmt: skip
        piece.add(encoded, count, size)
        if beyond is not None:
            # Of what was fetched much may be below a child: fewer the next times.
            self._begin = beyond
            self._fetch_max = max(STORE_SCAN_RECORDS_MIN, self._fetch_max // 4)
        return unusual

    def _take_one(self, piece: Piece) -> bool:
        """The same with the next record alone."""
        store_key, value = self._records[self._at]
        version = unpack_version(store_key, value)
        path = store_key[len(CURRENT) :]
        size = len(path) + version.record_bytes
        data_wanted = self._data_bytes_max, self._data_after
        if shows_data(version, *data_wanted):
            size += version.size
        if piece.count and size > piece.bytes_max:
            return False
        item = listed(self._source, (path, version, value), *data_wanted)
        piece.add(list_item(*item), 1, size)
        self._at += 1
        return True

    def close(self) -> None:
        """Lets go of the frozen state. Idempotent."""
        self._source.close()


class Piece:
    """What one answer holds, and what there is room for."""

    def __init__(self, items_max: int) -> None:
        self.items: list[bytes] = []
        self.count = 0
        self.items_max = items_max
        self.bytes_max = STREAM_CHUNK_BYTES_MAX

    def add(self, encoded: bytes, count: int, size: int) -> None:
        """Takes so many items; `size` is that of their keys, records and content."""
        self.items.append(encoded)
        self.count += count
        self.items_max -= count
        self.bytes_max -= min(size, self.bytes_max)
