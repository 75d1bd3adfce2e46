"""What a node in memory says of the past."""
# ruff: noqa: ARG002  # The twins take what the real ones take.

from __future__ import annotations

import time
from collections.abc import AsyncIterator, MutableSequence, Sequence

from ...client.values import Event, Item, Kind, Stat
from ...errors import OutOfRange, Unavailable
from .tree import parents


class MemoryPast:
    """Answers by the events that a `MemoryNode` keeps."""

    revision: int
    events: Sequence[Event]
    floor: int
    calls: MutableSequence[tuple[str, str]]
    away: bool
    cut: bool

    async def list(
        self, key: str = "", *, limit: int = 0, revision: int = 0, local: bool = False,
        min_revision: int | None = None,
    ) -> AsyncIterator[Item]:
        """See `dfs.AsyncClient.list`; directories are those that files need."""
        self.calls.append(("list", key))
        self._must_be_up()
        if self.away and not local:
            raise Unavailable("no leader: node2 and node3 are silent")
        if not self.floor <= revision <= self.revision:
            raise OutOfRange(f"revision {revision} is not there: history begins at {self.floor}")
        then: dict[str, Stat] = {}
        for event in self.events:
            if event.revision <= revision:
                then[event.key] = event.stat
                if event.deleted:
                    del then[event.key]
        for directory in {above for k in then for above in parents(k)} - then.keys():
            then[directory] = new_stat(Kind.DIRECTORY, 0, b"", 0o755, 0)
        below = [k for k in sorted(then) if k.rpartition("/")[0] == key]
        for name in below[: limit or None]:
            yield Item(name, then[name], None)

    async def revision_at(self, time_ns: int) -> int:
        """See `dfs.AsyncClient.revision_at`."""
        self._must_be_up()
        if self.away:
            raise Unavailable("no leader: node2 and node3 are silent")
        if not (before := [e.revision for e in self.events if e.stat.time_ns <= time_ns]):
            raise OutOfRange("nothing was stored yet at that time")
        return max(before)

    async def history(
        self, key: str, *, limit: int = 0, before_revision: int = 0, local: bool = False,
        min_revision: int | None = None,
    ) -> AsyncIterator[Event]:
        """See `dfs.AsyncClient.history`; of the whole tree alone."""
        self._must_be_up()
        before = before_revision or self.revision + 1
        found = [e for e in self.events if self.floor <= e.revision < before]
        for event in found[::-1][: limit or None]:
            yield event

    def _must_be_up(self) -> None:
        if self.cut:
            raise Unavailable("no node answers")


def new_stat(
    kind: Kind, size: int, sha256: bytes, mode: int, mtime_ns: int | None, target: str = ""
) -> Stat:
    """The record of something that is stored now; its revision is yet to come."""
    now = time.time_ns()
    return Stat(
        kind, 0, 0, 1, size, sha256, mode, now if mtime_ns is None else mtime_ns, target, "node1",
        "", now, b"", False, 0,
    )
