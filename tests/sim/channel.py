"""What `AsyncClient` takes for a grpc.aio.Channel: calls to a simulated node over bad links."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any, Final

import grpc
import grpc.aio
from grpc.aio import Metadata

from dfs.engine_memory.network import Result
from dfs.proto import dfs_pb2 as pb
from dfs.server import hot
from dfs.status import TRAILER

from .engine import SimEngine
from .raft import Raft
from .streams import ServerStream

ROUTES: Final = {f"/{hot.SERVICE}/{m.name}": (m.number, m.reads, m.streams) for m in hot.METHODS}
"""Also those that a real engine leaves to the other host."""
CODES: Final = {code.value[0]: code for code in grpc.StatusCode}
WRITES_WITH_ID: Final = {
    hot.PUT.number: pb.PutRequest, hot.DELETE.number: pb.DeleteRequest,
    hot.MAKE_DIR.number: pb.MakeDirRequest, hot.SYMLINK.number: pb.SymlinkRequest,
    hot.MOVE.number: pb.MoveRequest, hot.COPY.number: pb.CopyRequest,
    hot.TRANSACTION.number: pb.TransactionRequest, hot.PUT_MANY.number: pb.TransactionRequest,
}
REFUSED: Final = (
    14, "failed to connect to all addresses; last error: UNKNOWN: ipv4:10.0.0.1:13000: Failed to "
    "connect to remote host: connect: Connection refused", b"",
)
CLOSED: Final = 14, "Socket closed", b""
LATE: Final = 4, "Deadline Exceeded", b""
RESET_S_MAX: Final = 8.0
"""Until a connection over a cut link is given up."""
COPY_S_MAX: Final = 6.0
"""How much later a second copy of a request may arrive."""


def rpc_error(failure: tuple[int, str, bytes]) -> grpc.aio.AioRpcError:
    """As grpcio raises it."""
    code, text, details = failure
    trailers = Metadata((TRAILER, details)) if details else Metadata()
    return grpc.aio.AioRpcError(CODES[code], Metadata(), trailers, text)


class SimChannel:
    """The way of one client to one endpoint."""

    def __init__(self, raft: Raft, me: str, endpoint: str) -> None:
        self.raft, self.me, self.node = raft, me, endpoint.split(":")[0]
        self.world, self.network = raft.world, raft.network

    def unary_unary(
        self, name: str, request_serializer: Callable[[Any], bytes],
        response_deserializer: Callable[[bytes], Any],
    ) -> Any:
        """See grpc.aio.Channel."""

        async def call(request: Any, timeout: float | None = None) -> Any:
            body = request_serializer(request)
            result = await Exchange(self, name, body, timeout).done
            if not isinstance(result, bytes):
                raise rpc_error(result)
            return response_deserializer(result)

        return call

    def unary_stream(
        self, name: str, request_serializer: Callable[[Any], bytes],
        response_deserializer: Callable[[bytes], Any],
    ) -> Any:
        """See grpc.aio.Channel."""

        def call(request: Any, timeout: float | None = None) -> StreamCall:
            return StreamCall(
                self, name, request_serializer(request), response_deserializer, timeout
            )

        return call

    async def close(self, grace: float | None = None) -> None:
        """Calls under way go on: the client ends them itself."""

    def engine(self) -> SimEngine | None:
        """Whoever listens there now."""
        return self.raft.engines.get(self.node)

    def lost(self, back: bool) -> bool:
        """Whether what is sent now never arrives."""
        ends = (self.node, self.me) if back else (self.me, self.node)
        return self.network.lost(*ends)


class Exchange:
    """One unary call."""

    def __init__(
        self, channel: SimChannel, name: str, body: bytes, timeout: float | None
    ) -> None:
        self.channel, self.world = channel, channel.world
        self.done: asyncio.Future[Result] = self.world.loop.create_future()
        self.name, self.body = name, body
        self.limit_s = 30.0 if timeout is None else timeout
        self.end = self.world.now + self.limit_s
        later, network = self.world.later, channel.network
        later(self.limit_s, self._finish, LATE)
        if channel.engine() is None:
            later(network.latency(), self._finish, REFUSED)
        elif channel.lost(back=False):
            self.world.counts["request lost"] += 1
            self._break_later()
        else:
            later(network.latency(), self._arrive)

    def _arrive(self) -> None:
        engine = self.channel.engine()
        left_s = self.end - self.world.now
        if engine is None or left_s <= 0:
            self._finish(CLOSED)
            return
        self._copy_later()
        if self.name not in ROUTES:
            self._back(engine, 0, _of_cluster(self.name, self.channel.raft))
            return
        token = id(self)
        engine.breaks[token] = lambda: self._broken(engine, token)
        number = ROUTES[self.name][0]
        engine.call(number, self.body, left_s, lambda result: self._back(engine, token, result))

    def _copy_later(self) -> None:
        """A second copy of the request, as from a proxy that tries again: at any node, later."""
        world, raft = self.world, self.channel.raft
        number = ROUTES.get(self.name, (0,))[0]
        if number not in WRITES_WITH_ID or not world.fault(world.knobs.copies):
            return
        request_id = WRITES_WITH_ID[number].FromString(self.body).request_id
        if not request_id:
            return
        world.copied.add(request_id)

        def arrive() -> None:
            engine = raft.engines.get(world.chance.choice(raft.names))
            if engine is not None:
                world.count("request duplicated")
                engine.call(number, self.body, 5.0, lambda _: None)

        world.later(world.chance.uniform(0, COPY_S_MAX), arrive)

    def _back(self, engine: SimEngine, token: int, result: Result) -> None:
        world = self.world
        applied = isinstance(result, bytes) and ROUTES.get(self.name, (0,))[0] in WRITES_WITH_ID
        if applied and not engine.dead and world.fault(world.knobs.dies_answering):
            world.count("node dies as it answers", engine.name)
            world.later(0, world.kill, engine.name)
            return
        engine.breaks.pop(token, None)
        if engine.dead:
            return
        if self.channel.lost(back=True):
            self.world.count("answer lost, applied" if applied else "answer lost")
            self._break_later()
            return
        self.world.later(self.channel.network.latency(), self._finish, result)

    def _broken(self, engine: SimEngine, token: int) -> None:
        self.world.count("node died during a call")
        self.world.later(self.channel.network.latency(), self._finish, CLOSED)

    def _break_later(self) -> None:
        """The connection is given up some time; the call may end before, by its deadline."""
        chance = self.world.chance
        soon = chance.uniform(0.001, 0.05) if chance.random() < 0.7 else chance.uniform(0, 8.0)
        self.world.later(soon, self._finish, CLOSED)

    def _finish(self, result: Result) -> None:
        if not self.done.done():
            self.done.set_result(result)


class StreamCall:
    """One call that is answered by a stream: the client's end."""

    def __init__(
        self, channel: SimChannel, name: str, body: bytes, parse: Callable[[bytes], Any],
        timeout: float | None,
    ) -> None:
        self.channel, self.world, self.me = channel, channel.world, channel.me
        self._parse, self._name, self._body = parse, name, body
        self._messages: deque[bytes] = deque()
        self._outcome: Result | None = None
        self._news = asyncio.Event()
        self._server: ServerStream | None = None
        self._engine: SimEngine | None = None
        self._cancelled = False
        later, network = self.world.later, channel.network
        if timeout is not None:
            later(timeout, self.ended, LATE)
        if channel.engine() is None:
            later(network.latency(), self.ended, REFUSED)
        elif channel.lost(back=False):
            later(self.world.chance.uniform(0, RESET_S_MAX), self.ended, CLOSED)
        else:
            later(network.latency(), self._arrive)

    def _arrive(self) -> None:
        engine = self._engine = self.channel.engine()
        if engine is None or self._cancelled:
            self.ended(CLOSED)
            return
        engine.breaks[id(self)] = lambda: self.world.later(0.001, self._reset, "died")
        self._server = engine.stream(ROUTES[self._name][0], self._body, self)
        if self.world.fault(self.world.knobs.resets):
            self.world.later(self.world.chance.expovariate(0.3), self._reset, "reset")

    def _reset(self, why: str) -> None:
        """The connection breaks, and with it what is on its way."""
        if self._outcome is None and not self._cancelled:
            self.world.count(f"stream {why}", self.me)
            self.ended(CLOSED)
            self._tell_server()

    # ---- from the node ---------------------------------------------------------------------------
    def arrived(self, message: bytes) -> None:
        """The next message is here."""
        if self._outcome is None:
            self._messages.append(message)
            self._news.set()

    def ended(self, result: Result) -> None:
        """There are no more."""
        if self._outcome is None:
            if isinstance(result, bytes) and result:
                self._messages.append(result)
            self._outcome = result
            if self._engine is not None:
                self._engine.breaks.pop(id(self), None)
            self._news.set()

    # ---- for the client --------------------------------------------------------------------------
    async def read(self) -> Any:
        """The next message, or EOF; raises AioRpcError."""
        while not self._messages and self._outcome is None:
            self._news.clear()
            await self._news.wait()
        if self._messages:
            message = self._messages.popleft()
            if self._server is not None:
                self.world.later(
                    self.channel.network.latency(), self._server.taken, len(message)
                )
            return self._parse(message)
        if not isinstance(self._outcome, bytes):
            raise rpc_error(self._outcome)
        return grpc.aio.EOF

    def __aiter__(self) -> StreamCall:
        return self

    async def __anext__(self) -> Any:
        answer = await self.read()
        if answer is grpc.aio.EOF:
            raise StopAsyncIteration
        return answer

    def cancel(self) -> bool:
        """The client wants no more."""
        if self._cancelled:
            return False
        self._cancelled = True
        if self._engine is not None:
            self._engine.breaks.pop(id(self), None)
        self._tell_server()
        return True

    def _tell_server(self) -> None:
        if self._server is not None:
            lost = self.channel.lost(back=False)
            after = self.world.chance.uniform(1, RESET_S_MAX) if lost else 0.002
            self.world.later(after, self._server.gone)


def _of_cluster(name: str, raft: Raft) -> Result:
    if name.endswith("/Members"):
        members = [
            pb.Member(name=n, id=i + 1, grpc=f"{n}:13000") for i, n in enumerate(raft.names)
        ]
        return pb.MembersResponse(members=members).SerializeToString()
    return b""
