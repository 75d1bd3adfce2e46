"""Waiting for what has to happen, and what is raised when it does not."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final, TypeVar

from ..errors import DfsError

READY_S: Final = 30.0
POLL_S: Final = 0.05
T = TypeVar("T")


class Violation(AssertionError):
    """A promise is broken: this is a bug, or the harness is wrong."""


class Stuck(Violation):
    """What had to happen did not, in time."""


def require(holds: object, text: str) -> None:
    """Raises Violation with the text unless it holds; other than `assert`, also under -O."""
    if not holds:
        raise Violation(text)


def wait_until(what: str, condition: Callable[[], T | None], timeout_s: float = READY_S) -> T:
    """The condition's first true value. Raises Stuck with `what` and its last exception."""
    end_s = time.monotonic() + timeout_s
    last: Exception | None = None
    while True:
        try:
            if value := condition():
                return value
            last = None
        except (DfsError, OSError) as error:
            last = error
        if time.monotonic() > end_s:
            raise Stuck(f"not within {timeout_s:.0f} s: {what} ({last})")
        time.sleep(POLL_S)
