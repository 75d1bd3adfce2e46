"""Large files under faults: one client uploads them, and reads what it was told is stored."""

from __future__ import annotations

import hashlib
import io
import random
import threading
from typing import Final

from ..client import Client
from ..errors import DeadlineExceeded, DfsError, NotFound, OutcomeUnknown, OutOfSpace, Unavailable
from ..limits import INLINE_BYTES_MAX
from ..offline.acks import Ack
from .waiting import require

KEYS: Final = 3
BYTES: Final = (INLINE_BYTES_MAX + 1, 5 << 20)
"""Of one file: one chunk, or two."""
UPLOADS_MAX: Final = 3
"""Of one epoch: history keeps all of them, and the disks are small."""
PAUSE_S: Final = 0.2


class LargeFiles:
    """What was uploaded to one directory, and what came back."""

    def __init__(self, directory: str) -> None:
        self._directory = f"{directory}-large"
        self._chance = random.Random(directory)
        self._stored: dict[str, tuple[int, bytes]] = {}
        """Key → revision and digest of the last upload that was acknowledged or read."""
        self._maybe: dict[str, set[bytes]] = {}
        """Key → digests of uploads whose outcome is unknown: any time they may turn up."""
        self.acks: list[Ack] = []
        self.uploads = self.downloads = 0
        """Those that were acknowledged, and those that came back whole."""

    def work(self, client: Client, stop: threading.Event) -> None:
        """Uploads and downloads by turns. Raises Violation."""
        while not stop.wait(PAUSE_S):
            key = f"{self._directory}/{self._chance.randrange(KEYS)}"
            if self.uploads < UPLOADS_MAX:
                self._upload(client, key)
            if not stop.is_set():
                self._download(client, key)

    def check(self, client: Client) -> None:
        """All is over, nothing is broken any more: what was acknowledged is there."""
        for key in self._stored:
            require(self._download(client, key), f"{key} cannot be read though nothing is broken")

    def _upload(self, client: Client, key: str) -> None:
        data = self._chance.randbytes(self._chance.randint(*BYTES))
        digest = hashlib.sha256(data).digest()
        try:
            revision = client.upload(key, data)
        except (Unavailable, OutcomeUnknown, DeadlineExceeded, OutOfSpace):
            self._maybe.setdefault(key, set()).add(digest)  # an attempt may yet be applied
            return
        self._stored[key] = revision, digest
        self.acks.append(Ack(revision, key, digest))
        self.uploads += 1

    def _download(self, client: Client, key: str) -> bool:
        """Whether it could be read; what comes is whole, and no older than what was stored."""
        target = io.BytesIO()
        known, maybe = self._stored.get(key), self._maybe.get(key, set())
        try:
            stat = client.download(key, target)
        except NotFound:
            require(known is None, f"{key} is gone, which was stored at {known}")
            return False
        except DfsError:
            return False
        digest = hashlib.sha256(target.getvalue()).digest()
        right = digest in maybe or (known is not None and digest == known[1])
        require(right, f"{key} at revision {stat.revision} is not what was uploaded last: {known}")
        require(known is None or stat.revision >= known[0], f"{key} went back from {known}")
        self._stored[key] = stat.revision, digest
        self.downloads += 1
        return True
