"""Large contents that a state names: taken from wherever they are into a data directory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from ..contents import DIRECTORY, Files, fits, path_in
from ..manifest import Manifest
from ..store import View, backup

KEYS_NAMED_MAX = 10
"""Of contents that are lacking; the contents are counted."""


class Lacking(NamedTuple):
    """Large contents that a state names and that are nowhere."""

    contents: int
    bytes: int
    keys: list[str]
    """Some of those that name them."""


def gather(view: View, files: Files, sources: Sequence[Path]) -> Lacking:
    """Takes what is not there yet from data directories and backups, one after the other: verified,
    and on disk when it returns. Nothing in them is changed. Raises DataLoss (a backup is damaged,
    or a file is none), OSError."""
    for source in sources:
        if next(_lacking(view, files), None) is None:
            break
        if not source.is_dir():
            _from_backup(source, view, files)
            continue
        for manifest in _lacking(view, files):
            _from_directory(source, manifest, files)
    lacking = {manifest.sha256: manifest.size for manifest in _lacking(view, files)}
    keys = view.naming(set(lacking), KEYS_NAMED_MAX) if lacking else []
    return Lacking(len(lacking), sum(lacking.values()), keys)


def _lacking(view: View, files: Files) -> Iterator[Manifest]:
    for sha256, _ in view.contents():
        if sha256 not in files and (manifest := view.manifest(sha256)):
            yield manifest


def _from_directory(directory: Path, manifest: Manifest, files: Files) -> None:
    """The same file, where that is possible, else a copy."""
    source = path_in(directory / DIRECTORY, manifest.sha256)
    if not _whole(source, manifest):
        return
    try:
        (files.arriving / source.name).hardlink_to(source)
    except OSError:  # another disk, or no links of it
        files.fill(manifest, _chunks(source, manifest))
    else:
        files.complete(manifest)


def _whole(source: Path, manifest: Manifest) -> bool:
    try:
        return fits(source, manifest)
    except OSError:  # it is not there, or cannot be read: others may have it
        return False


def _chunks(source: Path, manifest: Manifest) -> Iterator[tuple[int, bytes]]:
    with source.open("rb") as file:
        for number in range(manifest.chunks):
            if not manifest.empty(number):
                file.seek(number * manifest.chunk_bytes)
                yield number, file.read(manifest.length(number))


def _from_backup(path: Path, view: View, files: Files) -> None:
    with backup.opened(path) as saved:
        for _ in saved.records():
            pass
        for manifest, chunks in saved.contents():
            if manifest.sha256 not in files and view.manifest(manifest.sha256) == manifest:
                files.fill(manifest, chunks)
