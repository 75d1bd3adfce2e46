"""Is what lies in the cache directory in the tree? What `dfs status PATH` and `dfs sync` ask.

Both scan the directory first: what the kernel has not told of yet counts, too.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from ..client.values import Kind
from ..errors import FailedPrecondition, InvalidArgument
from ..limits import SETTLE_MS, SYNC_LOOK_MS
from ..paths import is_below
from . import conflicts
from .control import Operation, Request, Tell, paths_of
from .deletes import Deletes
from .feeder import Feeder
from .journal import Journal
from .keeping import Places
from .known import Version
from .pending import Drop
from .pins import Pins
from .problems import Problems, shown
from .uploader import Uploader
from .watcher import Watcher

NAMED_MAX: Final = 20
"""Files of one kind that an answer names; the others are counted."""

Named = list[dict[str, str]]


def _within(path: str, top: str) -> bool:
    return path == top or is_below(path, top)


class Safety:
    """The answers of one agent."""

    def __init__(
        self, places: Places, watcher: Watcher | None, uploader: Uploader, journal: Journal,
        feeder: Feeder, problems: Problems, pins: Pins | None,
        deletes: Deletes | None, endpoints: Sequence[str],
    ) -> None:
        """`endpoints`: of the cluster, as the agent was given them."""
        self._places, self._watcher, self._uploader = places, watcher, uploader
        self._journal, self._feeder, self._problems = journal, feeder, problems
        self._pins, self._deletes = pins, deletes
        self._endpoints = list(endpoints)

    def _removals(self, top: str) -> int:
        waiting = self._deletes.waiting if self._deletes is not None else ()
        return sum(_within(path, top) for path in waiting)

    def operations(self) -> dict[str, Operation]:
        """By name."""
        return {"look": self._look, "sync": self._sync}

    def _top(self, request: Request) -> str:
        paths = paths_of(request) or [""]
        if len(paths) > 1:
            raise InvalidArgument("one path at a time")
        return self._places.key(paths[0])

    # ---- status PATH -----------------------------------------------------------------------------
    async def _look(self, request: Request, tell: Tell) -> Mapping[str, Any]:
        top = self._top(request)
        if self._watcher is not None:
            await self._watcher.scan()
        pending = await self._wait(self._wanted(top), SETTLE_MS, tell)
        rows = [row for path, row in self._journal.rows.items() if _within(path, top)]
        tree = list(self._feeder.known.entries(top))
        refused = self._refused(top)
        copies = [path for path, _ in tree if conflicts.MARK in path]
        return {
            "endpoints": self._endpoints,
            "path": top, "cache": self._watcher.root if self._watcher is not None else "",
            "known": self._feeder.ready.is_set(),
            "drops": sum(row.kind is not Kind.DIRECTORY for row in rows), "entries": len(tree),
            "revision": max([0, *(r.revision for r in rows), *(e.revision for _, e in tree)]),
            "pending": self._named(pending), "pending_count": len(pending),
            "refused": refused[:NAMED_MAX], "refused_count": len(refused),
            "removals": self._removals(top), "conflicts": copies[:NAMED_MAX],
            "conflict_count": len(copies),
            **self._kept(tree),
        }

    def _kept(self, tree: Iterable[tuple[str, Version]]) -> Mapping[str, Any]:
        """Where the content is on this machine."""
        if self._pins is None:
            return {"mount": False}
        files = [file for file in tree if file[1].kind is Kind.FILE]
        whole = self._pins.amount(files)
        here = self._pins.amount(file for file in files if self._pins.here(file[1]))
        pinned = self._pins.contents()
        return {
            "mount": True, **whole._asdict(), "here_files": here.files, "here_bytes": here.bytes,
            "pinned_files": sum(file.sha256 in pinned for _, file in files),
        }

    def _wanted(self, top: str) -> dict[str, tuple[Drop, int]]:
        """What is on its way, and how many turns each needs: one that is running may have been
        read before its last change, and needs another."""
        return {
            path: (drop, drop.turns + 1 + drop.running)
            for path, drop in self._uploader.pending.drops.items() if _within(path, top)
        }

    def _named(self, drops: Iterable[Drop]) -> Named:
        return [
            {"path": shown(drop.path), "why": self._uploader.why(drop)}
            for drop in itertools.islice(drops, NAMED_MAX)
        ]

    def _refused(self, top: str) -> Named:
        return [
            {"path": shown(path), "why": text} for path, text in self._problems.of_paths()
            if _within(path, top)
        ]

    # ---- sync ------------------------------------------------------------------------------------
    async def _sync(self, request: Request, tell: Tell) -> Mapping[str, Any]:
        top = self._top(request)
        if self._watcher is None:
            raise FailedPrecondition("this agent has no cache directory; start it with -cache DIR")
        within_ms = request.get("within_ms", 0)
        if not isinstance(within_ms, int):
            raise InvalidArgument("`within_ms` is no number")
        await self._watcher.scan()
        wanted = self._wanted(top)
        left = await self._wait(wanted, within_ms, tell) if request.get("wait") else [
            drop for drop, _ in wanted.values()
        ]
        refused = self._refused(top)
        rows = self._journal.rows
        return {
            "path": top, "stored": sum(path in rows for path in wanted),
            "revision": max((r.revision for p, r in rows.items() if _within(p, top)), default=0),
            "pending": self._named(left), "pending_count": len(left),
            "refused": refused[:NAMED_MAX], "refused_count": len(refused),
            "removals": self._removals(top),
        }

    async def _wait(
        self, wanted: Mapping[str, tuple[Drop, int]], within_ms: int, tell: Tell
    ) -> list[Drop]:
        """Those that are not dealt with in time."""
        loop = asyncio.get_running_loop()
        end_s = loop.time() + within_ms / 1000
        drops = self._uploader.pending.drops
        while True:
            left = [
                drop for path, (drop, turns) in wanted.items()
                if drops.get(path) is drop and drop.turns < turns
            ]
            if not left or loop.time() >= end_s:
                return left
            await tell({"left": len(left), "of": len(wanted), **self._named(left[:1])[0]})
            await asyncio.sleep(SYNC_LOOK_MS / 1000)

