"""What all operations share: who stands above and below a key, and the refusals about that."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Union

from dfs.errors import Conflict, DataLoss, IsADirectory, NotADirectory, TooLarge
from dfs.paths import check_key
from dfs.proto.dfs_pb2 import (
    DIRECTORY,
    FILE,
    Metadata,
    PutContentRequest,
    PutRequest,
    Record,
    SymlinkRequest,
)
from dfs.proto.internal.log_pb2 import Entry
from dfs.store.batch import Batch
from dfs.store.layout import (
    CURRENT,
    IMPLICIT,
    LARGE,
    Version,
    key_of,
    kind_name,
    subtree,
    unpack_version,
)

if TYPE_CHECKING:
    from dfs._engine import PartPut

DIRECTORY_MODE: Final = 0o755
FILE_MODE: Final = 0o644
SYMLINK_MODE: Final = 0o777
"""What a key gets whose writer names no mode."""

Outcome = tuple[int, int]
"""What the answer says: the revision, and how many keys were deleted, moved or copied."""


class Command(NamedTuple):
    """A decoded entry."""

    run: Callable[[Batch, int, Command], Outcome]
    number: int
    """Of the operation."""
    entry: Entry
    request: Any
    """PutRequest, DeleteRequest, …, SetFloor, or the refusal."""
    path: bytes
    """Of the request's key, as in store keys; of the source where there is one."""
    needs: tuple[bytes, ...]
    """Store keys that running it surely looks at."""
    sha256: bytes = b""
    """Of the content of a Put, as the entry has it."""
    parts: tuple[Part, ...] = ()
    """Of a transaction."""
    payload: bytes = b""
    """The entry that holds those parts that are not decoded."""


Part = Union[Command, "PartPut"]
"""One operation of a transaction; PartPut: a regular put, as it stands in the entry."""


def base_of(request: PutRequest | PutContentRequest | SymlinkRequest) -> int | None:
    """The revision that the key must have, if the request says so."""
    return request.base_revision if request.HasField("base_revision") else None


def leaf_before(batch: Batch, key: str, path: bytes, base: int | None) -> Version | None:
    """The version that a file or symlink is to replace. Refuses a directory and a conflict."""
    old = batch.version(path)
    if old is None:
        check_key(key)
    elif old.kind == DIRECTORY:
        raise IsADirectory(
            f"{key} is a directory: name a key in it, or delete it first", other=key
        )
    if base is not None:
        check_base(key, base, old)
    return old


def check_base(key: str, expected: int, old: Version | None) -> None:
    """Refuses a key that is not at the revision that its writer expects; 0 = it must not exist."""
    found = old.revision if old else 0
    if expected == found:
        return
    wanted = f"expected revision {expected}" if expected else "expected it not to exist"
    present = f"it is at revision {found}" if found else "it does not exist"
    raise Conflict(
        f"{key}: {wanted}, but {present}",
        key=key, expected=str(expected), revision=str(found),
    )  # fmt: skip


def make_parents(batch: Batch, index: int, entry: Entry, path: bytes) -> None:
    """Counts a new child in its parent; makes the directories above it that are missing."""
    make_directories(batch, index, entry, count_in_parent(batch, path))


def count_in_parent(batch: Batch, path: bytes) -> list[bytes]:
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


def make_directories(batch: Batch, index: int, entry: Entry, missing: list[bytes]) -> None:
    """Makes directories that go with their content; the lowest is the first of `missing`."""
    for directory in reversed(missing):
        record = Record(
            kind=DIRECTORY, mode=DIRECTORY_MODE, mtime_ns=batch.meta.time_ns, implicit=True,
            children=1,
        )  # fmt: skip
        store(batch, index, entry, directory, None, record)


def store(
    batch: Batch, index: int, entry: Entry, path: bytes, old: Version | None, record: Record
) -> None:
    """Makes the next version of a key. For a file whose content stands in the log there is
    `Batch.store_file`."""
    record.revision = index
    record.created_revision = old.created if old else index
    record.version = old.number + 1 if old else 1
    record.node, record.principal = entry.node, entry.principal
    record.time_ns = batch.meta.time_ns
    flags, size = IMPLICIT if record.implicit else 0, record.children
    if record.kind == FILE:
        flags, size = LARGE, record.size
    batch.store(
        index, path, old, record.kind, flags, size,
        record.SerializeToString(deterministic=True), record.request_id, b"",
    )  # fmt: skip


def describe(record: Record, metadata: Metadata, mode: int, mtime_ns: int) -> None:
    """Makes a record say what its writer asks for: mode and mtime else as given, the rest else as
    it is."""
    record.mode = metadata.mode if metadata.HasField("mode") else mode
    record.mtime_ns = metadata.mtime_ns if metadata.HasField("mtime_ns") else mtime_ns
    own(record, metadata)


def own(record: Record, metadata: Metadata) -> None:
    """Makes a record say what its writer names of owner and extended attributes."""
    if metadata.HasField("uid"):
        record.uid = metadata.uid
    if metadata.HasField("gid"):
        record.gid = metadata.gid
    if metadata.xattrs or metadata.no_xattrs:
        del record.xattrs[:]
        record.xattrs.extend(metadata.xattrs)


def contents(batch: Batch, key: str, path: bytes, old: Version, instead: str) -> str:
    """Why a directory that has content is refused; `instead`: what to do."""
    first, _ = next(batch.scan(*subtree(CURRENT, path)), (b"", b""))
    if not first:
        raise DataLoss(f"the state is damaged: {key} counts {old.size} children and has none")
    return (
        f"{key} is a directory that is not empty: it holds {key_of(first[1:])}"
        f"{f' and {old.size - 1:,} more' if old.size > 1 else ''}; {instead}"
    )


def keys_below(
    batch: Batch, key: str, path: bytes, keys_max: int, too_many: str
) -> list[tuple[bytes, Version]]:
    """What is below a directory, in order. `too_many`: what the refusal of more than `keys_max`
    says behind their number."""
    below = []
    for store_key, value in batch.scan(*subtree(CURRENT, path)):
        batch.seen[store_key] = value
        below.append((store_key[1:], unpack_version(store_key, value)))
        if len(below) == keys_max:
            raise TooLarge(
                f"{key} and what is below it are more than the {keys_max:,} keys {too_many}",
                limit=too_many[1 : too_many.index(")")],
            )
    return below
