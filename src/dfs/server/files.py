"""FileService: decode, ask the node, encode. Unary methods are here for grpcio only."""

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from typing import Any, NamedTuple, Protocol

import grpc
from google.protobuf.message import Message

from ..limits import WATCH_PROGRESS_MS, WATCH_PROGRESS_MS_MIN
from ..node import Caller, Failure, Mailboxes, Result, Streaming, Wanted
from ..paths import check_key
from ..proto.dfs_pb2 import LOCAL, HistoryRequest, ListRequest, WatchRequest
from ..store import Change
from . import hot
from .encode import history_answer
from .guard import Context, check_size, failure_of, guarded, refuse, timeout_ms


class Files(Protocol):
    """What the service needs of a node."""

    async def write(self, method: int, body: bytes, timeout_ms: int) -> Result:
        """Proposes a write."""

    async def read(self, method: int, body: bytes, local: bool, timeout_ms: int) -> Result:
        """Answers a read."""

    async def barrier(self, local: bool, min_revision: int, timeout_ms: int) -> None:
        """Returns when a view shows what the caller asks for."""

    def list_answers(
        self, key: str, recursive: bool, after: str, limit: int, data_bytes_max: int
    ) -> AsyncGenerator[bytes, None]:
        """Yields encoded ListResponses."""

    def history(
        self, key: str, before: int, limit: int
    ) -> AsyncGenerator[tuple[int, list[Change]], None]:
        """Yields (floor, changes)."""

    async def watch(self, caller: Caller, wanted: Wanted, after: int, snapshot: bool) -> None:
        """Tells the caller of changes until it is cancelled, or a gap."""


class FileService:
    """All methods of dfs.FileService; bodies come and go as bytes."""

    def __init__(self, node: Files) -> None:
        self._node = node
        self._mailboxes = Mailboxes()

    def handler(self) -> grpc.GenericRpcHandler:
        """For `grpc.aio.Server.add_generic_rpc_handlers`."""
        table: dict[str, Any] = {
            method.name: grpc.unary_unary_rpc_method_handler(self._hot(method))
            for method in hot.METHODS
            if not method.streams
        }
        for stream in self._streams().values():
            call = self._on_grpcio(stream)
            table[stream.method.name] = grpc.unary_stream_rpc_method_handler(call)
        return grpc.method_handlers_generic_handler(hot.SERVICE, table)

    def streams(self) -> dict[int, Streaming]:
        """Method number → how calls of the engine's port are answered, behind their barrier."""
        return {number: _natively(stream) for number, stream in self._streams().items()}

    def _streams(self) -> "dict[int, Stream]":
        streams = (
            Stream(hot.LIST, ListRequest, self._list),
            Stream(hot.WATCH, WatchRequest, self._watch),
            Stream(hot.HISTORY, HistoryRequest, self._history),
        )
        return {stream.method.number: stream for stream in streams}

    def _hot(self, method: hot.Method) -> Any:
        async def call(body: bytes, context: Context) -> bytes:
            limit = timeout_ms(context)
            found = await guarded(context, self._call(method, body, limit), limit)
            return found if isinstance(found, bytes) else await refuse(context, found)

        return call

    async def _call(self, method: hot.Method, body: bytes, limit: int) -> Result:
        check_size(body)
        if method.reads:
            return await self._node.read(method.number, body, hot.local(body), limit)
        return await self._node.write(method.number, body, limit)

    def _on_grpcio(self, stream: "Stream") -> Any:
        async def answer(body: bytes, context: Context) -> None:
            check_size(body)
            request = _parsed(stream, body)
            if stream.method.reads:
                local = request.consistency == LOCAL
                await self._node.barrier(local, request.min_revision, timeout_ms(context))
            async with self._mailboxes.open(context.write) as caller:
                await stream.answer(request, caller)

        async def call(body: bytes, context: Context) -> None:
            await guarded(context, answer(body, context))

        return call

    async def _list(self, request: ListRequest, caller: Caller) -> None:
        """Streams records in key order, all of one revision."""
        found = self._node.list_answers(
            request.key, request.recursive, request.after, request.limit, request.data_bytes_max
        )
        async with aclosing(found) as answers:
            async for answer in answers:
                await caller.write(answer, pinned=True)

    async def _watch(self, request: WatchRequest, caller: Caller) -> None:
        """Streams changes in revision order, each exactly once."""
        progress_ms = max(request.progress_ms or WATCH_PROGRESS_MS, WATCH_PROGRESS_MS_MIN)
        wanted = Wanted(request.key, request.data_bytes_max, progress_ms / 1000)
        await self._node.watch(caller, wanted, request.after_revision, request.snapshot)

    async def _history(self, request: HistoryRequest, caller: Caller) -> None:
        """Streams the retained changes of a key or subtree, newest first."""
        found = self._node.history(request.key, request.before_revision, request.limit)
        async with aclosing(found) as pieces:
            async for floor, changes in pieces:
                await caller.write(history_answer(floor, changes), pinned=True)


class Stream(NamedTuple):
    """A method that answers by a stream, on whichever host."""

    method: hot.Method
    request: type[Message]
    answer: Callable[[Any, Caller], Awaitable[None]]
    """Given the request and who waits; what it needs of the tree is applied here."""


def _parsed(stream: Stream, body: bytes) -> Any:
    request: Any = hot.parse(stream.request, body)
    if request.key:
        check_key(request.key)
    return request


def _natively(stream: Stream) -> Streaming:
    async def answer(body: bytes, caller: Caller) -> Failure | None:
        try:
            await stream.answer(_parsed(stream, body), caller)
        except Exception as error:  # boundary: all that a method raises becomes a refusal
            return failure_of(error)
        return None

    return answer
