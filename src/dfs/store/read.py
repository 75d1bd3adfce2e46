"""Reading the tree and its history, from the live state or from a frozen one."""

from __future__ import annotations

from collections.abc import Iterator
from types import TracebackType

from dfs.errors import (
    DataLoss,
    FailedPrecondition,
    InvalidArgument,
    IsADirectory,
    NotFound,
    OutOfRange,
)
from dfs.kv import Reads, Snapshot
from dfs.manifest import Manifest
from dfs.paths import check_key, is_below, parent
from dfs.proto.dfs_pb2 import DIRECTORY, FILE, Record
from dfs.store.layout import (
    CHUNKS,
    CONTENT,
    CURRENT,
    HISTORY,
    INDEX,
    INLINE,
    LARGE,
    META_KEY,
    PATH_END,
    PLACE,
    REQUEST,
    STORE_END,
    Change,
    Content,
    Event,
    Meta,
    Stored,
    Version,
    change_of,
    checked,
    described,
    history_key,
    index_key,
    inline_data_of,
    key_of,
    path_of,
    place_of,
    record_of,
    subtree,
    unpack_content,
    unpack_event,
    unpack_meta,
    unpack_version,
    unseal,
)

_AFTER_ALL = ((1 << 64) - 1, 0)
Item = tuple[str, bytes, bytes | None]


class LargeContent(Exception):
    """What was asked for is a large content, which the store does not have: only its record."""

    def __init__(self, record: bytes) -> None:
        super().__init__()
        self.record = record
        decoded = Record.FromString(record)
        self.sha256, self.size = decoded.sha256, decoded.size


Place = tuple[int, int]
"""(revision, sub) of an event."""
Found = tuple[bytes, Version, bytes]
"""A path, its current version, and the stored value that it is the head of."""


