"""What a large content must be: cut into chunks of equal size, each with its SHA-256. Pure."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from typing import Final, NamedTuple

from .limits import CHUNK_BYTES_MIN, CHUNKS_MAX

SHA256_BYTES: Final = 32


def chunk_bytes_of(size: int) -> int:
    """How large the chunks of a content are: CHUNK_BYTES_MIN, doubled until there are at most
    CHUNKS_MAX."""
    chunk_bytes = CHUNK_BYTES_MIN
    while chunk_bytes * CHUNKS_MAX < size:
        chunk_bytes *= 2
    return chunk_bytes


class Manifest(NamedTuple):
    """What a content must be."""

    sha256: bytes
    size: int
    chunk_bytes: int
    digests: bytes
    """SHA-256 of each chunk, one after the other."""

    @property
    def chunks(self) -> int:
        """How many."""
        return -(-self.size // self.chunk_bytes)

    def digest(self, number: int) -> bytes:
        """Of one chunk."""
        return self.digests[number * SHA256_BYTES : (number + 1) * SHA256_BYTES]

    def length(self, number: int) -> int:
        """Bytes of one chunk; the last one may be shorter."""
        return min(self.chunk_bytes, self.size - number * self.chunk_bytes)

    def empty(self, number: int) -> bool:
        """The chunk is nothing but zeros: a hole is right."""
        return self.digest(number) == zeros_digest(self.length(number))


@lru_cache(maxsize=64)
def zeros_digest(size: int) -> bytes:
    """SHA-256 of so many zeros."""
    digest, block = hashlib.sha256(), bytes(1 << 20)
    while size:
        digest.update(block[:size])
        size -= min(size, len(block))
    return digest.digest()
