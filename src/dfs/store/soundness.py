"""Is a state consistent in itself: every record, what it says of others, and the sums over all."""

from __future__ import annotations

import hashlib
from collections import Counter
from struct import error as StructError

from google.protobuf.message import DecodeError

from dfs.errors import DataLoss
from dfs.kv import Reads
from dfs.limits import SMALL_VALUE_BYTES_MAX
from dfs.manifest import SHA256_BYTES
from dfs.proto.dfs_pb2 import DIRECTORY, FILE, Record
from dfs.store.layout import (
    CHUNKS,
    CONTENT,
    CURRENT,
    HISTORY,
    INDEX,
    META_KEY,
    NO_REQUEST,
    PATH_END,
    PLACE,
    REQUEST,
    Content,
    Event,
    Meta,
    Version,
    described,
    digest_of,
    history_key,
    index_key,
    inline_data_of,
    is_indexed,
    key_of,
    place_of,
    record_of,
    unpack_content,
    unpack_done,
    unpack_event,
    unpack_meta,
    unpack_version,
    unseal,
)

PROBLEMS_MAX = 20
"""That are told of one state; the rest is counted."""
_HASH_MODULUS = 1 << 128


class StateCheck:
    """What was found in one state."""

    def __init__(self, source: Reads) -> None:
        """Reads all of it."""
        self._source = source
        self.problems: list[str] = []
        self.untold = 0
        """Problems beyond PROBLEMS_MAX."""
        self.keys = self.bytes = self.events = self.requests = 0
        self.state_hash = 0
        self.contents: dict[bytes, Content] = {}
        """Large contents by SHA-256: files beside the store."""
        self._named: Counter[bytes] = Counter()
        """By how many events."""
        value = source.get(META_KEY)
        self.meta = Meta() if value is None else unpack_meta(value)
        self._passed = self.meta.pruned, self.meta.pruned_sub
        """Pruning has passed the events below: what they replaced is gone."""
        self._open: list[tuple[bytes, int, int]] = []
        """The directories around the present path: path, children by its record, children seen."""
        self._walk()

    def _problem(self, text: str) -> None:
        if len(self.problems) < PROBLEMS_MAX:
            self.problems.append(text)
        else:
            self.untold += 1

    def _walk(self) -> None:
        kinds = {CURRENT: self._version, HISTORY: self._event, INDEX: self._place,
                 REQUEST: self._request, CONTENT: self._content, CHUNKS: self._chunks}
        try:
            for key, value in self._source.scan(b"", b"\xff"):
                if key == META_KEY:
                    continue
                if (check := kinds.get(key[:1])) is None:
                    self._problem(f"{described(key)} is of no kind that there is")
                    continue
                try:
                    check(key, value)
                except DataLoss as error:
                    self._problem(error.text)
                except (StructError, DecodeError, UnicodeDecodeError, IndexError) as error:
                    self._problem(f"{described(key)} cannot be decoded: {error}")
        except (DataLoss, OSError) as error:
            self._problem(f"the store cannot be read to its end: {error}")
            return
        self._leave(b"")
        self._sums()

    def _sums(self) -> None:
        meta = self.meta
        for what, found, said in (
            ("keys", self.keys, meta.keys), ("bytes of content", self.bytes, meta.content_bytes)
        ):
            if found != said:
                self._problem(f"there are {found:,} {what}, the state says {said:,}")
        if self.state_hash != meta.state_hash:
            self._problem(
                f"the state hash is {self.state_hash.to_bytes(16, 'little').hex()}, the state says"
                f" {meta.state_hash.to_bytes(16, 'little').hex()}: a record is missing, too much or"
                " exchanged"
            )
        for sha256 in self.contents.keys() | self._named.keys():
            said = self.contents[sha256].events if sha256 in self.contents else 0
            if said != self._named[sha256]:
                self._problem(
                    f"{self._named[sha256]} events name the large content {sha256.hex()}, the state"
                    f" says {said}"
                )

    # ---- large contents --------------------------------------------------------------------------

    def _content(self, key: bytes, value: bytes) -> None:
        content = self.contents[key[1:]] = unpack_content(key, value)
        chunks = -(-content.size // content.chunk_bytes)
        digests = self._source.get(CHUNKS + key[1:])
        if digests is None:
            self._problem(f"{described(key)} is not whole: the digests of its chunks are missing")
        elif len(unseal(CHUNKS + key[1:], digests)) != chunks * SHA256_BYTES:
            self._problem(f"{described(key)} has another number of chunks than digests of them")

    def _chunks(self, key: bytes, value: bytes) -> None:
        unseal(key, value)
        if key[1:] not in self.contents:
            self._problem(f"{described(key)} is left over: no event names it")

    # ---- current versions ------------------------------------------------------------------------

    def _version(self, key: bytes, value: bytes) -> None:
        version = unpack_version(key, value)
        path, record = key[1:], record_of(version, value)
        digest = digest_of(key, record)
        self.keys += 1
        self.state_hash = (self.state_hash + int.from_bytes(digest, "little")) % _HASH_MODULUS
        if version.kind == FILE:
            self.bytes += version.size
        if digest != version.digest:
            self._problem(f"{described(key)} has not the digest that it says")
        if version.revision > self.meta.applied:
            self._problem(f"{described(key)} is of revision {version.revision}, yet to come")
        self._enter(path, version)
        event = self._event_at(path, version.revision, version.sub)
        if event is None or event.deleted:
            self._problem(f"{described(key)}: history has no such version of it")
            return
        same = event.record == record
        if version.kind == DIRECTORY:
            same = _without_children(event.record) == _without_children(record)
        if version.inline:
            same = same and inline_data_of(version, value) == event.data
        if not same:
            self._problem(f"{described(key)} is not the version that history has")

    def _enter(self, path: bytes, version: Version) -> None:
        self._leave(path)
        if b"\0" in path:
            around, _, _ = path.rpartition(b"\0")
            if not self._open or self._open[-1][0] != around:
                self._problem(f"{key_of(path)} is not in a directory")
            else:
                directory, children, seen = self._open[-1]
                self._open[-1] = directory, children, seen + 1
        if version.kind == DIRECTORY:
            self._open.append((path, version.size, 0))

    def _leave(self, path: bytes) -> None:
        """Ends the directories that `path` is not below."""
        while self._open and not path.startswith(self._open[-1][0] + b"\0"):
            directory, children, seen = self._open.pop()
            if children != seen:
                self._problem(f"{key_of(directory)} has {seen} children, it says {children}")

    # ---- history ---------------------------------------------------------------------------------

    def _event_at(self, path: bytes, revision: int, sub: int) -> Event | None:
        key = history_key(revision, sub)
        value = self._source.get(key)
        event = None if value is None else unpack_event(key, value)
        return event if event is not None and event.path == path else None

    def _event(self, key: bytes, value: bytes) -> None:
        event, place = unpack_event(key, value), place_of(key)
        self.events += 1
        record = Record.FromString(event.record)
        if place[0] > self.meta.applied:
            self._problem(f"{described(key)} is yet to come")
        if event.large:
            self._named[record.sha256] += 1
        elif record.kind == FILE and not event.deleted:
            right = hashlib.sha256(event.data).digest() == record.sha256
            if not right or len(event.data) != record.size:
                self._problem(
                    f"{key_of(event.path)} at revision {place[0]}: the content is not that of its"
                    " digest"
                )
        if self._needs_index(event, record):
            index = index_key(event.path, *place)
            if self._source.get(index) is None:
                self._problem(f"{described(key)} is missing in the index of {key_of(event.path)}")
        if place >= self._passed:
            self._earlier(key, event, place[0])
        self._later(key, event, place)

    @staticmethod
    def _needs_index(event: Event, record: Record) -> bool:
        large = record.kind == FILE and record.size > SMALL_VALUE_BYTES_MAX
        return event.deleted or large or is_indexed(record.version)

    def _earlier(self, key: bytes, event: Event, revision: int) -> None:
        """What an event refers to that pruning has not passed."""
        if event.previous and not self._event_at(event.path, event.previous, event.previous_sub):
            self._problem(f"{described(key)} replaced revision {event.previous}, which is gone")
        # The first event of a request that is passed takes the id with it.
        named = event.request_id != NO_REQUEST and revision > self._passed[0]
        if named and self._source.get(REQUEST + event.request_id) is None:
            self._problem(f"{described(key)}: its request id is not known any more")

    def _later(self, key: bytes, event: Event, place: tuple[int, int]) -> None:
        """An event is followed by the present version of its key, or by its deletion."""
        value = self._source.get(CURRENT + event.path)
        if value is not None:
            version = unpack_version(CURRENT + event.path, value)
            present = version.revision, version.sub
            if present < place or (event.deleted and version.created < place[0]):
                self._problem(f"{described(key)} is not shown by {described(CURRENT + event.path)}")
        elif not event.deleted:
            begin = index_key(event.path, place[0], place[1] + 1)
            end = INDEX + event.path + PATH_END + b"\xff" * (PLACE.size + 1)
            if next(self._source.scan(begin, end), None) is None:
                self._problem(f"{key_of(event.path)} is missing, and was never deleted")

    def _place(self, key: bytes, value: bytes) -> None:
        path = key[1 : -PLACE.size - len(PATH_END)]
        place = place_of(key)
        if value:
            self._problem(f"{described(key)} has a value")
        if self._source.get(history_key(*place)) is None or not self._event_at(path, *place):
            self._problem(
                f"the index of {key_of(path)} names revision {place[0]}, which is not there"
            )

    def _request(self, key: bytes, value: bytes) -> None:
        self.requests += 1
        if unpack_done(key, value).revision > self.meta.applied:
            self._problem(f"{described(key)} is yet to come")


def _without_children(record: bytes) -> Record:
    found = Record.FromString(record)
    found.children = 0
    return found
