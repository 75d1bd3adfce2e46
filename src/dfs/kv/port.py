"""What the store needs of a key/value store."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Final, Protocol

from dfs.errors import Unavailable

Record = tuple[bytes, bytes]
Walk = tuple[bytes, bytes]
"""A range [begin, end) that will be read in ascending order."""
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

    def part(self, begin: bytes, end: bytes, records_max: int) -> tuple[list[Record], bool]:
        """The first records with begin <= key < end, in one go, and whether they are the last ones;
        no more than so many, and none only at the end. Raises DataLoss."""

    def close(self) -> None:
        """Lets go of it. Idempotent; reads raise Closed afterwards."""


class KeyValue(Reads, Protocol):
    """An ordered store of bytes with atomic batches."""

    def get_many(self, keys: list[bytes]) -> list[bytes | None]:
        """One value or None for each key."""

    def write(self, changes: Mapping[bytes, bytes | None]) -> None:
        """Writes all of it or nothing; None deletes. Durable only after `flush`. Raises OutOfSpace,
        OSError."""

    def snapshot(self, walk: Walk | None = None) -> Snapshot:
        """The state as of now. Any thread. `walk`: a range through which `part` will go from its
        begin, each time behind the last record: that is twice as fast if it is said here."""

    def unfrozen(self, walk: Walk) -> Snapshot:
        """As `snapshot`, for a reader who sees to it that nothing is written until it has closed
        it: the thread that writes. It shows the live state, and costs half as much."""

    def flush(self) -> None:
        """Returns when everything written before is on disk. Any thread."""

    def replace(self, records: Iterable[Record]) -> None:
        """Makes `records` the whole content, durably. If reading them raises, the old content
        stays; a crash leaves the old or the new. Snapshots are closed."""

    def close(self) -> None:
        """Releases everything, the lock of the directory included. Idempotent."""
