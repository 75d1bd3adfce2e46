"""Content on this machine, by its SHA-256: `<state>/objects/ab/<sha256>`.

A file here is immutable, verified and complete once its mode says so (0444); nobody is told of it
before. What an agent was writing when it died (0200) is removed at the next start. It is not
flushed to disk: after a crash of the machine it may be damaged. So at the first start after a boot
all files are moved to `<state>/former/`; each is verified before it is used, and moves back then.
A file in its place is trusted for the rest of the boot as long as it has its length, and its seal
(`dfs.sealing`): else it is verified before it is used. Each is read again from time to time, too
(`scrub.py`). A damaged one is moved to `<state>/quarantine`, which keeps the last few, and fetched
again. Any thread may call.

What comes chunk by chunk stands in `<state>/arriving/<sha256>` until all is there, sparse. No chunk
that is found there is trusted: whoever goes on with it verifies each.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import itertools
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from typing import Final

from .._engine import store_objects
from ..errors import DataLoss
from ..limits import OBJECT_KEEP_S, OBJECT_USED_S, QUARANTINED_MAX
from ..sealing import is_sealed, open_quietly, prove, seal, unused_s, use

log = logging.getLogger(__name__)
EMPTY: Final = hashlib.sha256(b"").digest()
BOOT_ID: Final = "/proc/sys/kernel/random/boot_id"
_WHOLE: Final = 0o444
_UNFINISHED: Final = 0o200
"""Modes of an object's file."""
Content = tuple[bytes, bytes]
"""(SHA-256, data)"""


