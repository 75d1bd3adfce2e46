"""What `.dfs/at/` of the mount shows: past revisions of the tree, each a directory.

The kernel's questions about it come here: whether a name is a revision or a time, what is in a
directory, which extended attributes something has. What is past never changes, so kernel and engine
keep what a directory has, and here is only kept which revision a name stands for. Whatever that is,
the engine asks for what is in the revision by its number.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from typing import Final, TypeVar

from ..client.values import Stat
from ..errors import DfsError, NotFound, OutOfRange, TooLarge, Unavailable
from ..limits import (
    AGENT_RETRY_MS,
    AGENT_RETRY_MS_MAX,
    MEMBERS_MS_MAX,
    PAST_DIRECTORY_MAX,
    PAST_NAMES_MAX,
)
from ..moments import revision_of, time_of
from .attributes import shown
from .feeder import Feeder
from .objects import Objects
from .ports import NOBODY, Client, Upsert

T = TypeVar("T")
TOP: Final = ".dfs/at"
"""Where it is; names of revisions and times are in it, in no listing."""
README: Final = "at/README"
"""The one file that is listed there, below `.dfs/`."""
_MODE: Final = 0o755
_A_TIME: Final = "2026-11-25T10:00Z"
"""For example."""
_HOW_TO: Final = """
Each revision from the oldest to the newest is a directory here, with the whole tree as it was then.
They are too many to be listed: name one, by its number or by a time. Look, for example, at

  .dfs/at/{newest}
  .dfs/at/{time}

