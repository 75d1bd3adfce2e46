"""The key/value port under the store: a protocol, RocksDB, and an in-memory twin.

Keys and values are bytes; keys sort by their bytes.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Protocol


class Reads(Protocol):
    """What both the live state and a snapshot can do."""

    def get(self, key: bytes) -> bytes | None:
        """The value, or None."""

    def scan(self, begin: bytes, end: bytes, reverse: bool = False) -> Iterator[tuple[bytes, bytes]]:
        """Records with begin <= key < end, in order. Raises DataLoss instead of ending early."""


class Snapshot(Reads, Protocol):
    """A frozen state; any thread."""

    def close(self) -> None:
        """Lets go of it. Idempotent; reads raise Closed afterwards."""


class KeyValue(Reads, Protocol):
    """An ordered store of bytes with atomic batches."""

    def get_many(self, keys: list[bytes]) -> list[bytes | None]:
        """One value or None for each key."""

    def write(self, changes: Mapping[bytes, bytes | None]) -> None:
        """Writes all of it or nothing; None deletes. Durable only after `flush`."""

    def snapshot(self) -> Snapshot:
        """The state as of now."""

    def flush(self) -> None:
        """Returns when everything written before is on disk. Any thread."""

    def replace(self, records: Iterable[tuple[bytes, bytes]]) -> None:
        """Makes `records` the whole content, durably. If reading them raises, the old content
        stays; a crash leaves the old or the new."""

    def close(self) -> None:
        """Releases everything, the lock of the directory included. Idempotent."""
