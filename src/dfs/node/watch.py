"""Watches: every change once, in order, whole revisions, from any retained revision on.

A watcher is in one of two states. **Live**: the hot thread's changes are put into its queue.
**Catching up**: its changes are read from history, piece by piece, each piece from a view pinned
for it. The seam between both is one index: the queue is emptied and collects *before* a view is
pinned, so whatever the view does not show is in the queue, and what both have is recognised by its
revision.

A queue that overflows loses nothing but speed: the watcher goes back to history. Only when the
floor has passed what it needs does it get a gap.
"""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import aclosing
from typing import NamedTuple

from ..errors import NotFound, OutOfRange, Overloaded, Unavailable
from ..limits import (
    LIST_ITEMS_MAX,
    STREAM_CHUNK_BYTES_MAX,
    WATCH_BYTES_MAX,
    WATCH_EVENTS_MAX,
    WATCH_PACE_MS,
    WATCH_SCAN_MAX,
    WATCHES_MAX,
)
from ..store import Change, Stored, View, change_of
from .tasks import in_thread

Item = tuple[str, bytes, bytes | None]
"""(key, encoded Record, content where asked)."""


class Update(NamedTuple):
    """One answer of a watch."""

    revision: int
    """All changes up to here have been told."""
    changes: list[Change] = []
    items: list[Item] = []
    snapshot_end: bool = False
    gap_floor: int = 0
    """Not 0: history up to there is gone, and the watch has ended."""


class Watcher:
    """The queue of one watch. Asyncio thread only."""

    def __init__(self, key: str, data_bytes_max: int) -> None:
        self.key, self.data_bytes_max = key, data_bytes_max
        self.behind = False
        """What is missing has to come from history."""
        self.told = 0
        """All changes up to this revision have been told."""
        self._queue: deque[Change] = deque()  # bounded by `put`
        self._bytes = 0
        self._news = asyncio.Event()

    def put(self, change: Change) -> None:
        """Queues a live change, or falls behind when there is no room."""
        if self.behind:
            return
        if len(change.data) > self.data_bytes_max:
            change = change._replace(data=b"")
        self._queue.append(change)
        self._bytes += _size(change)
        if len(self._queue) > WATCH_EVENTS_MAX or self._bytes > WATCH_BYTES_MAX:
            self.fall_behind()
        self._news.set()

    def fall_behind(self) -> None:
        """Forgets the queue; history has it all."""
        self.collect()
        self.behind = True
        self._news.set()

    def collect(self) -> None:
        """Starts with an empty queue. Pin the view after this, never before."""
        self.behind = False
        self._queue.clear()
        self._bytes = 0
        self._news.clear()

    async def wait(self, timeout_s: float) -> None:
        """Returns when there is something to tell, or when the time is up."""
        if not self._queue and not self.behind:
            try:
                async with asyncio.timeout(timeout_s):
                    await self._news.wait()
            except TimeoutError:
                pass

    def take(self, complete_until: int) -> Update:
        """The next queued changes: whole revisions, one piece of a stream.

        `complete_until`: everything up to there has been put.
        """
        taken: list[Change] = []
        size = 0
        while self._queue:
            change = self._queue[0]
            if change.revision > self.told:
                size += _size(change)
                full = size > STREAM_CHUNK_BYTES_MAX
                if full and taken and change.revision != taken[-1].revision:
                    break
                taken.append(change)
            self._bytes -= _size(change)
            self._queue.popleft()
        if not self._queue:
            self._news.clear()
        self.told = taken[-1].revision if self._queue else max(self.told, complete_until)
        return Update(self.told, taken)


