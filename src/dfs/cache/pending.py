"""Which drop goes when: one entry for each path, in order of their turns.

A fresh file goes at once. One that is written again and again waits a quiet time that doubles, so
that it does not fill history with its intermediate states; one that a writer holds open is looked
at again, ever less often (its close is reported anyway). Pure but for the event loop, by whose
clock and timers it goes.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from ..limits import (
    DROP_ATTEMPTS_MAX,
    DROP_QUIET_MS,
    DROP_QUIET_MS_MAX,
    DROP_RECENT_MS,
    DROP_SETTLE_MS,
    LEASE_RETRY_MS,
    LEASE_RETRY_MS_MAX,
)
from .take import Taken

# Why a path is looked at.
CLOSED: Final = 1
"""A writer closed it."""
MOVED: Final = 2
"""Renamed to this name, or found by a scan: complete by itself."""
TOUCHED: Final = 4
"""Mode or times were set on purpose."""
HINT: Final = 8
"""Created, linked, truncated: a close usually follows."""
SCANNED: Final = 16
"""Found by a scan: nobody knows when it came."""


def now_s() -> float:
    """Seconds of the event loop's clock, which never goes back."""
    return asyncio.get_running_loop().time()


@dataclass(slots=True)
class Drop:
    """One pending path."""

    path: str
    why: int = 0
    due: float = 0.0
    """Monotonic time before which it is left alone."""
    base: int | None = None
    """The revision that it replaces; 0 = none. Set once the tree is known."""
    running: bool = False
    again: bool = False
    """Changed while it was running."""
    next_base: int | None = None
    """The revision that this change replaces: what was known when it happened, or what is stored
    by the time that it has its turn."""
    copied: Taken | None = None
    """Of a large file, what was copied for an attempt that has to be repeated."""
    turns: int = 0
    """How often it was dealt with since it is pending."""
    busy_ms: int = 0
    request_id: bytes = b""
    """Of the attempt to store it, and of those that repeat it unchanged."""
    request_id_s: float = 0.0
    """Since when it has that id; not known of an attempt with others."""
    request: object = None
    """What it asks for: when that changes, it is another request. None: it went with others."""
    attempts: tuple[bytes, ...] = ()
    """Ids of former requests for it, each of which may have been done, or may be yet."""

    def begin_request(self, request_id: bytes, request: object = None) -> None:
        """It is asked for something else than before, or once more, or with others."""
        self.end_request()
        self.request_id, self.request = request_id, request

    def end_request(self) -> None:
        """What is asked for next gets an id of its own."""
        if self.request_id:
            self.attempts = (*self.attempts, self.request_id)[-DROP_ATTEMPTS_MAX:]
        self.request_id, self.request = b"", None


@dataclass(slots=True)
class _Rhythm:
    taken: float = 0.0
    quiet_ms: int = 0


