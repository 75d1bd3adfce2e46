"""Files of any size: what comes, and how both clients go on when they lose their node."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import io
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, BinaryIO, Final

import grpc
import grpc.aio

from ..errors import DataLoss, FailedPrecondition, InvalidArgument, Unavailable, Unimplemented
from ..limits import TRANSFER_STALL_MS
from ..proto import dfs_pb2 as pb
from . import calls
from .calls import FILES, Call, Xattrs, consistency, metadata, text
from .faults import Attempts, Fault, fault_of
from .sending import UPLOAD, Keep, Progress, Sending, Transferred
from .session import Session
from .values import Stat, stat_of

DOWNLOAD: Final = FILES + "Download"
SHAPE_UPLOAD: Final = "stream_stream"
STALL_S: Final = TRANSFER_STALL_MS / 1000
"""For a transfer that gets no further, and a call that has to wait for one."""
_WAIT_S: Final = 0.1
_WRITE_FAILED: Final = "Internal error from Core"
"""What grpcio says of a message that it could not send, in place of the answer to the call."""


class Getting:
    """One download."""

    def __init__(
        self, key: str, target: BinaryIO, offset: int, length: int, revision: int, local: bool,
        min_revision: int, progress: Progress | None,
    ) -> None:
        if offset < 0 or length < 0:
            raise InvalidArgument(f"offset is {offset}, length {length}: neither can be negative")
        self._target, self._progress = target, progress
        self._request = pb.DownloadRequest(
            key=text(key), revision=revision, consistency=consistency(local), offset=offset,
            length=length, min_revision=min_revision,
        )
        self._offset, self._length = offset, length
        self._digest = hashlib.sha256()
        self.received = 0
        self.moved = False
        self.stat: Stat | None = None

    def request(self) -> pb.DownloadRequest:
        """For an attempt: what has not come yet."""
        self.moved = False
        self._request.offset = self._offset + self.received
        if self._length:
            self._request.length = self._length - self.received
        return self._request

    def take(self, answer: pb.DownloadResponse) -> None:
        """Writes what has come. Blocks for the target. Raises FailedPrecondition."""
        if answer.HasField("record"):
            stat = stat_of(answer.record)
            if self.stat is not None and self.stat.sha256 != stat.sha256:
                raise FailedPrecondition(
                    f"{self._request.key} was changed while it was read: read it again"
                )
            self.stat = self.stat or stat
        if answer.data:
            self._target.write(answer.data)
            if not self._offset:  # else nobody knows what it must be
                self._digest.update(answer.data)
            self.received += len(answer.data)
            self.moved = True
            if self._progress is not None:
                self._progress(Transferred(self.received))

    def done(self) -> bool:
        """Everything has come. Raises DataLoss."""
        if self.stat is None or self.received < self.expected():
            return False
        whole = not self._offset and self.received == self.stat.size
        if whole and self._digest.digest() != self.stat.sha256:
            raise DataLoss(f"{self._request.key} came otherwise than it is stored: read it again")
        return True

    def expected(self) -> int:
        """Bytes in all, once something has come."""
        assert self.stat is not None
        left = max(self.stat.size - self._offset, 0)
        return min(left, self._length) if self._length else left

    def call(self) -> Call[Any]:
        """As which it counts when attempts are."""
        return Call(
            DOWNLOAD, self._request, pb.DownloadResponse.FromString, lambda a: a, None, False, True
        )


def _ended_early() -> Fault:
    return Fault(Unavailable("the node ended the transfer before it was whole"), 0.0, True)


class Transfers:
    """The part of `Client` for files of any size."""

    _session: Session

    def _method(
        self, endpoint: str, name: str, parse: Callable[[bytes], Any], shape: str
    ) -> Any:
        raise NotImplementedError

    def _answered(self, endpoint: str, revision: int) -> None:
        raise NotImplementedError

    def _wait(
        self, next_attempt: Callable[..., float], why: Fault, endpoint: str, failed: set[str]
    ) -> None:
        raise NotImplementedError

    def _call(self, call: Call[Any], timeout: float | None) -> Any:
        raise NotImplementedError

    def _keep(self, contents: Sequence[bytes]) -> set[bytes]:
        """Those of some contents that a node has, and keeps for a transaction."""
        try:
            found: set[bytes] = self._call(calls.keep_contents(contents), None)
        except Unimplemented:
            return set()  # A node of an earlier version: it is sent all of them.
        return found

    def upload(
        self, key: str, source: BinaryIO | bytes, *, size: int = 0, mode: int | None = None,
        mtime_ns: int | None = None, uid: int | None = None, gid: int | None = None,
        xattrs: Xattrs | None = None, base_revision: int | None = None,
        request_id: bytes | None = None, progress: Progress | None = None,
    ) -> int:
        """Stores a file of any size and returns its revision, when a majority has it on disk.

        `source`: read from where it stands to its end, piece by piece; it is best a file, which can
        be read twice: then what the cluster has of it already is not sent, and after a broken
        connection what has arrived is not sent again. `size`: of all of it; 0 = not known
        beforehand. Takes as long as something moves. See `put` for the rest.
        """
        if isinstance(source, bytes):
            size, source = len(source), io.BytesIO(source)
        id_ = self._session.id_of(request_id)
        described = metadata(mode, mtime_ns, uid, gid, xattrs)
        sending = Sending(key, source, size, described, base_revision, id_, progress)
        sending.look()
        self._transfer(sending, self._send_once)
        return sending.revision

    def download(
        self, key: str, target: BinaryIO, *, offset: int = 0, length: int = 0, revision: int = 0,
        local: bool = False, min_revision: int | None = None, progress: Progress | None = None,
    ) -> Stat:
        """Writes the content of a file of any size to `target`, or `length` bytes of it from
        `offset` on (0 = up to the end), and returns its record. Verified as it comes, the whole by
        its SHA-256; goes on at another node when one is lost. See `get` for the rest."""
        least = self._session.least(local, min_revision)
        getting = Getting(key, target, offset, length, revision, local, least, progress)
        self._transfer(getting, self._get_once)
        assert getting.stat is not None
        return getting.stat

    def _transfer(
        self, transfer: Any, once: Callable[[Any, str], Fault | None]
    ) -> None:
        session = self._session
        attempts: Attempts | None = None
        failed: set[str] = set()
        while True:
            endpoint = session.current()
            why = once(transfer, endpoint)
            if why is None:
                return
            if attempts is None or transfer.moved:  # patience begins anew
                failed = set()
                attempts = session.attempts(transfer.call(), STALL_S, time.monotonic())
            self._wait(attempts.failed, why, endpoint, failed)

    def _send_once(self, sending: Sending, endpoint: str) -> Fault | None:
        begun, ended = threading.Event(), threading.Event()

        def messages() -> Iterator[pb.UploadRequest]:
            try:
                yield sending.head()
                while not begun.wait(_WAIT_S):
                    if ended.is_set():
                        return
                while not ended.is_set() and (piece := sending.piece()) is not None:
                    yield piece
            except Exception as error:  # boundary: gRPC would only say that there was one
                sending.error = error
                raise

        method = self._method(endpoint, UPLOAD, pb.UploadResponse.FromString, SHAPE_UPLOAD)
        answers = method(messages())
        try:
            for number, answer in enumerate(answers):
                self._session.contact = True
                if number:
                    sending.take(answer)
                else:
                    sending.begin(answer)
                    begun.set()
        except grpc.RpcError as error:
            if sending.error is not None:
                raise sending.error from None
            return fault_of(error, endpoint, sending.writes)
        finally:
            ended.set()
            answers.cancel()
        if sending.done:
            self._answered(endpoint, sending.revision)
            return None
        return _ended_early()

    def _get_once(self, getting: Getting, endpoint: str) -> Fault | None:
        method = self._method(endpoint, DOWNLOAD, pb.DownloadResponse.FromString, "unary_stream")
        answers = method(getting.request())
        try:
            for answer in answers:
                self._session.contact = True
                getting.take(answer)
        except grpc.RpcError as error:
            if not getting.done():
                return fault_of(error, endpoint, False)
        finally:
            answers.cancel()
        if getting.done():
            assert getting.stat is not None
            self._answered(endpoint, getting.stat.revision)
            return None
        return _ended_early()


class AsyncTransfers:
    """The same of `AsyncClient`. Source and target are files of this machine, used in a thread."""

    _session: Session

    def _method(
        self, endpoint: str, name: str, parse: Callable[[bytes], Any], shape: str
    ) -> Any:
        raise NotImplementedError

    def _answered(self, endpoint: str, revision: int) -> None:
        raise NotImplementedError

    async def _call(self, call: Call[Any], timeout: float | None) -> Any:
        raise NotImplementedError

    async def _wait(
        self, next_attempt: Callable[..., float], why: Fault, endpoint: str, failed: set[str]
    ) -> None:
        raise NotImplementedError

    def _keeper(self) -> Keep:
        """See `Transfers._keep`; for a thread beside this loop."""
        loop = asyncio.get_running_loop()

        async def ask(contents: Sequence[bytes]) -> set[bytes]:
            try:
                found: set[bytes] = await self._call(calls.keep_contents(contents), None)
            except Unimplemented:
                return set()
            return found

        return lambda contents: asyncio.run_coroutine_threadsafe(ask(contents), loop).result()

    async def upload(
        self, key: str, source: BinaryIO | bytes, *, size: int = 0, mode: int | None = None,
        mtime_ns: int | None = None, uid: int | None = None, gid: int | None = None,
        xattrs: Xattrs | None = None, base_revision: int | None = None,
        request_id: bytes | None = None, progress: Progress | None = None,
    ) -> int:
        """See `Client.upload`."""
        if isinstance(source, bytes):
            size, source = len(source), io.BytesIO(source)
        id_ = self._session.id_of(request_id)
        described = metadata(mode, mtime_ns, uid, gid, xattrs)
        sending = Sending(key, source, size, described, base_revision, id_, progress)
        await asyncio.to_thread(sending.look)
        await self._transfer(sending, self._send_once)
        return sending.revision

    async def download(
        self, key: str, target: BinaryIO, *, offset: int = 0, length: int = 0, revision: int = 0,
        local: bool = False, min_revision: int | None = None, progress: Progress | None = None,
    ) -> Stat:
        """See `Client.download`."""
        least = self._session.least(local, min_revision)
        getting = Getting(key, target, offset, length, revision, local, least, progress)
        await self._transfer(getting, self._get_once)
        assert getting.stat is not None
        return getting.stat

    async def put_content(
        self, request: pb.PutContentRequest, *, timeout: float | None = None
    ) -> int:
        """Stores a content that was handed to the node of this machine, or that the cluster has
        already; returns the revision. See `Client.put` for what is refused."""
        found: int = await self._call(calls.put_content(request), timeout or STALL_S)
        return found

    async def have_content(
        self, sha256: bytes, *, wait_ms: int, chunk: int | None = None, manifest: bool = False
    ) -> pb.HaveContentResponse:
        """Has the node get a large content onto its disk, or a `chunk` of it, and says after
        `wait_ms` at the latest how far it is. Raises NotFound: no version names it."""
        limit_s = wait_ms / 1000 + self._session.timeout_s
        call = calls.have_content(sha256, wait_ms, chunk, manifest)
        return await self._call(call, limit_s)  # type: ignore[no-any-return]

    async def _transfer(self, transfer: Any, once: Callable[[Any, str], Any]) -> None:
        session = self._session
        loop = asyncio.get_running_loop()
        attempts: Attempts | None = None
        failed: set[str] = set()
        while True:
            endpoint = session.current()
            why = await once(transfer, endpoint)
            if why is None:
                return
            if attempts is None or transfer.moved:
                failed = set()
                attempts = session.attempts(transfer.call(), STALL_S, loop.time())
            await self._wait(attempts.failed, why, endpoint, failed)

    async def _send_once(self, sending: Sending, endpoint: str) -> Fault | None:
        method = self._method(endpoint, UPLOAD, pb.UploadResponse.FromString, SHAPE_UPLOAD)
        call = method()
        answering: asyncio.Task[None] | None = None
        try:
            await call.write(sending.head())
            answer = await call.read()
            if answer is grpc.aio.EOF:
                return _ended_early()
            self._session.contact = True
            sending.begin(answer)
            answering = asyncio.ensure_future(_answers(call, sending))
            await _send_pieces(call, sending)
            await answering
        except grpc.aio.AioRpcError as error:
            if _WRITE_FAILED in (error.details() or ""):
                return _told_late(endpoint)
            return fault_of(error, endpoint, sending.writes)
        finally:
            call.cancel()
            if answering is not None:
                answering.cancel()
                await asyncio.gather(answering, return_exceptions=True)
        if sending.done:
            self._answered(endpoint, sending.revision)
            return None
        return _ended_early()

    async def _get_once(self, getting: Getting, endpoint: str) -> Fault | None:
        method = self._method(endpoint, DOWNLOAD, pb.DownloadResponse.FromString, "unary_stream")
        answers = method(getting.request())
        try:
            async for answer in answers:
                self._session.contact = True
                await asyncio.to_thread(getting.take, answer)
        except grpc.aio.AioRpcError as error:
            if not getting.done():
                return fault_of(error, endpoint, False)
        finally:
            answers.cancel()
        if getting.done():
            assert getting.stat is not None
            self._answered(endpoint, getting.stat.revision)
            return None
        return _ended_early()


async def _answers(call: Any, sending: Sending) -> None:
    while (answer := await call.read()) is not grpc.aio.EOF:
        sending.take(answer)


async def _send_pieces(call: Any, sending: Sending) -> None:
    while (piece := await asyncio.to_thread(sending.piece)) is not None:
        try:
            await call.write(piece)
        except asyncio.InvalidStateError:
            return  # The call has ended; its answer says why.
    with contextlib.suppress(asyncio.InvalidStateError):
        await call.done_writing()


def _told_late(endpoint: str) -> Fault:
    """The node has refused the rest, and gRPC lost why: the next attempt hears it at once."""
    return Fault(Unavailable(f"{endpoint} took no more of the upload"), 0.0, True)
