"""The bytes on disk: store keys, sealed values, records, events and the state's own record.

One ordered space of keys; the first byte is the family. In a path '/' is stored as 0x00, which no
key may hold: so a subtree is contiguous and sorts by component.

    n path                       → current version of a live key
    h revision sub               → event: one change of one key
    i path 0x00 0x00 revision sub → nothing; where walks back through the events of a key begin
    d request id                 → what the request with that id did
    c sha256                     → a large content: how many events of `h` name it
    k sha256                     → the SHA-256 of each of its chunks
    m                            → the state's own record: applied index, counters, hashes

revision: u64, sub: u32, both big-endian. All else is little-endian. A value starts with 8 bytes of
XXH3-64 over the rest, seeded by the XXH3-64 of its store key: a value that is damaged, or stands
under another key, does not open. Content of up to SMALL_VALUE_BYTES_MAX stands in `n` and in `h`,
larger content in `h` alone; large contents (`c`) are files of their own, beside the store.

An event says where the one before of its key is, up to the creation. So a walk back finds every
version; `i` has the places where it may begin: one version in HISTORY_STEP, every deletion, and
every content that stands in `h` alone, so that no walk reads more than one of those in vain.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from struct import Struct
from typing import Final, NamedTuple

from xxhash import xxh3_64_digest, xxh3_64_intdigest, xxh3_128_digest

from dfs.errors import DataLoss
from dfs.proto.dfs_pb2 import FILE, Kind

STORE_FORMAT: Final = 3
"""Of everything here. A store or snapshot with a higher number is refused."""
STORE_FORMAT_MIN: Final = 2
"""Without large contents, else the same."""

CURRENT: Final = b"n"
HISTORY: Final = b"h"
INDEX: Final = b"i"
REQUEST: Final = b"d"
CONTENT: Final = b"c"
CHUNKS: Final = b"k"
META_KEY: Final = b"m"
STORE_END: Final = b"\xff"
"""Behind all of them."""

CHECKSUM_BYTES: Final = 8
_VERSION = Struct("<BBIQQQQ16sI")
_EVENT = Struct("<BIQQ16sHI")
_EVENT_LENGTHS = Struct("<HI")
"""Of path and record: the end of that."""
_REQUEST = Struct("<QQQ")
_CONTENT = Struct("<QQQ")
_META = Struct("<HQQQQIQQQ16s16sI")

PLACE: Final = Struct(">QI")
"""(revision, sub) of an event, at the end of keys in `h` and `i`."""
PATH_END: Final = b"\0\0"
"""Behind the path in `i`: no path holds it, so no path's index runs into another's."""

_SHOWN_BYTES_MAX = 64
"""Of a key that is none, in messages."""
_RECORD_START = CHECKSUM_BYTES + _VERSION.size
_EVENT_START = CHECKSUM_BYTES + _EVENT.size
_EVENT_LENGTHS_AT = _EVENT_START - _EVENT_LENGTHS.size

INLINE: Final = 1
IMPLICIT: Final = 2
LARGE: Final = 4
"""Flags of a current version."""
DELETED: Final = 1
PREVIOUS_INDEXED: Final = 2
PREVIOUS_LARGE: Final = 4
LARGE_EVENT: Final = 8
"""Flags of an event."""
HISTORY_STEP: Final = 16
"""One version in so many of a key is in the index."""
NO_REQUEST: Final = bytes(16)


class UnknownEntry(Exception):
    """A log entry or a state that a newer version of dfs wrote: this version must stop."""


class Change(NamedTuple):
    """One change of one key, as history keeps it and watchers see it."""

    revision: int
    sub: int
    """Order inside one revision."""
    deleted: bool
    key: str
    record: bytes
    """Encoded Record: the new one; for a deletion the last one."""
    data: bytes | None
    """Content of a file; b"" for a deletion; None: it is large, and elsewhere."""
    previous: int
    """Revision that it replaced; 0 = the key did not exist."""


# ---- store keys ----------------------------------------------------------------------------------


def path_of(key: str) -> bytes:
    """How a key stands in store keys; "" for the root."""
    return key.encode().replace(b"/", b"\0")


def key_of(path: bytes) -> str:
    """The reverse of `path_of`."""
    return path.replace(b"\0", b"/").decode()


def subtree(family: bytes, path: bytes) -> tuple[bytes, bytes]:
    """The range [begin, end) of everything strictly below `path`, in `n` or `i`."""
    if not path:
        return family, bytes((family[0] + 1,))
    return family + path + b"\0", family + path + b"\x01"


def history_key(revision: int, sub: int) -> bytes:
    """Where an event stands."""
    return HISTORY + PLACE.pack(revision, sub)


def index_key(path: bytes, revision: int, sub: int) -> bytes:
    """Where the index of a key names that event."""
    return INDEX + path + PATH_END + PLACE.pack(revision, sub)


def place_of(store_key: bytes) -> tuple[int, int]:
    """(revision, sub) at the end of a key in `h` or `i`."""
    revision, sub = PLACE.unpack_from(store_key, len(store_key) - PLACE.size)
    return revision, sub


# ---- sealed values -------------------------------------------------------------------------------


def seal(store_key: bytes, body: bytes) -> bytes:
    """The stored value: checksum and body."""
    return xxh3_64_digest(body, xxh3_64_intdigest(store_key)) + body


def unseal(store_key: bytes, value: bytes) -> bytes:
    """The body of a stored value. Raises DataLoss when it is not what was written there."""
    body = value[CHECKSUM_BYTES:]
    if value[:CHECKSUM_BYTES] != xxh3_64_digest(body, xxh3_64_intdigest(store_key)):
        raise DataLoss(f"the checksum of {described(store_key)} does not fit: the disk lies")
    return body


def described(store_key: bytes) -> str:
    """A store key in words, for messages."""
    family, rest = store_key[:1], store_key[1:]
    if family == CURRENT:
        return f"the record of {_readable(rest)}"
    if family == HISTORY and len(rest) == PLACE.size:
        revision, sub = PLACE.unpack(rest)
        return f"event {sub} of revision {revision}"
    if family == REQUEST:
        return f"request {rest.hex()}"
    if family in (CONTENT, CHUNKS):
        return f"what is known of the large content {rest.hex()}"
    if store_key == META_KEY:
        return "the state's own record"
    return f"the store's record {store_key[:_SHOWN_BYTES_MAX]!r}"


def _readable(path: bytes) -> str:
    return path.replace(b"\0", b"/").decode(errors="replace")


# ---- current versions ----------------------------------------------------------------------------


class Version(NamedTuple):
    """The current version of a live key, without record and content."""

    kind: int
    flags: int
    sub: int
    revision: int
    created: int
    number: int
    """1 for the first version, 2 for the second, …"""
    size: int
    """Bytes of a file's content; children of a directory."""
    digest: bytes
    """Its part of the state hash."""
    record_bytes: int

    @property
    def inline(self) -> bool:
        """The content is here, not only in history."""
        return bool(self.flags & INLINE)

    @property
    def implicit(self) -> bool:
        """A directory that goes with its last child."""
        return bool(self.flags & IMPLICIT)

    @property
    def large(self) -> bool:
        """The content is a file of its own."""
        return bool(self.flags & LARGE)

    @property
    def indexed(self) -> bool:
        """Its event stands in `i`."""
        return is_indexed(self.number) or (self.kind == FILE and not self.inline)


