"""Clients that call the cluster while it fails, and what they may be told."""

from __future__ import annotations

from typing import Any, Final

from grpc.aio import AioRpcError

from dfs import errors
from dfs.check import NEVER, Call, Kind, Outcome
from dfs.client.aio import AsyncClient, Surroundings
from dfs.client.calls import FILES
from dfs.client.faults import Fault
from dfs.proto import dfs_pb2 as pb

from .channel import SimChannel
from .model import Model, digest
from .raft import Raft
from .world import World
from .written import Written

KEYS: Final = tuple(f"r/{number}" for number in range(4))
"""Files that all clients put, get and delete, one by one: for the checkers."""
TREE: Final = ("t", "t/a", "t/b", "t/a/x", "t/a/y", "t/b/x", "t/a/x/1", "t/a/x/2", "t/b/x/1")
"""Files, links or directories, as it comes: for the model."""
TREE_DEEDS: Final = (
    "put", "put", "put", "mkdir", "symlink", "delete", "delete", "move", "copy",
)  # fmt: skip
"""What is done to them."""
WRITES: Final = frozenset((
    "Put", "Delete", "MakeDir", "Symlink", "Move", "Copy", "Transaction", "PutMany",
))  # fmt: skip
"""Methods."""
REFUSALS: Final = (
    errors.Conflict, errors.NotFound, errors.IsADirectory, errors.NotADirectory, errors.NotEmpty,
)
UNKNOWN: Final = (errors.OutcomeUnknown, errors.DeadlineExceeded)
FORGOTTEN: Final = errors.RequestTooOld
"""Of a write, where it is no other refusal: the id is older than history, so the answer to an
earlier attempt is gone."""
SURE: Final = (errors.Unavailable, errors.Overloaded, errors.OutOfSpace)
"""Nothing was done, says the client."""
LIMITS_S: Final = (0.05, 0.15, 0.5, 5.0)
"""Of writes: most are given up while their outcome is unknown."""
CALM_S: Final = 30.0
MOVED: Final = Fault(errors.Unavailable("for no reason"), 0.0, True)
"""Makes a client go on to its next endpoint."""
SETTLING_S: Final = 10
"""How long clocks that were wrong may be felt."""


def new_id(world: World) -> bytes:
    """A UUID of version 7 by the simulation's clock and chance."""
    ahead_ns = 0 if world.calm else int(world.knobs.callers_ahead_s * 1e9)
    number = (world.wall_ns() + ahead_ns) // 1_000_000 << 80 | world.chance.getrandbits(80)
    number = number & ~(0xF << 76) & ~(0x3 << 62) | 7 << 76 | 2 << 62
    return number.to_bytes(16, "big")


def client_of(world: World, raft: Raft, me: str) -> AsyncClient:
    """The product's client, which knows some of the nodes."""
    chance = world.chance
    known = chance.sample(raft.names, chance.randint(1, len(raft.names)))
    return AsyncClient(
        *known, timeout=chance.choice((0.3, 2.0, 10.0)), learn=chance.random() < 0.7,
        surroundings=Surroundings(
            lambda endpoint: SimChannel(raft, me, endpoint), chance, lambda: new_id(world)
        ),
    )


