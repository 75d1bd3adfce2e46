"""Reads everything that is stored, little by little.

What nobody reads may be damaged for years, and be needed on the day when the copies of the others
are gone. Found early it is healed from them, as all damage is.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from ..errors import Unavailable
from ..limits import SCRUB_PASS_S_MIN, SCRUB_RECORDS
from ..store import View


class Scrub:
    """One pass after the other. One caller at a time."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """`clock`: in seconds, never back."""
        self._clock = clock
        self.verified = 0
        """All that was stored up to this revision has been read since, and was right."""
        self._next = b""
        """Where the pass goes on; b"" = none is under way."""
        self._revision = 0
        """Of the state when the pass began."""
        self._begun_s = -float(SCRUB_PASS_S_MIN)

    def step(self, view: View) -> None:
        """Reads the next piece, unless it is too early for a new pass. Blocks. Raises DataLoss, or
        Unavailable: the state was replaced."""
        if not self._next:
            if self._clock() - self._begun_s < SCRUB_PASS_S_MIN:
                return
            self._begun_s, self._revision = self._clock(), view.revision
        try:
            self._next = view.verify(self._next, SCRUB_RECORDS)
        except Unavailable:
            self.restart()
            raise
        if not self._next:
            self.verified = self._revision

    def restart(self) -> None:
        """The state was replaced: the pass begins anew, at once."""
        self._next, self._begun_s = b"", -float(SCRUB_PASS_S_MIN)
