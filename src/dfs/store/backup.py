"""A backup: the whole state in one file that says what it is.

    "DFSBACK\n"  format u32, length of the head u32, head (JSON)
    records      as in a snapshot
    end          0 u32, 0 u32, count of records u64, SHA-256 of everything before

It is written while it is made, so what is only known in the end stands at the end: a stream that
was cut has no digest.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from struct import Struct
from typing import Final, NamedTuple

from dfs.errors import DataLoss
from dfs.kv import Reads, Record
from dfs.store.layout import INDEX, META_KEY, Meta, UnknownEntry, unpack_meta, unseal
from dfs.store.snapshot import Reader, checked, encoded

MAGIC: Final = b"DFSBACK\n"
BACKUP_FORMAT: Final = 1
_FIELDS = Struct("<II")
HEAD_BYTES_MAX: Final = 4_096
"""Ten times what the fields take: a longer head is damage."""


class Head(NamedTuple):
    """What stands at the beginning of a backup."""

    cluster: str
    """UUID of the cluster that it is from, in hex."""
    node: str
    """Name of the node that wrote it."""
    version: str
    """Of dfs there."""
    saved_ns: int
    """When, by that node's clock."""
    revision: int
    """Of the last change in it."""
    time_ns: int
    """When that was committed."""
    floor: int
    """History begins there."""
    keys: int
    content_bytes: int
    """Of content of the live files."""
    state_hash: str
    chain: str

    def encode(self) -> bytes:
        """With what stands before it."""
        text = json.dumps(self._asdict()).encode()
        return MAGIC + _FIELDS.pack(BACKUP_FORMAT, len(text)) + text


def head_of(source: Reads, cluster: bytes, node: str, version: str, saved_ns: int) -> Head:
    """What is to be said of a state."""
    value = source.get(META_KEY)
    meta = Meta() if value is None else unpack_meta(value)
    return _described(meta, cluster.hex(), node, version, saved_ns)


def _described(meta: Meta, cluster: str, node: str, version: str, saved_ns: int) -> Head:
    return Head(
        cluster, node, version, saved_ns, meta.applied, meta.time_ns, meta.floor, meta.keys,
        meta.content_bytes, meta.state_hash.to_bytes(16, "little").hex(), meta.chain.hex(),
    )  # fmt: skip


def encode(source: Reads, head: Head) -> Iterator[bytes]:
    """The parts of a backup, in order. Raises DataLoss when a stored value is damaged: a backup
    never passes damage on."""
    return encoded(source, head.encode())


@contextmanager
def opened(path: str | Path) -> Iterator[tuple[Head, Iterator[Record]]]:
    """What a backup says of itself, and its records. Nothing of it is true before the end of the
    records is reached. Raises DataLoss: it is damaged, or of another format; OSError."""
    with Path(path).open("rb") as file:
        reader = Reader(file, f"the backup {path}")
        head = _head(reader, path)
        yield head, _records(reader, head)


def _head(reader: Reader, path: str | Path) -> Head:
    if reader.take(len(MAGIC)) != MAGIC:
        raise DataLoss(f"{path} is no backup of dfs, or its first bytes are damaged")
    written, length = _FIELDS.unpack(reader.take(_FIELDS.size))
    if written != BACKUP_FORMAT:
        raise DataLoss(
            f"{reader.name} has format {written}, this version of dfs knows {BACKUP_FORMAT}: use"
            " a newer version, or it is damaged"
        )
    if length > HEAD_BYTES_MAX:
        raise DataLoss(f"{reader.name} is damaged: a length cannot be")
    try:
        found = json.loads(reader.take(length))
        head = Head(**found)
    except (ValueError, TypeError) as error:
        raise DataLoss(f"{reader.name} is damaged: its head cannot be read ({error})") from None
    return head


def _records(reader: Reader, head: Head) -> Iterator[Record]:
    meta: bytes | None = None
    try:
        for key, value in checked(reader):
            if key[:1] != INDEX:
                unseal(key, value)
            elif value:
                raise DataLoss(f"{reader.name} is damaged: the index holds a value")
            if meta is None:
                if key != META_KEY:
                    raise DataLoss(f"{reader.name} is damaged: it begins with another record")
                meta = value
            yield key, value
    except UnknownEntry as error:
        raise DataLoss(f"{reader.name} cannot be used: {error}") from None
    except DataLoss as error:
        if reader.name in error.text:
            raise
        raise DataLoss(f"{reader.name} is damaged: {error}") from None
    if meta is None:
        raise DataLoss(f"{reader.name} is damaged: it holds no record at all")
    if _described(unpack_meta(meta), *head[:4]) != head:
        raise DataLoss(f"{reader.name} is damaged: its head is that of another state")


def verify(path: str | Path) -> Head:
    """Reads all of a backup and computes again what it says: digest, checksum of each record, count
    of keys and state hash. Raises DataLoss with what is wrong; OSError."""
    with opened(path) as (head, records):
        for _ in records:
            pass
    return head
