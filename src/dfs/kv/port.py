"""What the store needs of a key/value store."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Final, Protocol

from dfs.errors import Unavailable

Record = tuple[bytes, bytes]
CLOSED: Final = "the state was replaced or closed while it was read: repeat the call"
"""What Closed says."""


class Closed(Unavailable):
    """The store or snapshot was closed, or its content was replaced, while it was read."""


class Reads(Protocol):
    """What both the live state and a snapshot can do."""

    def get(self, key: bytes) -> bytes | None:
        """The value, or None. Raises DataLoss when it cannot be read."""

    def scan(self, begin: bytes, end: bytes, reverse: bool = False) -> Iterator[Record]:
        """Records with begin <= key < end, in order, as of this call. Raises DataLoss where
        damage would end it early."""


class Snapshot(Reads, Protocol):
    """A frozen state; any thread."""

    def close(self) -> None:
        """Lets go of it. Idempotent; reads raise Closed afterwards."""


class KeyValue(Reads, Protocol):
    """An ordered store of bytes with atomic batches."""

    def get_many(self, keys: list[bytes]) -> list[bytes | None]:
        """One value or None for each key."""

    def write(self, changes: Mapping[bytes, bytes | None]) -> None:
        """Writes all of it or nothing; None deletes. Durable only after `flush`. Raises OutOfSpace,
        OSError."""

    def snapshot(self) -> Snapshot:
        """The state as of now. Any thread."""

    def flush(self) -> None:
        """Returns when everything written before is on disk. Any thread."""

    def replace(self, records: Iterable[Record]) -> None:
        """Makes `records` the whole content, durably. If reading them raises, the old content
        stays; a crash leaves the old or the new. Snapshots are closed."""

    def close(self) -> None:
        """Releases everything, the lock of the directory included. Idempotent."""
