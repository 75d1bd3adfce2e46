"""dfs put --atomic: a directory of this machine as one revision of the tree."""

from __future__ import annotations

import argparse
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from ..client import Client, Transaction
from ..errors import Misconfigured, NotFound
from ..paths import is_below
from . import output, shared, transfers


def publish(args: argparse.Namespace) -> int:
    """Makes `key` what the directory is, at once; the revision."""
    top = Path(args.file)
    if not top.is_dir():
        raise Misconfigured(
            f"{args.file} is no directory: --atomic publishes one, dfs put --atomic KEY DIRECTORY"
        )
    key = args.key.rstrip("/")
    found = dict(_walk(top, key))
    files = [status for _, status in found.values() if stat.S_ISREG(status.st_mode)]
    size = sum(status.st_size for status in files)
    try:
        with (
            shared.client(args) as client, transfers.line(key, size) as line,
            client.transaction(progress=line.show) as changes,
        ):  # fmt: skip
            if args.delete:
                for gone in _strangers(client, key, found):
                    changes.delete(gone, recursive=True)
            _put_all(changes, found, args.preserve)
    except OSError as error:
        if error.filename is None:  # not of a file here
            raise
        raise _unreadable(error.filename, error) from None
    output.note(
        f"{output.files(len(files))}, {output.size(size)}, at {key} since revision"
        f" {changes.revision:,}"
    )
    return changes.revision


Found = dict[str, tuple[Path, os.stat_result]]


def _walk(path: Path, key: str) -> Iterator[tuple[str, tuple[Path, os.stat_result]]]:
    """Everything in a directory, itself first, in order; links are not followed."""
    try:
        yield key, (path, path.lstat())
        for name in sorted(os.listdir(path)):
            below = path / name
            if below.is_dir() and not below.is_symlink():
                yield from _walk(below, f"{key}/{name}")
            else:
                yield f"{key}/{name}", (below, below.lstat())
    except OSError as error:
        raise _unreadable(path, error) from None


def _strangers(client: Client, key: str, found: Found) -> Iterator[str]:
    """The topmost keys that are not in the directory, or are of a kind that nothing replaces."""
    last = ""
    try:
        for item in client.list(key, recursive=True):
            if last and is_below(item.key, last):
                continue
            here = found.get(item.key)
            is_directory = here is not None and stat.S_ISDIR(here[1].st_mode)
            if here is None or is_directory != item.stat.is_directory:
                last = item.key
                yield last
    except NotFound:
        return


def _put_all(changes: Transaction, found: Found, preserve: bool) -> None:
    filled = {key.rpartition("/")[0] for key in found}
    for key, (path, status) in found.items():
        mode = stat.S_IMODE(status.st_mode) if preserve else None
        mtime_ns = status.st_mtime_ns if preserve else None
        if stat.S_ISDIR(status.st_mode):
            if key not in filled:
                changes.mkdir(key, mode=mode, mtime_ns=mtime_ns)
        elif stat.S_ISLNK(status.st_mode):
            changes.symlink(key, str(path.readlink()), mtime_ns=mtime_ns)
        elif stat.S_ISREG(status.st_mode):
            changes.put(key, path, mode=mode, mtime_ns=mtime_ns)
        else:
            raise Misconfigured(
                f"{path} is neither a file, a directory nor a symlink: move it away first;"
                " nothing was stored"
            )


def _unreadable(path: object, error: OSError) -> Misconfigured:
    return Misconfigured(f"{path} cannot be read: {error.strerror}; nothing was stored")
