"""What a node's watch tells a mount's tree, for tests without a node."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

from dfs._engine import Tree
from dfs.proto import dfs_pb2 as pb

if TYPE_CHECKING:  # It brings gRPC along, which takes long to import.
    from dfs.cache.ports import Upsert


def digest_of(path: str, version: int) -> bytes:
    """Stands for the SHA-256 of what this version of a file holds; no other has it."""
    return hashlib.sha256(f"{path} {version}".encode()).digest()


def show(
    tree: Tree, upserts: Sequence[Upsert], deletes: Sequence[str] = (),
    left: set[bytes] | None = None,
) -> dict[str, str]:
    """Changes a tree as the agent does, deletes first. An upsert without a backing is of a file
    that is not here. Adds to `left` the contents that nobody can open any more. Returns why paths
    cannot be shown."""
    events = [pb.Event(type=pb.Event.DELETE, key=path, revision=1) for path in deletes]
    events += [pb.Event(key=upsert[0], record=_record(upsert), revision=1) for upsert in upserts]
    answer = pb.WatchResponse(events=events).SerializeToString()
    places = [
        (digest_of(path, version), place)
        for path, kind, *_, version, place in upserts if kind == pb.FILE and place is not None
    ]
    _, gone, refused = tree.show([(answer, 0)], places, False)
    if left is not None:
        left.update(gone)
    return dict(refused)


def _record(upsert: Upsert) -> pb.Record:
    path, kind, size, mode, mtime_ns, uid, gid, version, place = upsert
    return pb.Record(
        kind=kind, revision=version, size=size, mode=mode, mtime_ns=mtime_ns, uid=uid, gid=gid,
        sha256=digest_of(path, version) if kind == pb.FILE else b"",
        target=place or "" if kind == pb.SYMLINK else "",
    )  # fmt: skip
