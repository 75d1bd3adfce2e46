"""What plans of membership changes say, against counting out every case."""

from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dfs.errors import DfsError, FailedPrecondition, NotAMember
from dfs.node.plans import Member, Members, Now, Plan, add, promote, remove, swap

NAMES = [f"node{n}" for n in range(1, 10)]


def member(number: int, voter: bool = True, silent: bool = False, **fields) -> Member:
    name = fields.pop("name", f"node{number}")
    return Member(number, name, fields.pop("raft", f"{name}:1"), f"{name}:2", voter, silent)


@st.composite
def situations(draw) -> Now:
    """Up to nine members, one of them leading; a majority answers it, for without one it would not
    lead."""
    count = draw(st.integers(1, 9))
    roles = draw(st.lists(st.sampled_from(["voter", "silent", "learner"]), min_size=count - 1,
                          max_size=count - 1))
    rows = [member(1), *(
        member(n, role != "learner", role == "silent") for n, role in enumerate(roles, 2)
    )]
    while Members(tuple(rows)).spare < 0:
        rows.remove(next(m for m in rows if m.silent))
    return Now(draw(st.integers(1, 1 << 40)), 1, Members(tuple(rows)))


def plans_of(now: Now) -> list[Plan | DfsError]:
    """Every change that can be asked for."""
    new = member(50, voter=False)
    asked = [lambda vote=vote: add(now, new, vote) for vote in (False, True)]
    for m in now.members.all:
        asked += [
            lambda m=m: promote(now, m.name), lambda m=m: remove(now, m.name),
            lambda m=m: remove(now, m.name, m.id), lambda m=m: swap(now, m, new),
            lambda m=m: swap(now, m, member(60, name=m.name)),
        ]
    found: list[Plan | DfsError] = []
    for make in asked:
        try:
            found.append(make())
        except DfsError as error:
            found.append(error)
    return found


def bears(voters: tuple[Member, ...], failed: tuple[Member, ...]) -> bool:
    """The voters that have not failed are more than half."""
    return 2 * (len(voters) - len(failed)) > len(voters)


def most(voters: tuple[Member, ...], already: tuple[Member, ...]) -> int:
    """The largest number of further failures that is always borne, counted out; -1 = not even 0."""
    others = [m for m in voters if m not in already]
    count = -1
    while count < len(others) and all(
        bears(voters, (*already, *more)) for more in combinations(others, count + 1)
    ):
        count += 1
    return count


@given(situations())
def test_what_may_fail_is_what_counting_out_says(now):
    """What a plan says about failures is true: it is compared with every set of voters that may
    fail, before and after the change."""
    for plan in plans_of(now):
        if isinstance(plan, DfsError):
            continue
        for stage in plan.stages:
            voters = stage.members.voters
            assert stage.members.may_fail == most(voters, ())
            silent = tuple(m for m in voters if m.silent)
            assert max(stage.members.spare, -1) == most(voters, silent)


@given(situations())
def test_every_majority_before_meets_every_majority_after(now):
    """So that two leaders can never be elected side by side: one vote more or less, never more."""
    for plan in plans_of(now):
        if isinstance(plan, DfsError):
            continue
        for before, after in zip(plan.stages, plan.stages[1:], strict=False):
            old = {m.id for m in before.members.voters}
            new = {m.id for m in after.members.voters}
            assert len(old ^ new) <= 1
            for one in majorities(old):
                assert all(one & other for other in majorities(new))


