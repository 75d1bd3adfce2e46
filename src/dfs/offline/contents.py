"""Are the large contents that a state names on the disk beside it, and what their digests say."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from ..contents import DIRECTORY, path_in
from ..store import Content

NAMED_MAX = 3
"""In one sentence; the others are counted."""


class OnDisk(NamedTuple):
    """What one data directory has of the contents that its state names."""

    named: frozenset[bytes]
    whole: frozenset[bytes]
    """There, and right byte for byte."""
    damaged: tuple[Path, ...]


def look(directory: Path, named: dict[bytes, Content]) -> OnDisk:
    """Reads all of them."""
    whole, damaged = set(), []
    for sha256 in named:
        path = path_in(directory / DIRECTORY, sha256)
        try:
            with path.open("rb") as file:
                right = hashlib.file_digest(file, "sha256").digest() == sha256
        except FileNotFoundError:
            continue
        except OSError:
            right = False
        if right:
            whole.add(sha256)
        else:
            damaged.append(path)
    return OnDisk(frozenset(named), frozenset(whole), tuple(damaged))


def problems(found: OnDisk) -> list[str]:
    """What is wrong in one directory. What is missing there others may have."""
    return [f"the large content {path} is damaged" for path in found.damaged]


def notes(found: OnDisk) -> list[str]:
    """What is no damage, but good to know."""
    missing = found.named - found.whole - {bytes.fromhex(path.name) for path in found.damaged}
    if not missing:
        return []
    return [f"{len(missing):,} of {len(found.named):,} large contents are yet to come"]


def lost(nodes: Iterable[OnDisk]) -> list[str]:
    """What no node has whole though a state names it."""
    each = list(nodes)
    named = frozenset[bytes]().union(*(found.named for found in each))
    nowhere = sorted(named.difference(*(found.whole for found in each)))
    if not nowhere:
        return []
    shown = ", ".join(sha256.hex()[:16] for sha256 in nowhere[:NAMED_MAX])
    return [f"{len(nowhere):,} large contents are whole on none of these nodes, such as {shown}"]
