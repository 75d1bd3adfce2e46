"""What people ask of the content on this machine: pin, unpin, pins, warmup, evict."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from typing import Any, Final

from ..at_once import some_at_once
from ..errors import DfsError, FailedPrecondition, InvalidArgument, NotFound, TooLarge
from ..limits import WARM_FETCHES_MAX
from ..paths import check_key
from ..places import real_place
from ..sizes import size_text
from .control import Operation, Request, Tell, paths_of
from .feeder import Feeder
from .fetcher import Fetcher
from .journal import Journal
from .known import Version
from .objects import Objects
from .pins import File, Pins
from .room import Room

KEEPING: Final = ("pin", "unpin", "pins", "warmup", "evict")
"""The operations."""
FAILURES_SHOWN_MAX: Final = 20
"""Files that an answer names; the others are counted."""


class Places:
    """Which key a path on the command line means: as everywhere a key, but one that begins with /
    is a file of the cache directory or of the mount."""

    def __init__(self, cache: str, mount: str) -> None:
        self._roots = [root for root in (cache, mount) if root]

    def key(self, path: str) -> str:
        """"" is the root. Raises InvalidArgument."""
        key = path
        if path.startswith("/"):
            key = self._below(os.path.normpath(path))
        key = key.rstrip("/")
        key = "" if key == "." else key.removeprefix("./")
        if key:
            check_key(key)
        return key

    def _below(self, path: str) -> str:
        for root in self._roots:
            # The agent must not look into its own mount, nor follow links there.
            for known in (root, real_place(root)):
                if path == known:
                    return ""
                if path.startswith(known + "/"):
                    return path[len(known) + 1 :]
        where = " nor ".join(self._roots) or "any directory of this agent"
        raise InvalidArgument(f"{path} lies neither in {where}; a key has no / in front")


class Keeping:
    """The operations on the content of one agent."""

    def __init__(
        self, places: Places, pins: Pins, journal: Journal, feeder: Feeder, objects: Objects,
        fetcher: Fetcher, room: Room,
    ) -> None:
        self._places, self._pins, self._journal, self._feeder = places, pins, journal, feeder
        self._objects, self._fetcher, self._room = objects, fetcher, room

    def operations(self) -> dict[str, Operation]:
        """By name."""
        return {
            "pin": self._pin, "unpin": self._unpin, "pins": self._list, "warmup": self._warmup,
            "evict": self._evict,
        }

    def _keys(self, request: Request) -> list[str]:
        if not self._feeder.ready.is_set():
            raise FailedPrecondition("the tree is not known yet: no node has answered this agent "
                                     "since it began. Try: dfs status")
        keys = [self._places.key(path) for path in paths_of(request)]
        if not keys:
            raise InvalidArgument("no path is named")
        return list(dict.fromkeys(keys))

    async def _pin(self, request: Request, tell: Tell) -> Mapping[str, Any]:  # noqa: ARG002
        amount = self._pins.add(self._keys(request))
        await self._write()
        return amount._asdict()

    async def _unpin(self, request: Request, tell: Tell) -> Mapping[str, Any]:  # noqa: ARG002
        self._pins.remove(self._keys(request))
        await self._write()
        return {}

    async def _write(self) -> None:
        try:
            await asyncio.to_thread(self._journal.write_marks, self._journal.collect_marks())
        except OSError as error:
            raise FailedPrecondition(
                f"it holds until the agent ends, and no longer: {error}; free some space, then "
                "repeat it"
            ) from error

    async def _list(self, request: Request, tell: Tell) -> Mapping[str, Any]:  # noqa: ARG002
        rows = []
        for path in sorted(self._pins.paths):
            files = list(self._pins.files(path))
            here = self._pins.amount(f for f in files if self._pins.here(f[1]))
            whole = self._pins.amount(files)
            rows.append({
                "path": path, **whole._asdict(), "here_files": here.files, "here_bytes": here.bytes,
            })
        return {
            "pins": rows, "pinned_bytes": sum(self._pins.contents().values()),
            "cached_bytes": self._objects.bytes, "cache_size": self._room.bytes_max,
        }

    # ---- warmup ----------------------------------------------------------------------------------
    async def _warmup(self, request: Request, tell: Tell) -> Mapping[str, Any]:
        files = self._files(request)
        whole = self._pins.amount(files)
        if self._room.bytes_max and whole.bytes > self._room.bytes_max:
            raise TooLarge(
                f"it is {size_text(whole.bytes)} in {whole.files:,} files, and the cache may hold "
                f"{size_text(self._room.bytes_max)}: raise -cache-size, or name less"
            )
        missing = [file for file in files if not self._pins.here(file[1])]
        wanted = self._pins.amount(missing)
        done_files, done_bytes = 0, 0
        failures: list[str] = []

        async def one(to_fetch: File) -> None:
            nonlocal done_files, done_bytes
            path, file = to_fetch
            was_here = self._pins.here(file)
            try:
                await self._fetcher.bring(path, file)
            except (DfsError, OSError) as error:
                failures.append(str(error) if path in str(error) else f"{path}: {error}")
                return
            done_files += 1
            done_bytes += 0 if was_here else file.size
            await tell({"files": done_files, "of_files": wanted.files, "bytes": done_bytes,
                        "of_bytes": wanted.bytes})

        await some_at_once(WARM_FETCHES_MAX, missing, one)
        return {
            "files": done_files, "bytes": done_bytes, "here": len(files) - len(missing),
            "failed": len(failures), "failures": failures[:FAILURES_SHOWN_MAX],
        }

    def _files(self, request: Request) -> list[File]:
        found: dict[str, Version] = {}
        for key in self._keys(request):
            files = dict(self._pins.files(key))
            if not files and key not in self._feeder.known:
                raise NotFound(f"there is nothing at {key or 'the root'} in the tree")
            found |= files
        return list(found.items())

    # ---- evict -----------------------------------------------------------------------------------
    async def _evict(self, request: Request, tell: Tell) -> Mapping[str, Any]:  # noqa: ARG002
        files = [(path, file) for path, file in self._files(request)
                 if file.size and file.sha256 in self._objects]
        pinned = self._pins.contents()
        free = [(path, file) for path, file in files if file.sha256 not in pinned]
        freed = await self._room.evict({file.sha256 for _, file in free})
        left = [file for file in free if file[1].sha256 in self._objects]
        return {
            "files": len(free) - len(left), "bytes": freed, "pinned": len(files) - len(free),
            "open": len(left),
        }
