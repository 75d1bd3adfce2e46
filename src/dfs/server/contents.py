"""Files of any size on grpcio: Upload, Download, contents by name, and those of transactions."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator
from contextlib import aclosing, suppress
from pathlib import Path
from typing import Any, Protocol

import grpc

from ..assembling import Arrival, Assembly
from ..commands import (
    check_operations,
    check_put_content,
    refused_in,
)
from ..errors import (
    Conflict,
    DfsError,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    TooLarge,
    Unavailable,
)
from ..limits import (
    DEADLINE_MS_DEFAULT,
    DEADLINE_MS_MAX,
    INLINE_BYTES_MAX,
    PROGRESS_BYTES,
    TRANSACTION_OPERATIONS_MAX,
    UPLOAD_PIECE_BYTES,
)
from ..manifest import SHA256_BYTES, Manifest
from ..node import Contents as NodeContents
from ..node import Refused, Result, check_space
from ..paths import check_key
from ..proto.dfs_pb2 import (
    FILE,
    LOCAL,
    DownloadRequest,
    DownloadResponse,
    GetRequest,
    GetResponse,
    HaveContentRequest,
    HaveContentResponse,
    KeepContentsRequest,
    KeepContentsResponse,
    Operation,
    PutContentRequest,
    PutContentResponse,
    PutRequest,
    Record,
    StatRequest,
    StatResponse,
    TransactionRequest,
    UploadHead,
    UploadRequest,
    UploadResponse,
)
from ..store import View
from . import hot
from .guard import Context, check_size, guarded, timeout_ms
from .heads import check_head, check_held, check_whole, key_of, manifest_of
from .news import News


class Node(Protocol):
    """What is needed of a node."""

    @property
    def contents(self) -> NodeContents:
        """What it has of large contents."""

    async def write(self, method: int, body: bytes, timeout_ms: int) -> Result:
        """Proposes a write."""

    async def read(self, method: int, body: bytes, local: bool, timeout_ms: int) -> Result:
        """Answers a read."""

    def view(self) -> View:
        """The state as of now, frozen; close it."""


class Contents:
    """The methods of FileService for files of any size."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._arriving: set[str] = set()
        """Names of incoming files that some call writes."""

    def handlers(self) -> dict[str, Any]:
        """Name of the method → how grpcio calls it."""
        return {
            "Upload": grpc.stream_stream_rpc_method_handler(self._upload),
            "Download": grpc.unary_stream_rpc_method_handler(self._download),
            "PutContent": grpc.unary_unary_rpc_method_handler(self._put_content),
            "HaveContent": grpc.unary_unary_rpc_method_handler(self._have_content),
            "KeepContents": grpc.unary_unary_rpc_method_handler(self._keep_contents),
        }

    # ---- Upload ----------------------------------------------------------------------------------

    async def _upload(self, requests: AsyncIterator[bytes], context: Context) -> None:
        await guarded(context, self._take_upload(requests, context))

    async def _take_upload(self, requests: AsyncIterator[bytes], context: Context) -> None:
        first = hot.parse(UploadRequest, await anext(requests, b""))
        head = first.head
        check_head(head)
        self._check_base(head)
        name = self._place(head)
        if name in self._arriving:
            raise Unavailable(
                f"{key_of(head)}: another upload with this request id has not ended yet: try again"
            )
        self._arriving.add(name)
        try:
            manifest = await self._receive(head, name, first.data, requests, context)
            done = await self._store(head, name, manifest, context)
        finally:
            self._arriving.discard(name)
        await context.write(done.SerializeToString())

    def _place(self, head: UploadHead) -> str:
        """Name of the incoming file: that of the content if it was announced. Whoever sends the
        same at this moment sends all of it."""
        named: str = head.sha256.hex()
        if head.digests and named not in self._arriving:
            return named
        return (head.request_id or secrets.token_bytes(16)).hex()

    async def _receive(
        self, head: UploadHead, name: str, data: bytes, requests: AsyncIterator[bytes],
        context: Context,
    ) -> Manifest:  # fmt: skip
        """Writes what comes to a file of that name, behind or between what is there."""
        contents = self._node.contents
        if (known := self._announced(head)) and await contents.had(known):
            await _tell(context, UploadResponse(received=known.size))
            return known
        check_space(contents.files, head.size)
        arrival, first = await self._arrival(head, name)
        try:
            told = arrival.size
            await _tell(context, first)
            while True:
                if data:
                    await asyncio.to_thread(arrival.add, data)
                if arrival.size - told >= PROGRESS_BYTES:
                    told = arrival.size
                    check_space(contents.files, max(head.size - told, 0))
                    await _tell(context, UploadResponse(received=told))
                body = await anext(requests, None)
                if body is None:
                    break
                check_size(body)
                request = hot.parse(UploadRequest, body)
                data = request.data
                if request.head.sha256:
                    head.sha256 = request.head.sha256
            manifest = await asyncio.to_thread(arrival.finish)
        except FailedPrecondition as error:
            raise FailedPrecondition(f"{key_of(head)}: {error.text}") from None
        finally:
            await asyncio.to_thread(arrival.close)
        check_whole(head, manifest)
        return manifest

    def _announced(self, head: UploadHead) -> Manifest | None:
        """What a content that may be here already must be; None: nobody can know that, or it is
        none that is kept apart."""
        known = self._node.contents.held(head.sha256) or manifest_of(head)
        kept_apart = known and (head.hold_for or known.size > INLINE_BYTES_MAX)
        return known if head.sha256 and kept_apart else None

    async def _arrival(
        self, head: UploadHead, name: str
    ) -> tuple[Arrival | Assembly, UploadResponse]:
        """What takes the pieces that come, and what its sender is told first."""
        contents = self._node.contents
        manifest = manifest_of(head)
        if manifest is None or name != manifest.sha256.hex():
            whole = await asyncio.to_thread(Arrival, contents.files.uploads / name, head.size)
            return whole, UploadResponse(received=whole.size)
        path, lacking = await contents.gather(manifest, self._before(key_of(head)))
        parts = await asyncio.to_thread(Assembly, path, manifest, lacking)
        return parts, UploadResponse(received=parts.size, chunks=lacking)

    def _check_base(self, head: UploadHead) -> None:
        """Refuses early what would be refused in the end. Raises Conflict."""
        if not head.HasField("base_revision"):
            return
        with self._node.view() as view:
            if view.knows(head.request_id):
                return  # It is a repetition, which gets the answer of the first.
            try:
                found = Record.FromString(view.stat(head.key)).revision
            except NotFound:
                found = 0
        if found != head.base_revision:
            raise Conflict(
                f"{head.key}: expected revision {head.base_revision}, but it is at {found}",
                key=head.key, expected=str(head.base_revision), revision=str(found),
            )  # fmt: skip

    async def _store(
        self, head: UploadHead, name: str, manifest: Manifest, context: Context
    ) -> UploadResponse:
        path = self._node.contents.files.uploads / name
        if head.hold_for:
            check_held(head, manifest)
            await self._hold(head.hold_for, manifest, _found(path), context)
            held = PutContentRequest(**manifest._asdict())
            return UploadResponse(received=manifest.size, content=held)
        fields: dict[str, Any] = {"key": head.key, "request_id": head.request_id}
        if head.HasField("metadata"):
            fields["metadata"] = head.metadata
        if head.HasField("base_revision"):
            fields["base_revision"] = head.base_revision
        if manifest.size <= INLINE_BYTES_MAX:
            data = await asyncio.to_thread(path.read_bytes)
            body = PutRequest(data=data, **fields).SerializeToString()
            done = await self._write(hot.PUT, body, DEADLINE_MS_MAX)
            path.unlink(missing_ok=True)
            revision = PutContentResponse.FromString(done).revision
        else:
            await self._hold(head.key, manifest, _found(path), context)
            revision = await self._name(PutContentRequest(**fields, **manifest._asdict()))
        return UploadResponse(received=manifest.size, revision=revision)

    async def _hold(
        self, key: str, manifest: Manifest, source: Path | None, context: Context
    ) -> None:
        """Has a majority hold a content, and tells the caller how far that is."""
        news = News(context)

        def told(held: int, voters: int) -> None:
            news.tell(UploadResponse(received=manifest.size, held=held, voters=voters))

        try:
            await self._spread(key, manifest, source, told)
        finally:
            await news.end()

    # ---- PutContent ------------------------------------------------------------------------------

    async def _put_content(self, body: bytes, context: Context) -> bytes:
        # A content takes as long as its bytes take; it is given up when nothing moves.
        found = await guarded(context, self._take_content(body))
        return found.SerializeToString()

    async def _take_content(self, body: bytes) -> PutContentResponse:
        check_size(body)
        request = hot.parse(PutContentRequest, body)
        check_key(request.key)
        check_put_content(request)
        await self._spread_named(request)
        return PutContentResponse(revision=await self._name(request))

    async def _spread_named(self, request: PutContentRequest) -> None:
        """Has a majority hold the content that a request names."""
        manifest = Manifest(request.sha256, request.size, request.chunk_bytes, request.digests)
        name = request.incoming
        source = self._node.contents.files.incoming_path(name) if name else None
        await self._spread(request.key, manifest, source)

    async def _spread(
        self, key: str, manifest: Manifest, source: Path | None,
        told: Any = lambda _held, _voters: None,
    ) -> None:  # fmt: skip
        """Has a majority hold a content of which `source` is the file; without, it has to be
        here, or with another member."""
        contents = self._node.contents
        await contents.adopt(source, manifest)
        await contents.prove(manifest)
        await contents.spread(manifest, self._before(key), told)

    async def _name(self, request: PutContentRequest) -> int:
        """Proposes the entry that names a content which a majority holds; the revision."""
        request.ClearField("incoming")
        done = await self._write(hot.PUT_CONTENT, request.SerializeToString(), DEADLINE_MS_MAX)
        return PutContentResponse.FromString(done).revision

    def _before(self, key: str) -> bytes:
        """The large content that the key has now; b"" = none."""
        with suppress(NotFound), self._node.view() as view:
            record = Record.FromString(view.stat(key))
            return record.sha256 if record.chunk_bytes else b""
        return b""

    async def _write(self, method: hot.Method, body: bytes, limit: int) -> bytes:
        return _passed(await self._node.write(method.number, body, limit))

    # ---- Transaction -----------------------------------------------------------------------------

    async def held(self, body: bytes) -> bytes:
        """A Transaction as it may be proposed: a majority holds all contents that it names. That
        takes as long as their bytes take, so it cannot be done where plain calls are answered."""
        request = hot.parse(TransactionRequest, body)
        contents = [
            (number, operation) for number, operation in enumerate(request.operations)
            if operation.HasField("put_content")
        ]  # fmt: skip
        if not contents:
            return body
        check_operations(request, len(body))
        await self._node.contents.spread_all(contents, self._spread_operation)
        for _, operation in contents:
            operation.put_content.ClearField("incoming")
        return request.SerializeToString()

    async def _spread_operation(self, numbered: tuple[int, Operation]) -> None:
        number, operation = numbered
        try:
            await self._spread_named(operation.put_content)
        except DfsError as refusal:
            name, request = "put_content", operation.put_content
            raise refused_in(name, request, number, refusal) from None

    # ---- Download --------------------------------------------------------------------------------

    async def _download(self, body: bytes, context: Context) -> None:
        await guarded(context, self._send(body, context))

    async def _send(self, body: bytes, context: Context) -> None:
        check_size(body)
        request = hot.parse(DownloadRequest, body)
        check_key(request.key)
        asked: dict[str, Any] = {
            "key": request.key, "revision": request.revision,
            "min_revision": request.min_revision, "consistency": request.consistency,
        }  # fmt: skip
        found = await self._read(hot.STAT, StatRequest(**asked), context)
        record = StatResponse.FromString(found).record
        data = None
        if record.kind != FILE or not record.chunk_bytes:
            whole = GetResponse.FromString(await self._read(hot.GET, GetRequest(**asked), context))
            record, data = whole.record, whole.data
        begin, end = _range(request, record)
        answer = DownloadResponse(record=record)
        async for piece in self._pieces(record, data, begin, end):
            answer.data = piece
            await context.write(answer.SerializeToString())
            answer = DownloadResponse()
        if answer.HasField("record"):
            await context.write(answer.SerializeToString())

    async def _read(
        self, method: hot.Method, request: StatRequest | GetRequest, context: Context
    ) -> bytes:
        local = request.consistency == LOCAL
        limit = timeout_ms(context) if context.time_remaining() else DEADLINE_MS_DEFAULT
        return _passed(
            await self._node.read(method.number, request.SerializeToString(), local, limit)
        )

    async def _pieces(
        self, record: Record, data: bytes | None, begin: int, end: int
    ) -> AsyncIterator[bytes]:
        """The bytes from `begin` to `end`, verified."""
        if data is not None:
            for at in range(begin, end, UPLOAD_PIECE_BYTES):
                yield data[at : min(at + UPLOAD_PIECE_BYTES, end)]
            return
        if begin == end:
            return
        contents = self._node.contents
        manifest = contents.known(record.sha256)
        numbers = range(begin // manifest.chunk_bytes, -(-end // manifest.chunk_bytes))
        start = numbers[0] * manifest.chunk_bytes
        async with aclosing(contents.chunks(manifest, numbers)) as chunks:
            async for chunk in chunks:
                stop = min(len(chunk), end - start)
                for at in range(max(begin - start, 0), stop, UPLOAD_PIECE_BYTES):
                    yield chunk[at : min(at + UPLOAD_PIECE_BYTES, stop)]
                start += manifest.chunk_bytes

    # ---- HaveContent -----------------------------------------------------------------------------

    async def _have_content(self, body: bytes, context: Context) -> bytes:
        found = await guarded(context, self._have(body))
        return found.SerializeToString()

    async def _have(self, body: bytes) -> HaveContentResponse:
        request = hot.parse(HaveContentRequest, body)
        contents = self._node.contents
        manifest = contents.known(request.sha256)
        answer = HaveContentResponse(size=manifest.size)
        await contents.doubt(manifest.sha256)
        if request.HasField("chunk") and request.chunk >= manifest.chunks:
            raise InvalidArgument(f"the content has {manifest.chunks} chunks, none {request.chunk}")
        with suppress(TimeoutError):
            async with asyncio.timeout(request.wait_ms / 1000):
                if request.HasField("chunk"):
                    await contents.have_chunk(manifest, request.chunk)
                    answer.chunk_here = True
                elif request.manifest:
                    await contents.begin(manifest)
                    answer.chunk_bytes, answer.digests = manifest.chunk_bytes, manifest.digests
                else:
                    await contents.have(manifest)
        answer.here = manifest.sha256 in contents.files
        answer.received = contents.received(manifest.sha256)
        return answer

    # ---- KeepContents ----------------------------------------------------------------------------

    async def _keep_contents(self, body: bytes, context: Context) -> bytes:
        found = await guarded(context, self._keep(body), timeout_ms(context))
        return found.SerializeToString()

    async def _keep(self, body: bytes) -> KeepContentsResponse:
        check_size(body)
        kept = await self._node.contents.keep(_keep_request(body))
        return KeepContentsResponse(sha256=kept)


def _keep_request(body: bytes) -> list[bytes]:
    request = hot.parse(KeepContentsRequest, body)
    if len(request.sha256) > TRANSACTION_OPERATIONS_MAX:
        raise TooLarge(
            f"{len(request.sha256):,} contents are asked for, the limit is"
            f" {TRANSACTION_OPERATIONS_MAX:,} (TRANSACTION_OPERATIONS_MAX)",
            limit="TRANSACTION_OPERATIONS_MAX",
        )
    if any(len(sha256) != SHA256_BYTES for sha256 in request.sha256):
        raise InvalidArgument(f"the SHA-256 of a content has {SHA256_BYTES} bytes")
    return list(request.sha256)


def _found(path: Path) -> Path | None:
    return path if path.exists() else None


def _range(request: DownloadRequest, record: Record) -> tuple[int, int]:
    """(begin, end) of what is asked for, within the content."""
    begin = min(request.offset, record.size)
    end = begin + request.length if request.length else record.size
    return begin, min(end, record.size)


def _passed(result: Result) -> bytes:
    if not isinstance(result, bytes):
        raise Refused(result)
    return result


async def _tell(context: Context, answer: UploadResponse) -> None:
    await context.write(answer.SerializeToString())
