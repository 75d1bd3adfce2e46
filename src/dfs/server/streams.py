"""The methods of FileService that answer by a stream, for both hosts; knows nothing of gRPC."""

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from typing import Any, NamedTuple, Protocol

from google.protobuf.message import Message

from ..errors import InvalidArgument
from ..limits import WATCH_PROGRESS_MS, WATCH_PROGRESS_MS_MIN
from ..node import Caller, Contents, Failure, Result, Streaming, Wanted
from ..paths import check_key
from ..proto.dfs_pb2 import HistoryRequest, ListRequest, WatchRequest
from ..store import Change, View
from . import hot
from .encode import history_answer


class Files(Protocol):
    """What the service needs of a node."""

    @property
    def contents(self) -> Contents:
        """Large contents."""

    def view(self) -> View:
        """The state as of now, frozen; close it."""

    async def write(self, method: int, body: bytes, timeout_ms: int) -> Result:
        """Proposes a write."""

    async def read(self, method: int, body: bytes, local: bool, timeout_ms: int) -> Result:
        """Answers a read."""

    async def barrier(self, local: bool, min_revision: int, timeout_ms: int) -> None:
        """Returns when a view shows what the caller asks for."""

    def list_answers(
        self, key: str, recursive: bool, after: str, limit: int, data_bytes_max: int,
        revision: int, time_ns: int | None,
    ) -> AsyncGenerator[bytes, None]:  # fmt: skip
        """Yields encoded ListResponses."""

    def history(
        self, key: str, before: int, limit: int
    ) -> AsyncGenerator[tuple[int, list[Change]], None]:
        """Yields (floor, changes)."""

    async def watch(
        self, caller: Caller, wanted: Wanted, after: int, snapshot: bool, data_after: int
    ) -> None:
        """Tells the caller of changes until it is cancelled, or a gap."""


class Stream(NamedTuple):
    """A method that answers by a stream, on whichever host."""

    method: hot.Method
    request: type[Message]
    answer: Callable[[Any, Caller], Awaitable[None]]
    """Given the request and who waits; what it needs of the tree is applied here."""

    def parsed(self, body: bytes) -> Any:
        """The request. Raises InvalidArgument when it is none."""
        request: Any = hot.parse(self.request, body)
        if request.key:
            check_key(request.key)
        return request


class Streams:
    """All of them, for one node."""

    def __init__(self, node: Files) -> None:
        self._node = node
        self.all = (
            Stream(hot.LIST, ListRequest, self._list),
            Stream(hot.WATCH, WatchRequest, self._watch),
            Stream(hot.HISTORY, HistoryRequest, self._history),
        )

    def natively(self) -> dict[int, Streaming]:
        """Method number → how calls of the engine's port are answered, behind their barrier."""
        return {stream.method.number: _natively(stream) for stream in self.all}

    async def _list(self, request: ListRequest, caller: Caller) -> None:
        """Streams records in key order, all of one revision."""
        found = self._node.list_answers(
            request.key, request.recursive, request.after, request.limit, request.data_bytes_max,
            request.revision, request.time_ns if request.HasField("time_ns") else None,
        )  # fmt: skip
        async with aclosing(found) as answers:
            async for answer in answers:
                await caller.write(answer, pinned=True)

    async def _watch(self, request: WatchRequest, caller: Caller) -> None:
        """Streams changes in revision order, each exactly once."""
        _check_data_after(request)
        progress_ms = max(request.progress_ms or WATCH_PROGRESS_MS, WATCH_PROGRESS_MS_MIN)
        wanted = Wanted(request.key, request.data_bytes_max, progress_ms / 1000)
        await self._node.watch(
            caller, wanted, request.after_revision, request.snapshot, request.data_after_revision
        )

    async def _history(self, request: HistoryRequest, caller: Caller) -> None:
        """Streams the retained changes of a key or subtree, newest first."""
        found = self._node.history(request.key, request.before_revision, request.limit)
        async with aclosing(found) as pieces:
            async for floor, changes in pieces:
                await caller.write(history_answer(floor, changes), pinned=True)


def _check_data_after(request: WatchRequest) -> None:
    """Raises InvalidArgument."""
    if request.data_after_revision and not request.snapshot:
        raise InvalidArgument(
            "data_after_revision is for the items of a snapshot, and none is asked for: set"
            " snapshot, or leave it out"
        )
    if request.data_after_revision and not request.data_bytes_max:
        raise InvalidArgument(
            "data_after_revision says of which items content is sent, and data_bytes_max 0 says of"
            " none: set data_bytes_max, or leave it out"
        )


def _natively(stream: Stream) -> Streaming:
    async def answer(body: bytes, caller: Caller) -> Failure | None:
        try:
            await stream.answer(stream.parsed(body), caller)
        except Exception as error:  # boundary: all that a method raises becomes a refusal
            return hot.failure_of(error)
        return None

    return answer
