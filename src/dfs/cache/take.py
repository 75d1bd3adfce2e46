"""One drop: is it complete, and what is in it?

A file is complete when the kernel grants a read lease on it: nobody has it open for writing and
nobody maps it writable, not even after a close. The lease is held while the file is read, so that
no writer can begin meanwhile (one that tries waits those few milliseconds); size, times and inode
must be the same before and after. Nothing here follows a symbolic link, not even in the middle of
a path, and nothing but regular files is ever opened. Blocks: for threads.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import hashlib
import os
import stat
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple

from .._engine import copy_and_hash
from ..client.values import Kind
from ..errors import InvalidArgument
from ..limits import (
    DISK_FREE_BYTES_MIN,
    DROP_QUIET_NO_LEASE_MS,
    SIGNATURE_RACY_NS,
    TARGET_BYTES_MAX,
)
from ..manifest import Manifest, chunk_bytes_of
from ..paths import check_key
from .attributes import Attributes, attributes_of

READ_BYTES: Final = 1 << 20
_BLOCK_BYTES: Final = 512
"""Of what stat(2) counts, whatever the file system."""
_SYS_OPENAT2: Final = 437
_RESOLVE_NO_MAGICLINKS, _RESOLVE_NO_SYMLINKS, _RESOLVE_BENEATH = 0x02, 0x04, 0x08
_NO_LEASES: Final = (errno.EINVAL, errno.EACCES, errno.EPERM, errno.EOPNOTSUPP, errno.ENOLCK)


class Signature(NamedTuple):
    """What tells cheaply that a file is still the same."""

    ino: int
    size: int
    mtime_ns: int
    ctime_ns: int


class Look(NamedTuple):
    """What a look at an entry tells, without opening it."""

    kind: Kind
    signature: Signature
    mode: int
    uid: int
    gid: int


class Taken(NamedTuple):
    """A complete drop."""

    kind: Kind
    data: bytes
    sha256: bytes
    """Files only."""
    target: str
    """Symlinks only."""
    mode: int
    mtime_ns: int
    signature: Signature
    racy: bool
    """Changed just before it was taken: a later change may leave the same signature."""
    leased: bool = True
    """False: the file system has no leases; that it stood still for a while had to do."""
    manifest: Manifest | None = None
    """Of a large file, whose `data` is empty."""
    copy: Path | None = None
    """Where a large file was copied to."""
    xattrs: Attributes = ()
    left_out: str = ""
    """Why it goes without extended attributes that it has, and what to do; "" = it has no others.
    """
    uid: int | None = None
    """None: the owner is not carried. It stands behind all else."""
    gid: int | None = None

    def without_owner(self) -> Taken:
        """The same, with an owner that is not carried."""
        return Taken(*self[:-2])  # `_replace` takes some microseconds, and each drop comes by here.


class Busy(Exception):
    """Somebody writes it: try again later."""


class Big(Exception):
    """Larger than the caller can take just now."""


class Skip(Exception):
    """It cannot be stored as it is; the text says why and what to do."""


class _OpenHow(ctypes.Structure):
    _fields_ = [
        ("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64)
    ]


_libc = ctypes.CDLL(None, use_errno=True)
_RESOLVE = _RESOLVE_BENEATH | _RESOLVE_NO_SYMLINKS | _RESOLVE_NO_MAGICLINKS


def open_beneath(root: int, path: str, flags: int) -> int:
    """openat2(2): opens `path` below the directory `root`, through no symbolic link at all."""
    how = _OpenHow(flags | os.O_CLOEXEC | os.O_NOFOLLOW, 0, _RESOLVE)
    fd = _libc.syscall(
        _SYS_OPENAT2, root, os.fsencode(path), ctypes.byref(how), ctypes.sizeof(how)
    )
    if fd < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), path)
    return int(fd)


def signature_of(found: os.stat_result) -> Signature:
    """The signature of what stat(2) says."""
    return Signature(
        found.st_ino & (1 << 63) - 1, found.st_size, found.st_mtime_ns, found.st_ctime_ns
    )


def look_of(found: os.stat_result) -> Look:
    """What stat(2) says. Raises Skip for what no tree can hold."""
    mode = found.st_mode
    return Look(
        _kind_of(mode), signature_of(found), stat.S_IMODE(mode), found.st_uid, found.st_gid
    )


Unchanged = Callable[[str, Look], bool]
"""Whether it was dealt with already."""


def take(root: int, path: str, bytes_max: int, unchanged: Unchanged) -> Taken | None:
    """Reads one drop below the directory `root`; None if it is `unchanged`.

    Raises FileNotFoundError (gone meanwhile), Busy (being written), Big (more than `bytes_max`),
    Skip (cannot be stored), OSError.
    """
    try:
        look = look_of(os.stat(path, dir_fd=root, follow_symlinks=False))
        if unchanged(path, look):
            return None
        if look.kind is Kind.FILE:
            return _take_file(root, path, bytes_max)
        if look.kind is Kind.DIRECTORY:
            return take_directory(root, path)
        return _take_link(root, path)
    except NotADirectoryError as error:
        raise FileNotFoundError(*error.args) from error
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.EXDEV):
            # Replaced by a link since the stat: whatever it is now is reported anew.
            raise FileNotFoundError(*error.args) from error
        if error.errno in (errno.EACCES, errno.EPERM):
            raise Skip("may not be read; give the user that runs dfs the right to") from error
        raise


def _kind_of(mode: int) -> Kind:
    if stat.S_ISREG(mode):
        return Kind.FILE
    if stat.S_ISDIR(mode):
        return Kind.DIRECTORY
    if stat.S_ISLNK(mode):
        return Kind.SYMLINK
    raise Skip("is a device, socket or pipe; only files, directories and links are stored")


def _taken(
    kind: Kind, found: os.stat_result, data: bytes = b"", sha256: bytes = b"", target: str = "",
    attributes: tuple[Attributes, str] = ((), ""),
) -> Taken:
    racy = time.time_ns() - max(found.st_ctime_ns, found.st_mtime_ns) < SIGNATURE_RACY_NS
    return Taken(
        kind, data, sha256, target, stat.S_IMODE(found.st_mode), found.st_mtime_ns,
        signature_of(found), racy, True, None, None, *attributes, found.st_uid, found.st_gid,
    )


def take_directory(root: int, path: str) -> Taken:
    """See `take`, of a directory. Raises OSError."""
    try:
        fd = open_beneath(root, path, os.O_RDONLY | os.O_DIRECTORY)
    except PermissionError:
        # That what is in it is not stored is said elsewhere; its attributes may not be read either.
        return _take_closed_directory(root, path)
    try:
        found = os.fstat(fd)  # First: a change of the attributes after it is another time.
        return _taken(Kind.DIRECTORY, found, attributes=attributes_of(fd))
    finally:
        os.close(fd)


def _take_closed_directory(root: int, path: str) -> Taken:
    fd = open_beneath(root, path, os.O_PATH | os.O_DIRECTORY)
    try:
        return _taken(Kind.DIRECTORY, os.fstat(fd))
    finally:
        os.close(fd)


def _take_link(root: int, path: str) -> Taken:
    fd = open_beneath(root, path, os.O_PATH)
    try:
        found = os.fstat(fd)
        if not stat.S_ISLNK(found.st_mode):
            raise Busy
        target = os.readlink("", dir_fd=fd)
    finally:
        os.close(fd)
    try:
        encoded = target.encode()
    except UnicodeEncodeError:
        raise Skip("is a symbolic link whose target is not UTF-8") from None
    if len(encoded) > TARGET_BYTES_MAX:
        raise Skip(f"is a symbolic link with a target of more than {TARGET_BYTES_MAX:,} bytes")
    return _taken(Kind.SYMLINK, found, target=target)


def _take_file(root: int, path: str, bytes_max: int) -> Taken:
    fd = open_beneath(root, path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        before = os.fstat(fd)
        if not stat.S_ISREG(before.st_mode):
            raise Busy
        leased = _lease(fd)
        if not leased:
            _must_be_quiet(before)
        if before.st_size > bytes_max:
            raise Big
        data = _read(fd, before.st_size)
        sha256 = hashlib.sha256(data).digest()
        attributes = attributes_of(fd)
        after = os.fstat(fd)
    finally:
        os.close(fd)  # And with it the lease.
    if signature_of(before) != signature_of(after) or len(data) != before.st_size:
        raise Busy
    taken = _taken(Kind.FILE, after, data, sha256, attributes=attributes)
    return taken if leased else taken._replace(leased=False)


def take_large(
    root: int, path: str, unchanged: Unchanged, target: Path, former: Taken | None = None
) -> Taken | None:
    """As `take`, of a large file: copies it to `target`, which it makes, holes as holes. `former`:
    what was taken earlier is taken again if the file is still the same. Raises OSError with ENOSPC
    also where the copy would leave less than DISK_FREE_BYTES_MIN free."""
    fd = open_beneath(root, path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        before = os.fstat(fd)
        if not stat.S_ISREG(before.st_mode):
            raise Busy
        if unchanged(path, look_of(before)):
            return None
        if former is not None and signature_of(before) == former.signature and not former.racy:
            return former
        leased = _is_complete(fd, before)
        _check_space(target.parent, before)
        manifest = _copy(fd, target, before.st_size)
        # It is not held for so long: a writer would have to wait. Who wrote meanwhile is seen.
        _is_complete(fd, before)
        attributes = attributes_of(fd)
        after = os.fstat(fd)
    finally:
        os.close(fd)
    if signature_of(before) != signature_of(after) or manifest.size != before.st_size:
        raise Busy
    taken = _taken(Kind.FILE, after, b"", manifest.sha256, attributes=attributes)
    return taken._replace(leased=leased, manifest=manifest, copy=target)


def _is_complete(fd: int, found: os.stat_result) -> bool:
    """Whether that was found by a lease. Raises Busy: somebody writes it."""
    leased = _lease(fd)
    if leased:
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    else:
        _must_be_quiet(found)
    return leased


def _check_space(directory: Path, found: os.stat_result) -> None:
    """Whether a copy of the file, without its holes, may be made there. Raises OSError (ENOSPC)."""
    disk = os.statvfs(directory)
    free = disk.f_bavail * disk.f_frsize
    if free - found.st_blocks * _BLOCK_BYTES < DISK_FREE_BYTES_MIN:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(directory))


def _copy(source: int, target: Path, size: int) -> Manifest:
    fd = os.open(target, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        chunk_bytes = chunk_bytes_of(size)
        copied, sha256, digests = copy_and_hash(source, fd, chunk_bytes)
    finally:
        os.close(fd)
    return Manifest(sha256, copied, chunk_bytes, digests)


def _lease(fd: int) -> bool:
    """Takes a read lease. False: the file system or the owner does not allow any."""
    try:
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_RDLCK)
    except OSError as error:
        if error.errno == errno.EAGAIN:
            raise Busy from None
        if error.errno in _NO_LEASES:
            return False
        raise
    return True


def _must_be_quiet(found: os.stat_result) -> None:
    """Without leases, unchanged for a while is all there is to go by."""
    if time.time_ns() - found.st_ctime_ns < DROP_QUIET_NO_LEASE_MS * 1_000_000:
        raise Busy


def _read(fd: int, size: int) -> bytes:
    """Up to one byte more than `size`: a file that grew is noticed."""
    first = os.read(fd, min(size + 1, READ_BYTES))
    if len(first) == size and size < READ_BYTES:
        return first
    parts, total = [first], len(first)
    while total <= size and (part := os.read(fd, min(size + 1 - total, READ_BYTES))):
        parts.append(part)
        total += len(part)
    return b"".join(parts)


def check_name(path: str) -> None:
    """Raises Skip when the name cannot even be written as text."""
    try:
        path.encode()
    except UnicodeEncodeError as error:
        shown = os.fsencode(path).decode("ascii", "backslashreplace")
        raise Skip(f"the name {shown} is not UTF-8; rename it") from error


def storable(path: str) -> bool:
    """Whether the name follows the rules of keys."""
    try:
        check_key(path)
    except InvalidArgument:
        return False
    return True
