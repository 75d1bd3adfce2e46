"""The key/value port over a state that must not be changed: what is written stays in memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from heapq import merge
from itertools import islice

from sortedcontainers import SortedDict

from dfs.kv.memory import MemoryKV
from dfs.kv.port import Reads, Record, Snapshot, Walk


class Overlay:
    """Shows a frozen state with changes on top. For one thread; it is its own snapshot, so nothing
    may be written while somebody reads one."""

    def __init__(self, base: Reads) -> None:
        self._base = base
        self._changes = SortedDict()
        """None: deleted."""

    def get(self, key: bytes) -> bytes | None:
        """See Reads."""
        if key in self._changes:
            value: bytes | None = self._changes[key]
            return value
        return self._base.get(key)

    def get_many(self, keys: list[bytes]) -> list[bytes | None]:
        """See KeyValue."""
        return [self.get(key) for key in keys]

    def scan(self, begin: bytes, end: bytes, reverse: bool = False) -> Iterator[Record]:
        """See Reads."""
        keys = list(self._changes.irange(begin, end, (True, False), reverse=reverse))
        fresh = [(key, self._changes[key]) for key in keys]
        changed = set(keys)
        below = (r for r in self._base.scan(begin, end, reverse) if r[0] not in changed)
        above = (record for record in fresh if record[1] is not None)
        return merge(below, above, key=lambda record: record[0], reverse=reverse)

    def part(self, begin: bytes, end: bytes, records_max: int) -> tuple[list[Record], bool]:
        """See Snapshot."""
        found = list(islice(self.scan(begin, end), records_max + 1))
        return found[:records_max], len(found) <= records_max

    def write(self, changes: Mapping[bytes, bytes | None]) -> None:
        """See KeyValue."""
        self._changes.update(changes)

    def snapshot(self, walk: Walk | None = None) -> Snapshot:  # noqa: ARG002
        """See KeyValue, and the class."""
        return self

    def unfrozen(self, walk: Walk) -> Snapshot:
        """See KeyValue."""
        return self.snapshot(walk)

    def flush(self) -> None:
        """See KeyValue: nothing of it ever is on disk."""

    def replace(self, records: Iterable[Record]) -> None:
        """See KeyValue."""
        self._base, self._changes = MemoryKV(), SortedDict(records)

    def close(self) -> None:
        """See KeyValue. What is below belongs to somebody else."""
        self._changes = SortedDict()
