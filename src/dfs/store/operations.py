"""What each log entry does to the tree.

A refusal is a DfsError raised before anything is changed. It depends on nothing but the state and
the entry, so every member refuses alike.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, NamedTuple, NoReturn

from google.protobuf.message import DecodeError
from google.protobuf.unknown_fields import UnknownFieldSet
from xxhash import xxh3_64_intdigest

from dfs import commands
from dfs.errors import (
    Conflict,
    FailedPrecondition,
    InvalidArgument,
    IsADirectory,
    NotADirectory,
    NotEmpty,
    NotFound,
    TooLarge,
)
from dfs.limits import DELETE_KEYS_MAX, SMALL_VALUE_BYTES_MAX
from dfs.paths import check_key
from dfs.proto.dfs_pb2 import (
    DIRECTORY,
    FILE,
    SYMLINK,
    DeleteRequest,
    Metadata,
    PutRequest,
    Record,
    SymlinkRequest,
)
from dfs.proto.internal.log_pb2 import Entry, SetFloor
from dfs.store.batch import Batch
from dfs.store.encode import file_record, writer_fields
from dfs.store.layout import (
    CURRENT,
    REQUEST,
    Done,
    UnknownEntry,
    Version,
    key_of,
    kind_name,
    pack_done,
    path_of,
    subtree,
    unpack_done,
    unpack_version,
)

FILE_MODE: Final = 0o644
DIRECTORY_MODE: Final = 0o755
SYMLINK_MODE: Final = 0o777
"""What a key gets whose writer names no mode."""

_SHA256_BYTES = 32
_TIME_NS_MAX = (1 << 63) - 1
_NS_PER_MS = 1_000_000


class Command(NamedTuple):
    """A decoded entry."""

    name: str
    """Of the operation."""
    entry: Entry
    request: Any
    """PutRequest, DeleteRequest, MakeDirRequest, SymlinkRequest or SetFloor."""
    path: bytes
    """Of the request's key, as in store keys."""


class Outcome(NamedTuple):
    """What the answer says."""

    revision: int
    deleted: int = 0


def parse(payload: bytes) -> Command:
    """Decodes an entry. Raises UnknownEntry when a newer version wrote it (this node must stop),
    InvalidArgument when it is none at all."""
    if payload[:2] != commands.FORMAT_PREFIX:
        _refuse_format(payload)
    entry = _decode(payload)
    name = entry.WhichOneof("operation")
    if name is None:
        _refuse_operation(entry)
    request = getattr(entry, name)
    if name == "set_floor":
        return Command(name, entry, request, b"")
    key = request.key
    if "\0" in key:
        check_key(key)  # It would look like another key: in paths a NUL stands for '/'.
    return Command(name, entry, request, path_of(key))


def reads(command: Command) -> list[bytes]:
    """Store keys that running it surely looks at."""
    if command.name == "set_floor":
        return []
    if command.request.request_id:
        return [CURRENT + command.path, REQUEST + command.request.request_id]
    return [CURRENT + command.path]


def run(batch: Batch, index: int, command: Command) -> Outcome:
    """Does what the entry at `index` says. Raises the refusal, or DataLoss (this node stops)."""
    meta = batch.meta
    meta.time_ns = min(max(meta.time_ns + 1, command.entry.time_ns), _TIME_NS_MAX)
    if command.name == "set_floor":
        return _set_floor(batch, index, command.request)
    number, operation = _OPERATIONS[command.name]
    request_id = command.request.request_id
    if not request_id:
        return operation(batch, index, command)
    commands.check_request_id(request_id)
    fingerprint = _fingerprint(number, command)
    done = _done_before(batch, request_id, fingerprint)
    if done is not None:
        return done
    outcome = operation(batch, index, command)
    if outcome.revision == index:  # Else it changed nothing, and no event would take the id away.
        store_key = REQUEST + request_id
        batch.put(store_key, pack_done(Done(index, outcome.deleted, fingerprint)))
    return outcome


# ---- operations ----------------------------------------------------------------------------------


def _put(batch: Batch, index: int, command: Command) -> Outcome:
    _, entry, request, path = command
    commands.check_put(request)
    sha256 = entry.sha256
    if len(sha256) != _SHA256_BYTES:
        raise InvalidArgument(f"{request.key}: the log entry has no digest of the value")
    old = _leaf_before(batch, request, path)
    if old is None:
        _make_parents(batch, index, entry, path)
        created, count = index, 1
    else:
        created, count = old.created, old.number + 1
    time_ns = batch.meta.time_ns
    mode, mtime_ns = FILE_MODE, time_ns
    if request.HasField("metadata"):
        mode, mtime_ns = _metadata(request.metadata, mode, mtime_ns)
    data = request.data
    size = len(data)
    record = file_record(
        index, created, count, size, sha256, mode, mtime_ns,
        writer_fields(entry.node, entry.principal), time_ns, request.request_id,
    )  # fmt: skip
    inline = size <= SMALL_VALUE_BYTES_MAX
    new = Version(FILE, False, inline, batch.sub, index, created, count, size, record, data)
    batch.store(path, old, new, request.request_id)
    return Outcome(index)


