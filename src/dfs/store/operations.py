"""What each log entry does to the tree.

A refusal is a DfsError raised before anything is changed. It depends on nothing but the state and
the entry, so every member refuses alike.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, NamedTuple, NoReturn

from google.protobuf.message import DecodeError
from google.protobuf.unknown_fields import UnknownFieldSet
from xxhash import xxh3_64_intdigest

from dfs import commands
from dfs.errors import (
    Conflict,
    DataLoss,
    InvalidArgument,
    IsADirectory,
    NotADirectory,
    NotEmpty,
    NotFound,
    RequestTooOld,
    TooLarge,
)
from dfs.limits import DELETE_KEYS_MAX, VALUE_BYTES_MAX
from dfs.paths import check_key
from dfs.proto.dfs_pb2 import (
    DIRECTORY,
    FILE,
    SYMLINK,
    DeleteRequest,
    Metadata,
    PutContentRequest,
    PutRequest,
    Record,
    SymlinkRequest,
)
from dfs.proto.internal.log_pb2 import Entry
from dfs.store.batch import Batch, uuid7_ns
from dfs.store.layout import (
    CURRENT,
    IMPLICIT,
    LARGE,
    REQUEST,
    Done,
    UnknownEntry,
    Version,
    key_of,
    kind_name,
    kind_of,
    pack_done,
    subtree,
    unpack_done,
    unpack_version,
)

if TYPE_CHECKING:
    from dfs._engine import PlainPut

FILE_MODE: Final = 0o644
DIRECTORY_MODE: Final = 0o755
SYMLINK_MODE: Final = 0o777
"""What a key gets whose writer names no mode."""

_SHA256_BYTES = 32


Outcome = tuple[int, int]
"""What the answer says: the revision, and how many keys were deleted."""


class Command(NamedTuple):
    """A decoded entry."""

    run: Callable[[Batch, int, Command], Outcome]
    number: int
    """Of the operation."""
    entry: Entry
    request: Any
    """PutRequest, DeleteRequest, …, SetFloor, or the refusal."""
    path: bytes
    """Of the request's key, as in store keys."""
    needs: tuple[bytes, ...]
    """Store keys that running it surely looks at."""


def parse(payload: bytes) -> Command:
    """Decodes an entry. One that is none becomes a command that is refused. Raises UnknownEntry
    when a newer version wrote it: this node must stop."""
    try:
        if payload[:2] != commands.FORMAT_PREFIX:
            _refuse_format(payload)
        entry = _decode(payload)
        name = entry.WhichOneof("operation")
        if name is None:
            _refuse_operation(entry)
        request = getattr(entry, name)
        number, operation = _OPERATIONS[name]
        if number == commands.SET_FLOOR:
            return Command(operation, number, entry, request, b"", ())
        key = request.key
        if "\0" in key:
            check_key(key)  # It would look like another key: in paths a NUL stands for '/'.
        path = key.encode().replace(b"/", b"\0")
        request_id = request.request_id
        if not request_id:
            return Command(operation, number, entry, request, path, (CURRENT + path,))
        commands.check_request_id(request_id)
        needs = (CURRENT + path, REQUEST + request_id)
        return Command(_once, number, entry, request, path, needs)
    except InvalidArgument as refusal:
        return Command(_refused, 0, Entry(), refusal, b"", ())


def run(batch: Batch, index: int, command: Command) -> Outcome:
    """Does what the entry at `index` says. Raises the refusal, or DataLoss (this node stops)."""
    batch.tick(command.entry.time_ns)
    return command.run(batch, index, command)


def put_plain(batch: Batch, index: int, put: PlainPut, payload: bytes) -> Outcome:
    """What `run` does for a Put of nothing but key and content, which most entries are. Its key
    breaks no rule."""
    time_ns, store_key = put
    old = batch.value(store_key)
    if old is not None and kind_of(old) == DIRECTORY:
        return run(batch, index, parse(payload))
    batch.tick(time_ns)
    if old is None and (missing := _count_in_parent(batch, store_key[1:])):
        _make_directories(batch, index, parse(payload).entry, missing)
    batch.store_put(index, store_key, payload, FILE_MODE)
    return index, 0


# ---- operations ----------------------------------------------------------------------------------


