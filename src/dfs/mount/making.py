"""Mounts and unmounts. Where that is not permitted fusermount3 does it for us: a program that
belongs to root, from the package fuse3, and lets every user mount on directories of their own.

It is told how by its arguments, opens /dev/fuse, mounts, and sends the descriptor back over the
socket whose number is in `_FUSE_COMMFD`.
"""

from __future__ import annotations

import errno
import logging
import os
import shutil
import socket
import subprocess
from typing import Final

from .._engine import fuse_mount, fuse_open, fuse_unmount
from ..errors import Misconfigured
from ..limits import FUSERMOUNT_MS_MAX, MOUNTS_STACKED_MAX
from ..privileges import may_administrate
from .points import KIND, identity, locate, owner, top_mount

log = logging.getLogger(__name__)

DEVICE: Final = "/dev/fuse"
HELPER: Final = "fusermount3"
SOCKET_VARIABLE: Final = "_FUSE_COMMFD"
MAX_READ: Final = 1 << 20
"""Bytes the kernel asks for at once; what the engine's buffer holds."""
FORBIDDEN: Final = (errno.EPERM, errno.EACCES)


def check_mountpoint(mountpoint: str) -> str:
    """Makes sure that `mountpoint` can be mounted on; takes dead mounts of ours away. Returns its
    real path. Raises Misconfigured."""
    path = locate(mountpoint)
    for _ in range(MOUNTS_STACKED_MAX):
        top = top_mount(path)
        if top is None or top.kind != KIND:
            break
        if pid := owner(top.source):
            raise Misconfigured(
                f"{path} is mounted by process {pid}, which is alive; stop that one or choose "
                "another directory with -mount"
            )
        log.warning("%s: a mount of a process that is gone (%s) is replaced", path, top.source)
        # By force: whoever still waits on the dead mount gets an error instead of waiting on.
        unmount(path, force=True)
    if top is not None and (top.kind == "fuse" or top.kind.startswith(("fuse.", "nfs"))):
        raise Misconfigured(
            f"{path} shows another file system ({top.kind}); unmount it (umount {path}) or choose "
            "another directory with -mount"
        )
    check_directory(path)
    return path


def check_directory(path: str) -> None:
    """An empty directory it must be. Raises Misconfigured."""
    try:
        with os.scandir(path) as entries:
            first = next(entries, None)
    except FileNotFoundError:
        raise Misconfigured(f"{path} does not exist; make it (mkdir -p {path})") from None
    except NotADirectoryError:
        raise Misconfigured(
            f"{path} is no directory; choose another one with -mount"
        ) from None
    except OSError as error:
        remedy = f"umount -l {path}" if error.errno == errno.ENOTCONN else f"ls -ld {path}"
        raise Misconfigured(f"{path} cannot be used ({error.strerror}); try: {remedy}") from error
    if first is not None:
        raise Misconfigured(
            f"{path} is not empty ({first.name!r} is in it) and a mount would hide that; choose an "
            "empty directory with -mount"
        )


def open_device() -> int:
    """A descriptor of /dev/fuse. Raises Misconfigured."""
    try:
        return fuse_open()
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENODEV, errno.ENXIO):
            text = "/dev/fuse is missing; try: modprobe fuse, or in a container: --device /dev/fuse"
        else:
            text = f"/dev/fuse cannot be opened ({error.strerror}); run as root, or install fuse3"
        raise Misconfigured(f"{text}, or run without a mount: -mount none") from error


def check_device() -> None:
    """Raises Misconfigured where nothing can be mounted."""
    try:
        os.close(open_device())
        privileged = may_administrate()
    except Misconfigured:
        if not os.path.exists(DEVICE) or shutil.which(HELPER) is None:
            raise
        return
    if not privileged and shutil.which(HELPER) is None:
        raise _forbidden()


def _forbidden() -> Misconfigured:
    return Misconfigured(
        f"mounting needs root (in a container: --cap-add SYS_ADMIN) or {HELPER}, of the package "
        "fuse3; or run without a mount: -mount none"
    )


def make_mount(mountpoint: str, allow_other: bool, device: int = -1) -> tuple[str, int]:
    """Mounts; returns the real path and the descriptor: `device`, if that is one that `open_device`
    gave and it can be used. Raises Misconfigured."""
    path = check_mountpoint(mountpoint)
    check_device()
    options = f"max_read={MAX_READ},default_permissions" + (",allow_other" if allow_other else "")
    try:
        return path, _mount(path, options, device)
    except OSError as error:
        if error.errno not in FORBIDDEN:
            raise Misconfigured(f"{path} cannot be mounted on ({error.strerror})") from error
        if (helper := shutil.which(HELPER)) is None:
            raise _forbidden() from error
    return path, _mount_by(helper, path, options)


def _mount(path: str, options: str, device: int) -> int:
    """Raises OSError."""
    fd = fuse_open() if device < 0 else device
    try:
        users = f"user_id={os.getuid()},group_id={os.getgid()}"
        fuse_mount(fd, path, f"{users},{options}", identity())
    except OSError:
        if fd != device:
            os.close(fd)
        raise
    return fd


def _mount_by(helper: str, path: str, options: str) -> int:
    """Raises Misconfigured with what the helper says."""
    options += f",ro,nosuid,nodev,subtype={KIND.removeprefix('fuse.')},fsname={identity()}"
    ours, theirs = socket.socketpair()
    with ours, theirs:
        said = _run([helper, "-o", options, "--", path], theirs)
        theirs.close()
        _, control, _, _ = ours.recvmsg(1, socket.CMSG_SPACE(4), socket.MSG_CMSG_CLOEXEC)
    for level, kind, data in control:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            return int.from_bytes(data[:4], "little")
    raise Misconfigured(f"{path} cannot be mounted on by {helper}: {said or 'it does not say why'}")


def unmount(path: str, *, force: bool = False) -> None:
    """Takes the mount out of sight at once, whoever uses it; with `force` those who wait on it get
    an error. Raises OSError."""
    try:
        fuse_unmount(path, force=force)
    except OSError as error:
        helper = shutil.which(HELPER)
        if error.errno not in FORBIDDEN or helper is None:
            raise
        # It cannot end the connection by force: that ends when its descriptor is closed.
        if said := _run([helper, "-u", "-z", "--", path], None):
            raise OSError(error.errno, said, path) from None


def _run(words: list[str], sending: socket.socket | None) -> str:
    """Runs the helper; returns why it failed, "" if it did not."""
    environment, fds = dict(os.environ), list[int]()
    if sending is not None:
        fds = [sending.fileno()]
        environment[SOCKET_VARIABLE] = str(fds[0])
    try:
        done = subprocess.run(
            words, env=environment, pass_fds=fds, stdin=subprocess.DEVNULL, capture_output=True,
            check=False, timeout=FUSERMOUNT_MS_MAX / 1000,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    said = done.stderr.decode(errors="replace").strip()
    return (said or f"it ended with code {done.returncode}") if done.returncode else ""
