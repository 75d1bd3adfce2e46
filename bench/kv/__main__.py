"""`bench/run`: builds, measures, prints one table."""

from __future__ import annotations

import argparse
import json
import signal
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Final

from ..failure import BenchError
from ..machine import ROOT, WORK, say
from . import measure, recovery, rows, systems, versions
from .build import build
from .results import Measurement, spread, table

RESULTS: Final = WORK / "results.jsonl"
QUICK_NOTE: Final = (
    f"--quick: one short round, a tenth of the keys ({rows.QUICK_BULK_KEYS:,} for restart), one"
    " kill: shows that everything works, not how fast it is"
)


def parser() -> argparse.ArgumentParser:
    """The options."""
    made = argparse.ArgumentParser(
        prog="bench/run",
        description="Measures dfs beside other replicated key/value stores on this machine, each"
        " with three nodes on loopback, and prints one table. See bench/README.md.",
    )
    names = ", ".join(systems.SYSTEMS)
    made.add_argument(
        "--systems", default="",
        help=f"Of: {names}. Default: dfs, etcd, and the installed etcd if there is one.",
    )
    made.add_argument(
        "--rows", default="", help="Names of rows or how they begin, comma-separated, of: "
        + ", ".join(row.name for row in rows.ROWS) + ". Default: all."
    )
    made.add_argument("--rounds", type=int, default=3, help="Default: 3.")
    made.add_argument("--seconds", type=float, default=5.0, help="Of a row. Default: 5.")
    made.add_argument(
        "--kills", type=int, default=rows.KILLS,
        help="Of the leader, and cycles of recovery, in all rounds together. Default:"
        f" {rows.KILLS}.",
    )
    made.add_argument("--quick", action="store_true", help="A smoke test of a few minutes.")
    made.add_argument(
        "--out", type=Path, default=RESULTS,
        help="File for all measurements, one JSON object a line; it is replaced. Default:"
        f" {RESULTS.relative_to(ROOT)}.",
    )
    made.add_argument(
        "--work", type=Path, default=WORK / "data",
        help="Directory for the data of the nodes, on the disk to measure. Default: below"
        " bench/.work.",
    )
    return made


def plan_of(args: argparse.Namespace) -> tuple[measure.Plan, dict[str, list[rows.Row]]]:
    """What the options ask for. Raises BenchError."""
    if args.rounds < 1 or args.seconds <= 0 or args.kills < 1:
        raise BenchError("--rounds, --seconds and --kills must be more than 0")
    wanted = rows.chosen(args.rows)
    if any(row.stage == "recovery" for row in wanted) and (why := recovery.impossible()):
        if args.rows:
            raise BenchError(why)
        say(f"left out: {why}")
        wanted = [row for row in wanted if row.stage != "recovery"]
    if args.quick:
        wanted = [rows.quick(row) for row in wanted]
    plan = measure.Plan(
        systems=systems.chosen(args.systems), work=args.work.absolute(),
        rounds=1 if args.quick else args.rounds,
        seconds=1.0 if args.quick else args.seconds,
        warmup_s=0.2 if args.quick else 1.0,
        kills=1 if args.quick else args.kills, again=not args.quick,
    )
    return plan, rows.stages(wanted)


def measured(args: argparse.Namespace) -> list[Measurement]:
    """Runs it all; what was measured until Ctrl-C counts."""
    plan, stages = plan_of(args)
    say("building")
    build(plan.systems)
    plan.work.mkdir(parents=True, exist_ok=True)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    units = {row.name: row.unit for row in rows.ROWS}
    found: list[Measurement] = []
    with args.out.open("w") as out:

        def report(one: Measurement) -> None:
            found.append(one)
            out.write(json.dumps(asdict(one)) + "\n")
            out.flush()
            value = "nothing" if one.value is None else spread([one.value]) + units[one.row]
            say(
                f"{one.round} {one.row:22} {one.system:5} {value:>10},"
                f" others {one.others:.2f} cores"
            )
            for message, count in one.errors.items():
                say(f"  FAILED {count:,} times: {message}")

        try:
            measure.run(plan, stages, report)
        except KeyboardInterrupt:
            say("stopped; this is what there is")
    for line in versions.describe(plan.systems, plan.work):
        sys.stdout.write(f"- {line}\n")
    sys.stdout.write(
        f"- {plan.rounds} rounds, {plan.seconds:g} s a row, {plan.kills} kills\n"
        if not args.quick else f"- {QUICK_NOTE}\n"
    )
    return found


def main() -> int:
    """0; 1 when an operation failed or an answer was wrong; 2 when it could not run."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    args = parser().parse_args()
    try:
        found = measured(args)
    except BenchError as error:
        sys.stderr.write(f"bench: {error}\n")
        return 2
    sys.stdout.write(f"\n{table(found)}\n")
    failed = sum(one.failed for one in found)
    if failed:
        sys.stderr.write(f"bench: {failed:,} operations failed or were answered wrongly\n")
    return 1 if failed or not found else 0


if __name__ == "__main__":
    sys.exit(main())
