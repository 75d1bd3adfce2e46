"""One member of the cluster: the parts put together, and what the server asks of them."""

import asyncio
import base64
import logging
import resource
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, closing, contextmanager, suppress
from pathlib import Path
from typing import Any

from ..contents import DIRECTORY, Files
from ..errors import DataLoss, DfsError, OutOfRange, Unavailable
from ..identity import Identity
from ..limits import (
    CONTENT_CHECK_MS,
    CONTENT_HOLD_WAIT_MS,
    DISK_CHECK_INTERVAL_MS,
    DRAIN_MS_MAX,
    FLOOR_INTERVAL_MS,
    NODE_THREADS_MAX,
    READY_LAG_ENTRIES_MAX,
    REMOVAL_CHECK_MS,
    SCRUB_INTERVAL_MS,
    STATE_HASH_INTERVAL_MS,
    WATCH_WAIT_MS_MAX,
)
from ..store import Change, LargeContent, Listing, PastListing, Store, View
from ..store.encode import get_answer
from .backup import Saving
from .cluster import Answer, Cluster, led
from .contents import Contents
from .contents import Scrub as ContentScrub
from .disk import Disk, Space
from .history import Past
from .hot import HotLoop, stop_process
from .joining import Joining
from .keeping import Clocks, Floor, Flusher, Hashes, StateFault, fault
from .ports import WORK_ASK, Codec, Engine, Myself, Refused, Result, Work
from .scrub import Scrub
from .snapshots import Snapshots
from .streams import Caller, Streaming, Streams
from .tasks import every, in_thread
from .watch import Wanted, Watches

log = logging.getLogger("dfs.node")
PAGE_BYTES = resource.getpagesize()


