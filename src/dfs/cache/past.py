"""What `.dfs/at/` of the mount shows: past revisions of the tree, each a directory.

The kernel's questions about it come here: whether a name is a revision or a time, and what is in a
directory. What is past never changes, so kernel and engine keep the answers, and here is only kept
which revision a time is.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from ..errors import NotFound, TooLarge, Unavailable
from ..limits import AGENT_RETRY_MS, AGENT_RETRY_MS_MAX, PAST_DIRECTORY_MAX, PAST_TIMES_MAX
from ..moments import revision_of, time_of
from .feeder import NOBODY, Feeder
from .objects import Objects
from .ports import Client, Upsert

T = TypeVar("T")
TOP: Final = ".dfs/at"
"""Where it is; names of revisions and times are in it, in no listing."""
_MODE: Final = 0o755


class Past:
    """Answers from the node; whoever asks has set a deadline, and is tried for until then."""

    def __init__(self, client: Client, feeder: Feeder, objects: Objects) -> None:
        self._client, self._feeder, self._objects = client, feeder, objects
        self._times: dict[str, int] = {}
        """The revisions of times that were asked for; bounded by PAST_TIMES_MAX."""

    async def named(self, name: str) -> list[Upsert]:
        """The directory of a revision or time. Raises NotFound when the name is neither,
        OutOfRange when history does not reach back to it or it is yet to come."""
        revision = await self._revision(name)
        # History may have passed it since it was last asked for.
        await _tried(lambda: self._any(revision))
        return [(name, 1, 0, _MODE, time.time_ns(), NOBODY, NOBODY, revision, None)]

    async def listing(self, path: str) -> list[Upsert]:
        """What is in a directory below `.dfs/at/`. Raises OutOfRange, TooLarge."""
        key, revision = await self.place(path)
        return await _tried(lambda: self._list(key, revision))

    async def place(self, path: str) -> tuple[str, int]:
        """The key that such a path shows, and as of which revision."""
        name, _, key = path.removeprefix(f"{TOP}/").partition("/")
        return key, await self._revision(name)

    async def _revision(self, name: str) -> int:
        revision = revision_of(name) or self._times.get(name)
        if revision is not None:
            return revision
        try:
            time_ns = time_of(name)
        except ValueError as error:
            raise NotFound(f"{error}, and no revision") from None
        # Linearizable: a node that lags would take an older revision for the last one at that time.
        revision = await _tried(lambda: self._client.revision_at(time_ns))
        if len(self._times) >= PAST_TIMES_MAX:
            del self._times[next(iter(self._times))]
        self._times[name] = revision
        return revision

    async def _any(self, revision: int) -> None:
        """Asks for as little of a revision as can be. What the mount has shown needs no quorum."""
        shown = revision <= self._feeder.revision
        async for _ in self._client.list(
            "", revision=revision, limit=1, local=shown, min_revision=revision if shown else 0
        ):
            pass

    async def _list(self, key: str, revision: int) -> list[Upsert]:
        entries: list[Upsert] = []
        async for item in self._client.list(
            key, revision=revision, limit=PAST_DIRECTORY_MAX + 1, local=True, min_revision=revision
        ):
            stat = item.stat
            backing = stat.target if stat.is_symlink else None
            if stat.is_file:
                backing = self._objects.backing(stat.sha256, stat.size)
            entries.append((item.key, *self._feeder.described(stat), backing))
        if len(entries) > PAST_DIRECTORY_MAX:
            raise TooLarge(
                f"{key or 'the top of the tree'} had more than {PAST_DIRECTORY_MAX:,} entries at"
                f" revision {revision} (PAST_DIRECTORY_MAX): use dfs ls --revision {revision}",
                limit="PAST_DIRECTORY_MAX",
            )
        return entries


async def _tried(attempt: Callable[[], Awaitable[T]]) -> T:
    """What an attempt gives, repeated while no node answers."""
    wait_ms = AGENT_RETRY_MS
    while True:
        try:
            return await attempt()
        except Unavailable:
            await asyncio.sleep(wait_ms / 1000)
            wait_ms = min(2 * wait_ms, AGENT_RETRY_MS_MAX)
