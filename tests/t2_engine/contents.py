"""Contents for tests of their chunks: where nodes keep them, how nodes fetch them."""

from __future__ import annotations

import hashlib
import random
from dataclasses import dataclass
from pathlib import Path

from .nodes import Node

CHUNK_BYTES = 100_000
FRAME_BYTES = 1 << 20
"""What a frame has at most, behind its head."""
ANSWERS_BYTES = 10
"""What the giver says before the first frame: to the hello, and to the order."""
HEAD_BYTES = 5
"""Of a frame."""


@dataclass
class Content:
    """A content as its manifest has it."""

    data: bytes
    chunk_bytes: int = CHUNK_BYTES

    @property
    def sha256(self) -> bytes:
        return hashlib.sha256(self.data).digest()

    def chunk(self, number: int) -> bytes:
        return self.data[number * self.chunk_bytes :][: self.chunk_bytes]

    def wanted(self, *numbers: int) -> list[tuple[int, bytes]]:
        """These chunks, or all, with their digests."""
        count = -(-len(self.data) // self.chunk_bytes)
        return [
            (n, hashlib.sha256(self.chunk(n)).digest()) for n in (numbers or range(count))
        ]

    def keep(self, node: Node) -> Path:
        """Puts it where a node gives it from."""
        path = Path(node.contents, self.sha256.hex()[:2], self.sha256.hex())
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(self.data)
        return path

    def fetch(self, node: Node, addr: str, target: Path, *numbers: int) -> list[int]:
        """Has a node fetch these chunks, or all."""
        return node.engine.fetch_chunks(
            addr, self.sha256, len(self.data), self.chunk_bytes, self.wanted(*numbers),
            str(target), 2_000,
        )


def content(count: int = 10, size: int | None = None) -> Content:
    """So many chunks, the last not whole."""
    return Content(random.Random(7).randbytes(size or count * CHUNK_BYTES - 1_234))


def zeros(count: int) -> Content:
    """Chunks of 1 MiB of zeros. Eight are more than sockets take in advance."""
    return Content(bytes(count * FRAME_BYTES), FRAME_BYTES)
