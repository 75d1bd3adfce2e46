"""The demo's tree: what is dropped, and whether it is the same elsewhere."""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, NamedTuple

from ..cache.ignore import Ignore
from ..client import Client, Kind
from ..errors import DfsError, InvalidArgument, Misconfigured
from ..limits import VALUE_BYTES_MAX
from ..paths import check_key

NOT_FILES: Final = frozenset((".git", "__pycache__"))
"""Directories that no tree to show has."""
LEFT_BY_BUILDS: Final = frozenset((
    ".venv", "target", "demo", "data", ".build", "dist", ".hypothesis", ".mypy_cache",
    ".ruff_cache", ".pytest_cache", ".import_linter_cache",
))
MISSING_IN_A_ROW_MAX: Final = 50
"""Then a look at the mount ends: what was dropped later will hardly be there."""


class Entry(NamedTuple):
    """One file, symlink or empty directory of the tree."""

    kind: Kind
    size: int
    digest: str
    """SHA-256 of a file, target of a symlink."""
    mode: int
    mtime_ns: int


class Tree(NamedTuple):
    """What is to be dropped."""

    root: Path
    entries: dict[str, Entry]
    left_out: list[str]
    """One sentence each."""

    @property
    def files(self) -> int:
        """Count of files."""
        return sum(1 for e in self.entries.values() if e.kind is Kind.FILE)

    @property
    def bytes(self) -> int:
        """Content of all files."""
        return sum(e.size for e in self.entries.values())


def scan(root: Path, without: Path, skipped: frozenset[str]) -> Tree:
    """Everything below `root` that a cache takes, but not the directory `without` nor those with a
    name in `skipped`. Raises Misconfigured."""
    if not root.is_dir():
        raise Misconfigured(f"--tree {root} is no directory")
    ignore = Ignore()
    entries: dict[str, Entry] = {}
    left_out: list[str] = []
    for path, is_directory in _walk(root, without, skipped):
        key = path.relative_to(root).as_posix()
        try:
            if ignore.ignored(key, is_directory) or ignore.below_ignored(key):
                continue
            check_key(key)
            entry = look(path)
        except (InvalidArgument, OSError) as error:
            left_out.append(f"{path}: {error}")
            continue
        if entry is None:
            left_out.append(f"{path}: neither file, directory nor symlink")
        elif entry.size > VALUE_BYTES_MAX:
            left_out.append(f"{path}: {entry.size:,} bytes, the limit is {VALUE_BYTES_MAX:,}")
        else:
            entries[key] = entry
    if not entries:
        raise Misconfigured(f"--tree {root} has nothing to show")
    return Tree(root, entries, left_out)


def _walk(
    directory: Path, without: Path, skipped: frozenset[str]
) -> Iterator[tuple[Path, bool]]:
    """Files, symlinks and empty directories, in order."""
    for item in sorted(os.scandir(directory), key=lambda item: item.name):
        path = Path(item.path)
        if not item.is_dir(follow_symlinks=False):
            yield path, False
        elif item.name not in skipped and path != without:
            below = list(_walk(path, without, skipped))
            yield from below or [(path, True)]


def look(path: str | Path) -> Entry | None:
    """What stands at a path; None for sockets and their like."""
    # Not by pathlib: this runs for tens of thousands of files, several times.
    found = os.lstat(path)
    mode = stat.S_IMODE(found.st_mode)
    if stat.S_ISLNK(found.st_mode):
        return Entry(Kind.SYMLINK, 0, os.readlink(path), 0, 0)
    if stat.S_ISDIR(found.st_mode):
        return Entry(Kind.DIRECTORY, 0, "", 0, 0)
    if not stat.S_ISREG(found.st_mode):
        return None
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return Entry(Kind.FILE, found.st_size, digest, mode, found.st_mtime_ns)


