"""Transactions: several changes collected by a `with` block, sent as one at its end."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from types import TracebackType

from ..proto import dfs_pb2 as pb
from . import calls
from .calls import Xattrs

Operations = list[pb.Operation]


class Changes:
    """What both clients' transactions collect. Nothing is sent before the end of the block."""

    def __init__(self) -> None:
        self.revision = 0
        """Of all the changes, once they were made; 0 before that, and when there were none."""
        self._operations: Operations = []

    def __len__(self) -> int:
        return len(self._operations)

    def put(
        self, key: str, data: bytes | bytearray | memoryview, *, mode: int | None = None,
        mtime_ns: int | None = None, uid: int | None = None, gid: int | None = None,
        xattrs: Xattrs | None = None, base_revision: int | None = None,
    ) -> None:
        """See `Client.put`."""
        metadata = calls.metadata(mode, mtime_ns, uid, gid, xattrs)
        self._operations.append(calls.put_operation(key, data, metadata, base_revision))

    def delete(
        self, key: str, *, recursive: bool = False, base_revision: int | None = None
    ) -> None:
        """See `Client.delete`."""
        self._operations.append(pb.Operation(delete=pb.DeleteRequest(
            key=calls.text(key), recursive=recursive, base_revision=base_revision
        )))

    def mkdir(
        self, key: str, *, mode: int | None = None, mtime_ns: int | None = None,
        uid: int | None = None, gid: int | None = None, xattrs: Xattrs | None = None,
    ) -> None:
        """See `Client.mkdir`."""
        metadata = calls.directory_metadata(mode, mtime_ns, uid, gid, xattrs)
        self._operations.append(calls.mkdir_operation(key, metadata))

    def symlink(
        self, key: str, target: str, *, mode: int | None = None, mtime_ns: int | None = None,
        uid: int | None = None, gid: int | None = None, xattrs: Xattrs | None = None,
        base_revision: int | None = None,
    ) -> None:
        """See `Client.symlink`."""
        metadata = calls.metadata(mode, mtime_ns, uid, gid, xattrs)
        self._operations.append(calls.symlink_operation(key, target, metadata, base_revision))

    def move(
        self, source: str, target: str, *, replace: bool = False,
        base_revision: int | None = None,
    ) -> None:
        """See `Client.move`."""
        self._operations.append(pb.Operation(move=pb.MoveRequest(
            source=calls.text(source), target=calls.text(target), replace=replace,
            base_revision=base_revision,
        )))

    def copy(
        self, source: str, target: str, *, recursive: bool = False, replace: bool = False,
        base_revision: int | None = None,
    ) -> None:
        """See `Client.copy`."""
        self._operations.append(pb.Operation(copy=pb.CopyRequest(
            source=calls.text(source), target=calls.text(target), recursive=recursive,
            replace=replace, base_revision=base_revision,
        )))


class Transaction(Changes):
    """See `Client.transaction`."""

    def __init__(self, commit: Callable[[Operations], int]) -> None:
        super().__init__()
        self._commit = commit

    def __enter__(self) -> Transaction:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is None and self._operations:
            self.revision = self._commit(self._operations)


class AsyncTransaction(Changes):
    """See `AsyncClient.transaction`."""

    def __init__(self, commit: Callable[[Operations], Awaitable[int]]) -> None:
        super().__init__()
        self._commit = commit

    async def __aenter__(self) -> AsyncTransaction:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is None and self._operations:
            self.revision = await self._commit(self._operations)
