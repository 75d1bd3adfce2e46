"""What was read where nobody says a revision, as in a mount: whole versions, and never back."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from .replay import Told


@dataclass(frozen=True, slots=True)
class Shown:
    """One read of one reader, in the order of its reads."""

    key: str
    value: bytes | None
    """None: there was nothing."""


def badly_shown(shown: Iterable[Shown], told: Sequence[Told]) -> str | None:
    """A sentence about the first read that found what no version of its key is, or one that is
    older than what the same reader found before.

    `told`: all changes of these keys, in order, from before the first read; nothing was there
    before. No two puts write the same value.
    """
    versions: dict[str, list[bytes | None]] = {}
    for change in told:
        versions.setdefault(change.key, [None]).append(change.value)
    at: dict[str, int] = {}
    for read in shown:
        history = versions.get(read.key, [None])
        begin = at.get(read.key, 0)
        try:
            at[read.key] = history.index(read.value, begin)
        except ValueError:
            if read.value in history:
                now = history[begin]
                return f"back in time: {read.key} showed {read.value!r} after {now!r}"
            return f"no version: {read.key} showed {read.value!r}"
    return None
