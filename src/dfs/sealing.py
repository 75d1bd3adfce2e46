"""A file whose content was verified says so by its mtime, which is the same for all of them.

Whoever writes to it changes that, willingly or not: so whoever opens it sees that it has to be
verified again. (What the disk itself damages is found by reading.) The mtime is one that no clock
gives any more and no archive or package manager sets. When the file was used last is its atime.
"""

import hashlib
import io
import os
import time
from pathlib import Path
from typing import Final

SEALED_NS: Final = 86_400 * 10**9
"""`engine/src/contents/seal.rs` has it, too."""


def seal(file: int | str | Path) -> None:
    """It has just been verified, and used. `file`: a descriptor or path. Raises OSError."""
    os.utime(file, ns=(time.time_ns(), SEALED_NS))


def is_sealed(found: os.stat_result) -> bool:
    """Nobody has written to it since it was verified."""
    return found.st_mtime_ns == SEALED_NS


def use(path: str | Path) -> None:
    """It is used now. Raises OSError."""
    os.utime(path, ns=(time.time_ns(), os.stat(path).st_mtime_ns))


def unused_s(path: str | Path) -> float:
    """For how long it has not been used. Raises OSError."""
    return time.time() - os.stat(path).st_atime


def open_quietly(path: str) -> io.FileIO:
    """Opens a file of this user for reading, which does not count as a use. Raises OSError."""
    return open(path, "rb", buffering=0, opener=lambda p, flags: os.open(p, flags | os.O_NOATIME))


def prove(file: io.FileIO, sha256: bytes) -> bool:
    """Whether a file has that content, and had while it was read: it is sealed then. Blocks. Raises
    OSError."""
    before = os.fstat(file.fileno())
    right = hashlib.file_digest(file, "sha256").digest() == sha256
    if not right or os.fstat(file.fileno()).st_mtime_ns != before.st_mtime_ns:
        return False
    seal(file.fileno())
    return True