class View:
    """The state at one applied index. Any thread; `close` when done (or use `with`).

    `revision` is that index, `floor` the oldest revision in history then. When the whole state is
    replaced meanwhile (`Store.restore`), calls raise Unavailable: repeat them.
    """

    def __init__(self, source: Snapshot) -> None:
        """Takes over a snapshot of the key/value store."""
        value = source.get(META_KEY)
        meta = Meta() if value is None else unpack_meta(value)
        self.source = source
        self.revision = meta.applied
        self.floor = meta.floor
        self._floor_time_ns = meta.floor_time_ns

    def get(self, key: str, revision: int = 0) -> tuple[bytes, bytes]:
        """(encoded Record, content) of a file. Raises LargeContent, NotFound, IsADirectory,
        OutOfRange, FailedPrecondition (a symlink), InvalidArgument, DataLoss."""
        if revision:
            check_revision(revision, self.floor, self.revision)
            return past_file(self.source, key, revision)
        return current_file(self.source, key)

    def stat(self, key: str, revision: int = 0) -> bytes:
        """The encoded Record of a key of any kind. Raises NotFound, OutOfRange, InvalidArgument,
        DataLoss. In a directory's past record `children` is what it was when that was written."""
        if revision:
            check_revision(revision, self.floor, self.revision)
            return past_event(self.source, key, revision).record
        return current_record(self.source, key)

    def knows(self, request_id: bytes) -> bool:
        """A request with that id was applied, as far as history remembers."""
        return bool(request_id) and self.source.get(REQUEST + request_id) is not None

    def manifest(self, sha256: bytes) -> Manifest | None:
        """What a large content must be; None: no event names it. Raises DataLoss."""
        known, chunks = CONTENT + sha256, CHUNKS + sha256
        value = self.source.get(known)
        if value is None:
            return None
        digests = self.source.get(chunks)
        if digests is None:
            raise DataLoss(f"{described(chunks)} is missing")
        content = unpack_content(known, value)
        return Manifest(sha256, content.size, content.chunk_bytes, unseal(chunks, digests))

    def contents(self) -> Iterator[tuple[bytes, Content]]:
        """All large contents that events name, by SHA-256."""
        for store_key, value in self.source.scan(CONTENT, _behind(CONTENT)):
            yield store_key[1:], unpack_content(store_key, value)

    def naming(self, sha256s: set[bytes], limit: int) -> list[str]:
        """Keys of files, of now and of the past, that have one of these large contents, `limit` at
        most. Reads all of history. Raises DataLoss."""
        found: dict[str, None] = {}
        for store_key, value in self.source.scan(HISTORY, _behind(HISTORY)):
            event = unpack_event(store_key, value)
            if event.large and Record.FromString(event.record).sha256 in sha256s:
                found[key_of(event.path)] = None
                if len(found) == limit:
                    break
        return list(found)

    def verify(self, begin: bytes, records_max: int) -> bytes:
        """Reads records of the store from a store key on and compares their checksums; the key to
        go on with, b"" at the end. Raises DataLoss."""
        records, ended = self.source.part(begin, STORE_END, records_max)
        for store_key, value in records:
            if store_key[:1] != INDEX:
                unseal(store_key, value)
        return b"" if ended else records[-1][0] + b"\0"

    def history(self, key: str = "", before: int = 0) -> Iterator[Change]:
        """The retained changes of a key and of all below it, newest first, with revision <
        `before` (0 = all). "" = of the whole tree."""
        return (change for change, concerns in self.history_walk(key, before) if concerns)

    def history_walk(self, key: str = "", before: int = 0) -> Iterator[tuple[Change, bool]]:
        """The way to the same: all changes that have to be looked at for it, and whether each is
        one of those. For a directory that is every change since the floor."""
        if key:
            check_key(key)
        return _history(self.source, path_of(key), self.floor, before)

    def changes(self, after_revision: int) -> Iterator[Change]:
        """All changes with revision > `after_revision`, ascending. Raises OutOfRange when some of
        them are below the floor."""
        return map(change_of, self._events(after_revision))

    def events(self, after_revision: int) -> Iterator[Stored]:
        """The same as they are stored."""
        return map(checked, self._events(after_revision))

    def _events(self, after_revision: int) -> Iterator[Stored]:
        if after_revision + 1 < self.floor:
            raise OutOfRange(
                f"the changes after revision {after_revision} are no longer retained: history"
                f" starts at {self.floor}",
                floor=str(self.floor),
            )
        return self.source.scan(history_key(after_revision + 1, 0), _behind(HISTORY))

    def revision_at(self, time_ns: int) -> int:
        """The last revision that was not committed after a time, ns since 1970: that of a change,
        or the floor. Raises OutOfRange when history does not reach back to it."""
        if time_ns < self._floor_time_ns:
            raise OutOfRange(
                "what was there at that time is no longer retained: history starts at"
                f" {self.floor}",
                floor=str(self.floor),
            )
        low, high = self.floor, self.revision
        while low < high:
            middle = (low + high + 1) // 2
            revision, change_ns = _first_change(self.source, middle)
            if revision and change_ns <= time_ns:
                low = revision
            else:
                high = middle - 1
        if not low:
            raise OutOfRange("nothing was stored yet at that time: the first change came later")
        return low

    def list(
        self, key: str = "", recursive: bool = False, after: str = "", data_bytes_max: int = 0,
        data_after: int = 0,
    ) -> Iterator[Item]:  # fmt: skip
        """(key, encoded Record, content or None) in key order, behind the key `after`.

        `key`: "" = the whole tree, a directory (its children, or with `recursive` its subtree,
        without itself), else that one key. Content of files of up to `data_bytes_max` bytes when
        that is not 0, and of revisions greater than `data_after` only. Raises NotFound,
        InvalidArgument (`after` is elsewhere), DataLoss.
        """
        data_wanted = data_bytes_max, data_after
        begin, end = list_range(key, recursive, after)
        head = list_head(self.source, key)
        if head is not None and head[1].kind != DIRECTORY:
            return _items(self.source, iter([] if after else [head]), data_wanted)
        check_after(key, recursive, after)
        return _items(
            self.source, live_below(self.source, begin, end, recursive), data_wanted
        )

    def close(self) -> None:
        """Lets go of the frozen state. Idempotent."""
        self.source.close()

    def __enter__(self) -> View:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


# ---- one key -------------------------------------------------------------------------------------


def _current(source: Reads, key: str) -> tuple[Version, bytes]:
    """A live key's version and the stored value that it is the head of."""
    store_key = CURRENT + path_of(key)
    value = source.get(store_key)
    if value is None or "\0" in key:
        check_key(key)
        raise NotFound(f"no such key: {key}")
    return unpack_version(store_key, value), value


