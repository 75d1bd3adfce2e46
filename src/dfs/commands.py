"""Log entries: how one is made from a request, and what it may hold.

An entry is one protobuf message `Entry` put together from three pieces without copying the request:

    head   format, node, principal, digest, tag and length of the operation   (made here)
    body   the request exactly as the caller sent it                          (the engine has it)
    stamp  0x11 and 8 bytes: the leader's time                                (the leader's engine)

The `*_head` functions are the door: they raise the DfsError that the caller sees. `check_*` are the
same rules for the state machine, which must not trust what another version let in.
"""

import hashlib
from functools import lru_cache
from typing import Final

from dfs._engine import plain_head
from dfs.contents import SHA256_BYTES, chunk_bytes_of
from dfs.errors import InvalidArgument, TooLarge
from dfs.limits import (
    INLINE_BYTES_MAX,
    MODE_MAX,
    REQUEST_ID_BYTES,
    SMALL_VALUE_BYTES_MAX,
    VALUE_BYTES_MAX,
)
from dfs.paths import check_key, check_target
from dfs.proto.dfs_pb2 import (
    DeleteRequest,
    MakeDirRequest,
    Metadata,
    PutContentRequest,
    PutRequest,
    SymlinkRequest,
)
from dfs.proto.internal.log_pb2 import Entry, SetFloor
from dfs.varint import varint

ENTRY_FORMAT: Final = 1
"""Of the entries written here. Raised when an older version must not apply what is in them."""

FORMAT_PREFIX: Final = bytes((0x08, ENTRY_FORMAT))
"""How every entry of this format starts."""

PUT: Final = 16
DELETE: Final = 17
MAKE_DIR: Final = 18
SYMLINK: Final = 19
SET_FLOOR: Final = 20
PUT_CONTENT: Final = 21
"""Field numbers of the operations in Entry."""

STAMP_TAG: Final = b"\x11"
"""Tag of Entry.time_ns."""


def plain_put_head(body: bytes, node: str, principal: str) -> bytes | None:
    """Head of a Put of nothing but content under a plain key, from the encoded request; None for
    all others, bad ones among them."""
    return plain_head(body, writer_fields(node, principal), VALUE_BYTES_MAX)


def put_head(request: PutRequest, size: int, node: str, principal: str) -> bytes:
    """Head of a Put. `size`: bytes of the body as sent, which need not be as we would encode it."""
    check_key(request.key)
    check_put(request)
    digest = hashlib.sha256(request.data).digest()
    return _head(PUT, size, node, principal, digest)


def delete_head(request: DeleteRequest, size: int, node: str, principal: str) -> bytes:
    """Head of a Delete."""
    check_key(request.key)
    check_request_id(request.request_id)
    return _head(DELETE, size, node, principal)


def make_dir_head(request: MakeDirRequest, size: int, node: str, principal: str) -> bytes:
    """Head of a MakeDir."""
    check_key(request.key)
    check_make_dir(request)
    return _head(MAKE_DIR, size, node, principal)


def symlink_head(request: SymlinkRequest, size: int, node: str, principal: str) -> bytes:
    """Head of a Symlink."""
    check_key(request.key)
    check_symlink(request)
    return _head(SYMLINK, size, node, principal)


def put_content_head(request: PutContentRequest, size: int, node: str, principal: str) -> bytes:
    """Head of a PutContent, whose content is on a majority by then."""
    check_key(request.key)
    check_put_content(request)
    if request.size <= INLINE_BYTES_MAX:
        raise InvalidArgument(
            f"{request.key}: {request.size:,} bytes are no large content; up to"
            f" {INLINE_BYTES_MAX:,} (INLINE_BYTES_MAX) they are stored by Put"
        )
    return _head(PUT_CONTENT, size, node, principal)


def floor_entry(revision: int, node: str) -> bytes:
    """A whole SetFloor entry but for its stamp: history before `revision` may go."""
    body = SetFloor(revision=revision).SerializeToString()
    return _head(SET_FLOOR, len(body), node, "") + body


def stamp(time_ns: int) -> bytes:
    """What the leader's engine appends to an entry."""
    return STAMP_TAG + time_ns.to_bytes(8, "little")


def check_put(request: PutRequest) -> None:
    """Rules of a Put besides its key."""
    size = len(request.data)
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


def check_metadata(metadata: Metadata) -> None:
    """A mode has 12 bits; every mtime that fits its field is allowed."""
    if metadata.mode > MODE_MAX:
        raise InvalidArgument(f"mode {metadata.mode:#o} has more than 12 bits")


def check_request_id(request_id: bytes) -> None:
    """A request id is absent or 16 bytes."""
    if request_id and len(request_id) != REQUEST_ID_BYTES:
        raise InvalidArgument(
            f"the request id has {len(request_id)} bytes, it must have {REQUEST_ID_BYTES}"
        )


def _head(operation: int, size: int, node: str, principal: str, sha256: bytes = b"") -> bytes:
    """By hand what encoding an Entry would give, since every put needs one."""
    digest = b"\x2a" + varint(len(sha256)) + sha256 if sha256 else b""
    return b"%b%b%b%b" % (
        writer_fields(node, principal), digest, varint(operation << 3 | 2), varint(size),
    )  # fmt: skip


@lru_cache(maxsize=1_024)
def writer_fields(node: str, principal: str) -> bytes:
    """What every entry of a writer starts with."""
    fields = Entry(format=ENTRY_FORMAT, node=node, principal=principal)
    return fields.SerializeToString(deterministic=True)
