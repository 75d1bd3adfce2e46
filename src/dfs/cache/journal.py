"""What of the cache directory is in the tree already, across restarts: `<state>/drops.db`.

One row for each drop that was stored: its signature then, its hash, the revision that holds it. A
scan compares with it and reads only what differs. A second table keeps, for drops that could not be
stored yet, the revision that they replace: a conflict is noticed even after a restart. A third one
holds marks: what the user wants of a path, and up to where content has come here. A fourth one says
more of the few drops with an owner or extended attributes that are carried, or with some that could
not be.

All of it is in memory; changes are collected and written now and then. Losing the last ones is
harmless: such a drop is read again and found to be equal to what is committed.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sqlite3
import threading
from collections.abc import Callable
from typing import Final, NamedTuple

from ..client.values import Kind
from .attributes import Attributes, decoded, encoded
from .take import Look, Signature, Taken, storable

log = logging.getLogger(__name__)

_TABLES = """
CREATE TABLE IF NOT EXISTS drops (
  path TEXT PRIMARY KEY, kind INTEGER, ino INTEGER, size INTEGER, mtime_ns INTEGER,
  ctime_ns INTEGER, racy INTEGER, mode INTEGER, sha256 BLOB, target TEXT, revision INTEGER
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS pending (path TEXT PRIMARY KEY, base INTEGER) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS marks (
  kind TEXT, path TEXT, value INTEGER, PRIMARY KEY (kind, path)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS described (
  path TEXT PRIMARY KEY, metadata BLOB, left_out TEXT
) WITHOUT ROWID;
"""
PIN: Final = "pin"
"""A mark: content below this path stays on this machine."""
DELETE: Final = "delete"
"""A mark: it was removed from the cache directory; its value is the revision that goes."""
MARKED: Final = "marker"
"""Marks: what tells the marker file of the cache directory from another one."""
KEPT: Final = "kept"
"""A mark of the root: up to which revision content has come here, see `Feeder.kept_until`."""
MARKS: Final = (PIN, DELETE, MARKED, KEPT)


class Row(NamedTuple):
    """A drop that is in the tree."""

    kind: Kind
    signature: Signature
    racy: bool
    mode: int
    mtime_ns: int
    sha256: bytes
    target: str
    revision: int
    """What the tree held when this drop was dealt with: its own version, or one equal to it, or
    the one that won over it."""
    uid: int | None = None
    """None: owners were not carried then."""
    gid: int | None = None
    xattrs: Attributes = ()
    left_out: str = ""
    """Why it went without extended attributes that it has."""


Changes = list[tuple[str, Row | None, int | None]]
"""(path, its row, the revision that it replaces while it waits)"""
MarkChanges = list[tuple[str, str, int | None]]
"""(kind, path, its value; None = taken away)"""


def row_of(taken: Taken, revision: int) -> Row:
    """The row for a drop that has just been stored as `revision`."""
    return Row(
        taken.kind, taken.signature, taken.racy, taken.mode, taken.mtime_ns, taken.sha256,
        taken.target, revision, taken.uid, taken.gid, taken.xattrs, taken.left_out,
    )


class Journal:
    """Rows by path. Only `open`, `write` and `close` touch the disk."""

    def __init__(self, state: str, owners: bool = False) -> None:
        """`owners`: they are carried, so that a drop with another one is another."""
        self._owners = owners
        self.file = os.path.join(state, "drops.db")
        self.rows: dict[str, Row] = {}
        self.bases: dict[str, int] = {}
        self.unseen: dict[str, Row] = {}
        """Of drops that are gone: what was stored last, unless the stream has told of it. bounded:
        by what is stored in the while that the stream is behind."""
        self.marks: dict[str, dict[str, int]] = {kind: {} for kind in MARKS}
        """By kind and path. Changed by `mark` only."""
        self.forgotten: Callable[[str, Row], None] = lambda _path, _row: None
        """Called with each row that goes because its drop does."""
        self.stored: Callable[[str], None] = lambda _path: None
        """Called when a drop was dealt with."""
        self._dirty: set[str] = set()
        self._dirty_marks: set[tuple[str, str]] = set()
        self._database: sqlite3.Connection | None = None
        self._lock = threading.Lock()
        self._marks_lock = threading.Lock()

    def open(self) -> None:
        """Reads all rows; a damaged file is set aside, and everything is compared anew."""
        try:
            self._load()
        except sqlite3.DatabaseError as error:
            self._set_aside(error)
            self._load()

    def _set_aside(self, error: sqlite3.DatabaseError) -> None:
        log.warning("%s is damaged (%s): set aside, comparing everything anew; what was pinned has "
                    "to be pinned again", self.file, error)
        if self._database is not None:
            self._database.close()
        self.rows, self.bases, self.marks = {}, {}, {kind: {} for kind in MARKS}
        os.replace(self.file, self.file + ".damaged")
        for suffix in ("-wal", "-shm"):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self.file + suffix)

    def _load(self) -> None:
        self._database = sqlite3.connect(
            self.file, check_same_thread=False, isolation_level=None
        )
        self._database.executescript(
            "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL;" + _TABLES
        )
        for path, kind, ino, size, mtime, ctime, racy, *rest in self._database.execute(
            "SELECT path, kind, ino, size, mtime_ns, ctime_ns, racy, mode, sha256, target, revision"
            " FROM drops"
        ):
            mode, sha256, target, revision = rest
            self.rows[path] = Row(
                Kind(kind), Signature(ino, size, mtime, ctime), bool(racy), mode, mtime, sha256,
                target, revision,
            )
        for path, metadata, left_out in self._database.execute(
            "SELECT path, metadata, left_out FROM described"
        ):
            if path in self.rows:
                uid, gid, xattrs = decoded(metadata)
                self.rows[path] = self.rows[path]._replace(
                    uid=uid, gid=gid, xattrs=xattrs, left_out=left_out
                )
        self.bases = dict(self._database.execute("SELECT path, base FROM pending"))
        for mark, path, value in self._database.execute("SELECT kind, path, value FROM marks"):
            self.marks.setdefault(mark, {})[path] = value

    def left_out(self) -> list[tuple[str, str]]:
        """(path, why) of drops that went without extended attributes that they have."""
        return [(path, row.left_out) for path, row in self.rows.items() if row.left_out]

    def unchanged(self, path: str, look: Look) -> bool:
        """Whether a look at the entry is enough to know that it was dealt with."""
        row = self.rows.get(path)
        if row is None or row.kind is not look.kind or row.mode != look.mode or row.racy:
            return False
        if self._owners and (row.uid, row.gid) != (look.uid, look.gid):
            return False
        if look.kind is Kind.DIRECTORY:
            return row.signature.ctime_ns == look.signature.ctime_ns
        return row.signature == look.signature

    def holds(self, path: str, taken: Taken) -> bool:
        """Whether that directory was dealt with already."""
        row = self.rows.get(path)
        if row is None or (self._owners and (row.uid, row.gid) != (taken.uid, taken.gid)):
            return False
        return (row.kind, row.mode, row.xattrs, row.left_out) == (
            taken.kind, taken.mode, taken.xattrs, taken.left_out
        )

    def store(self, path: str, row: Row) -> None:
        """The drop was dealt with."""
        self.rows[path] = row
        self.bases.pop(path, None)
        self.unseen.pop(path, None)
        self._dirty.add(path)
        self.stored(path)

    def wait(self, path: str, base: int) -> None:
        """The drop waits, and replaces revision `base`. One that can never be stored, for its name,
        need not be remembered."""
        if self.bases.get(path) != base and storable(path):
            self.bases[path] = base
            self._dirty.add(path)

    def forget(self, path: str) -> None:
        """The drop is gone from the cache directory."""
        row, base = self.rows.pop(path, None), self.bases.pop(path, None)
        if row is not None or base is not None:
            self._dirty.add(path)
        if row is not None:
            self.unseen[path] = row
            self.forgotten(path, row)

    def seen(self, revision: int) -> None:
        """The stream of changes has told all up to a revision."""
        while self.unseen:
            path, row = next(iter(self.unseen.items()))
            if row.revision > revision:
                break  # Those behind it are hardly older.
            del self.unseen[path]

    def forget_below(self, directory: str) -> None:
        """A whole directory is gone."""
        prefix = directory + "/"
        for path in [p for p in (*self.rows, *self.bases) if p.startswith(prefix)]:
            self.forget(path)

    def mark(self, kind: str, path: str, value: int | None) -> None:
        """Sets a mark, or takes it away."""
        if self.marks[kind].get(path) == value:
            return
        if value is None:
            del self.marks[kind][path]
        else:
            self.marks[kind][path] = value
        with self._marks_lock:
            self._dirty_marks.add((kind, path))

    def clear_marks(self, kind: str) -> None:
        """Takes all marks of a kind away."""
        for path in list(self.marks[kind]):
            self.mark(kind, path, None)

    def collect_marks(self) -> MarkChanges:
        """What changed since the last call, for `write_marks`."""
        with self._marks_lock:
            dirty, self._dirty_marks = self._dirty_marks, set()
        return [(kind, path, self.marks[kind].get(path)) for kind, path in dirty]

    def write_marks(self, changes: MarkChanges) -> None:
        """Writes in one transaction. Blocks; any thread. Raises OSError: the changes are written
        with the next ones."""
        try:
            self._transact(lambda database: _write_marks(database, changes), bool(changes))
        except OSError:
            with self._marks_lock:
                self._dirty_marks |= {(kind, path) for kind, path, _ in changes}
            raise

    def collect(self) -> Changes:
        """What changed since the last call, for `write`."""
        dirty, self._dirty = self._dirty, set()
        return [(path, self.rows.get(path), self.bases.get(path)) for path in dirty]

    def write(self, changes: Changes) -> None:
        """Writes in one transaction. Blocks; any thread. Raises OSError: the changes are lost,
        which costs a comparison at the next start."""
        self._transact(lambda database: self._write(database, changes), bool(changes))

    def _transact(self, write: Callable[[sqlite3.Connection], None], wanted: bool) -> None:
        if not wanted or self._database is None:
            return
        with self._lock:
            try:
                self._database.execute("BEGIN")
                write(self._database)
                self._database.execute("COMMIT")
            except sqlite3.Error as error:
                with contextlib.suppress(sqlite3.Error):
                    self._database.execute("ROLLBACK")
                raise OSError(f"{self.file} cannot be written: {error}") from error

    def _write(self, database: sqlite3.Connection, changes: Changes) -> None:
        database.executemany(
            "INSERT OR REPLACE INTO drops VALUES (?,?,?,?,?,?,?,?,?,?,?)",
            [(path, *_columns(row)) for path, row, _ in changes if row],
        )
        _delete(database, "drops", [path for path, row, _ in changes if not row])
        _delete(database, "pending", [path for path, _, base in changes if base is None])
        database.executemany(
            "INSERT OR REPLACE INTO pending VALUES (?,?)",
            [(path, base) for path, _, base in changes if base is not None],
        )
        _delete(database, "described", [path for path, _, _ in changes])
        database.executemany("INSERT INTO described VALUES (?,?,?)", [
            (path, encoded(row.uid, row.gid, row.xattrs), row.left_out)
            for path, row, _ in changes
            if row and (row.uid is not None or row.xattrs or row.left_out)
        ])

    def close(self) -> None:
        """Writes the rest and closes the file, which is closed also if it raises OSError."""
        database = self._database
        if database is None:
            return
        try:
            try:  # Who loses rows compares anew; a mark is the user's word.
                self.write_marks(self.collect_marks())
            finally:
                self.write(self.collect())
        finally:
            self._database = None
            database.close()


def _delete(database: sqlite3.Connection, table: str, paths: list[str]) -> None:
    """Most have no row there, and mostly nothing has one."""
    if paths and database.execute(f"SELECT 1 FROM {table} LIMIT 1").fetchone():
        database.executemany(f"DELETE FROM {table} WHERE path=?", [(path,) for path in paths])


def _write_marks(database: sqlite3.Connection, changes: MarkChanges) -> None:
    database.executemany(
        "INSERT OR REPLACE INTO marks VALUES (?,?,?)",
        [change for change in changes if change[2] is not None],
    )
    database.executemany(
        "DELETE FROM marks WHERE kind=? AND path=?",
        [(kind, path) for kind, path, value in changes if value is None],
    )


def _columns(row: Row) -> tuple[object, ...]:
    return (
        int(row.kind), row.signature.ino, row.signature.size, row.mtime_ns, row.signature.ctime_ns,
        int(row.racy), row.mode, row.sha256, row.target, row.revision,
    )
