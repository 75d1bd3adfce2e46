"""Changes of the membership, and what members tell each other besides the log.

Nodes put questions to each other through the engine's `ask`: JSON with the key "ask" first,
answered by {"ok": …} or {"error": {"reason", "text"}}. The kinds are

    discover   who are you, what cluster are you in            any node
    join       take me in                                       forwarded to the leader
    cluster    a change of the membership ("op")                forwarded to the leader
    status     your figures                                     that node only
    marks      your hashes at recent indexes                    that node only
    condemned  your state differs from the majority's           that node only
    welcome    you were added to this cluster                   that node only
    members    do you lead, and whom                            that node only

Every change is idempotent: whoever lost an answer asks again.
"""

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from ..errors import ALL, DfsError, InvalidArgument, NotAMember, OutcomeUnknown, Unavailable
from ..limits import (
    ASK_MS_MAX,
    CLUSTER_MS_MAX,
    CLUSTER_THREADS_MAX,
    CONTACT_MS_MAX,
    LEADER_POLL_MS,
    PROMOTE_LAG_ENTRIES_MAX,
    PROMOTE_RETRY_MS,
)
from .ports import Engine, Failure, Myself, Result
from .tasks import in_thread

log = logging.getLogger("dfs.node")
Answer = dict[str, Any]
Handler = Callable[[Answer], Awaitable[Answer]]
FOREIGN = "belongs to cluster"
"""In the engine's refusal of a caller from another cluster."""
REASONS = {kind.row.reason: kind for kind in ALL}


