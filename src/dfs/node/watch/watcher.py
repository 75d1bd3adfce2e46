"""One watch: what it wants, how far it is, and what waits for it while it is alone."""

import asyncio
from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

from ...limits import STREAM_CHUNK_BYTES_MAX, WATCH_BYTES_MAX, WATCH_EVENTS_MAX, WATCH_SCAN_MAX
from ...store import Stored, View, changed_key, revision_of, told_bytes
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

    def concerns(self, change: Stored) -> bool:
        """It is to be told."""
        return not self.key or self.key in above(changed_key(change))


class Queue:
    """Changes that wait to be told, in order. They stay as they are stored: what the watchers want
    of them is taken when a message is made."""

    def __init__(self, data_bytes_max: int) -> None:
        """`data_bytes_max`: content up to here is told."""
        self._data_bytes_max = data_bytes_max
        self._changes: deque[Stored] = deque()  # bounded by those who put
        self.bytes = 0
        """What all of it takes here, told or not."""

    def __len__(self) -> int:
        return len(self._changes)

    def put(self, changes: Sequence[Stored]) -> None:
        """Adds them at the end."""
        self._changes.extend(changes)
        self.bytes += sum(len(value) for _, value in changes)

    def skip(self, revision: int) -> None:
        """Forgets all up to a revision."""
        while self._changes and revision_of(self._changes[0]) <= revision:
            self._pop()

    def take(self) -> list[Stored]:
        """The next whole revisions, about one piece of a stream."""
        if self.bytes <= STREAM_CHUNK_BYTES_MAX:
            whole = list(self._changes)
            self.clear()
            return whole
        taken: list[Stored] = []
        size = last = 0
        while self._changes:
            size += told_bytes(self._changes[0], self._data_bytes_max)
            revision = revision_of(self._changes[0])
            if taken and size > STREAM_CHUNK_BYTES_MAX and revision != last:
                break
            last = revision
            taken.append(self._pop())
        return taken

    def clear(self) -> None:
        """Forgets all."""
        self._changes.clear()
        self.bytes = 0

    def _pop(self) -> Stored:
        change = self._changes.popleft()
        self.bytes -= len(change[1])
        return change


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
        self._queue = Queue(wanted.data_bytes_max)  # bounded by `put`

    @property
    def queued(self) -> bool:
        """Changes wait for it."""
        return bool(self._queue)

    def put(self, changes: Sequence[Stored]) -> None:
        """Queues changes, or falls behind when there is no room."""
        if self.behind:
            return
        self._queue.put(changes)
        if len(self._queue) > WATCH_EVENTS_MAX or self._queue.bytes > WATCH_BYTES_MAX:
            self.fall_behind()

    def fall_behind(self) -> None:
        """Forgets the queue; history has it all."""
        self.collect()
        self.behind = True

    def collect(self) -> None:
        """Starts with an empty queue. Pin the view after this, never before."""
        self.behind = False
        self._queue.clear()

    def take(self, complete_until: int) -> Update:
        """The next queued changes: whole revisions, one piece of a stream.

        `complete_until`: everything up to there has been put.
        """
        self._queue.skip(self.told)
        taken = self._queue.take()
        self.told = revision_of(taken[-1]) if self._queue else max(self.told, complete_until)
        return Update(self.told, taken)


class History:
    """Reads one piece of history for one watcher, in a thread of its own."""

    def __init__(self, view: View, wanted: Wanted) -> None:
        self._view, self._wanted = view, wanted
        self.exhausted = True
        self.read_until = 0

    def next_changes(self, after: int) -> list[Stored]:
        """Whole revisions after `after`, about one piece of a stream."""
        found: list[Stored] = []
        size = held = scanned = last = 0
        for change in self._view.events(after):
            revision, concerns = revision_of(change), self._wanted.concerns(change)
            if concerns:
                size += told_bytes(change, self._wanted.data_bytes_max)
                held += len(change[1])
            large = found and (size > STREAM_CHUNK_BYTES_MAX or held > WATCH_BYTES_MAX)
            if (large or scanned >= WATCH_SCAN_MAX) and revision != last:
                self.exhausted, self.read_until = False, last
                break
            scanned, last = scanned + 1, revision
            if concerns:
                found.append(change)
        return found


def above(key: str) -> list[str]:
    """The keys of all watches that `key` concerns: itself, its directories, the whole tree."""
    found = ["", key]
    end = key.find("/")
    while end > 0:
        found.append(key[:end])
        end = key.find("/", end + 1)
    return found
