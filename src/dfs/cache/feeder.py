"""The committed tree in memory, and what the mount is told of it.

One stream: first a snapshot, then every change. Small content travels with a change and is on disk,
verified, before the mount shows the file. The first snapshot brings that of what changed since an
agent was here last (`kept_until`), but no more than readers should wait for. A stream that breaks
goes on where it was; a gap is closed by a new snapshot, of which only the differences are applied.
Runs on the event loop; content is written in a thread, and what is told of single entries is read
by the engine.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from typing import Final

from ..client.values import Told
from ..errors import DataLoss, DfsError, OutOfRange
from ..limits import (
    AGENT_AHEAD_BYTES_MAX,
    AGENT_DATA_BYTES_MAX,
    AGENT_RETRY_MS,
    AGENT_RETRY_MS_MAX,
    FEED_ITEMS_MAX,
    FEED_UPDATES_MAX,
)
from .known import Known, Needed
from .objects import Content, Objects
from .ports import Client, Outcome, Tree
from .problems import Problems
from .room import Room

log = logging.getLogger(__name__)
_BLOCK: Final = 4 << 10
"""Bytes that the smallest file takes on a disk."""


class _Enough(Exception):
    """The first snapshot has brought as much content as one should wait for."""


class Feeder:
    """Follows the node and keeps the tree as it is there."""

    def __init__(
        self, client: Client, problems: Problems, tree: Tree, objects: Objects | None = None
    ) -> None:
        """`objects`: for a tree that is mounted."""
        self.known = Known(tree)
        """Every file, symlink and explicit directory of the tree at `revision`."""
        self.revision = 0
        self.kept_until = 0
        """Small content up to this revision came here once; a first snapshot brings that of greater
        ones. Set it to what the last agent had. It is a hint and no more: what could not be kept,
        went since or was lost in a power cut is fetched behind the snapshot or when it is read, and
        so is all content where this is a revision of another cluster. What comes a second time is
        left as it is."""
        self.live = False
        """Changes arrive; otherwise `known` may be old."""
        self.lost_s = time.time()
        """Since when it is not live; seconds since 1970, like those that follow."""
        self.heard_s = 0.0
        """When the node last said something, be it that nothing has changed."""
        self.changed_s = 0.0
        """When the last change arrived."""
        self._answered_s, self._alone_s = 0.0, 0.0
        """When a majority of the voters answered last; since when none does, 0 = one does."""
        self.ready = asyncio.Event()
        """The first snapshot is complete."""
        self.needed = Needed(tree)
        """The contents that somebody may open."""
        self.removed: Callable[[], None] = lambda: None
        """Called after something was deleted from the tree: what it blocked may go now."""
        self.resynced = asyncio.Event()
        """Set after each snapshot, for whoever warms the cache."""
        self.room: Room | None = None
        """For the content that comes along; it is not kept where there is none."""
        self._client, self._problems = client, problems
        self._objects, self._tree = objects, tree
        self._incoming: list[bytes] = []
        """Of a snapshot that closes a gap: what came so far. It is shown when it is complete."""
        self._bare = False
        """Snapshots are to come without content, which is fetched behind them."""
        self._ahead_bytes = 0
        """Of content that came with the first snapshot, a small one counted as its file."""
        self._outage = False
        self._moved = asyncio.Event()
        """Set when `revision` grows; there is a new one each time."""
        self._pool = ThreadPoolExecutor(1, "feeder")

    async def run(self) -> None:
        """Follows for ever."""
        snapshot, wait_ms = True, AGENT_RETRY_MS
        try:
            while True:
                before = self.revision
                try:
                    await self._follow(snapshot)
                    snapshot = False
                    continue
                except _Enough:
                    continue
                except OutOfRange as error:
                    # The node may only have stopped queueing for us: its history may still reach.
                    snapshot = snapshot or self.revision == before
                    self._lost(error)
                except (DfsError, OSError) as error:
                    self._lost(error)
                if self.revision != before:
                    wait_ms = AGENT_RETRY_MS
                await asyncio.sleep(wait_ms / 1000)
                wait_ms = min(wait_ms * 2, AGENT_RETRY_MS_MAX)
        finally:
            self._pool.shutdown(wait=False, cancel_futures=True)

    async def reached(self, revision: int) -> None:
        """Waits until the tree is that of this revision or a later one."""
        while self.revision < revision:
            await self._moved.wait()

    def place(self, contents: Iterable[tuple[bytes, int]]) -> None:
        """Tells the mount anew where contents of these sizes are, or that they are not here."""
        if self._objects is not None:
            backing = self._objects.backing
            self._tree.place_contents([
                (sha256, backing(sha256, size)) for sha256, size in contents
            ])

    def show(self, contents: Collection[bytes]) -> None:
        """Tells the mount where these are that were kept here, and which of them went."""
        if self._objects is not None:
            sizes = {sha256: self._objects.size(sha256) for sha256 in contents}
            self._tree.place_contents([(s, None) for s, size in sizes.items() if size is None])
            self.place((s, size) for s, size in sizes.items() if size is not None)

    def sweep(self, objects: Objects) -> None:
        """Removes content that nobody has needed for a while. Blocks."""
        for sha256 in self._tree.left():
            objects.retire(sha256)
        objects.sweep(self.needed)

    # ---- the stream ------------------------------------------------------------------------------
    async def _follow(self, snapshot: bool) -> None:
        """One watch. With `snapshot`, ends when it is complete; else only by an error."""
        queue: asyncio.Queue[Told | Exception] = asyncio.Queue(FEED_UPDATES_MAX)
        reader = asyncio.create_task(self._read(queue, snapshot))
        try:
            while True:
                batch = [await queue.get()]
                count = 0
                while not queue.empty() and count < FEED_ITEMS_MAX:
                    batch.append(told := queue.get_nowait())
                    count += 0 if isinstance(told, Exception) else told.changes
                news = [told for told in batch if not isinstance(told, Exception)]
                await self._take(news)
                for error in batch:
                    if isinstance(error, Exception):
                        raise error
                if snapshot and any(told.snapshot_end for told in news):
                    return
        finally:
            reader.cancel()
            await asyncio.gather(reader, return_exceptions=True)

    async def _read(self, queue: asyncio.Queue[Told | Exception], snapshot: bool) -> None:
        data_bytes_max, data_after = self._content_wanted(snapshot)
        try:
            async with aclosing(self._client.watch_encoded(
                "", after_revision=self.revision, snapshot=snapshot, on_lost=self._lost,
                data_bytes_max=data_bytes_max, data_after_revision=data_after,
            )) as news:  # type: ignore[type-var]  # An async generator, typed as less.
                async for told in news:
                    await queue.put(told)
            error: Exception = ConnectionError("the node ended the stream")
        except Exception as caught:  # boundary: whoever empties the queue raises it
            error = caught
        await queue.put(error)

    def _content_wanted(self, snapshot: bool) -> tuple[int, int]:
        """Content up to so many bytes is to come along, in a snapshot of greater revisions only."""
        if self._objects is None or (snapshot and self._bare):
            return 0, 0
        emptied = len(self._objects) <= 1  # Whoever did that wants it anew.
        return AGENT_DATA_BYTES_MAX, 0 if emptied or not snapshot else self.kept_until

    def _lost(self, error: Exception) -> None:
        self._set_live(False)
        if not self._outage:
            self._outage = True
            log.warning("the stream of changes broke: %s; showing revision %d until it is back",
                        error, self.revision)

    def majority(self, answers: bool) -> None:
        """Whether a majority of the voters does: without one the node hears of nothing new."""
        now_s = time.time()
        self._alone_s = 0.0 if answers else self._alone_s or self._answered_s or now_s
        self._answered_s = now_s if answers else self._answered_s

    @property
    def stale_s(self) -> float | None:
        """Since when what is shown may be old; None: it is not, as far as is known."""
        return (self._alone_s or None) if self.live else self.lost_s

    def _set_live(self, live: bool) -> None:
        if self.live != live:
            self.live = live
            if not live:
                self.lost_s = time.time()
            self._tree.set_live(live)

    # ---- what arrives ----------------------------------------------------------------------------
    async def _take(self, news: Sequence[Told]) -> None:
        if not news:
            return
        changes: list[Told] = []
        for told in news:
            if told.snapshot:
                await self._take_part(told)
            if told.changes:
                changes.append(told)
        if changes:
            self.changed_s = time.time()
            await self._show([(told.encoded, told.after) for told in changes], snapshot=False)
        if news[-1].revision:
            self._move(news[-1].revision)
            self._arrived()

    async def _take_part(self, told: Told) -> None:
        """A part of a snapshot. Nobody looks before the first one is complete; any other is shown
        in one go when it is."""
        if told.snapshot_begin:
            self._incoming.clear()
            self._tree.begin_snapshot()
        self._incoming.append(told.encoded)
        if not self.ready.is_set() or told.snapshot_end:
            parts, self._incoming = self._incoming, []
            for part in parts:
                await self._show([(part, 0)], snapshot=True)
                await asyncio.sleep(0)
        if told.snapshot_end:
            self._complete(told.revision)
        elif self._ahead_bytes > AGENT_AHEAD_BYTES_MAX and not self._bare:
            self._bare = True
            raise _Enough

    def _move(self, revision: int) -> None:
        if revision > self.revision:
            self.revision = revision
            if self._objects is not None:
                self.kept_until = revision
            moved, self._moved = self._moved, asyncio.Event()
            moved.set()

    def _arrived(self) -> None:
        self.heard_s = time.time()
        self._set_live(True)
        if self._outage:
            self._outage = False
            log.info("the stream of changes is back, at revision %d", self.revision)

    def _complete(self, revision: int) -> None:
        """A snapshot has been shown: what it does not have is gone."""
        self._note(self._tree.end_snapshot())
        self._move(revision)
        if self._objects is not None:
            # Afterwards: who waits for a first snapshot does not wait for this.
            asyncio.get_running_loop().call_soon(self._retire_unneeded, self._objects)
        if not self.ready.is_set():
            log.info("the tree is here: %d entries, revision %d", len(self.known), self.revision)
        self._bare = True
        self.ready.set()
        self.resynced.set()

    def _retire_unneeded(self, objects: Objects) -> None:
        for sha256 in objects.all():
            if sha256 not in self.needed:
                objects.retire(sha256)

    # ---- what is shown ---------------------------------------------------------------------------
    async def _show(self, answers: Sequence[tuple[bytes, int]], snapshot: bool) -> None:
        """What one call shows is not divided: a revision is in one answer. A snapshot is: it may be
        everything."""
        places: list[tuple[bytes, str]] = []
        if (objects := self._objects) is not None:
            contents = self._tree.contents(answers)
            if not self.ready.is_set():
                self._ahead_bytes += sum(
                    max(len(data), _BLOCK) for _, _, data in contents if data is not None
                )
            await self._store(objects, contents, not snapshot)
            for sha256, size, _ in contents:
                if (place := objects.backing(sha256, size)) is not None:
                    places.append((sha256, place))
        self._note(self._tree.show(answers, places, snapshot))

    def _note(self, outcome: Outcome) -> None:
        deleted, left, refused = outcome
        if self._objects is not None:
            for sha256 in left:
                self._objects.retire(sha256)
        for path, why in refused:
            # It must not take the others with it.
            self._problems.set(path, f"the mount cannot show it: {why}")
        if deleted:
            self.removed()

    async def _store(
        self, objects: Objects, found: Sequence[tuple[bytes, int, bytes | None]], evict: bool
    ) -> None:
        """Writes the content that came along, before anything shows it."""
        contents = [
            (sha256, data) for sha256, size, data in found
            if data is not None and objects.backing(sha256, size) is None
        ]
        if contents and self.room is not None:
            async with self.room.ahead(contents, evict) as kept:
                loop = asyncio.get_running_loop()
                await loop.run_in_executor(self._pool, self._write, objects, kept)

    def _write(self, objects: Objects, contents: Sequence[Content]) -> None:
        left = objects.add_together(contents)
        if len(left) < len(contents):
            self._problems.clear("(objects)")
        for sha256, data in left:
            try:
                objects.add(sha256, data)
                self._problems.clear("(objects)")
            except (DataLoss, OSError) as error:
                # The file is shown without content; a reader makes the agent fetch it again.
                self._problems.set(
                    "(objects)", f"content cannot be kept in {objects.root}: {error}"
                )
