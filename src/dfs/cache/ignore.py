"""Which names in a cache directory are no drops: temporary files of editors and transfers.

A file `.dfsignore` at the top of the cache directory overrides the built-in list. Its lines are
read like those of a .gitignore: `#` comments, `!pattern` takes a file back in, a trailing `/` means
directories only, a pattern with a `/` in it counts from the top, `*` and `?` stop at a `/`, `**`
does not. The last line that fits decides; what is below an ignored directory is ignored.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from typing import Final, NamedTuple

from ..limits import IGNORE_BYTES_MAX
from .take import open_beneath

FILE: Final = ".dfsignore"
"""Belongs to this cache directory alone: it is not stored in the tree."""
MARKER: Final = ".dfs-propagate"
"""Where it is, removals may become deletions. Not stored either."""
RESERVED: Final = ".dfs"

BUILT_IN: Final = (
    "*.swp", "*.swx", ".*.sw?", "4913",  # vim
    "*~", ".#*", "#*#",  # emacs and others
    ".~lock.*", "*.tmp", ".goutputstream-*",  # office, GLib
    "*.part", "*.crdownload", ".syncthing.*", ".nfs*",  # transfers, silly renames
)
_RSYNC = re.compile(r"\..+\.(?=[A-Za-z0-9]{0,5}[A-Z0-9])[A-Za-z0-9]{6}")
"""`.name.XXXXXX` of rsync. One in two hundred has lower case letters only, as `.app.backup` has:
such a name is taken for what the user means; rsync holds it open until it renames it."""


class _Rule(NamedTuple):
    pattern: re.Pattern[str]
    ignore: bool
    directories: bool
    whole_path: bool


class Ignore:
    """The built-in list and what `.dfsignore` adds to it."""

    def __init__(self, text: str = "") -> None:
        self.wrong: list[str] = []
        """Lines that are no patterns, and why. The others hold."""
        self._rules: list[_Rule] = []
        for number, line in enumerate(text.splitlines(), 1):
            try:
                self._rules += _rule(line)
            except re.error as error:
                self.wrong.append(f"line {number} is no pattern ({error.msg})")
        self._rules.reverse()
        self._built_in = re.compile("|".join(_translate(p) for p in BUILT_IN))

    def ignored(self, path: str, directory: bool) -> bool:
        """Whether `path`, relative to the cache directory, is to be left alone.

        Says nothing of the directories above it: whoever walks down asks for each.
        """
        name = path.rpartition("/")[2]
        if path in (RESERVED, FILE, MARKER):
            return True
        for rule in self._rules:
            if rule.directories and not directory:
                continue
            if rule.pattern.fullmatch(path if rule.whole_path else name):
                return rule.ignore
        return bool(self._built_in.fullmatch(name) or _RSYNC.fullmatch(name))

    def below_ignored(self, path: str) -> bool:
        """Whether a directory above `path` is ignored."""
        end = path.find("/")
        while end > 0:
            if self.ignored(path[:end], True):
                return True
            end = path.find("/", end + 1)
        return False


def read(root: int) -> Ignore:
    """What holds in the cache directory `root`, a descriptor. Waits for nobody, as an open of a
    pipe would. Raises ValueError with the reason if there is something that cannot be read."""
    try:
        fd = open_beneath(root, FILE, os.O_RDONLY | os.O_NONBLOCK)
    except FileNotFoundError:
        return Ignore()
    except OSError as error:
        link = error.errno == errno.ELOOP
        raise ValueError("it is a symbolic link" if link else error.strerror) from error
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise ValueError("it is no file")
        with os.fdopen(os.dup(fd), "rb") as file:
            data = file.read(IGNORE_BYTES_MAX + 1)
    finally:
        os.close(fd)
    if len(data) > IGNORE_BYTES_MAX:
        raise ValueError(f"it has more than {IGNORE_BYTES_MAX:,} bytes")
    try:
        return Ignore(data.decode())
    except UnicodeDecodeError:
        raise ValueError("it is not UTF-8") from None


def _rule(line: str) -> list[_Rule]:
    """The rule of a line, if it has one. Raises re.error."""
    text = line.rstrip()
    if not text or text.startswith("#"):
        return []
    ignore = not text.startswith("!")
    text = text.removeprefix("!").removeprefix("\\")
    directories = text.endswith("/")
    text = text.rstrip("/")
    whole_path = "/" in text
    if not text.strip("/"):
        return []
    return [_Rule(re.compile(_translate(text.lstrip("/"))), ignore, directories, whole_path)]


def _translate(pattern: str) -> str:
    """A pattern as a regular expression."""
    out, i = "", 0
    while i < len(pattern):
        c = pattern[i]
        if pattern.startswith("**/", i):
            out, i = out + "(?:.*/)?", i + 3
            continue
        if pattern.startswith("**", i):
            out, i = out + ".*", i + 2
            continue
        end = pattern.find("]", i + 2) if c == "[" else -1
        if end > 0:
            inside = pattern[i + 1 : end].replace("\\", "\\\\").replace("[", "\\[")
            inside = "^" + inside[1:] if inside[0] in "!^" else inside
            out, i = out + f"[{inside}]", end + 1
            continue
        out += {"*": "[^/]*", "?": "[^/]"}.get(c) or re.escape(c)
        i += 1
    return f"(?s:{out})"
