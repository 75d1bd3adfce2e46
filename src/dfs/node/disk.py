"""What a node does about its disk: one that is slow, and one that is full."""

import asyncio
import logging
import os
from collections.abc import Iterable
from pathlib import Path

from ..errors import DfsError, OutOfSpace
from ..limits import DISK_FREE_BYTES_MIN, DISK_TOLD_MS_MAX
from .cluster import Answer, Cluster
from .hot import HotLoop
from .ports import Engine

log = logging.getLogger("dfs.node")


class Disk:
    """Says what the engine finds wrong with the disk under the log, and what it does about it."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._handed_over = 0
        self._trouble = ""

    async def check(self) -> None:
        """Logs what has changed."""
        status = self._engine.status()
        found, handed_over = status["disk"], status["handed_over_for_disk"]
        if handed_over > self._handed_over:
            log.warning("leadership is handed to another node: %s", found or "its disk was slow")
        elif found and not self._trouble:
            log.warning("%s; look for errors in the kernel log", found)
        if self._trouble and not found:
            log.warning("the disk is as quick as those of the others again")
        self._handed_over, self._trouble = handed_over, found


class Space:
    """Watches the free space of all members, and refuses writes while too few have some.

    The leader asks the voters every second whether they have space, and tells them with the same
    question whether writes are refused: they are while a majority would not have space for them.
    Before that a full leader hands leadership to a voter with space. A node that has not been asked
    for a while decides by its own disk.
    """

    def __init__(
        self, engine: Engine, cluster: Cluster, hot: HotLoop, directory: Path,
        bytes_min: int = DISK_FREE_BYTES_MIN,
    ) -> None:
        self._engine, self._cluster, self._hot = engine, cluster, hot
        self._directory, self._bytes_min = directory, bytes_min
        self.free = 0
        """Bytes that may still be stored here, as of the last look."""
        self.full: OutOfSpace | None = None
        """Why this node has no space, as of the last look."""
        self._told_s = 0.0
        cluster.on("space", self._asked)

    async def check(self) -> None:
        """Looks at the disk; as the leader, at those of the others as well."""
        self._look()
        status = self._engine.status()
        voters = [m for m in status["members"] if m["voter"]]
        if status["role"] == "leader" and len(voters) > 1:
            await self._decide(voters, status["id"])
        elif status["role"] == "leader" or self._now_s() > self._told_s + DISK_TOLD_MS_MAX / 1000:
            self._refuse(self.full)

    def _look(self) -> None:
        found = os.statvfs(self._directory)
        free = found.f_bavail * found.f_frsize
        self.free = max(free - self._bytes_min, 0)
        if free < self._bytes_min and self.full is None:
            self.full = OutOfSpace(
                f"the disk of {self._directory} has {free >> 20:,} MiB left, writes are refused"
                f" below {self._bytes_min >> 20:,} MiB (DISK_FREE_BYTES_MIN); reads and deletes go"
                " on, and so do writes when there is space again",
                limit="DISK_FREE_BYTES_MIN",
            )
            log.error("the disk of %s has %d MiB left: make room", self._directory, free >> 20)
        elif free >= self._bytes_min and self.full is not None:
            self.full = None
            log.warning("there is space on the disk again")

    def _refuse(self, full: OutOfSpace | None) -> None:
        """Refuses writes that need space, or takes them again."""
        if (full is None) != (self._hot.full is None):
            if full is None:
                log.info("writes are taken again")
            elif full is not self.full:  # else it was said when it was found
                log.error("%s", full)
            self._hot.fill(full)

    async def _decide(self, voters: list[Answer], me: int) -> None:
        self._told_s = self._now_s()  # it believes itself, also when another leads a moment later
        said = "" if self._hot.full is None else str(self._hot.full)
        question = {"ask": "space", "refuse": said}
        others = [m for m in voters if m["id"] != me]
        answers = await asyncio.gather(*(self._ask(m, question) for m in others))
        full = {m["name"] for m, answer in zip(others, answers, strict=True) if answer is True}
        roomy = [m["name"] for m, answer in zip(others, answers, strict=True) if answer is False]
        if self.full is not None:
            full |= {m["name"] for m in voters if m["id"] == me}
        if 2 * (len(voters) - len(full)) <= len(voters):
            self._refuse(self._together(full))
            return
        self._refuse(None)
        if self.full is not None and roomy:
            log.warning("leadership is handed to %s, which has space on its disk", roomy[0])
            await self._cluster.operate({"op": "transfer", "name": roomy[0]})
            self._told_s = self._now_s()

    async def _ask(self, member: Answer, question: Answer) -> bool | None:
        """Whether its disk is full; None when it does not say."""
        try:
            answer = await self._cluster.ask(member["raft"], question)
        except DfsError as error:
            log.debug("%s does not say whether it has space: %s", member["name"], error)
            return None
        return bool(answer["full"])

    async def _asked(self, question: Answer) -> Answer:
        self._told_s = self._now_s()
        refuse = str(question["refuse"])
        self._refuse(OutOfSpace(refuse, limit="DISK_FREE_BYTES_MIN") if refuse else None)
        return {"full": self.full is not None}

    def _together(self, names: Iterable[str]) -> OutOfSpace:
        return OutOfSpace(
            f"the disks of {' and '.join(sorted(names))} have less than {self._bytes_min >> 20:,}"
            " MiB left (DISK_FREE_BYTES_MIN), so that a majority could not store more: writes are"
            " refused; reads and deletes go on, and so do writes when there is space again",
            limit="DISK_FREE_BYTES_MIN",
        )

    def _now_s(self) -> float:
        return asyncio.get_running_loop().time()