class Pending:
    """All drops that are not dealt with yet, by path."""

    def __init__(self) -> None:
        self.drops: dict[str, Drop] = {}
        self._ready: deque[Drop] = deque()
        self._rhythms: dict[str, _Rhythm] = {}
        """Taken lately, oldest first."""
        self._idle: deque[asyncio.Future[None]] = deque()
        self._loop = asyncio.get_running_loop()

    def __len__(self) -> int:
        return len(self.drops)

    def changed(self, path: str, why: int) -> Drop:
        """Something happened to `path`; it gets or keeps a turn."""
        drop = self.drops.get(path)
        now = self._loop.time()
        if drop is None:
            drop = self.drops[path] = Drop(path, why, now + self._quiet_s(path, why, now))
            self._queue(drop, now)
            return drop
        if drop.running:
            drop.again = True
        elif drop.due > now and why & ~HINT and (why & MOVED or drop.why == HINT or drop.busy_ms):
            drop.due = min(drop.due, now + self._quiet_s(path, why, now))
            self._queue(drop, now)
        drop.why |= why
        return drop

    def gone(self, path: str) -> None:
        """It was removed. One that is running comes to its end."""
        self._rhythms.pop(path, None)
        drop = self.drops.get(path)
        if drop is not None and drop.running:
            drop.again = True
        elif drop is not None:
            del self.drops[path]

    async def next(self, count: int) -> list[Drop]:
        """The drops whose turn it is, so many at most: waits for one, and takes what is there with
        it. They are running from here until `done`, `later` or `back`."""
        found: list[Drop] = []
        while True:
            now = self._loop.time()
            while self._ready and len(found) < count:
                drop = self._ready.popleft()
                mine = self.drops.get(drop.path) is drop and not drop.running
                if mine and drop.due <= now:
                    drop.running, drop.again = True, False
                    found.append(drop)
            if found:
                return found
            waiting = self._loop.create_future()
            self._idle.append(waiting)
            await waiting

    def done(self, drop: Drop) -> None:
        """Dealt with; if it changed meanwhile it gets another turn."""
        drop.running = False
        drop.turns += 1
        now = self._loop.time()
        rhythm = self._rhythms.pop(drop.path, None) or _Rhythm()
        rhythm.taken = now
        self._rhythms[drop.path] = rhythm
        self._forget_old_rhythms(now)
        if not drop.again:
            self.drops.pop(drop.path, None)
            return
        drop.why, drop.busy_ms = drop.why & TOUCHED, 0
        drop.request_id, drop.request, drop.attempts = b"", None, ()
        drop.base, drop.next_base = drop.next_base, None
        drop.due = now + self._quiet_s(drop.path, CLOSED, now)
        self._queue(drop, now)

    def later(self, drop: Drop, due: float) -> None:
        """Its turn comes again at the monotonic time `due`."""
        drop.running = False
        drop.due = due
        self._queue(drop, self._loop.time())

    def back(self, drops: Sequence[Drop]) -> None:
        """These were not looked at: their turn comes next."""
        for drop in reversed(drops):
            drop.running = False
            self._ready.appendleft(drop)
        self._call(len(drops))

    def busy(self, drop: Drop) -> None:
        """A writer has it open."""
        drop.busy_ms = min(max(2 * drop.busy_ms, LEASE_RETRY_MS), LEASE_RETRY_MS_MAX)
        wait_ms = LEASE_RETRY_MS if drop.again else drop.busy_ms
        self.later(drop, self._loop.time() + wait_ms / 1000)

    def _queue(self, drop: Drop, now: float) -> None:
        if drop.due <= now:
            self._turn(drop)
            return
        self._loop.call_at(drop.due, self._is_due, drop, drop.due)

    def _is_due(self, drop: Drop, due: float) -> None:
        """The time has come for which its turn was set, unless another one was set since."""
        if self.drops.get(drop.path) is drop and not drop.running and drop.due == due:
            drop.due = 0.0
            self._turn(drop)

    def _turn(self, drop: Drop) -> None:
        self._ready.append(drop)
        self._call(1)

    def _call(self, count: int) -> None:
        """So many of those who wait look for their turn."""
        while self._idle and count:
            waiting = self._idle.popleft()
            if not waiting.done():
                waiting.set_result(None)
                count -= 1

    def _quiet_s(self, path: str, why: int, now: float) -> float:
        if why & MOVED:
            return 0.0
        if not why & (CLOSED | TOUCHED):
            return DROP_SETTLE_MS / 1000
        rhythm = self._rhythms.get(path)
        if rhythm is None or not why & CLOSED:
            return 0.0
        if now - rhythm.taken > max(DROP_RECENT_MS, 2 * rhythm.quiet_ms) / 1000:
            del self._rhythms[path]
            return 0.0
        rhythm.quiet_ms = min(max(2 * rhythm.quiet_ms, DROP_QUIET_MS), DROP_QUIET_MS_MAX)
        if why & HINT:
            return DROP_SETTLE_MS / 1000  # As if it had been told of that before.
        return rhythm.quiet_ms / 1000

    def _forget_old_rhythms(self, now: float) -> None:
        """Two for each that is added: few are left, and none is forgotten too early."""
        keep_s = 2 * DROP_QUIET_MS_MAX / 1000
        for path in list(itertools.islice(self._rhythms, 2)):
            if now - self._rhythms[path].taken > keep_s:
                del self._rhythms[path]