def _symlink(batch: Batch, index: int, command: Command) -> Outcome:
    _, entry, request, path = command
    commands.check_symlink(request)
    old = _leaf_before(batch, request, path)
    if old is None:
        _make_parents(batch, index, entry, path)
    mode, mtime_ns = _metadata(request.metadata, SYMLINK_MODE, batch.meta.time_ns)
    record = Record(
        kind=SYMLINK, target=request.target, mode=mode, mtime_ns=mtime_ns,
        request_id=request.request_id,
    )  # fmt: skip
    batch.store(path, old, _version(batch, index, entry, old, record), request.request_id)
    return Outcome(index)


def _make_dir(batch: Batch, index: int, command: Command) -> Outcome:
    _, entry, request, path = command
    check_key(request.key)
    commands.check_make_dir(request)
    old = batch.version(path)
    mode, mtime_ns = DIRECTORY_MODE, batch.meta.time_ns
    if old is None:
        _make_parents(batch, index, entry, path)
    elif old.kind != DIRECTORY:
        raise NotADirectory(f"{request.key} is a {kind_name(old.kind)}", other=request.key)
    elif not old.implicit:
        present = Record.FromString(old.record)
        mode, mtime_ns = present.mode, present.mtime_ns
        if _metadata(request.metadata, mode, mtime_ns) == (mode, mtime_ns):
            return Outcome(old.revision)
    mode, mtime_ns = _metadata(request.metadata, mode, mtime_ns)
    record = Record(
        kind=DIRECTORY, mode=mode, mtime_ns=mtime_ns, request_id=request.request_id,
        children=old.size if old else 0,
    )  # fmt: skip
    batch.store(path, old, _version(batch, index, entry, old, record), request.request_id)
    return Outcome(index)


def _delete(batch: Batch, index: int, command: Command) -> Outcome:
    _, _, request, path = command
    key = request.key
    old = batch.version(path)
    if old is None:
        check_key(key)
        raise NotFound(f"no such key: {key}")
    _check_base(request, old)
    below: list[tuple[bytes, Version]] = []
    if old.kind == DIRECTORY and old.size:
        if not request.recursive:
            raise NotEmpty(_contents(batch, key, path, old), key=key)
        below = _subtree(batch, key, path)
    for child_path, child in reversed(below):
        batch.drop(index, child_path, child, b"")
    batch.drop(index, path, old, request.request_id)
    batch.lose_child(index, path)
    return Outcome(index, len(below) + 1)


def _set_floor(batch: Batch, index: int, request: SetFloor) -> Outcome:
    meta = batch.meta
    if request.revision > index:
        raise InvalidArgument(f"the floor cannot be {request.revision}: that is yet to come")
    if request.revision > meta.floor:
        meta.floor = request.revision
        meta.floor_time_ns = batch.time_at(request.revision)
    batch.prune()
    return Outcome(meta.floor)


Operation = Callable[[Batch, int, Command], Outcome]
_OPERATIONS: Final[dict[str, tuple[int, Operation]]] = {
    "put": (commands.PUT, _put),
    "delete": (commands.DELETE, _delete),
    "make_dir": (commands.MAKE_DIR, _make_dir),
    "symlink": (commands.SYMLINK, _symlink),
}


# ---- the tree ------------------------------------------------------------------------------------


def _leaf_before(
    batch: Batch, request: PutRequest | SymlinkRequest, path: bytes
) -> Version | None:
    """The version that a file or symlink is to replace. Refuses a directory and a conflict."""
    old = batch.version(path)
    if old is None:
        check_key(request.key)
    elif old.kind == DIRECTORY:
        raise IsADirectory(f"{request.key} is a directory", other=request.key)
    _check_base(request, old)
    return old


def _check_base(request: PutRequest | SymlinkRequest | DeleteRequest, old: Version | None) -> None:
    if not request.HasField("base_revision"):
        return
    expected, found = request.base_revision, old.revision if old else 0
    if expected == found:
        return
    wanted = f"expected revision {expected}" if expected else "expected it not to exist"
    present = f"it is at revision {found}" if found else "it does not exist"
    raise Conflict(
        f"{request.key}: {wanted}, but {present}",
        key=request.key, expected=str(expected), revision=str(found),
    )  # fmt: skip


