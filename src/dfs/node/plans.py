"""What a change of the membership does, found out before it is made.

A plan is made from the members that the log's entry `config` names, and holds all members as they
are to be: the engine makes it only if `config` still is what holds. It has at most one vote more or
less, so it is one entry of the log: made or not, never half.

Pure: no clock, no network. What is refused here is refused with what to do instead.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from ..errors import FailedPrecondition, NotAMember
from ..limits import VOTERS_ADVISED_MAX


@dataclass(frozen=True)
class Member:
    """One member, as the leader sees it."""

    id: int
    name: str
    raft: str
    grpc: str
    voter: bool
    silent: bool = False
    """It does not answer the leader."""


@dataclass(frozen=True)
class Members:
    """All members at one moment, and what they can bear."""

    all: tuple[Member, ...]

    @property
    def voters(self) -> tuple[Member, ...]:
        """Those that have a vote."""
        return tuple(m for m in self.all if m.voter)

    @property
    def may_fail(self) -> int:
        """So many voters may fail, whichever they are, and the others are still a majority."""
        return (len(self.voters) - 1) // 2

    @property
    def spare(self) -> int:
        """So many more may fail, given those that are silent now; below 0: there is no majority."""
        answering = sum(1 for m in self.voters if not m.silent)
        return answering - (len(self.voters) // 2 + 1)

    def named(self, name: str) -> Member | None:
        """The member of that name."""
        return next((m for m in self.all if m.name == name), None)

    def with_id(self, number: int) -> Member | None:
        """The member with that id."""
        return next((m for m in self.all if m.id == number), None)


@dataclass(frozen=True)
class Now:
    """Who the members are when a change is planned."""

    config: int
    """Index of the log entry that says so."""
    leader: int
    members: Members


@dataclass(frozen=True)
class Stage:
    """The members from some time on."""

    when: str
    members: Members


@dataclass(frozen=True)
class Plan:
    """One change. The first stage is now, the second is made by the plan, a third comes later, by
    the new member itself."""

    summary: str
    config: int
    stages: tuple[Stage, ...]
    warnings: tuple[str, ...] = ()
    leader_moves: bool = False
    """The leader is to be removed: it hands leadership to another voter first."""

    @property
    def rows(self) -> list[tuple[int, str, str, str, bool]]:
        """The members to be, as `Engine.change` takes them."""
        return [(m.id, m.name, m.raft, m.grpc, m.voter) for m in self.stages[1].members.all]

    @property
    def nothing(self) -> bool:
        """It is so already."""
        return self.stages[0].members == self.stages[1].members


def now_of(status: dict[str, Any], silent: set[int]) -> Now:
    """The members of an engine's `status`; `silent`: ids of those that do not answer."""
    rows = [
        Member(m["id"], m["name"], m["raft"], m["grpc"], m["voter"], m["id"] in silent)
        for m in status["members"]
    ]
    found = Members(tuple(sorted(rows, key=lambda m: (m.name, m.id))))
    return Now(status["config"], status["leader"], found)


# ---- the changes ---------------------------------------------------------------------------------
def add(now: Now, new: Member, vote: bool) -> Plan:
    """`new` becomes a learner, or what is known of its addresses is renewed. `vote`: it will ask
    for its vote when it has caught up."""
    same = now.members.named(new.name)
    if same and same.id != new.id:
        raise _name_is_taken(same, new)
    _address_is_free(now, new)
    if there := now.members.with_id(new.id):
        renewed = replace(there, name=new.name, raft=new.raft, grpc=new.grpc)
        text = f"{new.name} is a member already"
        if renewed != there:
            text = f"the addresses of {new.name} become {new.raft} and {new.grpc}"
        return _plan(now, text, (*_without(now, there.id), renewed), None)
    learner = replace(new, voter=False)
    later = _promoted(learner) if vote else None
    role = "gets its vote when it has caught up" if vote else "stays without a vote"
    return _plan(
        now, f"{new.name} at {new.raft} joins as a learner and {role}",
        (*now.members.all, learner), later,
    )


def promote(now: Now, name: str, number: int = 0, lost: int = 0) -> Plan:
    """A learner gets its vote. That it has caught up is for the caller to see to; `lost`: but for
    so many large contents, which no member has."""
    member = known(now, name, number)
    if member.voter:
        return _plan(now, f"{member.name} is a voter already", now.members.all, None)
    to_be = (*_without(now, member.id), replace(member, voter=True))
    _majority_answers(Members(to_be), f"with the vote of {member.name}")
    plan = _plan(now, f"{member.name} becomes a voter", to_be, None)
    return replace(plan, warnings=(*plan.warnings, without(lost))) if lost else plan


def without(lost: int) -> str:
    """What is said of contents that no member has."""
    return (
        f"{lost:,} large contents are held by no member, so the new voter has not got them either:"
        " `dfs snapshot save` names their files; put those again, or restore a backup that has them"
        " (--contents-from)"
    )


def remove(now: Now, name: str, number: int = 0) -> Plan:
    """A member is none any more. With `number` given it is done already when nobody has that id."""
    if number and not now.members.with_id(number):
        other = now.members.named(name)
        if other is None:
            return _plan(now, f"{name} is no member any more", now.members.all, None)
        raise NotAMember(
            f"{name} is a member with another id ({other.id:x}, not {number:x}): it was replaced"
            " meanwhile, and is left alone"
        )
    member = known(now, name, number)
    left = Members(_without(now, member.id))
    if not left.voters:
        raise NotAMember(f"{member.name} is the only voter: without it there is no cluster")
    _majority_answers(left, f"without {member.name}")
    text = f"{member.name} is removed; its data stay where they are"
    return _plan(now, text, left.all, None, leader_moves=member.id == now.leader)