A time stands for the last revision that was not committed after it. It is a date, or a date, T,
hours and minutes, if wanted seconds and their fraction, and Z or an offset such as +01:00.
`dfs log` shows which revision changed what.
"""


class Past:
    """Answers from the node; whoever asks has set a deadline, and is tried for until then."""

    def __init__(self, client: Client, feeder: Feeder, objects: Objects) -> None:
        self._client, self._feeder, self._objects = client, feeder, objects
        self._known: dict[str, Upsert] = {}
        """What was answered to names; bounded by PAST_NAMES_MAX."""
        self._attributes: tuple[tuple[str, int], Mapping[str, bytes]] = ("", 0), {}
        """Those that were asked for last: programs ask for each of them by itself."""

    async def named(self, name: str) -> list[Upsert]:
        """The directory of a revision or time. Raises NotFound when the name is neither,
        OutOfRange when history does not reach back to it or it is yet to come."""
        known = self._known.get(name)
        if known is not None and not self._feeder.live:
            return [known]  # What is here stays readable, and who would know more does not answer.
        revision = revision_of(name) or (known[7] if known else await self._at(name))
        try:
            # History may have passed it since it was last asked for.
            await _tried(lambda: self._any(revision))
        except OutOfRange:
            self._known.pop(name, None)
            raise
        if known is None:
            time_ns = await _tried(lambda: self._time_ns(revision))
            known = (name, 1, 0, _MODE, time_ns, NOBODY, NOBODY, revision, None)
            if len(self._known) >= PAST_NAMES_MAX:
                del self._known[next(iter(self._known))]
            self._known[name] = known
        return [known]

    async def listing(self, key: str, revision: int) -> list[Upsert]:
        """What was in a directory. Raises OutOfRange, TooLarge."""
        return await _tried(lambda: self._list(key, revision))

    async def attributes(self, key: str, revision: int) -> Mapping[str, bytes]:
        """The extended attributes that something had; "" = the whole tree. Raises OutOfRange."""
        last, found = self._attributes
        if last != (key, revision):
            found = shown(await _tried(lambda: self._client.stat(
                key, revision=revision, local=True, min_revision=revision
            ))) if key else {}
            self._attributes = (key, revision), found
        return found

    async def readme(self) -> bytes:
        """How far history reaches, and how to look at it."""
        newest, newest_ns = self._feeder.revision, 0
        try:
            async with asyncio.timeout(MEMBERS_MS_MAX / 1000):
                newest_ns = await self._time_ns(newest)
                answer = await self._client.status(local=True)
                first = max([1, *(node.floor for node in answer.nodes)])
                oldest = _described(first, await self._time_ns(first))
        except (DfsError, TimeoutError) as error:
            oldest = f"unknown: {str(error) or 'no node answers in time'}"
        head = f"newest: {_described(newest, newest_ns)}\noldest: {oldest}\n"
        time = _written(newest_ns) if newest_ns else _A_TIME
        return (head + _HOW_TO.format(newest=newest, time=time)).encode()

    async def _at(self, name: str) -> int:
        """The revision that a time stands for."""
        try:
            time_ns = time_of(name)
        except ValueError as error:
            raise NotFound(f"{error}, and no revision") from None
        # Linearizable: a node that lags would take an older revision for the last one at that time.
        return await _tried(lambda: self._client.revision_at(time_ns))

    async def _any(self, revision: int) -> None:
        """Asks for as little of a revision as can be. What the mount has shown needs no quorum."""
        known = revision <= self._feeder.revision
        async for _ in self._client.list(
            "", revision=revision, limit=1, local=known, min_revision=revision if known else 0
        ):
            pass

    async def _time_ns(self, revision: int) -> int:
        """When the last change that it has was committed, ns since 1970; 0: history has none."""
        time_ns = 0
        async for event in self._client.history(
            "", limit=1, before_revision=revision + 1, local=True, min_revision=revision
        ):
            time_ns = event.stat.time_ns
        return time_ns

    async def _list(self, key: str, revision: int) -> list[Upsert]:
        entries: list[Upsert] = []
        async for item in self._client.list(
            key, revision=revision, limit=PAST_DIRECTORY_MAX + 1, local=True, min_revision=revision
        ):
            stat = item.stat
            backing = stat.target if stat.is_symlink else None
            if stat.is_file:
                backing = self._objects.backing(stat.sha256, stat.size)
            entries.append((item.key, *_upsert(stat), backing))
        if len(entries) > PAST_DIRECTORY_MAX:
            raise TooLarge(
                f"{key or 'the top of the tree'} had more than {PAST_DIRECTORY_MAX:,} entries at"
                f" revision {revision} (PAST_DIRECTORY_MAX): use dfs ls --revision {revision}",
                limit="PAST_DIRECTORY_MAX",
            )
        return entries


def place(path: str) -> tuple[str, int] | None:
    """The key that a path of the mount shows, and as of which revision, for which the engine has
    put the number there. None: it shows nothing of the past."""
    name, _, key = path.removeprefix(f"{TOP}/").partition("/")
    revision = revision_of(name) if path.startswith(f"{TOP}/") else None
    return None if revision is None else (key, revision)


def _written(time_ns: int) -> str:
    """As a name in `.dfs/at/`, to the nanosecond."""
    seconds, rest = divmod(time_ns, 10**9)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{rest:09}Z"


def _described(revision: int, time_ns: int) -> str:
    """A revision and, if that is known, when it was committed."""
    return f"{revision}, of {_written(time_ns)}" if time_ns else str(revision)


def _upsert(stat: Stat) -> tuple[int, int, int, int, int, int, int]:
    """An Upsert but for path and backing."""
    uid = NOBODY if stat.uid is None else stat.uid
    gid = NOBODY if stat.gid is None else stat.gid
    return int(stat.kind), stat.size, stat.mode, stat.mtime_ns, uid, gid, stat.revision


async def _tried(attempt: Callable[[], Awaitable[T]]) -> T:
    """What an attempt gives, repeated while no node answers."""
    wait_ms = AGENT_RETRY_MS
    while True:
        try:
            return await attempt()
        except Unavailable:
            await asyncio.sleep(wait_ms / 1000)
            wait_ms = min(2 * wait_ms, AGENT_RETRY_MS_MAX)
