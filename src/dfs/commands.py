"""Log entries: how one is made from a request, and what it may hold.

An entry is one protobuf message `Entry` put together from three pieces without copying the request:

    head   format, node, principal, digest, tag and length of the operation   (made here)
    body   the request exactly as the caller sent it                          (the engine has it)
    stamp  0x11 and 8 bytes: the leader's time                                (the leader's engine)

The `*_head` functions are the door: they raise the DfsError that the caller sees. `check_*` are the
same rules for the state machine, which must not trust what another version let in.
"""

import hashlib
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Final

from dfs._engine import count_operations, plain_head, put_digests
from dfs.errors import DfsError, InvalidArgument, TooLarge
from dfs.limits import (
    INLINE_BYTES_MAX,
    MODE_MAX,
    OWNER_MAX,
    PUT_MANY_OPERATIONS_MAX,
    REQUEST_ID_BYTES,
    SMALL_VALUE_BYTES_MAX,
    TRANSACTION_BYTES_MAX,
    TRANSACTION_OPERATIONS_MAX,
    VALUE_BYTES_MAX,
    XATTR_BYTES_MAX,
    XATTR_NAME_BYTES_MAX,
)
from dfs.manifest import SHA256_BYTES, chunk_bytes_of
from dfs.paths import check_key, check_target, is_below
from dfs.proto.dfs_pb2 import (
    CopyRequest,
    DeleteRequest,
    MakeDirRequest,
    Metadata,
    MoveRequest,
    Operation,
    PutContentRequest,
    PutRequest,
    SymlinkRequest,
    TransactionRequest,
    Xattr,
)
from dfs.proto.internal.log_pb2 import Entry, SetFloor
from dfs.varint import varint

ENTRY_FORMAT: Final = 3
"""The newest that is known here. Raised when an older version must not apply what is in an entry;
each entry has the oldest that says what is in it: 1; 2 with an owner or extended attributes; 3
where a directory loses them."""

FORMAT_PREFIX: Final = bytes((0x08, 1))
"""How an entry starts that every version knows."""
FORMAT_PREFIXES: Final = frozenset(bytes((0x08, 1 + n)) for n in range(ENTRY_FORMAT))
"""How entries start that this version knows."""

PUT: Final = 16
DELETE: Final = 17
MAKE_DIR: Final = 18
SYMLINK: Final = 19
SET_FLOOR: Final = 20
PUT_CONTENT: Final = 21
MOVE: Final = 22
COPY: Final = 23
TRANSACTION: Final = 24
"""Field numbers of the operations in Entry."""

XATTR_PREFIX: Final = "user."
"""Of the only attributes that programs may set freely, and so of those that are kept."""

STAMP_TAG: Final = b"\x11"
"""Tag of Entry.time_ns."""


def plain_put_head(body: bytes, node: str, principal: str) -> bytes | None:
    """Head of a Put of nothing but content under a plain key, from the encoded request; None for
    all others, bad ones among them."""
    return plain_head(body, writer_fields(node, principal), VALUE_BYTES_MAX)


def put_head(request: PutRequest, size: int, node: str, principal: str) -> bytes:
    """Head of a Put. `size`: bytes of the body as sent, which need not be as we would encode it."""
    check_key(request.key)
    data = request.data
    check_put(request, len(data))
    digest = hashlib.sha256(data).digest()
    return _head(PUT, size, node, principal, digest, format_of(request.metadata))


def delete_head(request: DeleteRequest, size: int, node: str, principal: str) -> bytes:
    """Head of a Delete."""
    check_key(request.key)
    check_request_id(request.request_id)
    return _head(DELETE, size, node, principal)


def make_dir_head(request: MakeDirRequest, size: int, node: str, principal: str) -> bytes:
    """Head of a MakeDir."""
    check_key(request.key)
    check_make_dir(request)
    return _head(MAKE_DIR, size, node, principal, entry_format=format_of(request.metadata))


