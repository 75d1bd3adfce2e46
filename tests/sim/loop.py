"""An event loop with a clock of its own: nothing takes time but what says so."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import Any

WORK_S_MAX = 0.02
"""What a thread is given to do takes up to so long."""


class Stuck(Exception):
    """Nothing is under way any more, and still something is awaited."""


class Clock:
    """What asyncio takes for a selector: instead of waiting it lets time pass."""

    def __init__(self, loop: SimLoop) -> None:
        self._loop = loop

    def select(self, timeout: float | None) -> list[object]:
        """Jumps to the next timer."""
        if timeout is None:
            raise Stuck("nothing will ever happen again")
        self._loop.now += timeout
        return []

    def close(self) -> None:
        """Nothing to close."""


class SimLoop(asyncio.BaseEventLoop):
    """The standard loop without sockets, threads and waiting."""

    def __init__(self, chance: random.Random) -> None:
        super().__init__()
        self.now = 0.0
        self._chance = chance
        self._selector = Clock(self)

    def time(self) -> float:
        """Seconds since the simulation began."""
        return self.now

    def run_in_executor(self, executor: object, func: Callable[..., Any], *args: Any) -> Any:
        """There are no threads: the work is done at one moment, and heard of later."""
        future: asyncio.Future[Any] = self.create_future()

        def deliver(outcome: Any, error: BaseException | None) -> None:
            if future.done():
                return
            if error is not None:
                future.set_exception(error)
            else:
                future.set_result(outcome)

        def work() -> None:
            outcome, failure = None, None
            try:
                outcome = func(*args)
            except Exception as error:  # boundary: raised where it is awaited
                failure = error
            self.call_later(self._chance.uniform(0, WORK_S_MAX / 2), deliver, outcome, failure)

        self.call_later(self._chance.uniform(0, WORK_S_MAX / 2), work)
        return future

    def call_soon_threadsafe(self, callback: Any, *args: Any, context: Any = None) -> Any:
        """There is one thread."""
        return self.call_soon(callback, *args, context=context)

    def _process_events(self, event_list: list[object]) -> None:
        """Sockets; there are none."""

    def _write_to_self(self) -> None:
        """Wakes a waiting selector; this one never waits."""
