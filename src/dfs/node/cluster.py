"""What members tell each other besides the log, and how a change of them finds the leader.

Nodes put questions to each other through the engine's `ask`: JSON with the key "ask" first,
answered by {"ok": …} or {"error": {"reason", "text"}}. The kinds are

    discover   who are you, what cluster are you in            any node
    join       take me in ("replaces": in place of who I was)   forwarded to the leader
    cluster    a change of the membership ("op")                forwarded to the leader
    status     your figures                                     that node only
    marks      your hashes at recent indexes                    that node only
    space      have you space; writes are refused, or not       that node only
    condemned  your state differs from the majority's           that node only
    welcome    you were added to this cluster                   that node only
    members    do you lead, and whom                            that node only
    removed    look whether you still are a member              that node only

Every change is idempotent: whoever lost an answer asks again. What the leader does then stands in
`changes.py`, what a change means in `plans.py`.
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
    PROMOTE_RETRY_MS,
)
from .changes import Changes, Moving
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
        self._changes = Changes(engine, me, self)
        self.removed = ""
        """Why this node is no member any more; "" = it may be one."""
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
            refusal: Answer = {"reason": error.row.reason, "text": error.text}
            if isinstance(error, Moving):
                refusal["moving"] = int(error.unknown)
            found = {"error": refusal}
        except (ValueError, KeyError, TypeError) as error:
            log.warning("a question that makes no sense: %r: %r", body[:200], error)
            return self._failure(InvalidArgument("the question makes no sense"))
        return json.dumps(found).encode()

    async def ask(self, address: str, question: Answer, timeout_ms: int = ASK_MS_MAX) -> Answer:
        """Asks the node at a peer address.

        Raises what it answered with, NotAMember (it is in another cluster), else Unavailable.
        """
        return _told(await self._exchange(address, question, timeout_ms))

    async def ask_others(self, question: Answer) -> dict[int, Answer]:
        """What the other members answer, by id, of those who do: one after the other."""
        status, found = self._engine.status(), {}
        for member in status["members"]:
            if member["id"] != status["id"]:
                try:
                    found[member["id"]] = await self.ask(member["raft"], question)
                except DfsError as error:
                    log.debug("%s does not answer %r: %s", member["name"], question["ask"], error)
        return found

    async def _exchange(self, address: str, question: Answer, timeout_ms: int) -> Answer:
        """The answer of the node at a peer address, whatever it is."""
        body = json.dumps(question).encode()
        try:
            found: Answer = json.loads(
                await self.blocking(self._engine.ask, address, body, timeout_ms)
            )
        except (ConnectionError, TimeoutError) as error:
            raise Unavailable(str(error)) from None
        except Exception as error:  # boundary: EngineError has the other's sentence
            text = str(error) if address in str(error) else f"{address}: {error}"
            raise (NotAMember if FOREIGN in text else Unavailable)(text) from None
        return found

    async def blocking(self, verb: Callable[..., Any], *arguments: Any) -> Any:
        """Runs a blocking verb of the engine in a thread."""
        return await in_thread(verb, *arguments, pool=self._pool)

    # ---- changes ---------------------------------------------------------------------------------

    async def operate(self, operation: Answer) -> Answer:
        """Makes a change of the membership, on the leader wherever that is.

        `operation`: {"op": "add" | "promote" | "remove" | "replace" | "transfer", …}. While
        leadership moves it is asked for again: a change that was made is not made twice.
        """
        question = {"ask": "cluster", **operation, **self._meant(operation)}
        until = asyncio.get_running_loop().time() + CLUSTER_MS_MAX / 1000
        unknown = False
        while True:
            if self.removed:
                # Who leads is told to members only: the one that it knows may be one no more.
                raise (OutcomeUnknown if unknown else Unavailable)(self.removed)
            try:
                return await self._forward(question)
            except Moving as error:
                unknown = unknown or error.unknown
                late = asyncio.get_running_loop().time() > until
                if late or operation.get("automatic"):
                    raise (OutcomeUnknown if unknown else Unavailable)(error.text) from None
            await asyncio.sleep(PROMOTE_RETRY_MS / 1000)

    def _meant(self, operation: Answer) -> Answer:
        """Whom a name means: so that nobody else is meant when this has to be asked twice."""
        found = [m for m in self._engine.status()["members"] if m["name"] == operation.get("name")]
        if not found or operation.get("id") or operation["op"] in ("add", "transfer"):
            return {}
        if operation["op"] == "replace":
            return {"id": found[0]["id"], "raft": operation.get("raft") or found[0]["raft"]}
        return {"id": found[0]["id"]}

    async def _forward(self, question: Answer) -> Answer:
        operation = question.get("op") or question["ask"]
        if not self._changes.knows(operation):
            raise InvalidArgument(f"there is no operation {operation!r}")
        leader = self._leader()
        if leader["id"] == self._me.id:
            return await self._changes.make(operation, question)
        if question.get("forwarded"):
            raise Moving(f"leadership is moving: {self._me.name} does not lead any more")
        forwarded = {**question, "forwarded": True}
        try:
            answer = await self._exchange(leader["raft"], forwarded, CLUSTER_MS_MAX)
        except Unavailable as error:
            raise Moving(error.text, unknown=True) from None
        return _told(answer)

    def _leader(self) -> Answer:
        status = self._engine.status()
        if status["role"] == "fresh":
            raise Unavailable(f"{self._me.name} belongs to no cluster yet")
        for member in status["members"]:
            if member["id"] == status["leader"]:
                found: Answer = member
                return found
        raise Moving(f"{self._me.name} knows no leader at the moment: {silent(status)}")


def _told(answer: Answer) -> Answer:
    """What another node's answer holds. Raises what it was refused with."""
    if "error" not in answer:
        found: Answer = answer["ok"]
        return found
    error = answer["error"]
    if "moving" in error:
        raise Moving(error["text"], unknown=bool(error["moving"]))
    raise REASONS.get(error["reason"], DfsError)(error["text"])


def voters(engine: Engine) -> set[int]:
    """Ids of the members that vote now."""
    return {member["id"] for member in engine.status()["members"] if member["voter"]}


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
