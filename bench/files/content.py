"""What is stored and what must be read: files of random bytes, each with its SHA-256."""

from __future__ import annotations

import hashlib
import os
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple

SMALL_BYTES_MIN: Final = 1 << 10
SMALL_BYTES_MAX: Final = 16 << 10
FILES_PER_DIRECTORY: Final = 100
BLOCK_BYTES: Final = 1 << 20
EDGE_BYTES: Final = 64
"""At both ends of a block: compared while a large file is read by the clock."""

OK: Final = "ok"
MISSING: Final = "missing"
PARTIAL: Final = "partial"
"""It is there with another size than it will have."""
WRONG: Final = "wrong"
"""It has its size and other bytes."""
OLD: Final = "old"
"""It is, whole, what was there before."""


class File(NamedTuple):
    """One file as it must be read."""

    name: str
    """Relative to the tree."""
    size: int
    sha256: bytes


class Big(NamedTuple):
    """One large file, and where its bytes are to copy."""

    source: Path
    file: File
    edges: Sequence[bytes]
    """First and last bytes of each block of BLOCK_BYTES."""


def small(chance: random.Random) -> bytes:
    """Bytes of a small file."""
    return chance.randbytes(chance.randint(SMALL_BYTES_MIN, SMALL_BYTES_MAX))


def write(path: Path, name: str, data: bytes) -> File:
    """Writes one file and says what must be read."""
    (path / name).write_bytes(data)
    return File(name, len(data), hashlib.sha256(data).digest())


def make_tree(top: Path, count: int, seed: int) -> list[File]:
    """So many small files in directories of FILES_PER_DIRECTORY; the same for the same seed."""
    chance = random.Random(seed)
    made = []
    for number in range(count):
        name = f"d{number // FILES_PER_DIRECTORY:03}/f{number:05}.bin"
        (top / name).parent.mkdir(parents=True, exist_ok=True)
        made.append(write(top, name, small(chance)))
    return made


def make_big(path: Path, mib: int, seed: int) -> Big:
    """A file of so many MiB, made block by block."""
    chance, digest, edges = random.Random(seed), hashlib.sha256(), []
    with path.open("wb") as out:
        for _ in range(mib):
            block = chance.randbytes(BLOCK_BYTES)
            digest.update(block)
            edges.append(block[:EDGE_BYTES] + block[-EDGE_BYTES:])
            out.write(block)
    return Big(path, File(path.name, mib << 20, digest.digest()), edges)


def check(path: str, file: File, former: File | None = None) -> str:
    """What a reader of a path gets now: OK, OLD (the `former` version), PARTIAL or WRONG. Opens it
    once and reads all of it. Raises OSError."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        size = os.fstat(fd).st_size
        if size not in (file.size, former.size if former else -1):
            return PARTIAL
        digest, left = hashlib.sha256(), size
        # One byte more than there should be: a file that grew is noticed.
        while block := os.read(fd, min(BLOCK_BYTES, left + 1)):
            digest.update(block)
            left -= len(block)
            if left < 0:
                break
    finally:
        os.close(fd)
    if left:
        return PARTIAL
    if (size, digest.digest()) == file[1:]:
        return OK
    return OLD if former and (size, digest.digest()) == former[1:] else WRONG


def state(top: Path, file: File, former: File | None = None) -> str:
    """What there is of a file of a tree: as `check`, or MISSING."""
    try:
        return check(f"{top}/{file.name}", file, former)
    except OSError:
        return MISSING