def current_record(source: Reads, key: str) -> bytes:
    """The record of a live key. Raises NotFound, InvalidArgument, DataLoss."""
    return record_of(*_current(source, key))


def current_file(source: Reads, key: str) -> tuple[bytes, bytes]:
    """(record, content) of a live file."""
    version, value = _current(source, key)
    record = record_of(version, value)
    if version.kind != FILE:
        _refuse_kind(key, version.kind, record)
    if version.flags & INLINE:
        return record, inline_data_of(version, value)
    if version.flags & LARGE:
        raise LargeContent(record)
    return record, event_of(source, path_of(key), version.revision, version.sub).data


def past_file(source: Reads, key: str, revision: int) -> tuple[bytes, bytes]:
    """(record, content) of a file as of a revision."""
    event = past_event(source, key, revision)
    record = Record.FromString(event.record)
    if record.kind != FILE:
        _refuse_kind(key, record.kind, event.record)
    if event.large:
        raise LargeContent(event.record)
    return event.record, event.data


def past_event(source: Reads, key: str, revision: int) -> Event:
    """The event that made what a key was as of a revision. Raises NotFound."""
    check_key(key)
    for _, event in _back(source, path_of(key), (revision + 1, 0)):
        if event.deleted:
            raise NotFound(f"no such key at revision {revision}: {key} was deleted before")
        return event
    raise NotFound(f"no such key at revision {revision}: {key}")


def check_revision(revision: int, floor: int, applied: int) -> None:
    """Raises OutOfRange unless a read at that revision is possible."""
    if revision < floor:
        raise OutOfRange(
            f"revision {revision} is no longer retained: history starts at {floor}",
            floor=str(floor),
        )
    if revision > applied:
        raise OutOfRange(f"revision {revision} is yet to come: the last one here is {applied}")


def _refuse_kind(key: str, kind: int, record: bytes) -> None:
    if kind == DIRECTORY:
        raise IsADirectory(f"{key} is a directory: it has no content, list it instead", other=key)
    target = Record.FromString(record).target
    raise FailedPrecondition(
        f"{key} is a symlink to {target}: links are never followed here, read the target itself"
    )


def event_of(source: Reads, path: bytes, revision: int, sub: int) -> Event:
    """The event of a key that must be there. Raises DataLoss."""
    store_key = history_key(revision, sub)
    key = key_of(path)
    try:
        value = source.get(store_key)
        event = None if value is None else unpack_event(store_key, value)
    except DataLoss as error:
        raise DataLoss(f"{key} at revision {revision}: {error}") from None
    if event is None or event.path != path:
        raise DataLoss(f"{key} at revision {revision}: its content is not where it must be")
    return event


# ---- many keys -----------------------------------------------------------------------------------


def list_range(key: str, recursive: bool, after: str) -> tuple[bytes, bytes]:
    """Where a list begins and ends among the store keys."""
    begin, end = subtree(CURRENT, path_of(key))
    if after:
        begin = CURRENT + path_of(after) + (b"\0" if recursive else b"\x01")
    return begin, end


def list_head(source: Reads, key: str) -> Found | None:
    """What is to be listed: a directory, or what is shown alone; None for the whole tree. Raises
    NotFound, DataLoss."""
    return (path_of(key), *_current(source, key)) if key else None


def check_after(key: str, recursive: bool, after: str) -> None:
    """Raises InvalidArgument when a list never shows `after`."""
    if after:
        check_key(after)
        if not is_below(after, key) or (not recursive and parent(after) != key):
            raise InvalidArgument(f"cannot go on behind {after}: this list never shows it")


def listed(source: Reads, found: Found, data_bytes_max: int, data_after: int = 0) -> Item:
    """What a list shows of one key, with content as `shows_data` says."""
    path, version, value = found
    data = None
    if shows_data(version, data_bytes_max, data_after):
        if version.flags & INLINE:
            data = inline_data_of(version, value)
        else:
            data = event_of(source, path, version.revision, version.sub).data
    return key_of(path), record_of(version, value), data


