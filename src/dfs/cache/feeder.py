"""The committed tree in memory, and what the mount is told of it.

One stream: first a snapshot, then every change. Small content travels with a change and is on disk,
verified, before the mount shows the file. A stream that breaks goes on where it was; a gap is
closed by a new snapshot, of which only the differences are applied. Runs on the event loop; only
content is written in a thread.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from typing import Final

from ..client.values import Event, Item, Kind, Stat, Update
from ..errors import DataLoss, DfsError, OutOfRange
from ..limits import (
    AGENT_DATA_BYTES_MAX,
    AGENT_RETRY_MS,
    AGENT_RETRY_MS_MAX,
    FEED_ITEMS_MAX,
    FEED_UPDATES_MAX,
    OWNER_MAX,
)
from .objects import Objects
from .ports import Client, Tree, Upsert
from .problems import Problems
from .room import Content, Room

log = logging.getLogger(__name__)

NOBODY: Final = OWNER_MAX + 1
"""Names no owner to the mount."""


class Feeder:
    """Follows the node and keeps `known`; feeds the mount where there is one."""

    def __init__(
        self, client: Client, problems: Problems, objects: Objects | None = None,
        tree: Tree | None = None, owners: bool = False,
    ) -> None:
        """`owners`: the mount shows whom an entry names; else all belong to whoever mounts."""
        self.known: dict[str, Stat] = {}
        """Every file, symlink and explicit directory of the tree at `revision`."""
        self.revision = 0
        self.live = False
        """Changes arrive; otherwise `known` may be old."""
        self.lost_s = time.time()
        """Since when it is not live; seconds since 1970, like those that follow."""
        self.heard_s = 0.0
        """When the node last said something, be it that nothing has changed."""
        self.changed_s = 0.0
        """When the last change arrived."""
        self.ready = asyncio.Event()
        """The first snapshot is complete."""
        self.needed: Counter[bytes] = Counter()
        """How many paths show each content."""
        self.removed: Callable[[], None] = lambda: None
        """Called after something was deleted from the tree: what it blocked may go now."""
        self.resynced = asyncio.Event()
        """Set after each snapshot, for whoever warms the cache."""
        self.room: Room | None = None
        """For the content that comes along; it is not kept where there is none."""
        self._client, self._problems = client, problems
        self._objects, self._tree, self._owners = objects, tree, owners
        self._incoming: dict[str, Stat] = {}
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

    def back(self, paths: Iterable[str]) -> None:
        """The content of these paths is here now: the mount need not ask for it."""
        if self._tree is None or self._objects is None:
            return
        self._tree.place([
            (path, stat.revision, self._objects.backing(stat.sha256, stat.size)) for path in paths
            if (stat := self.known.get(path)) is not None and stat.kind is Kind.FILE
        ])

    def show(self, contents: Collection[bytes]) -> None:
        """Tells the mount anew where these contents are, or that they are not here."""
        self.back([path for path, stat in self.known.items() if stat.sha256 in contents])

    # ---- the stream ------------------------------------------------------------------------------
    async def _follow(self, snapshot: bool) -> None:
        """One watch. With `snapshot`, ends when it is complete; else only by an error."""
        queue: asyncio.Queue[Update | Exception] = asyncio.Queue(FEED_UPDATES_MAX)
        reader = asyncio.create_task(self._read(queue, snapshot))
        try:
            while True:
                batch = [await queue.get()]
                count = 0
                while not queue.empty() and count < FEED_ITEMS_MAX:
                    batch.append(update := queue.get_nowait())
                    count += 0 if isinstance(update, Exception) else len(update.events)
                updates = [u for u in batch if not isinstance(u, Exception)]
                await self._take(updates)
                for error in batch:
                    if isinstance(error, Exception):
                        raise error
                if snapshot and any(u.snapshot_end for u in updates):
                    return
        finally:
            reader.cancel()
            await asyncio.gather(reader, return_exceptions=True)

    async def _read(self, queue: asyncio.Queue[Update | Exception], snapshot: bool) -> None:
        try:
            async with aclosing(self._client.watch(
                "", after_revision=self.revision, snapshot=snapshot, on_lost=self._lost,
                data_bytes_max=self._data_bytes_max(snapshot),
            )) as updates:  # type: ignore[type-var]  # An async generator, typed as less.
                async for update in updates:
                    await queue.put(update)
            error: Exception = ConnectionError("the node ended the stream")
        except Exception as caught:  # boundary: whoever empties the queue raises it
            error = caught
        await queue.put(error)

    def _data_bytes_max(self, snapshot: bool) -> int:
        """A snapshot need not carry the content that the last run of the agent left here."""
        if self._objects is None or (snapshot and len(self._objects) > 1):
            return 0
        return AGENT_DATA_BYTES_MAX

    def _lost(self, error: Exception) -> None:
        self._set_live(False)
        if not self._outage:
            self._outage = True
            log.warning("the stream of changes broke: %s; showing revision %d until it is back",
                        error, self.revision)

    def _set_live(self, live: bool) -> None:
        if self.live != live:
            self.live = live
            if not live:
                self.lost_s = time.time()
            if self._tree is not None:
                self._tree.set_live(live)

    # ---- what arrives ----------------------------------------------------------------------------
    async def _take(self, updates: Sequence[Update]) -> None:
        if not updates:
            return
        await self._store(updates)
        changes: dict[str, Stat | None] = {}
        for update in updates:
            if update.snapshot_begin:
                self._incoming = {}
            for item in update.items:
                if not item.stat.implicit:
                    self._incoming[item.key] = item.stat
            if update.snapshot_end:
                await self._switch(update.revision)
            for event in update.events:
                self.changed_s = time.time()
                gone = event.deleted or event.stat.implicit
                changes[event.key] = None if gone else event.stat
        await self._show(changes, len(changes))
        if updates[-1].revision:
            self._move(updates[-1].revision)
            self._arrived()

    def _move(self, revision: int) -> None:
        if revision > self.revision:
            self.revision = revision
            moved, self._moved = self._moved, asyncio.Event()
            moved.set()

    def _arrived(self) -> None:
        self.heard_s = time.time()
        self._set_live(True)
        if self._outage:
            self._outage = False
            log.info("the stream of changes is back, at revision %d", self.revision)

    async def _switch(self, revision: int) -> None:
        """A snapshot is complete: applies how it differs from what is known."""
        incoming, self._incoming = self._incoming, {}
        changes: dict[str, Stat | None] = {p: None for p in self.known if p not in incoming}
        for path, stat in incoming.items():
            old = self.known.get(path)
            if old is None or old.revision != stat.revision:
                changes[path] = stat
        await self._show(changes, FEED_ITEMS_MAX)
        self._move(revision)
        if self._objects is not None:
            for sha256 in self._objects.all():
                if sha256 not in self.needed:
                    self._objects.retire(sha256)
        if not self.ready.is_set():
            log.info("the tree is here: %d entries, revision %d", len(self.known), self.revision)
        self.ready.set()
        self.resynced.set()

    async def _store(self, updates: Sequence[Update]) -> None:
        """Writes the content that came along, before anything shows it."""
        objects = self._objects
        if objects is None:
            return
        entries: list[Item | Event] = []
        for update in updates:
            entries += update.items
            entries += update.events
        contents = [
            (entry.stat.sha256, entry.data) for entry in entries
            if entry.data is not None and entry.stat.kind is Kind.FILE
            and objects.backing(entry.stat.sha256, entry.stat.size) is None
        ]
        if contents and self.room is not None:
            async with self.room.ahead(contents, any(u.events for u in updates)) as kept:
                loop = asyncio.get_running_loop()
                await loop.run_in_executor(self._pool, self._write, objects, kept)

    def _write(self, objects: Objects, contents: Sequence[Content]) -> None:
        for sha256, data in contents:
            try:
                objects.add(sha256, data)
                self._problems.clear("(objects)")
            except (DataLoss, OSError) as error:
                # The file is shown without content; a reader makes the agent fetch it again.
                self._problems.set(
                    "(objects)", f"content cannot be kept in {objects.root}: {error}"
                )

    # ---- what is shown ---------------------------------------------------------------------------
    async def _show(self, changes: dict[str, Stat | None], at_once: int) -> None:
        """Has the mount show so many changes at once. What updates bring is not divided: a revision
        is in one of them, and the mount shows it as a whole. A snapshot is: it may be everything.
        """
        if not changes:
            return
        known = self.known
        deletes = sorted(
            (p for p, new in changes.items()
             if (old := known.get(p)) and (new is None or new.kind is not old.kind)),
            reverse=True,  # Children before their directory.
        )
        pending = list(changes.items())
        for start in range(0, len(pending), at_once):
            if start:
                await asyncio.sleep(0)
            self._replace(pending[start : start + at_once], () if start else deletes)
        if deletes:
            self.removed()

    def _replace(
        self, changes: Sequence[tuple[str, Stat | None]], deletes: Sequence[str]
    ) -> None:
        upserts: list[Upsert] = []
        for path, new in changes:
            old = self.known.pop(path, None)
            if new is not None:
                self.known[path] = new
                self._need(new.sha256, 1)
                upserts.append(self._upsert(path, new))
            if old is not None:
                self._need(old.sha256, -1)
        self._push(upserts, deletes)

    def _need(self, sha256: bytes, change: int) -> None:
        if not sha256 or self._objects is None:
            return
        self.needed[sha256] += change
        if self.needed[sha256] <= 0:
            del self.needed[sha256]
            self._objects.retire(sha256)

    def _upsert(self, path: str, stat: Stat) -> Upsert:
        if stat.kind is Kind.SYMLINK:
            return (path, *self.described(stat), stat.target)
        backing = None
        if stat.kind is Kind.FILE and self._objects is not None:
            backing = self._objects.backing(stat.sha256, stat.size)
        return (path, *self.described(stat), backing)

    def described(self, stat: Stat) -> tuple[int, int, int, int, int, int, int]:
        """How the mount shows it: an Upsert but for path and backing."""
        uid = gid = NOBODY
        if self._owners:
            uid = NOBODY if stat.uid is None else stat.uid
            gid = NOBODY if stat.gid is None else stat.gid
        return int(stat.kind), stat.size, stat.mode, stat.mtime_ns, uid, gid, stat.revision

    def _push(self, upserts: Sequence[Upsert], deletes: Sequence[str]) -> None:
        tree = self._tree
        if tree is None or not (upserts or deletes):
            return
        try:
            tree.apply(upserts, deletes)
        except ValueError:
            # One name breaks the mount's rules: it must not take the others with it.
            for path in deletes:
                self._push_one(tree, [], [path])
            for upsert in upserts:
                self._push_one(tree, [upsert], [])

    def _push_one(self, tree: Tree, upserts: list[Upsert], deletes: list[str]) -> None:
        try:
            tree.apply(upserts, deletes)
        except ValueError as error:
            path = upserts[0][0] if upserts else deletes[0]
            self._problems.set(path, f"the mount cannot show it: {error}")
