"""Pinned subtrees: their content is fetched ahead of its use and stays.

A pin is the path of a file or directory, "" = the whole tree; what comes below it later is pinned,
too. Pins are kept in the journal. Runs on the event loop.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple, NoReturn

from ..at_once import some_at_once
from ..client.values import Kind
from ..errors import DfsError, NotFound, TooLarge
from ..limits import PIN_INTERVAL_S, WARM_FETCHES_MAX
from ..paths import is_below
from ..sizes import size_text
from .feeder import Feeder
from .fetcher import Fetcher
from .journal import PIN, Journal
from .known import Version
from .objects import Objects
from .problems import Problems
from .room import NoRoom, Room

log = logging.getLogger(__name__)

File = tuple[str, Version]


class Amount(NamedTuple):
    """Files, and the bytes of their different contents."""

    files: int
    bytes: int


class Pins:
    """What is pinned, and the task that fetches it."""

    def __init__(
        self, journal: Journal, feeder: Feeder, objects: Objects, fetcher: Fetcher, room: Room,
        problems: Problems,
    ) -> None:
        self._journal, self._feeder, self._objects = journal, feeder, objects
        self._fetcher, self._room, self._problems = fetcher, room, problems
        self._changed = asyncio.Event()
        self._contents: Mapping[bytes, int] = {}
        self._contents_of: tuple[int, frozenset[str]] | None = None
        room.pinned = self.contents

    @property
    def paths(self) -> Iterable[str]:
        """All pins."""
        return self._journal.marks[PIN]

    # ---- what there is ---------------------------------------------------------------------------
    def files(self, path: str) -> Iterator[File]:
        """The files of the tree at `path` and below it."""
        for key, entry in self._feeder.known.entries(path):
            if entry.kind is Kind.FILE:
                yield key, entry

    def contents(self) -> Mapping[bytes, int]:
        """All pinned contents and their bytes."""
        pins = frozenset(self.paths)
        if self._contents_of != (self._feeder.revision, pins):
            self._contents = self._pinned(pins)
            self._contents_of = self._feeder.revision, pins
        return self._contents

    def _pinned(self, pins: frozenset[str]) -> dict[bytes, int]:
        return {file.sha256: file.size for pin in pins for _, file in self.files(pin)}

    def amount(self, files: Iterable[File]) -> Amount:
        """How much that is."""
        count, sizes = 0, dict[bytes, int]()
        for _, file in files:
            count += 1
            sizes[file.sha256] = file.size
        return Amount(count, sum(sizes.values()))

    def here(self, file: Version) -> bool:
        """Its content is on this machine, verified."""
        return self._objects.backing(file.sha256, file.size) is not None

    # ---- changes ---------------------------------------------------------------------------------
    def add(self, paths: Iterable[str]) -> Amount:
        """Pins these; returns how much they are. Raises NotFound, TooLarge: then none is."""
        chosen = {path: list(self.files(path)) for path in paths}
        for path, files in chosen.items():
            if not files and path not in self._feeder.known:
                raise NotFound(f"there is nothing at {path or 'the root'} in the tree")
        every = [file for files in chosen.values() for file in files]
        before = sum(self.contents().values())
        whole = {**self.contents(), **{file.sha256: file.size for _, file in every}}
        self._must_fit(self.amount(every), before, sum(whole.values()))
        for path in chosen:
            self._journal.mark(PIN, path, 1)
        self._changed.set()
        return self.amount(every)

    def _must_fit(self, wanted: Amount, before: int, whole: int) -> None:
        limit = self._room.bytes_max
        if limit and whole > limit:
            raise TooLarge(
                f"it is {size_text(wanted.bytes)} in {wanted.files:,} files; with what is pinned "
                f"already ({size_text(before)}) that makes {size_text(whole)}, and the cache may "
                f"hold {size_text(limit)}: raise -cache-size, or unpin something"
            )

    def remove(self, paths: Iterable[str]) -> None:
        """Unpins these. Raises NotFound for one that is no pin: then none is unpinned."""
        pins, chosen = set(self.paths), list(paths)
        for path in chosen:
            if path not in pins:
                above = next((p for p in pins if is_below(path, p)), None)
                more = f", but {above or 'the root'} above it is" if above is not None else ""
                raise NotFound(f"{path or 'the root'} is not pinned{more}. Try: dfs pins")
        for path in chosen:
            self._journal.mark(PIN, path, None)
        self._changed.set()

    # ---- in the background -----------------------------------------------------------------------
    async def run(self) -> NoReturn:
        """Fetches what is pinned and not here, for ever."""
        loop = asyncio.get_running_loop()
        done: tuple[int, frozenset[str]] | None = None
        while True:
            self._changed.clear()
            state = self._feeder.revision, frozenset(self.paths)
            pause_s: float = PIN_INTERVAL_S
            if state != done and self._feeder.ready.is_set():
                begin_s = loop.time()
                missing = self._missing(state[1])
                # A look at a large tree takes a while, in which nothing else is done.
                pause_s = max(pause_s, 10 * (loop.time() - begin_s))
                done = state if await self._fetch(missing) else None
            try:
                async with asyncio.timeout(pause_s):
                    await self._changed.wait()
            except TimeoutError:
                continue

    def _missing(self, pins: frozenset[str]) -> list[File]:
        files = {path: file for pin in pins for path, file in self.files(pin)
                 if not self.here(file)}
        return list(files.items())

    async def _fetch(self, missing: Sequence[File]) -> bool:
        """True when all is here."""
        problems: list[str] = []

        async def one(wanted: File) -> None:
            path, file = wanted
            try:
                if _covers(frozenset(self.paths), path):
                    await self._fetcher.bring(path, file)
            except NoRoom as error:
                problems.append(error.text)
            except (DfsError, OSError) as error:
                log.debug("%s: pinned, and not to be had now: %s", path, error)
                problems.append(f"{path}: {error}")

        await some_at_once(WARM_FETCHES_MAX, missing, one)
        if problems:
            text = f"{len(problems):,} of the pinned files are not here yet: {problems[0]}"
            self._problems.set("(pins)", text)
        else:
            self._problems.clear("(pins)")
        return not problems


def _covers(pins: frozenset[str], path: str) -> bool:
    while path:
        if path in pins:
            return True
        path = path.rpartition("/")[0]
    return "" in pins
