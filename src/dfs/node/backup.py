"""A backup, cut into pieces of a stream."""

import hashlib

from ..limits import STREAM_CHUNK_BYTES_MAX
from ..store import View, backup


class Pieces:
    """Reads a frozen state for one answer. Any thread, but one at a time."""

    def __init__(self, view: View, cluster: bytes, node: str, version: str, now_ns: int) -> None:
        head = backup.head_of(view.source, cluster, node, version, now_ns)
        self._parts = backup.encode(view.source, head)
        self._part = memoryview(b"")
        self._digest = hashlib.sha256()

    def next(self) -> bytes:
        """The next piece, of STREAM_CHUNK_BYTES_MAX at most; b"" behind the last. Blocks, but never
        long. Raises DataLoss when the state is damaged."""
        while not self._part:
            part = next(self._parts, None)
            if part is None:
                return b""
            self._part = memoryview(part)
        piece = bytes(self._part[:STREAM_CHUNK_BYTES_MAX])
        self._part = self._part[STREAM_CHUNK_BYTES_MAX:]
        self._digest.update(piece)
        return piece

    @property
    def sha256(self) -> bytes:
        """Digest of all that was returned."""
        return self._digest.digest()
