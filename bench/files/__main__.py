"""`bench/run --files`: starts, measures, prints one table."""

from __future__ import annotations

import argparse
import functools
import json
import shutil
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Final

from dfs.errors import DfsError
from dfs.nemesis.waiting import Violation

from .. import machine
from ..failure import BenchError
from ..kv.results import number as shown
from . import agents, content, drops, reads, results
from .groups import Group
from .plan import Plan, Stock
from .results import Measurement
from .systems import Dfs, Ext4, Fresh, System, remove_large

RESULTS: Final = machine.WORK / "files.jsonl"
ROWS: Final = ("drop", "tree", "big", "away", "read", "kill", "entries")
DEFAULT: Final = ROWS[:-1]
QUICK: Final = {
    "rounds": 1, "drops": 10, "small": 200, "big_mib": 8, "changes": 50, "entries": 2_000,
    "readers": 4, "kills": 1,
}
QUICK_NOTE: Final = "--quick: little of everything, once: shows that it works, not how fast it is"
FREE_PER_BIG: Final = 7
"""Copies of the large file that the disk must have room for: source, floor, the drop, one in each
node, and one to spare."""


def parser() -> argparse.ArgumentParser:
    """The options."""
    made = argparse.ArgumentParser(
        prog="bench/run --files",
        description="Measures dfs as a file system on this machine, three nodes on loopback with"
        " their mounts, beside plain ext4. Needs root. See bench/README.md.",
    )
    add = made.add_argument
    add("--rows", default=",".join(DEFAULT), help=f"Of: {', '.join(ROWS)}. Default: all but the"
        " last, which takes long.")
    add("--rounds", type=int, default=3, help="Each on a fresh cluster. Default: 3.")
    add("--drops", type=int, default=300, help="Single files in a round. Default: 300.")
    add("--small", type=int, default=10_000, help="Files of the tree. Default:"
        " 10000.")
    add("--big-mib", type=int, default=1024, help="Size of the large file. Default: 1024.")
    add("--changes", type=int, default=1_000, help="While a node is away. Default: 1000.")
    add("--entries", type=int, default=1_000_000, help="Of the row entries. Default: 1000000.")
    add("--readers", type=int, default=16, help="While the agent is killed. Default: 16.")
    add("--kills", type=int, default=3, help="In a round. Default: 3.")
    add("--limit", type=float, default=240.0, help="Seconds in which everything must have become"
        " identical. Default: 240.")
    add("--quick", action="store_true", help="A smoke test of a quarter of a minute.")
    add("--out", type=Path, default=RESULTS, help="File for all measurements, one JSON object a"
        f" line; it is replaced. Default: {RESULTS.relative_to(machine.ROOT)}.")
    add("--work", type=Path, default=machine.WORK, help="Directory below which all data are put,"
        " as `files`, on the disk to measure, not in memory. Default: bench/.work.")
    return made


def chosen(text: str) -> list[str]:
    """The rows that a comma-separated list names, in their order. Raises BenchError."""
    names = {name.strip() for name in text.split(",") if name.strip()}
    if unknown := sorted(names - set(ROWS)):
        raise BenchError(f"there is no row {unknown[0]!r}; there are: {', '.join(ROWS)}")
    return [row for row in ROWS if row in names]


def plan_of(args: argparse.Namespace) -> tuple[Plan, list[str], int]:
    """What the options ask for, the rows, and the rounds. Raises BenchError."""
    given = vars(args) | (QUICK if args.quick else {})
    numbers = [name for name in QUICK if given[name] < 1]
    if numbers:
        raise BenchError(f"--{numbers[0].replace('_', '-')} must be more than 0")
    plan = Plan(
        args.work.absolute() / "files", given["drops"], given["small"], given["big_mib"],
        given["changes"], given["entries"], given["readers"], given["kills"], args.limit,
    )
    return plan, chosen(args.rows), given["rounds"]


@contextmanager
def stock(plan: Plan) -> Iterator[Stock]:
    """The content, and the group of whoever copies and watches; both gone behind the block."""
    shutil.rmtree(plan.work, ignore_errors=True)
    source = plan.work / "source"
    source.mkdir(parents=True)
    needed = FREE_PER_BIG * plan.big_mib << 20
    if shutil.disk_usage(source).free < needed:
        raise BenchError(
            f"{plan.work} has less than {needed >> 30} GiB free; choose a smaller --big-mib or"
            " another --work"
        )
    group = Group("work")
    try:
        files = content.make_tree(source / drops.TREE, plan.small, 1)
        big = content.make_big(source / "big.bin", plan.big_mib, 2)
        yield Stock(source / drops.TREE, files, big, group)
    finally:
        group.close()
    shutil.rmtree(plan.work)


