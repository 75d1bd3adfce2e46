"""The agent's process: options, parts, the order in which they start and stop.

`dfs mount --endpoint unix:… --cache DIR --mount DIR --state DIR`. A supervisor hands over the
/dev/fuse descriptor (`--fuse-fd`), mounted already; a restarted agent adopts the connection of the
dead one (`--adopt`). The mount is served when the first snapshot is complete and not before: it
never shows less than the tree. Exit codes: 0 asked to stop, 2 misconfigured, 3 the kernel ended the
mount.
"""

from __future__ import annotations

import argparse
import asyncio
import fcntl
import gc
import logging
import os
import signal
import socket
import stat
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any, Final

from ..client import AsyncClient
from ..errors import DfsError, FailedPrecondition, Misconfigured
from ..limits import (
    DELETE_DELAY_S,
    FETCH_MS_MAX,
    REPORT_INTERVAL_MS,
    SPACE_INTERVAL_MS,
)
from ..places import real_place
from ..privileges import may_administrate
from ..proto import dfs_pb2 as pb
from ..sizes import NOTHING_FREE, FreeSpace, size_of
from .about import About
from .control import Control, Operation, Request, Tell
from .deletes import DELETING, Deletes
from .feeder import Feeder
from .fetcher import Fetcher
from .journal import DELETE, Journal
from .keeping import KEEPING, Keeping, Places
from .large import Large
from .objects import Objects
from .past import Past
from .pins import Pins
from .ports import Client, Tree
from .problems import Problems
from .questions import Questions
from .room import Room
from .safety import Safety
from .tasks import together
from .uploader import Uploader
from .watcher import Watcher

log = logging.getLogger(__name__)

UNMOUNTED: Final = 3
"""Exit code: the kernel ended the connection; there is nothing left to serve."""
TABLE_VARIABLE: Final = "DFS_FUSE_TABLE"
"""Where the supervisor says which descriptor is the table of open files."""
STANDBY_VARIABLE: Final = "DFS_STANDBY"
"""Where it says that this is the next agent, whose turn comes with a byte on standard input."""
JOURNAL_WRITE_S: Final = 0.2
COLLECT_OBJECTS: Final = 10_000
"""Objects made, less those that went, between two searches for cycles. It keeps some for each
content, and by Python's 700 it would look at them again and again: a third more CPU for a snapshot
of half a million keys. What cycles hold until then is a few MiB."""
COLLECT_OLDER: Final = 20
"""Searches among the young for each among those that outlived one, and of those for one of all."""
TTL_MS: Final = 3_600_000
"""Kernel caches, while changes are pushed."""


@dataclass(frozen=True)
class Options:
    """What the agent is told."""

    endpoints: Sequence[str]
    state: str
    cache: str = ""
    """"" = no drops are taken."""
    mount: str = ""
    """For the status, and to keep out of when it lies below the cache directory."""
    fuse_fd: int = -1
    """-1 = nothing is mounted."""
    adopt: bool = False
    fuse_table: int = -1
    """Descriptor of the supervisor's memory in which open files are noted for the next agent."""
    name: str = field(default_factory=socket.gethostname)
    contents: str = ""
    """The node's directory of large contents, where that is on this machine."""
    cache_bytes_max: int = 0
    """Of content kept below `state`; 0 = no limit."""
    cache_free: FreeSpace = NOTHING_FREE
    """What stays free on the disk of `state`."""
    propagate_deletes: bool = False
    """What is removed from the cache directory is deleted from the tree, under conditions."""
    delete_delay_s: float = DELETE_DELAY_S
    no_open: bool = False
    passthrough: bool = True
    xattr: bool = False
    """The mount answers `user.dfs.…` and what was stored of extended attributes."""
    owners: bool = False
    """uid and gid go with drops, and the mount shows them."""


