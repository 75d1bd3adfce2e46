"""What disks and people do to files, and what nodes have put away for it."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Final

from ..cache.asking import SOCKET as AGENT_SOCKET
from ..identity import LOG, QUARANTINE, SOCKET, STORE, UPSTREAM

BLOCK_BYTES: Final = 4_096
FORMER_SHARE: Final = 0.5
UNTOUCHED: Final = ("lock", "LOCK", "LOG", SOCKET, UPSTREAM, AGENT_SOCKET)
"""Nothing stands in them that is read again. A killed process leaves its sockets behind."""


def flip(path: Path, at: float = 0.5) -> None:
    """One bit."""
    data = bytearray(path.read_bytes())
    data[int(len(data) * at)] ^= 0x40
    path.write_bytes(data)


def zero(path: Path, at: float = 0.5) -> None:
    """A block of zeros."""
    data = bytearray(path.read_bytes())
    start = int(len(data) * at) // BLOCK_BYTES * BLOCK_BYTES
    data[start : start + BLOCK_BYTES] = bytes(len(data[start : start + BLOCK_BYTES]))
    path.write_bytes(data)


def cut(path: Path, at: float = 0.5) -> None:
    """The end is missing."""
    with path.open("r+b") as file:
        file.truncate(int(path.stat().st_size * at))


def delete(path: Path, _at: float = 0) -> None:
    """All of it is missing."""
    path.unlink()


def swap(path: Path, _at: float = 0) -> None:
    """Another file of that kind in its place, or just another."""
    alike = [p for p in path.parent.glob(f"*{path.suffix}") if p.is_file() and p != path]
    other = max(alike, key=size, default=Path(__file__))
    path.write_bytes(other.read_bytes())


def size(path: Path) -> int:
    """In bytes."""
    return path.stat().st_size


DAMAGES: Final[tuple[Callable[..., None], ...]] = (flip, zero, cut, delete, swap)


def anywhere(data: Path, chance: random.Random, former: Path | None = None) -> tuple[str, Path]:
    """Damages one file of a data directory; (how, which). Half of the time one of the store.

    `former`: an older copy of the directory, out of which a file may come back.
    """
    part = data / chance.choice((STORE, STORE, LOG, ""))
    files = [p for p in part.rglob("*") if p.is_file() and p.name not in UNTOUCHED and size(p)]
    file = chance.choice(sorted(files))
    older = former / file.relative_to(data) if former else file
    if older != file and older.exists() and chance.random() < FORMER_SHARE:
        file.write_bytes(older.read_bytes())
        return "old", file
    how = chance.choice(DAMAGES)
    how(file, chance.random())
    return how.__name__, file


def put_away(data: Path) -> list[str]:
    """What is in quarantine, without the notes."""
    return sorted(p.name for p in (data / QUARANTINE).glob("*/*") if p.name != "why.txt")
