"""nemesis: faults of every kind against a throw-away cluster, and whether a promise broke."""

from __future__ import annotations

import argparse
import secrets
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Final

from ..errors import Misconfigured
from . import output, parsing

if TYPE_CHECKING:
    from ..nemesis.campaign import Plan

ROUNDS: Final = 20
SEEDS: Final = 1 << 32


def nemesis_flags(parser: argparse.ArgumentParser) -> None:
    """Arguments of `dfs nemesis`."""
    parser.add_argument("--seed", type=int, help="Repeats the choices of a campaign.")
    parser.add_argument(
        "--rounds", type=int, default=0, metavar="N",
        help=f"So many rounds of faults. Default: {ROUNDS}, or what --minutes allows.",
    )
    parser.add_argument(
        "--minutes", type=float, default=0.0, metavar="M", help="At least so long."
    )
    parser.add_argument("--nodes", type=int, default=3, metavar="N", help="1 to 7. Default: 3.")
    parser.add_argument(
        "--faults", default="", metavar="A,B", help="Only these. Default: all that are possible."
    )
    parser.add_argument(
        "--at-once", type=int, default=1, metavar="N", help="So many faults at a time, at most."
    )
    parser.add_argument(
        "--mounts", action="store_true",
        help="Each node has a mount, too, and its files are read all the time. Needs FUSE.",
    )
    parser.add_argument("--list", action="store_true", help="Show the faults there are, and end.")
    parser.add_argument(
        "--recheck", type=Path, metavar="FILE", help="Check a history of calls once more, and end."
    )
    parser.add_argument(
        "--dir", type=Path, metavar="DIR",
        help="Where the nodes have their data; stays. Default: a temporary directory, which is"
        " kept when something is wrong.",
    )
    parsing.output_flag(parser)


def nemesis(args: argparse.Namespace) -> int:
    """0: no promise broke. 1: one did; what, and how to repeat it."""
    if args.list:
        return _list()
    if args.recheck:
        return _recheck(args.recheck)
    plan = _plan(args, secrets.randbelow(SEEDS) if args.seed is None else args.seed)
    plan.setting.check()
    root = _directory(args.dir)
    output.note(f"seed {plan.seed}; nodes and logs are in {root}")
    if not _run(args, plan, root):
        return 1
    if args.dir is None:
        shutil.rmtree(root)
    return 0


def _run(args: argparse.Namespace, plan: Plan, root: Path) -> bool:
    from ..check import Undecided
    from ..nemesis.campaign import Campaign
    from ..nemesis.histories import save
    from ..nemesis.waiting import Violation

    campaign = Campaign(plan, root, output.note)
    try:
        report = campaign.run()
    except (Violation, Undecided) as wrong:
        history = root / "history.jsonl"
        if campaign.recorder:
            save(campaign.recorder.calls, history)
        output.error(f"in round {campaign.report.rounds + 1} of seed {plan.seed}: {wrong}")
        for note in getattr(wrong, "__notes__", []):
            output.note(note)
        output.note(
            f"The data (of each node with a disk of its own: the file system in `image`) and the"
            f" logs are in {root}. Try: dfs nemesis --recheck {history}, and the same"
            f" command with --seed {plan.seed}"
        )
        return False
    summary = report.summary()
    if args.output == "json":
        output.json(summary)
        return True
    columns = ("faults", "rounds", "recovery median / max s", "outage median / max s")
    output.table(columns, report.rows(), right="rounds")
    output.text(
        f"{summary['acknowledged']:,} writes acknowledged, {summary['reads']:,} reads,"
        f" {summary['unknown']:,} unknown outcomes, {summary['leader_changes']} changes of the"
        f" leader in {summary['seconds']:.0f} s: nothing lost, no stale read, all nodes equal"
    )
    return True


def _plan(args: argparse.Namespace, seed: int) -> Plan:
    from ..nemesis.campaign import Plan
    from ..nemesis.faults import FAULTS
    from ..nemesis.world import Setting

    names = [name for name in args.faults.split(",") if name]
    if unknown := [name for name in names if name not in FAULTS]:
        raise Misconfigured(f"there is no fault {unknown[0]!r}. Try: dfs nemesis --list")
    faults = names or [name for name, f in FAULTS.items() if args.nodes >= f.nodes_min]
    if small := [name for name in faults if args.nodes < FAULTS[name].nodes_min]:
        least = FAULTS[small[0]].nodes_min
        raise Misconfigured(f"{small[0]} needs {least} nodes at least. Try: --nodes {least}")
    return Plan(
        seed, faults, args.rounds or (0 if args.minutes else ROUNDS), args.minutes * 60,
        args.at_once,
        Setting(
            args.nodes,
            network=any(FAULTS[name].network for name in faults),
            disks=any(FAULTS[name].disks for name in faults),
            shims=any(FAULTS[name].shims for name in faults),
            mounts=args.mounts,
        ),
    )


def _directory(given: Path | None) -> Path:
    if given is None:
        return Path(tempfile.mkdtemp(prefix="dfs-nemesis-"))
    if given.exists() and any(given.iterdir()):
        raise Misconfigured(f"{given} is not empty: give another with --dir")
    given.mkdir(parents=True, exist_ok=True)
    return given.resolve()


def _list() -> int:
    from ..nemesis.faults import FAULTS

    def needs(name: str) -> str:
        fault = FAULTS[name]
        needed = {
            "root": fault.network or fault.disks, "a C compiler": fault.shims,
            f"{fault.nodes_min} nodes": fault.nodes_min > 1,
        }
        return ", ".join(what for what, is_needed in needed.items() if is_needed)

    output.table(("fault", "what", "needs"), [(n, f.doc, needs(n)) for n, f in FAULTS.items()])
    return 0


def _recheck(file: Path) -> int:
    from ..nemesis.histories import load, problems

    calls = load(file)
    found = problems(calls)
    for problem in found:
        output.text(problem)
    if not found:
        output.text(f"{len(calls):,} calls: nothing is wrong with them")
    return 1 if found else 0
