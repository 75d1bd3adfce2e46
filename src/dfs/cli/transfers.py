"""Files of any size to and from the cluster, with a line that says how far it is."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, BinaryIO, cast

from . import output

if TYPE_CHECKING:
    from ..client import Client, Stat, Transferred


class Line:
    """The progress of a transfer, on a terminal."""

    def __init__(self, what: str, total: int) -> None:
        self._progress = output.Progress(what, total)
        self._begun_s = time.monotonic()

    def show(self, done: Transferred) -> None:
        """How far it is, how fast, and on how many members."""
        if done.looked_at:
            self.at(done.looked_at, ", looking for what is there already")
            return
        more = f", {done.key}" if done.key else ""
        more += f", on {done.held} of {done.voters} voters" if done.voters else ""
        self.at(done.received, more)

    def at(self, done: int, more: str = "") -> None:
        """How many bytes are done, and how fast."""
        rate = done / max(time.monotonic() - self._begun_s, 0.001)
        self._progress.total = max(self._progress.total, done)
        self._progress.update(done, f"{output.size(int(rate))}/s{more}")

    def clear(self) -> None:
        """Takes it away."""
        self._progress.clear()


@contextlib.contextmanager
def line(what: str, total: int) -> Iterator[Line]:
    """A line that is gone afterwards."""
    shown = Line(what, total)
    try:
        yield shown
    finally:
        shown.clear()


def upload(
    client: Client, key: str, begin: bytes, source: BinaryIO, metadata: dict[str, Any]
) -> int:
    """Stores what begins with `begin` and goes on with the rest of `source`; the revision."""
    size = 0
    if source.seekable():
        source.seek(0)
        size = os.fstat(source.fileno()).st_size
    else:
        from ..client.sources import Behind

        source = cast("BinaryIO", Behind(begin, source))
    with line(key, size) as shown:
        return client.upload(key, source, size=size, progress=shown.show, **metadata)


def download(client: Client, key: str, revision: int, local: bool, target: BinaryIO) -> Stat:
    """Writes the content of a file to `target`; its record."""
    total = client.stat(key, revision=revision, local=local).size
    with line(key, total) as shown:
        return client.download(
            key, target, revision=revision, local=local, progress=shown.show
        )


def to_stdout(client: Client, key: str, revision: int, local: bool) -> None:
    """The content of a file, as it comes."""
    sys.stdout.flush()
    client.download(key, sys.stdout.buffer, revision=revision, local=local)
    sys.stdout.buffer.flush()
