"""How a node with an empty data directory becomes a member.

    no peers     it is a cluster of one
    peers        its list is the peers and itself, whether or not it is named among them; it joins
                 any of them that is in a cluster; when all are fresh and have the same list, the
                 first of it starts the cluster alone, and the others join

Whoever is in a cluster already stays in it: the log is the truth about membership, and peers only
help to notice a cluster of another origin. Everything here may be interrupted and repeated.
"""

import asyncio
import logging
import uuid
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from typing import Any

from ..errors import DfsError, FailedPrecondition, Misconfigured, NotAMember, Unavailable
from ..identity import Identity
from ..limits import (
    CLUSTER_MS_MAX,
    JOIN_RETRY_MS,
    JOINED_LOOK_MS,
    PROMOTE_RETRY_MS,
    VOTE_CHECK_MS,
)
from .cluster import Answer, Cluster, led
from .ports import Engine, Myself
from .tasks import SayOnce

log = logging.getLogger("dfs.node")
WENT_BACK = (
    "the log ends at entry {}, and {} was acknowledged to the leader: the data directory was put"
    " back to an old copy"
)
REMOVED = (
    "{} is no member of its cluster any more, it was removed: stop it; to let it join again, empty"
    " its data directory and start it with -peers"
)


class Joining:
    """Makes this node a member, and then a voter."""

    def __init__(
        self,
        engine: Engine,
        cluster: Cluster,
        identity: Identity,
        me: Myself,
        peers: Sequence[str],
    ) -> None:
        self._engine, self._cluster, self._identity, self._me = engine, cluster, identity, me
        self._others = sorted(set(peers) - {me.raft})
        self._list = sorted({*peers, me.raft})
        self._starts = self._list[0] == me.raft
        self._say = SayOnce()
        self._news = asyncio.Event()
        """Something has changed since the others were asked: this node need not wait to ask again.
        """
        self._tells_news = True
        """The others do not know yet that this node is there, or that it has started a cluster."""
        self.missing: Callable[[], tuple[int, int]] = lambda: (0, 0)
        """How many large contents this node lacks, and how many of those no member has: before it
        has all others it is no voter, as it would be counted on for them."""
        self.removed = ""
        """Not empty: this node is no member any more; what to do."""
        self.on_removal: Callable[[str], None] = lambda _removed: None
        """Called with that when it changes."""
        cluster.on("discover", self._discover)
        cluster.on("welcome", self._welcome)
        cluster.on("members", self._who_are_members)
        cluster.on("removed", self._removed)
        cluster.cluster_id = lambda: identity.cluster

    async def become_member(self) -> None:
        """Returns once the node belongs to a cluster, however long that takes.

        Raises Misconfigured when it never can: its name is taken, peers of another cluster.
        """
        if self._identity.cluster:
            await self._check_peers()
        elif self._engine.status()["role"] != "fresh":
            await self._find_own_cluster()
        elif self._identity.former:
            await self._join_any()
        elif not self._others:
            await self._start_cluster()
        elif self._starts:
            await self._start_when_all_are_fresh()
        else:
            await self._join_any()

    async def become_voter(self) -> None:
        """Asks for the vote whenever it has none, unless it is a learner by choice."""
        while True:
            voter = any(m["id"] == self._me.id and m["voter"] for m in self._members())
            if voter or self.removed or not self._identity.voter:
                await asyncio.sleep(VOTE_CHECK_MS / 1000)
                continue
            try:
                applied = self._engine.status()["applied"]
                await asyncio.sleep(0)  # what was applied by then has been heard of behind this
                missing, lost = self.missing()
                found = await self._cluster.operate(
                    {
                        "op": "promote", "name": self._me.name, "id": self._me.id,
                        "automatic": True, "applied": applied, "missing": missing, "lost": lost,
                    }
                )
                if found.get("missing"):
                    self._say(f"catching up: {found['missing']:,} large contents are missing")
                elif "lag" in found:
                    self._say(f"catching up: {found['lag']:,} log entries behind the leader")
            except DfsError as error:
                self._say(f"waiting to become a voter: {error}")
            fresh = self._engine.status()["role"] == "fresh"
            await asyncio.sleep((JOINED_LOOK_MS if fresh else PROMOTE_RETRY_MS) / 1000)

    async def notice_removal(self) -> None:
        """Finds out from the leader whether it has removed this node; when it is not known who
        leads, from whoever says that he does."""
        status = self._engine.status()
        if self._identity.cluster and status["role"] != "leader":
            leads = {status["leader"]} if led(status) and not self.removed else set()
            await self._ask_for_removal(leads)

    async def _ask_for_removal(self, leads: Collection[int] = ()) -> None:
        members = [m for m in self._members() if m["id"] != self._me.id]
        members = [m for m in members if m["id"] in leads] or members
        questions = [self._cluster.ask(m["raft"], {"ask": "members"}) for m in members]
        for answer in await asyncio.gather(*questions, return_exceptions=True):
            if isinstance(answer, dict) and answer["leads"]:
                self._note(removed=self._me.id not in answer["ids"])

    def _note(self, removed: bool) -> None:
        if removed == bool(self.removed):
            return
        self.removed = REMOVED.format(self._me.name) if removed else ""
        if removed:
            log.warning("%s", self.removed)
        else:
            log.info("%s is a member again", self._me.name)
        self.on_removal(self.removed)

    async def notice_going_back(self) -> str:
        """Waits for an answer of a leader; why this log is an old one, or "" when it is not.

        It was asked before the start as well (`dfs.healing`), but then nobody may have answered.
        """
        while True:
            status = self._engine.status()
            for member in status["members"]:
                if member["id"] != status["leader"] or member["id"] == self._me.id:
                    continue
                with suppress(DfsError):
                    answer = await self._cluster.ask(member["raft"], {"ask": "members"})
                    acknowledged = answer["matched"].get(str(self._me.id), 0)
                    last = self._engine.status()["last_log"]
                    if answer["leads"]:
                        went_back = acknowledged > last
                        return WENT_BACK.format(last, acknowledged) if went_back else ""
            if status["leader"] == self._me.id:
                return ""
            await asyncio.sleep(JOIN_RETRY_MS / 1000)

    # ---- what others ask -------------------------------------------------------------------------

    async def _discover(self, question: Answer) -> Answer:
        if question.get("news"):
            self._news.set()
        return {
            "name": self._me.name, "id": self._me.id, "raft": self._me.raft, "grpc": self._me.grpc,
            "cluster": self._identity.cluster.hex(),
            "fresh": not self._identity.cluster and self._engine.status()["role"] == "fresh",
            "former": bool(self._identity.former),
            "list": self._list,
        }

    async def _who_are_members(self, _question: Answer) -> Answer:
        status = self._engine.status()
        members = status["members"]
        return {
            "leads": status["role"] == "leader" and led(status),
            "ids": [m["id"] for m in members],
            "at": {str(m["id"]): m["raft"] for m in members},
            "matched": {str(m["id"]): m["matched"] for m in members},
        }

    async def _removed(self, _question: Answer) -> Answer:
        """A leader says that it has removed this node: it would find out by itself, but later."""
        await self._ask_for_removal()
        return {}

    async def _welcome(self, question: Answer) -> Answer:
        self._belong(bytes.fromhex(question["cluster"]), bool(question.get("voter", True)))
        self._note(removed=False)
        self._news.set()
        return {}

    # ---- ways in ---------------------------------------------------------------------------------

    async def _start_cluster(self) -> None:
        self._identity.offered = True
        await self._cluster.blocking(self._engine.initialize, CLUSTER_MS_MAX)
        self._belong(uuid.uuid4().bytes)
        log.info("%s started cluster %s", self._me.name, self._identity.cluster.hex())

    async def _start_when_all_are_fresh(self) -> None:
        while not self._identity.cluster:
            answers, missing = await self._discover_all()
            # Where there is a cluster no second one is started: what keeps it from taking this
            # node in is among what is missing.
            if await self._join_one_of(answers, missing):
                return
            # One that has another list may be about to start a cluster of its own.
            missing += [
                f"{a['name']} to be in a cluster, or to be started with the same peers as this node"
                f" (it has {', '.join(a['list'])})"
                for a in answers
                if not a["cluster"]
                and (a["list"] != self._list or not a["fresh"] or a.get("former"))
            ]
            if not missing:
                await self._start_cluster()
                self._tells_news = True
                await self._discover_all()
                return
            self._say(f"waiting for {'; '.join(missing)}; then this node starts the cluster")
            await self._pause()

    async def _join_any(self) -> None:
        while not self._identity.cluster:
            answers, missing = await self._discover_all()
            if await self._join_one_of(answers, missing):
                return
            missing += [f"{a['name']} to be in a cluster" for a in answers if not a["cluster"]]
            if missing:
                self._say(f"to join, waiting for {' or '.join(missing)}")
            await self._pause()

    async def _join_one_of(self, answers: Sequence[Answer], missing: list[str]) -> bool:
        """Joins through one that is in a cluster; adds to `missing` why that did not work."""
        question = {
            "ask": "join", "name": self._me.name, "id": self._me.id, "raft": self._me.raft,
            "grpc": self._me.grpc,
        }
        if self._identity.former:
            question["replaces"] = self._identity.former
        for answer in answers:
            if not answer["cluster"]:
                continue
            if self._identity.former and answer["cluster"] != self._identity.former_cluster.hex():
                missing.append(f"{answer['name']} to be in the cluster that this node was in")
                continue
            self._identity.offered = True
            try:
                found = await self._cluster.ask(answer["raft"], question, CLUSTER_MS_MAX)
            except NotAMember as error:
                self._identity.offered = False
                raise Misconfigured(error.text) from None
            except DfsError as error:
                # It is another's place, which somebody has to give to this node.
                self._identity.offered = not isinstance(error, FailedPrecondition)
                missing.append(f"{answer['name']} to take this node in ({error})")
                continue
            self._belong(bytes.fromhex(found["cluster"]))
            log.info("%s joined cluster %s", self._me.name, found["cluster"])
            return True
        return False

    async def _find_own_cluster(self) -> None:
        """A stop between becoming a member and writing down of which cluster."""
        while True:
            others = [m for m in self._members() if m["id"] != self._me.id]
            if not others:
                return self._belong(uuid.uuid4().bytes)
            for member in others:
                try:
                    found = await self._cluster.ask(member["raft"], {"ask": "discover"})
                except Unavailable as error:
                    self._say(f"to learn the cluster's id, waiting for a member: {error}")
                    continue
                if found["cluster"]:
                    return self._belong(bytes.fromhex(found["cluster"]))
            await self._pause()

    async def _check_peers(self) -> None:
        questions = [self._cluster.ask(peer, {"ask": "discover"}) for peer in self._others]
        for answer in await asyncio.gather(*questions, return_exceptions=True):
            if isinstance(answer, NotAMember):
                raise Misconfigured(
                    f"{answer} (by its data in {self._identity.directory}): name other peers, or"
                    " use another data directory"
                )

    # ---- helpers ---------------------------------------------------------------------------------

    def _belong(self, cluster: bytes, voter: bool = True) -> None:
        self._identity.join(cluster, voter)
        self._engine.set_cluster(cluster)

    async def _discover_all(self) -> tuple[list[Answer], list[str]]:
        """Answers of the other peers, and a phrase for each that gave none."""
        question = {"ask": "discover", "news": self._tells_news}
        self._tells_news = False
        questions = [self._cluster.ask(peer, question) for peer in self._others]
        found = await asyncio.gather(*questions, return_exceptions=True)
        answers: list[Answer] = []
        missing: list[str] = []
        for peer, answer in zip(self._others, found, strict=True):
            if isinstance(answer, DfsError):
                missing.append(f"{peer} ({answer})" if peer not in str(answer) else str(answer))
            elif isinstance(answer, BaseException):
                raise answer
            elif answer["name"] == self._me.name and answer["id"] != self._me.id:
                raise Misconfigured(
                    f"the node at {peer} is also called {self._me.name}: give each node its own"
                    " DFS_ID"
                )
            else:
                # It is asked again where it was found, whatever it calls itself.
                answers.append({**answer, "raft": peer})
        return answers, missing

    async def _pause(self) -> None:
        try:
            async with asyncio.timeout(JOIN_RETRY_MS / 1000):
                await self._news.wait()
        except TimeoutError:
            pass
        self._news.clear()

    def _members(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self._engine.status()["members"]
        return found
