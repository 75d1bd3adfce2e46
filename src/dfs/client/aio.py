"""The client for asyncio: the same names and meanings as `Client`."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from types import TracebackType
from typing import Any, Final, NamedTuple, TypeVar

import grpc
import grpc.aio

from ..errors import DfsError, Unavailable, Unimplemented
from ..limits import CLIENT_LEARN_MS_MAX
from ..proto import dfs_pb2 as pb
from . import calls, streams
from .calls import Call, Message, Terms, Xattrs, encode, uuid7
from .faults import Fault, fault_of
from .sending import Progress
from .session import TIMEOUT_S, Session, channel_options
from .sources import naming
from .streams import WATCH_SILENCE_S, Lost, Watching
from .transaction import AsyncTransaction, Changes
from .transfers import STALL_S, AsyncTransfers
from .values import Event, Item, Stat, Told, Update

R = TypeVar("R")


class Surroundings(NamedTuple):
    """What a client takes from the world around it but the time, which is its event loop's. A
    simulation has surroundings of its own."""

    connect: Callable[[str], Any]
    """Endpoint → a grpc.aio.Channel, or what has its `unary_unary` and `unary_stream`."""
    chance: random.Random | None
    """For pauses that are not the same for all clients; None = each client has its own."""
    new_id: Callable[[], bytes]
    """A fresh request id."""


def _connect(endpoint: str) -> grpc.aio.Channel:
    return grpc.aio.insecure_channel(endpoint, options=channel_options(endpoint))


REAL: Final = Surroundings(_connect, None, uuid7)


def _now_s() -> float:
    return asyncio.get_running_loop().time()


class AsyncClient(AsyncTransfers):
    """`Client` for asyncio, best with `async with`.

    Belongs to the event loop in which it is first used, and to one thread.
    """

    def __init__(
        self, *endpoints: str, timeout: float = TIMEOUT_S, learn: bool = True,
        surroundings: Surroundings = REAL,
    ) -> None:
        """See `Client`. Does not need a running loop."""
        self._session = Session(endpoints, timeout, learn, surroundings.chance, surroundings.new_id)
        self._connect = surroundings.connect
        self._channels: dict[str, grpc.aio.Channel] = {}
        self._methods: dict[tuple[str, str], Any] = {}
        self._learning: asyncio.Task[None] | None = None
        self._closed = False

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    def __repr__(self) -> str:
        return f"AsyncClient({', '.join(map(repr, self._session.seeds))})"

    async def close(self) -> None:
        """Closes all connections; watches end. Idempotent."""
        self._closed = True
        if self._learning is not None:
            self._learning.cancel()
        channels, self._channels, self._methods = self._channels, {}, {}
        for channel in channels.values():
            await channel.close()

    def _is_closed(self) -> bool:
        return self._closed  # A call, as mypy thinks that an attribute stays what it was.

    @property
    def endpoints(self) -> list[str]:
        """All endpoints known, those given first."""
        return self._session.endpoints

    # ---- files -----------------------------------------------------------------------------------
    async def put(
        self, key: str, data: bytes | bytearray | memoryview, *, mode: int | None = None,
        mtime_ns: int | None = None, uid: int | None = None, gid: int | None = None,
        xattrs: Xattrs | None = None, base_revision: int | None = None,
        request_id: bytes | None = None, timeout: float | None = None,
    ) -> int:
        """See `Client.put`."""
        metadata = calls.metadata(mode, mtime_ns, uid, gid, xattrs)
        return await self._call(
            calls.put(key, data, metadata, base_revision, self._session.id_of(request_id)), timeout
        )

    async def get(
        self, key: str, *, revision: int = 0, local: bool = False,
        min_revision: int | None = None, timeout: float | None = None,
    ) -> bytes:
        """See `Client.get`."""
        least = self._session.least(local, min_revision)
        return await self._call(calls.get(key, revision, local, least), timeout)

    async def read(
        self, key: str, *, revision: int = 0, local: bool = False,
        min_revision: int | None = None, timeout: float | None = None,
    ) -> tuple[bytes, Stat]:
        """See `Client.read`."""
        least = self._session.least(local, min_revision)
        return await self._call(calls.read(key, revision, local, least), timeout)

    async def stat(
        self, key: str, *, revision: int = 0, local: bool = False,
        min_revision: int | None = None, timeout: float | None = None,
    ) -> Stat:
        """See `Client.stat`."""
        least = self._session.least(local, min_revision)
        return await self._call(calls.stat(key, revision, local, least), timeout)

    async def delete(
        self, key: str, *, recursive: bool = False, base_revision: int | None = None,
        request_id: bytes | None = None, timeout: float | None = None,
    ) -> int:
        """See `Client.delete`."""
        return await self._call(
            calls.delete(key, recursive, base_revision, self._session.id_of(request_id)), timeout
        )

    async def mkdir(
        self, key: str, *, mode: int | None = None, mtime_ns: int | None = None,
        uid: int | None = None, gid: int | None = None, xattrs: Xattrs | None = None,
        request_id: bytes | None = None, timeout: float | None = None,
    ) -> int:
        """See `Client.mkdir`."""
        metadata = calls.directory_metadata(mode, mtime_ns, uid, gid, xattrs)
        return await self._call(
            calls.mkdir(key, metadata, self._session.id_of(request_id)), timeout
        )

    async def symlink(
        self, key: str, target: str, *, mode: int | None = None, mtime_ns: int | None = None,
        uid: int | None = None, gid: int | None = None, xattrs: Xattrs | None = None,
        base_revision: int | None = None, request_id: bytes | None = None,
        timeout: float | None = None,
    ) -> int:
        """See `Client.symlink`."""
        metadata = calls.metadata(mode, mtime_ns, uid, gid, xattrs)
        return await self._call(
            calls.symlink(key, target, metadata, base_revision, self._session.id_of(request_id)),
            timeout,
        )

    async def move(
        self, source: str, target: str, *, replace: bool = False,
        base_revision: int | None = None, request_id: bytes | None = None,
        timeout: float | None = None,
    ) -> int:
        """See `Client.move`."""
        return await self._call(
            calls.move(source, target, replace, base_revision, self._session.id_of(request_id)),
            timeout,
        )

    async def copy(
        self, source: str, target: str, *, recursive: bool = False, replace: bool = False,
        base_revision: int | None = None, request_id: bytes | None = None,
        timeout: float | None = None,
    ) -> int:
        """See `Client.copy`."""
        return await self._call(
            calls.copy(
                source, target, recursive, replace, base_revision,
                self._session.id_of(request_id),
            ),
            timeout,
        )

    def transaction(
        self, *, request_id: bytes | None = None, timeout: float | None = None,
        progress: Progress | None = None,
    ) -> AsyncTransaction:
        """See `Client.transaction`; with `async with`. Files are read in a thread."""
        return AsyncTransaction(lambda c: self._commit(c, request_id, timeout, progress))

    async def _commit(
        self, changes: Changes, request_id: bytes | None, timeout: float | None,
        progress: Progress | None,
    ) -> int:  # fmt: skip
        id_, begun_s, limit_s = self._session.id_of(request_id), _now_s(), timeout
        if not changes.light:
            with contextlib.closing(changes.uploads(id_, progress, self._keeper())) as uploads:
                while sending := await asyncio.to_thread(next, uploads, None):
                    with naming(sending.key):
                        await self._transfer(sending, self._send_once)
                    # The members are asked for all of them again: less than the uploads took.
                    limit_s = timeout or max(STALL_S, _now_s() - begun_s)
        try:
            return await self._call(changes.call(id_), limit_s)
        except Unimplemented:  # by a node of an older version
            return await self._call(changes.call(id_, general=True), limit_s)

    async def list(
        self, key: str = "", *, recursive: bool = False, data_bytes_max: int = 0, after: str = "",
        limit: int = 0, revision: int = 0, local: bool = False,
        min_revision: int | None = None, timeout: float | None = None,
    ) -> AsyncIterator[Item]:
        """See `Client.list`."""
        request = streams.list_request(
            key, recursive, data_bytes_max, after, limit, revision, local,
            self._session.least(local, min_revision),
        )
        answers = self._stream(streams.LIST, request, pb.ListResponse.FromString, timeout)
        async for answer in answers:
            self._answered(self._session.current(), answer.revision)
            for part in streams.items_of(answer):
                yield part

    async def newest(self, *, timeout: float | None = None) -> int:
        """See `Client.newest`."""
        answers = self._stream(*streams.NEWEST, timeout)
        return streams.revision_of_list([answer async for answer in answers])

    async def revision_at(
        self, time_ns: int, *, local: bool = False, min_revision: int | None = None,
        timeout: float | None = None,
    ) -> int:
        """See `Client.revision_at`."""
        request = streams.time_request(time_ns, local, self._session.least(local, min_revision))
        answers = self._stream(streams.LIST, request, pb.ListResponse.FromString, timeout)
        return streams.revision_of_list([answer async for answer in answers])

    async def history(
        self, key: str, *, limit: int = 0, before_revision: int = 0, local: bool = False,
        min_revision: int | None = None, timeout: float | None = None,
    ) -> AsyncIterator[Event]:
        """See `Client.history`."""
        request = streams.history_request(
            key, limit, before_revision, local, self._session.least(local, min_revision)
        )
        answers = self._stream(streams.HISTORY, request, pb.HistoryResponse.FromString, timeout)
        async for answer in answers:
            for part in streams.events_of(answer):
                yield part

    async def watch(
        self, key: str = "", *, after_revision: int = 0, snapshot: bool = False,
        data_bytes_max: int = 0, data_after_revision: int = 0, on_lost: Lost | None = None,
    ) -> AsyncIterator[Update]:
        """See `Client.watch`. Leave it with `aclose` or by cancelling the task."""
        asked = key, after_revision, snapshot, data_bytes_max, data_after_revision
        watching = Watching(*asked, self._session.chance)
        async with contextlib.aclosing(self._watch(watching, on_lost)) as answers:
            async for answer, _ in answers:
                yield watching.take(answer)

    async def watch_encoded(
        self, key: str = "", *, after_revision: int = 0, snapshot: bool = False,
        data_bytes_max: int = 0, data_after_revision: int = 0, on_lost: Lost | None = None,
    ) -> AsyncIterator[Told]:
        """As `watch`, for whoever has the answers read by the engine."""
        asked = key, after_revision, snapshot, data_bytes_max, data_after_revision
        watching = Watching(*asked, self._session.chance)
        async with contextlib.aclosing(self._watch(watching, on_lost)) as answers:
            async for answer, encoded in answers:
                yield watching.told(answer, encoded)

    async def _watch(
        self, watching: Watching, on_lost: Lost | None
    ) -> AsyncGenerator[tuple[pb.WatchResponse, bytes], None]:
        while not self._is_closed():
            endpoint = self._session.current()
            method = self._method(endpoint, streams.WATCH, bytes, "unary_stream")
            stream = method(watching.request())
            try:
                while True:
                    async with asyncio.timeout(WATCH_SILENCE_S):
                        encoded = await stream.read()
                    if encoded is grpc.aio.EOF:
                        why = Fault(Unavailable(f"{endpoint} ended the watch"), 0.0, True)
                        break
                    answer = pb.WatchResponse.FromString(encoded)
                    self._answered(endpoint, answer.revision)
                    yield answer, encoded
            except TimeoutError:
                text = f"nothing heard from {endpoint} for {WATCH_SILENCE_S:.0f} s"
                why = Fault(Unavailable(text), 0.0, False)
            except grpc.aio.AioRpcError as error:
                why = fault_of(error, endpoint, False)
            except asyncio.CancelledError:
                task = asyncio.current_task()
                if self._is_closed() and (task is None or not task.cancelling()):
                    return  # It is the stream that was cancelled, by `close`.
                raise
            finally:
                stream.cancel()
            await self._lost(watching, why, endpoint, on_lost)

    # ---- cluster ---------------------------------------------------------------------------------
    async def status(
        self, *, local: bool = False, timeout: float | None = None
    ) -> pb.StatusResponse:
        """See `Client.status`."""
        return await self._call(calls.status(local), timeout)

    async def members(self, *, timeout: float | None = None) -> pb.MembersResponse:
        """See `Client.members`."""
        return await self._call(calls.members(), timeout)

    async def add_member(
        self, name: str, node_id: int, raft: str, grpc: str, *, promote: bool = True,
        dry_run: bool = False, if_config: int | None = None, timeout: float | None = None,
    ) -> pb.AddMemberResponse:
        """See `Client.add_member`."""
        terms = Terms(dry_run, if_config)
        call = calls.add_member(name, node_id, raft, grpc, promote, terms)
        return await self._call(call, timeout)

    async def promote_member(
        self, name: str, node_id: int = 0, *, dry_run: bool = False, if_config: int | None = None,
        timeout: float | None = None,
    ) -> pb.PromoteMemberResponse:
        """See `Client.promote_member`."""
        call = calls.promote_member(name, node_id, Terms(dry_run, if_config))
        return await self._call(call, timeout)

    async def remove_member(
        self, name: str, node_id: int = 0, *, dry_run: bool = False, if_config: int | None = None,
        timeout: float | None = None,
    ) -> pb.RemoveMemberResponse:
        """See `Client.remove_member`."""
        call = calls.remove_member(name, node_id, Terms(dry_run, if_config))
        return await self._call(call, timeout)

    async def replace_member(
        self, name: str, node_id: int = 0, raft: str = "", *, force: bool = False,
        dry_run: bool = False, if_config: int | None = None, timeout: float | None = None,
    ) -> pb.ReplaceMemberResponse:
        """See `Client.replace_member`."""
        terms = Terms(dry_run, if_config)
        return await self._call(calls.replace_member(name, node_id, raft, force, terms), timeout)

    async def transfer_leader(self, name: str = "", *, timeout: float | None = None) -> str:
        """See `Client.transfer_leader`."""
        return await self._call(calls.transfer_leader(name), timeout)

    async def backup(
        self, *, local: bool = False, with_contents: bool = True, timeout: float | None = None
    ) -> AsyncIterator[bytes]:
        """See `Client.backup`."""
        request = streams.backup_request(local, with_contents)
        whole = streams.Whole()
        stream = self._stream(streams.BACKUP, request, pb.BackupResponse.FromString, timeout)
        async for answer in stream:
            yield whole.take(answer)
        whole.end()

    async def report_agent(self, report: pb.AgentStatus, *, timeout: float | None = None) -> None:
        """See `Client.report_agent`."""
        return await self._call(calls.report_agent(report), timeout)

    # ---- sending ---------------------------------------------------------------------------------
    async def _call(self, call: Call[R], timeout: float | None) -> R:
        session = self._session
        attempts = session.attempts(call, timeout, _now_s())
        failed: set[str] = set()
        while True:
            endpoint = session.current()
            method = self._method(endpoint, call.method, call.parse, "unary_unary")
            limit_s = attempts.timeout_s(_now_s(), len(session.endpoints))
            try:
                answer = await method(call.request, timeout=limit_s)
            except grpc.aio.AioRpcError as error:
                why = fault_of(error, endpoint, call.write)
            else:
                revision = call.revision(answer) if call.revision else 0
                self._answered(endpoint, revision)
                return call.read(answer)
            await self._wait(attempts.failed, why, endpoint, failed)

    async def _wait(
        self, next_attempt: Callable[..., float], why: Fault, endpoint: str, failed: set[str]
    ) -> None:
        """Chooses the next endpoint and waits for its turn, or raises."""
        session = self._session
        failed.add(endpoint)
        if session.failed(endpoint, why, _now_s()):
            self._begin_to_learn(endpoint)
        fresh = session.current() not in failed
        # The gRPC exception is no news for the user: its text is in ours.
        try:
            wait_s = next_attempt(_now_s(), why, contact=session.contact, fresh=fresh)
        except DfsError as error:
            raise error from None
        if wait_s:
            await asyncio.sleep(wait_s)

    async def _lost(
        self, watching: Watching, why: Fault, endpoint: str, on_lost: Lost | None
    ) -> None:
        session = self._session
        if session.failed(endpoint, why, _now_s()):
            self._begin_to_learn(endpoint)
        try:
            wait_s = watching.failed(
                why, session.contact, _now_s(), len(session.endpoints)
            )
        except DfsError as error:
            raise error from None
        if on_lost is not None:
            on_lost(why.error)
        await asyncio.sleep(wait_s)

    async def _stream(
        self, name: str, request: Message, parse: Callable[[bytes], Any], timeout: float | None
    ) -> AsyncIterator[Any]:
        """A stream of answers; repeated elsewhere only as long as nothing has come."""
        session = self._session
        call: Call[Any] = Call(name, request, parse, lambda a: a, None, False, True)
        attempts = session.attempts(call, timeout, _now_s())
        failed: set[str] = set()
        while True:
            endpoint = session.current()
            method = self._method(endpoint, name, parse, "unary_stream")
            left_s = None if timeout is None else max(attempts.end_s - _now_s(), 0.001)
            stream, count = method(request, timeout=left_s), 0
            try:
                async for answer in stream:
                    count += 1
                    session.contact = True
                    yield answer
                return
            except grpc.aio.AioRpcError as error:
                why = fault_of(error, endpoint, False)
            finally:
                stream.cancel()
            if count:
                raise streams.broken(why.error, count)
            await self._wait(attempts.failed, why, endpoint, failed)

    def _method(
        self, endpoint: str, name: str, parse: Callable[[bytes], Any], shape: str
    ) -> Any:
        found = self._methods.get((endpoint, name))
        if found is not None:
            return found
        if self._closed:
            raise ValueError("this client is closed")
        channel = self._channels.get(endpoint)
        if channel is None:
            channel = self._channels[endpoint] = self._connect(endpoint)
        made = getattr(channel, shape)(
            name, request_serializer=encode, response_deserializer=parse
        )
        self._methods[endpoint, name] = made
        return made

    def _answered(self, endpoint: str, revision: int) -> None:
        if self._session.answered(revision, _now_s()):
            self._begin_to_learn(endpoint)

    def _begin_to_learn(self, endpoint: str) -> None:
        if self._learning is None:
            self._learning = asyncio.ensure_future(self._learn(endpoint))

    async def _learn(self, endpoint: str) -> None:
        """Asks for the members; a failure changes nothing."""
        call = calls.members()
        try:
            method = self._method(endpoint, call.method, call.parse, "unary_unary")
            answer = await method(call.request, timeout=CLIENT_LEARN_MS_MAX / 1000)
        except grpc.aio.AioRpcError:
            return
        finally:
            self._learning = None
        for gone in self._session.learn(answer):
            channel = self._channels.pop(gone, None)
            for key in [k for k in self._methods if k[0] == gone]:
                del self._methods[key]
            if channel is not None:
                await channel.close()
