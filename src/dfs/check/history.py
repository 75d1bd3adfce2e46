"""What one client did and saw, as all checkers read it."""

import enum
from dataclasses import dataclass
from typing import Final

NEVER: Final = (1 << 63) - 1
"""When a call ends of which nobody knows whether it had, or will have, an effect."""


class Kind(enum.Enum):
    """What was called."""

    PUT = "put"
    DELETE = "delete"
    GET = "get"


class Outcome(enum.Enum):
    """What its caller knows of it. A get that failed is no call at all: leave it out."""

    DONE = "done"
    REFUSED = "refused"
    """The state forbade it: its condition did not hold, or what it deletes was not there."""
    UNKNOWN = "unknown"
    """Done, not done, or done later. Calls that were surely not done are left out, too."""


@dataclass(frozen=True, slots=True)
class Call:
    """One call. Each put writes another value, by which reads are told apart."""

    kind: Kind
    key: str
    begin: int
    """Nanoseconds of one clock that all clients share and that never goes back."""
    end: int = NEVER
    outcome: Outcome = Outcome.DONE
    value: bytes | None = None
    """Written by a put, found by a get; None: there was nothing."""
    revision: int = 0
    """That its caller was told; 0 = none."""
    base: int | None = None
    """The condition of a write: the revision that the key must have, 0 = none, None = any."""

    def __post_init__(self) -> None:
        if self.begin > self.end or (self.outcome is Outcome.UNKNOWN) != (self.end == NEVER):
            raise ValueError(f"{self}: it must end after it begins, and just unknown ones never do")
        if self.kind is Kind.PUT and self.value is None:
            raise ValueError(f"{self}: a put has a value")
        if self.kind is not Kind.GET and (self.outcome is Outcome.DONE) != (self.revision > 0):
            raise ValueError(f"{self}: just writes that are done have a revision")

    @property
    def writes(self) -> bool:
        """It is no read."""
        return self.kind is not Kind.GET

    def __str__(self) -> str:
        told = f" at {self.revision}" if self.revision else ""
        base = f" if {self.base}" if self.base is not None else ""
        value = "" if self.kind is Kind.DELETE else f" {self.value!r}"
        until = "?" if self.end == NEVER else str(self.end)
        return (
            f"{self.kind.value} {self.key}{value}{base}: {self.outcome.value}{told} "
            f"[{self.begin}..{until}]"
        )