class Watches:
    """All watches of one node."""

    def __init__(
        self,
        pin: Callable[[], View],
        wait_for: Callable[[int], Awaitable[None]],
        on_watched: Callable[[bool], None],
    ) -> None:
        """`pin`: makes a view. `wait_for`: that a revision is applied here.
        `on_watched`: whether changes are wanted at all."""
        self._pin, self._wait_for, self._on_watched = pin, wait_for, on_watched
        self._by_key: dict[str, set[Watcher]] = {}
        self._count = 0
        self._complete_until = 0
        self._ending = False

    def deliver(self, turn: tuple[int, list[Stored]]) -> None:
        """Takes the changes of one turn of the hot thread, up to an applied index."""
        self._complete_until, events = turn
        if self._count:
            for change in map(change_of, events):
                for key in _above(change.key):
                    for watcher in self._by_key.get(key, ()):
                        watcher.put(change)

    def end(self) -> None:
        """The node stops: every watch ends with Unavailable, and no new one begins."""
        self._ending = True
        self.fall_behind()

    def fall_behind(self) -> None:
        """The state was replaced: what lies between is only in its history."""
        for watchers in self._by_key.values():
            for watcher in watchers:
                watcher.fall_behind()

    async def follow(
        self, key: str, after: int, snapshot: bool, data_bytes_max: int, progress_s: float
    ) -> AsyncGenerator[Update, None]:
        """Yields updates until the caller stops, or a gap.

        `after`: 0 = from now on. With `snapshot`: first all items, then the changes since.
        """
        watcher = self._add(Watcher(key, data_bytes_max))
        try:
            if snapshot:
                async with aclosing(self._snapshot(watcher)) as updates:
                    async for update in updates:
                        yield update
            elif after:
                await self._wait_for(after)
                watcher.told = after
                watcher.fall_behind()
            else:
                watcher.collect()
                self._pinned(watcher).close()
                yield Update(watcher.told)
            clock = asyncio.get_running_loop().time
            not_before = clock()
            while True:
                if not watcher.behind:
                    await watcher.wait(progress_s)
                    if (pause := not_before - clock()) > 0:
                        await asyncio.sleep(pause)
                self._check_end()
                if watcher.behind:
                    update = await self._catch_up(watcher)
                else:
                    update = watcher.take(self._complete_until)
                not_before = clock() + WATCH_PACE_MS / 1000
                yield update
                if update.gap_floor:
                    return
        finally:
            self._remove(watcher)

    def _pinned(self, watcher: Watcher) -> View:
        view = self._pin()
        watcher.told = view.revision
        return view

    async def _snapshot(self, watcher: Watcher) -> AsyncGenerator[Update, None]:
        watcher.collect()
        with self._pinned(watcher) as view:
            pieces = Pieces(tree(view, watcher.key, watcher.data_bytes_max))
            while piece := await in_thread(pieces.next):
                yield Update(view.revision, items=piece)
        yield Update(watcher.told, snapshot_end=True)

    async def _catch_up(self, watcher: Watcher) -> Update:
        watcher.collect()
        with self._pin() as view:
            try:
                read = _History(view, watcher)
                changes = await in_thread(read.next_changes, watcher.told)
            except OutOfRange:
                return Update(watcher.told, gap_floor=max(1, view.floor))
            except Unavailable:  # the state was replaced under the view
                watcher.fall_behind()
                return Update(watcher.told)
            if read.exhausted:
                watcher.told = max(watcher.told, view.revision)
            else:
                watcher.told = read.read_until
                watcher.fall_behind()
        return Update(watcher.told, changes)

    def _check_end(self) -> None:
        if self._ending:
            raise Unavailable("this node is shutting down: go on with this watch at another one")

    def _add(self, watcher: Watcher) -> Watcher:
        self._check_end()
        if self._count >= WATCHES_MAX:
            raise Overloaded(
                f"this node has {WATCHES_MAX:,} watches (WATCHES_MAX), no more are taken;"
                " watch on another node, or one directory instead of many keys",
                limit="WATCHES_MAX",
            )
        self._count += 1
        self._by_key.setdefault(watcher.key, set()).add(watcher)
        self._on_watched(True)
        return watcher

    def _remove(self, watcher: Watcher) -> None:
        self._count -= 1
        same = self._by_key[watcher.key]
        same.remove(watcher)
        if not same:
            del self._by_key[watcher.key]
        self._on_watched(self._count > 0)


class _History:
    """Reads one piece of history for one watcher, in a thread of its own."""

    def __init__(self, view: View, watcher: Watcher) -> None:
        self._view, self._key, self._most = view, watcher.key, watcher.data_bytes_max
        self.exhausted = True
        self.read_until = 0

    def next_changes(self, after: int) -> list[Change]:
        """Whole revisions after `after`, about one piece of a stream."""
        found: list[Change] = []
        size = scanned = last = 0
        for change in self._view.changes(after):
            concerns = self._key in _above(change.key)
            if len(change.data) > self._most:
                change = change._replace(data=b"")
            size += _size(change) if concerns else 0
            full = (found and size > STREAM_CHUNK_BYTES_MAX) or scanned >= WATCH_SCAN_MAX
            if full and change.revision != last:
                self.exhausted, self.read_until = False, last
                break
            scanned, last = scanned + 1, change.revision
            if concerns:
                found.append(change)
        return found


def tree(view: View, key: str, data_bytes_max: int) -> Iterator[Item]:
    """`key` itself and all below it; nothing where there is nothing."""
    if not key:
        yield from view.list("", True, "", data_bytes_max)
        return
    try:
        record = view.stat(key)
    except NotFound:
        return
    items = view.list(key, True, "", data_bytes_max)
    first = next(items, None)
    if first is None or first[0] != key:
        yield key, record, None
    if first is not None:
        yield first
    yield from items


class Pieces:
    """Cuts a stream of items into answers: bounded bytes, one larger item alone."""

    def __init__(self, items: Iterator[Item]) -> None:
        self._items = items
        self._next: Item | None = None

    def next(self, items_max: int = LIST_ITEMS_MAX) -> list[Item]:
        """The next answer's items; empty at the end. Blocks."""
        piece: list[Item] = []
        size = 0
        while len(piece) < items_max:
            item = self._next or next(self._items, None)
            self._next = None
            if item is None:
                break
            size += len(item[0].encode()) + len(item[1]) + len(item[2] or b"")
            if piece and size > STREAM_CHUNK_BYTES_MAX:
                self._next = item
                break
            piece.append(item)
        return piece


def _above(key: str) -> list[str]:
    """The keys of all watches that `key` concerns: itself, its directories, the whole tree."""
    found = ["", key]
    end = key.find("/")
    while end > 0:
        found.append(key[:end])
        end = key.find("/", end + 1)
    return found


def _size(change: Change) -> int:
    return len(change.key) + len(change.record) + len(change.data)