def is_indexed(number: int) -> bool:
    """Whether a version stands in `i` whatever it holds."""
    return number % HISTORY_STEP == 0


def kind_name(kind: int) -> str:
    """ "file", "directory" or "symlink"."""
    return Kind.Name(kind).lower()


def kind_of(value: bytes) -> int:
    """The kind in a value of `n`, whether it is damaged or not."""
    return value[CHECKSUM_BYTES]


def digest_of(store_key: bytes, record: bytes) -> bytes:
    """What a live record adds to the state hash."""
    return xxh3_128_digest(store_key + record)


def pack_version(
    kind: int, flags: int, sub: int, revision: int, created: int, number: int, size: int,
    digest: bytes, record: bytes, data: bytes,
) -> bytes:  # fmt: skip
    """The body of a value in `n`. `data` = b"" unless it is inline."""
    head = _VERSION.pack(
        kind, flags, sub, revision, created, number, size, digest, len(record)
    )
    return head + record + data


def unpack_version(store_key: bytes, value: bytes) -> Version:
    """Reads the head of a value of `n`. Raises DataLoss."""
    return Version._make(_VERSION.unpack_from(unseal(store_key, value)))


def record_of(version: Version, value: bytes) -> bytes:
    """The encoded Record in a value of `n` whose head is `version`."""
    return value[_RECORD_START : _RECORD_START + version.record_bytes]