def symlink_head(request: SymlinkRequest, size: int, node: str, principal: str) -> bytes:
    """Head of a Symlink."""
    check_key(request.key)
    check_symlink(request)
    return _head(SYMLINK, size, node, principal, entry_format=format_of(request.metadata))


def move_head(request: MoveRequest, size: int, node: str, principal: str) -> bytes:
    """Head of a Move."""
    check_move(request)
    return _head(MOVE, size, node, principal)


def copy_head(request: CopyRequest, size: int, node: str, principal: str) -> bytes:
    """Head of a Copy."""
    check_move(request)
    return _head(COPY, size, node, principal)


def transaction_head(
    request: TransactionRequest, size: int, node: str, principal: str
) -> bytes:
    """Head of a Transaction of so many bytes, whose contents are on a majority by then."""
    check_operations(request, size)
    puts = (o.put for o in request.operations if o.WhichOneof("operation") == "put")
    digests = b"".join(hashlib.sha256(put.data).digest() for put in puts)
    loses = any(operation.make_dir.metadata.no_xattrs for operation in request.operations)
    return _head(TRANSACTION, size, node, principal, digests, 3 if loses else 1)


def regular_transaction_head(body: bytes, node: str, principal: str) -> bytes | None:
    """Head of a Transaction of nothing but regular puts, as most are, from the encoded request;
    None for all others, bad ones among them."""
    if len(body) > TRANSACTION_BYTES_MAX:
        return None
    digests = put_digests(body, VALUE_BYTES_MAX, MODE_MAX, OWNER_MAX)
    if digests is None or len(digests) > TRANSACTION_OPERATIONS_MAX * SHA256_BYTES:
        return None
    return _head(TRANSACTION, len(body), node, principal, digests)


def check_few(body: bytes) -> None:
    """A PutMany has not too many operations. Decodes none of them."""
    if count_operations(body, PUT_MANY_OPERATIONS_MAX + 1) > PUT_MANY_OPERATIONS_MAX:
        raise TooLarge(
            f"more than {PUT_MANY_OPERATIONS_MAX:,} puts are asked for at once"
            " (PUT_MANY_OPERATIONS_MAX): make a Transaction of them, or several",
            limit="PUT_MANY_OPERATIONS_MAX",
        )


def check_puts(request: TransactionRequest) -> None:
    """A PutMany has puts alone."""
    for number, operation in enumerate(request.operations):
        name = operation.WhichOneof("operation")
        if name not in ("put", None):
            refusal = InvalidArgument("PutMany has only puts, a Transaction has all")
            raise refused_in(name, getattr(operation, name), number, refusal)


def check_operations(request: TransactionRequest, size: int) -> None:
    """Rules of a Transaction of so many bytes and of each of its operations."""
    if size > TRANSACTION_BYTES_MAX:
        raise TooLarge(
            f"the transaction has {size:,} bytes, the limit is {TRANSACTION_BYTES_MAX:,}"
            " (TRANSACTION_BYTES_MAX): make several of it",
            limit="TRANSACTION_BYTES_MAX",
        )
    check_transaction(request)
    for number, operation in enumerate(request.operations):
        try:
            _check_operation(operation)
        except DfsError as refusal:
            name = operation.WhichOneof("operation")
            raise refused_in(name, getattr(operation, name), number, refusal) from None


def _check_operation(operation: Operation) -> None:
    name = operation.WhichOneof("operation")
    request = getattr(operation, name)
    if name in ("move", "copy"):
        check_move(request)
        return
    check_key(request.key)
    if name == "put":
        check_put(request, len(request.data))
    elif name == "put_content":
        check_put_content(request)
    elif name == "make_dir":
        check_make_dir(request)
    elif name == "symlink":
        check_symlink(request)