def swap(now: Now, old: Member, new: Member) -> Plan:
    """`old` is none any more, and `new` joins as a learner and will ask for the vote."""
    if new.id == old.id:
        raise NotAMember(
            f"{old.name} at {new.raft} is the member itself, with its data: there is nothing to"
            " replace"
        )
    same = now.members.named(new.name)
    if same and same.id not in (old.id, new.id):
        raise _name_is_taken(same, new)
    _address_is_free(now, new, but=old.id)
    rest = [m for m in _without(now, old.id) if m.id != new.id]
    there = now.members.with_id(new.id) or replace(new, voter=False)
    learner = replace(there, raft=new.raft, grpc=new.grpc)
    left = Members((*rest, learner))
    if not left.voters:
        raise NotAMember(
            f"{old.name} is the only voter: its data exist nowhere else, so it cannot be replaced"
        )
    _majority_answers(left, f"without {old.name}")
    text = (
        f"{old.name} is removed, and the empty {new.name} at {new.raft} joins in its place; it"
        " gets its vote when it has caught up"
    )
    return _plan(now, text, left.all, _promoted(learner), leader_moves=old.id == now.leader)


# ---- inside --------------------------------------------------------------------------------------
def _plan(
    now: Now, summary: str, to_be: tuple[Member, ...], later: Member | None,
    leader_moves: bool = False,
) -> Plan:
    stages = [Stage("now", now.members), Stage("then", Members(_sorted(to_be)))]
    if later:
        rest = tuple(m for m in to_be if m.id != later.id)
        stages.append(
            Stage(f"when {later.name} has caught up", Members(_sorted((*rest, later))))
        )
    return Plan(summary, now.config, tuple(stages), _warnings(stages), leader_moves)


def _warnings(stages: list[Stage]) -> tuple[str, ...]:
    before, last = stages[0].members, stages[-1].members
    if before == stages[1].members:
        return ()
    found = []
    count = len(last.voters)
    if count % 2 == 0:
        found.append(
            f"{count} voters bear no more failures than {count - 1}, and one more of them has to"
            " answer: an odd number is better"
        )
    if count > VOTERS_ADVISED_MAX:
        found.append(
            f"{count} voters: every write waits for {count // 2 + 1} of them; more than"
            f" {VOTERS_ADVISED_MAX} are seldom worth that (VOTERS_ADVISED_MAX)"
        )
    silent = ", ".join(m.name for m in last.voters if m.silent)
    between = stages[1].members.spare
    if silent and last.spare == 0:
        found.append(f"{silent} does not answer: until it does, no other voter may fail")
    elif between < min(before.spare, last.spare):
        until = stages[-1].when.removeprefix("when ")
        found.append(f"until {until}, {between or 'no'} voter may fail")
    return tuple(found)


def _majority_answers(left: Members, case: str) -> None:
    if left.spare >= 0:
        return
    silent = ", ".join(m.name for m in left.voters if m.silent)
    need = len(left.voters) // 2 + 1
    answering = sum(1 for m in left.voters if not m.silent)
    raise FailedPrecondition(
        f"{case}, only {answering} of {len(left.voters)} voters would answer and {need} are needed:"
        f" nothing could be written any more. Bring back {silent}, or remove or replace that first"
    )


def known(now: Now, name: str, number: int = 0) -> Member:
    """The member with this name and, if it is not 0, this id. Raises NotAMember."""
    member = now.members.named(name)
    if member is None:
        names = ", ".join(sorted(m.name for m in now.members.all))
        raise NotAMember(f"{name or 'a node without a name'} is no member; there are {names}")
    if number not in (0, member.id):
        raise NotAMember(
            f"{name} is a member with another id ({member.id:x}, not {number:x}): it was wiped, or"
            " replaced meanwhile"
        )
    return member


def _name_is_taken(member: Member, new: Member) -> FailedPrecondition:
    if member.silent or member.raft == new.raft:
        return FailedPrecondition(
            f"{member.name} is a member already, with another data directory: put that back, or run"
            f" `dfs member replace {member.name}"
            f"{'' if member.raft == new.raft else f' {new.raft}'}` on any machine, and this empty"
            " node joins in its place"
        )
    return NotAMember(
        f"{member.name} is a member already, and answers at {member.raft}: give each node its own"
        " DFS_ID"
    )


def _address_is_free(now: Now, new: Member, but: int = 0) -> None:
    for member in now.members.all:
        if member.raft == new.raft and member.name != new.name and member.id != but:
            raise NotAMember(
                f"{new.raft} is already the address of member {member.name}; start {new.name} with"
                " another -raft or -advertise"
            )


def _without(now: Now, number: int) -> tuple[Member, ...]:
    return tuple(m for m in now.members.all if m.id != number)


def _promoted(learner: Member) -> Member:
    return replace(learner, voter=True, silent=False)


def _sorted(members: tuple[Member, ...]) -> tuple[Member, ...]:
    return tuple(sorted(members, key=lambda m: (m.name, m.id)))
