"""What is uploaded: which chunks a content has, and one upload on its way.

What can be read twice is read once before it is sent: by the digests of its chunks the node finds
what is there already, from a former attempt, in the version before or with other members, and asks
for the rest. Anything else is sent whole; the node knows it by its request id, and when a
connection breaks the next attempt goes on behind what has arrived.
"""

from __future__ import annotations

import hashlib
import os
from collections import deque
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import BinaryIO, Final, NamedTuple

from ..errors import FailedPrecondition, Unavailable
from ..limits import INLINE_BYTES_MAX, UPLOAD_PIECE_BYTES
from ..manifest import Manifest, chunk_bytes_of
from ..proto import dfs_pb2 as pb
from .calls import FILES, Call, checked_id, revision_of, text

UPLOAD: Final = FILES + "Upload"
_END: Final = 1 << 62
"""Behind any content."""


class Transferred(NamedTuple):
    """How far an upload or download is."""

    received: int
    """Bytes that have arrived where they shall be."""
    held: int = 0
    """Uploads: so many voters have all of it on disk, of so many."""
    voters: int = 0
    key: str = ""
    """Transactions: of the content that is on its way; `received` is of all of them."""
    total: int = 0
    """Transactions: bytes of all contents, as far as it is known."""
    looked_at: int = 0
    """Uploads: bytes that were read to find what is there already; nothing was sent yet."""


Progress = Callable[[Transferred], None]
Keep = Callable[[Sequence[bytes]], Collection[bytes]]
"""Asks the node which contents it has and keeps, by their SHA-256."""


def manifest_of(
    source: BinaryIO, looked_at: Callable[[int], None] = lambda _bytes: None
) -> Manifest:
    """Of what a file has from where it stands, which is where it stands afterwards. `looked_at`:
    told the bytes that were read so far. Blocks. Raises FailedPrecondition, OSError."""
    start = source.tell()
    size = max(source.seek(0, os.SEEK_END) - start, 0)
    source.seek(start)
    chunk_bytes, read, digests = chunk_bytes_of(size), 0, []
    whole, chunk = hashlib.sha256(), hashlib.sha256()
    with ThreadPoolExecutor(1) as beside:  # whole and chunk at once
        while data := source.read(
            min(UPLOAD_PIECE_BYTES, chunk_bytes - read % chunk_bytes, size - read)
        ):
            done = beside.submit(whole.update, data)
            chunk.update(data)
            read += len(data)
            if read % chunk_bytes == 0 or read == size:
                digests.append(chunk.digest())
                chunk = hashlib.sha256()
            done.result()
            looked_at(read)
    if read < size:
        raise FailedPrecondition(
            f"of {size:,} bytes {read:,} could be read, so it was cut meanwhile; nothing was"
            " stored, try again when it does not change any more"
        )
    source.seek(start)
    return Manifest(whole.digest(), read, chunk_bytes, b"".join(digests))


