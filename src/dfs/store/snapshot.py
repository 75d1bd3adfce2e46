"""The whole state as one stream of bytes: written to a file, read back whole or not at all.

    "DFSSNAP\\n"  version u32
    records      length of key u32, length of value u32, key, value; the first is `m`
    end          0 u32, 0 u32, count of records u64, SHA-256 of everything before
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from struct import Struct
from typing import BinaryIO, Final

from dfs.durable import sync_directory
from dfs.errors import DataLoss
from dfs.kv import Reads, Record
from dfs.limits import KEY_BYTES_MAX, STREAM_CHUNK_BYTES_MAX, VALUE_BYTES_MAX
from dfs.store.layout import (
    CURRENT,
    INDEX,
    META_KEY,
    STORE_END,
    Meta,
    UnknownEntry,
    digest_of,
    record_of,
    unpack_meta,
    unpack_version,
    unseal,
)

MAGIC: Final = b"DFSSNAP\n"
SNAPSHOT_FORMAT: Final = 1
HEAD: Final = MAGIC + SNAPSHOT_FORMAT.to_bytes(4, "little")
_LENGTHS = Struct("<II")
_COUNT = Struct("<Q")
_DIGEST_BYTES = 32
_EXTRA_BYTES_MAX = 16 << 10
"""More than a store key has beside the path, and a value beside the content."""
_STATE_HASH_MODULUS = 1 << 128


def write(source: Reads, path: str | Path) -> None:
    """Writes all records to a file that appears at `path` complete and on disk. Raises DataLoss
    when a stored value is damaged: a snapshot never passes damage on."""
    target = Path(path)
    partial = target.with_name(target.name + ".part")
    try:
        with partial.open("wb") as file:
            for part in encoded(source, HEAD, hashlib.sha256()):
                file.write(part)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(target)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    sync_directory(target.parent)


def read(path: str | Path) -> Iterator[Record]:
    """Yields all records of a snapshot file; what they say is true only when the end is reached.
    Raises DataLoss when the file is damaged, UnknownEntry when a newer version wrote it."""
    with Path(path).open("rb") as file:
        reader = Reader(file, f"the snapshot {path}")
        if reader.take(len(MAGIC)) != MAGIC:
            raise DataLoss(f"{path} is no snapshot of dfs")
        written = int.from_bytes(reader.take(4), "little")
        if written != SNAPSHOT_FORMAT:
            raise UnknownEntry(
                f"the snapshot has format {written}, this version of dfs knows {SNAPSHOT_FORMAT}:"
                " update this node to the version of the others"
            )
        yield from checked(reader)
        reader.end()


def checked(reader: Reader) -> Iterator[Record]:
    """Yields all records that follow and raises DataLoss at the end, unless they are whole and what
    the state counted."""
    check = _Check()
    for record in reader.records():
        check.add(*record)
        yield record
    reader.finish(check.count)
    check.finish(reader.name)


def encoded(source: Reads, head: bytes, digest: hashlib._Hash) -> Iterator[bytes]:
    """The parts of such a stream behind `head`, which the digest covers as well: a new SHA-256,
    which has seen all but itself in the end. A part is about STREAM_CHUNK_BYTES_MAX, or one record.
    Raises DataLoss when a stored value is damaged."""
    buffer = bytearray(head)
    count = 0
    for key, value in _all_records(source):
        if key[:1] != INDEX:
            unseal(key, value)
        buffer += encoded_record(key, value)
        count += 1
        if len(buffer) >= STREAM_CHUNK_BYTES_MAX:
            digest.update(buffer)
            yield bytes(buffer)
            buffer.clear()
    buffer += _LENGTHS.pack(0, 0) + _COUNT.pack(count)
    digest.update(buffer)
    yield bytes(buffer)
    yield digest.digest()


def encoded_record(key: bytes, value: bytes) -> bytes:
    """One record with its lengths."""
    return _LENGTHS.pack(len(key), len(value)) + key + value


def _all_records(source: Reads) -> Iterator[Record]:
    meta = source.get(META_KEY)
    yield META_KEY, Meta().pack() if meta is None else meta
    for key, value in source.scan(b"", STORE_END):
        if key != META_KEY:
            yield key, value


class Reader:
    """Takes a stream apart and digests it on the way."""

    def __init__(self, file: BinaryIO, name: str) -> None:
        """`name`: what it is, for messages."""
        self._file = file
        self.name = name
        self.at = 0
        """So many bytes have been read."""
        self._digest = hashlib.sha256()

    def read(self, size: int) -> bytes:
        """The next bytes, all of them, which have a digest of their own. Raises DataLoss."""
        taken = self._file.read(size)
        self.at += len(taken)
        if len(taken) != size:
            raise DataLoss(f"{self.name} ends early, at byte {self.at:,}")
        return taken

    def take(self, size: int) -> bytes:
        """The next bytes, all of them, for the digest. Raises DataLoss."""
        taken = self.read(size)
        self._digest.update(taken)
        return taken

    def record(self) -> Record | None:
        """The next record; None: the end mark. Raises DataLoss."""
        key_length, value_length = _LENGTHS.unpack(self.take(_LENGTHS.size))
        if not key_length:
            return None
        if (
            key_length > KEY_BYTES_MAX + _EXTRA_BYTES_MAX
            or value_length > VALUE_BYTES_MAX + _EXTRA_BYTES_MAX
        ):
            raise self.damaged("a length cannot be")
        return self.take(key_length), self.take(value_length)

    def records(self) -> Iterator[Record]:
        """Up to the end mark."""
        while record := self.record():
            yield record

    def finish(self, count: int) -> None:
        """Compares count and digest."""
        (written,) = _COUNT.unpack(self.take(_COUNT.size))
        if written != count:
            raise self.damaged(f"it says {written:,} records and holds {count:,}")
        self.check()

    def check(self) -> None:
        """Compares the digest of all that was taken with the one that stands here."""
        if self.read(_DIGEST_BYTES) != self._digest.digest():
            raise self.damaged("its digest does not fit")

    def end(self) -> None:
        """Nothing may follow."""
        if self._file.read(1):
            raise self.damaged("something follows behind its end")

    def damaged(self, what: str) -> DataLoss:
        """What to raise: what is wrong, and where it was noticed."""
        return DataLoss(f"{self.name} is damaged: {what}, before byte {self.at:,}")


class _Check:
    """Computes again what the state says of itself."""

    def __init__(self) -> None:
        self.count = 0
        self._meta = Meta()
        self._keys = 0
        self._state_hash = 0

    def add(self, key: bytes, value: bytes) -> None:
        """Takes note of one record."""
        self.count += 1
        if key == META_KEY:
            self._meta = unpack_meta(value)
        elif key[:1] == CURRENT:
            self._keys += 1
            record = record_of(unpack_version(key, value), value)
            self._state_hash += int.from_bytes(digest_of(key, record), "little")

    def finish(self, name: str) -> None:
        """Raises DataLoss unless the records are those that the state counted."""
        same_hash = self._state_hash % _STATE_HASH_MODULUS == self._meta.state_hash
        if self._keys != self._meta.keys or not same_hash:
            raise DataLoss(f"{name} holds other records than its state hash says")