def _put(batch: Batch, index: int, command: Command) -> Outcome:
    entry, request, path = command.entry, command.request, command.path
    data = request.data
    size = len(data)
    described = request.HasField("metadata")
    if described or size > VALUE_BYTES_MAX:
        commands.check_put(request)
    sha256 = entry.sha256
    if len(sha256) != _SHA256_BYTES:
        raise InvalidArgument(f"{request.key}: the log entry has no digest of the value")
    old = _leaf_before(batch, request, path)
    if old is None:
        _make_parents(batch, index, entry, path)
    mode, mtime_ns = FILE_MODE, batch.meta.time_ns
    if described:
        mode, mtime_ns = _metadata(request.metadata, mode, mtime_ns)
    batch.store_file(
        index, path, mode, mtime_ns, entry.node, entry.principal, sha256, request.request_id, data
    )
    return index, 0


def _put_content(batch: Batch, index: int, command: Command) -> Outcome:
    entry, request, path = command.entry, command.request, command.path
    commands.check_put_content(request)
    old = _leaf_before(batch, request, path)
    if old is None:
        _make_parents(batch, index, entry, path)
    mode, mtime_ns = _metadata(request.metadata, FILE_MODE, batch.meta.time_ns)
    batch.name_content(request.sha256, request.size, request.chunk_bytes, request.digests)
    record = Record(
        kind=FILE, size=request.size, sha256=request.sha256, chunk_bytes=request.chunk_bytes,
        mode=mode, mtime_ns=mtime_ns, request_id=request.request_id,
    )  # fmt: skip
    _store(batch, index, entry, path, old, record)
    return index, 0


def _symlink(batch: Batch, index: int, command: Command) -> Outcome:
    entry, request, path = command.entry, command.request, command.path
    commands.check_symlink(request)
    old = _leaf_before(batch, request, path)
    if old is None:
        _make_parents(batch, index, entry, path)
    mode, mtime_ns = _metadata(request.metadata, SYMLINK_MODE, batch.meta.time_ns)
    record = Record(
        kind=SYMLINK, target=request.target, mode=mode, mtime_ns=mtime_ns,
        request_id=request.request_id,
    )  # fmt: skip
    _store(batch, index, entry, path, old, record)
    return index, 0


def _make_dir(batch: Batch, index: int, command: Command) -> Outcome:
    entry, request, path = command.entry, command.request, command.path
    check_key(request.key)
    commands.check_make_dir(request)
    old = batch.version(path)
    mode, mtime_ns = DIRECTORY_MODE, batch.meta.time_ns
    if old is None:
        _make_parents(batch, index, entry, path)
    elif old.kind != DIRECTORY:
        raise NotADirectory(f"{request.key} is a {kind_name(old.kind)}", other=request.key)
    elif not old.implicit:
        present = Record.FromString(batch.record(path, old))
        mode, mtime_ns = present.mode, present.mtime_ns
        if _metadata(request.metadata, mode, mtime_ns) == (mode, mtime_ns):
            return old.revision, 0
    mode, mtime_ns = _metadata(request.metadata, mode, mtime_ns)
    record = Record(
        kind=DIRECTORY, mode=mode, mtime_ns=mtime_ns, request_id=request.request_id,
        children=old.size if old else 0,
    )  # fmt: skip
    _store(batch, index, entry, path, old, record)
    return index, 0


def _delete(batch: Batch, index: int, command: Command) -> Outcome:
    request, path = command.request, command.path
    key = request.key
    old = batch.version(path)
    if old is None:
        check_key(key)
        raise NotFound(f"no such key: {key}")
    if request.HasField("base_revision"):
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
    return index, len(below) + 1


def _set_floor(batch: Batch, index: int, command: Command) -> Outcome:
    meta = batch.meta
    floor = command.request.revision
    if floor > index:
        raise InvalidArgument(f"the floor cannot be {floor}: that is yet to come")
    if floor > meta.floor:
        meta.floor = floor
        meta.floor_time_ns = batch.time_at(floor)
    batch.prune()
    return meta.floor, 0


def _refused(_batch: Batch, _index: int, command: Command) -> Outcome:
    raise command.request


_OPERATIONS: Final[dict[str, tuple[int, Callable[[Batch, int, Command], Outcome]]]] = {
    "put": (commands.PUT, _put),
    "delete": (commands.DELETE, _delete),
    "make_dir": (commands.MAKE_DIR, _make_dir),
    "symlink": (commands.SYMLINK, _symlink),
    "set_floor": (commands.SET_FLOOR, _set_floor),
    "put_content": (commands.PUT_CONTENT, _put_content),
}


# ---- the tree ------------------------------------------------------------------------------------