def majorities(ids: set[int]) -> list[set[int]]:
    """The smallest ones: all others hold one of these."""
    return [set(c) for c in combinations(sorted(ids), len(ids) // 2 + 1)]


@given(situations())
def test_no_plan_ends_the_majority_and_what_is_refused_would_have(now):
    for plan in plans_of(now):
        if isinstance(plan, Plan):
            assert plan.stages[1].members.spare >= 0
            assert plan.stages[1].members.voters
        else:
            assert isinstance(plan, NotAMember | FailedPrecondition)
    for m in now.members.all:
        left = tuple(o for o in now.members.all if o is not m)
        voters = tuple(o for o in left if o.voter)
        silent = tuple(o for o in voters if o.silent)
        refused = not voters or not bears(voters, silent)
        assert refused == (not made(lambda m=m: remove(now, m.name)))
        assert refused == (not made(lambda m=m: swap(now, m, member(50))))


def made(make) -> bool:
    try:
        return bool(make())
    except DfsError:
        return False


@given(situations())
def test_plans_leave_the_others_as_they_are(now):
    new = member(50, voter=False)
    before = {m.id: m for m in now.members.all}
    for plan in plans_of(now):
        if isinstance(plan, Plan):
            after = {m.id: m for m in plan.stages[1].members.all}
            changed = {i for i in before.keys() | after.keys() if before.get(i) != after.get(i)}
            assert len(changed - {new.id, 60}) <= 1
            assert plan.nothing == (not changed)
            assert [row[0] for row in plan.rows] == sorted(after, key=lambda i: after[i].name)


THREE = Now(17, 1, Members((member(1), member(2), member(3))))
ONE_SILENT = Now(17, 1, Members((member(1), member(2), member(3, silent=True))))


def test_what_the_user_is_warned_of():
    assert remove(THREE, "node3").warnings == (
        "2 voters bear no more failures than 1, and one more of them has to answer: an odd number"
        " is better",
    )
    assert add(THREE, member(4, voter=False), False).warnings == ()
    assert "4 voters bear no more failures than 3" in add(THREE, member(4), True).warnings[0]
    assert add(ONE_SILENT, member(4), True).warnings[1:] == (
        "node3 does not answer: until it does, no other voter may fail",
    )
    assert swap(THREE, THREE.members.all[2], member(4)).warnings == (
        "until node4 has caught up, no voter may fail",
    )
    assert swap(ONE_SILENT, ONE_SILENT.members.all[2], member(4)).warnings == ()
    many = Now(17, 1, Members(tuple(member(n) for n in range(1, 9))))
    assert any("VOTERS_ADVISED_MAX" in w for w in add(many, member(9), True).warnings)


def test_the_leader_hands_over_before_it_goes():
    assert remove(THREE, "node1").leader_moves
    assert not remove(THREE, "node2").leader_moves
    assert swap(THREE, THREE.members.all[0], member(4)).leader_moves


def test_who_is_meant_by_an_id_is_nobody_else():
    with pytest.raises(NotAMember, match=r"node2 is a member with another id \(2, not 63\)"):
        remove(THREE, "node2", 99)
    with pytest.raises(NotAMember, match="it was wiped, or replaced meanwhile"):
        promote(THREE, "node2", 99)
    assert remove(THREE, "node4", 4).nothing


def test_a_name_or_an_address_that_is_taken():
    with pytest.raises(NotAMember, match="node2 is a member already, and answers at node2:1"):
        add(THREE, member(9, name="node2", raft="elsewhere:1"), True)
    with pytest.raises(FailedPrecondition, match="run `dfs member replace node3` on any machine"):
        add(ONE_SILENT, member(9, name="node3"), True)
    with pytest.raises(FailedPrecondition, match="`dfs member replace node3 elsewhere:1`"):
        add(ONE_SILENT, member(9, name="node3", raft="elsewhere:1"), True)
    with pytest.raises(NotAMember, match="node2:1 is already the address of member node2"):
        add(THREE, member(9, raft="node2:1"), True)
    with pytest.raises(NotAMember, match="node2 is a member already"):
        swap(THREE, THREE.members.all[2], member(9, name="node2", raft="x:1"))


def test_addresses_are_renewed_and_the_vote_stays():
    moved = add(THREE, member(2, raft="new:1"), True)
    assert moved.stages[1].members.with_id(2) == member(2, raft="new:1")
    assert add(THREE, member(2), True).nothing
