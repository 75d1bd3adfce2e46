"""What becomes of a drop: stored, equal to what is there, kept as a conflict copy, or refused.

However often a path changes, what is on disk when its turn comes is what goes. Without a quorum
everything waits and goes later. What cannot be stored stays in the cache directory, and the status
says why. Runs on the event loop; reading and hashing happen in a few threads.
"""

from __future__ import annotations

import asyncio
import errno
import logging
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Final, Protocol

from ..client.calls import uuid7
from ..client.values import Kind, Stat
from ..errors import (
    Conflict,
    DeadlineExceeded,
    DfsError,
    FailedPrecondition,
    OutcomeUnknown,
    OutOfSpace,
    Overloaded,
    RequestTooOld,
    Unavailable,
)
from ..limits import (
    AGENT_RETRY_MS,
    AGENT_RETRY_MS_MAX,
    DISK_FREE_BYTES_MIN,
    DROP_QUIET_NO_LEASE_MS,
    INLINE_BYTES_MAX,
    UPLOADS_BIG_MAX,
    UPLOADS_MAX,
)
from ..paths import check_key
from ..sizes import size_text
from . import conflicts
from .feeder import Feeder
from .journal import Journal, Row, row_of
from .large import Large
from .pending import MOVED, SCANNED, TOUCHED, Drop, Pending, now_s
from .ports import Client
from .problems import Problems
from .reader import Reader
from .take import Big, Busy, Skip, Taken, check_name

log = logging.getLogger(__name__)

LATER: Final = (
    Unavailable, OutcomeUnknown, DeadlineExceeded, Overloaded, OutOfSpace, RequestTooOld
)
"""Errors that pass by themselves; all others need the user."""
REQUEST_ID_AGE_S: Final = 3_600
"""A retry so late gets a new id: the cluster refuses ids that are older than its history."""
_NO_LEASES: Final = (
    "the cache directory's file system has no leases: a file counts as complete when it was left "
    f"alone for {DROP_QUIET_NO_LEASE_MS / 1000:g} s; choose a local disk with -cache"
)


@dataclass(slots=True)
class Counts:
    """What was done since the start."""

    stored: int = 0
    equal: int = 0
    conflicts: int = 0


class Takes(Protocol):
    """What is asked of a `Reader`."""

    root: int
    """Descriptor of the cache directory."""

    def take(self, path: str, bytes_max: int) -> Awaitable[Taken | None]:
        """See `take.take`, which says what it raises."""
        ...

    def close(self) -> None:
        """Reads no more."""
        ...


