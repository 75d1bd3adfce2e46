"""The checkers: no alarm about a correct store, an alarm about each wrong one."""

from __future__ import annotations

import itertools
import random
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dfs.check import (
    NEVER,
    Call,
    Kind,
    Outcome,
    Shown,
    Told,
    Undecided,
    badly_shown,
    badly_told,
    not_linearizable,
    out_of_order,
)

PUT, GET, DELETE = Kind.PUT, Kind.GET, Kind.DELETE
DONE, REFUSED, UNKNOWN = Outcome.DONE, Outcome.REFUSED, Outcome.UNKNOWN
SEEDS = 150


class Store:
    """Correct; subclasses are not."""

    def __init__(self, chance: random.Random) -> None:
        self.chance = chance
        self.revision = 0
        self.now: dict[str, tuple[bytes, int]] = {}
        self.former: dict[str, tuple[bytes, int]] = {}
        self.told: list[Told] = []

    def get(self, key: str) -> tuple[bytes | None, int]:
        return self.now.get(key, (None, 0))

    def next_revision(self) -> int:
        self.revision += 1
        return self.revision

    def refuses(self, call: Call) -> bool:
        value, revision = self.now.get(call.key, (None, 0))
        absent = call.kind is DELETE and value is None
        return absent or (call.base is not None and call.base != revision)

    def write(self, call: Call) -> int:
        """The revision; 0: refused."""
        if self.refuses(call):
            return 0
        revision = self.next_revision()
        self.store(call, revision)
        self.told.append(Told(call.key, revision, call.value))
        return revision

    def store(self, call: Call, revision: int) -> None:
        if call.key in self.now:
            self.former[call.key] = self.now[call.key]
        if call.value is None:
            del self.now[call.key]
        else:
            self.now[call.key] = (call.value, revision)


class LosesWrites(Store):
    def store(self, call: Call, revision: int) -> None:
        if self.chance.random() < 0.8:
            super().store(call, revision)


class ReadsStale(Store):
    def get(self, key: str) -> tuple[bytes | None, int]:
        stale = self.chance.random() < 0.2 and key in self.former
        return self.former[key] if stale else super().get(key)


class GivesRevisionsTwice(Store):
    def next_revision(self) -> int:
        again = self.chance.random() < 0.2 and self.revision > 0
        return self.revision if again else super().next_revision()


class WritesWhatItRefuses(Store):
    def refuses(self, call: Call) -> bool:
        if refused := super().refuses(call):
            super().store(replace(call, value=call.value or b"?"), self.next_revision())
        return refused


class IgnoresConditions(Store):
    def refuses(self, call: Call) -> bool:
        return super().refuses(replace(call, base=None))


class MixesKeys(Store):
    def get(self, key: str) -> tuple[bytes | None, int]:
        other = self.chance.choice(sorted(self.now)) if self.now else key
        return super().get(other if self.chance.random() < 0.2 else key)


class Forgets(Store):
    """As after a restart with an older disk."""

    def get(self, key: str) -> tuple[bytes | None, int]:
        if self.chance.random() < 0.05:
            self.now, self.revision = dict(self.former), max(self.revision - 3, 0)
        return super().get(key)


WRONG = (
    LosesWrites, ReadsStale, GivesRevisionsTwice, WritesWhatItRefuses, IgnoresConditions,
    MixesKeys, Forgets,
)


def play(store: Store, chance: random.Random, steps: int = 80, keys: int = 2) -> list[Call]:
    """What four clients do and see that call the store at the same time; some answers get lost, and
    then the call has its effect later or never."""
    calls: list[Call] = []
    under_way: dict[int, Call] = {}
    orphans: list[Call] = []
    for now in range(1, steps):
        client = chance.randrange(4)
        if orphans and chance.random() < 0.2:
            store.write(orphans.pop(chance.randrange(len(orphans))))
        elif client not in under_way:
            under_way[client] = _call(store, chance, now, keys)
        elif under_way[client].writes and chance.random() < 0.15:
            lost = under_way.pop(client)
            orphans.append(lost)
            calls.append(replace(lost, outcome=UNKNOWN, revision=0, end=NEVER))
        else:
            calls.append(_answered(store, under_way.pop(client), now))
    calls += (
        _answered(store, Call(GET, f"k{n}", steps, steps), steps + 1) for n in range(keys)
    )
    return calls


def _call(store: Store, chance: random.Random, now: int, keys: int) -> Call:
    key = f"k{chance.randrange(keys)}"
    kind = chance.choice((PUT, PUT, GET, GET, GET, DELETE))
    if kind is GET:
        return Call(GET, key, now, now)
    base = chance.choice((None, None, 0, store.now.get(key, (b"", 0))[1]))
    value = b"%d" % now if kind is PUT else None
    return Call(kind, key, now, now, REFUSED, value, base=base)


