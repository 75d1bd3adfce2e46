"""`make sim`: many seeds, or with SEED=… one with its trace."""

from __future__ import annotations

import argparse
import sys
import time
import traceback
from collections import Counter

from .scenario import Report, run

SHORT_LINES = 40
"""Of the trace of a failure; the whole of it is shown by a replay."""
PROGRESS_S = 5.0


def main() -> int:
    """The program; 1 when anything was found to be wrong."""
    parser = argparse.ArgumentParser("sim", description=__doc__)
    parser.add_argument("--seed", type=int, help="replay this one and show its trace")
    parser.add_argument("--count", type=int, default=1_000, help="how many seeds")
    parser.add_argument("--first", type=int, default=1, help="the first of them")
    given = parser.parse_args()
    return replay(given.seed) if given.seed is not None else many(given.first, given.count)


def replay(seed: int) -> int:
    """One seed, with everything that happens."""
    report = run(seed)
    say("\n".join(report.lines))
    if report.wrong is not None:
        traceback.print_exception(report.wrong)
    say(f"seed {seed}: {'WRONG' if report.wrong else 'all is well'}, {report.seconds:.1f} simulated"
        f" seconds, trace {report.digest}")
    return 1 if report.wrong else 0


def many(first: int, count: int) -> int:
    """A range of seeds: what happened how often, and what was wrong."""
    counts: Counter[str] = Counter()
    bad: list[int] = []
    began = said = time.monotonic()
    simulated = 0.0
    for done, seed in enumerate(range(first, first + count), 1):
        report = run(seed)
        counts += report.counts
        simulated += report.seconds
        if report.wrong is not None:
            bad.append(seed)
            show(report)
        if time.monotonic() - said > PROGRESS_S and done < count:
            said = time.monotonic()
            say(f"… {done:,} seeds, {len(bad)} of them wrong")
    took = time.monotonic() - began
    for kind, number in sorted(counts.items()):
        say(f"{number:11,}  {kind}")
    say(
        f"seeds {first:,} to {first + count - 1:,}: {len(bad)} wrong; {simulated / 3600:.1f} "
        f"simulated hours, {count / took:.1f} seeds/s"
    )
    for seed in bad:
        say(f"replay with: make sim SEED={seed}")
    return 1 if bad else 0


def show(report: Report) -> None:
    """A failure, in short."""
    say(f"\nseed {report.seed} ({report.kind}), the end of its trace:")
    say("\n".join(line[:160] for line in report.lines[-SHORT_LINES:]))
    say(f"seed {report.seed}: WRONG: {report.wrong}\nreplay with: make sim SEED={report.seed}\n")


def say(text: str) -> None:
    """To whoever runs it."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
