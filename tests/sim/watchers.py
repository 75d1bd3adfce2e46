"""Clients that watch: slow, cut off, resumed; told everything once, or that they cannot be."""

from __future__ import annotations

from contextlib import aclosing

from dfs import check, errors
from dfs.check import Call

from .callers import client_of
from .model import Model, Told
from .raft import Raft
from .world import World


class Segment:
    """What was told without a break that the watcher heard of."""

    def __init__(self, after: int) -> None:
        self.after = self.until = after
        self.told: list[tuple[int, int, str, bool]] = []


class Watcher:
    """One watch that goes on to the end of the run."""

    def __init__(self, world: World, raft: Raft, model: Model, number: int, key: str) -> None:
        self.world, self.raft, self.model = world, raft, model
        self.me, self.key = f"w{number}", key
        self.client = client_of(world, raft, self.me)
        self.segments: list[Segment] = []
        self.until = 0
        """Everything up to here has been told."""

    async def follow(self) -> None:
        """Watches for ever; begins anew after a gap."""
        snapshot = self.world.likely(0.5)
        after = 0
        while True:
            try:
                await self._watch(snapshot, after)
            except errors.OutOfRange:
                self._gap()
                snapshot, after = True, 0
            except (errors.Unavailable, errors.DeadlineExceeded) as error:
                # Nobody ever answered it: it was told so, and tries again.
                self.world.count("watch given up", f"{self.me} {error.text[:50]}")
                snapshot, after = snapshot and not self.until, self.until
                await self.world.wait(0.5)

    async def _watch(self, snapshot: bool, after: int) -> None:
        items: dict[str, int] = {}
        segment = Segment(after) if after else None
        if segment is not None:
            self.segments.append(segment)
        watch = self.client.watch(
            self.key, snapshot=snapshot, after_revision=after,
            data_bytes_max=self.world.chance.choice((0, 100)),
            on_lost=lambda error: self.world.count("watch moved", f"{self.me} {error.text[:50]}"),
        )
        async with aclosing(watch) as updates:
            async for update in updates:
                if update.snapshot_begin:
                    items = {}
                items |= {item.key: item.stat.revision for item in update.items}
                if update.snapshot_end:
                    self._snapshot(items, update.revision)
                if segment is None and (update.snapshot_end or not snapshot):
                    first = update.events[0].revision - 1 if update.events else update.revision
                    segment = Segment(first)
                    self.segments.append(segment)
                if segment is not None:
                    segment.told += [(e.revision, e.sub, e.key, e.deleted) for e in update.events]
                    segment.until = update.revision
                    self.until = update.revision
                if self.world.fault(0.1):
                    await self.world.wait(self.world.chance.uniform(0, 2.0))

    def _snapshot(self, items: dict[str, int], revision: int) -> None:
        self.world.count("snapshot told", f"{self.me} {len(items)} at {revision}")
        tree = self.model.tree_at(revision)
        wanted = {k: r for k, r in tree.items() if self._concerns(k)}
        self.world.check(
            items == wanted,
            f"{self.me}: the snapshot of {self.key!r} at {revision} has "
            f"{sorted(items.items() ^ wanted.items())[:3]} wrong",
        )

    def _gap(self) -> None:
        self.world.count("gap told", f"{self.me} after {self.until}, floor {self.model.floor}")
        self.world.check(
            self.until + 1 < self.model.floor,
            f"{self.me} was told of a gap after {self.until}, the floor is {self.model.floor}",
        )

    def _concerns(self, key: str) -> bool:
        return not self.key or key == self.key or key.startswith(self.key + "/")

    def check(self) -> None:
        """Each change once, in order, none left out."""
        for segment in self.segments:
            wanted = [
                (c.revision, c.sub, c.key, c.deleted) for c in self.model.after(segment.after)
                if c.revision <= segment.until and self._concerns(c.key)
            ]
            if segment.told != wanted:
                pairs = zip([*segment.told, None], [*wanted, None], strict=False)
                found, missed = next(pair for pair in pairs if pair[0] != pair[1])
                self.world.fail(f"{self.me} was told {found} where {missed} was next")
            self.world.counts["changes told"] += len(segment.told)

    def check_with(self, calls: list[Call], contents: dict[bytes, bytes]) -> None:
        """The same by what the callers know, not by the model."""
        if self.key not in ("", "r", "r/1"):
            return
        prefix = self.key if self.key == "r/1" else "r/"
        by_place = {(c.revision, c.sub): c for c in self.model.changes}
        for segment in self.segments:
            told = [
                check.Told(key, revision, _value(by_place[revision, sub], contents))
                for revision, sub, key, _ in segment.told if key.startswith(prefix)
            ]
            found = check.badly_told(told, calls, segment.after, segment.until, prefix)
            self.world.check(found is None, f"{self.me}: {found}")


def _value(change: Told, contents: dict[bytes, bytes]) -> bytes | None:
    return None if change.deleted else contents.get(change.content, b"?")
