"""How fast a node fetches contents for which nobody waits."""

from collections.abc import Callable


class Rate:
    """A bucket into which so many bytes a second flow. Whoever fetches takes out what it is about
    to fetch, as soon as nothing is owed: so on average no more is fetched, and never more at once
    than one piece beyond it. One thread at a time."""

    def __init__(self, bytes_s: int, clock: Callable[[], float]) -> None:
        """`bytes_s`: 0 = as fast as it goes. `clock`: in seconds, never back."""
        self.bytes_s, self._clock = bytes_s, clock
        self._level, self._at = 0.0, clock()

    def wait_s(self, count: int) -> float:
        """Takes so many bytes; not 0: it has not, ask again in so many seconds."""
        if not self.bytes_s:
            return 0.0
        now = self._clock()
        self._level = min(0.0, self._level + (now - self._at) * self.bytes_s)
        self._at = now
        if self._level <= -1:  # less than a byte is nothing
            return -self._level / self.bytes_s
        self._level -= count
        return 0.0
