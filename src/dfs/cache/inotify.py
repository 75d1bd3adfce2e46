"""inotify(7), as much as the watcher of the cache directory needs of it."""

from __future__ import annotations

import asyncio
import ctypes
import os
import struct
from collections.abc import Iterator
from types import TracebackType
from typing import Final, NamedTuple, Self

MODIFY: Final = 0x2
ATTRIB: Final = 0x4
CLOSE_WRITE: Final = 0x8
MOVED_FROM: Final = 0x40
MOVED_TO: Final = 0x80
CREATE: Final = 0x100
DELETE: Final = 0x200
DELETE_SELF: Final = 0x400
MOVE_SELF: Final = 0x800
UNMOUNT: Final = 0x2000
OVERFLOW: Final = 0x4000
"""More happened than the kernel could queue; of no watch."""
IGNORED: Final = 0x8000
"""The last event of a watch that is gone."""
ONLYDIR: Final = 0x1000000
DONT_FOLLOW: Final = 0x2000000
EXCL_UNLINK: Final = 0x4000000
ISDIR: Final = 0x40000000

_ONE: Final = CREATE | MODIFY | ATTRIB | CLOSE_WRITE
"""Of a file that is there: how it came to be what it is now."""
_HEAD: Final = struct.Struct("iIII")
"""Watch, mask, cookie, bytes of the name with the NULs that fill it up."""
_READ_BYTES: Final = 16 << 10
"""Read in one go, before others have their turn; an event has 272 at most."""
_libc = ctypes.CDLL(None, use_errno=True)


class Event(NamedTuple):
    """Something happened in a watched directory, or to it; or to one file there, all of `_ONE` that
    happened to it without anything else in between."""

    watch: int
    mask: int
    name: str
    """What in the directory; "" = the directory itself."""


def events_of(read: bytes) -> Iterator[Event]:
    """The events that one read(2) gave."""
    at, whose, happened = 0, (0, b""), 0
    while at < len(read):
        watch, mask, _, length = _HEAD.unpack_from(read, at)
        at += _HEAD.size
        name = read[at : at + length]
        at += length
        if whose == (watch, name) and not (happened | mask) & ~_ONE:
            happened |= mask
            continue
        if happened:
            yield _event(whose, happened)
        whose, happened = (watch, name), mask
    if happened:
        yield _event(whose, happened)


def _event(whose: tuple[int, bytes], mask: int) -> Event:
    return Event(whose[0], mask, os.fsdecode(whose[1].rstrip(b"\0")))


class Inotify:
    """An inotify instance; as a context it is closed in the end. Raises OSError."""

    def __init__(self) -> None:
        self.fd = _checked(_libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC), None)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        os.close(self.fd)

    def add(self, path: str, mask: int) -> int:
        """Watches a path, or changes its mask; the number of the watch. Any thread."""
        return _checked(_libc.inotify_add_watch(self.fd, os.fsencode(path), mask), path)

    def remove(self, watch: int) -> None:
        """Ends a watch."""
        _checked(_libc.inotify_rm_watch(self.fd, watch), None)

    async def read(self) -> Iterator[Event]:
        """The next events, when there are any; one call at a time."""
        loop = asyncio.get_running_loop()
        readable = asyncio.Event()
        loop.add_reader(self.fd, readable.set)
        try:
            await readable.wait()
        finally:
            loop.remove_reader(self.fd)
        return events_of(os.read(self.fd, _READ_BYTES))


def _checked(result: int, path: str | None) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), path)
    return result