class Sending:
    """One upload. Its messages are asked for on another thread than the answers are taken."""

    def __init__(
        self, key: str, source: BinaryIO, size: int, described: pb.Metadata | None,
        base_revision: int | None, id_: bytes, progress: Progress | None, hold: bool = False,
    ) -> None:
        """`hold`: only for a transaction, which will store it."""
        self.key = key
        self._source, self._progress = source, progress
        self._head = pb.UploadHead(
            size=size, metadata=described, base_revision=base_revision, request_id=checked_id(id_),
        )
        self.writes = not hold
        if hold:
            self._head.hold_for = text(key)
        else:
            self._head.key = text(key)
        self._start = source.tell() if source.seekable() else 0
        self._at = 0
        """Of the content, where the source stands."""
        self._parts: deque[tuple[int, int]] = deque()
        """(begin, end) of what is to be sent."""
        self._digest = hashlib.sha256()
        self._digested = 0
        self._sealed = False
        """The node knows the digest of all of it."""
        self.received = 0
        self.moved = False
        """Something new has arrived there in this attempt."""
        self.revision = 0
        """Not 0: it is stored."""
        self.content: pb.PutContentRequest | None = None
        """What is known of it, once it is held."""
        self.error: Exception | None = None
        """The source cannot be read."""

    @property
    def done(self) -> bool:
        """It is stored, or held."""
        return bool(self.revision) or self.content is not None

    def look(self) -> None:
        """Reads the source, where it can be read twice and is large enough for that to be worth it,
        so that the node can say what it lacks. Blocks. Raises FailedPrecondition, OSError."""
        if not self._source.seekable():
            return
        size = self._source.seek(0, os.SEEK_END) - self._start
        self._source.seek(self._start)
        if size > INLINE_BYTES_MAX and self._head.size in (0, size):
            self.known(manifest_of(self._source, self._looked_at))

    def _looked_at(self, read: int) -> None:
        if self._progress is not None:
            self._progress(Transferred(0, looked_at=read))

    def known(self, manifest: Manifest) -> None:
        """What it must be."""
        self._head.sha256, self._head.size = manifest.sha256, manifest.size
        if manifest.size > INLINE_BYTES_MAX:
            self._head.digests = manifest.digests

    def head(self) -> pb.UploadRequest:
        """The first message of an attempt."""
        self.moved = False
        self._sealed = bool(self._head.sha256)
        return pb.UploadRequest(head=self._head)

    def begin(self, answer: pb.UploadResponse) -> None:
        """The node says what it wants of the content."""
        self.take(answer)
        if answer.received != self._at and not self._source.seekable():
            raise Unavailable(
                "the node was lost on the way, and what cannot be read twice cannot be sent"
                " twice: upload from a file"
            )
        chunk_bytes, size = chunk_bytes_of(self._head.size), self._head.size
        self._parts = deque(
            (number * chunk_bytes, min((number + 1) * chunk_bytes, size))
            for number in answer.chunks
        )
        if not answer.chunks:
            self._parts.append((answer.received, size if self._head.digests else _END))

    def piece(self) -> pb.UploadRequest | None:
        """The next message; None at the end. Blocks for the source."""
        if not self._sealed:
            self._digest_what_is_there()
        while self._parts:
            begin, end = self._parts[0]
            self._go_to(begin)
            data = self._source.read(min(UPLOAD_PIECE_BYTES, end - begin))
            if not data:
                self._parts.popleft()
                continue
            self._parts[0] = begin + len(data), end
            known = self._digested - self._at
            if not self._sealed and 0 <= known < len(data):
                self._digest.update(memoryview(data)[known:])
                self._digested = self._at + len(data)
            self._at += len(data)
            return pb.UploadRequest(data=data)
        if self._sealed or self._digested != self._at:
            return None
        self._sealed = True
        self._head.sha256 = self._digest.digest()  # a repetition need not send what is there
        return pb.UploadRequest(head=self._head)

    def _go_to(self, at: int) -> None:
        if at != self._at:
            self._source.seek(self._start + at)
            self._at = at

    def _digest_what_is_there(self) -> None:
        """Reads what the node has got of an earlier upload with this request id, so that the digest
        at the end says whether that was the same content."""
        if not self._parts or self._digested >= self._parts[0][0]:
            return
        at, end = self._parts[0]
        self._go_to(self._digested)
        while self._digested < at:
            data = self._source.read(min(UPLOAD_PIECE_BYTES, at - self._digested))
            if not data:
                at = self._digested  # There is less of it now.
            self._digest.update(data)
            self._digested += len(data)
        self._at, self._parts[0] = at, (at, end)

    def take(self, answer: pb.UploadResponse) -> None:
        """The node says how far it is."""
        self.moved = self.moved or answer.received > self.received or bool(answer.held)
        self.received = answer.received
        self.revision = answer.revision
        if answer.HasField("content"):
            self.content = answer.content
        if self._progress is not None:
            self._progress(Transferred(answer.received, answer.held, answer.voters))

    def call(self) -> Call[int]:
        """As which it counts when attempts are."""
        return Call(
            UPLOAD, self._head, pb.UploadResponse.FromString, revision_of, None, self.writes, True,
            self._head.request_id,
        )