class Caller:
    """One client: it calls, one call after the other, and notes what it is told."""

    def __init__(
        self, world: World, raft: Raft, model: Model, number: int, calls: list[Call],
        written: Written,
    ) -> None:
        self.world, self.raft, self.model = world, raft, model
        self.me, self.number = f"c{number}", number
        self.calls, self.written = calls, written
        self.client = client_of(world, raft, self.me)
        self.seen = 0
        """The newest revision that it was told."""
        self._keys = KEYS[: world.knobs.keys]
        self._known: dict[str, int] = {}
        self._count = 0
        self._lost: list[tuple[Any, ...]] = []
        """Writes of which it does not know the outcome."""

    async def work(self, count: int) -> None:
        """So many calls, or until the calm."""
        chance = self.world.chance
        deeds = (
            (self._put, 6), (self._get, 6), (self._delete, 2), (self._tree_write, 4),
            (self._local, 4), (self._past, 2), (self._list, 3), (self._history, 2),
            (self._again, 3), (self._bare_put, 4), (self._transaction, 3),
        )
        for _ in range(count):
            if self.world.calm:
                return
            deed = chance.choices([d for d, _ in deeds], [w for _, w in deeds])[0]
            await deed()
            if chance.random() < 0.6:
                await self.world.wait(chance.expovariate(3.0))

    def knows_another(self, absent: str) -> bool:
        """It has somebody to ask when that member is away."""
        return any(e.split(":")[0] != absent for e in self.client.endpoints)

    async def last_word(self) -> None:
        """In calm weather everything is answered."""
        for key in KEYS[:2]:
            outcome = await self._write(Kind.PUT, key, self._value(), None, CALM_S)
            for _ in range(SETTLING_S):
                # A leader whose clock was ahead has moved time on: for now new ids look old.
                if outcome not in ("RequestTooOld", "OutcomeUnknown"):
                    break
                await self.world.wait(1.0)
                outcome = await self._write(Kind.PUT, key, self._value(), None, CALM_S)
            self.world.check(outcome == "DONE", f"{self.me} in calm weather: put {key}: {outcome}")
        for key in KEYS:
            await self._read(key, CALM_S)

    # ---- writes for the checkers -----------------------------------------------------------------
    def _value(self) -> bytes:
        self._count += 1
        more = b"x" * self.world.chance.choice((0, 20))
        return b"%b.%d.%b" % (self.me.encode(), self._count, more)

    async def _put(self) -> None:
        await self._change(Kind.PUT)

    async def _delete(self) -> None:
        await self._change(Kind.DELETE)

    async def _change(self, kind: Kind) -> None:
        chance = self.world.chance
        key = chance.choice(self._keys)
        base = self._known.get(key, 0) if chance.random() < 0.3 else None
        value = self._value() if kind is Kind.PUT else None
        told = await self._write(kind, key, value, base, chance.choice(LIMITS_S))
        if told == "DONE" and chance.random() < 0.5:
            await self._local_read(key)

    async def _write(
        self, kind: Kind, key: str, value: bytes | None, base: int | None, limit_s: float,
        request_id: bytes | None = None,
    ) -> str:
        world, begin = self.world, self.world.moment()
        request_id = request_id or new_id(world)
        world.note(f"{self.me} {kind.value} {key} {value!r} if {base} within {limit_s}")
        outcome, revision, how = Outcome.DONE, 0, "DONE"
        try:
            if value is None:
                revision = await self.client.delete(
                    key, base_revision=base, request_id=request_id, timeout=limit_s
                )
            else:
                revision = await self.client.put(
                    key, value, base_revision=base, request_id=request_id, timeout=limit_s
                )
        except REFUSALS as error:
            outcome, how = Outcome.REFUSED, type(error).__name__
        except (*UNKNOWN, FORGOTTEN) as error:
            outcome, how = Outcome.UNKNOWN, type(error).__name__
            self._lost.append((kind, key, value, base, request_id))
        except SURE as error:
            how = type(error).__name__
            world.count("write surely not done", f"{self.me} {how}")
            if request_id not in world.copied:
                if value is not None:
                    self.written.surely_not[key, digest(value)] = str(error)
                return how
            outcome = Outcome.UNKNOWN
        if outcome is Outcome.REFUSED and request_id in world.copied:
            outcome = Outcome.UNKNOWN  # The copy may come when nothing forbids it any more.
        world.count(f"write {outcome.value}", f"{self.me} {how} {revision or ''}")
        end = NEVER if outcome is Outcome.UNKNOWN else world.moment()
        self.calls.append(Call(kind, key, begin, end, outcome, value, revision, base))
        if revision and value is not None:
            self.written.done[key, digest(value)] = revision
        self._saw(key, revision if value is not None else 0)
        self.seen = max(self.seen, revision)
        return how

    async def _bare_put(self) -> None:
        """A put of nothing but key and content, as from curl: no id, no repetition."""
        world, begin = self.world, self.world.moment()
        deep = world.likely(0.3)
        key = world.chance.choice(TREE if deep else self._keys)
        value, revision, outcome = self._value(), 0, Outcome.DONE
        channel = SimChannel(self.raft, self.me, world.chance.choice(self.raft.names))
        put = channel.unary_unary(
            FILES + "Put", pb.PutRequest.SerializeToString, pb.PutResponse.FromString
        )
        try:
            revision = (await put(pb.PutRequest(key=key, data=value), timeout=1.0)).revision
            self.written.done[key, digest(value)] = revision
        except AioRpcError as error:
            world.count("bare put failed", f"{self.me} {key} {error.details()}")
            outcome = Outcome.UNKNOWN
        else:
            world.count("bare put done", f"{self.me} {key} {revision}")
        if not deep:
            end = world.moment() if revision else NEVER
            self.calls.append(Call(Kind.PUT, key, begin, end, outcome, value, revision))

    async def _again(self) -> None:
        """Repeats a write whose outcome is unknown, with its id: it is done once."""
        if not self._lost:
            return
        kind, key, value, base, request_id = self._lost.pop(0)
        self.world.note(f"{self.me} repeats {key} {value!r}")
        begin = self.world.moment()
        try:
            if value is None:
                revision = await self.client.delete(
                    key, base_revision=base, request_id=request_id, timeout=3.0
                )
            else:
                revision = await self.client.put(
                    key, value, base_revision=base, request_id=request_id, timeout=3.0
                )
        except errors.DfsError as error:
            self.world.count("repetition failed", f"{self.me} {type(error).__name__}")
            return
        self.world.count("repetition done", f"{self.me} at {revision}")
        self.world.check(
            value is None or self.written.done.setdefault((key, digest(value)), revision)
            == revision,
            f"{self.me}: a repetition of {key} was told {revision}",
        )
        self._settled(kind, key, value, base, revision, begin)

    def _settled(
        self, kind: Kind, key: str, value: bytes | None, base: int | None, revision: int,
        begin: int,
    ) -> None:
        """The unknown call is known now: it was done between its begin and this end."""
        for at, call in enumerate(self.calls):
            same = call.kind is kind and call.key == key and call.outcome is Outcome.UNKNOWN
            if same and call.value == value and call.base == base and call.begin < begin:
                if value is None:
                    return  # Which of several deletions it was cannot be told.
                self.calls[at] = Call(
                    kind, key, call.begin, self.world.moment(), Outcome.DONE, value, revision, base
                )
                return

    # ---- reads -----------------------------------------------------------------------------------
    async def _get(self) -> None:
        await self._read(self.world.chance.choice(self._keys), self.world.chance.choice((0.2, 3.0)))

    async def _read(self, key: str, limit_s: float) -> None:
        world, begin = self.world, self.world.moment()
        value, revision = None, 0
        try:
            value, stat = await self.client.read(key, timeout=limit_s)
            revision = stat.revision
        except errors.NotFound:
            pass
        except (*SURE, *UNKNOWN) as error:
            world.check(limit_s != CALM_S, f"{self.me} in calm weather: get {key}: {error!r}")
            world.count("read failed", f"{self.me} {key} {type(error).__name__}")
            return
        world.count("read done", f"{self.me} {key} {value!r} at {revision}")
        end = world.moment()
        self.calls.append(Call(Kind.GET, key, begin, end, value=value, revision=revision))
        self._saw(key, revision)
        self.seen = max(self.seen, revision)

    def _saw(self, key: str, revision: int) -> None:
        if revision:
            self._known[key] = revision
        else:
            self._known.pop(key, None)

    async def _local(self) -> None:
        await self._local_read(self.world.chance.choice(self._keys))

    async def _local_read(self, key: str) -> None:
        """A local read may be old, but never older than what this client has seen, at another
        node."""
        least = self.seen
        if self.world.likely(0.4):
            self.client._session.failed(self.client._session.current(), MOVED, self.world.now)
        try:
            value, stat = await self.client.read(key, local=True, timeout=2.0)
            found: bytes | None = digest(value)
            self.seen = max(self.seen, stat.revision)
        except errors.NotFound:
            found = None
        except (*SURE, *UNKNOWN):
            self.world.count("local read failed", self.me)
            return
        self.world.count("local read done", self.me)
        model = self.model
        possible = {model.content_at(key, r) for r in model.between(least, model.applied)}
        self.world.check(
            found in possible,
            f"{self.me} has seen revision {least}, and a local read of {key} shows what was before",
        )

    async def _past(self) -> None:
        """A read at a revision that this client has seen."""
        if not self.seen:
            return
        key, revision = self.world.chance.choice(KEYS), self.world.chance.randint(1, self.seen)
        try:
            found: bytes | None = digest(
                await self.client.get(key, revision=revision, timeout=2.0)
            )
        except errors.NotFound:
            found = None
        except errors.OutOfRange:
            self.world.count("read below the floor", self.me)
            self.world.check(
                revision < self.model.floor,
                f"revision {revision} is said to be gone, the floor is {self.model.floor}",
            )
            return
        except (*SURE, *UNKNOWN):
            return
        self.world.count("read of the past", self.me)
        self.world.check(
            found == self.model.content_at(key, revision),
            f"{self.me}: {key} was something else at revision {revision}",
        )

    # ---- the tree --------------------------------------------------------------------------------
    async def _tree_write(self) -> None:
        chance, client = self.world.chance, self.client
        key, limit_s = chance.choice(TREE), chance.choice((0.1, 1.0, 5.0))
        deed = chance.choice(TREE_DEEDS)
        value, request_id = self._value(), new_id(self.world)
        other = chance.choice([k for k in (*TREE, "u") if not f"{k}/".startswith(f"{key}/")])
        try:
            if deed == "put":
                revision = await client.put(key, value, request_id=request_id, timeout=limit_s)
                self.written.done[key, digest(value)] = revision
            elif deed == "mkdir":
                revision = await client.mkdir(key, timeout=limit_s)
            elif deed == "symlink":
                revision = await client.symlink(key, value.decode(), timeout=limit_s)
                self.written.done[key, value] = revision
            elif deed == "move":
                revision = await client.move(key, other, timeout=limit_s)
            elif deed == "copy":
                revision = await client.copy(
                    key, other, recursive=chance.random() < 0.8,
                    replace=chance.random() < 0.5, timeout=limit_s,
                )
            else:
                revision = await client.delete(
                    key, recursive=chance.random() < 0.6, timeout=limit_s
                )
        except REFUSALS as error:
            self.world.count(f"{deed} refused", f"{self.me} {key} {type(error).__name__}")
        except (*UNKNOWN, FORGOTTEN):
            self.world.count(f"{deed} unknown", f"{self.me} {key}")
        except SURE as error:
            if deed == "put" and request_id not in self.world.copied:
                self.written.surely_not[key, digest(value)] = str(error)
            self.world.count(f"{deed} surely not done", f"{self.me} {key}")
        else:
            self.world.count(f"{deed} done", f"{self.me} {key} {revision}")
            self.seen = max(self.seen, revision)

    async def _transaction(self) -> None:
        """Several changes as one: all of them happen, at the revision that is told, or none."""
        chance, written = self.world.chance, self.written
        puts = {key: self._value() for key in chance.sample(TREE, chance.randint(1, 3))}
        how = ""
        try:
            async with self.client.transaction(
                request_id=(request_id := new_id(self.world)), timeout=chance.choice(LIMITS_S)
            ) as changes:
                if chance.random() < 0.4:
                    changes.delete("t", recursive=True)
                for key, value in puts.items():
                    changes.put(key, value)
                if chance.random() < 0.2:
                    changes.move("t", "u")
        except REFUSALS as error:
            how = f"refused {type(error).__name__}"
        except (*UNKNOWN, FORGOTTEN):
            self.world.count("transaction unknown", self.me)
            return
        except SURE as error:
            how = str(error)
        else:
            self.world.count("transaction done", f"{self.me} {changes.revision}")
            written.done.update({(k, digest(v)): changes.revision for k, v in puts.items()})
            self.seen = max(self.seen, changes.revision)
            return
        self.world.count("transaction not done", f"{self.me} {how}")
        if request_id not in self.world.copied:
            written.surely_not.update({(k, digest(v)): how for k, v in puts.items()})

    async def _list(self) -> None:
        """A list, or a page of one, is the tree as of one revision."""
        chance, model = self.world.chance, self.model
        key = chance.choice(("", "r", "t", "t/a"))
        recursive, limit = chance.random() < 0.7, chance.choice((0, 0, 1, 2, 4))
        after = self._page_begin(key, recursive)
        least = self.seen
        found: list[tuple[str, int]] = []
        try:
            listed = self.client.list(
                key, recursive=recursive, limit=limit, after=after, timeout=5.0,
                data_bytes_max=chance.choice((0, 100)),
            )
            async for item in listed:
                found.append((item.key, item.stat.revision))
                if chance.random() < 0.2:
                    await self.world.wait(chance.uniform(0, 0.1))
        except errors.NotFound:
            found = []
        except (errors.DfsError) as error:
            self.world.check(
                isinstance(error, (*SURE, *UNKNOWN)), f"{self.me}: list {key!r}: {error!r}"
            )
            self.world.count("list failed", f"{self.me} {error.text[:60]}")
            return
        self.world.count("list done", f"{self.me} {key!r} {len(found)}")
        for revision in reversed(model.between(least, model.applied)):
            alone = model.leaf_at(key, revision)
            if alone is not None:
                wanted = [] if after else [(key, alone)]
            else:
                wanted = _page(model.tree_at(revision, key), key, recursive, after, limit)
            if found == wanted:
                return
        self.world.fail(
            f"{self.me}: list of {key!r} (recursive {recursive}, after {after!r}, limit {limit}) "
            f"is the tree of no revision from {least} on: {found}"
        )

    def _page_begin(self, key: str, recursive: bool) -> str:
        """Behind some key of those that there may be."""
        chance = self.world.chance
        inside = [k for k in (*KEYS, *TREE) if not key or k.startswith(key + "/")]
        if not recursive:
            depth = len(key.split("/")) + 1 if key else 1
            inside = [k for k in inside if len(k.split("/")) == depth]
        return chance.choice(inside) if inside and chance.random() < 0.4 else ""

    async def _history(self) -> None:
        """A history is all retained changes of a key, as of one revision."""
        chance, model = self.world.chance, self.model
        key, limit = chance.choice(("", "r", "r/1", "t", "t/a/x")), chance.choice((0, 0, 1, 3))
        least, floor = self.seen, model.floor
        found: list[tuple[int, int, str, bool]] = []
        try:
            async for event in self.client.history(key, limit=limit, timeout=5.0):
                found.append((event.revision, event.sub, event.key, event.deleted))  # noqa: PERF401
        except errors.DfsError as error:
            self.world.check(
                isinstance(error, (*SURE, *UNKNOWN)), f"{self.me}: history {key!r}: {error!r}"
            )
            self.world.count("history failed", self.me)
            return
        self.world.count("history done", f"{self.me} {key!r} {len(found)}")
        concerned = [
            (c.revision, c.sub, c.key, c.deleted) for c in reversed(model.changes)
            if not key or c.key == key or c.key.startswith(key + "/")
        ]
        floors = [floor, *(c[0] for c in concerned if floor < c[0] <= model.floor), model.floor]
        for revision in reversed(model.between(least, model.applied)):
            for begin in floors:
                whole = [c for c in concerned if begin <= c[0] <= revision]
                if found == (whole[:limit] if limit else whole):
                    return
        self.world.fail(f"{self.me}: history of {key!r} (limit {limit}) was never so: {found}")


def _page(
    tree: dict[str, int], key: str, recursive: bool, after: str, limit: int
) -> list[tuple[str, int]]:
    depth = len(key.split("/")) + 1 if key else 1
    keys = sorted(
        (k for k in tree if recursive or len(k.split("/")) == depth), key=lambda k: k.split("/")
    )
    behind = [k for k in keys if k.split("/") > after.split("/")] if after else keys
    return [(k, tree[k]) for k in (behind[:limit] if limit else behind)]
