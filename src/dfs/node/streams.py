"""Calls that are answered by a stream of messages: one task of the event loop for each.

The hot thread hands over what it does not answer itself. All here runs on the asyncio thread, so
the news of room for a message can never overtake the `send` that asked for it.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import NamedTuple

from .ports import Call, Engine, Failure, Flow

Write = Callable[[bytes], Awaitable[None]]
"""Sends one message of an answer; comes back when there is room for the next."""
Streaming = Callable[[bytes, Write], Awaitable[Failure | None]]
"""(body, write) → how the answer ends. Must not raise anything but CancelledError."""


class Open(NamedTuple):
    """A call under way."""

    task: "asyncio.Task[None]"
    room: asyncio.Event
    """Set while the caller takes messages."""


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
            room = asyncio.Event()
            task = asyncio.ensure_future(self._answer(call_id, self._methods[method], body, room))
            self._open[call_id] = Open(task, room)
            task.add_done_callback(partial(self._ended, call_id))
        for call_id, is_room in flow:
            if call := self._open.get(call_id):
                if is_room:
                    call.room.set()
                else:
                    call.task.cancel()

    async def close(self) -> None:
        """Ends all; the engine tells the callers."""
        tasks = [call.task for call in self._open.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _answer(
        self, call_id: int, method: Streaming, body: bytes, room: asyncio.Event
    ) -> None:
        async def write(message: bytes) -> None:
            for _, waiting in self._engine.send((call_id,), message):
                if waiting < 0:
                    raise asyncio.CancelledError("nobody waits for this call any more")
                room.clear()
                await room.wait()

        self._engine.end(call_id, await method(body, write))

    def _ended(self, call_id: int, _task: "asyncio.Task[None]") -> None:
        # Not by the task itself: one that is cancelled at once never begins.
        del self._open[call_id]
