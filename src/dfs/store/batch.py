"""One batch of log entries under way: an overlay over the key/value store, and what it counts.

Entries see what earlier entries of the batch did. Nothing is written here: `changes` is what the
caller writes at once when all is done.
"""

from __future__ import annotations

from collections.abc import Iterator
from heapq import merge
from typing import TYPE_CHECKING, Final

from sortedcontainers import SortedDict

from dfs._engine import pack_file, pack_part, pack_put
from dfs.errors import DataLoss, Internal
from dfs.kv import KeyValue
from dfs.limits import (
    FLOOR_PRUNE_BYTES_MAX,
    FLOOR_PRUNE_EVENTS_MAX,
    REQUEST_AHEAD_S_MAX,
    SMALL_VALUE_BYTES_MAX,
)
from dfs.proto.dfs_pb2 import DIRECTORY, FILE, Record
from dfs.store.layout import (
    CHUNKS,
    CONTENT,
    CURRENT,
    DELETED,
    HISTORY,
    INDEX,
    INLINE,
    LARGE,
    LARGE_EVENT,
    NO_REQUEST,
    PATH_END,
    PLACE,
    PREVIOUS_INDEXED,
    PREVIOUS_LARGE,
    REQUEST,
    Content,
    Event,
    Meta,
    Stored,
    Version,
    described,
    digest_of,
    history_key,
    index_key,
    inline_data_of,
    is_indexed,
    key_of,
    pack_content,
    pack_event,
    pack_version,
    place_of,
    record_of,
    seal,
    unpack_content,
    unpack_event,
    unpack_version,
)

if TYPE_CHECKING:
    from dfs._engine import PackedFile, PartPut
    from dfs.proto.internal.log_pb2 import Entry

_HASH_MODULUS: Final = 1 << 128
_TIME_NS_MAX: Final = (1 << 63) - 1


def uuid7_ns(request_id: bytes) -> int:
    """The end of the millisecond in which a UUID of version 7 was made; 0 for another id."""
    if request_id[6] >> 4 != 7 or request_id[8] >> 6 != 2:
        return 0
    return (int.from_bytes(request_id[:6]) + 1) * 1_000_000


def stored_bytes(version: Version) -> int:
    """How much content of a current version stands in the store."""
    return version.size if version.kind == FILE and not version.large else 0