def put_content_head(request: PutContentRequest, size: int, node: str, principal: str) -> bytes:
    """Head of a PutContent, whose content is on a majority by then."""
    check_key(request.key)
    check_put_content(request)
    if request.size <= INLINE_BYTES_MAX:
        raise InvalidArgument(
            f"{request.key}: {request.size:,} bytes are no large content; up to"
            f" {INLINE_BYTES_MAX:,} (INLINE_BYTES_MAX) they are stored by Put"
        )
    return _head(PUT_CONTENT, size, node, principal, entry_format=format_of(request.metadata))


def floor_entry(revision: int, node: str) -> bytes:
    """A whole SetFloor entry but for its stamp: history before `revision` may go."""
    body = SetFloor(revision=revision).SerializeToString()
    return _head(SET_FLOOR, len(body), node, "") + body


def stamp(time_ns: int) -> bytes:
    """What the leader's engine appends to an entry."""
    return STAMP_TAG + time_ns.to_bytes(8, "little")


def check_put(request: PutRequest, size: int) -> None:
    """Rules of a Put of so many bytes of content besides its key."""
    if size > VALUE_BYTES_MAX:
        raise TooLarge(
            f"{request.key}: the value has {size:,} bytes,"
            f" the limit is {VALUE_BYTES_MAX:,} (VALUE_BYTES_MAX)",
            limit="VALUE_BYTES_MAX",
        )
    check_request_id(request.request_id)
    if request.HasField("metadata"):
        check_metadata(request.metadata)


