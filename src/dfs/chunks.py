"""Chunks of a content that is on its way: which are lacking, which is next, who waits for which."""

from __future__ import annotations

import asyncio
from bisect import bisect_left, insort
from collections import deque
from collections.abc import Iterable


class Order:
    """First comes what somebody waits for, then what follows it. Event loop only."""

    def __init__(self) -> None:
        self.lacking: set[int] | None = None
        """What is not here yet; None = that is being found out."""
        self.left: list[int] = []
        """Of those, what nobody fetches now, in ascending order."""
        self._put_off: list[int] = []
        """What could not be had, until somebody wants it or `retry`."""
        self._asked: deque[int] = deque()
        self._next = 0
        self._waiting: dict[int, asyncio.Future[None]] = {}
        self._news = asyncio.Event()
        """Set when anything changes; there is a new one each time."""
        self.error: Exception | None = None
        """Why nothing comes any more."""

    def begin(self, lacking: Iterable[int]) -> None:
        """These are lacking, and no others."""
        self.lacking = set(lacking)
        self.left = sorted(self.lacking)
        self._settle([n for n in self._waiting if n not in self.lacking], None)

    def take(self, at_most: int) -> list[int]:
        """What is to be fetched next, by whoever asks: one chunk that somebody waits for, or some
        that follow each other. [] = nothing is left, though some may be given back."""
        while self._asked:
            number = self._asked.popleft()
            at = bisect_left(self.left, number)
            if number in self.left[at : at + 1]:
                return self._take(at, 1)
        at = bisect_left(self.left, self._next)
        return self._take(at if at < len(self.left) else 0, at_most)

    def _take(self, at: int, count: int) -> list[int]:
        taken = self.left[at : at + count]
        del self.left[at : at + count]
        self._next = taken[-1] + 1 if taken else 0
        return taken

    def arrived(self, numbers: Iterable[int]) -> None:
        """These are here, and right."""
        assert self.lacking is not None
        self.lacking.difference_update(numbers)
        self._settle(numbers, None)

    def give_back(self, numbers: Iterable[int]) -> None:
        """Whoever took these did not get them: somebody else may."""
        for number in numbers:
            insort(self.left, number)
            if number in self._waiting:
                self._asked.append(number)
        self._tell()

    def failed(self, number: int, error: Exception) -> None:
        """This one cannot be had now: who waits for it is told. It is tried again when somebody
        wants it, or at `retry`."""
        self._put_off.append(number)
        self._settle([number], error)

    def retry(self) -> None:
        """What could not be had is tried again."""
        if self._put_off:
            numbers, self._put_off = self._put_off, []
            self.give_back(numbers)

    def end(self, error: Exception) -> None:
        """Nothing comes any more: all who wait are told."""
        self.error = error
        self._settle(list(self._waiting), error)

    async def have(self, number: int) -> None:
        """Waits for a chunk, which comes before others from now on. Raises what was given to
        `failed` or `end`."""
        if self.lacking is not None and number not in self.lacking:
            return
        if self.error is not None:
            raise self.error
        if number not in self._waiting:
            self._waiting[number] = asyncio.get_running_loop().create_future()
            self._asked.append(number)
            if number in self._put_off:
                self._put_off.remove(number)
                insort(self.left, number)
            self._tell()
        await asyncio.shield(self._waiting[number])

    async def changed(self, timeout_s: float) -> None:
        """Waits for any news, at most so long."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._news.wait()
        except TimeoutError:
            return

    def _tell(self) -> None:
        self._news.set()
        self._news = asyncio.Event()

    def _settle(self, numbers: Iterable[int], error: Exception | None) -> None:
        for number in numbers:
            future = self._waiting.pop(number, None)
            if future is None:
                continue
            if error is None:
                future.set_result(None)
            else:
                future.set_exception(error)
                future.exception()  # Looked at: who waits may be gone.
        self._tell()
