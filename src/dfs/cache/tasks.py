"""Tasks of the event loop: parts that run together, and one for each thing that the mount wants."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Coroutine, Iterable, Sequence
from typing import Any, Generic, TypeVarTuple

from ..limits import MISS_WAIT_MS, MISSES_MAX

Ts = TypeVarTuple("Ts")


async def together(parts: Iterable[Coroutine[Any, Any, object]]) -> None:
    """Runs all until one ends; then ends the others. Raises what that one raised."""
    tasks = [asyncio.create_task(part) for part in parts]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class Serving(Generic[*Ts]):
    """Whatever a thread of the mount wants becomes a task here: none waits for another."""

    def __init__(
        self, name: str, wanted: Callable[[int, int], Sequence[tuple[*Ts]]],
        serve: Callable[[*Ts], Coroutine[Any, Any, None]],
    ) -> None:
        """`name`: of the thread. `wanted`: (at most so many, milliseconds to wait) → what there is,
        in that thread; `serve` deals with one."""
        self._name, self._wanted, self._serve = name, wanted, serve
        self._tasks: set[asyncio.Task[None]] = set()
        self._stop = threading.Event()

    def start(self) -> None:
        """Serves from now on, on the running loop."""
        loop = asyncio.get_running_loop()
        threading.Thread(target=self._wait, args=(loop,), name=self._name, daemon=True).start()

    def stop(self) -> None:
        """Takes nothing more, and gives up what is under way."""
        self._stop.set()
        for task in self._tasks:
            task.cancel()

    def _wait(self, loop: asyncio.AbstractEventLoop) -> None:
        while not self._stop.is_set():
            wanted = self._wanted(MISSES_MAX, MISS_WAIT_MS)
            if wanted:
                # The loop may have been closed meanwhile: then nobody waits for us either.
                with contextlib.suppress(RuntimeError):
                    loop.call_soon_threadsafe(self._arrived, wanted)

    def _arrived(self, wanted: Sequence[tuple[*Ts]]) -> None:
        for one in wanted:
            task = asyncio.create_task(self._serve(*one))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
