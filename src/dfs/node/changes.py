"""The leader's side of a change of the membership: found out, planned, made, one after the other.

A change that waited for another is planned on what is there after it, unless its caller names the
configuration that it was meant for. A caller who repeats himself because an answer was lost is told
that it is done: what counts is who is a member, by id.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import asdict
from typing import Any, Protocol

from ..errors import (
    DfsError,
    FailedPrecondition,
    NotAMember,
    OutcomeUnknown,
    Overloaded,
    Unavailable,
)
from ..limits import (
    ASK_MS_MAX,
    CHANGES_WAITING_MAX,
    CLUSTER_MS_MAX,
    CONTACT_MS_MAX,
    LEADER_POLL_MS,
    PROMOTE_LAG_ENTRIES_MAX,
    PROMOTE_RETRY_MS,
)
from . import plans
from .plans import Member, Now, Plan
from .ports import Engine, Myself

log = logging.getLogger("dfs.node")
Answer = dict[str, Any]


class Moving(Unavailable):
    """Leadership is moving, so that somebody else has to be asked; asking again does no harm."""

    def __init__(self, text: str, unknown: bool = False) -> None:
        super().__init__(text)
        self.unknown = unknown
        """The change may have been made."""


class Asking(Protocol):
    """How this node talks to others."""

    cluster_id: Callable[[], bytes]

    async def ask(self, address: str, question: Answer, timeout_ms: int = ...) -> Answer:
        """Asks the node at a peer address. Raises DfsError."""

    async def blocking(self, verb: Callable[..., Any], *arguments: Any) -> Any:
        """Runs a blocking verb of the engine in a thread."""


class Changes:
    """Makes changes while this node leads."""

    def __init__(self, engine: Engine, me: Myself, asking: Asking) -> None:
        self._engine, self._me, self._asking = engine, me, asking
        self._lock = asyncio.Lock()
        self._waiting = 0
        self._operations: dict[str, Callable[[Answer], Awaitable[Answer]]] = {
            "join": self._join,
            "add": self._add,
            "promote": self._promote,
            "remove": self._remove,
            "replace": self._replace,
            "transfer": self._transfer,
        }

    def knows(self, operation: str) -> bool:
        """There is such an operation."""
        return operation in self._operations

    async def make(self, operation: str, question: Answer) -> Answer:
        """Carries out an operation, or with "dry_run" only says what it would do.

        Raises DfsError; Moving when another node leads, or may by now.
        """
        try:
            return await self._operations[operation](question)
        except (DfsError, KeyError, TypeError, ValueError):
            raise
        except TimeoutError as error:
            if self._leads():
                raise OutcomeUnknown(str(error)) from None
            raise Moving(str(error), unknown=True) from None
        except Exception as error:  # boundary: EngineError of a change that surely was not made
            text = f"the change was not made: {error}"
            raise (Unavailable if self._leads() else Moving)(text) from None

    # ---- operations ------------------------------------------------------------------------------

    async def _join(self, question: Answer) -> Answer:
        """A node asks for itself. What "replaces" names is its own former id: it lost its data."""
        new = _member(question)
        old = self._now().members.named(new.name)
        if old and old.id != new.id and old.id == question.get("replaces"):
            if why := await self._life_of(old):
                raise Unavailable(f"{why}: {new.name} can join in its place when it is gone")
            return await self._carry_out(question, lambda now: _swap(now, old.name, old.id, new))
        return await self._carry_out(question, lambda now: plans.add(now, new, True))

    async def _add(self, question: Answer) -> Answer:
        """Adds a node that waits to be added; it is told so."""
        found = await self._found(question)
        vote = bool(question.get("promote"))
        done = await self._carry_out(
            question, lambda now: plans.add(now, _member(found), vote)
        )
        await self._welcome(question, found, vote)
        return done

    async def _replace(self, question: Answer) -> Answer:
        """An empty node takes the place of a member that is gone."""
        name, number = str(question["name"]), int(question.get("id") or 0)
        members = self._now().members
        old = members.with_id(number) or members.named(name)
        raft = str(question.get("raft") or (old.raft if old else ""))
        if not raft:
            plans.known(self._now(), name)  # says which members there are
        found = await self._found({"raft": raft})
        new = _member(found)
        if old and old.id != new.id and not question.get("force"):
            await self._must_be_gone(old)
        gone = number or (old.id if old else 0)
        done = await self._carry_out(question, lambda now: _swap(now, name, gone, new))
        await self._welcome(question, found, True)
        return done

    async def _promote(self, question: Answer) -> Answer:
        """A learner that has caught up becomes a voter.

        It asks for itself ("automatic", with the index that it has "applied") again and again, and
        is told the lag while it is too long; for anybody else the leader waits a little.
        """
        name, number = str(question["name"]), int(question.get("id") or 0)
        until = asyncio.get_running_loop().time() + ASK_MS_MAX / 1000
        lost = 0
        while not plans.promote(self._now(), name, number).nothing:
            member = next(m for m in self._engine.status()["members"] if m["name"] == name)
            reached = min(member["matched"], question.get("applied", member["matched"]))
            lag = self._engine.status()["last_log"] - reached
            # In a short log the lag alone says little, and a voter that holds nothing would only
            # cost the majority.
            near = lag <= PROMOTE_LAG_ENTRIES_MAX and reached and not member["error"]
            missing, lost = await self._missing(member, question) if near else (0, 0)
            if near and missing <= lost:
                break
            if question.get("automatic"):
                return {"voter": False, "lag": lag, "missing": missing - lost}
            if asyncio.get_running_loop().time() > until:
                raise NotAMember(_too_far_behind(member, lag, missing - lost))
            await asyncio.sleep(PROMOTE_RETRY_MS / 1000)
        done = await self._carry_out(question, lambda now: plans.promote(now, name, number, lost))
        if lost and not question.get("dry_run"):
            log.warning("%s is a voter now: %s", name, plans.without(lost))
        return {**done, "voter": True}

    async def _missing(self, member: Answer, question: Answer) -> tuple[int, int]:
        """How many large contents a learner lacks, and how many of them no member has. For the
        others it would be counted on as a voter."""
        if question.get("automatic"):
            return int(question.get("missing", 0)), int(question.get("lost", 0))
        found = await self._asking.ask(member["raft"], {"ask": "status"})
        return int(found["contents_missing"]), int(found.get("contents_lost", 0))

    async def _remove(self, question: Answer) -> Answer:
        name, number = str(question["name"]), int(question.get("id") or 0)
        return await self._carry_out(question, lambda now: plans.remove(now, name, number))

    async def _transfer(self, question: Answer) -> Answer:
        name = str(question.get("name") or "")
        members = self._now().members
        member = plans.known(self._now(), name) if name else None
        if member and not member.voter:
            raise NotAMember(
                f"{name} is a learner, and only a voter can lead: dfs member promote {name}"
            )
        if member and member.id == self._me.id:
            return {"leader": name}
        if not any(m.id != self._me.id for m in members.voters):
            raise NotAMember("there is no other voter that could lead")
        leader = await self._hand_over(member.id if member else 0)
        return {"leader": leader}

    # ---- carrying out ----------------------------------------------------------------------------

    async def _carry_out(self, question: Answer, plan_for: Callable[[Now], Plan]) -> Answer:
        """Makes the change that `plan_for` plans, when it is its turn."""
        async with self._turn():
            now = await self._observed()
            plan = plan_for(now)
            if not plan.nothing:
                meant = question.get("config")
                if meant not in (None, now.config):
                    raise FailedPrecondition(_changed_meanwhile(meant, now))
                if not question.get("dry_run"):
                    await self._change(plan)
            config = self._engine.status()["config"]
            cluster = self._asking.cluster_id().hex()
            return {"cluster": cluster, "config": config, "plan": _shown(plan, now)}

    async def _change(self, plan: Plan) -> None:
        if plan.leader_moves:
            leader = await self._hand_over(0)
            raise Moving(f"{leader} leads now and makes the change: ask it")
        await self._asking.blocking(self._engine.change, plan.config, plan.rows, CLUSTER_MS_MAX)
        log.info("the members have changed: %s", plan.summary)
        before, then = (stage.members for stage in plan.stages[:2])
        await asyncio.gather(
            *(self._tell_removed(m) for m in before.all if not (m.silent or then.with_id(m.id)))
        )

    async def _tell_removed(self, member: Member) -> None:
        try:
            await self._asking.ask(member.raft, {"ask": "removed"})
        except DfsError as error:
            log.info("%s will find out by itself that it was removed: %s", member.name, error)

    async def _hand_over(self, to: int) -> str:
        """Moves leadership; the name of who leads then."""
        await self._asking.blocking(self._engine.transfer_leader, to, CLUSTER_MS_MAX)
        until = asyncio.get_running_loop().time() + CLUSTER_MS_MAX / 1000
        while asyncio.get_running_loop().time() < until:
            status = self._engine.status()
            for member in status["members"]:
                if member["id"] == status["leader"] != self._me.id:
                    log.info("%s leads now", member["name"])
                    return str(member["name"])
            await asyncio.sleep(LEADER_POLL_MS / 1000)
        raise Moving(f"{self._me.name} has handed leadership over, and knows no leader since")

    @asynccontextmanager
    async def _turn(self) -> AsyncIterator[None]:
        """One change at a time: waits for those that came before."""
        if self._waiting >= CHANGES_WAITING_MAX:
            raise Overloaded(
                f"{self._waiting} changes of the membership wait already (CHANGES_WAITING_MAX);"
                " try again when they are made"
            )
        self._waiting += 1
        try:
            async with self._lock:
                yield
        finally:
            self._waiting -= 1

    async def _found(self, question: Answer) -> Answer:
        """The node that waits at an address, which must be what the question says it is."""
        at = str(question["raft"])
        try:
            found = await self._asking.ask(at, {"ask": "discover"})
        except Unavailable as error:
            raise NotAMember(
                f"no node waits at {at} to be taken in ({error}): start it there with an empty data"
                " directory first"
            ) from None
        if question.get("name") not in ("", None, found["name"]):
            raise NotAMember(f"the node at {at} is {found['name']}")
        if question.get("id") not in (0, None, found["id"]):
            raise NotAMember(f"the node at {at} has the id {found['id']:x}")
        if not (found["cluster"] or found["fresh"]):
            raise NotAMember(f"{found['name']} has data already: empty its data directory first")
        return {**found, "raft": at}

    async def _welcome(self, question: Answer, found: Answer, vote: bool) -> None:
        """Tells a node that it was added; whoever repeats the operation repeats this."""
        member = self._now().members.with_id(found["id"])
        if question.get("dry_run") or member is None or member.voter:
            return
        cluster = self._asking.cluster_id().hex()
        welcome = {"ask": "welcome", "cluster": cluster, "voter": vote}
        await self._asking.ask(found["raft"], welcome)

    async def _must_be_gone(self, member: Member) -> None:
        if why := await self._life_of(member):
            raise FailedPrecondition(
                f"{why}: only a member that is gone is replaced. Stop it first; if it is to go all"
                " the same, use --force"
            )

    async def _life_of(self, member: Member) -> str:
        """A sign of life of a member; "" = there is none."""
        if member.id == self._me.id:
            return f"{member.name} leads"
        until = asyncio.get_running_loop().time() + CONTACT_MS_MAX / 1000
        while True:
            number = await self._who_is_at(member.raft)
            if number == member.id:
                return f"{member.name} answers at {member.raft}"
            contacts = {m["id"]: m["contact_ms"] for m in self._engine.status()["members"]}
            heard_ms = contacts.get(member.id, -1)
            if number or not 0 <= heard_ms <= CONTACT_MS_MAX:
                return ""
            if asyncio.get_running_loop().time() > until:
                return f"{member.name} was heard {heard_ms} ms ago"
            await asyncio.sleep(PROMOTE_RETRY_MS / 1000)

    async def _who_is_at(self, address: str) -> int:
        """The id of the node that answers at a peer address; 0 = none does."""
        try:
            return int((await self._asking.ask(address, {"ask": "discover"}))["id"])
        except DfsError as error:
            log.debug("no answer: %s", error)
            return 0

    async def _observed(self) -> Now:
        """The members, after each was asked: who is silent is silent now."""
        members = [m for m in self._engine.status()["members"] if m["id"] != self._me.id]
        there = await asyncio.gather(*(self._who_is_at(m["raft"]) for m in members))
        silent = {m["id"] for m, number in zip(members, there, strict=True) if m["id"] != number}
        return plans.now_of(self._engine.status(), silent)

    def _now(self) -> Now:
        return plans.now_of(self._engine.status(), set())

    def _leads(self) -> bool:
        return bool(self._engine.status()["role"] == "leader")


def _member(found: Answer) -> Member:
    """A node by its answer to "discover", or its question "join"."""
    number, name = int(found["id"]), str(found["name"])
    return Member(number, name, str(found["raft"]), str(found["grpc"]), False)


def _swap(now: Now, name: str, gone: int, new: Member) -> Plan:
    """In place of the member with the id `gone`; if it was removed meanwhile, beside the others."""
    old = now.members.with_id(gone) if gone else plans.known(now, name)
    return plans.swap(now, old, new) if old else plans.add(now, new, True)


def _changed_meanwhile(meant: int, now: Now) -> str:
    voters = ", ".join(m.name for m in now.members.voters)
    learners = ", ".join(m.name for m in now.members.all if not m.voter)
    return (
        f"the members have changed: this was meant for configuration {meant}, now it is"
        f" {now.config} with the voters {voters}"
        f"{f' and the learners {learners}' if learners else ''}. Look at the new plan and try again"
    )


def _too_far_behind(member: Answer, lag: int, missing: int) -> str:
    if missing:
        return (
            f"{member['name']} has yet to get {missing:,} large contents; it can become a voter"
            " when it has them all, as the others will count on it then"
        )
    why = f": {member['error']}" if member["error"] else ""
    return (
        f"{member['name']} is {lag:,} log entries behind{why}; it can become a voter when it"
        f" answers and is at most {PROMOTE_LAG_ENTRIES_MAX:,} behind (PROMOTE_LAG_ENTRIES_MAX)"
    )


def _shown(plan: Plan, now: Now) -> Answer:
    """A plan as protobuf's JSON mapping has it."""
    stages = [
        {
            "when": stage.when,
            "voters": len(stage.members.voters),
            "may_fail": stage.members.may_fail,
            "spare": stage.members.spare,
            "members": [
                {**asdict(m), "leader": m.id == now.leader} for m in stage.members.all
            ],
        }
        for stage in plan.stages
    ]
    return {
        "summary": plan.summary, "config": plan.config, "stages": stages,
        "warnings": list(plan.warnings), "leader_moves": plan.leader_moves,
        "nothing": plan.nothing,
    }
