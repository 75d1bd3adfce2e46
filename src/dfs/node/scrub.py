"""Reads everything that is stored, little by little.

What nobody reads may be damaged for years, and be needed on the day when the copies of the others
are gone. Found early it is healed from them, as all damage is.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from ..limits import SCRUB_PASS_S_MIN, SCRUB_RECORDS
from ..store import View


class Scrub:
    """One pass after the other. One caller at a time."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """`clock`: in seconds, never back."""
        self._clock = clock
        self._revision = 0
        """Of the state when the pass began."""
        self.restart()

    def restart(self) -> None:
        """The state was replaced: nothing of it has been read, and a pass begins at once."""
        self.verified = 0
        """All that was stored up to this revision has been read since, and was right."""
        self._next = b""
        """Where the pass goes on; b"" = none is under way."""
        self._begun_s = -math.inf

    @property
    def due(self) -> bool:
        """A pass is under way, or it is time for one."""
        return bool(self._next) or self._clock() - self._begun_s >= SCRUB_PASS_S_MIN

    def step(self, view: View) -> None:
        """Reads the next piece, if it is due. Blocks. Raises DataLoss, or Unavailable: the state
        was replaced, of which `restart` has to be told."""
        if not self.due:
            return
        if not self._next:
            self._begun_s, self._revision = self._clock(), view.revision
        self._next = view.verify(self._next, SCRUB_RECORDS)
        if not self._next:
            self.verified = self._revision
