"""Calls that are answered by a stream of messages: one task of the event loop for each.

The hot thread hands over what it does not answer itself. All here runs on the asyncio thread, so
the news of room for a message can never overtake the `send` that asked for it.
"""

import asyncio
import itertools
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import NamedTuple, Protocol

from ..errors import Unavailable
from ..limits import PINNED_WAIT_MS, STREAM_BYTES
from .ports import Call, Engine, Failure, Flow


class Post(Protocol):
    """Who brings messages to callers: the engine, or Mailboxes."""

    def send(self, calls: Sequence[int], message: bytes) -> list[tuple[int, int]]:
        """See `_engine.Engine.send`."""


class Caller:
    """Somebody who waits for an answer of many messages."""

    def __init__(self, call_id: int, post: Post) -> None:
        self.id, self.post = call_id, post
        self.room = asyncio.Event()
        """Set while the caller takes messages."""
        self.room.set()

    def full(self) -> None:
        """`send` said so."""
        self.room.clear()

    async def write(self, message: bytes, pinned: bool = False) -> None:
        """Sends one message; comes back when there is room for the next. `pinned`: a frozen state
        is held meanwhile, so the wait is bounded. Raises Unavailable."""
        for _, waiting in self.post.send((self.id,), message):
            if waiting < 0:
                raise asyncio.CancelledError("nobody waits for this call any more")
            self.full()
        try:
            async with asyncio.timeout(PINNED_WAIT_MS / 1000 if pinned else None):
                await self.room.wait()
        except TimeoutError:
            raise Unavailable(
                f"too little of this answer was taken for {PINNED_WAIT_MS / 1000:g} s"
                " (PINNED_WAIT_MS), so the node has let go of the state that it shows: ask again,"
                " and read faster, or ask for less",
                limit="PINNED_WAIT_MS",
            ) from None


Streaming = Callable[[bytes, Caller], Awaitable[Failure | None]]
"""(body, caller) → how the answer ends. Must not raise anything but CancelledError."""


class Open(NamedTuple):
    """A call under way."""

    task: "asyncio.Task[None]"
    caller: Caller


class Streams:
    """All streamed answers of one node that the event loop makes."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._methods: Mapping[int, Streaming] = {}
        self._open: dict[int, Open] = {}  # bounded by the engine: CALLS_WAITING_MAX

    def serve(self, methods: Mapping[int, Streaming]) -> None:
        """From now on calls of these methods may come."""
        self._methods = methods

    def turn(self, news: tuple[list[Call], list[Flow]]) -> None:
        """What the hot thread has for us: new calls, and what happened to others."""
        calls, flow = news
        for call_id, method, body in calls:
            caller = Caller(call_id, self._engine)
            task = asyncio.ensure_future(self._answer(caller, self._methods[method], body))
            self._open[call_id] = Open(task, caller)
            task.add_done_callback(partial(self._ended, call_id))
        for call_id, is_room in flow:
            if call := self._open.get(call_id):
                if is_room:
                    call.caller.room.set()
                else:
                    call.task.cancel()

    async def close(self) -> None:
        """Ends all; the engine tells the callers."""
        tasks = [call.task for call in self._open.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _answer(self, caller: Caller, method: Streaming, body: bytes) -> None:
        self._engine.end(caller.id, await method(body, caller))

    def _ended(self, call_id: int, _task: "asyncio.Task[None]") -> None:
        # Not by the task itself: one that is cancelled at once never begins.
        del self._open[call_id]


class Mailbox:
    """Messages for one caller that are not taken yet."""

    def __init__(self, caller: Caller) -> None:
        self.caller = caller
        self.messages: deque[bytes] = deque()  # bounded by those who send: they wait for room
        self.bytes = 0
        self.news = asyncio.Event()
        self.ended = False

    async def end(self, taking: "asyncio.Future[None]") -> None:
        """Returns when all has been taken."""
        self.ended = True
        self.news.set()
        await taking


class Mailboxes:
    """A post for callers of a host that takes messages one by one, such as grpcio."""

    def __init__(self) -> None:
        self._open: dict[int, Mailbox] = {}  # bounded by the host's calls
        self._numbers = itertools.count(1)

    def send(self, calls: Sequence[int], message: bytes) -> list[tuple[int, int]]:
        """See Post."""
        news = []
        for call_id in calls:
            box = self._open.get(call_id)
            if box is None:
                news.append((call_id, -1))
                continue
            box.messages.append(message)
            box.bytes += len(message)
            box.news.set()
            if box.bytes > STREAM_BYTES:
                news.append((call_id, box.bytes))
        return news

    @asynccontextmanager
    async def open(self, write: Callable[[bytes], Awaitable[None]]) -> AsyncIterator[Caller]:
        """A caller whose messages are given to `write`, each when it has taken the one before; all
        of them before this ends, unless that is a cancellation."""
        caller = Caller(next(self._numbers), self)
        box = self._open[caller.id] = Mailbox(caller)
        taking = asyncio.ensure_future(self._take(box, write))
        try:
            try:
                yield caller
            except Exception:
                await box.end(taking)
                raise
            await box.end(taking)
        finally:
            self._open.pop(caller.id, None)
            taking.cancel()
            await asyncio.gather(taking, return_exceptions=True)

    async def _take(self, box: Mailbox, write: Callable[[bytes], Awaitable[None]]) -> None:
        try:
            while True:
                while box.messages:
                    message = box.messages.popleft()
                    await write(message)
                    box.bytes -= len(message)
                    if box.bytes <= STREAM_BYTES // 2:
                        box.caller.room.set()
                if box.ended:
                    return
                box.news.clear()
                await box.news.wait()
        finally:
            # Whoever waits for room learns by its next message that nobody takes any.
            self._open.pop(box.caller.id, None)
            box.caller.room.set()