class Node:
    """Life: construct → `start` → `become_member` → calls → `close`."""

    def __init__(
        self,
        engine: Engine,
        store: Store,
        codec: Codec,
        identity: Identity,
        me: Myself,
        peers: Sequence[str],
        clock: Callable[[], int],
        die: Callable[[str], Any] = stop_process,
        transfer_rate: int = 0,
    ) -> None:
        """`clock`: ns since 1970, used only for the age of history, for the time that a backup
        names, and to refuse lists of a time to come. `die`: ends the process. `transfer_rate`: see
        `Contents`."""
        self._engine, self._store, self._codec = engine, store, codec
        self._clock = clock
        self._identity, self._me = identity, me
        self._watches = Watches(
            self.view, self._listing, self._applied, self._set_watched, codec.update, self._check
        )
        self._streams = Streams(engine)
        self._hot = HotLoop(
            engine, store, codec, self._on_work, self._watches.deliver, self._streams.turn,
            self._damaged, self._on_contents, self._on_large, die,
        )  # fmt: skip
        self._flusher = Flusher(
            engine, store.flush, identity.keep_promises, self._damaged, die
        )
        self._cluster = Cluster(engine, me, codec.failure)
        self._cluster.on("status", self._local_status)
        self._files = Files(identity.directory / DIRECTORY)
        self.contents = Contents(engine, self._cluster, self._files, self.view, transfer_rate)
        """Large ones: what this member has of them, and how it gets the rest."""
        self._content_scrub = ContentScrub(self.contents)
        self._joining = Joining(engine, self._cluster, identity, me, peers)
        self._joining.on_removal = self._set_removed
        self._joining.missing = lambda: (self.contents.missing, self.contents.lost)
        self._hashes = Hashes(engine, self._cluster, self._hot, self._condemn)
        self._space = Space(engine, self._cluster, self._hot, identity.directory)
        self._disk = Disk(engine)
        self._floor, self._clocks = Floor(codec.record_time), Clocks(engine, self._cluster, clock)
        self._scrub = Scrub()
        self._pool = ThreadPoolExecutor(NODE_THREADS_MAX, thread_name_prefix="dfs-work")
        """For what must not wait until reads leave a thread to it."""
        self._snapshots = Snapshots(
            engine, store, codec, self._hot, self._flusher, self._pool, self._damaged,
            self._replaced, self._begin,
        )  # fmt: skip
        self._remembering = asyncio.Lock()
        self._agent: Answer = {}
        self._tasks: set[asyncio.Task[Any]] = set()
        self.failed: asyncio.Future[None]
        """Raises when a part of the node has ended that never should, or StateFault."""

    # ---- life ------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Brings store and log together, binds the ports, starts threads and tasks.

        Raises EngineError (the disk is in a state that needs a person), OSError (a port).
        """
        self._loop = asyncio.get_running_loop()
        self.failed = self._loop.create_future()
        await in_thread(self._files.open)
        await in_thread(self._engine.start, self._store.log_id, self._store.membership)
        self._hot.start()
        self._flusher.start()
        self._begin(every(DISK_CHECK_INTERVAL_MS, self._space.check))
        self._begin(every(DISK_CHECK_INTERVAL_MS, self._disk.check))
        self._begin(every(FLOOR_INTERVAL_MS, self.move_floor))
        self._begin(every(SCRUB_INTERVAL_MS, self.scrub))
        self._begin(every(CONTENT_CHECK_MS, self._keep_contents))
        self._begin(every(STATE_HASH_INTERVAL_MS, self._hashes.compare))
        self._begin(every(REMOVAL_CHECK_MS, self._remember_addresses))

    async def become_member(self) -> None:
        """Returns once the node belongs to a cluster; goes on to become a voter by itself.

        Raises Misconfigured when it cannot belong to one as it was started.
        """
        await self._joining.become_member()
        await self._remember_addresses()
        self._begin(self._joining.become_voter())
        self._begin(self._notice_going_back())
        self._begin(every(REMOVAL_CHECK_MS, self._joining.notice_removal))

    async def drain(self) -> None:
        """Ends watches, hands leadership away and lets calls under way end."""
        self._watches.end()
        await in_thread(self._engine.drain, DRAIN_MS_MAX, pool=self._pool)

    async def close(self) -> None:
        """Ends tasks and threads, flushes, and closes the engine."""
        await self._streams.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.to_thread(self._hot.stop)
        await asyncio.to_thread(self._flusher.stop)
        await asyncio.to_thread(self._engine.close)
        await self.contents.close()
        await asyncio.to_thread(self._cluster.close)
        await asyncio.to_thread(self._pool.shutdown)
        if self.failed.done():
            self.failed.exception()  # looked at, also where nobody waited for it

    def _begin(self, work: Any) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) and not self.failed.done():
            self.failed.set_exception(error)

    # ---- calls -----------------------------------------------------------------------------------

    def serve_streams(self, methods: Mapping[int, Streaming]) -> None:
        """How calls of the engine's port are answered whose answers are streams; before `start`."""
        self._streams.serve(methods)

    async def write(self, method: int, body: bytes, timeout_ms: int) -> Result:
        """Proposes a write as the hot thread would; the encoded answer or a refusal."""
        try:
            self._check()
            if self._hot.full is not None and method not in self._codec.frees_space:
                raise self._hot.full
            head = self._codec.writes[method](body)
        except DfsError as error:
            return self._codec.failure(error)
        return await self._hot.submit(head + body, timeout_ms)

    async def read(self, method: int, body: bytes, local: bool, timeout_ms: int) -> Result:
        """Answers a read; `local`: from what is applied here, without asking the leader."""
        return await self._hot.read(method, body, local, timeout_ms)

    async def barrier(self, local: bool, min_revision: int, timeout_ms: int) -> None:
        """Returns when a view shows what the caller asks for. Raises Refused."""
        if not local:
            self._passed(await self._hot.barrier(0, timeout_ms))
        if min_revision > self._store.applied:
            self._passed(await self._hot.barrier(min_revision, timeout_ms))

    def view(self) -> View:
        """The state as of now, frozen; close it."""
        self._check()
        return self._store.view()

    def _listing(self, key: str, data_bytes_max: int, data_after: int) -> Listing:
        self._check()
        return self._store.listing(key, True, "", 0, data_bytes_max, True, data_after)

    async def list_answers(
        self, key: str, recursive: bool, after: str, limit: int, data_bytes_max: int,
        revision: int = 0, time_ns: int | None = None,
    ) -> AsyncGenerator[bytes, None]:  # fmt: skip
        """Yields encoded ListResponses, all of one revision; at least one. Of now, or as of a past
        revision or time."""
        self._check()
        asked = key, recursive, after, limit, data_bytes_max
        if time_ns is not None and (ahead_s := (time_ns - self._clock()) / 1e9) > 0:
            raise OutOfRange(f"that time is yet to come, in {ahead_s:,.3f} s by the clock here")
        if revision or time_ns is not None:
            found: Listing | PastListing = self._store.past_listing(*asked, revision, time_ns)
        else:
            found = self._store.listing(*asked)
        with self._noticing(), closing(found) as listing:
            while not listing.done and (answer := await in_thread(listing.next)) is not None:
                yield answer

    async def history(
        self, key: str, before: int, limit: int
    ) -> AsyncGenerator[tuple[int, list[Change]], None]:
        """Yields (floor, changes without content), newest first; at least once."""
        with self._noticing(), self.view() as view:
            past = Past(view, key, before, limit)
            told = False
            while True:
                piece = await in_thread(past.next)
                if piece or (past.done and not told):
                    told = True
                    yield view.floor, piece
                if past.done:
                    return

    async def backup(self, with_contents: bool) -> AsyncGenerator[tuple[bytes, bytes], None]:
        """Yields (next bytes, b"") of a backup of the state as of now; in the end (b"", SHA-256 of
        all)."""
        with self._noticing(), self.contents.keeping(), self.view() as view:
            named = self._identity.cluster, self._me.name, self._me.version
            how = view, self.contents, with_contents
            saving = await in_thread(Saving, *how, *named, self._clock())
            async with aclosing(saving.pieces()) as pieces:
                async for piece in pieces:
                    yield piece, b""
        yield b"", saving.sha256

    async def watch(
        self, caller: Caller, wanted: Wanted, after: int, snapshot: bool, data_after: int
    ) -> None:
        """Tells a caller every change exactly once, until it is cancelled, or a gap."""
        with self._noticing():
            await self._watches.follow(caller, wanted, after, snapshot, data_after)

    # ---- the cluster -----------------------------------------------------------------------------

    async def operate(self, operation: Answer) -> Answer:
        """Changes the membership, on the leader wherever that is. Raises DfsError."""
        return await self._cluster.operate(operation)

    async def status(self, local: bool) -> list[Answer]:
        """What every member says of itself; those that do not answer have "error"."""
        mine = await self._local_status({})
        if local:
            return [mine]
        members = self._engine.status()["members"]
        others = [m for m in members if m["id"] != self._me.id]
        found = [mine, *await asyncio.gather(*(self._status_of(m) for m in others))]
        contacts: dict[str, int] = {}
        for row in found:
            contacts |= row.pop("contacts", {})
        for row in found:
            row["last_contact_ms"] = max(0, contacts.get(str(row["member"]["id"]), 0))
        return sorted(found, key=lambda row: str(row["member"]["name"]))

    def members(self) -> list[Answer]:
        """The members as this node knows them."""
        status = self._engine.status()
        return [_member(m, status["leader"]) for m in status["members"]]

    @property
    def cluster(self) -> bytes:
        """UUID of the cluster; b"" while there is none."""
        return self._identity.cluster

    @property
    def config(self) -> int:
        """Index of the log entry that says who the members are, as this node knows it."""
        return int(self._engine.status()["config"])

    def report_agent(self, report: Answer) -> None:
        """Keeps what the local agent says of cache and mount, for `status`."""
        self._agent = report

    def ready(self) -> bool:
        """A leader is known, what is committed is applied here but for a little, and the disk
        answers."""
        status = self._engine.status()
        lag = status["committed"] - self._store.applied
        sound = self._hot.refusal is None and self.cluster and not self._joining.removed
        sound = sound and not status["disk_stalled"]
        return bool(sound and lag <= READY_LAG_ENTRIES_MAX and led(status))

    def led(self) -> bool:
        """A leader is known."""
        return led(self._engine.status())

    def leads(self) -> bool:
        """This node is the leader."""
        return bool(self._engine.status()["role"] == "leader")

    async def move_floor(self) -> None:
        """Leader: proposes a new floor of history when it is time."""
        if not self.leads() or self._hot.refusal is not None:
            return
        now_ns = await self._clocks.now()
        with self._noticing(), self.view() as view:
            floor = await in_thread(self._floor.next, view, now_ns)
        if floor:
            result = await self._hot.submit(self._codec.floor_entry(floor), DRAIN_MS_MAX)
            if not isinstance(result, bytes):
                log.warning("the floor of history could not be moved: %s", result[1])

    async def scrub(self) -> None:
        """Reads the next piece of all that is stored. What is damaged gets healed."""
        if self._hot.refusal is not None or not self._scrub.due:
            return
        with suppress(DataLoss, Unavailable), self._noticing(), self.view() as view:
            await in_thread(self._scrub.step, view)

    async def _keep_contents(self) -> None:
        """Gets what is lacking of large contents; removes what nothing names."""
        if self._hot.refusal is not None:
            return
        with suppress(DataLoss, Unavailable, Refused), self._noticing():
            await self.contents.check()
            await self._content_scrub.step()
            await self.contents.tidy(lambda: self.barrier(False, 0, CONTENT_HOLD_WAIT_MS))

    # ---- inside ----------------------------------------------------------------------------------

    async def _local_status(self, _question: Answer) -> Answer:
        status = self._engine.status()
        applied, mark = self._hot.marks[-1]
        me = next((m for m in status["members"] if m["id"] == self._me.id), None)
        mine = me or {"id": self._me.id, "name": self._me.name, "raft": self._me.raft,
                      "grpc": self._me.grpc, "voter": False}
        leader = next((m["name"] for m in status["members"] if m["id"] == status["leader"]), "")
        usage = resource.getrusage(resource.RUSAGE_SELF)
        contacts = {str(m["id"]): m["contact_ms"] for m in status["members"]}
        return {
            "member": _member(mine, status["leader"]),
            "role": status["role"], "term": status["term"], "applied": applied,
            "committed": status["committed"], "last_log": status["last_log"],
            "verified": self._scrub.verified, **self.contents.figures(),
            "floor": self._store.floor, "keys": self._store.keys, "bytes": self._store.bytes,
            # As protobuf's JSON mapping wants bytes.
            "state_hash": base64.b64encode(mark[:16]).decode(),
            "version": self._me.version, "leader": leader, "agent": self._agent,
            "error": str(
                self._hot.fault or self._hot.full or self._joining.removed or self._space.full
                or status["disk"]
            ),
            "cpu_us": int((usage.ru_utime + usage.ru_stime) * 1_000_000),
            "rss_bytes": _resident_bytes(), "disk_free_bytes": self._space.free,
            "contacts": contacts if status["role"] == "leader" else {},
        }

    async def _status_of(self, member: Answer) -> Answer:
        try:
            return await self._cluster.ask(member["raft"], {"ask": "status"})
        except DfsError as error:
            leader = self._engine.status()["leader"]
            return {"member": _member(member, leader), "role": "", "error": error.text}

    async def _applied(self, revision: int) -> None:
        """Returns when this node has it. Raises Refused: it cannot ask a leader at the moment,
        which tells nothing of the revision; and OutOfRange: nobody has it."""
        if revision > self._store.applied:
            await self.barrier(False, 0, WATCH_WAIT_MS_MAX)
        if revision > self._store.applied:
            raise OutOfRange(
                f"revision {revision} does not exist yet, {self._store.applied} is the last;"
                " watch from one that an answer gave you"
            )

    def _passed(self, result: Result) -> None:
        if not isinstance(result, bytes):
            raise Refused(result)

    def _check(self) -> None:
        if refusal := self._hot.refusal:
            raise refusal

    def _on_contents(self, changes: dict[bytes, bool]) -> None:
        self.contents.changed(changes)

    def _on_large(self, wanted: tuple[LargeContent, Callable[[Result], None]]) -> None:
        self._begin(self._give_large(*wanted))

    async def _give_large(self, large: LargeContent, answer: Callable[[Result], None]) -> None:
        """Answers a Get whose content is not in the store. `answer`: any thread."""
        try:
            with self._noticing():
                data = await self.contents.whole(large.sha256, large.size)
            answer(get_answer(large.record, data))
        except (DfsError, OSError) as error:
            failed = error if isinstance(error, DfsError) else Unavailable(str(error))
            answer(self._codec.failure(failed))

    def _set_watched(self, watched: bool) -> None:
        self._hot.watched = watched

    def _set_removed(self, text: str) -> None:
        """What is answered from here on would grow old: callers go to a member."""
        self._hot.dismiss(Unavailable(text) if text else None)
        self._cluster.removed = text
        if text:
            self._watches.fall_behind()  # those who wait for changes notice it too

    @contextmanager
    def _noticing(self) -> Iterator[None]:
        """Around what reads the store elsewhere than on the hot thread."""
        try:
            yield
        except DataLoss as error:
            self._damaged(error)
            raise

    def _damaged(self, error: DataLoss) -> None:
        """The store has said so. Any thread."""
        with suppress(RuntimeError):  # the event loop has ended: the next start finds it again
            self._loop.call_soon_threadsafe(self._condemn, str(error), 0)

    def _condemn(self, text: str, index: int) -> None:
        """Serves nothing more, for good, and has the node healed."""
        if self._hot.fault is not None:
            return
        log.warning("this node stops serving its state: %s", text)
        self._hot.condemn(fault(text))
        try:
            self._identity.condemn(text, index)
            found: Exception = StateFault(text)
        except (OSError, DfsError) as error:
            found = error
        if not self.failed.done():
            self.failed.set_exception(found)

    async def _notice_going_back(self) -> None:
        if (text := await self._joining.notice_going_back()) and not self.failed.done():
            log.warning("this node stops: %s", text)
            self._hot.condemn(fault(text))
            self.failed.set_exception(StateFault(text))

    async def _remember_addresses(self) -> None:
        members = self._engine.status()["members"]
        others = sorted(m["raft"] for m in members if m["id"] != self._me.id)
        if not members:  # Raft is still starting, or this node is no member yet
            others = self._identity.known_addresses()[1]
        async with self._remembering:
            await in_thread(self._identity.remember_addresses, self._me.raft, others)

    # ---- work of the engine; begins on the hot thread --------------------------------------------

    def _on_work(self, work: Work) -> None:
        number, kind, _, data = work
        if kind == WORK_ASK:
            self._hot.post(self._begin_answer, (number, data))
        else:
            self._snapshots.take(work)

    def _replaced(self) -> None:
        """Another state is in its place."""
        self._watches.fall_behind()
        self._scrub.restart()
        self.contents.restart()

    def _begin_answer(self, question: tuple[int, bytes]) -> None:
        self._begin(self._answer(*question))

    async def _answer(self, number: int, body: bytes) -> None:
        self._engine.finish(number, await self._cluster.answer(body))


def _resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE_BYTES


def _member(member: Answer, leader: int) -> Answer:
    found = {key: member[key] for key in ("name", "id", "raft", "grpc", "voter")}
    return {**found, "leader": member["id"] == leader}
