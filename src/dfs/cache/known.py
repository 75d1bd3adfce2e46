"""The committed tree as the agent knows it. The engine holds it, for a mount and for this."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from ..client.values import KINDS, Kind, Stat, stat_of
from ..limits import FEED_ITEMS_MAX
from ..proto import dfs_pb2 as pb
from .ports import Tree


class Version(NamedTuple):
    """What most want to know of an entry; cheaper to come by than all of it."""

    kind: Kind
    revision: int
    size: int
    """Of a file: bytes."""
    sha256: bytes
    """Of the content; empty for directories and symlinks."""


class Known:
    """Every file, symlink and explicit directory of the tree, by path."""

    def __init__(self, tree: Tree) -> None:
        self._tree = tree

    def __len__(self) -> int:
        return self._tree.committed()

    def __contains__(self, path: str) -> bool:
        return self._record(path) is not None

    def _record(self, path: str) -> bytes | None:
        try:
            return self._tree.record(path)
        except UnicodeEncodeError:
            return None  # A name in a cache directory that no key can have.

    def get(self, path: str) -> Stat | None:
        """All that is known of one."""
        record = self._record(path)
        return None if record is None else stat_of(pb.Record.FromString(record))

    def entries(
        self, top: str = "", *, absent: bool = False
    ) -> Iterator[tuple[str, Version]]:
        """Those at and below a path, "" = all, in no order. `absent`: only files of which the mount
        does not know where the content is. What changes meanwhile may be left out."""
        after = ""
        while True:
            part = self._tree.entries(top, after, FEED_ITEMS_MAX, absent)
            for path, kind, revision, size, sha256 in part:
                yield path, Version(KINDS[kind], revision, size, sha256)
            if len(part) < FEED_ITEMS_MAX:
                return
            after = part[-1][0]


class Needed:
    """The contents that paths of the tree show, or that the kernel may still come for: it knows a
    file that had one until it was replaced. Any thread may ask."""

    def __init__(self, tree: Tree) -> None:
        self._tree = tree

    def __contains__(self, sha256: object) -> bool:
        return isinstance(sha256, bytes) and self._tree.shows(sha256)
