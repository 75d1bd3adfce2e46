"""The files of `.dfs/` in the mount: how things are here, each made when it is opened.

Lines of "name: value", or of "key: reason"; every file is complete and of one moment. Those that
need a node say so in a sentence when none answers; only `sync` fails then, as it is for scripts.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from .._version import version
from ..errors import DfsError, Unavailable
from ..limits import AGENT_RETRY_MS, AGENT_RETRY_MS_MAX, MEMBERS_MS_MAX, NOTICES_MS_MAX
from . import attributes
from .conflicts import MARK
from .feeder import Feeder
from .objects import Objects
from .ports import Client, Tree
from .problems import Problems, shown
from .uploader import Uploader

if TYPE_CHECKING:
    from .questions import Maker


@dataclass(frozen=True)
class About:
    """Where the answers come from."""

    client: Client
    tree: Tree
    feeder: Feeder
    objects: Objects
    uploader: Uploader
    problems: Problems

    def files(self) -> dict[str, Maker]:
        """Each file by its name."""
        return {
            "version": self._version, "members": self._members, "stats": self._stats,
            "pending": self._pending, "conflicts": self._conflicts, "problems": self._problems,
            "sync": self._sync,
        }

    def attributes(self, path: str, version: int) -> dict[str, bytes]:
        """The extended attributes of what the mount shows."""
        stat = self.feeder.known.get(path)
        if stat is None or (stat.revision != version and not stat.is_directory):
            return {}
        return attributes.shown(stat)

    async def _version(self) -> bytes:
        return _lines([version()])

    async def _members(self) -> bytes:
        """Who belongs to the cluster, as a node says."""
        head = [f"revision: {self.feeder.revision}"]
        try:
            answer = await self.client.members(timeout=MEMBERS_MS_MAX / 1000)
        except DfsError as error:
            return _lines([*head, f"members: unknown: {error}"])
        leaders = [m.name for m in answer.members if m.leader]
        head.append(f"leader: {leaders[0] if leaders else 'none known'}")
        return _lines([*head, *(
            f"member: {m.name} {'voter' if m.voter else 'learner'} {m.grpc}"
            for m in answer.members
        )])

    async def _stats(self) -> bytes:
        feeder, now_s = self.feeder, time.time()
        stale_s = feeder.stale_s
        figures = {
            "revision": str(feeder.revision),
            "live": "yes" if stale_s is None else f"no (stale since {_when(stale_s, now_s)})",
            "last_change": _when(feeder.changed_s, now_s),
            "last_heard": _when(feeder.heard_s, now_s),
            "pending_drops": str(self.uploader.waiting),
            "problems": str(len(self.problems)),
            "cached_bytes": str(self.objects.bytes),
            "cached_objects": str(len(self.objects)),
        }
        engine = self.tree.stats()
        # An open that had to wait for its content counts once as a miss and once as an open.
        figures["hits"] = str(max(engine.get("opens", 0) - engine.get("misses", 0), 0))
        figures |= {name: str(value) for name, value in engine.items() if name not in figures}
        return _lines(f"{name}: {value}" for name, value in figures.items())

    async def _pending(self) -> bytes:
        """What was dropped and is not stored, with the reason."""
        return _lines(
            shown(f"{path}: {self._why(path)}") for path in sorted(self.uploader.not_stored())
        )

    def _why(self, path: str) -> str:
        """Why it is not stored."""
        drop = self.uploader.pending.drops.get(path)
        refused = self.problems.text(path)
        return refused or (self.uploader.why(drop) if drop is not None else "on its way")

    async def _conflicts(self) -> bytes:
        """The conflict copies that the tree has."""
        return _lines(sorted(path for path, _ in self.feeder.known.entries() if MARK in path))

    async def _problems(self) -> bytes:
        return _lines(self.problems.lines())

    async def _sync(self) -> bytes:
        """A barrier: what was acknowledged before the open is shown after the read."""
        revision = await self._newest()
        await self.feeder.reached(revision)
        while not await asyncio.to_thread(self.tree.flush, NOTICES_MS_MAX):
            pass
        return _lines([str(revision)])

    async def _newest(self) -> int:
        """Asks until a node answers; whoever waits has set a deadline."""
        wait_ms = AGENT_RETRY_MS
        while True:
            try:
                return await self.client.newest()
            except Unavailable:
                await asyncio.sleep(wait_ms / 1000)
                wait_ms = min(2 * wait_ms, AGENT_RETRY_MS_MAX)


def _lines(lines: Iterable[str]) -> bytes:
    return "".join(f"{line}\n" for line in lines).encode("utf-8", "backslashreplace")


def _when(time_s: float, now_s: float) -> str:
    if not time_s:
        return "never"
    at = datetime.fromtimestamp(time_s, UTC)
    return f"{at:%Y-%m-%dT%H:%M:%SZ}, {max(now_s - time_s, 0):.1f} s ago"
