"""verify, recover: work on the data directories of nodes that do not run."""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import Misconfigured
from . import output, parsing
from .backup import (
    ahead_flag,
    check_ahead,
    founder_of,
    readable,
    sources_flag,
    sources_of,
    start_hint,
    tell_lacking,
)

if TYPE_CHECKING:
    from ..offline.audit import Report
    from ..offline.recover import Plan, Recovered
    from ..offline.restore import Founder

_COLUMNS = (
    "node", "term", "vote", "last", "committed", "applied", "entries", "keys", "bytes",
    "state hash", "problems",
)  # fmt: skip
_HASH_SHOWN = 12
"""Hex digits of a state hash in a table: enough to see a difference."""


# ---- verify --------------------------------------------------------------------------------------
def verify_flags(parser: argparse.ArgumentParser) -> None:
    """Arguments of `dfs verify`."""
    parser.add_argument(
        "directories", nargs="+", metavar="DIR",
        help="Data directory of a node that does not run. Several of one cluster are compared.",
    )
    parser.add_argument(
        "--acks", metavar="FILE",
        help='Acknowledged writes that must be there, a line each: {"revision": 7, "key": "a/b",'
             ' "sha256": "…"} or {…, "deleted": true}.',
    )
    parsing.output_flag(parser)


def verify(args: argparse.Namespace) -> int:
    """Prints what was found; exit code 1 when anything is wrong."""
    from ..offline.acks import read_acks
    from ..offline.audit import verify as audit

    acks = list(read_acks(readable(args.acks))) if args.acks else []
    report = audit([Path(name) for name in args.directories], acks)
    if args.output == "json":
        output.json(report.as_json())
    else:
        _show(report)
    return 0 if report.sound else 1


def _show(report: Report) -> None:
    output.table(_COLUMNS, [
        (node.name, node.term, node.vote, f"{node.last:,}", f"{node.committed:,}",
         f"{node.applied:,}", f"{node.log_entries:,}", f"{node.keys:,}",
         output.size(node.content_bytes), node.state_hash[:_HASH_SHOWN], len(node.problems))
        for node in report.nodes
    ], right="term vote last committed applied entries keys bytes problems")  # fmt: skip
    output.text("")
    for node in report.nodes:
        for note in node.notes:
            output.text(f"{node.name}: {note}")
    for note in report.notes:
        output.text(note)
    if acks := report.acks:
        output.text(
            f"{acks.checked:,} acknowledged writes: {acks.on_all:,} on all nodes,"
            f" {acks.on_majority:,} on a majority, {acks.beyond_history:,} older than history"
        )
    for node in report.nodes:
        for problem in node.problems:
            output.text(f"WRONG {node.name}: {problem}")
    lost = report.acks.problems if report.acks else []
    for problem in [*report.problems, *lost]:
        output.text(f"WRONG {problem}")
    if report.acks and report.acks.untold:
        output.text(f"WRONG {report.acks.untold:,} more acknowledged writes are lost")
    if report.sound:
        compared = f", {report.compared_entries:,} log entries compared" if report.nodes[1:] else ""
        output.text(f"sound: every record, log and state was read and checked{compared}")


# ---- recover -------------------------------------------------------------------------------------
def recover_flags(parser: argparse.ArgumentParser) -> None:
    """Arguments of `dfs recover`."""
    from ..offline.recover import RECOVERED_AHEAD

    parser.add_argument(
        "directories", nargs="*", metavar="DIR",
        help="Data directories of all survivors; they are stopped, or copies.",
    )
    parser.add_argument(
        "--plan", action="store_true", help="Say what is left and what would be done; do nothing."
    )
    parser.add_argument(
        "--from", dest="chosen", metavar="DIR", help="Do it, with what is in this one."
    )
    parser.add_argument(
        "--backup", metavar="FILE",
        help="Where its state is saved and verified first; the new cluster is made of that, and of"
             " the large contents of all survivors.",
    )
    parser.add_argument(
        "--without-tail", action="store_true",
        help="Drop the entries that are not known to be committed, though a lost leader may have"
             " acknowledged them.",
    )
    sources_flag(parser)
    ahead_flag(parser, RECOVERED_AHEAD)
    parsing.output_flag(parser)


def recover(args: argparse.Namespace) -> int:
    """Shows the plan, or does it; exit code 1 when the plan says no."""
    from ..offline import recover as recovery

    if args.plan == bool(args.chosen):
        raise Misconfigured(
            "say what to do: `dfs recover --plan DIR…` shows what is left, and `dfs recover --from"
            " DIR DIR… --backup FILE -data NEW -id NAME` does it"
        )
    if args.plan:
        if not args.directories:
            raise Misconfigured("name the data directories of all survivors behind --plan")
        found = recovery.plan([Path(name) for name in args.directories])
        _show_plan(args, found)
        return 1 if found.refusal else 0
    if not args.backup:
        raise Misconfigured(
            "name a file that is not there yet with --backup FILE: what the survivor holds is"
            " saved and verified there before a new cluster is made of it"
        )
    check_ahead(args.ahead)
    directory, founder = founder_of(args)
    done = recovery.recover(
        [Path(name) for name in args.directories], Path(args.chosen), directory, founder,
        Path(args.backup), time.time_ns(), with_tail=not args.without_tail,
        ahead=args.ahead, sources=sources_of(args),
    )  # fmt: skip
    _show_recovered(args, done, directory, founder)
    return 0


def _show_plan(args: argparse.Namespace, found: Plan) -> None:
    from ..offline.recover import lines

    if args.output == "json":
        output.json(found.as_json())
        return
    columns = "node", "term", "vote", "last", "committed", "applied", "last entry", "members"
    output.table(columns, [
        (s.name, s.term, s.vote, f"{s.last:,}", f"{s.committed:,}", f"{s.applied:,}",
         output.when(s.last_time_ns), s.members)
        for s in found.survivors
    ], right="term vote last committed applied")  # fmt: skip
    output.text("")
    for line in lines(found):
        output.text(line)
    for survivor in found.survivors:
        for problem in survivor.problems:
            output.text(f"WRONG {survivor.name}: {problem}")
    if found.refusal:
        output.text(f"NO: {found.refusal}")
    else:
        output.note(
            f"To do it: {output.program()} recover --from {found.chosen} --backup FILE -data NEW"
            " -id NAME"
        )


def _show_recovered(
    args: argparse.Namespace, done: Recovered, directory: Path, founder: Founder
) -> None:
    if args.output == "json":
        founded = {
            **done.founded._asdict(), "head": done.founded.head._asdict(),
            "lacking": done.founded.lacking._asdict(),
        }  # fmt: skip
        output.json({"plan": done.plan.as_json(), "backup": done.backup, "applied": done.applied,
                     "founded": founded})
        return
    head = done.founded.head
    output.text(
        f"saved and verified {done.backup}: revision {head.revision:,}, {head.keys:,} keys, with"
        f" {done.applied:,} entries applied that the state had not yet"
    )
    output.text(
        f"{directory}: node {founder.name} of the new cluster {done.founded.cluster}; its revisions"
        f" go on behind {done.founded.revision:,};"
        f" {head.contents - done.founded.lacking.contents:,} of {head.contents:,} large contents"
        " were taken from the survivors and what else was given"
    )
    tell_lacking(done.founded.lacking)
    start_hint(directory, founder)
