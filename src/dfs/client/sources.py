"""Contents of a transaction: which of them travel in it, and which are uploaded before.

A majority of the members holds what was uploaded, for CONTENT_KEEP_S. The largest goes first, and
each is asked for again in time, so that all are held when the transaction is sent.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import math
import os
import stat
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO, Final, cast

from ..errors import DfsError, InvalidArgument
from ..limits import (
    CHUNK_BYTES_MIN,
    CHUNKS_MAX,
    CONTENT_KEEP_S,
    INLINE_BYTES_MAX,
    REQUEST_ID_BYTES,
    SMALL_VALUE_BYTES_MAX,
    TRANSACTION_BYTES_MAX,
)
from ..manifest import SHA256_BYTES, Manifest
from ..proto import dfs_pb2 as pb
from . import calls
from .sending import Keep, Progress, Sending, Transferred, manifest_of

Source = bytes | bytearray | memoryview | os.PathLike[str] | BinaryIO
"""Content as bytes, the path of a file, or a file that is read from where it stands."""
_NAMED_BYTES: Final = 128
"""Of an operation that names a content, beside its key, metadata and digests of chunks."""


class Behind(io.RawIOBase):
    """What was read already, and then the rest, which cannot be read twice."""

    def __init__(self, data: bytes, rest: BinaryIO) -> None:
        self._data, self._rest = data, rest

    def read(self, size: int = -1) -> bytes:
        """The next bytes."""
        if self._data:
            found, self._data = self._data[:size], self._data[size:]
            return found
        return self._rest.read(size)

    def seekable(self) -> bool:
        """It is not."""
        return False


class Content:
    """What one operation puts."""

    def __init__(
        self, key: str, source: Source, metadata: pb.Metadata | None, base_revision: int | None
    ) -> None:
        """Raises TypeError: that is no content."""
        self.key, self._metadata, self._base_revision = key, metadata, base_revision
        self._data: bytes | None = None
        """All of it, to travel in the transaction."""
        self._file: Path | BinaryIO | None = None
        self._start: int | None = None
        """Where the file stood; None: it cannot be read twice."""
        self._manifest: Manifest | None = None
        """What it is, since it was looked at."""
        self._named: pb.PutContentRequest | None = None
        """What is known of it since a majority holds it, or it was found."""
        if isinstance(source, bytes | bytearray | memoryview):
            self._data = calls.content(source)
        elif isinstance(source, os.PathLike):
            self._file = Path(source)
        elif hasattr(source, "read"):
            self._file = source
            self._start = source.tell() if source.seekable() else None
        else:
            raise TypeError(
                f"{key}: content is bytes, a Path or a file, not {type(source).__name__}"
            )

    def weight(self) -> float:
        """Bytes that are in memory; of what has to be read, more than any."""
        return len(self._data or b"") if self._file is None else math.inf

    def size(self) -> int | None:
        """Bytes that it has now; None: more than INLINE_BYTES_MAX, and nobody knows how many.
        Blocks. Raises OSError, InvalidArgument."""
        if self._file is None:
            return len(self._data or b"")
        if isinstance(self._file, Path):
            found = self._file.stat()
            if not stat.S_ISREG(found.st_mode):  # It may give its bytes only once.
                raise InvalidArgument(f"{self.key}: {self._file} is no regular file: open it first")
            return found.st_size
        if self._start is not None:
            return max(self._file.seek(0, os.SEEK_END) - self._start, 0)
        data = self._file.read(INLINE_BYTES_MAX + 1)
        if len(data) > INLINE_BYTES_MAX:
            self._file = cast("BinaryIO", Behind(data, self._file))
            return None
        self._data, self._file = data, None
        return len(data)

    def load(self) -> bool:
        """Reads it to travel along; False: it has grown too large for that. Blocks. Raises
        OSError."""
        if self._data is None:
            with self._opened() as file:
                data = file.read(INLINE_BYTES_MAX + 1)
            if len(data) > INLINE_BYTES_MAX:
                return False
            self._data = data
        return True

    @contextlib.contextmanager
    def _opened(self) -> Iterator[BinaryIO]:
        if self._file is None:
            yield io.BytesIO(self._data or b"")
        elif isinstance(self._file, Path):
            with self._file.open("rb") as file:
                yield file
        else:
            if self._start is not None:
                self._file.seek(self._start)
            yield self._file

    def look(self, looked_at: Callable[[int], None]) -> Manifest | None:
        """What it is, by which it may be found; None: it cannot be read twice. Blocks. Raises
        FailedPrecondition, OSError."""
        if self._start is not None or isinstance(self._file, Path) or self._file is None:
            with self._opened() as file:
                self._manifest = manifest_of(file, looked_at)
        return self._manifest

    def found(self) -> None:
        """The node has it already."""
        assert self._manifest is not None
        self._named = pb.PutContentRequest(**self._manifest._asdict())

    def upload(self, size: int, id_: bytes, progress: Progress | None) -> Iterator[Sending]:
        """Its upload, which has ended when it goes on. Blocks. Raises OSError."""
        if self._named and self._start is None and not isinstance(self._file, Path):
            self._file = None  # What could not be read twice is there, or lost.
        with self._opened() as file:
            sending = Sending(self.key, file, size, None, None, id_, progress, hold=True)
            if self._manifest is not None:
                sending.known(self._manifest)
            yield sending
        self._named = sending.content
        if sending.content is not None:
            self._manifest = _manifest(sending.content)

    @property
    def held_bytes(self) -> int:
        """Its size, once it was uploaded."""
        return self._named.size if self._named else 0

    def bare(self) -> pb.Operation:
        """The operation without its content."""
        return pb.Operation(put_content=pb.PutContentRequest(
            key=self.key, metadata=self._metadata, base_revision=self._base_revision
        ))

    def fill(self, operation: pb.Operation) -> None:
        """Makes it the operation, once the content was loaded or uploaded."""
        if self._named is not None:
            operation.MergeFrom(self.bare())
            operation.put_content.MergeFrom(self._named)
            return
        put = operation.put
        put.key, put.data = self.key, self._data or b""
        if self._metadata is not None:
            put.metadata.MergeFrom(self._metadata)
        if self._base_revision is not None:
            put.base_revision = self._base_revision


def uploads(
    contents: Sequence[Content], bare: pb.TransactionRequest, progress: Progress | None, keep: Keep
) -> Generator[Sending]:
    """The uploads of those that do not travel along, one after the other: each has ended when the
    next is asked for. `bare`: the transaction without all of them. Blocks. Raises TooLarge,
    OSError, and what `keep` raises."""
    calls.check_transaction(len(bare.operations), bare.ByteSize())
    sizes = [content.size() for content in contents]
    total = sum(size or 0 for size in sizes)
    large = _large(sizes, bare.ByteSize())
    along = [number for number in range(len(contents)) if number not in large]
    large = {n: 0 for n in along if not contents[n].load()} | large
    done = total - sum(large.values())
    ids = {n: _upload_id(bare.request_id, n, contents[n].key) for n in large}
    held = _found({n: contents[n] for n in large}, progress, total, keep)
    done += sum(contents[n].held_bytes for n in held)
    for number in [*(n for n in large if n not in held), None]:
        for other, when in list(held.items()):
            if time.monotonic() - when > CONTENT_KEEP_S / 4:
                yield from contents[other].upload(large[other], ids[other], None)
                held[other] = time.monotonic()
        if number is not None:
            content = contents[number]
            told = _told(progress, content.key, done, total)
            yield from content.upload(large[number], ids[number], told)
            held[number] = time.monotonic()
            done += content.held_bytes


def _found(
    contents: Mapping[int, Content], progress: Progress | None, total: int, keep: Keep
) -> dict[int, float]:
    """Those that the node has already, and when it was asked: they are not sent."""
    names: dict[int, bytes] = {}
    read = 0
    for number, content in contents.items():
        with naming(content.key):
            manifest = content.look(_looking(progress, content.key, read, total))
        if manifest is not None:
            names[number] = manifest.sha256
            read += manifest.size
    asked_s, here = time.monotonic(), keep(list(names.values())) if names else frozenset()
    found = {number: asked_s for number, name in names.items() if name in here}
    for number in found:
        contents[number].found()
    return found


def _large(sizes: Sequence[int | None], others: int) -> dict[int, int]:
    """Numbers of the contents that are uploaded, the largest first, and their sizes. All others fit
    into a transaction that has so many other bytes. Raises TooLarge."""
    small = sum(size for size in sizes if size is not None and size <= SMALL_VALUE_BYTES_MAX)
    large = {n: s or 0 for n, s in enumerate(sizes) if s is None or s > SMALL_VALUE_BYTES_MAX}
    used = others + small + sum(map(_named_bytes, large.values()))
    calls.check_transaction(0, used)
    unknown = [n for n in large if sizes[n] is None]
    known = sorted((n for n in large if sizes[n] is not None), key=large.__getitem__)
    while known and (size := large[known[0]]) <= INLINE_BYTES_MAX:
        used += size - _named_bytes(size)
        if used > TRANSACTION_BYTES_MAX:
            break
        known.pop(0)
    return {number: large[number] for number in unknown + known[::-1]}


def _named_bytes(size: int) -> int:
    """At most, of the operation that names a content."""
    return _NAMED_BYTES + SHA256_BYTES * min(-(-size // CHUNK_BYTES_MIN), CHUNKS_MAX)


def _upload_id(id_: bytes, number: int, key: str) -> bytes:
    """Of the upload of one content: who repeats the transaction goes on with it."""
    named = id_ + number.to_bytes(4, "big") + key.encode()
    return hashlib.sha256(named).digest()[:REQUEST_ID_BYTES]


def _looking(
    progress: Progress | None, key: str, before: int, total: int
) -> Callable[[int], None]:
    def told(read: int) -> None:
        if progress is not None:
            progress(Transferred(0, key=key, total=total, looked_at=before + read))

    return told


def _manifest(named: pb.PutContentRequest) -> Manifest:
    return Manifest(named.sha256, named.size, named.chunk_bytes, named.digests)


def _told(
    progress: Progress | None, key: str, before: int, total: int
) -> Progress | None:
    if progress is None:
        return None

    def told(step: Transferred) -> None:
        received = before + step.received
        progress(step._replace(received=received, total=max(total, received), key=key))

    return told


@contextlib.contextmanager
def naming(key: str) -> Iterator[None]:
    """Errors inside say which key they are about."""
    try:
        yield
    except DfsError as error:
        if error.text.startswith(f"{key}: "):
            raise
        raise type(error)(f"{key}: {error.text}", **{"key": key, **error.metadata}) from None
