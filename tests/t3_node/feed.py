"""A store with watches and callers, without any network."""

import asyncio
import pickle
from contextlib import asynccontextmanager

from dfs import commands
from dfs.kv import MemoryKV
from dfs.node import Mailboxes, Wanted
from dfs.node.watch import Watches
from dfs.proto import dfs_pb2 as pb
from dfs.store import Store, change_of


def read(update, data_bytes_max):
    """An update with its changes as they are told."""
    changes = map(change_of, update.changes)
    return update._replace(changes=[
        change if len(change.data) <= data_bytes_max else change._replace(data=None)
        for change in changes
    ])  # fmt: skip


def pickled(update, data_bytes_max):
    """A message."""
    return pickle.dumps(read(update, data_bytes_max))


class Feed:
    """A store with watches; `put` applies and delivers as the hot thread does."""

    def __init__(self):
        self.store = Store(MemoryKV())
        self.watched = False
        self.refusal = None
        self.watches = Watches(
            self.store.view, self._listing, self._applied, self._set_watched, pickled, self._check
        )
        self.mailboxes = Mailboxes()
        self._append(b"")

    def _check(self):
        if self.refusal:
            raise self.refusal

    def _set_watched(self, watched):
        self.watched = watched

    def _listing(self, key, data_bytes_max, data_after):
        return self.store.listing(key, True, "", 0, data_bytes_max, True, data_after)

    async def _applied(self, revision):
        assert revision <= self.store.applied

    def _append(self, *payloads):
        first = self.store.applied + 1
        entries = [(first + n, payload, False) for n, payload in enumerate(payloads)]
        _, changes = self.store.apply(entries, b"log", b"")
        if self.watched:
            self.watches.deliver((self.store.applied, changes))

    def live(self):
        """How many watchers are."""
        return sum(len(group) for key in self.watches._groups.values() for group in key.values())

    def put(self, *keys, data=b""):
        entries = []
        for key in keys:
            request = pb.PutRequest(key=key, data=data)
            body = request.SerializeToString()
            head = commands.put_head(request, len(body), "node1", "")
            entries.append(head + body + commands.stamp(self.store.time_ns + 1))
        self._append(*entries)
        return self.store.applied

    def floor(self, revision):
        stamp = commands.stamp(self.store.time_ns + 1)
        self._append(commands.floor_entry(revision, "node1") + stamp)

    @asynccontextmanager
    async def follow(self, key="", after=0, snapshot=False, data=0, progress_s=0.01):
        """An iterator over updates. Who does not go on with it takes no messages."""
        taken = asyncio.Queue(1)

        async def watch():
            async with self.mailboxes.open(taken.put) as caller:
                wanted = Wanted(key, data, progress_s)
                await self.watches.follow(caller, wanted, after, snapshot)

        watching = asyncio.ensure_future(watch())
        try:
            yield updates_of(watching, taken)
        finally:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)


async def updates_of(watching, taken):
    while True:
        next_one = asyncio.ensure_future(taken.get())
        try:
            await asyncio.wait([next_one, watching], return_when=asyncio.FIRST_COMPLETED)
            if not next_one.done():
                watching.result()
                return
        finally:
            next_one.cancel()
        yield pickle.loads(next_one.result())


async def collect(updates, until):
    """Revisions of all changes until that revision has been told."""
    found = []
    async for update in updates:
        assert not update.gap_floor
        found += [change.revision for change in update.changes]
        if update.revision >= until:
            return found
    raise AssertionError("the watch has ended")
