"""FileService on grpcio: decode, ask the node, encode."""

import asyncio
from typing import Any

import grpc

from ..errors import Overloaded
from ..limits import LARGE_CALLS_WAITING_MAX
from ..node import Mailboxes, Result
from ..proto.dfs_pb2 import LOCAL
from . import hot
from .contents import Contents
from .guard import GRACE_S, Context, check_size, guarded, refuse, timeout_ms
from .streams import Files, Stream, Streams


class FileService:
    """All methods of dfs.FileService; bodies come and go as bytes."""

    def __init__(self, node: Files) -> None:
        self._node, self._streams = node, Streams(node)
        self._contents = Contents(node)
        self._mailboxes = Mailboxes()
        self._large = asyncio.Semaphore(1)
        """Held by whoever has a call of a `large` method under way."""
        self._large_inside = 0
        """Calls of such methods, under way or waiting."""

    def handler(self) -> grpc.GenericRpcHandler:
        """For `grpc.aio.Server.add_generic_rpc_handlers`."""
        table: dict[str, Any] = {
            method.name: grpc.unary_unary_rpc_method_handler(self._hot(method))
            for method in hot.METHODS
            if not method.streams
        }
        for stream in self._streams.all:
            call = self._on_grpcio(stream)
            table[stream.method.name] = grpc.unary_stream_rpc_method_handler(call)
        table["Transaction"] = grpc.unary_unary_rpc_method_handler(self._transaction)
        table |= self._contents.handlers()
        return grpc.method_handlers_generic_handler(hot.SERVICE, table)

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
        if method.large:
            self._enter()
            return await self._write_alone(method, body, limit)
        return await self._node.write(method.number, body, limit)

    async def _transaction(self, body: bytes, context: Context) -> bytes:
        found = await guarded(context, self._take_transaction(body, context))
        return found if isinstance(found, bytes) else await refuse(context, found)

    async def _take_transaction(self, body: bytes, context: Context) -> Result:
        check_size(body)
        self._enter()
        try:
            body = await self._contents.held(body)
        except BaseException:
            self._large_inside -= 1
            raise
        limit = timeout_ms(context)
        async with asyncio.timeout(limit / 1000 + GRACE_S):
            return await self._write_alone(hot.TRANSACTION, body, limit)

    def _enter(self) -> None:
        if self._large_inside >= LARGE_CALLS_WAITING_MAX:
            raise Overloaded(
                f"{LARGE_CALLS_WAITING_MAX} moves, copies and transactions wait at this node"
                " already (LARGE_CALLS_WAITING_MAX): try again"
            )
        self._large_inside += 1

    async def _write_alone(self, method: hot.Method, body: bytes, limit: int) -> Result:
        """For a call that has entered: it is inside until its entry is through."""
        try:
            await self._large.acquire()
        except BaseException:
            self._large_inside -= 1
            raise
        # Whoever calls may go: the entry is under way all the same, and keeps its place.
        writing = asyncio.ensure_future(self._node.write(method.number, body, limit))
        writing.add_done_callback(self._large_ended)
        return await asyncio.shield(writing)

    def _large_ended(self, writing: "asyncio.Future[Result]") -> None:
        self._large.release()
        self._large_inside -= 1
        if not writing.cancelled():
            writing.exception()  # looked at: who waits for it gets it, too

    def _on_grpcio(self, stream: Stream) -> Any:
        async def answer(body: bytes, context: Context) -> None:
            check_size(body)
            request = stream.parsed(body)
            if stream.method.reads:
                local = request.consistency == LOCAL
                await self._node.barrier(local, request.min_revision, timeout_ms(context))
            async with self._mailboxes.open(context.write) as caller:
                await stream.answer(request, caller)

        async def call(body: bytes, context: Context) -> None:
            await guarded(context, answer(body, context))

        return call
