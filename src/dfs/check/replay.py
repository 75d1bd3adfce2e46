"""What a watcher was told: each change once, in order, none left out, none made up.

For calls that change one key each.
"""

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from .history import Call, Kind, Outcome


@dataclass(frozen=True, slots=True)
class Told:
    """One change, as a watcher heard of it."""

    key: str
    revision: int
    value: bytes | None
    """None: the key was deleted."""


def badly_told(
    told: Sequence[Told], calls: Iterable[Call], after: int, until: int, prefix: str = ""
) -> str | None:
    """A sentence about the first thing that is wrong with what a watcher of `prefix` was told.

    It asked for what came after the revision `after`, and was told all up to `until`, which some
    message has said. A watch that was resumed is one watch: its parts behind each other.
    """
    for one, two in itertools.pairwise(told):
        if two.revision <= one.revision:
            return f"twice, or out of order: {one}, and then {two}"
    for change in told:
        if not after < change.revision <= until or not change.key.startswith(prefix):
            return f"not asked for: {change} (after {after}, until {until}, prefix {prefix!r})"
    return _left_out_or_made_up(told, list(calls), after, until, prefix)


def _left_out_or_made_up(
    told: Sequence[Told], calls: list[Call], after: int, until: int, prefix: str
) -> str | None:
    heard = {change.revision: change for change in told}
    done = {call.revision: call for call in calls if call.writes and call.outcome is Outcome.DONE}
    for revision, call in sorted(done.items()):
        if not (after < revision <= until and call.key.startswith(prefix)):
            continue
        if revision not in heard:
            return f"left out: {call}"
        change = heard[revision]
        if (change.key, change.value) != (call.key, call.value):
            return f"told otherwise: {call} as {change}"
    unknown = [call for call in calls if call.writes and call.outcome is Outcome.UNKNOWN]
    written = {call.value: call.key for call in unknown if call.kind is Kind.PUT}
    deleted = {call.key for call in unknown if call.kind is Kind.DELETE}
    for change in told:
        if change.revision in done:
            continue
        maybe = change.key in deleted if change.value is None else (
            written.get(change.value) == change.key
        )
        if not maybe:
            return f"made up: {change}"
    return None
