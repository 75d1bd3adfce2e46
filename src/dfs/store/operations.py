"""What each log entry does to the tree.

A refusal is a DfsError raised before anything is changed. It depends on nothing but the state and
the entry, so every member refuses alike.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Final, NoReturn

from google.protobuf.message import DecodeError
from google.protobuf.unknown_fields import UnknownFieldSet
from xxhash import xxh3_64_intdigest

from dfs import commands
from dfs._engine import split_transaction
from dfs.errors import (
    InvalidArgument,
    NotADirectory,
    NotEmpty,
    NotFound,
    RequestTooOld,
    TooLarge,
)
from dfs.limits import (
    DELETE_KEYS_MAX,
    MODE_MAX,
    OWNER_MAX,
    TRANSACTION_OPERATIONS_MAX,
    VALUE_BYTES_MAX,
)
from dfs.paths import check_key
from dfs.proto.dfs_pb2 import DIRECTORY, FILE, SYMLINK, Operation, Record, TransactionRequest
from dfs.proto.internal.log_pb2 import Entry
from dfs.store.batch import Batch, uuid7_ns
from dfs.store.layout import (
    CURRENT,
    REQUEST,
    Done,
    UnknownEntry,
    Version,
    kind_name,
    kind_of,
    pack_done,
    path_of,
    unpack_done,
)
from dfs.store.moving import copy, move
from dfs.store.transaction import transaction
from dfs.store.tree import (
    DIRECTORY_MODE,
    FILE_MODE,
    SYMLINK_MODE,
    Command,
    Outcome,
    Part,
    base_of,
    check_base,
    contents,
    count_in_parent,
    describe,
    keys_below,
    leaf_before,
    make_directories,
    make_parents,
    own,
    store,
)

if TYPE_CHECKING:
    from dfs._engine import PlainPut

_SHA256_BYTES = 32

Operate = Callable[[Batch, int, Command], Outcome]
"""Does at an index what a command says."""


def read(payload: bytes) -> Command:
    """Decodes an entry that is to be applied. As `parse`, but in a transaction the regular puts,
    which most are, stay as they stand in the entry."""
    return _split(payload) or parse(payload)


def parse(payload: bytes) -> Command:
    """Decodes an entry. One that is none becomes a command that is refused. Raises UnknownEntry
    when a newer version wrote it: this node must stop."""
    try:
        if payload[:2] not in commands.FORMAT_PREFIXES:
            _refuse_format(payload)
        entry = _decode(payload)
        name = entry.WhichOneof("operation")
        if name is None:
            _refuse_operation(entry, "a log entry")
        command = _command(name, entry, getattr(entry, name), entry.sha256)
        if command.number == commands.SET_FLOOR:
            return command
        commands.check_request_id(command.request.request_id)
        return _identified(command)
    except (InvalidArgument, TooLarge) as refusal:
        return Command(_refused, 0, Entry(), refusal, b"", ())


def _identified(command: Command) -> Command:
    """The command, which is not done twice if its request has an id."""
    request_id = command.request.request_id
    if not request_id:
        return command
    return command._replace(
        run=partial(_once, command.run), needs=(*command.needs, REQUEST + request_id)
    )


def _command(name: str, entry: Entry, request: Any, sha256: bytes) -> Command:
    """Of one operation, without regard to its request id. `sha256`: of the content of a Put."""
    number, operation = _OPERATIONS[name]
    if number == commands.SET_FLOOR:
        return Command(operation, number, entry, request, b"", ())
    if number == commands.TRANSACTION:
        return _transaction(entry, request, _parts(entry, request))
    key = request.source if number in (commands.MOVE, commands.COPY) else request.key
    if "\0" in key:
        check_key(key)  # It would look like another key: in paths a NUL stands for '/'.
    path = path_of(key)
    return Command(operation, number, entry, request, path, (CURRENT + path,), sha256)


def _transaction(
    entry: Entry, request: TransactionRequest, parts: Sequence[Part], payload: bytes = b""
) -> Command:
    needs: list[bytes] = []
    for part in parts:
        needs += part.needs if isinstance(part, Command) else part[:1]
    number, operation = _OPERATIONS["transaction"]
    return Command(
        operation, number, entry, request, b"", tuple(needs), b"", tuple(parts), payload
    )


def _split(payload: bytes) -> Command | None:
    """A transaction whose regular puts are not decoded; None if `parse` has to judge it."""
    if payload[:2] not in commands.FORMAT_PREFIXES:
        return None
    found = split_transaction(payload, VALUE_BYTES_MAX, MODE_MAX, OWNER_MAX)
    if found is None or len(found[-1]) > TRANSACTION_OPERATIONS_MAX:
        return None
    time_ns, node, principal, request_id, operations = found
    entry = Entry(time_ns=time_ns, node=node, principal=principal)
    parts: list[Part] = []
    try:
        for operation in operations:
            if len(operation) != 2:
                parts.append(operation)
                continue
            encoded, sha256 = operation
            decoded = Operation.FromString(encoded)
            name = decoded.WhichOneof("operation") or ""
            request = getattr(decoded, name)
            if request.request_id:
                return None
            request.request_id = request_id
            parts.append(_command(name, entry, request, sha256))
    except (DecodeError, InvalidArgument):
        return None
    request = TransactionRequest(request_id=request_id)
    return _identified(_transaction(entry, request, parts, payload))


def _parts(entry: Entry, request: TransactionRequest) -> tuple[Command, ...]:
    """The operations of a transaction, each as an entry of its own would be decoded, with the
    request id of the whole."""
    for operation in request.operations:
        if operation.WhichOneof("operation") is None:
            _refuse_operation(operation, "a transaction in a log entry")
    commands.check_transaction(request)
    parts, begin, digests = [], 0, entry.sha256
    for number, operation in enumerate(request.operations):
        name = operation.WhichOneof("operation") or ""
        part, sha256 = getattr(operation, name), b""
        part.request_id = request.request_id
        if name == "put":
            begin, sha256 = begin + _SHA256_BYTES, digests[begin : begin + _SHA256_BYTES]
        try:
            parts.append(_command(name, entry, part, sha256))
        except InvalidArgument as refusal:
            raise commands.refused_in(name, part, number, refusal) from None
    return tuple(parts)


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
    if old is None and (missing := count_in_parent(batch, store_key[1:])):
        make_directories(batch, index, parse(payload).entry, missing)
    batch.store_put(index, store_key, payload, FILE_MODE)
    return index, 0


# ---- operations ----------------------------------------------------------------------------------


def _put(batch: Batch, index: int, command: Command) -> Outcome:
    entry, request, path = command.entry, command.request, command.path
    data = request.data
    described = request.HasField("metadata")
    if described or len(data) > VALUE_BYTES_MAX:
        commands.check_put(request, len(data))
    if len(command.sha256) != _SHA256_BYTES:
        raise InvalidArgument(f"{request.key}: the log entry has no digest of the value")
    old = leaf_before(batch, request.key, path, base_of(request))
    if old is None:
        make_parents(batch, index, entry, path)
    mode, mtime_ns, tail = FILE_MODE, batch.meta.time_ns, b""
    if described:
        metadata, owned = request.metadata, Record()
        mode = metadata.mode if metadata.HasField("mode") else mode
        mtime_ns = metadata.mtime_ns if metadata.HasField("mtime_ns") else mtime_ns
        own(owned, metadata)
        tail = owned.SerializeToString(deterministic=True)
    batch.store_file(
        index, path, mode, mtime_ns, entry.node, entry.principal, command.sha256,
        request.request_id, tail, data,
    )  # fmt: skip
    return index, 0


def _put_content(batch: Batch, index: int, command: Command) -> Outcome:
    entry, request, path = command.entry, command.request, command.path
    commands.check_put_content(request)
    old = leaf_before(batch, request.key, path, base_of(request))
    if old is None:
        make_parents(batch, index, entry, path)
    batch.name_content(request.sha256, request.size, request.chunk_bytes, request.digests)
    record = Record(
        kind=FILE, size=request.size, sha256=request.sha256, chunk_bytes=request.chunk_bytes,
        request_id=request.request_id,
    )  # fmt: skip
    describe(record, request.metadata, FILE_MODE, batch.meta.time_ns)
    store(batch, index, entry, path, old, record)
    return index, 0


def _symlink(batch: Batch, index: int, command: Command) -> Outcome:
    entry, request, path = command.entry, command.request, command.path
    commands.check_symlink(request)
    old = leaf_before(batch, request.key, path, base_of(request))
    if old is None:
        make_parents(batch, index, entry, path)
    record = Record(kind=SYMLINK, target=request.target, request_id=request.request_id)
    describe(record, request.metadata, SYMLINK_MODE, batch.meta.time_ns)
    store(batch, index, entry, path, old, record)
    return index, 0


def _make_dir(batch: Batch, index: int, command: Command) -> Outcome:
    entry, request, path = command.entry, command.request, command.path
    check_key(request.key)
    commands.check_make_dir(request)
    old = batch.version(path)
    record = Record(kind=DIRECTORY, children=old.size if old else 0)
    mode, mtime_ns, present = DIRECTORY_MODE, batch.meta.time_ns, None
    if old is None:
        make_parents(batch, index, entry, path)
    elif old.kind != DIRECTORY:
        raise NotADirectory(f"{request.key} is a {kind_name(old.kind)}", other=request.key)
    elif not old.implicit:
        present = Record.FromString(batch.record(path, old))
        record.CopyFrom(present)
        mode, mtime_ns = present.mode, present.mtime_ns
    describe(record, request.metadata, mode, mtime_ns)
    if record == present:
        return present.revision, 0
    record.request_id = request.request_id
    store(batch, index, entry, path, old, record)
    return index, 0


def _delete(batch: Batch, index: int, command: Command) -> Outcome:
    request, path = command.request, command.path
    key = request.key
    old = batch.version(path)
    if old is None:
        check_key(key)
        raise NotFound(f"no such key: {key}")
    if request.HasField("base_revision"):
        check_base(key, request.base_revision, old)
    below: list[tuple[bytes, Version]] = []
    if old.kind == DIRECTORY and old.size:
        if not request.recursive:
            raise NotEmpty(
                contents(batch, key, path, old, "delete it with recursive"), key=key
            )
        below = keys_below(
            batch, key, path, DELETE_KEYS_MAX,
            "(DELETE_KEYS_MAX) of one delete: delete parts of it first",
        )  # fmt: skip
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


_OPERATIONS: Final[dict[str, tuple[int, Operate]]] = {
    "put": (commands.PUT, _put),
    "delete": (commands.DELETE, _delete),
    "make_dir": (commands.MAKE_DIR, _make_dir),
    "symlink": (commands.SYMLINK, _symlink),
    "set_floor": (commands.SET_FLOOR, _set_floor),
    "put_content": (commands.PUT_CONTENT, _put_content),
    "move": (commands.MOVE, move),
    "copy": (commands.COPY, copy),
    "transaction": (commands.TRANSACTION, transaction),
}


# ---- requests ------------------------------------------------------------------------------------


def _once(operation: Operate, batch: Batch, index: int, command: Command) -> Outcome:
    """Does what a request with an id asks for, unless it was done before."""
    request_id = command.request.request_id
    fingerprint = _fingerprint(command)
    done = _done_before(batch, request_id, fingerprint)
    if done is not None:
        return done
    outcome = operation(batch, index, command)
    if outcome[0] == index:  # Else it changed nothing, and no event would take the id away.
        store_key = REQUEST + request_id
        batch.put(store_key, pack_done(Done(index, outcome[1], fingerprint)))
    return outcome


def _fingerprint(part: Part) -> int:
    """Of what is asked: the operation, the key and the content, or the other key."""
    if not isinstance(part, Command):
        store_key, _, _, content, _, _ = part
        return xxh3_64_intdigest(b"%d\0%b\0\0%b" % (commands.PUT, store_key[1:], content))
    number, request = part.number, part.request
    if part.parts:
        each = (_fingerprint(one).to_bytes(8, "little") for one in part.parts)
        return xxh3_64_intdigest(b"%d\0%b" % (number, b"".join(each)))
    named = number in (commands.SYMLINK, commands.MOVE, commands.COPY)
    content = request.target.encode() if named else part.sha256
    if number == commands.PUT_CONTENT:
        content = request.sha256
    return xxh3_64_intdigest(b"%d\0%b\0\0%b" % (number, part.path, content))


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


def _refuse_operation(holder: Entry | Operation, what: str) -> NoReturn:
    unknown = UnknownFieldSet(holder)
    if len(unknown):
        raise UnknownEntry(
            f"{what} holds operation {unknown[0].field_number}, which this version of dfs does not"
            " know: update this node to the version of the others"
        )
    raise InvalidArgument(f"{what} holds no operation")
