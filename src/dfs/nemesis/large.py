"""Large files under faults: one client uploads them, by themselves or two as one change, and reads
what it was told is stored."""

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
PAIR: Final = ("pair/0", "pair/1")
"""What transactions write, and nothing else."""
PAIRS: Final = 0.4
"""Of all writes."""
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
        self.uploads = self.downloads = self.pairs = 0
        """Files of which a write was acknowledged, those that came back whole, and pairs that were
        seen."""

    def work(self, client: Client, stop: threading.Event) -> None:
        """Uploads and downloads by turns. Raises Violation."""
        while not stop.wait(PAUSE_S):
            names = [str(self._chance.randrange(KEYS))]
            if self._chance.random() < PAIRS:
                names = list(PAIR)
            keys = [f"{self._directory}/{name}" for name in names]
            if self.uploads < UPLOADS_MAX:
                self._write(client, keys)
            if not stop.is_set():
                self._look(client)
                self._download(client, self._chance.choice(keys))

    def check(self, client: Client) -> None:
        """All is over, nothing is broken any more: what was acknowledged is there."""
        self._look(client)
        for key in list(self._stored):
            require(self._download(client, key), f"{key} cannot be read though nothing is broken")

    def _write(self, client: Client, keys: list[str]) -> None:
        """Uploads one file, or stores several by one transaction."""
        data = {key: self._chance.randbytes(self._chance.randint(*BYTES)) for key in keys}
        digests = {key: hashlib.sha256(data[key]).digest() for key in keys}
        try:
            if len(keys) == 1:
                revision = client.upload(keys[0], data[keys[0]])
            else:
                with client.transaction() as changes:
                    for key in keys:
                        changes.put(key, data[key])
                revision = changes.revision
        except (Unavailable, OutcomeUnknown, DeadlineExceeded, OutOfSpace):
            for key, digest in digests.items():  # an attempt may yet be applied
                self._maybe.setdefault(key, set()).add(digest)
            return
        for key, digest in digests.items():
            self._stored[key] = revision, digest
            self.acks.append(Ack(revision, key, digest))
        self.uploads += len(keys)

    def _look(self, client: Client) -> None:
        """Of a pair both are there, by one change, or neither is."""
        directory = f"{self._directory}/{PAIR[0].rpartition('/')[0]}"
        try:
            found = {item.key: item.stat.revision for item in client.list(directory)}
        except DfsError:
            return
        together = len(found) == len(PAIR) and len(set(found.values())) == 1
        require(together, f"a transaction is seen in part: {directory} has {found}")
        self.pairs += 1

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
