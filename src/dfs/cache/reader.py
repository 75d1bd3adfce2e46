"""Reads drops in a few threads, several in one go.

A way to a thread and back costs more than reading a small file, so what waits goes together.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from ..limits import DROP_BATCHES, DROPS_TOGETHER_BYTES_MAX
from .take import Taken, Unchanged, take

Found = Taken | Exception | None
"""What `take.take` gives for a drop, or what it raises."""


class Reader:
    """`take` for the event loop, below a root directory that may change."""

    def __init__(self, unchanged: Unchanged) -> None:
        self.root = -1
        """Descriptor of the cache directory."""
        self._unchanged = unchanged
        self._pool = ThreadPoolExecutor(DROP_BATCHES, "drops")

    async def take(self, paths: Sequence[str], bytes_max: int) -> list[Found]:
        """What is found of the first of the drops: of as many as have DROPS_TOGETHER_BYTES_MAX,
        and one at least. `bytes_max`: see `take.take`."""
        try:
            root = os.dup(self.root)
        except OSError as error:
            return [error]
        return await asyncio.get_running_loop().run_in_executor(
            self._pool, self._read, root, paths, bytes_max
        )

    def close(self) -> None:
        """Ends the threads after what they are reading now."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _read(self, root: int, paths: Sequence[str], bytes_max: int) -> list[Found]:
        found: list[Found] = []
        left = DROPS_TOGETHER_BYTES_MAX
        try:
            for path in paths:
                one = self._one(root, path, bytes_max)
                found.append(one)
                left -= len(one.data) if isinstance(one, Taken) else 0
                if left <= 0:
                    break
        finally:
            os.close(root)
        return found

    def _one(self, root: int, path: str, bytes_max: int) -> Found:
        try:
            return take(root, path, bytes_max, self._unchanged)
        except Exception as error:  # boundary: whoever asked deals with it, drop by drop
            return error
