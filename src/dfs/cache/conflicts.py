"""Two nodes changed one file at once: the first commit wins, the other is kept beside it, once.

The copy is `name.dfs-conflict-<utc>-<node>`, with the time at which the losing version was written,
so that a second attempt after a crash finds the copy of the first.
"""

from __future__ import annotations

import contextlib
import datetime
from collections.abc import Awaitable, Callable, Iterable
from typing import Final

from ..client.values import Kind, Stat
from ..errors import Conflict, FailedPrecondition, NotFound
from ..limits import COMPONENT_BYTES_MAX, CONFLICT_NAMES_MAX
from .ports import Client
from .take import Taken

MARK: Final = ".dfs-conflict-"

Copies = Callable[[str], Iterable[tuple[str, Stat]]]
"""What the tree has under a prefix."""


def name(path: str, mtime_ns: int, node: str, count: int = 1) -> str:
    """The key of the copy; a long name is shortened to fit."""
    written = datetime.datetime(1970, 1, 1)
    with contextlib.suppress(OverflowError):
        written += datetime.timedelta(seconds=mtime_ns // 1_000_000_000)
    tail = f"{MARK}{written:%Y%m%dT%H%M%SZ}-{node}" + (f"-{count}" if count > 1 else "")
    head = _head(path)
    directory, slash, last = head.rpartition("/")
    room = COMPONENT_BYTES_MAX - len(tail.encode())
    last = last.encode()[:room].decode(errors="ignore")
    return f"{directory}{slash}{last}{tail}"


def _head(path: str) -> str:
    """A conflict about a conflict copy is about the same file."""
    directory, slash, last = path.rpartition("/")
    return f"{directory}{slash}{last.partition(MARK)[0] or last}"


Put = Callable[[str, Taken, int], Awaitable[int]]
"""Stores the content of a drop under a key that must have that revision."""


async def winner(client: Client, path: str) -> Stat | None:
    """What is there now; None if it was deleted meanwhile."""
    try:
        return await client.stat(path)
    except NotFound:
        return None


async def keep(
    client: Client, path: str, taken: Taken, node: str, copies: Copies, put: Put
) -> str:
    """Stores the loser beside the winner unless a copy with its content is there already."""
    prefix = _head(path) + MARK
    for key, stat in copies(prefix):
        if _same(stat, taken):
            return key
    for count in range(1, CONFLICT_NAMES_MAX + 1):
        key = name(path, taken.mtime_ns, node, count)
        try:
            if taken.kind is Kind.SYMLINK:
                await client.symlink(
                    key, taken.target, uid=taken.uid, gid=taken.gid, base_revision=0
                )
            else:
                await put(key, taken, 0)
            return key
        except Conflict:
            found = await winner(client, key)
            if found is not None and _same(found, taken):
                return key
    raise FailedPrecondition(f"{path} already has {CONFLICT_NAMES_MAX} conflict copies of one time")


def _same(stat: Stat, taken: Taken) -> bool:
    if stat.kind is not taken.kind:
        return False
    return stat.target == taken.target if taken.target else stat.sha256 == taken.sha256
