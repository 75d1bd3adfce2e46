"""A cluster that lost its majority for good: what its survivors hold becomes a new cluster.

The survivor with the most recent log is taken, by Raft's own comparison: by term, then by index. No
other survivor has a committed entry that it lacks. What only lost nodes had is lost, and nobody can
know what that was.

**The uncommitted tail.** Its last entries may be on no majority, for all that it knows. They are
applied nevertheless, unless it is asked otherwise: a leader that is lost may have acknowledged
them, and a writer who got no answer was told that the outcome is unknown, so both outcomes are
right. To drop them can lose acknowledged writes; to apply them can only bring a write to its end.
(hashicorp/raft's RecoverCluster does the same; etcd's --force-new-cluster drops them.)

The new cluster has a new id and new revisions, so whoever comes back of the old one cannot mix in.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from .._version import version
from ..contents import DIRECTORY, path_in
from ..errors import DataLoss, FailedPrecondition, Misconfigured
from ..store import UnknownEntry, backup
from ..store.operations import parse
from ..store.soundness import StateCheck
from .files import appearing
from .places import ENTRY, MEMBERSHIP, NOTHING, Entry, Stopped, opened, rolled
from .restore import Founded, Founder, restore

TAIL_SHOWN_MAX = 20
"""Entries of an uncommitted tail that are shown one by one."""
RECOVERED_AHEAD = 1_000_000
"""So much higher revisions go on: lost nodes may have given away some that no survivor has seen,
and who resumes from one must not take another change for it. A survivor that was there to the end
lacks some thousand; for one that was away longer say more."""


@dataclass
class Survivor:
    """One data directory that is left."""

    directory: str
    name: str
    cluster: str
    term: int
    """Of its last entry."""
    last: int
    committed: int
    """Known to be, here."""
    applied: int
    vote: int
    members: str
    last_time_ns: int
    """When its last entry was proposed; 0 = it does not say."""
    problems: list[str]


@dataclass
class Tail:
    """What the chosen survivor has beyond what is known to be committed on any."""

    count: int = 0
    shown: list[str] = field(default_factory=list)
    """The first of them: revision, operation, key."""


@dataclass
class Plan:
    """What can be done."""

    survivors: list[Survivor]
    chosen: str
    """Directory of the one to take."""
    members: list[str]
    """All members of the old cluster, as the chosen one knows them."""
    lost: list[str]
    """Voters of which nothing is here."""
    majority: int
    """Voters that were needed."""
    tail: Tail
    contents_lacking: int = 0
    """Large contents that the chosen one's state names and that stand in no directory. Damage is
    only found when they are taken."""
    refusal: str = ""
    """Not empty: why it should not be done."""

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        return asdict(self)


@dataclass
class Recovered:
    """What was done."""

    plan: Plan
    backup: str
    founded: Founded
    applied: int
    """Entries of the tail that were applied."""


def plan(directories: Sequence[Path]) -> Plan:
    """Looks at all survivors and changes nothing. Raises Misconfigured, as `opened`."""
    with ExitStack() as stack:
        return _plan([stack.enter_context(opened(directory)) for directory in directories])


def recover(
    directories: Sequence[Path], chosen: Path, target: Path, founder: Founder, file: Path,
    saved_ns: int, *, with_tail: bool = True, ahead: int = RECOVERED_AHEAD,
    sources: Sequence[Path] = (),
) -> Recovered:  # fmt: skip
    """Writes the state that `chosen` holds to the backup `file`, verifies that, and restores it in
    `target`, with the large contents of all survivors. The survivors are not changed.

    `directories`: all survivors, `chosen` among them or not. `sources`: earlier backups, and other
    data directories, that may have large contents which no survivor has. Raises FailedPrecondition:
    the plan says no, or another survivor has a more recent log; Misconfigured, DataLoss, OSError.
    """
    if file.exists():
        raise Misconfigured(f"{file} is there already: a backup never overwrites another")
    if target.exists() and any(target.iterdir()):
        raise Misconfigured(f"{target} is not empty: choose an empty directory for the new cluster")
    everybody = list(dict.fromkeys(p.absolute() for p in (chosen, *directories)))
    with ExitStack() as stack:
        places = [stack.enter_context(opened(directory)) for directory in everybody]
        place = places[0]
        found = _plan(places, place)
        if found.refusal:
            raise FailedPrecondition(found.refusal)
        end = place.last.position if with_tail else max(p.committed for p in places)
        applied = _save(place, end, file, saved_ns)
    backup.verify(file)
    founded = restore(file, target, founder, ahead, [*everybody, *sources])
    return Recovered(found, str(file), founded, applied)


def _save(place: Stopped, end: int, file: Path, saved_ns: int) -> int:
    """Writes the state with the log up to `end` applied; returns the count of those entries."""
    start, purged = place.next_index, place.log_id("purged")
    if purged != NOTHING and start <= purged.position:
        raise DataLoss(
            f"the store of {place.name} has applied {place.meta.applied}, and its log begins at"
            f" {purged.position + 1}: what is between them is not there"
        )
    try:
        store = rolled(place, place.entries(start, end))
    except UnknownEntry as error:
        raise Misconfigured(f"{place.directory}: {error}") from None
    with store.view() as view, appearing(file) as out:
        cluster = place.identity.cluster
        head = backup.head_of(view, cluster, place.name, version(), saved_ns, False)
        encoder = backup.Encoder(view, head)
        for part in encoder.state():
            out.write(part)
        out.write(encoder.end())
    return store.applied - place.meta.applied


# ---- the plan ------------------------------------------------------------------------------------


def _plan(places: Sequence[Stopped], chosen: Stopped | None = None) -> Plan:
    # The one whose log Raft would elect; of equal ones the one that has applied most.
    newest = max(places, key=lambda place: (place.last, not place.damage, place.meta.applied))
    chosen = chosen or newest
    # In Raft a membership counts as soon as it is in the log.
    members = chosen.members_at(chosen.log_id("last").position)
    here = {place.identity.id for place in places}
    lost = sorted(members.names.get(v, str(v)) for v in members.voters - here)
    states = [StateCheck(place.kv) for place in places]
    survivors = list(map(_survivor, places, states))
    found = Plan(
        survivors, str(chosen.directory), sorted(members.names.values()), lost, members.majority,
        _tail(chosen, max(place.committed for place in places)),
    )  # fmt: skip
    clusters = {place.identity.cluster for place in places}
    problems = next(s.problems for s in survivors if s.directory == found.chosen)
    if not problems:
        found.contents_lacking = _lacking(states[places.index(chosen)], places)
    alive = len(members.voters) - len(lost)
    if len(clusters) > 1:
        found.refusal = (
            "these directories belong to different clusters, give those of one: "
            + "; ".join(f"{p.directory} is of {p.identity.cluster.hex() or 'none'}" for p in places)
        )
    elif chosen.last < newest.last:
        found.refusal = (
            f"{newest.directory} has a more recent log than {chosen.directory}: acknowledged writes"
            f" could be lost; take it with --from {newest.directory}"
        )
    elif problems:
        found.refusal = (
            f"{found.chosen} has the most recent log, but is damaged ({problems[0]}): see `dfs"
            f" verify {found.chosen}`; put back a good copy of it, or leave it out and lose what"
            " only it has"
        )
    elif not members.voters:
        found.refusal = f"{found.chosen} knows of no cluster: there is nothing to recover"
    elif alive >= found.majority:
        found.refusal = (
            f"{alive} of {len(members.voters)} voters are here, and {found.majority} are a"
            " majority: start them, nothing is lost then; a lost node is replaced by a new one"
        )
    return found


def _lacking(state: StateCheck, places: Sequence[Stopped]) -> int:
    roots = [place.directory / DIRECTORY for place in places]
    return sum(
        not any(path_in(root, sha256).exists() for root in roots)
        for sha256 in state.contents
    )


def _survivor(place: Stopped, state: StateCheck) -> Survivor:
    vote, last = place.standing["vote"], place.last
    problems = [place.damage] if place.damage else state.problems
    return Survivor(
        str(place.directory), place.name, place.identity.cluster.hex(), last.term, last.position,
        place.committed, place.meta.applied, vote[0] if vote else 0,
        place.members_at(last.position).shown(),
        _last_time_ns(place), [*problems, *place.standing["problems"]],
    )  # fmt: skip


def _last_time_ns(place: Stopped) -> int:
    """Time of the last change that it has: of its log, else of its state."""
    last = place.log_id("last").position
    for entry in place.entries(last, last):
        if entry.kind == ENTRY:
            try:
                return max(parse(entry.payload).entry.time_ns, place.meta.time_ns)
            except UnknownEntry:
                break
    return place.meta.time_ns


def _tail(place: Stopped, committed: int) -> Tail:
    tail = Tail()
    for entry in place.entries(committed + 1, place.log_id("last").position):
        tail.count += 1
        if len(tail.shown) < TAIL_SHOWN_MAX:
            tail.shown.append(f"{entry.id.position} {_described(entry)}")
    return tail


def _described(entry: Entry) -> str:
    if entry.kind != ENTRY:
        return "a membership" if entry.kind == MEMBERSHIP else "the beginning of a term"
    try:
        command = parse(entry.payload)
    except UnknownEntry as error:
        return str(error)
    operation = command.entry.WhichOneof("operation") or "nothing"
    request = command.request
    if operation in ("move", "copy"):
        return f"{operation} {request.source} to {request.target}"
    if operation == "transaction":
        return f"{operation} of {len(command.parts)} operations"
    return f"{operation} {getattr(request, 'key', '')}".rstrip()


def lines(found: Plan) -> Iterator[str]:
    """The plan in sentences, for people."""
    total = len(found.members)
    yield (
        f"of {total} members {', '.join(found.members)}: lost {', '.join(found.lost) or 'none'};"
        f" {found.majority} voters are a majority"
    )
    yield f"the most recent log, by term and index, is in {found.chosen}"
    if found.tail.count:
        yield (
            f"{found.tail.count:,} entries there are not known to be committed; they are applied,"
            " because a lost leader may have acknowledged them (--without-tail drops them):"
        )
        yield from (f"  {line}" for line in found.tail.shown)
        if (more := found.tail.count - len(found.tail.shown)) > 0:
            yield f"  and {more:,} more"
    else:
        yield "all entries there are known to be committed"
    if found.contents_lacking:
        yield (
            f"{found.contents_lacking:,} large contents that it names stand in none of these"
            " directories: those files cannot be read afterwards, unless an earlier backup has them"
            " (--contents-from)"
        )
    if found.lost:
        yield (
            "what only the lost nodes had cannot be known and is lost: they may have acknowledged"
            " writes behind the last entry that is here"
        )