def _leaf_before(
    batch: Batch, request: PutRequest | SymlinkRequest | PutContentRequest, path: bytes
) -> Version | None:
    """The version that a file or symlink is to replace. Refuses a directory and a conflict."""
    old = batch.version(path)
    if old is None:
        check_key(request.key)
    elif old.kind == DIRECTORY:
        raise IsADirectory(f"{request.key} is a directory", other=request.key)
    if request.HasField("base_revision"):
        _check_base(request, old)
    return old


def _check_base(
    request: PutRequest | SymlinkRequest | PutContentRequest | DeleteRequest, old: Version | None
) -> None:
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
    _make_directories(batch, index, entry, _count_in_parent(batch, path))


def _count_in_parent(batch: Batch, path: bytes) -> list[bytes]:
    """Counts a new child in the nearest directory above that is there. Returns those that are
    missing between, the lowest first. Refuses a path through something else."""
    missing: list[bytes] = []
    above, found = path, None
    while (cut := above.rfind(b"\0")) > 0:
        above = above[:cut]
        if batch.adds_children(above):
            batch.add_child(above)
            break
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
        batch.add_child(above)
    return missing


def _make_directories(batch: Batch, index: int, entry: Entry, missing: list[bytes]) -> None:
    for directory in reversed(missing):
        record = Record(
            kind=DIRECTORY, mode=DIRECTORY_MODE, mtime_ns=batch.meta.time_ns, implicit=True,
            children=1,
        )  # fmt: skip
        _store(batch, index, entry, directory, None, record)


def _store(
    batch: Batch, index: int, entry: Entry, path: bytes, old: Version | None,
    record: Record,
) -> None:  # fmt: skip
    """Makes the next version of a directory, a symlink or a file with large content."""
    record.revision = index
    record.created_revision = old.created if old else index
    record.version = old.number + 1 if old else 1
    record.node, record.principal = entry.node, entry.principal
    record.time_ns = batch.meta.time_ns
    flags = (IMPLICIT if record.implicit else 0) | (LARGE if record.chunk_bytes else 0)
    batch.store(
        index, path, old, record.kind, flags, record.size or record.children,
        record.SerializeToString(deterministic=True), record.request_id,
    )  # fmt: skip


def _metadata(metadata: Metadata, mode: int, mtime_ns: int) -> tuple[int, int]:
    """(mode, mtime) as asked for, else as given."""
    return (
        metadata.mode if metadata.HasField("mode") else mode,
        metadata.mtime_ns if metadata.HasField("mtime_ns") else mtime_ns,
    )


def _contents(batch: Batch, key: str, path: bytes, old: Version) -> str:
    first, _ = next(batch.scan(*subtree(CURRENT, path)), (b"", b""))
    if not first:
        raise DataLoss(f"the state is damaged: {key} counts {old.size} children and has none")
    return (
        f"{key} is a directory that is not empty: it holds {key_of(first[1:])}"
        f"{f' and {old.size - 1:,} more' if old.size > 1 else ''}; delete it with recursive"
    )


def _subtree(batch: Batch, key: str, path: bytes) -> list[tuple[bytes, Version]]:
    below = []
    for store_key, value in batch.scan(*subtree(CURRENT, path)):
        batch.seen[store_key] = value
        below.append((store_key[1:], unpack_version(store_key, value)))
        if len(below) == DELETE_KEYS_MAX:
            raise TooLarge(
                f"{key} and what is below it are more than the {DELETE_KEYS_MAX:,} keys"
                " (DELETE_KEYS_MAX) of one delete: delete parts of it first",
                limit="DELETE_KEYS_MAX",
            )
    return below


# ---- requests ------------------------------------------------------------------------------------


def _once(batch: Batch, index: int, command: Command) -> Outcome:
    """Runs a command whose request has an id, unless it was run before."""
    request_id = command.request.request_id
    number, operation = _OPERATIONS[command.entry.WhichOneof("operation")]
    fingerprint = _fingerprint(number, command)
    done = _done_before(batch, request_id, fingerprint)
    if done is not None:
        return done
    outcome = operation(batch, index, command)
    if outcome[0] == index:  # Else it changed nothing, and no event would take the id away.
        store_key = REQUEST + request_id
        batch.put(store_key, pack_done(Done(index, outcome[1], fingerprint)))
    return outcome


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
        return done.revision, done.deleted
    made_ns = uuid7_ns(request_id)
    if made_ns and made_ns < batch.meta.floor_time_ns:
        raise RequestTooOld(
            f"the request id {request_id.hex()} is older than the retained history, so whether it"
            " was applied can no longer be told; for a new request check the client's clock"
        )
    return None


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
