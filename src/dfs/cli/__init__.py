"""The command line: `./dfs`, `dfs`, `python -m dfs`.

What belongs to a command is imported when that command is given: `dfs get` starts within 150 ms.
Results go to stdout, all else to stderr. Errors that a user can do something about are one sentence
and an exit code of errors.py; a traceback is a bug of ours.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from ..errors import Conflict, DeadlineExceeded, DfsError, NotFound, OutcomeUnknown, Unavailable
from . import output, parsing

INTERRUPTED = 130
"""What shells say of a program that ended on Ctrl-C."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; returns the exit code."""
    try:
        return parsing.run(list(sys.argv[1:] if arguments is None else arguments))
    except DfsError as error:
        output.error(error.text + hint(error), error.metadata)
        return error.row.exit
    except SystemExit as end:  # argparse after --help
        return int(end.code or 0)
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        # The reader of our output has gone, as `head` does; nothing may be flushed at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


_HINTS: tuple[tuple[type[DfsError], str], ...] = (
    (NotFound, "dfs ls"),
    (Conflict, "dfs stat KEY, which shows its revision"),
    (OutcomeUnknown, "dfs stat KEY, to see whether it was done"),
    (DeadlineExceeded, "dfs status, or a longer -timeout"),
    (Unavailable, "dfs status, or the -endpoint of another node"),
)


def hint(error: DfsError) -> str:
    """What to try next, where the sentence does not say so itself."""
    if "Try:" not in error.text:
        for kind, words in _HINTS:
            if isinstance(error, kind):
                return f". Try: {words}"
    return ""
