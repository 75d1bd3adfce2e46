"""A backup becomes the data directory of a new cluster of one node.

The cluster and the node get new ids, so nobody of the old cluster can talk to it, whatever the
addresses. Content, history and request ids are those of the backup; revisions go on behind it.
"""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Iterator, Sequence
from contextlib import suppress
from errno import ENOSPC
from pathlib import Path
from typing import NamedTuple

from .._engine import founding
from ..contents import DIRECTORY, Files
from ..durable import sync_directory
from ..errors import DfsError, Misconfigured, OutOfSpace
from ..identity import FILE as IDENTITY
from ..identity import STORE, Identity, new_id
from ..kv import Record, RocksKV
from ..limits import DISK_FREE_BYTES_MIN
from ..store import Store, backup
from ..store.layout import META_KEY, unpack_meta
from .gather import Lacking, gather


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
    lacking: Lacking
    """Large contents that it names and does not have."""


def restore(
    file: Path, directory: Path, founder: Founder, ahead: int = 0, sources: Sequence[Path] = (),
    told: backup.Told = backup.silent,
) -> Founded:  # fmt: skip
    """Makes `directory` of a backup; a crash leaves it without an identity, and no node starts from
    it then.

    `ahead`: revisions go on so much higher, beyond all that clients of the old cluster have seen.
    `sources`: data directories and other backups that have large contents which this one lacks.
    Raises Misconfigured (the directory is not empty, or refuses the identity), DataLoss (a backup
    is damaged), OutOfSpace, OSError; nothing is left behind then.
    """
    existed = directory.exists()
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    if found := sorted(os.listdir(directory)):
        raise Misconfigured(
            f"{directory} is not empty (it has {', '.join(found[:3])}): a backup is restored into"
            " an empty directory, choose another with -data"
        )
    try:
        _check_space(file, directory)
        return _fill(file, directory, founder, ahead, sources, told)
    except BaseException as error:
        _undo(directory, existed)
        if isinstance(error, OSError) and error.errno == ENOSPC and not isinstance(error, DfsError):
            raise OutOfSpace(
                f"the disk of {directory} is full, so nothing was restored there: make room, or"
                " choose another with -data"
            ) from None
        raise


def _undo(directory: Path, existed: bool) -> None:
    """Takes away what was made, the identity and its temporary file first: a node would start from
    it. Whatever hinders that does not hide why the restore failed."""
    with suppress(OSError):
        for path in directory.glob(f"{IDENTITY}*"):
            path.unlink()
        for name in (STORE, DIRECTORY):
            shutil.rmtree(directory / name, ignore_errors=True)
        if not existed:
            directory.rmdir()


def _check_space(file: Path, directory: Path) -> None:
    """Restored it takes about as much as the backup does."""
    size, found = file.stat().st_size, os.statvfs(directory)
    free = found.f_bavail * found.f_frsize
    if free < size + DISK_FREE_BYTES_MIN:
        raise OutOfSpace(
            f"{directory} has {free >> 20:,} MiB left, which is too little for the backup's"
            f" {size >> 20:,} MiB and {DISK_FREE_BYTES_MIN >> 20:,} MiB that stay free"
            " (DISK_FREE_BYTES_MIN): make room there, or choose another with -data",
            limit="DISK_FREE_BYTES_MIN",
        )


def _fill(
    file: Path, directory: Path, founder: Founder, ahead: int, sources: Sequence[Path],
    told: backup.Told,
) -> Founded:  # fmt: skip
    number = new_id()
    cluster = uuid.uuid4().bytes
    with backup.opened(file, told) as saved:
        revision = saved.head.revision + ahead
        begin = founding(revision, number, founder.name, founder.raft, founder.grpc)
        kv, files = RocksKV(directory / STORE), Files(directory / DIRECTORY)
        try:
            kv.replace(_founded(saved.records(), revision, *begin))
            files.open()
            for manifest, chunks in saved.contents():
                files.fill(manifest, chunks)
            with Store(kv).view() as view:
                lacking = gather(view, files, sources)
        finally:
            kv.close()
    sync_directory(directory)
    Identity(directory, founder.name, number, cluster).save()
    sync_directory(directory.parent)
    return Founded(saved.head, cluster.hex(), number, revision, lacking)


def _founded(
    records: Iterator[Record], revision: int, log_id: bytes, membership: bytes
) -> Iterator[Record]:
    """The records of a backup as the new cluster has them."""
    for key, value in records:
        if key == META_KEY:
            meta = unpack_meta(value)
            meta.applied, meta.log_id, meta.membership = revision, log_id, membership
            value = meta.pack()
        yield key, value
