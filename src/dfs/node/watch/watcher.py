"""One watch: what it wants, how far it is, and what waits for it while it is alone."""

import asyncio
from collections import deque
from typing import NamedTuple

from ...limits import STREAM_CHUNK_BYTES_MAX, WATCH_BYTES_MAX, WATCH_EVENTS_MAX, WATCH_SCAN_MAX
from ...store import Change, View
from ..ports import Update
from ..streams import Caller


class Wanted(NamedTuple):
    """What a watcher wants to be told."""

    key: str
    """This key and all below it; "" = everything."""
    data_bytes_max: int
    """Content up to here."""
    progress_s: float
    """A message at least so often."""

    def seen(self, change: Change) -> Change:
        """The change without content that is too large."""
        data = change.data
        fits = data is None or len(data) <= self.data_bytes_max
        return change if fits else change._replace(data=None)


class Watcher:
    """A watcher and its queue. Asyncio thread only."""

    def __init__(self, caller: Caller, wanted: Wanted) -> None:
        self.caller, self.wanted = caller, wanted
        self.behind = False
        """What is missing has to come from history."""
        self.told = 0
        """All changes up to this revision have been told."""
        self.left = asyncio.Event()
        """Set when it is alone again after it was live."""
        self.error: BaseException | None = None
        """Why the watch has to end, if it has to."""
        self._queue: deque[Change] = deque()  # bounded by `put`
        self._bytes = 0

    @property
    def queued(self) -> bool:
        """Changes wait for it."""
        return bool(self._queue)

    def put(self, change: Change) -> None:
        """Queues a change, or falls behind when there is no room."""
        if self.behind:
            return
        change = self.wanted.seen(change)
        self._queue.append(change)
        self._bytes += size_of(change)
        if len(self._queue) > WATCH_EVENTS_MAX or self._bytes > WATCH_BYTES_MAX:
            self.fall_behind()

    def fall_behind(self) -> None:
        """Forgets the queue; history has it all."""
        self.collect()
        self.behind = True

    def collect(self) -> None:
        """Starts with an empty queue. Pin the view after this, never before."""
        self.behind = False
        self._queue.clear()
        self._bytes = 0

    def take(self, complete_until: int) -> Update:
        """The next queued changes: whole revisions, one piece of a stream.

        `complete_until`: everything up to there has been put.
        """
        while self._queue and self._queue[0].revision <= self.told:
            self._bytes -= size_of(self._queue.popleft())
        taken = next_piece(self._queue)
        self._bytes -= sum(map(size_of, taken))
        self.told = taken[-1].revision if self._queue else max(self.told, complete_until)
        return Update(self.told, taken)


class History:
    """Reads one piece of history for one watcher, in a thread of its own."""

    def __init__(self, view: View, wanted: Wanted) -> None:
        self._view, self._wanted = view, wanted
        self.exhausted = True
        self.read_until = 0

    def next_changes(self, after: int) -> list[Change]:
        """Whole revisions after `after`, about one piece of a stream."""
        found: list[Change] = []
        size = scanned = last = 0
        for change in self._view.changes(after):
            concerns = self._wanted.key in above(change.key)
            change = self._wanted.seen(change)
            size += size_of(change) if concerns else 0
            full = (found and size > STREAM_CHUNK_BYTES_MAX) or scanned >= WATCH_SCAN_MAX
            if full and change.revision != last:
                self.exhausted, self.read_until = False, last
                break
            scanned, last = scanned + 1, change.revision
            if concerns:
                found.append(change)
        return found


def next_piece(queue: deque[Change]) -> list[Change]:
    """Takes whole revisions out of a queue, about one piece of a stream."""
    taken: list[Change] = []
    size = 0
    while queue:
        change = queue[0]
        size += size_of(change)
        if taken and size > STREAM_CHUNK_BYTES_MAX and change.revision != taken[-1].revision:
            break
        taken.append(queue.popleft())
    return taken


def above(key: str) -> list[str]:
    """The keys of all watches that `key` concerns: itself, its directories, the whole tree."""
    found = ["", key]
    end = key.find("/")
    while end > 0:
        found.append(key[:end])
        end = key.find("/", end + 1)
    return found


def size_of(change: Change) -> int:
    """What it takes in a queue or in a message."""
    return len(change.key) + len(change.record) + len(change.data or b"")
