"""Which paths of the cache directory changed: inotify on every directory, and scans.

The kernel tells of one directory at a time, forgets when its queue is full, and knows nothing of
what happened before. So a new directory is watched first and scanned then; everything is scanned at
the start, after an overflow and every RESCAN_INTERVAL_S (writes through a mapping make no event).
A scan only looks: what has the signature that the journal remembers is left alone.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Final, NoReturn

from ..client.values import Kind
from ..errors import FailedPrecondition
from ..limits import (
    CACHE_RETRY_S,
    PROBLEMS_MAX,
    RESCAN_INTERVAL_S,
    SIGNATURE_RACY_NS,
    SYNC_LOOK_MS,
)
from . import ignore, inotify
from .ignore import Ignore
from .inotify import Event, Inotify
from .journal import Journal
from .pending import CLOSED, HINT, MOVED, SCANNED, TOUCHED
from .problems import Problems
from .take import Skip, look_of, open_beneath, storable, take_directory
from .tasks import together
from .uploader import Uploader

log = logging.getLogger(__name__)

_MASK: Final = (
    inotify.CLOSE_WRITE | inotify.MOVED_TO | inotify.MOVED_FROM | inotify.CREATE | inotify.DELETE
    | inotify.ATTRIB | inotify.MODIFY | inotify.ONLYDIR | inotify.DONT_FOLLOW | inotify.EXCL_UNLINK
)
_ROOT_MASK: Final = _MASK | inotify.DELETE_SELF | inotify.MOVE_SELF
_ROOT_GONE: Final = inotify.DELETE_SELF | inotify.MOVE_SELF | inotify.UNMOUNT
_AWAY: Final = inotify.MOVED_FROM | inotify.DELETE
_NEW: Final = inotify.MOVED_TO | inotify.CREATE
_WHY: Final = (
    (inotify.MOVED_TO, MOVED), (inotify.CLOSE_WRITE, CLOSED), (inotify.ATTRIB, TOUCHED),
    (inotify.CREATE | inotify.MODIFY, HINT),
)
_REMOVED: Final = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EXDEV)
"""Removed or replaced while it was being looked at."""
_ALL: Final = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)
"""Not the fault of one directory."""
_PATHS_AT_ONCE: Final = 1_000
"""Found by a scan and handed to the event loop in one go."""


class RootGone(Exception):
    """The cache directory was removed, moved or unmounted."""


class Watcher:
    """Tells an uploader what changed below `root`."""

    def __init__(
        self, root: str, uploader: Uploader, journal: Journal, problems: Problems,
        excluded: frozenset[str] = frozenset(),
    ) -> None:
        """`excluded`: real paths below the root that are no part of it, as the own mount."""
        self.root = root
        self.overflows = 0
        self.scans = 0
        """Complete ones."""
        self._uploader, self._journal, self._problems = uploader, journal, problems
        self._excluded = excluded
        self._ignore = Ignore()
        self._inotify: Inotify | None = None
        self._real_root = os.path.realpath(root)
        self._root = -1
        """Descriptor of the root. Stays open until the next one is: threads may be using it."""
        self._dirs: dict[int, str] = {}
        """Watch → directory, relative to the root."""
        self._unwatched = 0
        self._unread: set[str] = set()
        """Directories that could not be read, "" = the root. Of the scan thread."""
        self._full_scan_waits = False
        self._begun, self._ended = 0, 0
        """Number of the full scan that began last, and of the one that ended last."""
        self._stopping = False
        self._pool: ThreadPoolExecutor
        """Of one life of the root directory, as the watches are."""
        self._loop = asyncio.get_running_loop()

    async def run(self) -> NoReturn:
        """Watches for ever; a directory that is missing or gone is tried again and again."""
        while True:
            try:
                await self._watch()
            except RootGone:
                self._problems.set("(cache)", f"the cache directory {self.root} is gone; "
                                   "make it again or correct -cache")
            except OSError as error:
                self._problems.set("(cache)", _unusable(self.root, error))
            await asyncio.sleep(CACHE_RETRY_S)

    async def _watch(self) -> None:
        """One life of the root directory."""
        os.makedirs(self.root, exist_ok=True)
        self._open_root()
        with Inotify() as self._inotify:
            self._dirs, self._unwatched = {}, 0
            self._stopping = self._full_scan_waits = False
            self._pool = ThreadPoolExecutor(1, "scan")
            try:
                self._add_watch("")
                self._read_ignore()
                self._problems.clear("(cache)")
                await together((self._events(self._inotify), self._rescan(), self._root_stays()))
            finally:  # A scan adds watches: none may go on when inotify is closed.
                self._stopping = True
                await asyncio.to_thread(self._pool.shutdown, cancel_futures=True)
                self._inotify = None

    async def _events(self, watches: Inotify) -> NoReturn:
        while True:
            for event in await watches.read():
                self._event(event)

    async def _root_stays(self) -> NoReturn:
        """The kernel says nothing when a directory that we hold open is removed, or when its disk
        is taken out lazily: what is at its path now is another one, or none."""
        held = os.fstat(self._root)
        while True:
            await asyncio.sleep(CACHE_RETRY_S)
            try:
                found = await asyncio.to_thread(os.stat, self.root)
            except FileNotFoundError:
                raise RootGone from None
            if (found.st_dev, found.st_ino) != (held.st_dev, held.st_ino):
                raise RootGone

    def _open_root(self) -> None:
        former, self._root = self._root, os.open(
            self.root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
        )
        self._real_root = os.path.realpath(self.root)
        self._uploader.reader.root = self._root
        if former >= 0:
            os.close(former)

    # ---- events ----------------------------------------------------------------------------------
    def _event(self, event: Event) -> None:
        watch, mask, name = event
        if mask & inotify.OVERFLOW:
            self.overflows += 1
            log.info("more happened in %s than the kernel could queue: scanning it", self.root)
            self.scan_all()
            return
        directory = self._dirs.get(watch)
        if directory is None:
            return  # Of a watch that is just being made (its scan follows) or is gone.
        if mask & _ROOT_GONE and not directory:
            raise RootGone
        if mask & inotify.IGNORED:
            self._dirs.pop(watch, None)
        if not name:
            return
        path = f"{directory}/{name}" if directory else name
        if path == ignore.FILE:
            self._read_ignore()
            self.scan_all()
        if not self._excludes(path, bool(mask & inotify.ISDIR)):
            self._happened(path, mask)

    def _happened(self, path: str, mask: int) -> None:
        if mask & _AWAY:
            self._uploader.gone(path)
            if mask & inotify.ISDIR and mask & inotify.MOVED_FROM:
                self._forget(path)  # One that was deleted was empty, and its watch goes by itself.
            return
        if mask & inotify.ISDIR and mask & _NEW:
            self._submit(path)
        why = 0
        for bits, meaning in _WHY:
            if mask & bits:
                why |= meaning
        if mask & inotify.ISDIR and why == HINT:
            why = MOVED  # A directory is complete by itself.
        if why:
            self._uploader.changed(path, why)

    def _forget(self, directory: str) -> None:
        """A directory was removed or moved away, or is ignored from now on: its watches would tell
        of a wrong path."""
        self._uploader.gone_below(directory)
        prefix = directory + "/"
        for watch, path in list(self._dirs.items()):
            if path != directory and not path.startswith(prefix):
                continue
            del self._dirs[watch]
            if self._inotify is not None:
                try:
                    self._inotify.remove(watch)
                except OSError:
                    continue  # The kernel has removed it, with the directory.

    # ---- watches ---------------------------------------------------------------------------------
    def _add_watch(self, directory: str) -> None:
        """Any thread. Events may arrive before `_dirs` knows the watch; the scan that follows
        finds what they told of."""
        assert self._inotify is not None
        path = os.path.join(self.root, directory) if directory else self.root
        try:
            watch = self._inotify.add(path, _MASK if directory else _ROOT_MASK)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.ENOMEM):
                raise
            self._unwatched += 1
            return
        self._dirs[watch] = directory

    def _report_unwatched(self) -> None:
        if not self._unwatched:
            self._problems.clear("(inotify)")
            return
        needed = len(self._dirs) + self._unwatched
        self._problems.set(
            "(inotify)",
            f"{self._unwatched:,} directories of the cache are not watched, changes there are "
            f"found only every {RESCAN_INTERVAL_S} s: they need fs.inotify.max_user_watches to be "
            f"{2 * needed} or more (sysctl -w fs.inotify.max_user_watches={2 * needed})",
        )

    # ---- scans -----------------------------------------------------------------------------------
    def scan_all(self) -> None:
        """Scans everything soon; asked again before it began, once is enough."""
        if not self._full_scan_waits:
            self._full_scan_waits = True
            self._pool.submit(self._guarded, "")

    async def scan(self) -> None:
        """Scans everything now; what was found is known to the uploader. Raises FailedPrecondition
        with the reason if it cannot be done."""
        wanted = self._begun + 1
        self._problems.clear("(scan)")  # Of a former one.
        if self._inotify is not None and not self._stopping:
            if "" in self._unread:
                self._problems.clear("(cache)")  # If it is so still, the scan says it again.
            self.scan_all()
        while True:
            for part in ("(cache)", "(scan)"):
                if part in self._problems:
                    raise FailedPrecondition(self._problems.text(part))
            if self._ended >= wanted:
                return
            await asyncio.sleep(SYNC_LOOK_MS / 1000)

    async def _rescan(self) -> NoReturn:
        while True:
            self.scan_all()
            await asyncio.sleep(RESCAN_INTERVAL_S)

    def _submit(self, directory: str) -> None:
        self._pool.submit(self._guarded, directory)

    def _guarded(self, directory: str) -> None:
        """A scan in its thread: a failure is a problem to show, not a dead thread."""
        try:
            self._scan(directory)
        except Exception as error:  # boundary: the thread pool would swallow it
            log.exception("scan of %r failed", directory or self.root)
            self._tell(self._problems.set, "(scan)", f"a scan of the cache failed: {error}")

    def _scan(self, top: str) -> None:
        """Watches and compares everything from `top` on. In the scan thread."""
        if not top:
            self._full_scan_waits, self._unwatched = False, 0
            self._begun += 1
        # What is made from now on may have a time of the timer tick before.
        began = time.time_ns() - SIGNATURE_RACY_NS
        found: list[str] = []
        seen: set[str] = set()
        for path, changed in self._walk(top):
            seen.add(path)
            if changed:
                found.append(path)
            if len(found) >= _PATHS_AT_ONCE:
                self._tell(self._changed, found)
                found = []
        self._tell(self._changed, found)
        if not top and not self._stopping:
            self._tell(self._complete, seen, began, self._begun)

    def _walk(self, top: str) -> Iterator[tuple[str, bool]]:
        """(path, is not what the journal remembers) of all entries below `top`."""
        stack = [top]
        while stack and not self._stopping:
            directory = stack.pop()
            if directory and not storable(directory):
                continue  # The uploader says what is wrong with its name; nothing in it has a key.
            try:
                entries = self._list(directory)
            except OSError as error:
                if error.errno not in _REMOVED:
                    self._unreadable(directory, error)
                continue
            if directory in self._unread:
                self._unread.discard(directory)
                self._tell(self._problems.clear, directory or "(cache)")
            for path, is_directory, found in entries:
                if self._excludes(path, is_directory):
                    continue
                if is_directory:
                    stack.append(path)
                yield path, found is None or not self._unchanged(path, found)

    def _unreadable(self, directory: str, error: OSError) -> None:
        """One directory must not stop a scan; what concerns all of them does. Raises OSError."""
        if not isinstance(error, PermissionError) and (not directory or error.errno in _ALL):
            raise error
        self._unread.add(directory)
        what = "" if directory else f"the cache directory {self.root} "
        self._tell(self._problems.set, directory or "(cache)",
                   f"{what}may not be read ({error.strerror}); what is in it is not stored")

    def _list(self, directory: str) -> list[tuple[str, bool, os.stat_result | None]]:
        """Watches a directory, then reads it: (path, is a directory, what stat(2) says if the
        journal knows it). Goes through no symbolic link."""
        self._add_watch(directory)
        fd = open_beneath(self._root, directory or ".", os.O_RDONLY | os.O_DIRECTORY)
        try:
            found = []
            with os.scandir(fd) as entries:
                for entry in entries:
                    if self._stopping:
                        break
                    path = f"{directory}/{entry.name}" if directory else entry.name
                    if self._foreign(path):
                        continue  # Not even a look: a mount may not be served yet.
                    try:
                        known = path in self._journal.rows
                        found.append((
                            path, entry.is_dir(follow_symlinks=False),
                            entry.stat(follow_symlinks=False) if known else None,
                        ))
                    except FileNotFoundError:
                        continue  # Removed meanwhile.
            return found
        finally:
            os.close(fd)

    def _unchanged(self, path: str, found: os.stat_result) -> bool:
        try:
            look = look_of(found)
            if self._journal.unchanged(path, look):
                return True
            if look.kind is not Kind.DIRECTORY:
                return False
            # Whatever comes to be in a directory changes its times.
            return self._journal.holds(path, take_directory(self._root, path))
        except (Skip, OSError):
            return False  # The uploader says what is wrong with it.

    def _tell(self, what: Callable[..., object], *arguments: object) -> None:
        """From the scan thread to the event loop."""
        try:
            self._loop.call_soon_threadsafe(what, *arguments)
        except RuntimeError:
            return  # The loop has ended, and the agent with it.

    def _changed(self, paths: list[str]) -> None:
        for path in paths:
            self._uploader.changed(path, MOVED | SCANNED)

    def _complete(self, seen: set[str], began_ns: int, number: int) -> None:
        """A full scan is over: what the journal remembers and the scan did not see is gone, unless
        it came after the scan had passed."""
        self.scans += 1
        self._ended = number
        self._report_unwatched()
        self._problems.clear("(scan)")
        drops = self._uploader.pending.drops
        for path in [p for p, row in self._journal.rows.items()
                     if p not in seen and p not in drops and row.signature.ctime_ns < began_ns]:
            self._uploader.gone(path)

    # ---- what is no drop -------------------------------------------------------------------------
    def _read_ignore(self) -> None:
        try:
            self._ignore = ignore.read(self._root)
        except (OSError, ValueError) as error:
            self._problems.set(ignore.FILE, f"cannot be read: {error}; what held before, or else "
                               "the built-in list, does: correct or remove it")
            return
        if self._ignore.wrong:
            self._problems.set(ignore.FILE, "; ".join(self._ignore.wrong[:PROBLEMS_MAX]))
        else:
            self._problems.clear(ignore.FILE)
        for directory in set(self._dirs.values()):
            if directory and (
                self._ignore.ignored(directory, True) or self._ignore.below_ignored(directory)
            ):
                self._forget(directory)

    def _excludes(self, path: str, directory: bool) -> bool:
        return self._ignore.ignored(path, directory) or self._foreign(path)

    def _foreign(self, path: str) -> bool:
        return bool(self._excluded) and f"{self._real_root}/{path}" in self._excluded


def _unusable(path: str, error: OSError) -> str:
    if error.errno == errno.EMFILE:
        return ("the cache cannot be watched: fs.inotify.max_user_instances is used up; raise it "
                "with sysctl -w fs.inotify.max_user_instances=1024")
    return (f"the cache directory {path} cannot be used ({error.strerror}); make it with "
            f"mkdir -p {path}, owned by the user that runs dfs, or choose another with -cache")