class Agent:
    """The parts, wired."""

    def __init__(self, options: Options, client: Client, tree: Tree | None) -> None:
        """Needs a running loop; `tree` is None where nothing is mounted: then one that nobody looks
        at holds what is committed."""
        self.options, self.client, self.tree = options, client, tree
        self.problems = Problems()
        self.journal = Journal(options.state, options.owners)
        self.objects = Objects(options.state) if tree is not None else None
        self.feeder = Feeder(client, self.problems, tree or _tree(options), self.objects)
        self.large = Large(client, options.state, options.contents, self.journal.unchanged)
        if self.objects is not None:
            self.objects.elsewhere = self.large.backing
        self.uploader = Uploader(
            client, self.feeder, self.journal, self.problems, options.name, self.large,
            owners=options.owners,
        )
        self.feeder.removed = self.uploader.retry_blocked
        places = Places(options.cache, options.mount)
        self.room: Room | None = None
        self.fetcher: Fetcher | None = None
        self.questions: Questions | None = None
        self.pins: Pins | None = None
        self.operations: dict[str, Operation] = {
            "report": self._asked, **dict.fromkeys(KEEPING, _keeps_nothing),
            **dict.fromkeys(DELETING, _deletes_nothing),
        }
        """What this agent does when it is asked to."""
        if tree is not None and self.objects is not None:
            self.room = self.feeder.room = Room(
                self.objects, self.problems, self.feeder.show, options.cache_bytes_max,
                options.cache_free,
            )
            self.room.needed = self.feeder.needed
            self.fetcher = Fetcher(
                client, self.objects, self.feeder, tree, self.large, self.room, self.problems,
                to_the_end=options.no_open,
            )
            self.pins = Pins(
                self.journal, self.feeder, self.objects, self.fetcher, self.room, self.problems
            )
            self.operations |= Keeping(
                places, self.pins, self.journal, self.feeder,
                self.objects, self.fetcher, self.room,
            ).operations()
            about = About(
                client, tree, self.feeder, self.objects, self.uploader, self.problems
            )
            past = Past(client, self.feeder, self.objects)
            self.questions = Questions(tree, about.files(), about.attributes, past)
        self.watcher: Watcher | None = None
        if options.cache:
            excluded = {real_place(p) for p in (options.mount, options.state) if p}
            self.watcher = Watcher(
                options.cache, self.uploader, self.journal, self.problems, frozenset(excluded)
            )
        self.deletes: Deletes | None = None
        if options.cache and options.propagate_deletes:
            self.deletes = Deletes(
                options.cache, options.delete_delay_s, client, self.feeder, self.journal,
                self.problems,
            )
            self.operations |= self.deletes.operations()
        self.operations |= Safety(
            places, self.watcher, self.uploader, self.journal, self.feeder, self.problems,
            self.pins, self.deletes, options.endpoints,
        ).operations()

    async def run(self) -> None:
        """Runs until it is cancelled, or until the kernel ends the mount."""
        # A writer that meets our read lease makes the kernel send this; it would end the process.
        signal.signal(signal.SIGIO, signal.SIG_IGN)
        lock = self._lock_state()
        try:
            self.journal.open()
            for path, text in self.journal.left_out():
                self.problems.set(path, text)
            self.large.open()
            if self.deletes is None:
                self.journal.clear_marks(DELETE)
            else:
                self.deletes.begin()
            if self.objects is not None:
                self.objects.open()
            await self._run_parts()
        finally:
            if self.tree is not None:
                self.tree.close()
            if self.room is not None:
                self.room.close()
            try:
                self.journal.close()
            finally:
                os.close(lock)

    def _lock_state(self) -> int:
        state = self.options.state
        try:
            os.makedirs(state, mode=0o700, exist_ok=True)
            lock = os.open(os.path.join(state, "lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC)
        except OSError as error:
            raise Misconfigured(
                f"the state directory {state} cannot be used ({error.strerror}); choose another "
                "with --state"
            ) from error
        end = time.monotonic() + 1.0
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return lock
            except BlockingIOError:
                if time.monotonic() < end:
                    time.sleep(0.02)  # Of a killed agent whose last thread is just ending.
                    continue
                os.close(lock)
                raise Misconfigured(
                    f"another agent uses the state directory {state}; stop it or choose another "
                    "with --state"
                ) from None

    async def _run_parts(self) -> None:
        parts = [self.feeder.run(), self._house(), self._control()]
        if self.options.contents:  # Else the node has an agent of its own, which it shows.
            parts.append(self._report())
        if self.watcher is not None:
            parts += [self.watcher.run(), self.uploader.run()]
        if self.deletes is not None:
            parts.append(self.deletes.run())
        if self.tree is not None and self.fetcher is not None:
            assert self.pins is not None
            assert self.questions is not None
            parts += [self._mount(self.tree), self.fetcher.run(), self.pins.run()]
            parts += [self.questions.run(), self._measure_for_ever(self.tree)]
        await together(parts)

    async def _control(self) -> None:
        """Answers programs of this machine; an agent that cannot goes on without."""
        control = Control(self.options.state, self.operations)
        try:
            await control.run()
        except OSError as error:
            self.problems.set(
                "(socket)", f"{control.path} cannot be made ({error.strerror}): dfs pin, sync and "
                "the like do not work; choose a -state directory on a file system that has sockets"
            )
            await asyncio.get_running_loop().create_future()

    async def _mount(self, tree: Tree) -> None:
        """Serves the mount from the moment the tree is known; returns when the kernel ends it."""
        await self.feeder.ready.wait()
        tree.set_free(await self._free_here())
        if self.options.fuse_fd >= 0:
            begin = tree.adopt if self.options.adopt else tree.serve
            begin(self.options.fuse_fd, self.options.fuse_table)
            log.info("%s shows revision %d", self.options.mount, self.feeder.revision)
        while True:
            await asyncio.sleep(REPORT_INTERVAL_MS / 1000)
            if self.options.fuse_fd >= 0 and not tree.running():
                log.warning("%s was unmounted", self.options.mount)
                return

    async def _measure_for_ever(self, tree: Tree) -> None:
        """What `df` shows as free is known before anybody asks: the answer must not wait. So is
        whether there is a quorum."""
        await self.feeder.ready.wait()
        while True:
            await self._measure(tree)
            await asyncio.sleep(SPACE_INTERVAL_MS / 1000)

    async def _measure(self, tree: Tree) -> None:
        """Every member stores everything, so the fullest one counts; where none says, the disk
        here."""
        try:
            answer = await self.client.status(timeout=SPACE_INTERVAL_MS / 1000)
            known = [n.disk_free_bytes for n in answer.nodes if n.HasField("disk_free_bytes")]
            answering = [bool(n.role) for n in answer.nodes if n.member.voter]
            self.feeder.majority(2 * sum(answering) > len(answering) or not answering)
        except DfsError:
            known = []  # The stream of changes says aloud that the node is away.
        tree.set_free(min(known) if known else await self._free_here())

    async def _free_here(self) -> int:
        try:
            figures = await asyncio.to_thread(os.statvfs, self.options.state)
        except OSError:
            return 0  # Where the directory is gone nothing can be kept; the journal says so aloud.
        return figures.f_bavail * figures.f_frsize

    # ---- housekeeping ----------------------------------------------------------------------------
    async def _house(self) -> None:
        """Writes the journal, keeps the cache within its bounds; for ever."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(JOURNAL_WRITE_S)
            try:
                await self._write_journal()
                self.problems.clear("(journal)")
            except OSError as error:
                self.problems.set("(journal)", f"{error}; free some space")
            if self.objects is not None and self.tree is not None and self.feeder.ready.is_set():
                await loop.run_in_executor(None, self.objects.note_used, self.tree.opened())
                if self.room is not None:
                    await self.room.trim()
                    await self.room.scrub()
                await loop.run_in_executor(None, self.feeder.sweep, self.objects)

    async def _write_journal(self) -> None:
        """Whoever ends this waits for it: the file is closed next, and the changes would be lost.
        Raises OSError."""
        changes, marks = self.journal.collect(), self.journal.collect_marks()

        def write() -> None:
            self.journal.write_marks(marks)
            self.journal.write(changes)

        writing = asyncio.get_running_loop().run_in_executor(None, write)
        try:
            await asyncio.shield(writing)
        except asyncio.CancelledError:
            await asyncio.wait({writing})
            raise

    # ---- status ----------------------------------------------------------------------------------
    def status(self) -> pb.AgentStatus:
        """What `dfs status` shows."""
        return pb.AgentStatus(
            cache=self.options.cache, mount=self.options.mount, mount_mode=self._mount_mode(),
            revision=self.feeder.revision, pending_drops=self.uploader.waiting,
            cached_bytes=self.objects.bytes if self.objects is not None else 0,
            problems=self.problems.lines(), files=len(self.feeder.known),
        )

    async def _asked(self, request: Request, tell: Tell) -> Mapping[str, Any]:  # noqa: ARG002
        """The status, for who asks this agent itself: also when there is no node."""
        status = self.status()
        found = {f.name: getattr(status, f.name) for f in status.DESCRIPTOR.fields}
        return {**found, "problems": list(status.problems)}

    def _mount_mode(self) -> str:
        if self.tree is None or self.options.fuse_fd < 0:
            return "off: nothing is mounted"
        if not self.feeder.ready.is_set():
            return "off: waiting for the tree"
        if self.options.no_open:
            return "no-open"
        return "passthrough" if self.tree.stats().get("passthrough") else "read"

    async def _report(self) -> None:
        """Tells the node that started this agent how things are; for ever."""
        while True:
            try:
                await self.client.report_agent(self.status(), timeout=REPORT_INTERVAL_MS / 1000)
            except DfsError as error:
                # The stream of changes says aloud that the node is away.
                log.debug("the node did not take the report: %s", error)
            await asyncio.sleep(REPORT_INTERVAL_MS / 1000)


async def _keeps_nothing(request: Request, tell: Tell) -> Mapping[str, Any]:  # noqa: ARG001
    raise FailedPrecondition("this agent serves no mount, so it keeps no content; start it with "
                             "-mount DIR")


async def _deletes_nothing(request: Request, tell: Tell) -> Mapping[str, Any]:  # noqa: ARG001
    raise FailedPrecondition("this agent deletes nothing from the tree; start it with "
                             "-propagate-deletes and -cache DIR")


def _tree(options: Options) -> Tree:
    """The kernel side; imported only where something is mounted."""
    from .._engine import Tree as EngineTree

    return EngineTree({
        "passthrough": int(options.passthrough and may_administrate()),
        "no_open": int(options.no_open), "xattr": int(options.xattr),
        "owners": int(options.owners),
        "deadline_ms": FETCH_MS_MAX, "ttl_ms": TTL_MS, "uid": os.getuid(), "gid": os.getgid(),
    })


async def run(options: Options) -> int:
    """Runs an agent until SIGTERM or SIGINT; returns the exit code. Raises Misconfigured."""
    _check(options)
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    _watch_supervisor(loop, stop)
    local = all(endpoint.startswith("unix:") for endpoint in options.endpoints)
    async with AsyncExitStack() as stack:
        client = await stack.enter_async_context(
            AsyncClient(*options.endpoints, learn=not local)
        )
        tree = _tree(options) if options.fuse_fd >= 0 else None
        agent = Agent(options, client, tree)
        running = asyncio.create_task(agent.run())
        stopping = asyncio.create_task(stop.wait())
        await asyncio.wait({running, stopping}, return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        if running.done():
            running.result()
            return UNMOUNTED
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    return 0


def _watch_supervisor(loop: asyncio.AbstractEventLoop, stop: asyncio.Event) -> None:
    """A supervisor gives a pipe as standard input; it ends when the supervisor does, however."""
    try:
        piped = stat.S_ISFIFO(os.fstat(0).st_mode)
    except OSError:
        return  # No standard input at all.

    def readable() -> None:
        if not os.read(0, 4096):
            loop.remove_reader(0)
            log.info("the supervisor has ended")
            stop.set()

    if piped:
        loop.add_reader(0, readable)


def _check(options: Options) -> None:
    if not options.cache or not options.mount:
        return
    cache, mount = os.path.realpath(options.cache), real_place(options.mount)
    if cache == mount or cache.startswith(mount + "/"):
        raise Misconfigured(
            f"the cache directory {options.cache} lies in the mount {options.mount}, which is "
            "read-only; choose another with -cache"
        )


def options_of(argv: Sequence[str]) -> Options:
    """Reads the command line of the agent."""
    parser = argparse.ArgumentParser("dfs mount", description="Serve a cache and a mount.")
    add = parser.add_argument
    add("--endpoint", action="append", required=True, help="a node: unix:PATH or HOST:PORT")
    add("--state", required=True, help="directory for cached content and the journal")
    add("--cache", default="", help="directory whose files go into the tree")
    add("--mount", default="", help="where the tree is shown")
    add("--fuse-fd", type=int, default=-1, help="descriptor of /dev/fuse, from the supervisor")
    add("--adopt", action="store_true", help="the descriptor was served by an agent that died")
    add("--name", default=socket.gethostname(), help="in the names of conflict copies")
    add("--cache-size", type=size_of, default=0, help="of cached content at most; 0 = no limit")
    add("--cache-free", type=FreeSpace.of, default=NOTHING_FREE, help="to stay free on that disk")
    add("--propagate-deletes", action="store_true", help="removals from the cache delete")
    add("--delete-delay", type=float, default=DELETE_DELAY_S, help="seconds until they do")
    add("--contents", default="", help="the node's directory of large contents")
    add("--no-open", action="store_true", help="faster for trees of small files only")
    add("--xattr", action="store_true", help="answer extended attributes")
    add("--owners", action="store_true", help="carry and show uid and gid")
    add("--no-passthrough", action="store_true", help="all reads go through this process")
    given = parser.parse_args(argv)
    return Options(
        given.endpoint, os.path.abspath(given.state),
        cache=os.path.abspath(given.cache) if given.cache else "",
        mount=os.path.abspath(given.mount) if given.mount else "",
        fuse_fd=given.fuse_fd, adopt=given.adopt,
        fuse_table=int(os.environ.get(TABLE_VARIABLE, "-1")),
        contents=given.contents, name=given.name, cache_bytes_max=given.cache_size,
        cache_free=given.cache_free, propagate_deletes=given.propagate_deletes,
        delete_delay_s=given.delete_delay, no_open=given.no_open,
        passthrough=not given.no_passthrough, xattr=given.xattr, owners=given.owners,
    )


def main(argv: Sequence[str] | None = None) -> int:
    """The program; one line on stderr for each notable thing."""
    options = options_of(sys.argv[1:] if argv is None else argv)
    gc.set_threshold(COLLECT_OBJECTS, COLLECT_OLDER, COLLECT_OLDER)
    logging.basicConfig(
        level=logging.INFO, stream=sys.stderr, format="%(asctime)s agent %(levelname)s %(message)s"
    )
    if STANDBY_VARIABLE in os.environ and not os.read(0, 1):
        return 0  # The supervisor has ended before there was anything to do.
    try:
        return asyncio.run(run(options))
    except Misconfigured as error:
        log.error("%s", error)
        return error.row.exit


if __name__ == "__main__":
    sys.exit(main())
