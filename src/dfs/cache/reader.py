"""Reads drops in a few threads, in batches that form by themselves.

A way to a thread and back costs more than reading a small file. So what is asked for while the
threads are busy goes as one batch when one of them is free: an idle agent reads at once, a flooded
one makes a fraction of the trips.
"""

from __future__ import annotations

import asyncio
import os
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from ..limits import DROP_READERS, READ_BATCH_MAX
from .take import Taken, Unchanged, take


class _Wanted(NamedTuple):
    path: str
    bytes_max: int
    future: asyncio.Future[Taken | None]


_Outcome = tuple[_Wanted, Taken | None, Exception | None]


class Reader:
    """`take` for the event loop, below a root directory that may change."""

    def __init__(self, unchanged: Unchanged) -> None:
        self.root = -1
        """Descriptor of the cache directory."""
        self._unchanged = unchanged
        self._waiting: deque[_Wanted] = deque()
        self._busy = 0
        self._pool = ThreadPoolExecutor(DROP_READERS, "drops")

    def take(self, path: str, bytes_max: int) -> asyncio.Future[Taken | None]:
        """See `take.take`, which says what it raises."""
        future: asyncio.Future[Taken | None] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Wanted(path, bytes_max, future))
        self._start()
        return future

    def close(self) -> None:
        """Ends the threads after what they are reading now."""
        self._waiting.clear()
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _start(self) -> None:
        loop = asyncio.get_running_loop()
        while self._waiting and self._busy < DROP_READERS:
            count = min(len(self._waiting), READ_BATCH_MAX)
            batch = [self._waiting.popleft() for _ in range(count)]
            self._busy += 1
            self._pool.submit(self._read, loop, os.dup(self.root), batch)

    def _read(
        self, loop: asyncio.AbstractEventLoop, root: int, batch: Sequence[_Wanted]
    ) -> None:
        outcomes: list[_Outcome] = []
        for wanted in batch:
            try:
                found = take(root, wanted.path, wanted.bytes_max, self._unchanged)
                outcomes.append((wanted, found, None))
            except Exception as error:  # boundary: raised again where it is awaited
                outcomes.append((wanted, None, error))
        os.close(root)
        try:
            loop.call_soon_threadsafe(self._deliver, outcomes)
        except RuntimeError:
            return  # The loop has ended, and whoever waited with it.

    def _deliver(self, outcomes: Sequence[_Outcome]) -> None:
        self._busy -= 1
        for wanted, found, error in outcomes:
            if wanted.future.done():
                continue  # Cancelled.
            if error is not None:
                wanted.future.set_exception(error)
            else:
                wanted.future.set_result(found)
        if self._waiting:
            self._start()