def copy(tree: Tree, target: Path, before: Callable[[int], None]) -> None:
    """Drops the tree, file by file as a user would; `before` is told the number of each."""
    for number, (key, entry) in enumerate(tree.entries.items()):
        before(number)
        source, path = tree.root / key, target / key
        if entry.kind is Kind.DIRECTORY:
            path.mkdir(parents=True, exist_ok=True)
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(source, path, follow_symlinks=False)


def difference(wanted: Entry, found: Entry | None) -> str:
    """How what is there differs from what was dropped, in a word or two; "" if it does not."""
    if found is None:
        return "missing"
    for name, shown in (
        ("kind", "another kind"), ("size", "another size"), ("digest", "other content"),
        ("mode", "other permissions"), ("mtime_ns", "another time"),
    ):
        if getattr(wanted, name) != getattr(found, name):
            return shown
    return ""


class OnMount:
    """Finds out how much of a tree a mount shows; what was right once is not read again."""

    def __init__(self, name: str, mount: Path, tree: Tree) -> None:
        self.name, self._mount = name, mount
        self._entries = tree.entries
        self.left = dict.fromkeys(tree.entries, "missing")
        """What is not right yet, and how."""
        self.complete_s = 0.0

    def check(self) -> bool:
        """Looks at what is left; True when all of it, and nothing else, is there."""
        missing = 0
        for key in list(self.left):
            self.left[key] = self._difference(key, self._entries[key])
            if not self.left[key]:
                del self.left[key]
                missing = 0
            else:
                missing += 1
                if missing >= MISSING_IN_A_ROW_MAX:
                    break
        if self.left or self.surplus():
            return False
        self.complete_s = time.monotonic()
        return True

    def _difference(self, key: str, entry: Entry) -> str:
        path = f"{self._mount}/{key}"
        try:
            # What is not complete yet need not be read.
            if entry.kind is Kind.FILE and os.lstat(path).st_size != entry.size:
                return "another size"
            return difference(entry, look(path))
        except OSError:
            return "missing"

    def surplus(self) -> list[str]:
        """What the mount shows and the tree has not."""
        try:
            shown = [p.relative_to(self._mount).as_posix() for p, _ in self._everything()]
        except OSError as error:
            return [str(error)]
        return [key for key in shown if key not in self._entries]

    def _everything(self) -> Iterator[tuple[Path, bool]]:
        for directory, names, files in os.walk(self._mount):
            for name in files:
                yield Path(directory) / name, False
            for name in names:
                path = Path(directory) / name
                if path.is_symlink():
                    yield path, False
                elif not os.listdir(path):
                    yield path, True


class OnNode:
    """The same by the API of a node, for machines without mounts."""

    def __init__(self, name: str, client: Client, tree: Tree) -> None:
        self.name, self._client = name, client
        self._entries = tree.entries
        self.left = dict.fromkeys(tree.entries, "missing")
        """What is not right yet, and how."""
        self.complete_s = 0.0

    def check(self) -> bool:
        """Lists what the node has applied; True when that is the tree, content included."""
        shown: dict[str, Entry] = {}
        try:
            for item in self._client.list(
                recursive=True, data_bytes_max=VALUE_BYTES_MAX, local=True
            ):
                if item.stat.is_directory and item.stat.children:
                    continue
                shown[item.key] = self._entry(item.key, item.stat.kind, item.stat.target,
                                              item.data, item.stat.mode, item.stat.mtime_ns)
        except DfsError:
            return False
        self.left = {
            key: how for key, entry in self._entries.items()
            if (how := difference(entry, shown.get(key)))
        }
        if self.left or len(shown) != len(self._entries):
            return False
        self.complete_s = time.monotonic()
        return True

    def _entry(
        self, key: str, kind: Kind, target: str, data: bytes | None, mode: int, mtime_ns: int
    ) -> Entry:
        if kind is not Kind.FILE:
            return Entry(kind, 0, target, 0, 0)
        content = self._client.get(key, local=True) if data is None else data
        digest = hashlib.sha256(content).hexdigest()
        return Entry(kind, len(content), digest, mode, mtime_ns)
