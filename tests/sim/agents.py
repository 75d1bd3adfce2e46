"""Agents with cache directories: users write, agents store what they find, while all fails.

Agent, feeder, uploader, journal and client are the product's. What is simulated is the directory
with its events, the reading of files, and the file of the journal.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from dfs.cache.feeder import Feeder
from dfs.cache.journal import Changes, Journal, Row
from dfs.cache.large import Large
from dfs.cache.pending import CLOSED, HINT, MOVED, SCANNED, TOUCHED
from dfs.cache.problems import Problems
from dfs.cache.reader import Found
from dfs.cache.storing import Wanted
from dfs.cache.take import Busy, Look, Signature, Taken
from dfs.cache.twin import MemoryTree
from dfs.cache.uploader import Uploader
from dfs.client.aio import AsyncClient, Surroundings
from dfs.client.values import Kind
from dfs.limits import SIGNATURE_RACY_NS

from .callers import new_id
from .channel import SimChannel
from .model import Model, digest
from .raft import Raft
from .world import World

PATHS: Final = ("p0", "p1", "d/p0")
TICK_NS: Final = 4_000_000
"""Time stamps of files are no finer."""
JOURNAL_S: Final = 0.2
EVENT_S: Final = (0.0001, 0.02)
READ_S: Final = (0.0005, 0.02)
UNSEEN: Final = 1 << 62
"""Of content that was found before the tree was known: its base is what is known then."""


@dataclass
class File:
    """An entry of a cache directory."""

    data: bytes
    ino: int
    mtime_ns: int
    ctime_ns: int
    mode: int = 0o644
    writers: int = 0
    """Have it open."""

    def signature(self) -> Signature:
        """As the agent takes it."""
        return Signature(self.ino, len(self.data), self.mtime_ns, self.ctime_ns)

    def look(self) -> Look:
        """What a look at it tells."""
        return Look(Kind.FILE, self.signature(), self.mode, 0, 0)


class SimJournal(Journal):
    """The journal, whose file is two dicts."""

    def __init__(self) -> None:
        super().__init__("")
        self.on_disk: tuple[dict[str, Row], dict[str, int]] = {}, {}

    def open(self) -> None:
        """See Journal."""
        self.rows, self.bases = dict(self.on_disk[0]), dict(self.on_disk[1])
        self._dirty = set()

    def write(self, changes: Changes) -> None:
        """See Journal."""
        for path, row, base in changes:
            for table, value in zip(self.on_disk, (row, base), strict=True):
                if value is None:
                    table.pop(path, None)
                else:
                    table[path] = value  # type: ignore[assignment]


class SimReader:
    """Reads drops of the directory, at some moment."""

    root = -1

    def __init__(self, world: World, files: dict[str, File], journal: Journal) -> None:
        self._world, self._files, self._journal = world, files, journal

    async def take(self, paths: Sequence[str], bytes_max: int) -> list[Found]:
        """See `Reader.take`."""
        found: list[Found] = []
        for path in paths:
            await self._world.wait(self._world.chance.uniform(*READ_S))
            try:
                found.append(self._read(path))
            except (FileNotFoundError, Busy) as error:
                found.append(error)
            if self._world.fault(0.1):
                break  # The others were too much for now.
        return found

    def _read(self, path: str) -> Taken | None:
        file = self._files.get(path)
        if file is None:
            raise FileNotFoundError(path)
        if self._journal.unchanged(path, file.look()):
            return None
        if file.writers:
            raise Busy
        age_ns = self._world.wall_ns() - max(file.mtime_ns, file.ctime_ns)
        return Taken(
            Kind.FILE, file.data, digest(file.data), "", file.mode, file.mtime_ns,
            file.signature(),
            age_ns < SIGNATURE_RACY_NS,
        )

    def close(self) -> None:
        """Nothing to close."""


class SimUploader(Uploader):
    """Counts what becomes of drops that go together."""

    world: World

    async def _together(self, wanted: Wanted) -> bool:
        stored = self.counts.stored
        dealt_with = await super()._together(wanted)
        outcome = "not known" if dealt_with else "refused"
        self.world.counts[
            f"drops together {'done' if self.counts.stored > stored else outcome}"
        ] += 1
        return dealt_with


class Agent:
    """One machine's cache directory, its user, and the agent that runs or not."""

    def __init__(self, world: World, raft: Raft, model: Model, number: int) -> None:
        self.world, self.raft, self.model = world, raft, model
        self.node = raft.names[number % len(raft.names)]
        self.me = f"a{number}"
        self.files: dict[str, File] = {}
        self.journal = SimJournal()
        self.written: dict[bytes, int] = {}
        """Content → the newest version of its path that could be known when it was dropped."""
        self.events: list[tuple[str, int]] = []
        """Not read yet; why 0: the path is gone."""
        self.up = False
        self.feeder: Feeder
        self.uploader: SimUploader
        self._tasks: list[asyncio.Task[Any]] = []
        self._count = self._inodes = 0
        self._life = 0
        self._scans = 0
        """Still to come."""

    # ---- the agent -------------------------------------------------------------------------------
    def start(self) -> None:
        """Starts it from the journal's file."""
        if self.up:
            return
        world, chance = self.world, self.world.chance
        self.up, self._life = True, self._life + 1
        client = AsyncClient(
            self.node, timeout=chance.choice((0.5, 2.0, 10.0)), learn=False,
            surroundings=Surroundings(
                lambda endpoint: SimChannel(self.raft, self.me, endpoint), chance,
                lambda: new_id(world),
            ),
        )
        self.journal.open()
        problems = Problems()
        self.feeder = Feeder(client, problems, MemoryTree())
        self.uploader = SimUploader(
            client, self.feeder, self.journal, problems, self.node,
            Large(client, "", "", self.journal.unchanged),
            SimReader(world, self.files, self.journal), lambda: new_id(world),
        )
        self.uploader.world = world
        self.feeder.removed = self.uploader.retry_blocked
        self.problems = problems
        self.events.clear()
        self._tasks = [
            world.begin(work) for work in (self.feeder.run(), self.uploader.run(), self._house())
        ]
        self._scans = 1
        world.later(chance.uniform(0, 0.05), self._scan, self._life)

    def crash(self, loses_journal: bool) -> None:
        """The process is gone, and perhaps the journal's file with it."""
        if not self.up:
            return
        self.up = False
        for task in self._tasks:
            task.cancel()
        if loses_journal:
            self.journal.on_disk = {}, {}
        self.world.count("agent loses its journal" if loses_journal else "agent crashes", self.me)
        self.world.later(self.world.chance.uniform(0.05, 2.0), self.start)

    async def _house(self) -> None:
        while True:
            await self.world.wait(JOURNAL_S)
            self.journal.write(self.journal.collect())

    def idle(self) -> bool:
        """It has dealt with everything, and shows everything."""
        return (
            self.up and not self._scans and not self.events and not self.uploader.waiting
            and self.feeder.ready.is_set() and self.feeder.revision >= self.raft.last()
        )

    # ---- the kernel ------------------------------------------------------------------------------
    def _happened(self, path: str, why: int) -> None:
        """An event for the watcher, who reads it soon."""
        if not self.up:
            return
        self.events.append((path, why))
        if self.world.fault(0.02):
            self.world.count("events overflow", self.me)
            self.events.clear()
            self._scans += 1
            self.world.later(self.world.chance.uniform(0, 0.2), self._scan, self._life)
            return
        self.world.later(self.world.chance.uniform(*EVENT_S), self._read_events, self._life)

    def _read_events(self, life: int) -> None:
        if life != self._life or not self.up:
            return
        events, self.events = self.events, []
        for path, why in events:
            if why:
                self._changed(path, why)
            else:
                self.uploader.gone(path)

    def _changed(self, path: str, why: int) -> None:
        file = self.files.get(path)
        if file is not None:
            self.written[file.data] = max(self.written.get(file.data, 0), self._known(path))
        self.uploader.changed(path, why)

    def _known(self, path: str) -> int:
        """The newest version of a path that the agent can know of."""
        if not self.feeder.ready.is_set():
            return UNSEEN
        found = self.uploader.committed(path)
        return found.revision if found is not None else 0

    def _scan(self, life: int) -> None:
        """As the watcher's: compares everything with the journal."""
        if life != self._life or not self.up:
            return
        self._scans -= 1
        self.world.counts["scans"] += 1
        began = self.world.wall_ns()
        for path, file in list(self.files.items()):
            if not self.journal.unchanged(path, file.look()):
                self._changed(path, MOVED | SCANNED)
        drops = self.uploader.pending.drops
        gone = [
            path for path, row in self.journal.rows.items()
            if path not in self.files and path not in drops and row.signature.ctime_ns < began
        ]
        for path in gone:
            self.uploader.gone(path)

    # ---- its user --------------------------------------------------------------------------------
    async def use(self, count: int) -> None:
        """So many changes of the directory, or until the calm."""
        chance = self.world.chance
        deeds: list[tuple[Callable[[str], Any], int]] = [
            (self._write, 5), (self._replace, 5), (self._touch, 1), (self._remove, 1),
        ]
        for _ in range(count):
            if self.world.calm:
                return
            [deed] = chance.choices([d for d, _ in deeds], [w for _, w in deeds])
            await deed(chance.choice(PATHS))
            await self.world.wait(chance.choice((0.01, 0.3, 1.0)) * chance.random())

    def _stamp(self) -> int:
        return self.world.wall_ns() // TICK_NS * TICK_NS

    def _fresh(self, path: str) -> bytes:
        self._count += 1
        data = b"%b.%d" % (self.me.encode(), self._count)
        self.written[data] = self._known(path) if self.up else 0
        self.world.count("drop", f"{self.me} {path} {data!r} knowing {self.written[data]}")
        return data

    async def _write(self, path: str) -> None:
        """Opens, writes and closes; some take their time."""
        now = self._stamp()
        file = self.files.get(path)
        if file is None:
            self._inodes += 1
            file = self.files[path] = File(b"", self._inodes, now, now)
            self._happened(path, HINT)
        file.writers += 1
        parts = self.world.chance.choice((1, 1, 2))
        for part in range(parts):
            file.data = self._fresh(path)
            file.mtime_ns = file.ctime_ns = self._stamp()
            self._happened(path, HINT)
            if part + 1 < parts:
                await self.world.wait(self.world.chance.uniform(0, 0.3))
        file.writers -= 1
        self._happened(path, CLOSED)

    async def _replace(self, path: str) -> None:
        """Renames a complete file to this name."""
        self._inodes += 1
        now = self._stamp()
        self.files[path] = File(self._fresh(path), self._inodes, now, now)
        self._happened(path, MOVED)

    async def _touch(self, path: str) -> None:
        file = self.files.get(path)
        if file is not None:
            file.mode ^= 0o022
            file.ctime_ns = self._stamp()
            self._happened(path, TOUCHED)

    async def _remove(self, path: str) -> None:
        if self.files.pop(path, None) is not None:
            self.world.count("eviction", f"{self.me} {path}")
            self._happened(path, 0)