def inline_data_of(version: Version, value: bytes) -> bytes:
    """The content in a value of `n` that holds it."""
    return value[_RECORD_START + version.record_bytes :]


# ---- events --------------------------------------------------------------------------------------


class Event(NamedTuple):
    """A change as history keeps it."""

    flags: int
    previous_sub: int
    previous: int
    time_ns: int
    request_id: bytes
    """Of the request that made it; zeros = it had none."""
    path: bytes
    record: bytes
    data: bytes

    @property
    def deleted(self) -> bool:
        """The key was removed."""
        return bool(self.flags & DELETED)

    @property
    def previous_indexed(self) -> bool:
        """The event before is in `i`."""
        return bool(self.flags & PREVIOUS_INDEXED)

    @property
    def previous_large(self) -> bool:
        """The event before names a large content."""
        return bool(self.flags & PREVIOUS_LARGE)

    @property
    def large(self) -> bool:
        """It names a large content."""
        return bool(self.flags & LARGE_EVENT)

    def change(self, revision: int, sub: int) -> Change:
        """The same for the outside."""
        data = None if self.large else self.data
        return Change(
            revision, sub, self.deleted, key_of(self.path), self.record, data, self.previous
        )


def pack_event(
    flags: int, previous_sub: int, previous: int, time_ns: int, request_id: bytes, path: bytes,
    record: bytes, data: bytes,
) -> bytes:  # fmt: skip
    """The body of a value in `h`; the arguments are the fields of Event."""
    head = _EVENT.pack(
        flags, previous_sub, previous, time_ns, request_id or NO_REQUEST, len(path), len(record)
    )
    return b"".join((head, path, record, data))


def unpack_event(store_key: bytes, value: bytes) -> Event:
    """Reads a value of `h`. Raises DataLoss."""
    body = unseal(store_key, value)
    flags, previous_sub, previous, time_ns, request_id, path_length, record_length = (
        _EVENT.unpack_from(body)
    )
    path_end = _EVENT.size + path_length
    record_end = path_end + record_length
    return Event(
        flags, previous_sub, previous, time_ns, request_id, body[_EVENT.size : path_end],
        body[path_end:record_end], body[record_end:],
    )  # fmt: skip


Stored = tuple[bytes, bytes]
"""A record of `h`, key and value: a change as it is written."""


def change_of(stored: Stored) -> Change:
    """Reads it again. Raises DataLoss."""
    store_key, value = stored
    return unpack_event(store_key, value).change(*place_of(store_key))


def checked(stored: Stored) -> Stored:
    """The same, as it was read from the disk. Raises DataLoss."""
    unseal(*stored)
    return stored


def revision_of(stored: Stored) -> int:
    """The revision of a change. Neither here nor below is the checksum looked at."""
    return place_of(stored[0])[0]


def changed_key(stored: Stored) -> str:
    """The key that a change is about."""
    value = stored[1]
    path_bytes, _ = _EVENT_LENGTHS.unpack_from(value, _EVENT_LENGTHS_AT)
    return key_of(value[_EVENT_START : _EVENT_START + path_bytes])


