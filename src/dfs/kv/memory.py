"""The key/value port in memory, for tests and simulations. Nothing outlives the process."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Mapping
from weakref import WeakSet

from sortedcontainers import SortedDict

from dfs.kv.port import CLOSED, Closed, Record, Snapshot


class MemoryKV:
    """The same in memory, for tests and simulations. Nothing outlives the process."""

    def __init__(self) -> None:
        self._map = SortedDict()
        self._closed = False
        self._turn = threading.RLock()
        self._snapshots: WeakSet[MemoryKV] = WeakSet()

    def get(self, key: bytes) -> bytes | None:
        """See Reads."""
        self._check_open()
        value: bytes | None = self._map.get(key)
        return value

    def get_many(self, keys: list[bytes]) -> list[bytes | None]:
        """See KeyValue."""
        return [self.get(key) for key in keys]

    def scan(self, begin: bytes, end: bytes, reverse: bool = False) -> Iterator[Record]:
        """See Reads."""
        self._check_open()
        with self._turn:
            keys = list(self._map.irange(begin, end, inclusive=(True, False), reverse=reverse))
            records = [(key, self._map[key]) for key in keys]
        for record in records:
            self._check_open()
            yield record

    def write(self, changes: Mapping[bytes, bytes | None]) -> None:
        """See KeyValue."""
        self._check_open()
        with self._turn:
            for key, value in changes.items():
                if value is None:
                    self._map.pop(key, None)
                else:
                    self._map[key] = value

    def snapshot(self) -> Snapshot:
        """See KeyValue. Copies everything."""
        self._check_open()
        frozen = MemoryKV()
        with self._turn:
            frozen._map = self._map.copy()
        self._snapshots.add(frozen)
        return frozen

    def flush(self) -> None:
        """See KeyValue."""
        self._check_open()

    def replace(self, records: Iterable[Record]) -> None:
        """See KeyValue."""
        fresh = SortedDict(records)
        with self._turn:
            self._map = fresh
            for frozen in list(self._snapshots):
                frozen.close()

    def close(self) -> None:
        """See KeyValue."""
        self._closed = True
        for frozen in list(self._snapshots):
            frozen.close()

    def _check_open(self) -> None:
        if self._closed:
            raise Closed(CLOSED)