def _answered(store: Store, call: Call, now: int) -> Call:
    if call.kind is GET:
        value, revision = store.get(call.key)
        return replace(call, end=now, value=value, revision=revision)
    revision = store.write(call)
    outcome = DONE if revision else REFUSED
    return replace(call, end=now, outcome=outcome, revision=revision)


def wrong(calls: list[Call], store: Store) -> str | None:
    last = max((call.revision for call in calls), default=0)
    told = [change for change in store.told if change.revision <= last]
    return not_linearizable(calls) or out_of_order(calls) or badly_told(told, calls, 0, last)


@pytest.mark.parametrize("seed", range(SEEDS))
def test_no_alarm_about_a_correct_store(seed):
    chance = random.Random(seed)
    store = Store(chance)
    assert wrong(play(store, chance), store) is None


@pytest.mark.parametrize("kind", WRONG)
def test_an_alarm_about_each_wrong_store(kind):
    found = 0
    for seed in range(SEEDS):
        chance = random.Random(seed)
        store = kind(chance)
        found += wrong(play(store, chance), store) is not None
    assert found > SEEDS / 3


# ---- linearizability: against all orders ---------------------------------------------------------


def explained(calls: tuple[Call, ...]) -> bool:
    """Some order of all calls, with or without the unknown ones, is what a register does."""
    sure = [call for call in calls if call.outcome is not UNKNOWN]
    unsure = [call for call in calls if call.outcome is UNKNOWN]
    return any(
        in_time(order) and allowed(order)
        for count in range(len(unsure) + 1)
        for some in itertools.combinations(unsure, count)
        for order in itertools.permutations([*sure, *some])
    )


def in_time(order: tuple[Call, ...]) -> bool:
    return not any(two.end < one.begin for one, two in itertools.combinations(order, 2))


def allowed(order: tuple[Call, ...]) -> bool:
    """Without conditions: a register, with revisions that rise."""
    value: bytes | None = None
    revision = floor = 0
    read = {call.value: call.revision for call in order if call.kind is GET}
    for call in order:
        if call.kind is GET:
            if call.value != value or (value is not None and revision not in (0, call.revision)):
                return False
        elif call.outcome is REFUSED:
            if value is not None:
                return False
        elif call.kind is DELETE and value is None:
            return False
        else:
            known = call.revision or read.get(call.value, 0) if call.value else call.revision
            if 0 < known <= floor:
                return False
            value, revision, floor = call.value, known, max(floor, known)
    return True


@st.composite
def small_histories(draw) -> tuple[Call, ...]:
    calls = []
    for number in range(draw(st.integers(1, 5))):
        begin, length = draw(st.integers(0, 6)), draw(st.integers(0, 6))
        kind = draw(st.sampled_from([PUT, PUT, GET, GET, DELETE]))
        times = (begin, begin + length)
        if kind is GET:
            value = draw(st.sampled_from([None, b"0", b"1", b"2", b"3", b"4"]))
            revision = int(value) + 1 if value else 0
            calls.append(Call(GET, "k", *times, value=value, revision=revision))
            continue
        outcome = draw(st.sampled_from([DONE, DONE, UNKNOWN] + [REFUSED] * (kind is DELETE)))
        revision = number + 1 if outcome is DONE else 0
        value = b"%d" % number if kind is PUT else None
        end = NEVER if outcome is UNKNOWN else times[1]
        calls.append(Call(kind, "k", begin, end, outcome, value, revision))
    return tuple(calls)


@given(small_histories())
def test_the_search_finds_an_order_where_there_is_one(calls):
    assert (not_linearizable(calls) is None) == explained(calls)


def test_the_sentence_names_the_call_that_nothing_explains():
    calls = [
        Call(PUT, "k", 0, 1, value=b"old", revision=1),
        Call(PUT, "k", 2, 3, value=b"new", revision=2),
        Call(GET, "k", 4, 5, value=b"old", revision=1),
    ]
    said = not_linearizable(calls)
    assert said == (
        "k is not linearizable: no order of its calls explains get k b'old': done at 1 [4..5]"
    )


def test_a_search_that_takes_too_long_is_undecided():
    unknown = [Call(PUT, "k", 0, NEVER, UNKNOWN, b"%d" % n) for n in range(12)]
    read = Call(GET, "k", 1, 2, value=b"nobody's", revision=5)
    with pytest.raises(Undecided, match="13 calls, given up after 1000 steps"):
        not_linearizable([*unknown, read], steps_max=1_000)


@pytest.mark.parametrize(("fields", "said"), [
    ({"begin": 5, "end": 4}, "end after it begins"),
    ({"end": NEVER}, "just unknown ones never"),
    ({"outcome": UNKNOWN}, "just unknown ones never"),
    ({"value": None}, "a put has a value"),
    ({"revision": 0}, "just writes that are done"),
    ({"outcome": REFUSED}, "just writes that are done"),
])
def test_a_call_that_makes_no_sense_is_refused(fields, said):
    good = Call(PUT, "k", 1, 2, value=b"v", revision=3)
    with pytest.raises(ValueError, match=said):
        replace(good, **fields)