class Uploader:
    """Stores drops in the tree."""

    def __init__(
        self, client: Client, feeder: Feeder, journal: Journal, problems: Problems, node: str,
        large: Large, reader: Takes | None = None, new_id: Callable[[], bytes] = uuid7,
        owners: bool = False,
    ) -> None:
        """`reader`: of the cache directory; None = `Reader`. `new_id`: a fresh request id.
        `owners`: uid and gid go with drops."""
        self.counts = Counts()
        self.pending = Pending()
        self.reader: Takes = reader or Reader(journal.unchanged)
        self.large = large
        self._new_id, self._owners = new_id, owners
        self._client, self._feeder = client, feeder
        self._journal, self._problems, self._node = journal, problems, node
        self._blocked: dict[str, bool] = {}
        """Refused paths; whether a removal from the tree may help."""
        self._retry_ms, self._retry_at = 0, 0.0
        self._big = asyncio.Semaphore(UPLOADS_BIG_MAX)

    @property
    def waiting(self) -> int:
        """Drops that are not in the tree: pending, or refused and kept."""
        return len(self.pending) + sum(p not in self.pending.drops for p in self._blocked)

    def why(self, drop: Drop) -> str:
        """Why a drop is still on its way."""
        if not self._feeder.ready.is_set():
            return "no node has answered since the agent began"
        if self._retry_ms:
            return self._problems.text("(upload)")
        if drop.busy_ms:
            return "somebody has it open for writing"
        return "it is being stored" if drop.running else "it was changed just now"

    # ---- from the watcher ------------------------------------------------------------------------
    def not_stored(self) -> set[str]:
        """All that was dropped and is not stored yet."""
        return {*self.pending.drops, *self._blocked}

    def changed(self, path: str, why: int) -> None:
        """Something happened to `path`."""
        drop = self.pending.changed(path, why)
        if not self._feeder.ready.is_set():
            return
        if drop.base is None:
            drop.base = self._base(path)
            if self._retry_ms:
                self._journal.wait(path, drop.base)
        if drop.running and drop.next_base is None:
            seen = self.committed(path)
            drop.next_base = seen.revision if seen is not None else 0

    def gone(self, path: str) -> None:
        """It was removed from the cache directory: evicted, not deleted."""
        drop = self.pending.drops.get(path)
        if drop is not None and not drop.running:
            self.large.done(drop)
        self.pending.gone(path)
        self._blocked.pop(path, None)
        self._problems.clear(path)
        self._journal.forget(path)

    def gone_below(self, directory: str) -> None:
        """A whole directory was removed or moved away."""
        prefix = directory + "/"
        for path in [p for p in (*self.pending.drops, *self._blocked) if p.startswith(prefix)]:
            self.gone(path)
        self._journal.forget_below(directory)

    def retry_blocked(self) -> None:
        """Something was deleted from the tree: what stood in the way may be gone."""
        for path in [path for path, may_help in self._blocked.items() if may_help]:
            self.changed(path, MOVED)

    # ---- workers ---------------------------------------------------------------------------------
    async def run(self) -> None:
        """Stores drops for ever, once the tree is known."""
        try:
            await self._feeder.ready.wait()
            async with asyncio.TaskGroup() as group:
                group.create_task(self.pending.tick())
                for _ in range(UPLOADS_MAX):
                    group.create_task(self._work())
        finally:
            self.reader.close()
            self.large.close()

    async def _work(self) -> None:
        while True:
            drop = await self.pending.next()
            # While the cluster takes nothing, all workers together wait and try again.
            await asyncio.sleep(max(self._retry_at - now_s(), 0.0))
            try:
                due = await self._one(drop)
            except Busy:
                self.large.done(drop)  # What was copied is changed just now.
                self.pending.busy(drop)
                continue
            except Exception:  # boundary: one strange file must not stop the others
                log.exception("%s: unexpected failure", drop.path)
                self._refused(drop.path, "unexpected failure; see the log")
                due = None
            if due is None:
                self.large.done(drop)
                self.pending.done(drop)
            else:
                self.pending.later(drop, due)

    async def _one(self, drop: Drop) -> float | None:
        """Deals with one drop; returns when to try again, or None. Raises Busy."""
        path = drop.path
        try:
            check_name(path)
            check_key(path)
            if drop.base is None:
                drop.base = self._base(path)
            try:
                return await self._send(drop, await self.reader.take(path, INLINE_BYTES_MAX))
            except Big:
                async with self._big:
                    return await self._send(drop, await self.large.take(self.reader.root, drop))
        except FileNotFoundError:
            if not drop.again:
                self.gone(path)
                drop.again = False
        except Skip as error:
            self._refused(path, str(error))
        except DfsError as error:
            self._refused(path, str(error), isinstance(error, FailedPrecondition))
        except OSError as error:
            if error.errno == errno.ENOSPC:
                return self._later(drop, OutOfSpace(
                    f"{path} needs a copy in {self.large.incoming}, on a disk which is full: make "
                    f"room there for it and {size_text(DISK_FREE_BYTES_MIN)} that stay free"
                ))
            self._refused(path, f"cannot be read: {error.strerror}")
        return None

    async def _send(self, drop: Drop, taken: Taken | None) -> float | None:
        if taken is None:
            return None
        path = drop.path
        if not self._owners:
            taken = taken._replace(uid=None, gid=None)
        if not taken.leased:
            self._problems.set("(leases)", _NO_LEASES)
        seen = self.committed(path)
        missed = self._touched_unseen(drop, seen, taken)
        touched = missed or bool(drop.why & TOUCHED)
        if seen is not None and _equal(seen, taken, touched):
            self.counts.equal += 1
            self._done(path, taken, seen.revision)
            _follow_on(drop, seen.revision)
            return None
        row = self._journal.rows.get(path)
        looked_at = drop.why == MOVED | SCANNED or taken.kind is Kind.DIRECTORY
        if looked_at and row is not None and _as_before(row, seen, taken, missed):
            # Not a new drop, only one whose signature proved nothing; of a directory any change of
            # what is in it is another time. What the tree has made of it since, even if it was
            # deleted there, stands.
            self._done(path, taken, row.revision)
            return None
        if missed and seen is not None:
            drop.base = seen.revision
        elif drop.why & SCANNED and seen is not None and self._outdated(path, taken, seen):
            drop.base = 0  # It replaces nothing: the tree went on without it. Both are kept.
        try:
            revision = await self._store(drop, taken, seen)
        except Conflict:
            return await self._conflict(drop, taken)
        except RequestTooOld as error:
            drop.end_request()  # The base sees to it that it is not stored twice.
            return self._later(drop, error)
        except LATER as error:
            return self._later(drop, error)
        self.counts.stored += 1
        self._done(path, taken, revision)
        _follow_on(drop, revision)
        return None

    async def _store(self, drop: Drop, taken: Taken, seen: Stat | Row | None) -> int:
        path, client = drop.path, self._client
        if taken.kind is Kind.DIRECTORY:
            named = taken.xattrs or (seen is not None and seen.xattrs)
            return await client.mkdir(
                path, mode=taken.mode, uid=taken.uid, gid=taken.gid,
                xattrs=dict(taken.xattrs) if named else None,
            )
        now = now_s()
        request = (
            taken.kind, taken.sha256, taken.target, taken.mode, taken.mtime_ns, taken.uid,
            taken.gid, taken.xattrs,
        )
        if request != drop.request or now - drop.request_id_s > REQUEST_ID_AGE_S:
            drop.end_request()
        if not drop.request_id:
            drop.request_id, drop.request_id_s = self._new_id(), now
            drop.request = request
        if taken.kind is Kind.SYMLINK:
            return await client.symlink(
                path, taken.target, mtime_ns=taken.mtime_ns, uid=taken.uid, gid=taken.gid,
                base_revision=drop.base, request_id=drop.request_id,
            )
        return await self._put(path, taken, drop.base, drop.request_id)

    async def _put(
        self, key: str, taken: Taken, base: int | None, request_id: bytes | None = None
    ) -> int:
        if taken.manifest is not None:
            return await self.large.store(key, taken, base, request_id)
        return await self._client.put(
            key, taken.data, mode=taken.mode, mtime_ns=taken.mtime_ns, uid=taken.uid,
            gid=taken.gid, xattrs=dict(taken.xattrs), base_revision=base, request_id=request_id,
        )

    # ---- outcomes --------------------------------------------------------------------------------
    def _done(self, path: str, taken: Taken, revision: int) -> None:
        before = self._journal.rows.get(path)
        self._journal.store(path, row_of(taken, revision))
        refused = self._blocked.pop(path, None) is not None
        if taken.left_out:
            self._problems.set(path, taken.left_out)
        elif refused or (before is not None and before.left_out):
            self._problems.clear(path)  # Not what a scan says of a directory that it cannot read.
        if self._retry_ms:
            self._retry_ms, self._retry_at = 0, 0.0
            self._problems.clear("(upload)")
            log.info("drops go into the tree again; %d are pending", len(self.pending))

    def _refused(self, path: str, text: str, removal_may_help: bool = False) -> None:
        self._problems.set(path, text)
        self._blocked[path] = removal_may_help

    def _later(self, drop: Drop, error: DfsError) -> float:
        """Nothing can be stored now: everything waits, and what it replaces is remembered."""
        now = now_s()
        if not self._retry_ms:
            self._problems.set(
                "(upload)", f"drops wait here and go when the cluster takes them: {error}"
            )
            for other in self.pending.drops.values():
                if other.base is not None:
                    self._journal.wait(other.path, other.base)
        self._journal.wait(drop.path, drop.base or 0)
        if now >= self._retry_at:
            self._retry_ms = min(max(2 * self._retry_ms, AGENT_RETRY_MS), AGENT_RETRY_MS_MAX)
            self._retry_at = now + self._retry_ms / 1000
        return self._retry_at

    async def _conflict(self, drop: Drop, taken: Taken) -> float | None:
        """Somebody else was first. The same content is no conflict; else ours is kept beside it."""
        path = drop.path
        # A crash from here on must not make this drop look as if it replaced the winner.
        self._journal.wait(path, drop.base or 0)
        await asyncio.to_thread(self._journal.write, self._journal.collect())
        try:
            winner = await conflicts.winner(self._client, path)
            if winner is None:
                drop.base = 0  # Deleted meanwhile: a change outlives that.
                drop.end_request()
                return 0.0
            if winner.request_id and winner.request_id in drop.attempts:
                # No conflict: an earlier attempt of ours, with what the file held then.
                drop.base = winner.revision
                drop.end_request()
                return 0.0
            if not _equal(winner, taken._replace(uid=None, gid=None), False):
                kept = await conflicts.keep(
                    self._client, path, taken, self._node, self._copies, self._put
                )
                self.counts.conflicts += 1
                log.warning("%s was changed elsewhere at the same time (revision %d); the version "
                            "from here is kept as %s", path, winner.revision, kept)
        except LATER as error:
            return self._later(drop, error)
        self._done(path, taken, winner.revision)
        return None

    def _copies(self, prefix: str) -> Iterable[tuple[str, Stat]]:
        return ((p, s) for p, s in self._feeder.known.items() if p.startswith(prefix))

    # ---- what is committed -----------------------------------------------------------------------
    def committed(self, path: str) -> Stat | Row | None:
        """The newest version that this agent has heard of: from the stream, or its own, whose
        event may still be on the way."""
        row = self._journal.rows.get(path)
        if row is not None and row.revision > self._feeder.revision:
            return row
        return self._feeder.known.get(path)

    def _base(self, path: str) -> int:
        """The revision that a drop found now replaces, unless it waited already."""
        if path in self._journal.bases:
            return self._journal.bases[path]
        seen = self.committed(path)
        return seen.revision if seen is not None else 0

    def _touched_unseen(self, drop: Drop, seen: Stat | Row | None, taken: Taken) -> bool:
        """Whether a scan finds the content of the last version from here, perhaps with other
        permissions or times: those were set while nobody watched. `cp -p` sets them right after it
        closed the file, and an agent may die between the two."""
        return (
            bool(drop.why & SCANNED) and isinstance(seen, Stat) and seen.node == self._node
            and seen.kind is taken.kind is Kind.FILE and seen.sha256 == taken.sha256
        )

    def _outdated(self, path: str, taken: Taken, seen: Stat | Row) -> bool:
        """Whether somebody else's version was committed after this drop was last changed. True of
        what comes back with a disk or a backup, or of a directory whose journal was lost."""
        row = self._journal.rows.get(path)
        if not isinstance(seen, Stat) or path in self._journal.bases:
            return False
        mine = row is not None and row.revision == seen.revision
        return not mine and seen.time_ns > taken.signature.ctime_ns


