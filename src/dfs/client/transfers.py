"""Files of any size: what is on its way, and how both clients go on when they lose their node.

An upload is known to the cluster by its request id: when a connection breaks, what the node had got
stays there, and the next attempt sends what is missing. To another node it begins anew.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import io
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO, Final, NamedTuple

import grpc
import grpc.aio

from ..errors import DataLoss, FailedPrecondition, InvalidArgument, Unavailable
from ..limits import TRANSFER_STALL_MS, UPLOAD_PIECE_BYTES
from ..proto import dfs_pb2 as pb
from . import calls
from .calls import FILES, Call, Xattrs, checked_id, consistency, metadata, revision_of, text
from .faults import Attempts, Fault, fault_of
from .session import Session
from .values import Stat, stat_of

UPLOAD: Final = FILES + "Upload"
DOWNLOAD: Final = FILES + "Download"
SHAPE_UPLOAD: Final = "stream_stream"
STALL_S: Final = TRANSFER_STALL_MS / 1000
"""For a transfer that gets no further, and a call that has to wait for one."""
_WAIT_S: Final = 0.1
_WRITE_FAILED: Final = "Internal error from Core"
"""What grpcio says of a message that it could not send, in place of the answer to the call."""


class Transferred(NamedTuple):
    """How far an upload or download is."""

    received: int
    """Bytes that have arrived where they shall be."""
    held: int = 0
    """Uploads: so many voters have all of it on disk, of so many."""
    voters: int = 0
    key: str = ""
    """Transactions: of the content that is on its way; `received` is of all of them."""
    total: int = 0
    """Transactions: bytes of all contents, as far as it is known."""


Progress = Callable[[Transferred], None]


class Sending:
    """One upload. Its messages are asked for on another thread than the answers are taken."""

    def __init__(
        self, key: str, source: BinaryIO, size: int, described: pb.Metadata | None,
        base_revision: int | None, id_: bytes, progress: Progress | None, hold: bool = False,
    ) -> None:
        """`hold`: only for a transaction, which will store it."""
        self.key = key
        self._source, self._progress = source, progress
        self._head = pb.UploadHead(
            size=size, metadata=described, base_revision=base_revision, request_id=checked_id(id_),
        )
        self.writes = not hold
        if hold:
            self._head.hold_for = text(key)
        else:
            self._head.key = text(key)
        self._start = source.tell() if source.seekable() else 0
        self._at = 0
        """Of the content, where the source stands."""
        self._digest = hashlib.sha256()
        self._digested = 0
        self._sealed = False
        """The node knows the digest of all of it."""
        self.received = 0
        self.moved = False
        """Something new has arrived there in this attempt."""
        self.revision = 0
        """Not 0: it is stored."""
        self.content: pb.PutContentRequest | None = None
        """What is known of it, once it is held."""
        self.error: Exception | None = None
        """The source cannot be read."""

    @property
    def done(self) -> bool:
        """It is stored, or held."""
        return bool(self.revision) or self.content is not None

    def known(self, sha256: bytes) -> None:
        """The digest, if it was read before; b"" = it was not."""
        self._head.sha256 = sha256

    def head(self) -> pb.UploadRequest:
        """The first message of an attempt."""
        self.moved = False
        self._sealed = bool(self._head.sha256)
        return pb.UploadRequest(head=self._head)

    def begin(self, answer: pb.UploadResponse) -> None:
        """The node says from where on it wants the content."""
        self.take(answer)
        if answer.received != self._at:
            if not self._source.seekable():
                raise Unavailable(
                    "the node was lost on the way, and what cannot be read twice cannot be sent"
                    " twice: upload from a file"
                )
            self._source.seek(self._start + answer.received)
            self._at = answer.received

    def piece(self) -> pb.UploadRequest | None:
        """The next message; None at the end. Blocks for the source."""
        if not self._sealed:
            self._digest_what_is_there()
        data = self._source.read(UPLOAD_PIECE_BYTES)
        if data:
            known = self._digested - self._at
            if 0 <= known < len(data):
                self._digest.update(memoryview(data)[known:])
                self._digested = self._at + len(data)
            self._at += len(data)
            return pb.UploadRequest(data=data)
        if self._sealed or self._digested != self._at:
            return None
        self._sealed = True
        self._head.sha256 = self._digest.digest()  # a repetition need not send what is there
        return pb.UploadRequest(head=self._head)

    def _digest_what_is_there(self) -> None:
        """Reads what the node has got of an earlier upload with this request id, so that the digest
        at the end says whether that was the same content."""
        if self._digested >= self._at:
            return
        self._source.seek(self._start + self._digested)
        while self._digested < self._at:
            data = self._source.read(min(UPLOAD_PIECE_BYTES, self._at - self._digested))
            if not data:
                self._at = self._digested  # There is less of it now.
            self._digest.update(data)
            self._digested += len(data)

    def take(self, answer: pb.UploadResponse) -> None:
        """The node says how far it is."""
        self.moved = self.moved or answer.received > self.received or bool(answer.held)
        self.received = answer.received
        self.revision = answer.revision
        if answer.HasField("content"):
            self.content = answer.content
        if self._progress is not None:
            self._progress(Transferred(answer.received, answer.held, answer.voters))

    def call(self) -> Call[int]:
        """As which it counts when attempts are."""
        return Call(
            UPLOAD, self._head, pb.UploadResponse.FromString, revision_of, None, self.writes, True,
            self._head.request_id,
        )


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

    def upload(
        self, key: str, source: BinaryIO | bytes, *, size: int = 0, mode: int | None = None,
        mtime_ns: int | None = None, uid: int | None = None, gid: int | None = None,
        xattrs: Xattrs | None = None, base_revision: int | None = None,
        request_id: bytes | None = None, progress: Progress | None = None,
    ) -> int:
        """Stores a file of any size and returns its revision, when a majority has it on disk.

        `source`: read from where it stands to its end, piece by piece; after a broken connection
        again from where the node has got to, so it is best a file. `size`: of all of it; 0 = not
        known beforehand. Takes as long as something moves. See `put` for the rest.
        """
        if isinstance(source, bytes):
            size, source = len(source), io.BytesIO(source)
        id_ = self._session.id_of(request_id)
        described = metadata(mode, mtime_ns, uid, gid, xattrs)
        sending = Sending(key, source, size, described, base_revision, id_, progress)
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
                getting.take(answer)
        except grpc.RpcError as error:
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
                await asyncio.to_thread(getting.take, answer)
        except grpc.aio.AioRpcError as error:
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
