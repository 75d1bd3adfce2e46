"""All that the command line prints. Results to stdout; notes, errors and progress to stderr."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

PROGRESS_INTERVAL_S: Final = 0.1
_UNITS: Final = ("B", "KiB", "MiB", "GiB", "TiB")


def text(line: str) -> None:
    """One line of the result."""
    sys.stdout.write(line + "\n")


def raw(data: bytes) -> None:
    """Content, as it is."""
    sys.stdout.flush()
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()


def flush() -> None:
    """The result so far is for whoever reads it now."""
    sys.stdout.flush()


def json(value: Any, *, line: bool = False) -> None:
    """A result for programs; `line`: one of many, in one line."""
    import json as module

    text(module.dumps(value, ensure_ascii=False, indent=None if line else 2))


def program() -> str:
    """How to call us from the working directory."""
    return "./dfs" if os.path.isfile("dfs") and os.access("dfs", os.X_OK) else "dfs"


def note(line: str) -> None:
    """Something for the person who waits."""
    sys.stderr.write(line + "\n")
    sys.stderr.flush()


def error(line: str, metadata: Mapping[str, str] | None = None) -> None:
    """Why a command failed."""
    note(f"{styled('dfs:', '1;31', sys.stderr)} {line}")
    if metadata and metadata.get("request_id"):
        note(f"     request id: {metadata['request_id']}")


def styled(line: str, style: str, stream: Any = None) -> str:
    """The line with an ANSI style where a person reads it and has not set NO_COLOR."""
    stream = stream or sys.stdout
    if os.environ.get("NO_COLOR") or not stream.isatty():
        return line
    return f"\x1b[{style}m{line}\x1b[0m"


def table(columns: Sequence[str], rows: Sequence[Sequence[Any]], *, right: str = "") -> None:
    """Aligned columns. `right` names those with numbers, separated by spaces."""
    cells = [[str(cell) for cell in row] for row in rows]
    numbers = {i for i, column in enumerate(columns) if column in right.split()}
    widths = [
        max(len(column), *(len(row[i]) for row in cells)) if cells else len(column)
        for i, column in enumerate(columns)
    ]

    def line(row: Sequence[str]) -> str:
        return "  ".join(
            cell.rjust(widths[i]) if i in numbers else cell.ljust(widths[i])
            for i, cell in enumerate(row)
        ).rstrip()

    text(styled(line([column.upper() for column in columns]), "1"))
    for row in cells:
        text(line(row))


def size(count: int) -> str:
    """Bytes as people read them: 312 B, 4.0 KiB."""
    number = float(count)
    for unit in _UNITS:
        if number < 1024 or unit == _UNITS[-1]:
            return f"{count} B" if unit == "B" else f"{number:.1f} {unit}"
        number /= 1024
    raise AssertionError("the last unit returns")


def files(count: int) -> str:
    """A number of files: 1 file, 1,000 files."""
    return "1 file" if count == 1 else f"{count:,} files"


def when(time_ns: int) -> str:
    """A time as people read it, in UTC; "" for 0."""
    if not time_ns:
        return ""
    return time.strftime("%Y-%m-%d %H:%M:%SZ", time.gmtime(time_ns // 1_000_000_000))


def duration(seconds: float) -> str:
    """A time span as people read it."""
    return f"{seconds * 1000:.1f} ms" if seconds < 1 else f"{seconds:.1f} s"


class Progress:
    """One line on a terminal that is written over; silent elsewhere."""

    def __init__(self, what: str, total: int) -> None:
        self.what, self.total = what, total
        self._shown = sys.stderr.isatty()
        self._next_s = 0.0

    def update(self, done: int, more: str = "") -> None:
        """Shows how far it is, at most ten times a second."""
        if not self._shown or (done < self.total and time.monotonic() < self._next_s):
            return
        self._next_s = time.monotonic() + PROGRESS_INTERVAL_S
        share = min(done / self.total, 1.0) if self.total else 1.0
        bar = ("━" * round(30 * share)).ljust(30, "╌")
        sys.stderr.write(f"\r\x1b[K{self.what} {bar} {done:,}/{self.total:,} {more}")
        sys.stderr.flush()

    def clear(self) -> None:
        """Takes the line away."""
        if self._shown:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()


@contextlib.contextmanager
def progress(what: str, total: int) -> Iterator[Progress]:
    """A progress line that is gone afterwards."""
    shown = Progress(what, total)
    try:
        yield shown
    finally:
        shown.clear()
