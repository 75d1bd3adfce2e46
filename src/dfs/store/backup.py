"""A backup: the whole state, and the large contents it names, in one file that says what it is.

    "DFSBACK\n"  format u32, length of the head u32, head (JSON)
    records      as in a snapshot
    0 u32, 0 u32, count of records u64, SHA-256 of everything before
    contents     unless the head says that there are none: of each that the records name, in order
                 of SHA-256, its two records once more, and its chunks, but for those of zeros alone
    SHA-256 of everything before but what has a digest of its own, as each chunk has

It is written while it is made, so what is only known in the end stands at the end: a stream that
was cut has no digest. Format 1 had no contents, and ended with the first digest.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from struct import Struct
from typing import Final, NamedTuple

from dfs.errors import DataLoss
from dfs.kv import Record
from dfs.manifest import Manifest
from dfs.store.layout import (
    CHUNKS,
    CONTENT,
    INDEX,
    META_KEY,
    Meta,
    UnknownEntry,
    unpack_content,
    unpack_meta,
    unseal,
)
from dfs.store.read import View
from dfs.store.snapshot import Reader, checked, encoded, encoded_record

MAGIC: Final = b"DFSBACK\n"
BACKUP_FORMAT: Final = 2
WITHOUT_CONTENTS: Final = 1
"""The format before, which is read as well."""
_FIELDS = Struct("<II")
HEAD_BYTES_MAX: Final = 4_096
"""Ten times what the fields take: a longer head is damage."""

Told = Callable[[int], None]
"""Told how many bytes of a backup have been read."""


def silent(_read: int) -> None:
    """Tells nobody."""


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
    contents: int = 0
    """Large contents that live files and history name. In format 1 the records say it."""
    contents_bytes: int = 0
    with_contents: bool = False
    """They are in it."""

    @property
    def lacking(self) -> int:
        """So many large contents are not in it."""
        return 0 if self.with_contents else self.contents

    def encode(self) -> bytes:
        """With what stands before it."""
        text = json.dumps(self._asdict()).encode()
        return MAGIC + _FIELDS.pack(BACKUP_FORMAT, len(text)) + text


def head_of(
    view: View, cluster: bytes, node: str, version: str, saved_ns: int, with_contents: bool
) -> Head:
    """What is to be said of a state. Reads what it says of large contents. Raises DataLoss."""
    value = view.source.get(META_KEY)
    meta = Meta() if value is None else unpack_meta(value)
    count = size = 0
    for _, content in view.contents():
        count += 1
        size += content.size
    begin = Head(
        cluster.hex(), node, version, saved_ns, 0, 0, 0, 0, 0, "", "", count, size, with_contents
    )
    return _described(meta, begin)


def _described(meta: Meta, head: Head) -> Head:
    """The same head for another state."""
    return head._replace(
        revision=meta.applied, time_ns=meta.time_ns, floor=meta.floor, keys=meta.keys,
        content_bytes=meta.content_bytes, state_hash=meta.state_hash.to_bytes(16, "little").hex(),
        chain=meta.chain.hex(),
    )


# ---- writing -------------------------------------------------------------------------------------


class Encoder:
    """Makes a backup of a frozen state: `state`, then of each content that it names, in order,
    `content` and its chunks that are not empty, then `end`."""

    def __init__(self, view: View, head: Head) -> None:
        self._view, self._head = view, head
        self._digest = hashlib.sha256()

    def state(self) -> Iterator[bytes]:
        """The parts up to the contents. Raises DataLoss when a stored value is damaged: a backup
        never passes damage on."""
        return encoded(self._view.source, self._head.encode(), self._digest)

    def content(self, sha256: bytes) -> bytes:
        """What stands before the chunks of a content. Raises DataLoss."""
        source = self._view.source
        keys = CONTENT + sha256, CHUNKS + sha256
        part = b"".join(encoded_record(key, source.get(key) or b"") for key in keys)
        self._digest.update(part)
        return part

    def end(self) -> bytes:
        """The last part."""
        return self._digest.digest()


# ---- reading -------------------------------------------------------------------------------------


class Saved:
    """A backup that is being read: all `records`, then all `contents`, once. Nothing of it is true
    before the end of the contents is reached."""

    def __init__(self, reader: Reader, written: int, head: Head, told: Told) -> None:
        self.head = head
        """What it says of itself; of one of format 1 it is complete behind the records."""
        self._reader, self._format, self._told = reader, written, told
        self._named = _Named()

    def records(self) -> Iterator[Record]:
        """The records of the state. Raises DataLoss."""
        meta: bytes | None = None
        with _saying_where(self._reader):
            for key, value in checked(self._reader):
                if key[:1] != INDEX:
                    unseal(key, value)
                elif value:
                    raise self._reader.damaged("the index holds a value")
                if meta is None:
                    if key != META_KEY:
                        raise self._reader.damaged("it begins with another record")
                    meta = value
                self._named.add(key, value)
                self._told(self._reader.at)
                yield key, value
            if meta is None:
                raise self._reader.damaged("it holds no record at all")
            self._compare(unpack_meta(meta))

    def _compare(self, meta: Meta) -> None:
        """The head is that of the records."""
        count, size = self._named.count, self._named.bytes
        if self._format == WITHOUT_CONTENTS:
            self.head = self.head._replace(contents=count, contents_bytes=size)
        found = _described(meta, self.head)._replace(contents=count, contents_bytes=size)
        if found != self.head:
            raise self._reader.damaged("its head is that of another state")

    def contents(self) -> Iterator[tuple[Manifest, Iterator[tuple[int, bytes]]]]:
        """The large contents that are in it, each with its chunks that are not empty, verified:
        (number, bytes). Chunks that are not taken are passed. Raises DataLoss."""
        found = _Named()
        with _saying_where(self._reader):
            for _ in range(self.head.contents if self.head.with_contents else 0):
                manifest = self._manifest(found)
                chunks = self._chunks(manifest)
                yield manifest, chunks
                for _ in chunks:
                    pass
            if self.head.with_contents and found.said() != self._named.said():
                raise self._reader.damaged("its contents are not those that its records name")
            if self._format != WITHOUT_CONTENTS:
                self._reader.check()
            self._reader.end()

    def _manifest(self, found: _Named) -> Manifest:
        content, chunks = self._reader.record(), self._reader.record()
        if not content or not chunks or (content[0][:1], chunks[0][:1]) != (CONTENT, CHUNKS):
            raise self._reader.damaged("other records stand where a content has to be")
        sha256, digests = chunks[0][1:], unseal(*chunks)
        size, chunk_bytes = unpack_content(*content)[1:]
        found.add(*content)
        found.add(*chunks)
        return Manifest(sha256, size, chunk_bytes, digests)

    def _chunks(self, manifest: Manifest) -> Iterator[tuple[int, bytes]]:
        for number in range(manifest.chunks):
            if manifest.empty(number):
                continue
            data = self._reader.read(manifest.length(number))
            if hashlib.sha256(data).digest() != manifest.digest(number):
                raise self._reader.damaged(
                    f"chunk {number} of the content {manifest.sha256.hex()} is another"
                )
            self._told(self._reader.at)
            yield number, data


class _Named:
    """What records say of large contents, whatever their number: how many, how large, and a
    digest of it. Those of one kind come in the order of their keys."""

    def __init__(self) -> None:
        self.count = self.bytes = 0
        self._digests = {CONTENT: hashlib.sha256(), CHUNKS: hashlib.sha256()}

    def add(self, key: bytes, value: bytes) -> None:
        """Takes note of a record of any kind."""
        if digest := self._digests.get(key[:1]):
            digest.update(encoded_record(key, value))
        if key[:1] == CONTENT:
            self.count += 1
            self.bytes += unpack_content(key, value).size

    def said(self) -> list[bytes]:
        """The digest, by kind of record."""
        return [digest.digest() for digest in self._digests.values()]


@contextmanager
def opened(path: str | Path, told: Told = silent) -> Iterator[Saved]:
    """A backup to read. Raises DataLoss: it is damaged, or of another format; OSError."""
    with Path(path).open("rb") as file:
        reader = Reader(file, f"the backup {path}")
        written, head = _head(reader, path)
        yield Saved(reader, written, head, told)


def _head(reader: Reader, path: str | Path) -> tuple[int, Head]:
    if reader.take(len(MAGIC)) != MAGIC:
        raise DataLoss(f"{path} is no backup of dfs, or its first bytes are damaged")
    written, length = _FIELDS.unpack(reader.take(_FIELDS.size))
    if written not in (WITHOUT_CONTENTS, BACKUP_FORMAT):
        raise DataLoss(
            f"{reader.name} has format {written}, this version of dfs knows {WITHOUT_CONTENTS} to"
            f" {BACKUP_FORMAT}: use a newer version, or it is damaged"
        )
    if length > HEAD_BYTES_MAX:
        raise reader.damaged("a length cannot be")
    return written, _decoded(reader.take(length), reader)


def _decoded(text: bytes, reader: Reader) -> Head:
    try:
        return Head(**json.loads(text))
    except (ValueError, TypeError) as error:
        raise reader.damaged(f"its head cannot be read ({error})") from None


def expected_bytes(begin: bytes) -> int:
    """About how large a backup will be that begins so, for people who wait; 0 = it does not say."""
    try:
        _, head = _head(Reader(BytesIO(begin), "the backup"), "it")
    except DataLoss:
        return 0
    if head.with_contents:
        return max(head.content_bytes, head.contents_bytes)
    return max(head.content_bytes - head.contents_bytes, 0)


@contextmanager
def _saying_where(reader: Reader) -> Iterator[None]:
    try:
        yield
    except UnknownEntry as error:
        raise DataLoss(f"{reader.name} cannot be used: {error}") from None
    except DataLoss as error:
        if reader.name in error.text:
            raise
        raise reader.damaged(error.text) from None


def verify(path: str | Path, told: Told = silent) -> Head:
    """Reads all of a backup and computes again what it says: digests, checksum of each record,
    count of keys, state hash, and each chunk of the large contents. Raises DataLoss with what is
    wrong; OSError."""
    with opened(path, told) as saved:
        for _ in saved.records():
            pass
        for _ in saved.contents():
            pass
        return saved.head
