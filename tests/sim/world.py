"""What everything in one simulation shares: time, chance, the trace, and the first thing wrong."""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections import Counter, deque
from collections.abc import Callable, Coroutine
from typing import Any, Final

from .knobs import Knobs
from .loop import SimLoop

EPOCH_NS: Final = 1_700_000_000_000_000_000
"""When every simulation begins."""
TRACE_LINES_MAX: Final = 20_000
"""The digest knows all lines, memory only the last ones."""


class Wrong(AssertionError):
    """A promise is broken."""


class World:
    """One run of one seed."""

    def __init__(self, seed: int, knobs: Knobs) -> None:
        self.seed, self.knobs = seed, knobs
        self.chance = random.Random(f"dfs {seed}")
        self.loop = SimLoop(random.Random(f"work {seed}"))
        self.counts: Counter[str] = Counter()
        """Of each kind of fault and outcome, how many."""
        self.lines: deque[str] = deque(maxlen=TRACE_LINES_MAX)
        self.wrong: Wrong | None = None
        self.kill: Callable[[str], None] = lambda _: None
        """Ends the member of that name."""
        self.calm = False
        """The faults are over: from here on everything must come to its end."""
        self.copied: set[bytes] = set()
        """Ids of requests of which a second copy is on its way: they may be done though the first
        was refused."""
        self._digest = hashlib.sha256()
        self._moments = 0
        self._over = False
        self._tasks: set[asyncio.Task[Any]] = set()

    # ---- time and chance -------------------------------------------------------------------------
    @property
    def now(self) -> float:
        """Seconds since the beginning."""
        return self.loop.now

    def wall_ns(self) -> int:
        """What a clock shows that is right."""
        return EPOCH_NS + int(self.loop.now * 1e9)

    def moment(self) -> int:
        """A number for now: later ones are larger."""
        self._moments += 1
        return self._moments

    def likely(self, probability: float) -> bool:
        """True so often."""
        return self.chance.random() < probability

    def fault(self, probability: float) -> bool:
        """The same, but nothing is broken on purpose in calm weather."""
        return not self.calm and self.chance.random() < probability

    def later(self, after_s: float, call: Callable[..., Any], *arguments: Any) -> None:
        """Calls in so many seconds."""
        self.loop.call_later(after_s, self._guarded, call, arguments)

    async def wait(self, seconds: float) -> None:
        """Lets time pass."""
        passed = self.loop.create_future()
        self.loop.call_later(seconds, lambda: passed.done() or passed.set_result(None))
        await passed

    async def wait_until(self, what: str, condition: Callable[[], object], limit_s: float) -> None:
        """Returns when the condition holds; what does not come in time never comes."""
        end = self.now + limit_s
        while not condition():
            self.check(self.now < end, f"not within {limit_s:g} s of calm: {what}")
            await self.wait(0.05)

    def begin(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """A task whose failure is the failure of the run."""
        task = self.loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    # ---- what happened ---------------------------------------------------------------------------
    def note(self, line: str) -> None:
        """One line of the trace."""
        text = f"{self.loop.now:9.4f} {line}"
        self.lines.append(text)
        self._digest.update(text.encode() + b"\n")

    def count(self, kind: str, line: str = "") -> None:
        """Counts a fault or an outcome, and traces it."""
        self.counts[kind] += 1
        self.note(f"{kind} {line}" if line else kind)

    def check(self, holds: object, sentence: str) -> None:
        """Ends the run when it does not hold."""
        if not holds:
            self.fail(sentence)

    def fail(self, sentence: str) -> None:
        """Ends the run: the first failure is the one that counts."""
        wrong = Wrong(sentence)
        if self.wrong is None:
            self.wrong = wrong
            self.note(f"WRONG: {sentence}")
        raise wrong

    def digest(self) -> str:
        """Of the whole trace."""
        return self._digest.hexdigest()

    # ---- running ---------------------------------------------------------------------------------
    def run(self, work: Coroutine[Any, Any, Any]) -> None:
        """Runs to the end, or to the first thing that is wrong, which is raised."""
        loop = self.loop
        loop.set_exception_handler(self._unhandled)
        main = loop.create_task(work)
        main.add_done_callback(lambda _: self._over or loop.stop())
        try:
            loop.run_forever()
        finally:
            self._end(main)
        if self.wrong is not None:
            raise self.wrong
        main.result()

    def _end(self, main: asyncio.Task[Any]) -> None:
        self._over, loop = True, self.loop
        tasks = sorted(asyncio.all_tasks(loop), key=lambda task: int(task.get_name().split("-")[1]))
        for task in tasks:
            task.cancel()
        if tasks:
            loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()

    def _guarded(self, call: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
        try:
            call(*arguments)
        except Exception as error:  # boundary: the loop would only log it
            self._stop(error)

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._stop(error)

    def _unhandled(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        self._stop(context.get("exception") or RuntimeError(context["message"]))

    def _stop(self, error: BaseException) -> None:
        if self._over:
            return
        if self.wrong is None:
            self.wrong = error if isinstance(error, Wrong) else Wrong(f"{error!r}")
            self.wrong.__cause__ = None if error is self.wrong else error
            self.note(f"WRONG: {self.wrong}")
        self.loop.stop()
