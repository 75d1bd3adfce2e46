"""The same work for many things, for so many of them at a time."""

import asyncio
from collections.abc import Callable, Coroutine, Iterable
from typing import Any, TypeVar

T = TypeVar("T")


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