class Cluster:
    """This node's part in the conversation of the members."""

    def __init__(self, engine: Engine, me: Myself, failure: Callable[[DfsError], Failure]) -> None:
        self._engine, self._me, self._failure = engine, me, failure
        self._pool = ThreadPoolExecutor(CLUSTER_THREADS_MAX, thread_name_prefix="dfs-ask")
        self._handlers: dict[str, Handler] = {"join": self._forward, "cluster": self._forward}
        self._operations: dict[str, Handler] = {
            "join": self._join,
            "add": self._add,
            "promote": self._promote,
            "remove": self._remove,
            "transfer": self._transfer,
        }
        self.cluster_id: Callable[[], bytes] = lambda: b""
        """UUID of the cluster, b"" while there is none."""

    def on(self, ask: str, handler: Handler) -> None:
        """Has `handler` answer questions of the kind `ask`."""
        self._handlers[ask] = handler

    def close(self) -> None:
        """Waits for the threads."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    # ---- asking and answering --------------------------------------------------------------------

    async def answer(self, body: bytes) -> Result:
        """The answer to another node's question; never raises."""
        try:
            question = json.loads(body)
            handler = self._handlers.get(question["ask"])
            if handler is None:
                raise InvalidArgument(f"{self._me.name} does not know the question {question!r}")
            found = {"ok": await handler(question)}
        except DfsError as error:
            found = {"error": {"reason": error.row.reason, "text": error.text}}
        except (ValueError, KeyError, TypeError) as error:
            log.warning("a question that makes no sense: %r: %r", body[:200], error)
            return self._failure(InvalidArgument("the question makes no sense"))
        return json.dumps(found).encode()

    async def ask(self, address: str, question: Answer, timeout_ms: int = ASK_MS_MAX) -> Answer:
        """Asks the node at a peer address.

        Raises what it answered with, NotAMember (it is in another cluster), else Unavailable.
        """
        body = json.dumps(question).encode()
        try:
            answer = json.loads(await self.blocking(self._engine.ask, address, body, timeout_ms))
        except (ConnectionError, TimeoutError) as error:
            raise Unavailable(str(error)) from None
        except Exception as error:  # boundary: EngineError has the other's sentence
            text = str(error) if address in str(error) else f"{address}: {error}"
            raise (NotAMember if FOREIGN in text else Unavailable)(text) from None
        if "error" in answer:
            kind = REASONS.get(answer["error"]["reason"], DfsError)
            raise kind(answer["error"]["text"])
        found: Answer = answer["ok"]
        return found

    async def blocking(self, verb: Callable[..., Any], *arguments: Any) -> Any:
        """Runs a blocking verb of the engine in a thread."""
        return await in_thread(verb, *arguments, pool=self._pool)

    # ---- changes ---------------------------------------------------------------------------------

    async def operate(self, operation: Answer) -> Answer:
        """Makes a change of the membership, on the leader wherever that is.

        `operation`: {"op": "add" | "promote" | "remove" | "transfer" | "join", …}.
        """
        return await self._forward({"ask": "cluster", **operation})

    async def _forward(self, question: Answer) -> Answer:
        operation = question.get("op") or question["ask"]
        handler = self._operations.get(operation)
        if handler is None:
            raise InvalidArgument(f"there is no operation {operation!r}")
        leader = await self._find_leader()
        if leader["id"] == self._me.id:
            return await self._lead(handler, question)
        if question.get("forwarded"):
            raise Unavailable(f"leadership is moving: {self._me.name} does not lead any more")
        forwarded = {**question, "forwarded": True}
        return await self.ask(leader["raft"], forwarded, CLUSTER_MS_MAX)

    async def _lead(self, handler: Handler, question: Answer) -> Answer:
        try:
            return await handler(question)
        except (DfsError, KeyError, TypeError, ValueError):
            raise
        except Exception as error:  # boundary: EngineError of a change that did not come about
            if self._engine.status()["role"] == "leader":
                raise Unavailable(f"the change was not made: {error}") from None
            raise OutcomeUnknown(f"leadership was lost during the change: {error}") from None

    async def _find_leader(self) -> Answer:
        status = self._engine.status()
        if status["role"] == "fresh":
            raise Unavailable(f"{self._me.name} belongs to no cluster yet")
        for member in status["members"]:
            if member["id"] == status["leader"]:
                found: Answer = member
                return found
        raise Unavailable(f"{self._me.name} knows no leader at the moment: {silent(status)}")

    def _member(self, name: str) -> Answer:
        """The member with a name. Raises NotAMember naming those there are."""
        members = self._engine.status()["members"]
        for member in members:
            if member["name"] == name:
                found: Answer = member
                return found
        names = ", ".join(sorted(m["name"] for m in members))
        raise NotAMember(f"{name or 'a node without a name'} is no member; there are {names}")

    async def _join(self, question: Answer) -> Answer:
        name, node_id = str(question["name"]), int(question["id"])
        for member in self._engine.status()["members"]:
            if member["name"] == name and member["id"] != node_id:
                raise NotAMember(
                    f"{name} is already a member, with another data directory: put that back, or"
                    f" run `dfs member remove {name}` first and start {name} again after that"
                )
            if member["raft"] == question["raft"] and member["name"] != name:
                raise NotAMember(
                    f"{question['raft']} is already the address of member {member['name']};"
                    f" start {name} with another -raft or -advertise"
                )
        raft, grpc = str(question["raft"]), str(question["grpc"])
        addresses = [(m["id"], m["raft"], m["grpc"]) for m in self._engine.status()["members"]]
        if (node_id, raft, grpc) not in addresses:
            add = self._engine.add_learner
            await self.blocking(add, node_id, name, raft, grpc, CLUSTER_MS_MAX)
            log.info("%s at %s is a learner of this cluster now", name, raft)
        return {"cluster": self.cluster_id().hex()}

    async def _add(self, question: Answer) -> Answer:
        """Adds a node that waits to be added; it is told so."""
        found = await self.ask(question["raft"], {"ask": "discover"})
        cluster = self.cluster_id().hex()
        if question.get("name") not in ("", None, found["name"]):
            raise NotAMember(f"the node at {question['raft']} is {found['name']}")
        if question.get("id") not in (0, None, found["id"]):
            raise NotAMember(f"the node at {question['raft']} has the id {found['id']}")
        if not (found["cluster"] or found["fresh"]):
            raise NotAMember(f"{found['name']} has data already: empty its data directory first")
        await self._join({**found, "raft": question["raft"]})
        voter = bool(question.get("promote"))
        await self.ask(question["raft"], {"ask": "welcome", "cluster": cluster, "voter": voter})
        return {"cluster": cluster}

    async def _promote(self, question: Answer) -> Answer:
        """A learner that has caught up becomes a voter.

        It asks for itself ("automatic", with the index that it has "applied") again and again, and
        is told the lag while it is too long; for anybody else the leader waits a little.
        """
        until = asyncio.get_running_loop().time() + ASK_MS_MAX / 1000
        while True:
            member = self._member(str(question["name"]))
            if question.get("id") not in (0, None, member["id"]):
                raise NotAMember(f"{member['name']} is a member with another id: it was wiped")
            if member["voter"]:
                return {"voter": True}
            reached = min(member["matched"], question.get("applied", member["matched"]))
            lag = self._engine.status()["last_log"] - reached
            # In a short log the lag alone says little, and a voter that holds nothing would only
            # cost the majority.
            if lag <= PROMOTE_LAG_ENTRIES_MAX and reached and not member["error"]:
                break
            if question.get("automatic"):
                return {"voter": False, "lag": lag}
            if asyncio.get_running_loop().time() > until:
                raise NotAMember(_too_far_behind(member, lag))
            await asyncio.sleep(PROMOTE_RETRY_MS / 1000)
        await self.blocking(self._engine.promote, member["id"], CLUSTER_MS_MAX)
        log.info("%s is a voter now", member["name"])
        return {"voter": True}

    async def _remove(self, question: Answer) -> Answer:
        try:
            member = self._member(str(question["name"]))
        except NotAMember:
            if question.get("again"):
                return {}
            raise
        voters = [m for m in self._engine.status()["members"] if m["voter"]]
        if voters == [member]:
            raise NotAMember(f"{member['name']} is the only voter: without it there is no cluster")
        if member["id"] == self._me.id:
            await self.blocking(self._engine.transfer_leader, 0, CLUSTER_MS_MAX)
            return await self._elsewhere({**question, "again": True})
        await self.blocking(self._engine.remove, member["id"], CLUSTER_MS_MAX)
        log.info("%s is no member any more", member["name"])
        return {}

    async def _elsewhere(self, question: Answer) -> Answer:
        """Repeats a question to the leader that follows this one."""
        async with asyncio.timeout(CLUSTER_MS_MAX / 1000):
            leader = await self._other_leader()
            return await self.ask(leader["raft"], {**question, "forwarded": True}, CLUSTER_MS_MAX)

    async def _transfer(self, question: Answer) -> Answer:
        name = str(question.get("name") or "")
        member = self._member(name) if name else None
        if member and not member["voter"]:
            raise NotAMember(
                f"{name} is a learner, and only a voter can lead: dfs member promote {name}"
            )
        if member and member["id"] == self._me.id:
            return {"leader": name}
        if not any(m["voter"] and m["id"] != self._me.id for m in self._engine.status()["members"]):
            raise NotAMember("there is no other voter that could lead")
        target = member["id"] if member else 0
        await self.blocking(self._engine.transfer_leader, target, CLUSTER_MS_MAX)
        async with asyncio.timeout(CLUSTER_MS_MAX / 1000):
            leader = await self._other_leader()
        log.info("%s leads now", leader["name"])
        return {"leader": leader["name"]}

    async def _other_leader(self) -> Answer:
        """Waits until another node is known to lead."""
        while True:
            try:
                leader = await self._find_leader()
                if leader["id"] != self._me.id:
                    return leader
            except Unavailable as error:
                log.debug("not yet: %s", error)
            await asyncio.sleep(LEADER_POLL_MS / 1000)