def shows_data(version: Version, data_bytes_max: int, data_after: int) -> bool:
    """Whether a list with content up to so many bytes, of greater revisions only, has that of this
    key."""
    small = version.kind == FILE and not version.large and version.size <= data_bytes_max > 0
    return small and version.revision > data_after


def live_below(source: Reads, begin: bytes, end: bytes, recursive: bool) -> Iterator[Found]:
    """What a list of that range (see `list_range`) goes through, in order. Raises DataLoss."""
    return (_subtree if recursive else _children)(source, begin, end)


def _subtree(source: Reads, begin: bytes, end: bytes) -> Iterator[Found]:
    for store_key, value in source.scan(begin, end):
        yield store_key[1:], unpack_version(store_key, value), value


def _children(source: Reads, begin: bytes, end: bytes) -> Iterator[Found]:
    """The same, stepping over what is below each child."""
    while begin:
        found = source.scan(begin, end)
        begin = b""
        for store_key, value in found:
            version = unpack_version(store_key, value)
            yield store_key[1:], version, value
            if version.kind == DIRECTORY and version.size:
                begin = store_key + b"\x01"
                break


def _items(
    source: Reads, found: Iterator[Found], data_wanted: tuple[int, int]
) -> Iterator[Item]:
    for each in found:
        yield listed(source, each, *data_wanted)


def _first_change(source: Reads, revision: int) -> tuple[int, int]:
    """(revision, time) of the first change at or after a revision; (0, 0) when there is none."""
    for store_key, value in source.scan(history_key(revision, 0), _behind(HISTORY)):
        return place_of(store_key)[0], unpack_event(store_key, value).time_ns
    return 0, 0


def _back(source: Reads, path: bytes, before: Place) -> Iterator[tuple[Place, Event]]:
    """The events of a key at places below `before`, newest first. Stop below the floor: what is
    pruned there may be missing."""
    place = _start(source, path, before)
    while True:
        first = before
        while place[0]:
            event = event_of(source, path, *place)
            first = place
            if place < before:
                yield place, event
            place = event.previous, event.previous_sub
        # It was created there: what it was before ended with a deletion.
        begin, end = index_key(path, 0, 0), index_key(path, *min(first, before))
        store_key, _ = next(source.scan(begin, end, reverse=True), (b"", b""))
        if not store_key:
            return
        place = place_of(store_key)


def _start(source: Reads, path: bytes, before: Place) -> Place:
    """The nearest event at or above `before` that can be found, else the current version's, else
    (0, 0)."""
    begin, end = index_key(path, *before), behind_all(path)
    store_key, _ = next(source.scan(begin, end), (b"", b""))
    if store_key:
        return place_of(store_key)
    value = source.get(CURRENT + path)
    if value is None:
        return 0, 0
    version = unpack_version(CURRENT + path, value)
    return version.revision, version.sub


def path_indexed(store_key: bytes) -> bytes:
    """The path in a key of the index."""
    return store_key[len(INDEX) : -len(PATH_END) - PLACE.size]


def behind_all(path: bytes) -> bytes:
    """Where the index goes on behind all places of a key, with what is below it."""
    return INDEX + path + PATH_END + b"\xff" * (PLACE.size + 1)


def _history(
    source: Reads, path: bytes, floor: int, before: int
) -> Iterator[tuple[Change, bool]]:
    if path and not _had_children(source, path):
        for place, event in _back(source, path, (before, 0) if before else _AFTER_ALL):
            if place[0] < floor:
                return
            yield event.change(*place), True
        return
    begin = history_key(floor, 0)
    end = history_key(before, 0) if before else _behind(HISTORY)
    below = path + b"\0"
    for store_key, value in source.scan(begin, end, reverse=True):
        event = unpack_event(store_key, value)
        concerns = not path or event.path == path or event.path.startswith(below)
        yield event.change(*place_of(store_key)), concerns


def _had_children(source: Reads, path: bytes) -> bool:
    """Something is below it, or was deleted there and is still in history."""
    _, end = subtree(INDEX, path)
    deleted = source.scan(INDEX + path + b"\0\x01", end)  # Behind the places of the key itself.
    live = source.scan(*subtree(CURRENT, path))
    return next(live, None) is not None or next(deleted, None) is not None


def _behind(family: bytes) -> bytes:
    return bytes((family[0] + 1,))
