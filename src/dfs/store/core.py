"""Store: the applied state of one node over a key/value port."""

from collections.abc import Sequence
from typing import Any

from dfs.errors import DfsError
from dfs.store.layout import Change
from dfs.store.read import View

Kv = Any


class Store:
    """The tree, its history and what Raft must find again beside them.

    `apply`, `restore`, `get_answer` and `stat_answer` belong to one thread (the hot one); `view`,
    `export` and `flush` may be called from any.
    """

    applied: int
    """Index of the last applied log entry; 0 = empty."""
    log_id: bytes
    """Raft's id of that entry; opaque."""
    membership: bytes
    """Raft's membership as of that entry; opaque."""
    floor: int
    """Oldest revision still in history."""
    state_hash: bytes
    """16 bytes: equal on members that hold the same live records."""
    chain: bytes
    """16 bytes: equal on members that applied the same entries."""
    keys: int
    """Live records, directories included."""
    bytes: int
    """Sum of the sizes of the live files."""
    time_ns: int
    """Time of the last entry, monotonic."""

    def __init__(self, kv: Kv) -> None:
        """Opens the state in `kv`. Raises DataLoss when it is damaged, UnknownEntry when a newer
        version of dfs wrote it."""
        raise NotImplementedError

    def apply(
        self, entries: Sequence[tuple[int, "bytes", bool]], log_id: "bytes", membership: "bytes"
    ) -> tuple[list["bytes | DfsError | None"], list[Change]]:
        """Applies committed entries, in order, as one atomic write.

        `entries`: (index, payload, wanted), indexes without a gap; b"" for Raft's own entries.
        `membership`: b"" unless it changed within the batch.
        Returns one result an entry (the encoded answer or the refusal where wanted, else None)
        and all changes, in order. Raises only when this node must stop: UnknownEntry (a newer
        version wrote it), DataLoss (the state is damaged), Internal, OutOfSpace.
        """
        raise NotImplementedError

    def view(self) -> View:
        """The state as of now, frozen; close it."""
        raise NotImplementedError

    def get_answer(self, key: str, revision: int = 0) -> "bytes":
        """The encoded GetResponse of a file. Raises NotFound, IsADirectory, OutOfRange, DataLoss."""
        raise NotImplementedError

    def stat_answer(self, key: str, revision: int = 0) -> "bytes":
        """The encoded StatResponse of a key. Raises NotFound, OutOfRange, DataLoss."""
        raise NotImplementedError

    def export(self, view: View, path: str) -> None:
        """Writes the whole state of `view` to a new file at `path`, with a digest, on disk."""
        raise NotImplementedError

    def restore(self, path: str) -> None:
        """Replaces the whole state by an exported one; a crash leaves the old or the new.

        Raises DataLoss when the file is damaged: the old state stays.
        """
        raise NotImplementedError

    def flush(self) -> int:
        """Makes the state durable; returns an index up to which it surely is. Blocks without the
        interpreter lock."""
        raise NotImplementedError

    def close(self) -> None:
        """Releases the key/value store."""
        raise NotImplementedError