def check_put_content(request: PutContentRequest) -> None:
    """Rules of a PutContent besides its key."""
    key, size, chunk_bytes = request.key, request.size, request.chunk_bytes
    if len(request.sha256) != SHA256_BYTES:
        raise InvalidArgument(f"{key}: the SHA-256 of the content has {SHA256_BYTES} bytes")
    if size <= SMALL_VALUE_BYTES_MAX or chunk_bytes != chunk_bytes_of(size):
        raise InvalidArgument(f"{key}: {size} bytes are not cut into chunks of {chunk_bytes}")
    chunks = -(-size // chunk_bytes)
    if len(request.digests) != chunks * SHA256_BYTES:
        raise InvalidArgument(
            f"{key}: {chunks} chunks have {chunks * SHA256_BYTES} bytes of digests, not"
            f" {len(request.digests)}"
        )
    check_request_id(request.request_id)
    check_metadata(request.metadata)


def check_make_dir(request: MakeDirRequest) -> None:
    """Rules of a MakeDir besides its key."""
    check_request_id(request.request_id)
    check_metadata(request.metadata)


def check_symlink(request: SymlinkRequest) -> None:
    """Rules of a Symlink besides its key."""
    check_target(request.target)
    check_request_id(request.request_id)
    check_metadata(request.metadata)


def check_move(request: MoveRequest | CopyRequest) -> None:
    """Rules of a Move or a Copy, its keys included."""
    source, target = request.source, request.target
    check_key(source)
    check_key(target)
    check_request_id(request.request_id)
    if target == source:
        raise InvalidArgument(f"{source} cannot be its own target: name another key")
    if is_below(target, source):
        raise InvalidArgument(f"{source} cannot go below itself, to {target}: name another target")


def check_transaction(request: TransactionRequest) -> None:
    """Rules of a Transaction besides those that each operation has by itself."""
    check_request_id(request.request_id)
    count = len(request.operations)
    if not count:
        raise InvalidArgument("the transaction has no operation")
    if count > TRANSACTION_OPERATIONS_MAX:
        raise TooLarge(
            f"the transaction has {count:,} operations, the limit is"
            f" {TRANSACTION_OPERATIONS_MAX:,} (TRANSACTION_OPERATIONS_MAX): make several of it",
            limit="TRANSACTION_OPERATIONS_MAX",
        )
    for number, operation in enumerate(request.operations):
        name = operation.WhichOneof("operation")
        if name is None:
            raise InvalidArgument(f"operation {number} of the transaction is none")
        if getattr(operation, name).request_id:
            raise InvalidArgument(
                f"operation {number} of the transaction has a request id: the transaction has one"
            )


def refused_in(name: str, request: Any, number: int, refusal: DfsError) -> DfsError:
    """Why a whole transaction is refused: because of one operation of it. `name`: of its field in
    Operation, `request`: what that holds."""
    key = request.source if name in ("move", "copy") else request.key
    said = "put" if name == "put_content" else name
    return type(refusal)(
        f"nothing was changed, as operation {number} of the transaction, {said} {key}, is refused:"
        f" {refusal.text}",
        **{"key": key, **refusal.metadata, "operation": str(number)},
    )


def check_metadata(metadata: Metadata) -> None:
    """A mode has 12 bits, an owner is a number that names one; every mtime that fits its field is
    allowed."""
    if metadata.mode > MODE_MAX:
        raise InvalidArgument(f"mode {metadata.mode:#o} has more than 12 bits")
    for name, number in (("uid", metadata.uid), ("gid", metadata.gid)):
        if number > OWNER_MAX:
            raise InvalidArgument(f"{name} {number} is nobody's: to name none, leave it out")
    if metadata.xattrs:
        if metadata.no_xattrs:
            raise InvalidArgument("extended attributes are named, and said to be none")
        _check_xattrs(metadata.xattrs)


def _check_xattrs(xattrs: Sequence[Xattr]) -> None:
    """Extended attributes stand in one order, so that equal ones are equal bytes on all members."""
    last, size = b"", 0
    for xattr in xattrs:
        name = xattr.name.encode()
        size += len(name) + len(xattr.value)
        if not xattr.name.startswith(XATTR_PREFIX) or xattr.name == XATTR_PREFIX:
            raise InvalidArgument(f"extended attribute {xattr.name!r} does not begin with 'user.'")
        if len(name) > XATTR_NAME_BYTES_MAX or b"\0" in name:
            raise InvalidArgument(
                f"the name of extended attribute {xattr.name[:40]!r}… holds a NUL or has more than"
                f" {XATTR_NAME_BYTES_MAX} bytes"
            )
        if name <= last:
            raise InvalidArgument(
                f"extended attribute {xattr.name!r} is there twice, or not in the order of names"
            )
        last = name
    if size > XATTR_BYTES_MAX:
        raise TooLarge(
            f"the extended attributes have {size:,} bytes, names and values, the limit is"
            f" {XATTR_BYTES_MAX:,} (XATTR_BYTES_MAX)",
            limit="XATTR_BYTES_MAX",
        )


def format_of(metadata: Metadata) -> int:
    """Of an entry with that metadata."""
    if metadata.no_xattrs:
        return 3
    named = metadata.HasField("uid") or metadata.HasField("gid") or metadata.xattrs
    return 2 if named else 1


def check_request_id(request_id: bytes) -> None:
    """A request id is absent or 16 bytes."""
    if request_id and len(request_id) != REQUEST_ID_BYTES:
        raise InvalidArgument(
            f"the request id has {len(request_id)} bytes, it must have {REQUEST_ID_BYTES}"
        )


def _head(
    operation: int, size: int, node: str, principal: str, sha256: bytes = b"",
    entry_format: int = 1,
) -> bytes:  # fmt: skip
    """By hand what encoding an Entry would give, since every put needs one."""
    digest = b"\x2a" + varint(len(sha256)) + sha256 if sha256 else b""
    writer = writer_fields(node, principal, entry_format)
    return b"%b%b%b%b" % (writer, digest, varint(operation << 3 | 2), varint(size))


@lru_cache(maxsize=1_024)
def writer_fields(node: str, principal: str, entry_format: int = 1) -> bytes:
    """What every entry of a writer starts with."""
    fields = Entry(format=entry_format, node=node, principal=principal)
    return fields.SerializeToString(deterministic=True)