def _follow_on(drop: Drop, revision: int) -> None:
    """Ours is stored as `revision`: a change that came meanwhile replaces it, or what is newer."""
    if drop.next_base is not None:
        drop.next_base = max(drop.next_base, revision)


def _as_before(row: Row, seen: Stat | Row | None, taken: Taken, touched: bool) -> bool:
    """Whether it is what was dealt with already. A row of a time when owners were not
    carried says nothing of them: they go to the tree if it still has what was stored then."""
    if row.uid is None and taken.uid is not None:
        if seen is not None and seen.revision == row.revision:
            return False
        taken = taken._replace(uid=None, gid=None)
    return _equal(row, taken, touched)


def _equal(seen: Stat | Row, taken: Taken, touched: bool) -> bool:
    """Whether storing `taken` would change nothing. Other times alone make no new version, unless
    somebody set them on purpose."""
    if seen.kind is not taken.kind or seen.xattrs != taken.xattrs:
        return False
    if taken.uid is not None and (seen.uid, seen.gid) != (taken.uid, taken.gid):
        return False
    if taken.kind is Kind.SYMLINK:
        return seen.target == taken.target
    if seen.mode != taken.mode:
        return False
    if taken.kind is Kind.DIRECTORY:
        return True
    return seen.sha256 == taken.sha256 and (not touched or seen.mtime_ns == taken.mtime_ns)
