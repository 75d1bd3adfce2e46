"""Work beside the driver, each in a process of its own: watching a mount, reading it.

`python -m bench.files.helpers` reads a task from its standard input, answers with one byte when it
begins, and with what it found when it is done. Times are those of CLOCK_MONOTONIC, which all
processes of a machine share.
"""

from __future__ import annotations

import os
import pickle
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, NamedTuple, cast

from ..failure import BenchError
from ..machine import ROOT
from .content import OK, PARTIAL, WRONG, File, check, state

PROGRESS_S: Final = 0.002
"""Before a watcher looks again at what is missing, when some of it came meanwhile."""
PAUSE_S: Final = 0.01
"""When nothing did."""
MISSES_MAX: Final = 5
"""In one turn: what follows is not looked at before the next one. Files come in order, and whoever
looks takes CPU from what is measured."""
READ_PAUSE_S: Final = 0.005
"""Between two reads of one reader: sixteen of them must not use up the machine."""
SLOW_S: Final = 0.01
"""Reads that took longer are told one by one."""


class Seen(NamedTuple):
    """What a watcher found."""

    done: float | None
    """When the last file was read and right; None = not in time."""
    left: int
    partial: int
    """Looks at a file that had another size than it will have."""
    wrong: int
    """Reads of wrong bytes."""


@dataclass
class Reads:
    """What a reader found."""

    count: int = 0
    wrong: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    slow: list[tuple[float, float]] = field(default_factory=list)
    """(begin, end) of each read that took longer than SLOW_S."""


# ---- in the helper -------------------------------------------------------------------------------
def watch(
    top: Path, files: Sequence[File], limit_s: float, former: Mapping[str, File] | None = None
) -> Seen:
    """Reads each file until it is right, in the order in which they are likely to come. `former`:
    by name, what may be there until then."""
    end = time.monotonic() + limit_s
    pending, counts, done = list(files), Counter[str](), None
    while pending and time.monotonic() < end:
        left: list[File] = []
        missed, came = 0, False
        for number, file in enumerate(pending):
            found = state(top, file, former.get(file.name) if former else None)
            counts[found] += 1
            if found == OK:
                came, done = True, time.monotonic()
                continue
            left.append(file)
            missed += 1
            if missed >= MISSES_MAX:
                left += pending[number + 1 :]
                break
        pending = left
        if pending:
            time.sleep(PROGRESS_S if came else PAUSE_S)
    return Seen(None if pending else done, len(pending), counts[PARTIAL], counts[WRONG])


def read(top: Path, files: Sequence[File], seconds: float, seed: int) -> Reads:
    """Reads files at random, one after the other, for some time."""
    chance, found = random.Random(seed), Reads()
    end = time.monotonic() + seconds
    while (begin := time.monotonic()) < end:
        file = chance.choice(files)
        try:
            found.wrong += check(f"{top}/{file.name}", file) != OK
        except OSError as error:
            found.errors[error.strerror or str(error)] += 1
        after = time.monotonic()
        if after - begin > SLOW_S:
            found.slow.append((begin, after))
        found.count += 1
        time.sleep(READ_PAUSE_S)
    return found


TASKS: Final[dict[str, Callable[..., Any]]] = {"watch": watch, "read": read}


# ---- beside it -----------------------------------------------------------------------------------
class Helper:
    """One task under way."""

    def __init__(self, enter: Sequence[str], work: Callable[..., Any], *arguments: Any) -> None:
        """`enter`: how its command begins, see Group. Returns when the task has begun."""
        self._what = f"{work.__name__} {arguments[0]}"
        self._process = subprocess.Popen(
            [*enter, sys.executable, "-P", "-m", "bench.files.helpers"], cwd=ROOT,
            env={**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'src'}"},
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )
        pipe = self._process.stdin
        assert pipe is not None
        assert self._process.stdout is not None
        with pipe:
            pickle.dump((work.__name__, arguments), pipe)
        self._process.stdin = None  # So that nobody flushes it once more.
        if self._process.stdout.read(1) != b"r":
            raise BenchError(f"a helper did not begin: {self._what}")

    def result(self) -> Any:
        """What it found; waits for it."""
        out, _ = self._process.communicate()
        if self._process.returncode:
            raise BenchError(f"a helper failed: {self._what} (see above)")
        return pickle.loads(out)

    def kill(self) -> None:
        """When nobody wants to know any more; nothing if it has ended."""
        if self._process.returncode is None:
            self._process.kill()
            self._process.communicate()


@contextmanager
def watching(
    enter: Sequence[str], tops: Sequence[Path], files: Sequence[File], limit_s: float,
    former: Mapping[str, File] | None = None,
) -> Iterator[list[Helper]]:
    """One watcher for each mount, all of which have begun; gone behind the block."""
    with helping([(enter, watch, top, files, limit_s, former) for top in tops]) as helpers:
        yield helpers


@contextmanager
def helping(tasks: Sequence[tuple[Any, ...]]) -> Iterator[list[Helper]]:
    """A helper for each (enter, work, arguments…)."""
    with ExitStack() as stack:

        def start(task: tuple[Any, ...]) -> Helper:
            helper = Helper(*task)
            stack.callback(helper.kill)
            return helper

        yield [start(task) for task in tasks]


def seen(helpers: Sequence[Helper]) -> list[Seen]:
    """What watchers found; waits for them."""
    return [cast(Seen, helper.result()) for helper in helpers]


def main() -> None:
    """The helper's process."""
    name, arguments = pickle.load(sys.stdin.buffer)
    work = TASKS[name]
    sys.stdout.buffer.write(b"r")
    sys.stdout.buffer.flush()
    pickle.dump(work(*arguments), sys.stdout.buffer)


if __name__ == "__main__":
    # Pickle names classes by their module: here it is another one than for whoever asked.
    from bench.files.helpers import main as imported

    imported()
