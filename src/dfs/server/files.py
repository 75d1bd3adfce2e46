"""FileService on grpcio: decode, ask the node, encode."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
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
        self._large_waiting = 0

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
            with self._among_the_large():
                async with self._large:
                    return await self._node.write(method.number, body, limit)
        return await self._node.write(method.number, body, limit)

    async def _transaction(self, body: bytes, context: Context) -> bytes:
        found = await guarded(context, self._take_transaction(body, context))
        return found if isinstance(found, bytes) else await refuse(context, found)

    async def _take_transaction(self, body: bytes, context: Context) -> Result:
        check_size(body)
        with self._among_the_large():
            body = await self._contents.held(body)
            limit = timeout_ms(context)
            async with asyncio.timeout(limit / 1000 + GRACE_S), self._large:
                return await self._node.write(hot.TRANSACTION.number, body, limit)

    @contextmanager
    def _among_the_large(self) -> Iterator[None]:
        if self._large_waiting >= LARGE_CALLS_WAITING_MAX:
            raise Overloaded(
                f"{LARGE_CALLS_WAITING_MAX} moves, copies and transactions wait at this node"
                " already (LARGE_CALLS_WAITING_MAX): try again"
            )
        self._large_waiting += 1
        try:
            yield
        finally:
            self._large_waiting -= 1

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
