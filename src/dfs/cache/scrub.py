"""Objects are read again, little by little: what the disk has damaged since they were verified.

The kernel reads an object by itself, so nothing else would notice. Blocks: for the one thread that
removes objects, too, so that neither is in the way of the other.
"""

from __future__ import annotations

import hashlib
import logging
import math
import time
from collections import deque
from typing import Final

from ..limits import CONTENT_SCRUB_BYTES, CONTENT_SCRUB_PASS_S_MIN, SCRUB_INTERVAL_MS
from ..sealing import open_quietly
from .objects import Objects

log = logging.getLogger(__name__)
_SMALL_BYTES: Final = 64 << 10
"""What a small object counts: to open and close it takes as long as to read so many bytes."""
_START_S: Final = 600
"""After a start there is more urgent work, such as to catch up."""


class Scrub:
    """One pass over all objects after the other."""

    def __init__(self, objects: Objects) -> None:
        self._objects = objects
        self._left: deque[bytes] = deque()
        self._at, self._hash = 0, hashlib.sha256()
        """How far the first of them was read, and what of it was."""
        self._begun_s = time.monotonic() - CONTENT_SCRUB_PASS_S_MIN + _START_S
        self._turn_s = -math.inf

    @property
    def due(self) -> bool:
        """Whether it is time for a turn."""
        now_s = time.monotonic()
        if not self._left and now_s - self._begun_s < CONTENT_SCRUB_PASS_S_MIN:
            return False
        return now_s - self._turn_s >= SCRUB_INTERVAL_MS / 1000

    def turn(self) -> set[bytes]:
        """Reads the next piece; the objects that turned out to be damaged, which are set aside."""
        self._turn_s = time.monotonic()
        if not self._left:
            self._begun_s = self._turn_s
            self._left.extend(self._objects.all())
        damaged, budget = set(), CONTENT_SCRUB_BYTES
        while self._left and budget > 0:
            sha256, before = self._left[0], self._at
            try:
                whole = self._read(sha256, budget)
                right = not whole or self._hash.digest() == sha256
            except FileNotFoundError:
                whole = right = True  # It was removed, or is verified before it is used.
            except OSError as error:
                log.warning("cached object %s cannot be read: %s", sha256.hex(), error)
                whole, right = True, False
            budget -= max(self._at - before, _SMALL_BYTES)
            if not right and self._objects.distrust(sha256):
                damaged.add(sha256)
            if whole:
                self._left.popleft()
                self._at, self._hash = 0, hashlib.sha256()
        return damaged

    def _read(self, sha256: bytes, bytes_max: int) -> bool:
        """Reads on in an object; whether that was the end of it. It is opened each time: one that
        is open is not evicted. Raises OSError."""
        with open_quietly(self._objects.path(sha256)) as file:
            file.seek(self._at)
            data = file.read(bytes_max)
        self._hash.update(data)
        self._at += len(data)
        return len(data) < bytes_max
