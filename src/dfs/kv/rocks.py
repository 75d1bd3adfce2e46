"""The key/value port on RocksDB.

It runs without its write-ahead log, in one column family, with atomic flush: after a crash it holds
some whole prefix of the batches that were written, and the Raft log has the rest.

Large values go into blob files, which merging does not write again. What was deleted there goes
with its file when nothing else is left in it; only when much of them is garbage (`_collect`) the
rest of the oldest ones is copied.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
import threading
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping
from errno import EAGAIN, EIO
from itertools import islice
from pathlib import Path
from typing import Final
from weakref import WeakSet

from rocksdict import (
    AccessType,
    BlockBasedOptions,
    Cache,
    ChecksumType,
    DbClosedError,
    DBCompressionType,
    Options,
    Rdict,
    RdictIter,
    WriteBatch,
    WriteOptions,
)

from dfs.durable import sync_directory
from dfs.errors import DataLoss, OutOfSpace
from dfs.kv.port import CLOSED, Closed, Record, Snapshot, Walk
from dfs.limits import (
    STORE_BLOB_BYTES_MIN,
    STORE_BLOB_GARBAGE_MAX,
    STORE_BLOB_GARBAGE_MIN,
    STORE_CACHE_BYTES,
    STORE_FRESH_TABLES_MAX,
    STORE_LOAD_BYTES,
    STORE_MEMTABLE_BYTES,
    STORE_SCAN_BYTES_MAX,
    STORE_SCAN_RECORDS_MAX,
    STORE_SCAN_RECORDS_MIN,
)

log = logging.getLogger("dfs.store")
_CURRENT: Final = "current"
_PARTIAL: Final = "current.part"
_FIRST: Final = "db-1"


class RocksKV:
    """RocksDB in a directory of its own.

    The directory holds one database `db-N` and the file `current` that names it; `replace` fills
    `db-N+1` and then renames a new `current` into place.
    """

    def __init__(self, path: str | Path) -> None:
        """Opens it, or makes it. Raises BlockingIOError when another process has it open, DataLoss
        when it is damaged, OutOfSpace, OSError."""
        self._path = Path(path)
        self._path.mkdir(parents=True, exist_ok=True)
        pointer = self._path / _CURRENT
        fresh = not pointer.exists()
        self._name = _FIRST if fresh else _pointed(pointer)
        self._db = _open(self._path / self._name, create=fresh)
        self._closed = False
        self._collecting = False
        self._turn = threading.Lock()
        """Held by flush, and by what ends a database under it."""
        self._state = threading.Lock()
        """Held for moments, around all that changes what a snapshot shows or that makes one."""
        self._snapshots: WeakSet[_RocksSnapshot] = WeakSet()
        self._options = WriteOptions()
        # The stub has it wrong: both are attributes.
        self._options.disable_wal = True  # type: ignore[method-assign, assignment]
        self._options.memtable_insert_hint_per_batch = True
        if fresh:
            sync_directory(self._path.parent)
            _point(pointer, self._name)
        self._remove_others()

    def get(self, key: bytes) -> bytes | None:
        """See Reads."""
        try:
            value: bytes | None = self._db.get(key)
        except Exception as error:  # boundary: rocksdict raises bare exceptions
            raise _unreadable(error, key) from None
        return value

    def get_many(self, keys: list[bytes]) -> list[bytes | None]:
        """See KeyValue."""
        try:
            values: list[bytes | None] = self._db.get(keys)  # type: ignore[arg-type, assignment]
        except Exception as error:  # boundary: rocksdict raises bare exceptions
            raise _unreadable(error) from None
        return values

    def scan(self, begin: bytes, end: bytes, reverse: bool = False) -> Iterator[Record]:
        """See Reads."""
        return self.snapshot().scan(begin, end, reverse)

    def write(self, changes: Mapping[bytes, bytes | None]) -> None:
        """See KeyValue."""
        batch = _batch(changes.items())
        with self._state:
            _write(self._db, batch, self._options)

    def snapshot(self, walk: Walk | None = None) -> Snapshot:
        """See KeyValue."""
        with self._state:
            try:
                ahead = _items(self._db, walk) if walk else None
                frozen = _RocksSnapshot(self._db.iter(), walk, ahead)
            except Exception as error:  # boundary: rocksdict raises bare exceptions
                raise _unreadable(error) from None
            self._snapshots.add(frozen)
        return frozen

    def unfrozen(self, walk: Walk) -> Snapshot:
        """See KeyValue."""
        try:
            return _RocksLive(self._db, walk)
        except Exception as error:  # boundary: rocksdict raises bare exceptions
            raise _unreadable(error) from None

    def flush(self) -> None:
        """See KeyValue. Waits without the interpreter lock."""
        with self._turn:
            _flush(self._db)
            self._collect()

    def replace(self, records: Iterable[Record]) -> None:
        """See KeyValue."""
        name = f"db-{int(self._name.removeprefix('db-')) + 1}"
        target = self._path / name
        shutil.rmtree(target, ignore_errors=True)
        fresh = _open(target, create=True)
        try:
            for part in _parts(records):
                _write(fresh, _batch(part), self._options)
            _flush(fresh)
        except BaseException:
            fresh.close()
            shutil.rmtree(target, ignore_errors=True)
            raise
        sync_directory(target)
        with self._turn:
            _point(self._path / _CURRENT, name)
            with self._state:
                old, self._db, self._name = self._db, fresh, name
                self._collecting = False
                self._let_go(old)
        self._remove_others()

    def close(self) -> None:
        """See KeyValue."""
        with self._turn, self._state:
            if not self._closed:
                self._closed = True
                self._let_go(self._db)

    def _collect(self) -> None:
        """Has merging empty the oldest blob files while there is much garbage, and only then: else
        it would copy what nobody deletes."""
        try:
            size = self._db.property_int_value("rocksdb.live-blob-file-size") or 0
            garbage = self._db.property_int_value("rocksdb.live-blob-file-garbage-size") or 0
            share = STORE_BLOB_GARBAGE_MIN if self._collecting else STORE_BLOB_GARBAGE_MAX
            if (garbage > size * share) != self._collecting:
                self._collecting = not self._collecting
                wanted = str(self._collecting).lower()
                self._db.set_options({"enable_blob_garbage_collection": wanted})
        except Exception as error:  # boundary: rocksdict raises bare exceptions
            raise _translated(error) from None

    def _let_go(self, db: Rdict) -> None:
        """Closes a database: its lock is held as long as anything reads from it."""
        for frozen in list(self._snapshots):
            frozen.close()
        try:
            db.close()
        except Exception as error:  # boundary: rocksdict raises bare exceptions
            failure = _translated(error)
            if not isinstance(failure, DataLoss):
                # What was written is flushed, or nobody was told that it is.
                log.warning("the store was not closed in order, nothing is lost: %s", failure)
            # It is closed all the same, and who wrote the last has been told.

    def _remove_others(self) -> None:
        (self._path / _PARTIAL).unlink(missing_ok=True)
        for other in self._path.glob("db-*"):
            if other.name != self._name:
                shutil.rmtree(other, ignore_errors=True)


class _RocksSnapshot:
    """A frozen state of RocksDB: one cursor, which all reads share.

    Not rocksdict's own Snapshot: its iterators show the live state. A cursor shows the state of the
    moment when it was made, and nothing else does. So does the iterator for one walk, made at the
    same moment: it costs half as much a record, but goes forward only and hides damage.
    """

    def __init__(
        self, cursor: RdictIter | None, walk: Walk | None, ahead: Iterator[Record] | None
    ) -> None:
        self._cursor = cursor
        self._ahead = ahead
        self._ahead_at = walk
        """The rest of the walk: what `_ahead` gives next, and where it ends."""
        self._turn = threading.Lock()
        self._owner: object = None
        """The scan that stands where the cursor is."""

    def get(self, key: bytes) -> bytes | None:
        """See Reads."""
        with self._turn:
            self._owner = None
            try:
                cursor = self._open_cursor()
                cursor.seek(key)
                if cursor.valid():
                    return cursor.value() if cursor.key() == key else None
                cursor.status()
            except Exception as error:  # boundary: rocksdict raises bare exceptions
                raise _unreadable(error, key) from None
        return None

    def scan(self, begin: bytes, end: bytes, reverse: bool = False) -> Iterator[Record]:
        """See Reads."""
        with self._turn:
            self._open_cursor()
        return self._steps(begin, end, reverse)

    def part(self, begin: bytes, end: bytes, records_max: int) -> tuple[list[Record], bool]:
        """See Snapshot."""
        with self._turn:
            try:
                part, ended = self._walk_on(begin, end, records_max)
                if ended or len(part) == records_max:
                    return part, ended
                # Off the walk, at the last record of all, or at damage: the cursor can tell.
                cursor = self._open_cursor()
                self._owner = None
                cursor.seek(part[-1][0] + b"\0" if part else begin)
                rest, ended = _take(cursor, begin, end, False, records_max - len(part))
            except Exception as error:  # boundary: rocksdict raises bare exceptions
                raise _unreadable(error, begin) from None
        return part + rest, ended

    def close(self) -> None:
        """See Snapshot."""
        with self._turn:
            self._cursor = self._ahead = None

    def _walk_on(self, begin: bytes, end: bytes, records_max: int) -> tuple[list[Record], bool]:
        """The next records of the walk, and whether others stand behind the last ones: fewer where
        nothing can be read, none when it is not there."""
        if self._ahead is None or self._ahead_at != (begin, end):
            return [], False
        part = list(islice(self._ahead, records_max))
        ended = bool(part) and part[-1][0] >= end
        if ended:
            del part[bisect_left(part, (end,)) :]
        if ended or len(part) < records_max:
            self._ahead = None
        else:
            self._ahead_at = part[-1][0] + b"\0", end
        return part, ended

    def _open_cursor(self) -> RdictIter:
        if self._cursor is None:
            raise Closed(CLOSED)
        return self._cursor

    def _steps(self, begin: bytes, end: bytes, reverse: bool) -> Iterator[Record]:
        me = object()
        wanted = STORE_SCAN_RECORDS_MIN
        while True:
            part, ended = self._fetch(me, begin, end, reverse, wanted)
            yield from part
            if ended:
                return
            if reverse:
                end = part[-1][0]
            else:
                begin = part[-1][0] + b"\0"
            wanted = min(wanted * 2, STORE_SCAN_RECORDS_MAX)

    def _fetch(
        self, owner: object, begin: bytes, end: bytes, reverse: bool, records_max: int
    ) -> tuple[list[Record], bool]:
        with self._turn:
            try:
                cursor = self._open_cursor()
                if self._owner is not owner:
                    _seek(cursor, begin, end, reverse)
                    self._owner = owner
                return _take(cursor, begin, end, reverse, records_max)
            except Exception as error:  # boundary: rocksdict raises bare exceptions
                raise _unreadable(error, begin) from None


class _RocksLive(_RocksSnapshot):
    """The live state in the place of a frozen one: whoever reads it lets nothing be written."""

    def __init__(self, db: Rdict, walk: Walk) -> None:
        super().__init__(None, walk, _items(db, walk))
        self._db: Rdict | None = db

    def get(self, key: bytes) -> bytes | None:
        """See Reads."""
        if self._db is None:
            raise Closed(CLOSED)
        try:
            value: bytes | None = self._db.get(key)
        except Exception as error:  # boundary: rocksdict raises bare exceptions
            raise _unreadable(error, key) from None
        return value

    def close(self) -> None:
        """See Snapshot."""
        super().close()
        self._db = None

    def _open_cursor(self) -> RdictIter:
        if self._db is None:
            raise Closed(CLOSED)
        if self._cursor is None:
            self._cursor = self._db.iter()
        return self._cursor


def _seek(cursor: RdictIter, begin: bytes, end: bytes, reverse: bool) -> None:
    """To the first record of a range in walking order."""
    if not reverse:
        cursor.seek(begin)
        return
    cursor.seek_for_prev(end)
    if cursor.valid() and cursor.key() == end:
        cursor.prev()


def _take(
    cursor: RdictIter, begin: bytes, end: bytes, reverse: bool, records_max: int
) -> tuple[list[Record], bool]:
    """Some records from the cursor on, at least one, and whether they are the last. A damaged
    block looks like the end of everything: only `status` tells."""
    part: list[Record] = []
    size = 0
    step = cursor.prev if reverse else cursor.next
    while cursor.valid():
        key: bytes = cursor.key()
        if key < begin if reverse else key >= end:
            return part, True
        value: bytes = cursor.value()
        part.append((key, value))
        step()
        size += len(value)
        if len(part) >= records_max or size >= STORE_SCAN_BYTES_MAX:
            return part, False
    cursor.status()
    return part, True


def _open(path: Path, *, create: bool, access: AccessType | None = None) -> Rdict:
    tables = BlockBasedOptions()
    tables.set_bloom_filter(10, False)
    tables.set_block_cache(Cache(STORE_CACHE_BYTES))
    tables.set_checksum_type(ChecksumType.xxh3())
    options = Options(raw_mode=True)
    options.create_if_missing(create)
    options.set_atomic_flush(True)
    options.set_block_based_table_factory(tables)
    options.set_compression_type(DBCompressionType.lz4())
    options.set_allow_concurrent_memtable_write(False)  # One thread writes.
    options.set_write_buffer_size(STORE_MEMTABLE_BYTES)
    options.set_enable_blob_files(True)
    options.set_min_blob_size(STORE_BLOB_BYTES_MIN)
    options.set_blob_compression_type(DBCompressionType.none())
    options.set_blob_gc_age_cutoff(STORE_BLOB_GARBAGE_MAX)
    options.set_blob_gc_force_threshold(STORE_BLOB_GARBAGE_MAX)
    options.set_level_zero_file_num_compaction_trigger(STORE_FRESH_TABLES_MAX)
    options.set_max_background_jobs(2)
    options.set_bytes_per_sync(1 << 20)
    options.set_keep_log_file_num(2)
    options.set_stats_dump_period_sec(0)
    try:
        return Rdict(str(path), options, access_type=access or AccessType.read_write())
    except Exception as error:  # boundary: rocksdict raises bare exceptions
        text = str(error)
        if "While lock file" in text or "lock hold by" in text:
            raise BlockingIOError(EAGAIN, f"another process has {path} open") from None
        if "does not exist" in text:
            raise DataLoss(f"the store {path} is gone: {text}") from None
        raise _translated(error) from None


def _items(db: Rdict, walk: Walk) -> Iterator[Record]:
    # Without an upper bound: of that, RocksDB would be given an address that rocksdict soon frees.
    return db.items(from_key=walk[0])  # type: ignore[return-value]


def _batch(changes: Iterable[tuple[bytes, bytes | None]]) -> WriteBatch:
    batch = WriteBatch(raw_mode=True)
    for key, value in changes:
        if value is None:
            batch.delete(key)
        else:
            batch.put(key, value)
    return batch


def _write(db: Rdict, batch: WriteBatch, options: WriteOptions) -> None:
    try:
        db.write(batch, options)
    except Exception as error:  # boundary: rocksdict raises bare exceptions
        raise _translated(error) from None


def _flush(db: Rdict) -> None:
    try:
        db.flush(True)
    except Exception as error:  # boundary: rocksdict raises bare exceptions
        raise _translated(error) from None


def _parts(records: Iterable[Record]) -> Iterator[list[Record]]:
    part: list[Record] = []
    size = 0
    for record in records:
        part.append(record)
        size += len(record[0]) + len(record[1])
        if size >= STORE_LOAD_BYTES:
            yield part
            part, size = [], 0
    yield part


def _unreadable(error: BaseException, key: bytes = b"") -> Exception:
    """What an exception of rocksdict means to whoever reads."""
    found = _translated(error, key)
    if type(found) is OSError:
        return DataLoss(f"the store cannot be read{f' at or near {key!r}' if key else ''}: {error}")
    return found


def _translated(error: BaseException, key: bytes = b"") -> Exception:
    """What an exception of rocksdict means."""
    text = str(error)
    if isinstance(error, DbClosedError | Closed):
        return Closed(CLOSED)
    if "No space left" in text:
        return OutOfSpace(f"the disk of the store is full: {text}")
    # A file that has vanished is damage of this store; other errors may be of the whole disk.
    if text.startswith(("Corruption", "IO error: No such file or directory")):
        return DataLoss(f"the store is damaged{f' at or near {key!r}' if key else ''}: {text}")
    return OSError(EIO, f"the store failed: {text}")


def _pointed(pointer: Path) -> str:
    """The name that `_point` has written."""
    name = pointer.read_bytes().decode(errors="replace").removesuffix("\n")
    if not re.fullmatch(r"db-[1-9][0-9]*", name):
        raise DataLoss(f"the store is damaged: {pointer} names no database, but {name[:40]!r}")
    return name


def _point(pointer: Path, name: str) -> None:
    """Makes `pointer` hold `name`, durably: the old or the new name after a crash."""
    partial = pointer.with_name(_PARTIAL)
    with partial.open("w") as file:
        file.write(name + "\n")
        file.flush()
        os.fsync(file.fileno())
    partial.replace(pointer)
    sync_directory(pointer.parent)
