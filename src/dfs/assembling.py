"""Large contents that their senders send piece by piece, digested as they come."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from ._engine import digest_chunks
from .errors import FailedPrecondition
from .manifest import Manifest, chunk_bytes_of

_BLOCK_BYTES: Final = 1 << 20


class Arrival:
    """A content that arrives piece by piece, from its begin on. One thread at a time."""

    def __init__(self, path: Path, size: int) -> None:
        """Goes on behind what an earlier attempt has left at `path`, which is read once more.
        `size`: what it should have in the end; 0 = not known. Blocks. Raises OSError."""
        self.path, self.size = path, 0
        self._chunk_bytes = chunk_bytes_of(size)
        self._whole, self._chunk = hashlib.sha256(), hashlib.sha256()
        self._digests: list[bytes] = []
        self._file = path.open("a+b")
        self._file.seek(0)
        while data := self._file.read(_BLOCK_BYTES):
            self._digest(data)

    def _digest(self, data: bytes | memoryview) -> None:
        self._whole.update(data)
        view = memoryview(data)
        while view:
            part = view[: self._chunk_bytes - self.size % self._chunk_bytes]
            self._chunk.update(part)
            self.size += len(part)
            view = view[len(part) :]
            if self.size % self._chunk_bytes == 0:
                self._end_chunk()

    def _end_chunk(self) -> None:
        self._digests.append(self._chunk.digest())
        self._chunk = hashlib.sha256()

    def add(self, data: bytes) -> None:
        """The next piece. Blocks. Raises OSError."""
        self._file.write(data)
        self._digest(data)

    def finish(self) -> Manifest:
        """All has arrived. Blocks. Raises OSError."""
        self._file.flush()
        if self.size % self._chunk_bytes:
            self._end_chunk()
        chunk_bytes, digests = chunk_bytes_of(self.size), self._digests
        if chunk_bytes != self._chunk_bytes:  # it is larger than was said
            numbers = range(-(-self.size // chunk_bytes))
            digests = digest_chunks(self._file.fileno(), self.size, chunk_bytes, numbers)
        return Manifest(self._whole.digest(), self.size, chunk_bytes, b"".join(digests))

    def close(self) -> None:
        """What has arrived stays. Idempotent."""
        self._file.close()


class Assembly:
    """A content of which all digests were announced, and some chunks may be here: its sender sends
    the others. What is wrong is not written, and what comes behind it is kept for the next attempt.
    One thread at a time."""

    def __init__(self, path: Path, manifest: Manifest, lacking: Sequence[int]) -> None:
        """`path`: a file of its size, in which all but the chunks with the numbers `lacking` are
        right. Blocks. Raises OSError."""
        self._manifest, self._left = manifest, deque(lacking)
        self.size = manifest.size - sum(map(manifest.length, lacking))
        """Bytes that are here."""
        self._wrong: list[int] = []
        """Chunks that have come otherwise than was announced."""
        self._chunk = bytearray()
        """Of the first one that is lacking."""
        self._whole, self._digested = hashlib.sha256(), 0
        self._file = path.open("r+b")

    def add(self, data: bytes) -> None:
        """The next piece. Blocks. Raises FailedPrecondition, OSError."""
        view = memoryview(data)
        while view:
            if not self._left:
                raise FailedPrecondition("more has come than was asked for; nothing was stored")
            number = self._left[0]
            part = view[: self._manifest.length(number) - len(self._chunk)]
            self._chunk += part
            view = view[len(part) :]
            if len(self._chunk) == self._manifest.length(number):
                self._end_chunk(number)

    def _end_chunk(self, number: int) -> None:
        chunk, at = self._chunk, number * self._manifest.chunk_bytes
        self._chunk = bytearray()
        self._left.popleft()
        if hashlib.sha256(chunk).digest() != self._manifest.digest(number):
            self._wrong.append(number)
            return
        self._file.seek(at)
        self._file.write(chunk)
        self.size += len(chunk)
        if not self._wrong:
            self._digest(at)
            self._whole.update(chunk)
            self._digested += len(chunk)

    def _digest(self, end: int) -> None:
        """All up to there is right."""
        self._file.seek(self._digested)
        while self._digested < end:
            data = self._file.read(min(_BLOCK_BYTES, end - self._digested))
            if not data:
                return  # The file is shorter than it was: the digest will tell.
            self._whole.update(data)
            self._digested += len(data)

    def finish(self) -> Manifest:
        """All has arrived. Blocks: what was here is read, as chunks with those digests prove
        nothing of the whole. Raises FailedPrecondition, OSError."""
        manifest = self._manifest
        if self._left:
            raise FailedPrecondition(
                f"{self.size:,} of {manifest.size:,} bytes are here; upload it again, and it goes"
                " on with what is lacking"
            )
        if self._wrong:
            raise FailedPrecondition(
                f"{len(self._wrong)} chunks have come otherwise than was announced, so it was"
                " changed meanwhile; nothing was stored, upload it again"
            )
        self._file.flush()
        self._digest(manifest.size)
        if self._whole.digest() != manifest.sha256:
            raise FailedPrecondition(
                f"what has come has SHA-256 {self._whole.hexdigest()}, not the announced"
                f" {manifest.sha256.hex()}; nothing was stored"
            )
        return manifest

    def close(self) -> None:
        """What has arrived stays. Idempotent."""
        self._file.close()
