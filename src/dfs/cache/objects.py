"""Content on this machine, by its SHA-256: `<state>/objects/ab/<sha256>`.

A file here is immutable (0444) and appears only by rename, complete. It is not flushed to disk:
after a crash it may be damaged, so nothing is used before it was verified once by this process.
A damaged one is moved to `<state>/quarantine` and fetched again. Any thread may call.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Container
from typing import Final

from ..errors import DataLoss
from ..limits import OBJECT_KEEP_S

log = logging.getLogger(__name__)
EMPTY: Final = hashlib.sha256(b"").digest()


class Objects:
    """The objects of one state directory; only one process may have it open."""

    def __init__(self, state: str) -> None:
        self.root = os.path.join(state, "objects")
        self.quarantine = os.path.join(state, "quarantine")
        self.bytes = 0
        """Sum of the sizes of all objects."""
        self.retired_bytes = 0
        """Of these, how many go soon."""
        self._sizes: dict[bytes, int] = {}
        """Oldest use first."""
        self._verified: set[bytes] = set()
        self._evicted: set[bytes] = set()
        self._retired: deque[tuple[float, bytes]] = deque()
        self._temporary = itertools.count()
        self._lock = threading.Lock()

    def open(self) -> None:
        """Makes the directories, removes what a crash left, reads what is there. Blocks."""
        os.makedirs(self.quarantine, mode=0o700, exist_ok=True)
        found: list[tuple[int, bytes, int]] = []
        for i in range(256):
            directory = os.path.join(self.root, f"{i:02x}")
            os.makedirs(directory, mode=0o700, exist_ok=True)
            with os.scandir(directory) as entries:
                for entry in entries:
                    if len(entry.name) != 64:
                        os.unlink(entry.path)
                        continue
                    stat = entry.stat(follow_symlinks=False)
                    found.append((stat.st_mtime_ns, bytes.fromhex(entry.name), stat.st_size))
        for _, sha256, size in sorted(found):
            self._sizes[sha256] = size
            self.bytes += size
        self.add(EMPTY, b"")

    def __len__(self) -> int:
        return len(self._sizes)

    def __contains__(self, sha256: bytes) -> bool:
        """There is a file for it, verified or not."""
        return sha256 in self._sizes

    def path(self, sha256: bytes) -> str:
        """Where the object is, or would be."""
        name = sha256.hex()
        return f"{self.root}/{name[:2]}/{name}"

    def backing(self, sha256: bytes) -> str | None:
        """The object's path if it was verified already. Does not block."""
        return self.path(sha256) if sha256 in self._verified else None

    def add(self, sha256: bytes, data: bytes) -> str:
        """Stores the object unless it is there. Raises DataLoss if it is not that content."""
        if sha256 in self._verified:
            return self.path(sha256)
        if hashlib.sha256(data).digest() != sha256:
            raise DataLoss(f"content that should have SHA-256 {sha256.hex()[:16]}… has another")
        path = self.path(sha256)
        temporary = f"{path[:-64]}{next(self._temporary)}.tmp"
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o444)
        try:
            view = memoryview(data)
            while view:
                view = view[os.write(fd, view) :]
        except BaseException:
            os.unlink(temporary)
            raise
        finally:
            os.close(fd)
        with self._lock:
            os.rename(temporary, path)
            self._count(sha256, len(data))
            self._verified.add(sha256)
        return path

    def verify(self, sha256: bytes) -> str | None:
        """The object's path if it is here and right; quarantines a damaged one. Blocks."""
        if sha256 in self._verified:
            return self.path(sha256)
        if sha256 not in self._sizes:
            return None
        path = self.path(sha256)
        try:
            with open(path, "rb") as file:
                right = hashlib.file_digest(file, "sha256").digest() == sha256
        except FileNotFoundError:
            self._forget(sha256)
            return None
        except OSError as error:
            log.warning("cached object %s cannot be read (%s): fetching it again", path, error)
            right = False
        with self._lock:
            if sha256 not in self._sizes:
                return None  # Swept away meanwhile.
            if right:
                self._verified.add(sha256)
                return path
            self._set_aside(sha256)
        return None

    def touch(self, sha256: bytes) -> None:
        """Marks it as used now: it is evicted last."""
        size = self._sizes.pop(sha256, None)
        if size is not None:
            self._sizes[sha256] = size

    def oldest(self, bytes_wanted: int) -> list[bytes]:
        """The least recently used objects that make up so many bytes."""
        chosen: list[bytes] = []
        for sha256, size in self._sizes.items():
            if bytes_wanted <= 0:
                break
            if size and sha256 not in self._evicted:
                chosen.append(sha256)
                bytes_wanted -= size
        return chosen

    def all(self) -> list[bytes]:
        """All objects, least recently used first."""
        return list(self._sizes)

    def retire(self, sha256: bytes) -> None:
        """No version needs it any more: `sweep` removes it after OBJECT_KEEP_S, since a reader may
        be about to open it."""
        self._retired.append((time.monotonic() + OBJECT_KEEP_S, sha256))

    def evict(self, sha256: bytes) -> None:
        """Removed by `sweep` like a retired one, though it is needed, unless it is used again."""
        self._evicted.add(sha256)
        self.retired_bytes += self._sizes.get(sha256, 0)
        self._verified.discard(sha256)  # Whoever wants it from now on brings it back.
        self.retire(sha256)

    def sweep(self, needed: Container[bytes]) -> None:
        """Removes objects that were retired long enough ago and are not `needed` again. Blocks."""
        while self._retired and self._retired[0][0] <= time.monotonic():
            sha256 = self._retired.popleft()[1]
            with self._lock:
                self._sweep_one(sha256, sha256 in needed)

    def _sweep_one(self, sha256: bytes, needed: bool) -> None:
        evicted = sha256 in self._evicted
        self._spare(sha256)
        if sha256 == EMPTY or sha256 not in self._sizes:
            return
        if needed and (not evicted or sha256 in self._verified):
            return
        self._forget(sha256)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.path(sha256))

    def _spare(self, sha256: bytes) -> None:
        if sha256 in self._evicted:
            self._evicted.discard(sha256)
            self.retired_bytes -= self._sizes.get(sha256, 0)

    def _count(self, sha256: bytes, size: int) -> None:
        self.bytes += size - (self._sizes.pop(sha256, 0))
        self._sizes[sha256] = size

    def _forget(self, sha256: bytes) -> None:
        self._verified.discard(sha256)
        self.bytes -= self._sizes.pop(sha256, 0)

    def _set_aside(self, sha256: bytes) -> None:
        target = os.path.join(self.quarantine, f"{sha256.hex()}.{time.time_ns()}")
        log.warning("cached object is damaged: moved to %s, fetching it again", target)
        self._forget(sha256)
        with contextlib.suppress(FileNotFoundError):
            os.rename(self.path(sha256), target)
