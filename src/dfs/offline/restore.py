"""A backup becomes the data directory of a new cluster of one node.

The cluster and the node get new ids, so nobody of the old cluster can talk to it, whatever the
addresses. Content, history and request ids are those of the backup; revisions go on behind it.
"""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from .._engine import founding
from ..durable import sync_directory
from ..errors import Misconfigured
from ..identity import STORE, Identity, new_id
from ..kv import Record, RocksKV
from ..store import backup
from ..store.layout import CONTENT, META_KEY, unpack_content, unpack_meta


class Founder(NamedTuple):
    """The only member of the new cluster."""

    name: str
    raft: str
    """Peer address, as others reach it."""
    grpc: str


class Founded(NamedTuple):
    """What was made."""

    head: backup.Head
    """What the backup said of itself."""
    cluster: str
    """UUID of the new cluster, in hex."""
    id: int
    revision: int
    """Of the last change in the new cluster."""
    contents: int
    """Large contents that it names, which no backup holds: files of a data directory."""
    contents_bytes: int


def restore(file: Path, directory: Path, founder: Founder, ahead: int = 0) -> Founded:
    """Makes `directory` of a backup; a crash leaves it without an identity, and no node starts from
    it then.

    `ahead`: revisions go on so much higher, beyond all that clients of the old cluster have seen.
    Raises Misconfigured (the directory is not empty), DataLoss (the backup is damaged; nothing is
    left behind), OSError.
    """
    existed = directory.exists()
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    if found := sorted(os.listdir(directory)):
        raise Misconfigured(
            f"{directory} is not empty (it has {', '.join(found[:3])}): a backup is restored into"
            " an empty directory, choose another with -data"
        )
    try:
        return _fill(file, directory, founder, ahead)
    except BaseException:
        shutil.rmtree(directory / STORE, ignore_errors=True)
        if not existed:
            directory.rmdir()
        raise


def _fill(file: Path, directory: Path, founder: Founder, ahead: int) -> Founded:
    number = new_id()
    cluster = uuid.uuid4().bytes
    with backup.opened(file) as (head, records):
        revision = head.revision + ahead
        begin = founding(revision, number, founder.name, founder.raft, founder.grpc)
        kv = RocksKV(directory / STORE)
        sizes: list[int] = []
        try:
            kv.replace(_founded(records, revision, *begin, sizes))
        finally:
            kv.close()
    Identity(directory, founder.name, number, cluster).save()
    sync_directory(directory.parent)
    return Founded(head, cluster.hex(), number, revision, len(sizes), sum(sizes))


def _founded(
    records: Iterator[Record], revision: int, log_id: bytes, membership: bytes, sizes: list[int]
) -> Iterator[Record]:
    """The records of a backup as the new cluster has them; `sizes` gets those of large contents."""
    for key, value in records:
        if key[:1] == CONTENT:
            sizes.append(unpack_content(key, value).size)
        if key == META_KEY:
            meta = unpack_meta(value)
            meta.applied, meta.log_id, meta.membership = revision, log_id, membership
            value = meta.pack()
        yield key, value
