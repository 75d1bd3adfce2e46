"""What becomes of a drop: stored, equal to what is there, kept as a conflict copy, or refused.

However often a path changes, what is on disk when its turn comes is what goes. Without a quorum
everything waits and goes later. What cannot be stored stays in the cache directory, and the status
says why. Runs on the event loop; reading and hashing happen in a few threads.
"""

from __future__ import annotations

import asyncio
import errno
import logging
from collections.abc import Awaitable, Callable, Iterable, Sequence
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
    DROP_BATCHES,
    DROP_QUIET_NO_LEASE_MS,
    DROPS_TOGETHER_MAX,
    INLINE_BYTES_MAX,
    UPLOADS_BIG_MAX,
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
from .reader import Found, Reader
from .storing import Storing, Wanted
from .take import Big, Busy, Skip, Taken, check_name

log = logging.getLogger(__name__)

LATER: Final = (
    Unavailable, OutcomeUnknown, DeadlineExceeded, Overloaded, OutOfSpace, RequestTooOld
)
"""Errors that pass by themselves; all others need the user."""
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

    def take(self, paths: Sequence[str], bytes_max: int) -> Awaitable[list[Found]]:
        """See `Reader.take`."""
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
        self._storing = Storing(client, large, new_id)
        self._owners = owners
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
        if not self.pending:
            self._goes_again()
        self._blocked.pop(path, None)
        self._problems.clear(path)
        self._journal.forget(path)
        self._journal.seen(self._feeder.revision)

    def gone_below(self, directory: str) -> None:
        """A whole directory was removed or moved away."""
        prefix = directory + "/"
        for path in [p for p in (*self.pending.drops, *self._blocked) if p.startswith(prefix)]:
            self.gone(path)
        self._journal.forget_below(directory)
        self._journal.seen(self._feeder.revision)

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
                for _ in range(DROP_BATCHES):
                    group.create_task(self._work(group))
        finally:
            self.reader.close()
            self.large.close()

    async def _work(self, group: asyncio.TaskGroup) -> None:
        while True:
            drops = await self.pending.next(DROPS_TOGETHER_MAX)
            await self._pause()
            for drop in drops:
                if drop.base is None:
                    drop.base = self._base(drop.path)
            found = await self.reader.take([drop.path for drop in drops], INLINE_BYTES_MAX)
            self.pending.back(drops[len(found) :])
            wanted: Wanted = []
            for drop, one in zip(drops, found, strict=False):
                if not self._has_key(drop):
                    continue
                if isinstance(one, Big):
                    group.create_task(self._large(drop))  # bounded: by what is pending
                else:
                    wanted += self._to_store(drop, one)
            await self._store_all(wanted)

    async def _pause(self) -> None:
        """While the cluster takes nothing, all that goes on here waits together."""
        if (wait_s := self._retry_at - now_s()) > 0:
            await asyncio.sleep(wait_s)

    async def _large(self, drop: Drop) -> None:
        found: Found
        async with self._big:
            await self._pause()
            try:
                found = await self.large.take(self.reader.root, drop)
            except Exception as error:  # boundary: as the reader's
                found = error
            for _, taken in self._to_store(drop, found):
                await self._alone(drop, taken)

    def _has_key(self, drop: Drop) -> bool:
        """Whether its name can be a key; it is refused if not."""
        try:
            check_name(drop.path)
            check_key(drop.path)
        except (Skip, DfsError) as error:
            self._failed(drop, error)
            return False
        return True

    def _to_store(self, drop: Drop, found: Found) -> Wanted:
        """The drop, if it has to be stored; else it is dealt with by this."""
        try:
            if isinstance(found, Taken) and not self._owners:
                found = found.without_owner()
            if isinstance(found, Exception):
                self._failed(drop, found)
            elif found is None or self._is_known(drop, found):
                self._end(drop)
            else:
                return [(drop, found)]
        except Exception as error:  # boundary: one strange file must not stop the others
            self._failed(drop, error)
        return []

    def _is_known(self, drop: Drop, taken: Taken) -> bool:
        """Whether the tree has it, or once had it from here. Else it is clear what it replaces."""
        path = drop.path
        if not taken.leased:
            self._problems.set("(leases)", _NO_LEASES)
        seen, row = self.committed(path), self._journal.rows.get(path)
        if seen is None and row is None:
            return False
        missed = self._touched_unseen(drop, seen, taken)
        touched = missed or bool(drop.why & TOUCHED)
        if seen is not None and _equal(seen, taken, touched):
            self.counts.equal += 1
            self._done(drop, taken, seen.revision)
            _follow_on(drop, seen.revision)
            return True
        looked_at = drop.why == MOVED | SCANNED or taken.kind is Kind.DIRECTORY
        if looked_at and row is not None and _as_before(row, seen, taken, missed):
            # Not a new drop, only one whose signature proved nothing; of a directory any change of
            # what is in it is another time. What the tree has made of it since, even if it was
            # deleted there, stands.
            self._done(drop, taken, row.revision)
            return True
        if missed and seen is not None:
            drop.base = seen.revision
        elif drop.why & SCANNED and seen is not None and self._outdated(path, taken, seen):
            drop.base = 0  # It replaces nothing: the tree went on without it. Both are kept.
        return False

    # ---- storing ---------------------------------------------------------------------------------
    async def _store_all(self, wanted: Wanted) -> None:
        """Files and links go as one change where they can, behind directories, which may be there
        already. What waited for the cluster goes one by one: each request that is repeated gets
        its own answer."""
        await self._each([one for one in wanted if one[1].kind is Kind.DIRECTORY])
        others = [one for one in wanted if one[1].kind is not Kind.DIRECTORY]
        if len(others) < 2 or self._retry_ms or not await self._together(others):
            await self._each(others)

    async def _each(self, wanted: Wanted) -> None:
        await asyncio.gather(*(self._alone(drop, taken) for drop, taken in wanted))

    async def _together(self, wanted: Wanted) -> bool:
        """False: one of them is refused, so that none was stored."""
        try:
            revision = await self._storing.together(wanted)
        except LATER as error:
            for drop, _ in wanted:
                self._failed(drop, error)
            return True
        except Exception as error:  # boundary: the one that it is about fails by itself then
            log.debug("%d drops go one by one: %s", len(wanted), error)
            return False
        for drop, taken in wanted:
            self._stored(drop, taken, revision)
        return True

    async def _alone(self, drop: Drop, taken: Taken) -> None:
        """Stores one drop."""
        try:
            try:
                revision = await self._storing.one(drop, taken, self.committed(drop.path))
            except Conflict:
                await self._conflict(drop, taken)
            else:
                self._stored(drop, taken, revision)
        except Exception as error:  # boundary: one strange file must not stop the others
            self._failed(drop, error)

    # ---- outcomes --------------------------------------------------------------------------------
    def _done(self, drop: Drop, taken: Taken, revision: int) -> None:
        path = drop.path
        before = self._journal.rows.get(path)
        self._journal.store(path, row_of(taken, revision))
        refused = self._blocked.pop(path, None) is not None
        if taken.left_out:
            self._problems.set(path, taken.left_out)
        elif refused or (before is not None and before.left_out):
            self._problems.clear(path)  # Not what a scan says of a directory that it cannot read.

    def _stored(self, drop: Drop, taken: Taken, revision: int) -> None:
        """By the cluster, just now."""
        self.counts.stored += 1
        self._done(drop, taken, revision)
        _follow_on(drop, revision)
        self._goes_again()
        self._end(drop)

    def _goes_again(self) -> None:
        """What waits for the cluster need not any more."""
        if self._retry_ms:
            self._retry_ms, self._retry_at = 0, 0.0
            self._problems.clear("(upload)")
            log.info("drops go into the tree again; %d are pending", len(self.pending))

    def _end(self, drop: Drop, due: float | None = None) -> None:
        """Its turn is over; `due`: when it gets another."""
        if due is not None:
            self.pending.later(drop, due)
            return
        self.large.done(drop)
        self.pending.done(drop)
        if not self.pending:
            self._goes_again()

    def _failed(self, drop: Drop, error: Exception) -> None:
        """It was not stored: it waits, or it is refused and the status says why."""
        path, due = drop.path, None
        if isinstance(error, Busy):
            self.large.done(drop)  # What was copied is changed just now.
            self.pending.busy(drop)
            return
        if isinstance(error, FileNotFoundError):
            if not drop.again:
                self.gone(path)
                drop.again = False
        elif isinstance(error, LATER):
            if isinstance(error, RequestTooOld):
                drop.end_request()  # The base sees to it that it is not stored twice.
            due = self._later(drop, error)
        elif isinstance(error, Skip | DfsError):
            self._refused(path, str(error), isinstance(error, FailedPrecondition))
        elif isinstance(error, OSError) and error.errno == errno.ENOSPC:
            due = self._later(drop, OutOfSpace(
                f"{path} needs a copy in {self.large.incoming}, on a disk which is full: make "
                f"room there for it and {size_text(DISK_FREE_BYTES_MIN)} that stay free"
            ))
        elif isinstance(error, OSError):
            self._refused(path, f"cannot be read: {error.strerror}")
        else:
            log.error("%s: unexpected failure", path, exc_info=error)
            self._refused(path, "unexpected failure; see the log")
        self._end(drop, due)

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

    async def _conflict(self, drop: Drop, taken: Taken) -> None:
        """Somebody else was first. The same content is no conflict; else ours is kept beside it."""
        path = drop.path
        # A crash from here on must not make this drop look as if it replaced the winner.
        self._journal.wait(path, drop.base or 0)
        await asyncio.to_thread(self._journal.write, self._journal.collect())
        winner = await conflicts.winner(self._client, path)
        if winner is None:
            drop.base = 0  # Deleted meanwhile: a change outlives that.
            drop.end_request()
            self._end(drop, 0.0)
            return
        mine = bool(winner.request_id) and winner.request_id in drop.attempts
        equal = _equal(winner, taken if mine else taken.without_owner(), mine)
        if mine and not equal:
            # No conflict: an earlier attempt of ours, with what the file held then.
            drop.base = winner.revision
            drop.end_request()
            self._end(drop, 0.0)
            return
        if not equal:
            kept = await conflicts.keep(
                self._client, path, taken, self._node, self._copies, self._storing.content
            )
            self.counts.conflicts += 1
            log.warning("%s was changed elsewhere at the same time (revision %d); the version "
                        "from here is kept as %s", path, winner.revision, kept)
        self._done(drop, taken, winner.revision)
        self._goes_again()
        self._end(drop)

    def _copies(self, prefix: str) -> Iterable[tuple[str, Stat]]:
        known = self._feeder.known
        for path, _ in known.entries(prefix.rpartition("/")[0]):
            if path.startswith(prefix) and (stat := known.get(path)) is not None:
                yield path, stat

    # ---- what is committed -----------------------------------------------------------------------
    def committed(self, path: str) -> Stat | Row | None:
        """The newest version that this agent has heard of: from the stream, or its own, whose
        event may still be on the way, be it that the drop was removed since."""
        row = self._journal.rows.get(path) or self._journal.unseen.get(path)
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
        taken = taken.without_owner()
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
