"""Move and Copy: a key, with all that is below it, under another key.

What is at the source now becomes the next version of the target; no content comes from outside. All
that may be refused is checked before the first change. The new keys are made before the old ones
go, so that whoever takes the changes one by one never finds neither.
"""

from __future__ import annotations

from typing import Any

from dfs import commands
from dfs.errors import (
    Conflict,
    InvalidArgument,
    IsADirectory,
    NotADirectory,
    NotEmpty,
    NotFound,
    TooLarge,
)
from dfs.limits import (
    COPY_BYTES_MAX,
    COPY_KEYS_MAX,
    ENTRY_RECORD_BYTES_MAX,
    KEY_BYTES_MAX,
)
from dfs.proto.dfs_pb2 import DIRECTORY
from dfs.store.batch import Batch, stored_bytes
from dfs.store.layout import Version, key_of, kind_name, path_of
from dfs.store.tree import Command, Outcome, check_base, contents, keys_below, make_parents

Found = list[tuple[bytes, Version]]
"""A key and all that is below it: paths and versions, in order."""


def move(batch: Batch, index: int, command: Command) -> Outcome:
    """Makes the target of the source, which goes."""
    request, source = command.request, command.path
    found = _source(batch, request, source, recursive=True)
    _make_target(batch, index, command, found)
    for path, version in reversed(found):
        batch.drop(index, path, version, b"")
    batch.lose_child(index, source)
    return index, len(found)


def copy(batch: Batch, index: int, command: Command) -> Outcome:
    """Makes the target of the source, which stays."""
    request = command.request
    found = _source(batch, request, command.path, recursive=request.recursive)
    _make_target(batch, index, command, found)
    return index, len(found)


def _source(batch: Batch, request: Any, path: bytes, recursive: bool) -> Found:
    """What is to be moved or copied. Refuses what is not there, or not as expected, or too much."""
    commands.check_move(request)
    key = request.source
    version = batch.version(path)
    if version is None:
        raise NotFound(f"no such key: {key}")
    if request.HasField("base_revision"):
        check_base(key, request.base_revision, version)
    found = [(path, version)]
    if version.kind == DIRECTORY and version.size:
        if not recursive:
            instead = "copy it with recursive"
            raise NotEmpty(contents(batch, key, path, version, instead), key=key)
        found += keys_below(
            batch, key, path, COPY_KEYS_MAX,
            "(COPY_KEYS_MAX) of one move or copy: take parts of it, one after the other",
        )  # fmt: skip
    _check_size(request, found)
    return found


def _check_size(request: Any, found: Found) -> None:
    """Refuses more than one entry may do, and keys that would become too long."""
    longer = len(request.target.encode()) - len(request.source.encode())
    content = records = 0
    for path, version in found:
        if len(path) + longer > KEY_BYTES_MAX:
            raise InvalidArgument(
                f"below {request.target} the key of {key_of(path)} would have"
                f" {len(path) + longer:,} bytes, the limit is {KEY_BYTES_MAX:,}"
            )
        content += stored_bytes(version)
        records += 2 * (len(path) + version.record_bytes) + max(longer, 0)
    for size, limit, name, what in (
        (content, COPY_BYTES_MAX, "COPY_BYTES_MAX", "content"),
        (records, ENTRY_RECORD_BYTES_MAX, "ENTRY_RECORD_BYTES_MAX", "names and metadata"),
    ):
        if size > limit:
            raise TooLarge(
                f"{request.source} has {size:,} bytes of {what}, one move or copy takes"
                f" {limit:,} ({name}): take parts of it, one after the other",
                limit=name,
            )


def _make_target(batch: Batch, index: int, command: Command, found: Found) -> None:
    """Makes the target and all below it. Refuses one that is in the way, or has no place."""
    request, source, entry = command.request, command.path, command.entry
    target = path_of(request.target)
    old = batch.version(target)
    if old is None:
        make_parents(batch, index, entry, target)
    else:
        _check_replaced(request, found[0][1], old)
    request_id = request.request_id
    for path, version in found:
        batch.copy_version(
            index, path, version, target + path[len(source) :], old, entry, request_id
        )
        old, request_id = None, b""  # Below a key that was not there nothing was.


def _check_replaced(request: Any, version: Version, old: Version) -> None:
    """Refuses to replace anything but a file or symlink by one, and that too unless it is asked
    for."""
    source, target = request.source, request.target
    if old.kind == DIRECTORY:
        raise IsADirectory(
            f"{target} is a directory, and nothing takes its place: name a key in it", other=target
        )
    if version.kind == DIRECTORY:
        raise NotADirectory(
            f"{target} is a {kind_name(old.kind)}: the directory {source} cannot take its place",
            other=target,
        )
    if not request.replace:
        raise Conflict(
            f"{target}: expected it not to exist, but it is at revision {old.revision}; to put"
            f" {source} in its place, say that it may be replaced",
            key=target, expected="0", revision=str(old.revision),
        )  # fmt: skip
