"""Small helpers for work beside the event loop."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from concurrent.futures import Executor
from typing import Any, TypeVar

from ..errors import DfsError
from .ports import Refused

T = TypeVar("T")
log = logging.getLogger("dfs.node")


async def in_thread(work: Callable[..., T], *arguments: Any, pool: Executor | None = None) -> T:
    """Runs short blocking work in a thread and, even when cancelled more than once, waits for its
    end.

    Whoever cancels may then close what the work was using.
    """
    future = asyncio.get_running_loop().run_in_executor(pool, work, *arguments)
    try:
        return await asyncio.shield(future)
    except asyncio.CancelledError:
        while not future.done():
            try:
                await asyncio.wait([future])
            except asyncio.CancelledError:
                continue  # Once more: a caller goes, and then the node stops.
        if not future.cancelled():
            future.exception()  # looked at: nobody else will
        raise
    finally:
        # The future has the exception, whose traceback has this frame: a circle, which would keep
        # what the work had open, such as a store, until some later collection.
        del future


async def some_at_once(
    count: int, items: Iterable[T], work: Callable[[T], Coroutine[Any, Any, None]]
) -> None:
    """Does the work for each item, for so many at a time. Raises what one of them raised, when the
    others have ended."""
    waiting = iter(items)

    async def worker() -> None:
        for item in waiting:
            await work(item)

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(count):
                group.create_task(worker())
    except BaseExceptionGroup as failed:
        raise failed.exceptions[0] from None


async def every(interval_ms: int, work: Callable[[], Awaitable[None]]) -> None:
    """Repeats `work`, with a pause after each time, until cancelled. What it refuses is logged."""
    while True:
        try:
            await work()
        except (DfsError, Refused) as error:
            log.warning("not done, tried again later: %s", error)
        await asyncio.sleep(interval_ms / 1000)


class SayOnce:
    """Logs a line only when it differs from the one before: for waits that go on and on."""

    def __init__(self, level: int = logging.INFO) -> None:
        self._said, self._level = "", level

    def __call__(self, line: str) -> None:
        """Logs `line` unless it was the last one."""
        if line != self._said:
            self._said = line
            log.log(self._level, "%s", line)
