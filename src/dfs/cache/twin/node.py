"""A node without a cluster: its tree, its history, its watches."""
# ruff: noqa: ARG002  # The twins take what the real ones take.

from __future__ import annotations

import asyncio
import bisect
import hashlib
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from typing import BinaryIO, NamedTuple

from ...client.calls import Xattrs, encode
from ...client.transaction import AsyncTransaction, Changes
from ...client.values import Event, Item, Kind, Stat, Told, Update, event_of
from ...contents import INCOMING, path_in
from ...errors import (
    Conflict,
    DeadlineExceeded,
    DfsError,
    InvalidArgument,
    IsADirectory,
    NotADirectory,
    NotEmpty,
    NotFound,
    OutOfRange,
    TooLarge,
    Unavailable,
)
from ...limits import REQUEST_ID_BYTES, VALUE_BYTES_MAX
from ...manifest import chunk_bytes_of
from ...paths import check_key
from ...proto import dfs_pb2 as pb
from ...sealing import seal
from .contents import MemoryContents
from .past import MemoryPast, new_stat
from .tree import encoded, parents


class _Change(NamedTuple):
    verb: str
    key: str
    stat: Stat
    data: bytes
    base: int | None


class MemoryNode(MemoryContents, MemoryPast):
    """A node's tree, its history and its watches, called like `dfs.AsyncClient`."""

    def __init__(self) -> None:
        super().__init__()
        self.revision = 0
        self.records: dict[str, Stat] = {}
        self.contents: dict[tuple[str, int], bytes] = {}
        self.events: list[Event] = []
        self.floor = 0
        self.reports: list[pb.AgentStatus] = []
        self.transactions: list[int] = []
        """How many changes each of them had."""
        self.away = False
        """No quorum: writes fail. Reads of what is there go on."""
        self.cut = False
        """Watches break, and cannot be opened."""
        self.lose_answers = 0
        """So many writes are done and their answers lost."""
        self.damage_reads = 0
        """So many reads give wrong bytes."""
        self.voters: list[bool] = []
        """Whether each of them answers."""
        self.disks_free: list[int] = []
        """Of the members that say so."""
        self._done: dict[bytes, tuple[int, list[tuple[str, str, bytes, str]]]] = {}
        """By request id: the revision, and what was asked for."""
        self._above: Counter[str] = Counter()
        """How many records each directory has below it."""
        self._news = asyncio.Condition()

    # ---- writes ----------------------------------------------------------------------------------
    async def put(
        self, key: str, data: bytes, *, mode: int | None = None, mtime_ns: int | None = None,
        uid: int | None = None, gid: int | None = None, xattrs: Xattrs | None = None,
        base_revision: int | None = None, request_id: bytes | None = None,
        timeout: float | None = None,
    ) -> int:
        """See `dfs.AsyncClient.put`."""
        if len(data) > VALUE_BYTES_MAX:
            raise TooLarge("value too large")
        stat = new_stat(Kind.FILE, len(data), hashlib.sha256(data).digest(),
                     0o644 if mode is None else mode, mtime_ns)
        stat = _described(stat, uid, gid, xattrs)
        return await self._write([_Change("put", key, stat, data, base_revision)], request_id)

    async def put_elsewhere(self, key: str, data: bytes) -> None:
        """A put of somebody else, which passes those that wait for `hold`."""
        self.commit(key, data)
        await self._tell()

    def commit(self, key: str, data: bytes) -> None:
        """The same, of which watchers hear with the next change."""
        stat = new_stat(Kind.FILE, len(data), hashlib.sha256(data).digest(), 0o644, None)
        self._commit_all([_Change("put", key, stat, data, None)], b"")

    async def mkdir(
        self, key: str, *, mode: int | None = None, uid: int | None = None,
        gid: int | None = None, xattrs: Xattrs | None = None, timeout: float | None = None,
    ) -> int:
        """See `dfs.AsyncClient.mkdir`."""
        stat = new_stat(Kind.DIRECTORY, 0, b"", 0o755 if mode is None else mode, None)
        if (old := self.records.get(key)) is not None:  # What is not named stays.
            stat = stat._replace(uid=old.uid, gid=old.gid, xattrs=old.xattrs)
        stat = _described(
            stat, stat.uid if uid is None else uid, stat.gid if gid is None else gid,
            dict(stat.xattrs) if xattrs is None else xattrs,
        )
        return await self._write([_Change("mkdir", key, stat, b"", None)], None)

    async def symlink(
        self, key: str, target: str, *, mtime_ns: int | None = None, uid: int | None = None,
        gid: int | None = None, base_revision: int | None = None, request_id: bytes | None = None,
        timeout: float | None = None,
    ) -> int:
        """See `dfs.AsyncClient.symlink`."""
        stat = new_stat(Kind.SYMLINK, 0, b"", 0o777, mtime_ns, target)._replace(uid=uid, gid=gid)
        return await self._write([_Change("symlink", key, stat, b"", base_revision)], request_id)

    async def delete(
        self, key: str, *, recursive: bool = False, base_revision: int | None = None,
        timeout: float | None = None,
    ) -> int:
        """See `dfs.AsyncClient.delete`."""
        self.calls.append(("delete", key))
        if self.away:
            raise Unavailable("no leader")
        below = [k for k in self.records if k.startswith(key + "/")]
        if key not in self.records and not below:
            raise NotFound(f"no such key: {key}")
        found = self.records[key].revision if key in self.records else 0
        if base_revision is not None and base_revision != found:
            raise Conflict(f"{key} is at revision {found}, not {base_revision}")
        if below and not recursive:
            raise NotEmpty(f"{key} holds {below[0]}")
        self.revision += 1
        keys = sorted([*below, *([key] if key in self.records else [])], reverse=True)
        for sub, gone in enumerate(keys):
            stat = self.records.pop(gone)
            self._above.subtract(parents(gone))
            self._event(gone, stat, None, stat.revision, True, sub)
        await self._tell()
        return self.revision

    def transaction(
        self, *, request_id: bytes | None = None, timeout: float | None = None
    ) -> AsyncTransaction:
        """See `dfs.AsyncClient.transaction`; of puts and links."""

        async def commit(changes: Changes) -> int:
            call = changes.call(request_id or bytes(REQUEST_ID_BYTES))
            request = pb.TransactionRequest.FromString(encode(call.request))
            self.transactions.append(len(changes))
            return await self._write([_change(one) for one in request.operations], request_id)

        return AsyncTransaction(commit)

    async def _write(self, changes: Sequence[_Change], request_id: bytes | None) -> int:
        self.calls += [(change.verb, change.key) for change in changes]
        if self.hold is not None:
            await self.hold.wait()
        await asyncio.sleep(0)
        if self.away:
            raise Unavailable("no leader: node2 and node3 are silent")
        asked = [(c.verb, c.key, c.stat.sha256, c.stat.target) for c in changes]
        if request_id in self._done:
            revision, before = self._done[request_id]
            if asked != before:
                raise InvalidArgument("the request id was used for another request")
            return revision
        self._commit_all(changes, request_id or b"")
        if request_id is not None:
            self._done[request_id] = self.revision, asked
        revision = self.revision
        await self._tell()
        if self.lose_answers:
            self.lose_answers -= 1
            raise DeadlineExceeded("no answer in time; the write may still happen")
        return revision

    def _commit_all(self, changes: Sequence[_Change], request_id: bytes) -> None:
        """As one revision, or nothing of it."""
        former: list[tuple[str, Stat | None]] = []
        self.revision += 1
        for number, change in enumerate(changes):
            former.append((change.key, self.records.get(change.key)))
            stat = change.stat._replace(request_id=request_id)
            try:
                self._commit(change._replace(stat=stat), number)
            except DfsError:
                self._undo(former[:-1])
                raise

    def _undo(self, former: Sequence[tuple[str, Stat | None]]) -> None:
        self.revision -= 1
        del self.events[len(self.events) - len(former) :]
        for key, stat in reversed(former):
            if stat is None:
                del self.records[key]
                self._above.subtract(parents(key))
            else:
                self.records[key] = stat

    def _commit(self, change: _Change, sub: int) -> None:
        """At `revision`."""
        key, stat = change.key, change.stat
        check_key(key)
        old = self.records.get(key)
        before = old.revision if old else 0
        if change.base is not None and change.base != before:
            raise Conflict(f"{key} is at revision {before}, not {change.base}")
        for parent in parents(key):
            if parent in self.records and self.records[parent].kind is not Kind.DIRECTORY:
                raise NotADirectory(f"{parent} is a file")
        was_directory = self._above[key] > 0 or (old is not None and old.kind is Kind.DIRECTORY)
        if was_directory and stat.kind is not Kind.DIRECTORY:
            raise IsADirectory(f"{key} is a directory: name a key in it, or delete it first")
        if stat.kind is Kind.DIRECTORY and old is not None and old.kind is not Kind.DIRECTORY:
            raise NotADirectory(f"{key} is a file")
        stat = stat._replace(revision=self.revision, time_ns=time.time_ns())
        if old is None:
            self._above.update(parents(key))
        self.records[key] = stat
        self.contents[key, self.revision] = change.data
        self._event(key, stat, change.data, before, False, sub)

    def _event(
        self, key: str, stat: Stat, data: bytes | None, previous: int, deleted: bool, sub: int
    ) -> None:
        self.events.append(Event(key, self.revision, deleted, stat, data, previous, sub))

    async def _tell(self) -> None:
        async with self._news:
            self._news.notify_all()

    # ---- large contents --------------------------------------------------------------------------
    async def put_content(
        self, request: pb.PutContentRequest, *, timeout: float | None = None
    ) -> int:
        """See `dfs.AsyncClient.put_content`: the file handed over becomes the content."""
        assert self.files is not None
        incoming, sha256 = self.files / INCOMING / request.incoming, request.sha256
        target = path_in(self.files, sha256)
        if self.away:
            self.calls.append(("put_content", request.key))
            raise Unavailable("no leader: node2 and node3 are silent")
        if incoming.exists():
            target.parent.mkdir(exist_ok=True)
            seal(incoming)
            incoming.rename(target)
        assert hashlib.sha256(target.read_bytes()).digest() == sha256
        metadata = request.metadata
        stat = new_stat(Kind.FILE, request.size, sha256, metadata.mode, metadata.mtime_ns)
        stat = _with(stat, metadata)
        base = request.base_revision if request.HasField("base_revision") else None
        stat = stat._replace(chunk_bytes=request.chunk_bytes)
        change = _Change("put_content", request.key, stat, b"", base)
        return await self._write([change], request.request_id or None)

    async def upload(
        self, key: str, source: BinaryIO, *, size: int = 0, mode: int | None = None,
        mtime_ns: int | None = None, uid: int | None = None, gid: int | None = None,
        xattrs: Xattrs | None = None, base_revision: int | None = None,
        request_id: bytes | None = None,
    ) -> int:
        """See `dfs.AsyncClient.upload`."""
        data = source.read()
        assert len(data) == size
        stat = new_stat(Kind.FILE, size, hashlib.sha256(data).digest(),
                     0o644 if mode is None else mode, mtime_ns)
        stat = _described(stat, uid, gid, xattrs)._replace(chunk_bytes=chunk_bytes_of(size))
        self.elsewhere[stat.sha256] = data
        return await self._write([_Change("upload", key, stat, b"", base_revision)], request_id)

    async def download(
        self, key: str, target: BinaryIO, *, offset: int = 0, length: int = 0, revision: int = 0,
        local: bool = False, min_revision: int | None = None,
    ) -> Stat:
        """See `dfs.AsyncClient.download`."""
        data, stat = await self.read(key, revision=revision)
        end = offset + length if length else stat.size
        whole = data if not stat.chunk_bytes else await self.given(stat, offset)
        target.write(whole[offset:end])
        return stat

    # ---- reads -----------------------------------------------------------------------------------
    async def stat(
        self, key: str, *, revision: int = 0, local: bool = False,
        min_revision: int | None = None, timeout: float | None = None,
    ) -> Stat:
        """See `dfs.AsyncClient.stat`."""
        if self.away and not local:
            raise Unavailable("no leader")
        if revision:
            return (await self.read(key, revision=revision, timeout=timeout))[1]
        if key not in self.records:
            raise NotFound(f"no such key: {key}")
        return self.records[key]

    async def read(
        self, key: str, *, revision: int = 0, local: bool = False,
        min_revision: int | None = None, timeout: float | None = None,
    ) -> tuple[bytes, Stat]:
        """See `dfs.AsyncClient.read`."""
        self.calls.append(("read", key))
        if self.hold is not None:
            try:
                async with asyncio.timeout(timeout):
                    await self.hold.wait()
            except TimeoutError:
                raise DeadlineExceeded(f"no answer within {timeout} s") from None
        if self.cut:
            raise Unavailable("no node answers")
        if 0 < revision < self.floor:
            raise OutOfRange(f"history begins at {self.floor}")
        for event in reversed(self.events):
            if event.key != key or event.revision > (revision or self.revision):
                continue
            if event.deleted and revision:
                break
            if not event.deleted:
                data = event.data or b""
                if self.damage_reads:
                    self.damage_reads -= 1
                    data = b"damaged" + data
                return data, event.stat
        raise NotFound(f"no such key: {key}")

    async def watch(
        self, key: str = "", *, after_revision: int = 0, snapshot: bool = False,
        data_bytes_max: int = 0, on_lost: Callable[[DfsError], None] | None = None,
    ) -> AsyncIterator[Update]:
        """See `dfs.AsyncClient.watch`; for events alone."""
        news = self.watch_encoded(after_revision=after_revision, data_bytes_max=data_bytes_max)
        async for told in news:
            answer = pb.WatchResponse.FromString(told.encoded)
            yield Update([], False, [event_of(e) for e in answer.events], told.revision)

    async def watch_encoded(
        self, key: str = "", *, after_revision: int = 0, snapshot: bool = False,
        data_bytes_max: int = 0, data_after_revision: int = 0,
        on_lost: Callable[[DfsError], None] | None = None,
    ) -> AsyncIterator[Told]:
        """See `dfs.AsyncClient.watch_encoded`."""
        self._must_be_up()
        self.calls.append(("snapshot" if snapshot else "watch", key))
        if snapshot:
            items = [
                Item(k, s, self._content(
                    k, s, data_bytes_max if s.revision > data_after_revision else -1
                ))
                for k, s in self.records.items()
            ]
            revision = after_revision = self.revision
            yield Told(encoded(items[::2]), 0, 0, True, True, False, 0)
            yield Told(encoded(items[1::2]), 0, 0, True, False, True, revision)
        elif after_revision < self.floor:
            raise OutOfRange(f"history begins at {self.floor}")
        else:
            yield Told(b"", after_revision, 0, False, False, False, after_revision)
        while True:
            start = bisect.bisect_right(self.events, after_revision, key=lambda e: e.revision)
            news = self.events[start:]
            if news:
                before, after_revision = after_revision, news[-1].revision
                news_encoded = encoded([
                    e._replace(data=self._content(e.key, e.stat, data_bytes_max)
                               if e.data is not None else None)
                    for e in news
                ])
                yield Told(news_encoded, before, len(news), False, False, False, after_revision)
            async with self._news:
                while not self.cut and self.revision <= after_revision:
                    await self._news.wait()
            self._must_be_up()

    async def set_cut(self, cut: bool) -> None:
        """Breaks all watches, or lets them come back."""
        self.cut = cut
        await self._tell()

    def _content(self, key: str, stat: Stat, data_bytes_max: int) -> bytes | None:
        if stat.kind is not Kind.FILE or stat.size > data_bytes_max or stat.chunk_bytes:
            return None
        return self.contents[key, stat.revision]

    async def newest(self, *, timeout: float | None = None) -> int:
        """See `dfs.AsyncClient.newest`."""
        if self.away:
            raise Unavailable("no leader: node2 and node3 are silent")
        return self.revision

    async def members(self, *, timeout: float | None = None) -> pb.MembersResponse:
        """See `dfs.AsyncClient.members`."""
        self._must_be_up()
        return pb.MembersResponse(members=[
            pb.Member(name="node1", grpc="127.0.0.1:13001", voter=True, leader=True)
        ])

    async def status(
        self, *, local: bool = False, timeout: float | None = None
    ) -> pb.StatusResponse:
        """See `dfs.AsyncClient.status`."""
        self._must_be_up()
        return pb.StatusResponse(nodes=[
            pb.NodeStatus(role="voter", floor=self.floor, disk_free_bytes=free)
            for free in self.disks_free
        ] + [
            pb.NodeStatus(role="voter" if answers else "", member=pb.Member(voter=True))
            for answers in self.voters
        ])

    async def report_agent(self, report: pb.AgentStatus, *, timeout: float | None = None) -> None:
        """See `dfs.AsyncClient.report_agent`."""
        self._must_be_up()
        self.reports.append(report)


