"""Revisions: cluster-wide, each given once, in the order of time, and each one value for ever."""

from collections.abc import Iterable, Iterator

from .history import Call, Kind, Outcome


def out_of_order(calls: Iterable[Call]) -> str | None:
    """A sentence about the first thing that is wrong."""
    history = sorted(calls, key=lambda call: call.begin)
    for problems in (_given_twice(history), _made_up(history), _back_in_time(history)):
        if found := next(problems, None):
            return found
    return None


def _given_twice(history: list[Call]) -> Iterator[str]:
    """Writes are told revisions of their own."""
    given: dict[int, Call] = {}
    for call in history:
        if call.writes and call.revision:
            if other := given.get(call.revision):
                yield f"revision {call.revision} was given twice: {other}, {call}"
            given[call.revision] = call


def _made_up(history: list[Call]) -> Iterator[str]:
    """A read finds what was written under that key, with the revision that the writer was told."""
    written = {call.value: call for call in history if call.kind is Kind.PUT}
    found: dict[int, Call] = {}
    for call in history:
        if call.kind is not Kind.GET or call.value is None:
            continue
        put = written.get(call.value)
        if put is None or put.key != call.key or put.outcome is Outcome.REFUSED:
            yield f"nobody wrote what this read found: {call}"
        elif put.outcome is Outcome.DONE and put.revision != call.revision:
            yield f"written and read with different revisions: {put}, {call}"
        elif put.begin > call.end:
            yield f"read before it was written: {call}, {put}"
        other = found.setdefault(call.revision, call)
        if (other.key, other.value) != (call.key, call.value):
            yield f"one revision, two values: {other}, {call}"


def _back_in_time(history: list[Call]) -> Iterator[str]:
    """A write that begins when another has ended gets a higher revision; a read that begins when
    another call of its key has ended does not find an older version."""
    told = [call for call in history if call.revision]
    ending = sorted(told, key=lambda call: call.end)
    newest: Call | None = None
    newest_of: dict[str, Call] = {}
    at = 0
    for call in told:
        while ending[at].end < call.begin:
            ended = ending[at]
            at += 1
            if newest is None or ended.revision > newest.revision:
                newest = ended
            if ended.revision >= newest_of.get(ended.key, ended).revision:
                newest_of[ended.key] = ended
        before = newest if call.writes else newest_of.get(call.key)
        if before is None:
            continue
        if call.revision < before.revision or (call.writes and call.revision == before.revision):
            yield f"back in time: {before}, and then {call}"