class Objects:
    """The objects of one state directory; only one process may have it open."""

    def __init__(self, state: str) -> None:
        self._state = state
        self.root = os.path.join(state, "objects")
        self.former = os.path.join(state, "former")
        self.quarantine = os.path.join(state, "quarantine")
        self.arriving = os.path.join(state, "arriving")
        self.bytes = 0
        """Sum of the sizes of all objects."""
        self._sizes: dict[bytes, int] = {}
        """Oldest use first."""
        self._verified: set[bytes] = set()
        self._former: set[bytes] = set()
        """Of an earlier boot, and not verified since."""
        self._hidden: set[bytes] = set()
        """Verified, and about to be removed."""
        self._parts: dict[bytes, bool] = {}
        """What stands in `arriving`, and whether more of it comes just now."""
        self._fresh: set[bytes] = set()
        """Written lately, as their times say; since `_fresh_s`, of the wall clock."""
        self._fresh_s = 0.0
        self._retired: deque[tuple[float, bytes]] = deque()
        self._temporary = itertools.count()
        self.elsewhere: Callable[[bytes, int], str | None] = lambda _sha256, _size: None
        """Where a content of that size is, if it is not to be kept here."""
        self._lock = threading.Lock()

    def open(self) -> None:
        """Makes the directories, removes what a crash left, reads what is there. Blocks."""
        os.makedirs(self.quarantine, mode=0o700, exist_ok=True)
        self._distrust_after_boot()
        former = self._scan(self.former) if os.path.isdir(self.former) else []
        trusted = self._scan(self.root)
        self._former = {sha256 for _, sha256, _, _ in former}
        for _, sha256, _, sealed in trusted:
            if sealed:
                self._verified.add(sha256)
            self._leave_former(sha256)
        for _, sha256, size, _ in sorted([f for f in former if f[1] in self._former] + trusted):
            self._count(sha256, size)
        self._scan_parts()
        self.add(EMPTY, b"")

    def _distrust_after_boot(self) -> None:
        """Sets aside what was written before the machine was started, if that is not done yet."""
        note = os.path.join(self._state, "boot")
        boot = ""
        with contextlib.suppress(OSError), open(BOOT_ID, encoding="ascii") as file:
            boot = file.read().strip()
        with contextlib.suppress(OSError), open(note, encoding="ascii") as file:
            if boot and file.read() == boot:
                return
        if os.path.isdir(self.root):
            if os.path.isdir(self.former):
                for _, sha256, _, _ in self._scan(self.root):
                    name = sha256.hex()
                    directory = f"{self.former}/{name[:2]}"
                    os.makedirs(directory, mode=0o700, exist_ok=True)
                    os.rename(self.path(sha256), f"{directory}/{name}")
            else:
                os.rename(self.root, self.former)
        with open(f"{note}.tmp", "w", encoding="ascii") as file:
            file.write(boot)
        os.rename(f"{note}.tmp", note)

    @staticmethod
    def _scan(root: str) -> list[tuple[int, bytes, int, bool]]:
        """(atime, SHA-256, size, sealed) of the objects below `root`; makes its directories,
        removes what is unfinished."""
        found: list[tuple[int, bytes, int, bool]] = []
        for i in range(256):
            directory = os.path.join(root, f"{i:02x}")
            os.makedirs(directory, mode=0o700, exist_ok=True)
            # By its descriptor: to look at each file takes a third less than by a whole path.
            at = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                found += _objects_in(at)
            finally:
                os.close(at)
        return found

    def _scan_parts(self) -> None:
        os.makedirs(self.arriving, mode=0o700, exist_ok=True)
        with os.scandir(self.arriving) as entries:
            for entry in entries:
                sha256 = bytes.fromhex(entry.name)
                if sha256 in self._sizes:
                    os.unlink(entry.path)
                else:
                    self._parts[sha256] = False
                    self._count(sha256, _on_disk(entry.path))

    def __len__(self) -> int:
        return len(self._sizes)

    def __contains__(self, sha256: bytes) -> bool:
        """There is a file for it, verified or not."""
        return sha256 in self._sizes

    def path(self, sha256: bytes) -> str:
        """Where the object is, or would be."""
        name = sha256.hex()
        return f"{self.root}/{name[:2]}/{name}"

    def _where(self, sha256: bytes) -> str:
        """Where the object is now, or what is here of it."""
        name = sha256.hex()
        if sha256 in self._parts:
            return f"{self.arriving}/{name}"
        root = self.former if sha256 in self._former else self.root
        return f"{root}/{name[:2]}/{name}"

    def _leave_former(self, sha256: bytes) -> None:
        """A verified copy is in its place: another one is of no use."""
        if sha256 in self._former:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._where(sha256))
            self._former.discard(sha256)

    def backing(self, sha256: bytes, size: int) -> str | None:
        """The object's path if it was verified already and has the size that was committed; one
        that was cut or grew on disk since is quarantined. Does not block."""
        if (large := self.elsewhere(sha256, size)) is not None:
            return large
        if sha256 not in self._verified:
            return None
        with self._lock:
            if sha256 not in self._verified:
                return None  # Taken away by another thread meanwhile.
            if self._sizes[sha256] == size:
                return self.path(sha256)
            self._set_aside(sha256)
        return None

    def add(self, sha256: bytes, data: bytes) -> str:
        """Stores the object unless it is there. Raises DataLoss if it is not that content."""
        if hashlib.sha256(data).digest() != sha256:
            raise DataLoss(f"content that should have SHA-256 {sha256.hex()[:16]}… has another")
        here = self.backing(sha256, len(data))
        if here is not None:
            return here
        path = made = self.path(sha256)
        flags = os.O_WRONLY | os.O_EXCL
        try:
            fd = _create(made, flags, _UNFINISHED)
        except FileExistsError:  # Another thread makes it just now, or could not finish it.
            made = f"{path[:-64]}{next(self._temporary)}.tmp"
            fd = _create(made, flags, _UNFINISHED)
        try:
            view = memoryview(data)
            while view:
                view = view[os.write(fd, view) :]
            os.fchmod(fd, _WHOLE)
            seal(fd)
        except BaseException:
            self._unmake(made, fd)
            raise
        finally:
            os.close(fd)
        with self._lock:
            if made != path:
                os.rename(made, path)
            self._is_new(sha256, len(data))
        return path

    def add_together(self, contents: Sequence[Content]) -> list[Content]:
        """Stores many in one go; those that it did not, as they are here already or for a reason
        that `add` will say. Blocks."""
        stored = store_objects(self.root, contents)
        for (sha256, data), made in zip(contents, stored, strict=True):
            if made:
                with self._lock:  # One by one: who asks where another is waits for no unlink.
                    self._is_new(sha256, len(data))
        return [content for content, made in zip(contents, stored, strict=True) if not made]

    def _is_new(self, sha256: bytes, size: int) -> None:
        """Its file has just been written, all of it verified."""
        self._leave_former(sha256)
        self._count(sha256, size)
        self._verified.add(sha256)
        self._fresh.add(sha256)

    def _unmake(self, path: str, fd: int) -> None:
        """Removes a file that stays unfinished, unless another thread has put a whole one there."""
        with self._lock, contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.stat(path), os.fstat(fd)):
                os.unlink(path)

    def begin_part(self, sha256: bytes, size: int) -> int:
        """Opens the file into which chunks of the object come, until `end_part`; its descriptor.
        What was left there by an earlier attempt is still there. Raises OSError."""
        with self._lock:
            self._parts[sha256] = True  # From here on nobody removes it.
        fd = _create(self._where(sha256), os.O_RDWR, 0o600)
        try:
            if os.fstat(fd).st_size != size:
                os.ftruncate(fd, size)
        except OSError:
            os.close(fd)
            raise
        return fd

    def grow_part(self, sha256: bytes, bytes_written: int) -> None:
        """So much more of it is on the disk."""
        with self._lock:
            self._count(sha256, self._sizes.get(sha256, 0) + bytes_written)

    def end_part(self, sha256: bytes, whole: bool) -> str | None:
        """Nothing more comes. `whole`: all chunks are there, verified, and it is the object from
        now on; its path. Else what is there may be used later. Raises OSError."""
        with self._lock:
            where = self._where(sha256)
            if not whole:
                self._parts[sha256] = False
                self._count(sha256, _on_disk(where))
                return None
            os.chmod(where, _WHOLE)
            seal(where)
            path = self.path(sha256)
            os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
            os.rename(where, path)
            del self._parts[sha256]
            self._leave_former(sha256)
            self._count(sha256, os.stat(path).st_size)
            self._verified.add(sha256)
        return path

    def verify(self, sha256: bytes) -> str | None:
        """The object's path if it is here and right; quarantines a damaged one. Blocks. One that
        was verified before must still be there: somebody may have emptied the directory."""
        if sha256 in self._verified and self._stays(sha256):
            return self.path(sha256)
        if sha256 not in self._sizes or sha256 in self._parts:
            return None
        where = self._where(sha256)
        try:
            with open_quietly(where) as file:
                right = prove(file, sha256)
        except FileNotFoundError:
            return self._gone(sha256, where)
        except OSError as error:
            log.warning("cached object %s cannot be read (%s): fetching it again", where, error)
            right = False
        with self._lock:
            if sha256 in self._verified:
                return self.path(sha256)  # By another thread meanwhile.
            if sha256 not in self._sizes:
                return None  # Swept away meanwhile.
            if right:
                if sha256 in self._former:
                    os.rename(where, self.path(sha256))
                    self._former.discard(sha256)
                self._verified.add(sha256)
                return self.path(sha256)
            self._set_aside(sha256)
        return None

    def _stays(self, sha256: bytes) -> bool:
        """Whether a verified object still is in its place, and nobody has written to it; it is
        forgotten, or has to be verified again, if it is not."""
        try:
            found = os.stat(self.path(sha256))
        except OSError:
            found = None
        with self._lock:
            if sha256 in self._verified:
                if found is None or found.st_size != self._sizes[sha256]:
                    self._set_aside(sha256)
                elif not is_sealed(found):
                    self._verified.discard(sha256)
            return sha256 in self._verified

    def distrust(self, sha256: bytes) -> bool:
        """Sets a verified object aside that has been found damaged; whether there still was one."""
        with self._lock:
            if sha256 not in self._verified:
                return False
            self._set_aside(sha256)
        return True

    def _gone(self, sha256: bytes, where: str) -> str | None:
        with self._lock:
            if sha256 in self._verified:
                return self.path(sha256)  # Another thread has verified and moved it.
            if where == self._where(sha256):
                self._forget(sha256)
        return None

    def touch(self, sha256: bytes) -> None:
        """Marks it as used now: it is evicted last."""
        with self._lock:
            size = self._sizes.pop(sha256, None)
            if size is not None:
                self._sizes[sha256] = size

    def note_used(self, used: Iterable[bytes]) -> None:
        """Marks these as used now, also for the next start, which goes by their times: to
        OBJECT_USED_S. Blocks."""
        now = time.time()
        if not 0 <= now - self._fresh_s < OBJECT_USED_S:
            self._fresh, self._fresh_s = set(), now
        for sha256 in used:
            self.touch(sha256)
            if sha256 in self._fresh:
                continue
            where = self._where(sha256)
            with contextlib.suppress(OSError):  # Only the order of evictions depends on it.
                if not 0 <= unused_s(where) < OBJECT_USED_S:
                    use(where)

    def size(self, sha256: bytes) -> int | None:
        """Bytes of an object, or of what is here of it; None: there is none."""
        return self._sizes.get(sha256)

    def sizes(self) -> list[tuple[bytes, int]]:
        """(SHA-256, bytes) of all objects, least recently used first."""
        with self._lock:
            return list(self._sizes.items())

    def all(self) -> list[bytes]:
        """All objects, least recently used first."""
        return list(self._sizes)

    def retire(self, sha256: bytes) -> None:
        """Nobody needs it any more: `sweep` removes it after OBJECT_KEEP_S, unless somebody does
        by then."""
        self._retired.append((time.monotonic() + OBJECT_KEEP_S, sha256))

    def hide(self, sha256: bytes) -> None:
        """From here on nobody is told where it is: it is about to be removed."""
        with self._lock:
            if sha256 in self._verified:
                self._verified.discard(sha256)
                self._hidden.add(sha256)

    def remove(self, sha256: bytes) -> int:
        """Takes away an object that was hidden, unless somebody has it open or wants it again:
        then it is there as before. Returns the bytes that are free now. Blocks."""
        where = self._where(sha256)
        try:
            fd = os.open(where, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError:
            with self._lock:
                self._forget(sha256)
            return 0
        try:
            unused = _nobody_else_has_open(fd)
            with self._lock:
                wanted = sha256 in self._verified or sha256 not in self._sizes
                wanted |= self._parts.get(sha256, False)
                if unused and not wanted:
                    size = self._sizes[sha256]
                    os.unlink(where)
                    self._forget(sha256)
                    return size
                if sha256 in self._hidden and sha256 in self._sizes:
                    self._verified.add(sha256)
                self._hidden.discard(sha256)
        finally:
            os.close(fd)  # And with it the lease.
        self.touch(sha256)
        return 0

    def sweep(self, needed: Container[bytes]) -> None:
        """Removes objects that were retired long enough ago and are not `needed` again. Blocks."""
        while self._retired and self._retired[0][0] <= time.monotonic():
            sha256 = self._retired.popleft()[1]
            with self._lock:
                self._sweep_one(sha256, sha256 in needed)

    def _sweep_one(self, sha256: bytes, needed: bool) -> None:
        if sha256 == EMPTY or sha256 not in self._sizes or needed or self._parts.get(sha256):
            return
        where = self._where(sha256)
        self._forget(sha256)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(where)

    def _count(self, sha256: bytes, size: int) -> None:
        self.bytes += size - (self._sizes.pop(sha256, 0))
        self._sizes[sha256] = size

    def _forget(self, sha256: bytes) -> None:
        for marks in (self._verified, self._hidden, self._former):
            marks.discard(sha256)
        self._parts.pop(sha256, None)
        self.bytes -= self._sizes.pop(sha256, 0)

    def _set_aside(self, sha256: bytes) -> None:
        target = os.path.join(self.quarantine, f"{sha256.hex()}.{time.time_ns()}")
        where = self._where(sha256)
        self._forget(sha256)
        try:
            os.rename(where, target)
        except FileNotFoundError:
            log.info("cached object %s is gone: fetching it again", where)
            return
        log.warning("cached object is damaged: moved to %s, fetching it again", target)
        # Nobody counts them: only the last ones are kept, to be looked at.
        names = sorted(os.listdir(self.quarantine), key=lambda name: name.rpartition(".")[2])
        for name in names[:-QUARANTINED_MAX]:
            os.unlink(os.path.join(self.quarantine, name))


def _objects_in(at: int) -> Iterator[tuple[int, bytes, int, bool]]:
    """Those of one directory, see `Objects._scan`."""
    with os.scandir(at) as entries:
        for entry in entries:
            stat = entry.stat(follow_symlinks=False)
            if len(entry.name) != 64 or stat.st_mode & 0o777 == _UNFINISHED:
                os.unlink(entry.name, dir_fd=at)
            else:
                name = bytes.fromhex(entry.name)
                yield stat.st_atime_ns, name, stat.st_size, is_sealed(stat)


def _create(path: str, flags: int, mode: int) -> int:
    """Opens a file, which is made, as is its directory if somebody took that away. Raises OSError.
    """
    flags |= os.O_CREAT | os.O_CLOEXEC
    try:
        return os.open(path, flags, mode)
    except FileNotFoundError:
        os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
        return os.open(path, flags, mode)


def _on_disk(path: str) -> int:
    """Bytes that a sparse file takes."""
    return os.stat(path).st_blocks * 512


def _nobody_else_has_open(fd: int) -> bool:
    """Whether this is the only descriptor of the file, mappings and what the kernel reads for the
    mount (passthrough) included: then it grants a write lease, which also keeps the next one who
    opens it waiting until `fd` is closed."""
    try:
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_WRLCK)
    except OSError as error:
        # Without leases nothing is known. Whoever has it open keeps what it has, unlinked or not.
        return error.errno != errno.EAGAIN
    return True