def _make_parents(batch: Batch, index: int, entry: Entry, path: bytes) -> None:
    """Counts a new child in its parent; makes the directories above it that are missing."""
    missing: list[bytes] = []
    above, found = path, None
    while (cut := above.rfind(b"\0")) > 0:
        above = above[:cut]
        found = batch.version(above)
        if found is not None:
            break
        missing.append(above)
    if found is not None:
        if found.kind != DIRECTORY:
            other = key_of(above)
            raise NotADirectory(
                f"{other} is a {kind_name(found.kind)}: nothing can be below it", other=other
            )
        batch.count_child(above, found, 1)
    for directory in reversed(missing):
        record = Record(
            kind=DIRECTORY, mode=DIRECTORY_MODE, mtime_ns=batch.meta.time_ns, implicit=True,
            children=1,
        )  # fmt: skip
        batch.store(directory, None, _version(batch, index, entry, None, record), b"")


def _version(
    batch: Batch, index: int, entry: Entry, old: Version | None, record: Record
) -> Version:
    """The next version of a directory or symlink."""
    record.revision = index
    record.created_revision = old.created if old else index
    record.version = old.number + 1 if old else 1
    record.node, record.principal = entry.node, entry.principal
    record.time_ns = batch.meta.time_ns
    return Version(
        record.kind, record.implicit, True, batch.sub, index, record.created_revision,
        record.version, record.children, record.SerializeToString(deterministic=True), b"",
    )  # fmt: skip


def _metadata(metadata: Metadata, mode: int, mtime_ns: int) -> tuple[int, int]:
    """(mode, mtime) as asked for, else as given."""
    return (
        metadata.mode if metadata.HasField("mode") else mode,
        metadata.mtime_ns if metadata.HasField("mtime_ns") else mtime_ns,
    )


def _contents(batch: Batch, key: str, path: bytes, old: Version) -> str:
    first = next(batch.scan(*subtree(CURRENT, path)))[0][1:]
    return (
        f"{key} is a directory that is not empty: it holds {key_of(first)}"
        f"{f' and {old.size - 1:,} more' if old.size > 1 else ''}; delete it with recursive"
    )


def _subtree(batch: Batch, key: str, path: bytes) -> list[tuple[bytes, Version]]:
    below = []
    for store_key, value in batch.scan(*subtree(CURRENT, path)):
        below.append((store_key[1:], unpack_version(store_key, value)))
        if len(below) == DELETE_KEYS_MAX:
            raise TooLarge(
                f"{key} and what is below it are more than the {DELETE_KEYS_MAX:,} keys"
                " (DELETE_KEYS_MAX) of one delete: delete parts of it first"
            )
    return below


# ---- requests ------------------------------------------------------------------------------------


def _fingerprint(number: int, command: Command) -> int:
    """Of what is asked: the operation, the key and the content."""
    request = command.request
    content = request.target.encode() if number == commands.SYMLINK else command.entry.sha256
    return xxh3_64_intdigest(b"%d\0%b\0\0%b" % (number, command.path, content))


def _done_before(batch: Batch, request_id: bytes, fingerprint: int) -> Outcome | None:
    """What the request did if it was applied before."""
    store_key = REQUEST + request_id
    value = batch.value(store_key)
    if value is not None:
        done = unpack_done(store_key, value)
        if done.fingerprint != fingerprint:
            raise InvalidArgument(
                f"the request id {request_id.hex()} was used for another request"
                f" (revision {done.revision}): ids must be unique"
            )
        return Outcome(done.revision, done.deleted)
    made_ns = _uuid7_ns(request_id)
    if made_ns and made_ns < batch.meta.floor_time_ns:
        raise FailedPrecondition(
            f"the request id {request_id.hex()} is older than the retained history, so whether it"
            " was applied can no longer be told; for a new request check the client's clock"
        )
    return None


def _uuid7_ns(request_id: bytes) -> int:
    """The end of the millisecond in which a UUID of version 7 was made; 0 for another id."""
    if request_id[6] >> 4 != 7 or request_id[8] >> 6 != 2:
        return 0
    return (int.from_bytes(request_id[:6]) + 1) * _NS_PER_MS


# ---- entries of other versions -------------------------------------------------------------------


def _decode(payload: bytes) -> Entry:
    try:
        return Entry.FromString(payload)
    except DecodeError:
        raise InvalidArgument("the log entry does not decode") from None


def _refuse_format(payload: bytes) -> NoReturn:
    """For a payload that does not start as the entries of this version do."""
    number = _decode(payload).format
    if number > commands.ENTRY_FORMAT:
        raise UnknownEntry(
            f"a log entry has format {number}, this version of dfs knows {commands.ENTRY_FORMAT}:"
            " update this node to the version of the others"
        )
    raise InvalidArgument(f"the log entry has format {number}, which never was")


def _refuse_operation(entry: Entry) -> NoReturn:
    unknown = UnknownFieldSet(entry)
    if len(unknown):
        raise UnknownEntry(
            f"a log entry holds operation {unknown[0].field_number}, which this version of dfs does"
            " not know: update this node to the version of the others"
        )
    raise InvalidArgument("the log entry holds no operation")
