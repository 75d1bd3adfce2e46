"""What one member has of large contents, how it gets the rest and lets go of what is left over."""

import asyncio
import logging
import math
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any, TypeVar

from ...at_once import some_at_once
from ...contents import Files
from ...errors import (
    DataLoss,
    DfsError,
    FailedPrecondition,
    NotFound,
    TooLarge,
    Unavailable,
)
from ...limits import (
    ASK_MS_MAX,
    CONTENT_ASK_MS_MAX,
    CONTENT_FETCHES,
    CONTENT_HOLD_WAIT_MS,
    CONTENT_KEEP_S,
    CONTENT_PULLS_BEHIND,
    CONTENT_PULLS_MAX,
    CONTENT_RETRY_MS,
    CONTENT_RETRY_MS_MAX,
    CONTENT_WHOLES_MAX,
    VALUE_BYTES_MAX,
)
from ...manifest import Manifest
from ...store import View
from ..cluster import Answer, Cluster, voters
from ..ports import Engine
from ..tasks import in_thread
from .pulls import Pull, Pulls
from .rate import Rate
from .spreading import Spreading, asked_for

T = TypeVar("T")
log = logging.getLogger("dfs.node")


class Contents:
    """What one member has and gets. Asyncio thread only."""

    def __init__(
        self, engine: Engine, cluster: Cluster, files: Files, view: Callable[[], View],
        transfer_rate: int = 0,
    ) -> None:  # fmt: skip
        """`view`: the state as of now, frozen; close it. `transfer_rate`: bytes a second that are
        fetched at most of what nobody waits for; 0 = as fast as it goes."""
        self._engine, self._cluster, self._view = engine, cluster, view
        self.files = files
        self._wholes = asyncio.Semaphore(CONTENT_WHOLES_MAX)
        self._named: set[bytes] = set()
        """Contents that the state names."""
        self._since: dict[bytes, bool] | None = None
        """What changes while all is being compared."""
        self._lacking: dict[bytes, tuple[float, int]] = {}
        """Of those, what is not here: when to try again, and how long to wait after that, in ms."""
        self._spare: set[bytes] = set()
        """Here, and not named."""
        self._held: dict[bytes, Manifest] = {}
        """Of those, what is known of them. bounded: the disk has the contents."""
        self._stale = True
        """All has to be compared anew."""
        self._readers = 0
        """Of frozen states, for whom all stays that is here."""
        self._tidied_s = -math.inf
        self._pool = ThreadPoolExecutor(
            CONTENT_PULLS_MAX * CONTENT_FETCHES + 2, thread_name_prefix="dfs-contents"
        )
        self._rate = Rate(transfer_rate, _now_s)
        self._pulls = Pulls(engine, files, self._pool, self._rate, self._known, self._hold)
        self._behind: set[asyncio.Task[None]] = set()
        """Who gets what is lacking, while nobody waits for that."""
        self._nowhere: set[bytes] = set()
        """Of those that are lacking: what no member has."""
        cluster.on("hold", self._asked)
        cluster.on("has", self._what_is_here)

    async def close(self) -> None:
        """Ends all pulls; what has arrived stays."""
        for task in self._behind:
            task.cancel()
        await asyncio.gather(*self._behind, return_exceptions=True)
        await self._pulls.close()
        await asyncio.to_thread(self._pool.shutdown)

    # ---- figures ---------------------------------------------------------------------------------

    @property
    def missing(self) -> int:
        """How many contents the state names that are not on this disk; not 0 while that is being
        found out."""
        return len(self._lacking) or int(self._stale or self._since is not None)

    @property
    def lost(self) -> int:
        """How many of those no member has: all members have said so."""
        return len(self._nowhere)

    def figures(self) -> Answer:
        """For the status."""
        return {
            "contents": len(self._named), "contents_missing": self.missing,
            "contents_lost": self.lost, "contents_bytes": self.files.total,
            "transfer_rate": self._rate.bytes_s,
        }  # fmt: skip

    def received(self, sha256: bytes) -> int:
        """Bytes of a content that are here."""
        if sha256 in self.files:
            return self.files.here[sha256]
        pull = self._pulls.get(sha256)
        return pull.received if pull else 0

    # ---- putting ---------------------------------------------------------------------------------

    async def adopt(self, source: Path | None, manifest: Manifest) -> None:
        """Makes a file in `incoming` or `uploads` the content, on disk. Without, it has to be here
        or with another member. Raises FailedPrecondition, Unavailable, OutOfSpace, OSError."""
        if source is not None:
            await self._blocking(self.files.adopt, source, manifest)
            self._hold(manifest)
        else:
            while not await self._blocking(self.files.touch, manifest.sha256):
                await self.have(manifest)

    def _hold(self, manifest: Manifest) -> None:
        """A content has come here, whoever will name it."""
        self._held.setdefault(manifest.sha256, manifest)
        self._look(manifest.sha256)

    async def keep(self, contents: Sequence[bytes]) -> list[bytes]:
        """Those of them that are here, which stay for another CONTENT_KEEP_S."""
        return list(await self._blocking(lambda: [s for s in contents if self.files.touch(s)]))

    async def had(self, manifest: Manifest) -> bool:
        """Sees to it that a content is here, without its sender; False: it has to send it. Raises
        OutOfSpace, OSError."""
        known, pull = self.held(manifest.sha256), self._pulls.get(manifest.sha256)
        try:
            if known is not None:
                await self.adopt(None, known)
            elif pull is not None and pull.manifest == manifest:
                with pull.awaited():
                    await asyncio.shield(pull.task)
            else:
                return False
        except Unavailable as error:
            log.info("%s: its sender is asked for it", error)
            return False
        return True

    async def gather(self, manifest: Manifest, base: bytes) -> tuple[Path, list[int]]:
        """A file with as much of a content as there is without its sender: what came before, what
        `base` has of it (see `spread`), what other members have; and the numbers of the chunks that
        lack. Raises OSError."""
        if manifest.sha256 not in self._pulls:  # nor can one begin before the next line
            self.files.hand_on(manifest)
        path = await self._blocking(self.files.announced, manifest)
        left = await self._pulls.borrowed(manifest, path, base)
        if left:
            asked = await self._has(manifest.sha256, CONTENT_ASK_MS_MAX)
            having = [at for at, told in asked if isinstance(told, dict) and told["has"][0]]
            left = await self._pulls.fetched(manifest, path, left, having)
        return path, left

    async def _has(self, sha256: bytes, timeout_ms: int) -> list[tuple[str, Any]]:
        """(peer address, answer or exception) of all other members, asked what they have of a
        content; see `_what_is_here`."""
        question = {"ask": "has", "contents": [sha256.hex()]}
        others = self._others()
        asking = (self._cluster.ask(at, question, timeout_ms) for at in others)
        return list(zip(others, await asyncio.gather(*asking, return_exceptions=True), strict=True))

    async def _what_is_here(self, question: Answer) -> Answer:
        """Of each content: 2 = all of it is here, 1 = some of it may be, 0 = nothing."""
        names = [str(name) for name in question["contents"]]
        return {"has": await self._blocking(lambda: [self.files.has(name) for name in names])}

    async def prove(self, manifest: Manifest) -> None:
        """The content that is here is what the manifest says: else nobody could read what names it
        by that. Reads it where nothing is known of it. Raises FailedPrecondition, OSError."""
        known = self.held(manifest.sha256)
        if known is None and await self._blocking(self.files.fits, manifest):
            known = manifest
            self._hold(manifest)
        if known != manifest:
            raise FailedPrecondition(
                f"the content {manifest.sha256.hex()} has other chunks than the request says:"
                " upload it again"
            )

    async def spread_all(
        self, wanted: Iterable[T], one: Callable[[T], Coroutine[Any, Any, None]]
    ) -> None:
        """Returns when `one`, which adopts and spreads a content, was done for each, and all of
        them are still held: so lately were they looked at, by the voters of now."""
        every, began, asked = list(wanted), -math.inf, voters(self._engine)
        while _now_s() - began > CONTENT_KEEP_S / 4 or voters(self._engine) != asked:
            began, asked = _now_s(), voters(self._engine)
            await some_at_once(CONTENT_PULLS_MAX, every, one)

    async def spread(
        self, manifest: Manifest, base: bytes = b"",
        told: Callable[[int, int], None] = lambda _held, _voters: None,
    ) -> None:  # fmt: skip
        """Returns when a majority of the voters has it on disk, this node among them. `base`: a
        content that shares chunks with it, such as the version before. `told`: of so many voters so
        many have it. Raises Unavailable or OutOfSpace when no other member gets any further."""
        spreading = Spreading(self._engine, manifest, told)
        tasks: dict[int, asyncio.Task[None]] = {}
        try:
            while not spreading.done():
                await self.adopt(None, manifest)
                for member in spreading.others():
                    if member["id"] not in tasks:
                        asking = self._have_hold(spreading, member, base)
                        tasks[member["id"]] = asyncio.ensure_future(asking)
                await spreading.news()
        finally:
            for task in tasks.values():
                task.cancel()
            await asyncio.gather(*tasks.values(), return_exceptions=True)

    async def _have_hold(self, spreading: "Spreading", member: Answer, base: bytes) -> None:
        """Asks one member until it has it, and then often enough that it keeps it."""
        question = spreading.question(base)
        while True:
            try:
                limit = 2 * CONTENT_HOLD_WAIT_MS
                answer = await self._cluster.ask(member["raft"], question, limit)
            except DfsError as error:
                spreading.failed(member, error)
                await asyncio.sleep(CONTENT_RETRY_MS / 1000)
                continue
            spreading.received(
                member, int(answer["received"]), bool(answer["here"]), bool(answer["waits"])
            )
            if answer["here"]:
                await asyncio.sleep(CONTENT_KEEP_S / 4)

    async def _asked(self, question: Answer) -> Answer:
        """Another member wants this one to hold a content."""
        manifest = asked_for(question)
        if not await self._blocking(self.files.touch, manifest.sha256):
            base = bytes.fromhex(question["base"])
            begun = self._pulls.begin(manifest, [str(question["from"])], base)
            with suppress(TimeoutError), begun.awaited():
                async with asyncio.timeout(CONTENT_HOLD_WAIT_MS / 1000):
                    await asyncio.shield(begun.task)
        pull = self._pulls.get(manifest.sha256)
        return {
            "here": manifest.sha256 in self.files, "received": self.received(manifest.sha256),
            "waits": pull is not None and pull.waits,
        }  # fmt: skip

    # ---- getting ---------------------------------------------------------------------------------

    async def doubt(self, sha256: bytes) -> None:
        """See `Files.doubt`."""
        if sha256 in self.files and await self._blocking(self.files.doubt, sha256):
            self._look(sha256)

    async def have(self, manifest: Manifest, wanted: bool = True) -> None:
        """Returns when the content is on this disk. `wanted`: somebody waits for it. Raises
        Unavailable (nobody who is reached can give it), OutOfSpace, OSError."""
        if manifest.sha256 not in self.files:
            pull = self._pulls.begin(manifest, self._others())
            with pull.awaited() if wanted else nullcontext():
                await asyncio.shield(pull.task)

    async def begin(self, manifest: Manifest) -> Pull | None:
        """Has a content begin to arrive, ahead of others, as somebody reads it; None: it is here.
        The file into which it comes is there when this returns. Raises as `have`."""
        if manifest.sha256 in self.files:
            return None
        pull = self._pulls.begin(manifest, self._others())
        self._pulls.hurry(pull)
        await pull.begun.wait()
        if pull.order.error is not None:
            raise pull.order.error
        return pull

    async def have_chunk(self, manifest: Manifest, number: int) -> None:
        """Returns when one chunk is on this disk, verified: it comes ahead of the others. Raises as
        `have`."""
        pull = await self.begin(manifest)
        if pull is not None:
            with pull.awaited():
                await pull.order.have(number)

    async def read(self, manifest: Manifest, number: int, wanted: bool = True) -> bytes:
        """One chunk, verified; had from others where it is not here, or damaged. `wanted`, and
        raises, as `have`."""
        if wanted:
            await self.have_chunk(manifest, number)
        try:
            data: bytes = await self._blocking(self.files.read, manifest, number)
        except DataLoss as error:
            await self._heal(manifest, error, wanted)
            try:
                data = await self._blocking(self.files.read, manifest, number)
            except DataLoss as again:  # of the disk, not of the state
                raise Unavailable(f"{again}, again") from None
        return data

    async def chunks(
        self, manifest: Manifest, numbers: Sequence[int]
    ) -> AsyncGenerator[bytes, None]:
        """Some chunks in turn, as `read` gives them: the next one is read while one is used."""
        following: asyncio.Task[bytes] | None = None
        try:
            for number, behind in zip(numbers, [*numbers[1:], None], strict=True):
                chunk = await (following or self.read(manifest, number))
                following = None
                if behind is not None:
                    following = asyncio.ensure_future(self.read(manifest, behind))
                yield chunk
        finally:
            if following is not None:
                following.cancel()
                await asyncio.gather(following, return_exceptions=True)

    async def whole(self, sha256: bytes, size: int) -> bytes:
        """A content of bounded size. Raises as `read`, TooLarge."""
        if size > VALUE_BYTES_MAX:
            raise TooLarge(
                f"the content has {size:,} bytes, Get gives {VALUE_BYTES_MAX:,} at most"
                " (VALUE_BYTES_MAX): use Download",
                limit="VALUE_BYTES_MAX",
            )
        manifest = self.known(sha256)
        async with self._wholes:
            return b"".join([await self.read(manifest, n) for n in range(manifest.chunks)])

    async def _heal(self, manifest: Manifest, error: DataLoss, wanted: bool) -> None:
        """Has the damaged chunks of a content again."""
        if manifest.sha256 in self.files:
            damaged = await self._blocking(self.files.distrust, manifest)
            log.warning("%s: %d chunks are fetched again from other members", error, len(damaged))
            self._look(manifest.sha256)
        await self.have(manifest, wanted)

    def _others(self) -> list[str]:
        status = self._engine.status()
        leader = status["leader"]
        others = [m for m in status["members"] if m["id"] != status["id"]]
        return [m["raft"] for m in sorted(others, key=lambda m: m["id"] != leader)]

    def _known(self, sha256: bytes) -> Manifest | None:
        """What the state knows of a content that is here."""
        return self.manifest(sha256) if sha256 in self.files else None

    def known(self, sha256: bytes) -> Manifest:
        """What the state knows of a content. Raises NotFound."""
        if manifest := self.manifest(sha256):
            return manifest
        raise NotFound(f"no version names the content {sha256.hex()}")

    def held(self, sha256: bytes) -> Manifest | None:
        """What is known of a content that the state names, or that is here."""
        return self.manifest(sha256) or (self._held.get(sha256) if sha256 in self.files else None)

    def manifest(self, sha256: bytes) -> Manifest | None:
        """What the state knows of a content."""
        with self._view() as view:
            return view.manifest(sha256)

    async def _blocking(self, work: Callable[..., Any], *arguments: Any) -> Any:
        return await in_thread(work, *arguments, pool=self._pool)

    # ---- keeping ---------------------------------------------------------------------------------

    def restart(self) -> None:
        """The state was replaced: all is compared anew."""
        self._stale = True

    def changed(self, changes: dict[bytes, bool]) -> None:
        """What `Store.contents` says after an apply."""
        if self._since is not None:
            self._since.update(changes)
        for sha256, named in changes.items():
            if named:
                self._named.add(sha256)
            else:
                self._named.discard(sha256)
            self._look(sha256)

    def _look(self, sha256: bytes) -> None:
        """Whether a content is here or named has changed."""
        named, here = sha256 in self._named, sha256 in self.files
        if here and not named:
            self._spare.add(sha256)
        else:
            self._spare.discard(sha256)
            self._held.pop(sha256, None)
        if named and not here:
            self._lacking.setdefault(sha256, (0.0, CONTENT_RETRY_MS))
        else:
            self._lacking.pop(sha256, None)
            self._nowhere.discard(sha256)

    async def check(self) -> None:
        """Begins to get what is lacking, as far as it is time, and lets go of what is left over."""
        if self._stale:
            await self._compare()
        self._get_lacking()

    def _get_lacking(self) -> None:
        """Begins to get what is lacking, as far as it is time."""
        now = _now_s()
        for sha256, (due, wait_ms) in list(self._lacking.items()):
            if len(self._behind) >= CONTENT_PULLS_BEHIND:
                break
            if due > now or sha256 in self._pulls:
                continue
            self._lacking[sha256] = now + wait_ms / 1000, min(2 * wait_ms, CONTENT_RETRY_MS_MAX)
            if manifest := self.manifest(sha256):
                task = asyncio.ensure_future(self._get(manifest))
                self._behind.add(task)
                task.add_done_callback(self._got)

    async def _get(self, manifest: Manifest) -> None:
        """Gets a content, or finds out whether anybody has it."""
        try:
            await self.have(manifest, wanted=False)
        except (DfsError, OSError) as error:
            log.info("not yet here: %s", error)
            if isinstance(error, Unavailable):
                await self._ask_who_has(manifest.sha256)

    def _got(self, task: asyncio.Task[None]) -> None:
        self._behind.discard(task)
        if not task.cancelled():
            task.result()
            with suppress(DfsError):  # The state is not served: the next look says it.
                self._get_lacking()

    async def _ask_who_has(self, sha256: bytes) -> None:
        """Whether a content that could not be had is with nobody. Who is silent may have it."""
        found = await self._has(sha256, ASK_MS_MAX)
        nowhere = all(isinstance(answer, dict) and answer["has"][0] < 2 for _, answer in found)
        if nowhere and sha256 in self._lacking:
            self._nowhere.add(sha256)
        else:
            self._nowhere.discard(sha256)

    async def _compare(self) -> None:
        self._stale = False
        since = self._since = {}

        def named() -> set[bytes]:
            with self._view() as view:
                return {sha256 for sha256, _ in view.contents()}

        self._named = await in_thread(named)
        self._lacking, self._spare = {}, set()
        for sha256 in self._named.union(self.files.here):
            self._look(sha256)
        self._since = None
        self.changed(since)

    @contextmanager
    def keeping(self) -> Iterator[None]:
        """Of what is here nothing is let go: somebody reads a state that may name what the state of
        now does not."""
        self._readers += 1
        try:
            yield
        finally:
            self._readers -= 1

    async def tidy(self, barrier: Callable[[], Any]) -> None:
        """Removes what nothing names, and what never arrived, if it is time to look. `barrier`:
        returns when this node has applied all that is committed; raises when that cannot be
        known."""
        now_s = _now_s()
        if self._stale or self._since is not None or now_s - self._tidied_s < CONTENT_KEEP_S / 60:
            return
        self._tidied_s = now_s
        if old := [s for s in self._spare if s not in self._pulls and self.files.spare(s)]:
            await barrier()
            for sha256 in old:
                # The state itself says so; and who is about to name it has touched it.
                if not self._readers and self.manifest(sha256) is None:
                    await self._blocking(self.files.remove, sha256)
                    self._look(sha256)
        await self._blocking(self.files.sweep, {*self._pulls.contents, *self._lacking})


def _now_s() -> float:
    return asyncio.get_running_loop().time()