def _too_far_behind(member: Answer, lag: int) -> str:
    why = f": {member['error']}" if member["error"] else ""
    return (
        f"{member['name']} is {lag:,} log entries behind{why}; it can become a voter when it"
        f" answers and is at most {PROMOTE_LAG_ENTRIES_MAX:,} behind (PROMOTE_LAG_ENTRIES_MAX)"
    )


def led(status: Answer) -> bool:
    """Somebody leads and is in contact: a leader with a majority, anybody else with the leader."""
    members, leader = status["members"], status["leader"]
    if leader == status["id"]:
        voters = [m for m in members if m["voter"]]
        near = sum(1 for m in voters if m["id"] == leader or _in_contact(m))
        return 2 * near > len(voters)
    return any(m["id"] == leader and _in_contact(m) for m in members)


def _in_contact(member: Answer) -> bool:
    contact_ms: int = member["contact_ms"]
    # Not heard yet is no bad sign right after a start; an error is.
    return contact_ms <= CONTACT_MS_MAX if contact_ms >= 0 else not member["error"]


def silent(status: Answer) -> str:
    """Which members do not answer and why, as far as this node knows."""
    found = [
        f"{m['name']} ({m['raft']}): {m['error']}" for m in status["members"] if m.get("error")
    ]
    return "; ".join(found) or "an election may be under way"
