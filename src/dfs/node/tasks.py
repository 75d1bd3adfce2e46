"""Small helpers for work beside the event loop."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
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