def told_bytes(stored: Stored, data_bytes_max: int) -> int:
    """What of a change is told, with content up to so many bytes."""
    value = stored[1]
    path_bytes, record_bytes = _EVENT_LENGTHS.unpack_from(value, _EVENT_LENGTHS_AT)
    bare: int = path_bytes + record_bytes
    data_bytes = len(value) - _EVENT_START - bare
    return bare + (data_bytes if data_bytes <= data_bytes_max else 0)


# ---- requests ------------------------------------------------------------------------------------


class Done(NamedTuple):
    """What a request with an id did."""

    revision: int
    deleted: int
    fingerprint: int
    """Of what was asked, so that an id cannot be used for something else."""


def pack_done(done: Done) -> bytes:
    """The body of a value in `d`."""
    return _REQUEST.pack(*done)


def unpack_done(store_key: bytes, value: bytes) -> Done:
    """Reads a value of `d`. Raises DataLoss."""
    return Done(*_REQUEST.unpack(unseal(store_key, value)))


# ---- large contents ------------------------------------------------------------------------------


class Content(NamedTuple):
    """A large content, as the state knows it."""

    events: int
    """So many events name it."""
    size: int
    chunk_bytes: int


def pack_content(content: Content) -> bytes:
    """The body of a value in `c`."""
    return _CONTENT.pack(*content)


def unpack_content(store_key: bytes, value: bytes) -> Content:
    """Reads a value of `c`. Raises DataLoss."""
    return Content(*_CONTENT.unpack(unseal(store_key, value)))


# ---- the state's own record ----------------------------------------------------------------------


@dataclass(slots=True)
class Meta:
    """What stands in `m`: everything that is no record of a key. See Store for the attributes."""

    applied: int = 0
    floor: int = 0
    floor_time_ns: int = 0
    """Time of the first change that is retained: older requests cannot be told from new ones."""
    pruned: int = 0
    pruned_sub: int = 0
    """The event that pruning looks at next."""
    keys: int = 0
    content_bytes: int = 0
    time_ns: int = 0
    state_hash: int = 0
    chain: bytes = bytes(16)
    """Hash over all applied entries: XXH3-128 of the chain before, index u64 and payload."""
    log_id: bytes = b""
    membership: bytes = b""

    def copy(self) -> Meta:
        """Another one, to change."""
        return replace(self)

    def pack(self) -> bytes:
        """The whole value of `m`."""
        head = _META.pack(
            STORE_FORMAT, self.applied, self.floor, self.floor_time_ns, self.pruned,
            self.pruned_sub, self.keys, self.content_bytes, self.time_ns,
            self.state_hash.to_bytes(16, "little"), self.chain, len(self.log_id),
        )  # fmt: skip
        return seal(META_KEY, head + self.log_id + self.membership)


def unpack_meta(value: bytes) -> Meta:
    """Reads the value of `m`. Raises DataLoss, or UnknownEntry for another format."""
    body = unseal(META_KEY, value)
    written = int.from_bytes(body[:2], "little")
    if not STORE_FORMAT_MIN <= written <= STORE_FORMAT:
        remedy = "use the version that wrote it, or a newer one"
        if written < STORE_FORMAT_MIN:
            remedy = "it is older; use the version that wrote it, or begin with an empty directory"
        raise UnknownEntry(
            f"the state has format {written}, this version of dfs knows {STORE_FORMAT}: {remedy}"
        )
    (
        _, applied, floor, floor_time_ns, pruned, pruned_sub, keys, size, time_ns, state_hash,
        chain, length,
    ) = _META.unpack_from(body)  # fmt: skip
    end = _META.size + length
    return Meta(
        applied, floor, floor_time_ns, pruned, pruned_sub, keys, size, time_ns,
        int.from_bytes(state_hash, "little"), chain, body[_META.size : end], body[end:],
    )  # fmt: skip
