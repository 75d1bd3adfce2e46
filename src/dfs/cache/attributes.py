"""Extended attributes: those of a drop, and whether a key can hold them, for which it is read and
blocks; and those that the mount shows."""

from __future__ import annotations

import errno
import os
from typing import Final

from ..client.calls import metadata
from ..client.values import Stat
from ..limits import XATTR_BYTES_MAX
from ..proto import dfs_pb2 as pb

SHOWN: Final = "user.dfs."
"""Names that begin so tell what is known of a key; a copy from a mount may have them, and they are
no part of the file."""
_USER: Final = "user."
_NONE: Final = (errno.ENOTSUP, errno.ENOSYS)
"""The file system has no extended attributes."""
_TOO_MANY: Final = (errno.E2BIG, errno.ERANGE)
"""Names, or a value, that do not fit what the kernel gives at once: far beyond the limit."""
_REMEDY: Final = "remove some with setfattr -x, or keep what they hold in a file"

Attributes = tuple[tuple[str, bytes], ...]
"""(name, value), ordered by the bytes of the names."""


def attributes_of(fd: int) -> tuple[Attributes, str]:
    """What an open file or directory has. All or none: the text says why it goes without those
    that it has, and what to do. Raises OSError."""
    try:
        names = os.listxattr(fd)
    except OSError as error:
        if error.errno in _NONE:
            return (), ""
        if error.errno in _TOO_MANY:
            return (), _left_out("there are too many")
        raise
    if not names:
        return (), ""
    return _read(fd, [n for n in names if n.startswith(_USER) and not n.startswith(SHOWN)])


def _read(fd: int, names: list[str]) -> tuple[Attributes, str]:
    found, size = [], 0
    for name in sorted(names, key=os.fsencode):
        encoded = os.fsencode(name)
        try:
            encoded.decode()
        except UnicodeDecodeError:
            shown = encoded.decode("ascii", "backslashreplace")
            return (), f"its extended attributes are not stored: the name {shown} is not UTF-8; " \
                       "rename that one"
        try:
            value = os.getxattr(fd, name)
        except OSError as error:
            if error.errno == errno.ENODATA:
                continue  # Removed meanwhile, which the times of the file tell.
            if error.errno in _TOO_MANY:
                return (), _left_out("one of them is too large")
            raise
        found.append((name, value))
        size += len(encoded) + len(value)
    if size > XATTR_BYTES_MAX:
        return (), _left_out(f"they have {size:,} bytes, names and values")
    return tuple(found), ""


def shown(stat: Stat) -> dict[str, bytes]:
    """What the mount shows of an entry: those that it was stored with, and what is known of it."""
    if stat.implicit or stat.is_symlink:
        return {}  # Nobody has stored it; of a link the kernel gives those of users to nobody.
    values = {
        "revision": stat.revision, "created_revision": stat.created_revision,
        "version": stat.version, "sha256": stat.sha256.hex(), "node": stat.node,
        "principal": stat.principal, "time_ns": stat.time_ns,
    }
    told = {SHOWN + name: str(value).encode() for name, value in values.items() if value}
    return dict(stat.xattrs) | told


def _left_out(why: str) -> str:
    return (f"its extended attributes are not stored: {why}, the limit is {XATTR_BYTES_MAX:,} "
            f"bytes (XATTR_BYTES_MAX); {_REMEDY}")


def encoded(uid: int | None, gid: int | None, xattrs: Attributes) -> bytes:
    """Owner and attributes as bytes, b"" where there are none; see `decoded`."""
    described = metadata(None, None, uid, gid, dict(xattrs))
    return described.SerializeToString() if described is not None else b""


def decoded(described: bytes) -> tuple[int | None, int | None, Attributes]:
    """What `encoded` made bytes of: uid, gid, attributes. Raises DecodeError."""
    found = pb.Metadata.FromString(described)
    return (
        found.uid if found.HasField("uid") else None, found.gid if found.HasField("gid") else None,
        tuple((xattr.name, xattr.value) for xattr in found.xattrs),
    )