def _described(stat: Stat, uid: int | None, gid: int | None, xattrs: Xattrs | None) -> Stat:
    return stat._replace(uid=uid, gid=gid, xattrs=tuple(sorted((xattrs or {}).items())))


def _change(operation: pb.Operation) -> _Change:
    """What an operation of a transaction does."""
    if operation.WhichOneof("operation") == "put":
        put, metadata = operation.put, operation.put.metadata
        stat = new_stat(Kind.FILE, len(put.data), hashlib.sha256(put.data).digest(), metadata.mode,
                     metadata.mtime_ns)
        return _Change("put", put.key, _with(stat, metadata), put.data, put.base_revision)
    link, metadata = operation.symlink, operation.symlink.metadata
    stat = new_stat(Kind.SYMLINK, 0, b"", 0o777, metadata.mtime_ns, link.target)
    return _Change("symlink", link.key, _with(stat, metadata), b"", link.base_revision)


def _with(stat: Stat, metadata: pb.Metadata) -> Stat:
    """With the owner and the attributes that are named."""
    return stat._replace(
        uid=metadata.uid if metadata.HasField("uid") else None,
        gid=metadata.gid if metadata.HasField("gid") else None,
        xattrs=tuple((xattr.name, xattr.value) for xattr in metadata.xattrs),
    )
