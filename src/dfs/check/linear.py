"""Linearizability of one key: is there an order of all calls that one register allows?

Every call takes effect at one moment between its begin and its end. The search is that of Wing and
Gong with the cache of Lowe ("Testing for linearizability", 2017): take a call that may be next,
step the register, go on with the rest; never go twice where the same calls were taken and the
register is the same. A call whose outcome is unknown may be taken at any time after its begin, or
never.
"""

from collections import defaultdict
from collections.abc import Iterable
from typing import Final, NamedTuple

from .history import Call, Kind, Outcome

STEPS_MAX: Final = 2_000_000
"""Steps of the search for one key: some seconds. What takes longer is undecided, not correct."""


class Undecided(Exception):
    """The search was given up: the history is too long, or too much of it is unknown."""


class Register(NamedTuple):
    """What a key holds."""

    value: bytes | None = None
    revision: int = 0
    """Of the value; 0: there is none, or nobody was told its revision."""
    floor: int = 0
    """The newest revision that anybody was told of: later ones are higher."""


def not_linearizable(calls: Iterable[Call], steps_max: int = STEPS_MAX) -> str | None:
    """A sentence about the first key whose calls no order explains; raises Undecided."""
    by_key: dict[str, list[Call]] = defaultdict(list)
    for call in calls:
        by_key[call.key].append(call)
    for key, history in sorted(by_key.items()):
        if blamed := _search(history, steps_max):
            return f"{key} is not linearizable: no order of its calls explains {blamed}"
    return None


def step(register: Register, call: Call, revision: int) -> Register | None:
    """What the key holds after the call; None when the call cannot come next. `revision`: the one
    that the call's version is known to have, 0 = none."""
    value, current, floor = register
    if call.kind is Kind.GET:
        fits = value == call.value and (value is None or current in (0, call.revision))
        return register if fits else None
    allowed = _holds(register, call.base)
    if call.kind is Kind.DELETE and value is None:
        allowed = False
    if call.outcome is Outcome.REFUSED:
        unsure = value is not None and current == 0 and call.base not in (None, 0)
        return register if unsure or not allowed else None
    if not allowed or 0 < revision <= floor:
        return None
    written = call.value if call.kind is Kind.PUT else None
    return Register(written, revision if written is not None else 0, max(floor, revision))


def _holds(register: Register, base: int | None) -> bool:
    """The condition may hold."""
    if base is None:
        return True
    if base == 0 or register.value is None:
        return base == 0 and register.value is None
    return register.revision in (0, base)


class _Entry:
    """A begin or an end, in a list ordered by time."""

    __slots__ = ("after", "before", "bit", "call", "end", "revision")

    def __init__(self, call: Call | None = None, bit: int = 0, revision: int = 0) -> None:
        self.call = call
        """None: an end."""
        self.bit, self.revision = bit, revision
        self.end: _Entry | None = None
        self.before: _Entry | None = None
        self.after: _Entry | None = None


def _unlink(entry: _Entry | None) -> None:
    if entry is not None:
        assert entry.before is not None
        entry.before.after = entry.after
        if entry.after is not None:
            entry.after.before = entry.before


def _link(entry: _Entry | None) -> None:
    if entry is not None:
        assert entry.before is not None
        entry.before.after = entry
        if entry.after is not None:
            entry.after.before = entry


def _entries(history: list[Call]) -> tuple[_Entry, dict[int, Call]]:
    """The head of the list, and the call of each end, by id of the entry."""
    seen = {c.value: c.revision for c in history if c.kind is Kind.GET}
    moments: list[tuple[int, int, int, _Entry]] = []
    ended: dict[int, Call] = {}
    for number, call in enumerate(history):
        known = seen.get(call.value, 0) if call.outcome is Outcome.UNKNOWN else call.revision
        begin = _Entry(call, 1 << number, known)
        moments.append((call.begin, 0, number, begin))
        if call.outcome is not Outcome.UNKNOWN:
            begin.end = _Entry()
            ended[id(begin.end)] = call
            moments.append((call.end, 1, number, begin.end))
    head = last = _Entry()
    for *_, entry in sorted(moments, key=lambda moment: moment[:3]):
        last.after, entry.before = entry, last
        last = entry
    return head, ended


def _search(history: list[Call], steps_max: int) -> Call | None:
    """A call that cannot be explained together with those before it, or None."""
    head, ended = _entries(history)
    left = sum(call.outcome is not Outcome.UNKNOWN for call in history)
    register, taken = Register(), 0
    been: set[tuple[int, Register]] = set()
    path: list[tuple[_Entry, Register]] = []
    farthest: tuple[int, Call | None] = (-1, None)
    entry = head.after
    for _ in range(steps_max):
        if left == 0:
            return None
        assert entry is not None, "an end stands behind each call that is left"
        if entry.call is None:  # a call has ended and could not be taken
            if len(path) > farthest[0]:
                farthest = (len(path), ended[id(entry)])
            if not path:
                return farthest[1]
            back, register = path.pop()
            taken ^= back.bit
            _link(back.end)
            _link(back)
            left += back.end is not None
            entry = back.after
            continue
        following = step(register, entry.call, entry.revision)
        place = (taken | entry.bit, following)
        if following is None or place in been:
            entry = entry.after
            continue
        been.add((taken | entry.bit, following))
        path.append((entry, register))
        register, taken = following, taken | entry.bit
        left -= entry.end is not None
        _unlink(entry)
        _unlink(entry.end)
        entry = head.after
    raise Undecided(f"{history[0].key}: {len(history)} calls, given up after {steps_max} steps")
