"""Transactions: several changes collected by a `with` block, sent as one at its end."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Generator
from types import TracebackType
from typing import Final

from ..limits import INLINE_BYTES_MAX, PUT_MANY_OPERATIONS_MAX
from ..proto import dfs_pb2 as pb
from . import calls, sources
from .calls import Call, Xattrs
from .sending import Keep, Progress, Sending
from .sources import Content, Source

_LIGHT_BYTES_MAX: Final = 2 * INLINE_BYTES_MAX
"""Of contents that travel along without more ado: to encode them takes a millisecond."""


class Changes:
    """What both clients' transactions collect. Nothing is sent before the end of the block."""

    def __init__(self) -> None:
        self.revision = 0
        """Of all the changes, once they were made; 0 before that, and when there were none."""
        self._operations: list[pb.Operation | Content] = []

    def __len__(self) -> int:
        return len(self._operations)

    def put(
        self, key: str, source: Source, *, mode: int | None = None,
        mtime_ns: int | None = None, uid: int | None = None, gid: int | None = None,
        xattrs: Xattrs | None = None, base_revision: int | None = None,
    ) -> None:
        """See `Client.put`. `source`: content of any size, as bytes, as the Path of a file, or as a
        file, which is read at the end of the block from where it stands now."""
        metadata = calls.metadata(mode, mtime_ns, uid, gid, xattrs)
        self._operations.append(Content(calls.text(key), source, metadata, base_revision))

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

    @property
    def light(self) -> bool:
        """All of it is here and small: nothing is read or uploaded before `call`."""
        if len(self._operations) > PUT_MANY_OPERATIONS_MAX:
            return False
        weights = [part.weight() for part in self._operations if isinstance(part, Content)]
        return max(weights, default=0) <= INLINE_BYTES_MAX and sum(weights) <= _LIGHT_BYTES_MAX

    def uploads(
        self, request_id: bytes, progress: Progress | None, keep: Keep
    ) -> Generator[Sending]:
        """What has to be uploaded before `call`; see `sources.uploads`."""
        contents = [part for part in self._operations if isinstance(part, Content)]
        parts = (p.bare() if isinstance(p, Content) else p for p in self._operations)
        bare = pb.TransactionRequest(operations=parts, request_id=calls.checked_id(request_id))
        return sources.uploads(contents, bare, progress, keep)

    def call(self, request_id: bytes, general: bool = False) -> Call[int]:
        """The transaction; `general`: as nodes know it that know no PutMany. Each operation is
        encoded by itself, into memory that the next one uses again: of messages one behind the
        other protobuf reads one that has all of it."""
        head = pb.TransactionRequest(request_id=calls.checked_id(request_id))
        encoded, only_puts = [calls.encode(head)], not general
        for part in self._operations:
            request = pb.TransactionRequest()
            operation = request.operations.add()
            if isinstance(part, Content):
                part.fill(operation)
            else:
                operation.MergeFrom(part)
            only_puts = only_puts and operation.HasField("put")
            encoded.append(calls.encode(request))
        return calls.transaction(
            len(self._operations), only_puts, b"".join(encoded), request_id
        )


class Transaction(Changes):
    """See `Client.transaction`."""

    def __init__(self, commit: Callable[[Changes], int]) -> None:
        super().__init__()
        self._commit = commit

    def __enter__(self) -> Transaction:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is None and self._operations:
            self.revision = self._commit(self)


class AsyncTransaction(Changes):
    """See `AsyncClient.transaction`."""

    def __init__(self, commit: Callable[[Changes], Awaitable[int]]) -> None:
        super().__init__()
        self._commit = commit

    async def __aenter__(self) -> AsyncTransaction:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is None and self._operations:
            self.revision = await self._commit(self)