Row = Callable[[System, Plan, Stock, int], Measurement]
ON_ALL: Final[dict[str, Row]] = {"drop": drops.drop, "tree": drops.tree, "big": drops.big}
ON_DFS: Final = {"away": drops.away, "kill": agents.kill}


def one_round(
    number: int, rows: Sequence[str], plan: Plan, stock: Stock
) -> Iterator[Measurement]:
    """Every row once on both systems, on a fresh cluster."""
    folder = plan.work / f"round{number}"
    ext4 = Ext4(folder / "ext4")
    with Dfs(folder / "dfs") as dfs:
        for row in (row for row in rows if row != "entries"):
            systems: list[System] = [dfs] if row == "drop" else [ext4, dfs]
            if row in ("read", "kill"):
                for system in systems:
                    drops.ensure(system, plan, stock, stock.files)
            if row in ON_ALL:
                for system in systems:
                    yield ON_ALL[row](system, plan, stock, number)
            elif row == "read":
                for system in systems:
                    drops.ensure(system, plan, stock, [stock.big.file])
                yield from _reads(ext4, dfs, stock, number)
            else:
                yield ON_DFS[row](dfs, plan, stock, number)
    remove_large(folder)


def _reads(ext4: Ext4, dfs: Dfs, stock: Stock, number: int) -> Iterator[Measurement]:
    """By turns, so that what disturbs the machine hits all alike."""
    options: dict[str, Fresh] = {
        "dfs": dfs.reader, "dfs --no-open": functools.partial(dfs.reader, "--no-open")
    }
    reads.warm_up(dfs.reader, stock)
    yield reads.read("ext4", ext4, ext4.fresh, stock, number)
    for label, fresh in options.items():
        yield reads.read(label, dfs, fresh, stock, number)


def everything(
    plan: Plan, rows: Sequence[str], rounds: int, stock: Stock
) -> Iterator[Measurement]:
    """All rounds."""
    for number in range(rounds):
        if set(rows) - {"entries"}:
            yield from one_round(number, rows, plan, stock)
    if "entries" in rows:
        yield agents.entries(plan, stock)


def measured(args: argparse.Namespace) -> list[Measurement]:
    """Runs it all; what was measured until Ctrl-C counts."""
    plan, rows, rounds = plan_of(args)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    found: list[Measurement] = []
    machine.say("making the content")
    with stock(plan) as made, args.out.open("w") as out:
        head = machine.describe(plan.work)
        try:
            for one in everything(plan, rows, rounds, made):
                found.append(one)
                out.write(json.dumps(asdict(one)) + "\n")
                out.flush()
                figures = ", ".join(f"{k} {shown(v)}" for k, v in one.figures.items())
                others = f"others {one.others:.2f} cores"
                machine.say(f"{one.round} {one.row} {one.system}: {figures}; {others}")
        except KeyboardInterrupt:
            machine.say("stopped; this is what there is")
    for line in [*head, f"versions: {machine.dfs_version()}"]:
        sys.stdout.write(f"- {line}\n")
    sys.stdout.write(
        f"- {QUICK_NOTE}\n" if args.quick else f"- {rounds} rounds; {plan.drops} drops,"
        f" {plan.small:,} small files, {plan.big_mib:,} MiB, {plan.changes:,} changes,"
        f" {plan.kills} kills under {plan.readers} readers in each\n"
    )
    return found


def main() -> int:
    """0; 1 when something failed or was wrong; 2 when it could not run."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    args = parser().parse_args()
    try:
        found = measured(args)
    except (BenchError, DfsError, Violation) as error:
        sys.stderr.write(f"bench: {error}\n")
        return 2
    sys.stdout.write(f"\n{results.table(found)}\n")
    failed = results.failures(found)
    for line in failed:
        sys.stderr.write(f"bench: FAILED: {line}\n")
    return 1 if failed or not found else 0


if __name__ == "__main__":
    sys.exit(main())