class Batch:
    """The state as it will be when the batch is written."""

    def __init__(self, kv: KeyValue, meta: Meta) -> None:
        """Starts from what is stored, as `meta` says; that becomes what is to be stored."""
        self.meta = meta
        self.changes: dict[bytes, bytes | None] = {}
        """What is to be written; None deletes."""
        self.events: list[Stored] = []
        """What watchers will see."""
        self.contents: dict[bytes, bool] = {}
        """Large contents that events began to name (True), or do not name any more."""
        self._kv = kv
        self.seen: dict[bytes, bytes | None] = {}
        """Values of all families but `h` and `i` that were looked at or changed, as of now."""
        self.sub = 0
        """The sub-index that the next change of this entry gets."""
        self.copied_bytes = 0
        """Content that this entry wrote again under another key."""
        self._is_branch = False
        """It is scanned often once it is scanned at all: by moves, copies and deletes."""
        self._new_children: dict[bytes, int] = {}
        """By path of a directory, how many its record does not count yet."""

    def tick(self, time_ns: int) -> None:
        """Time goes on to what the leader's clock says, and by one nanosecond at least."""
        meta = self.meta
        if meta.time_ns < time_ns <= _TIME_NS_MAX:
            meta.time_ns = time_ns
        elif meta.time_ns < _TIME_NS_MAX:
            meta.time_ns += 1

    # ---- all or nothing --------------------------------------------------------------------------

    def branch(self) -> Batch:
        """A copy, for changes of which a later one may yet be refused: then it is thrown away."""
        self.settle()
        other = Batch(self._kv, self.meta.copy())
        other.changes, other._is_branch = dict(self.changes), True
        other.seen = dict(self.seen)
        other.sub, other.copied_bytes = self.sub, self.copied_bytes
        return other

    def adopt(self, branch: Batch) -> None:
        """Becomes what a branch has become. Nothing was changed here meanwhile."""
        branch.settle()
        self.meta = branch.meta
        self.changes.update(branch.changes)
        self.seen = branch.seen
        self.events += branch.events
        self.contents.update(branch.contents)
        self.sub, self.copied_bytes = branch.sub, branch.copied_bytes

    # ---- values ----------------------------------------------------------------------------------

    def load(self, store_keys: list[bytes]) -> None:
        """Fetches at once what the batch will surely look at."""
        if store_keys:
            self.seen.update(zip(store_keys, self._kv.get_many(store_keys), strict=True))

    def value(self, store_key: bytes) -> bytes | None:
        """A value as of now, but of `h` and `i`."""
        try:
            return self.seen[store_key]
        except KeyError:
            found = self.seen[store_key] = self._kv.get(store_key)
            return found

    def put(self, store_key: bytes, body: bytes) -> None:
        """Stores such a value."""
        self.seen[store_key] = self.changes[store_key] = seal(store_key, body)

    def remove(self, store_key: bytes) -> None:
        """Removes such a value."""
        self.seen[store_key] = self.changes[store_key] = None

    def scan(self, begin: bytes, end: bytes) -> Iterator[tuple[bytes, bytes]]:
        """Stored records and those of this batch in begin <= key < end, ascending."""
        self.settle()
        fresh = self._changed(begin, end)
        stored = self._kv.scan(begin, end)
        if not fresh:
            yield from stored
            return
        older = ((k, v) for k, v in stored if k not in self.changes)
        newer = ((k, v) for k in fresh if (v := self.changes[k]) is not None)
        yield from merge(older, newer, key=lambda record: record[0])

    def _changed(self, begin: bytes, end: bytes) -> list[bytes]:
        """The keys of `changes` in a range, ascending."""
        if self._is_branch and not isinstance(self.changes, SortedDict):
            self.changes = SortedDict(self.changes)
        if isinstance(self.changes, SortedDict):
            return list(self.changes.irange(begin, end, (True, False)))
        return sorted(key for key in self.changes if begin <= key < end)

    # ---- versions --------------------------------------------------------------------------------

    def version(self, path: bytes) -> Version | None:
        """The current version of a key, or None."""
        if path in self._new_children:
            self._settle(path)
        store_key = CURRENT + path
        value = self.value(store_key)
        return None if value is None else unpack_version(store_key, value)

    def record(self, path: bytes, version: Version) -> bytes:
        """The encoded Record of a key's current version."""
        return record_of(version, self.seen[CURRENT + path] or b"")

    def store(
        self, index: int, path: bytes, old: Version | None, kind: int, flags: int, size: int,
        record: bytes, request_id: bytes, data: bytes = b"",
    ) -> None:  # fmt: skip
        """Makes a new version of a key, with its event. `size`: children, or bytes of content. For
        a new file that stands in the log `store_file` does the same faster."""
        created, number = (old.created, old.number + 1) if old else (index, 1)
        store_key = CURRENT + path
        digest = digest_of(store_key, record)
        if old is None:
            self.meta.keys += 1
        else:
            self._uncount(old)
        self._hash_in(digest)
        if kind == FILE:
            self.meta.content_bytes += size
        inline = bool(flags & INLINE)
        body = pack_version(
            kind, flags, self.sub, index, created, number, size, digest, record,
            data if inline else b"",
        )  # fmt: skip
        self.put(store_key, body)
        indexed = is_indexed(number) or (kind == FILE and not inline)
        event_flags = LARGE_EVENT if flags & LARGE else 0
        self._add(index, old, indexed, event_flags, request_id, path, record, data)

    def copy_version(
        self, index: int, source: bytes, version: Version, target: bytes, old: Version | None,
        writer: Entry, request_id: bytes,
    ) -> None:  # fmt: skip
        """Makes what `source` is now the next version of `target`, which is `old`: kind, content,
        mode and mtime stay, the rest of the record begins anew. Directories keep their count of
        children."""
        data = self.content(source, version)
        record = Record.FromString(self.record(source, version))
        if version.large:
            self.name_content(record.sha256, version.size, record.chunk_bytes, b"")
        record.revision = index
        record.created_revision = old.created if old else index
        record.version = old.number + 1 if old else 1
        record.node, record.principal = writer.node, writer.principal
        record.time_ns = self.meta.time_ns
        record.request_id = request_id
        self.store(
            index, target, old, version.kind, version.flags, version.size,
            record.SerializeToString(deterministic=True), request_id, data,
        )  # fmt: skip
        self.copied_bytes += len(data)

    def content(self, path: bytes, version: Version) -> bytes:
        """What the current version of a file holds, if it stands in the store; b"" for large files
        and the other kinds. Raises DataLoss."""
        if version.kind != FILE or version.large:
            return b""
        if version.inline:
            return inline_data_of(version, self.seen[CURRENT + path] or b"")
        store_key = history_key(version.revision, version.sub)
        value = self.changes.get(store_key) or self._kv.get(store_key)
        event = None if value is None else unpack_event(store_key, value)
        if event is None or event.path != path:
            raise DataLoss(f"the state is damaged: the content of {key_of(path)} is not there")
        return event.data

    def store_file(
        self, index: int, path: bytes, mode: int, mtime_ns: int, node: str, principal: str,
        sha256: bytes, request_id: bytes, tail: bytes, data: bytes,
    ) -> None:  # fmt: skip
        """Makes a new version of a file in place of a file, a symlink or nothing. `tail`: as in
        `pack_file`."""
        store_key = CURRENT + path
        old = self.value(store_key)
        packed = pack_file(
            store_key, old, index, self.sub, self.meta.time_ns, mode, mtime_ns, node, principal,
            sha256, request_id, tail, data, SMALL_VALUE_BYTES_MAX,
        )  # fmt: skip
        self._take(store_key, old, packed)

    def store_put(self, index: int, store_key: bytes, payload: bytes, mode: int) -> None:
        """The same for what an entry holds that is a plain Put."""
        old = self.value(store_key)
        packed = pack_put(
            payload, store_key, old, index, self.sub, self.meta.time_ns, mode,
            SMALL_VALUE_BYTES_MAX,
        )  # fmt: skip
        self._take(store_key, old, packed)

    def store_part(
        self, index: int, put: PartPut, payload: bytes, mode: int, writer: Entry, request_id: bytes
    ) -> None:
        """The same for a regular put of the transaction that an entry holds."""
        store_key = put[0]
        old = self.value(store_key)
        packed = pack_part(
            payload, put, old, index, self.sub, self.meta.time_ns, mode, writer.node,
            writer.principal, request_id, SMALL_VALUE_BYTES_MAX,
        )  # fmt: skip
        self._take(store_key, old, packed)

    def _take(self, store_key: bytes, old: bytes | None, packed: PackedFile | None) -> None:
        """Counts and keeps a version of a file that was packed."""
        if packed is None:
            if old is not None:
                unpack_version(store_key, old)  # Says what is damaged.
            raise Internal(f"{described(store_key)} cannot be packed")
        value, history, event, place, hash_change, size_change = packed
        meta, changes = self.meta, self.changes
        if old is None:
            meta.keys += 1
        meta.content_bytes += size_change
        meta.state_hash = (meta.state_hash + hash_change) % _HASH_MODULUS
        self.seen[store_key] = changes[store_key] = value
        changes[history] = event
        if place is not None:
            changes[place] = b""
        self.sub += 1
        self.events.append((history, event))

    def _uncount(self, old: Version) -> None:
        """Takes a version out of what is counted, but for the key."""
        self._hash_out(old.digest)
        if old.kind == FILE:
            self.meta.content_bytes -= old.size

    def _hash_in(self, digest: bytes) -> None:
        meta = self.meta
        meta.state_hash = (meta.state_hash + int.from_bytes(digest, "little")) % _HASH_MODULUS

    def _hash_out(self, digest: bytes) -> None:
        meta = self.meta
        meta.state_hash = (meta.state_hash - int.from_bytes(digest, "little")) % _HASH_MODULUS

    def drop(self, index: int, path: bytes, old: Version, request_id: bytes) -> None:
        """Removes a key, with its event."""
        record = self.record(path, old)
        self.meta.keys -= 1
        self._uncount(old)
        self.remove(CURRENT + path)
        self._add(index, old, True, DELETED, request_id, path, record)

    def add_child(self, path: bytes) -> None:
        """A directory got a child. Its record is counted up once for all that come in a row."""
        self._new_children[path] = self._new_children.get(path, 0) + 1

    def adds_children(self, path: bytes) -> bool:
        """It is a directory for sure: it got a child that its record does not count yet."""
        return path in self._new_children

    def settle(self) -> None:
        """Brings all directories up to date."""
        for path in list(self._new_children):
            self._settle(path)

    def _settle(self, path: bytes) -> None:
        step = self._new_children.pop(path)
        directory = self.version(path)
        if directory is None:
            raise DataLoss(f"the state is damaged: {key_of(path)} is not the directory it was")
        self.count_child(path, directory, step)

    def count_child(self, path: bytes, directory: Version, step: int) -> None:
        """A directory got or lost children: no change of its own, so no event."""
        store_key = CURRENT + path
        count = directory.size + step
        counted = Record.FromString(self.record(path, directory))
        counted.children = count
        record = counted.SerializeToString(deterministic=True)
        digest = digest_of(store_key, record)
        self._hash_in(digest)
        self._hash_out(directory.digest)
        self.put(store_key, pack_version(*directory[:6], count, digest, record, b""))

    def lose_child(self, index: int, path: bytes) -> None:
        """The child at `path` is gone: its parent counts one less, or vanishes if implicit."""
        while (cut := path.rfind(b"\0")) > 0:
            path = path[:cut]
            parent = self.version(path)
            if parent is None or parent.kind != DIRECTORY or parent.size < 1:
                raise DataLoss(f"the state is damaged: {key_of(path)} is not the directory it was")
            if parent.size > 1 or not parent.implicit:
                self.count_child(path, parent, -1)
                return
            self.drop(index, path, parent, b"")

    def _add(
        self, index: int, old: Version | None, indexed: bool, flags: int, request_id: bytes,
        path: bytes, record: bytes, data: bytes = b"",
    ) -> None:  # fmt: skip
        """The event of a change."""
        previous, previous_sub = (old.revision, old.sub) if old else (0, 0)
        if old is not None:
            flags |= PREVIOUS_INDEXED if old.indexed else 0
            flags |= PREVIOUS_LARGE if old.large else 0
        place = PLACE.pack(index, self.sub)
        history = HISTORY + place
        body = pack_event(
            flags, previous_sub, previous, self.meta.time_ns, request_id, path, record, data
        )
        event = self.changes[history] = seal(history, body)
        if indexed:
            self.changes[INDEX + path + PATH_END + place] = b""
        self.sub += 1
        self.events.append((history, event))

    # ---- large contents --------------------------------------------------------------------------

    def name_content(self, sha256: bytes, size: int, chunk_bytes: int, digests: bytes) -> None:
        """One more event, which is made next, names that content. `digests`: b"" = it is named
        already. Raises DataLoss when it is not."""
        key = CONTENT + sha256
        value = self.value(key)
        if value is None and not digests:
            raise DataLoss(f"the state is damaged: {described(key)} is missing")
        known = Content(0, size, chunk_bytes) if value is None else unpack_content(key, value)
        if not known.events:
            self.put(CHUNKS + sha256, digests)
            self.contents[sha256] = True
        self.put(key, pack_content(known._replace(events=known.events + 1)))

    def _release(self, history: bytes) -> None:
        """The event that stands there goes, and names its content no more."""
        value = self.changes[history] if history in self.changes else self._kv.get(history)
        if value is None:
            raise DataLoss(f"the state is damaged: {described(history)} is missing")
        sha256 = Record.FromString(unpack_event(history, value).record).sha256
        key = CONTENT + sha256
        known = self.value(key)
        if known is None:
            raise DataLoss(f"the state is damaged: {described(key)} is missing")
        content = unpack_content(key, known)
        if content.events > 1:
            self.put(key, pack_content(content._replace(events=content.events - 1)))
        else:
            self.remove(key)
            self.remove(CHUNKS + sha256)
            self.contents[sha256] = False

    # ---- history ---------------------------------------------------------------------------------

    def time_at(self, revision: int) -> int:
        """Time of the first change at or after a revision; now when there is none."""
        for store_key, value in self.scan(history_key(revision, 0), b"i"):
            return unpack_event(store_key, value).time_ns
        return self.meta.time_ns

    def prune(
        self, events_max: int = FLOOR_PRUNE_EVENTS_MAX, bytes_max: int = FLOOR_PRUNE_BYTES_MAX
    ) -> None:
        """Passes some events below the floor, oldest first, from where it stopped last time: so
        many, and so many bytes of them, but at least one.

        An event that is passed takes with it what it replaced, its request id, and itself if it
        is a deletion. So the newest version below the floor stays: a read at any revision from
        the floor on is right, and so is the content of a live key, however old.

        An event waits, and all behind it, while its request id is not older than the floor: it was
        made by a clock that is ahead, and without the event nobody would refuse its repetition.
        """
        meta = self.meta
        if meta.pruned >= meta.floor:
            return
        left, bytes_left = events_max, bytes_max
        begin = history_key(meta.pruned, meta.pruned_sub)
        for store_key, value in self._events(begin, history_key(meta.floor, 0)):
            revision, sub = place_of(store_key)
            event = unpack_event(store_key, value)
            ahead_ns = uuid7_ns(event.request_id) - meta.floor_time_ns
            if not left or bytes_left <= 0 or 0 <= ahead_ns < REQUEST_AHEAD_S_MAX * 1_000_000_000:
                meta.pruned, meta.pruned_sub = revision, sub
                return
            left -= 1
            bytes_left -= len(value)
            self._forget(store_key, event)
        meta.pruned, meta.pruned_sub = meta.floor, 0

    def _events(self, begin: bytes, end: bytes) -> Iterator[Stored]:
        """The events in begin <= key < end that pruning has not passed: those stored, then those of
        this batch. As `scan`, but its cost does not grow with what the batch has changed."""
        yield from self._kv.scan(begin, end)
        for store_key, value in self.events:
            if store_key >= end:
                return
            if store_key >= begin:
                yield store_key, value

    def _forget(self, store_key: bytes, event: Event) -> None:
        revision, sub = place_of(store_key)
        if event.previous_large:
            self._release(history_key(event.previous, event.previous_sub))
        if event.previous:
            self.changes[history_key(event.previous, event.previous_sub)] = None
        if event.previous_indexed:
            self.changes[index_key(event.path, event.previous, event.previous_sub)] = None
        if event.deleted:
            self.changes[store_key] = None
            self.changes[index_key(event.path, revision, sub)] = None
        if event.request_id != NO_REQUEST:
            self.remove(REQUEST + event.request_id)