# ---- revisions -----------------------------------------------------------------------------------

A = Call(PUT, "a", 0, 1, value=b"a1", revision=10)
B = Call(PUT, "b", 2, 3, value=b"b1", revision=11)


@pytest.mark.parametrize(("call", "said"), [
    (Call(PUT, "c", 4, 5, value=b"c1", revision=11), "given twice"),
    (Call(PUT, "c", 4, 5, value=b"c1", revision=9), "back in time"),
    (Call(DELETE, "a", 4, 5, revision=9), "back in time"),
    (Call(GET, "a", 4, 5, value=b"??", revision=12), "nobody wrote"),
    (Call(GET, "a", 4, 5, value=b"b1", revision=11), "nobody wrote"),
    (Call(GET, "a", 4, 5, value=b"a1", revision=12), "different revisions"),
    (Call(GET, "b", 0, 1, value=b"b1", revision=11), "read before it was written"),
])
def test_revisions_that_are_wrong(call, said):
    assert said in out_of_order([A, B, call])


def test_reads_that_go_back_in_time():
    newer = Call(PUT, "a", 4, 5, value=b"a2", revision=12)
    reads = [
        Call(GET, "a", 6, 7, value=b"a2", revision=12),
        Call(GET, "a", 8, 9, value=b"a1", revision=10),
    ]
    assert out_of_order([A, B, newer, reads[0]]) is None
    assert "back in time" in out_of_order([A, B, newer, *reads])


def test_calls_at_the_same_time_have_any_order():
    late = Call(PUT, "c", 3, 9, value=b"c1", revision=5)
    early = Call(PUT, "d", 0, 3, value=b"d1", revision=6)
    assert out_of_order([late, early]) is None


# ---- watches -------------------------------------------------------------------------------------

LOST = Call(PUT, "a", 4, NEVER, UNKNOWN, b"a2")
GONE = Call(DELETE, "b", 5, NEVER, UNKNOWN)
TOLD = [Told("a", 10, b"a1"), Told("b", 11, b"b1"), Told("a", 12, b"a2"), Told("b", 13, None)]
CALLS = [A, B, LOST, GONE]


def test_what_a_watcher_is_told_rightly():
    assert badly_told(TOLD, CALLS, 9, 13) is None
    assert badly_told(TOLD[:2], CALLS, 9, 13) is None, "what is unknown need not have happened"
    assert badly_told(TOLD[1:], CALLS, 10, 13) is None
    assert badly_told(TOLD[:1], CALLS, 9, 10) is None
    assert badly_told([TOLD[0], TOLD[2]], CALLS, 9, 13, prefix="a") is None


@pytest.mark.parametrize(("told", "said"), [
    ([TOLD[1]], "left out"),
    ([TOLD[0], TOLD[0], TOLD[1]], "twice"),
    ([TOLD[1], TOLD[0]], "out of order"),
    ([Told("a", 10, b"a3"), TOLD[1]], "told otherwise"),
    ([Told("a", 10, None), TOLD[1]], "told otherwise"),
    ([*TOLD[:2], Told("c", 12, b"c1")], "made up"),
    ([*TOLD[:2], Told("a", 12, None)], "made up"),
    ([*TOLD, Told("a", 14, b"a3")], "not asked for"),
    ([Told("a", 9, b"a0"), *TOLD], "not asked for"),
])
def test_what_a_watcher_is_told_wrongly(told, said):
    assert said in badly_told(told, CALLS, 9, 13)


# ---- mounts --------------------------------------------------------------------------------------

def test_reads_of_a_mount_as_all_assignments_of_versions_judge_them():
    """All sequences of three reads, against all ways to say which version each of them found."""
    told = [Told("a", 1, b"1"), Told("a", 2, None), Told("a", 3, b"2"), Told("a", 4, None)]
    versions = [None, *(change.value for change in told)]
    rights = 0
    for reads in itertools.product([None, b"1", b"2", b"3"], repeat=3):
        right = any(
            [versions[i] for i in places] == list(reads)
            for places in itertools.combinations_with_replacement(range(len(versions)), 3)
        )
        rights += right
        said = badly_shown([Shown("a", value) for value in reads], told)
        assert (said is None) is right, (reads, said)
    assert rights == 18


def test_what_a_mount_shows_wrongly():
    told = [Told("a", 1, b"1"), Told("b", 2, b"2"), Told("a", 3, b"3")]
    new = [Shown("a", b"3"), Shown("b", b"2")]
    assert badly_shown(new, told) is None
    assert badly_shown([Shown("c", None)], told) is None
    assert "back in time: a" in badly_shown([*new, Shown("a", b"1")], told)
    assert "back in time: b" in badly_shown([*new, Shown("b", None)], told)
    assert "no version: b" in badly_shown([Shown("b", b"1")], told)
