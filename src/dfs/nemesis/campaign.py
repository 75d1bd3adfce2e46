"""Faults by seed against a cluster under load, again and again, and the verdict.

A campaign is made of epochs: clients call and a watcher listens while some rounds of faults pass;
then the nodes must agree and the checkers read what was recorded. At the end the nodes are stopped,
and every write that was ever acknowledged is looked for in their logs and states. What was asked
for and never happened is a failure, too.
"""

from __future__ import annotations

import random
import statistics
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from ..check import Kind, Outcome
from ..offline.acks import Ack
from ..offline.audit import verify
from .faults import FAULTS
from .processes import Node
from .recorder import Recorder, require_variety
from .waiting import require, wait_until
from .world import NoTarget, Setting, World

ROUNDS_PER_EPOCH: Final = 8
CALLS_PER_EPOCH_MAX: Final = 12_000
"""A thousand for each key: the search for an order stays quick."""
HOLD_S: Final = (0.1, 1.5)
"""Shorter and longer than an election takes."""
AFTERMATH_S: Final = (0.0, 0.4)
"""So much is written by a new leader before the old one is back."""
RECOVERY_S: Final = 10.0
"""The promise: with all faults gone, writes are acknowledged again within this."""
GOING_ON_S: Final = 20.0
"""The same while a fault lasts that leaves a majority unhurt; networks may be bad then."""


@dataclass(frozen=True)
class Plan:
    """What shall be done."""

    seed: int
    faults: Sequence[str]
    rounds: int = 0
    seconds: float = 0.0
    """It ends after so many rounds or so long, whichever is given and comes last."""
    at_once: int = 1
    """Faults in one round, at most."""
    setting: Setting = field(default_factory=Setting)


@dataclass
class Report:
    """What was done and seen."""

    seed: int
    rounds: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    recovery_s: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    """By kinds of a round: from its end to the first acknowledged write that ended after it."""
    outage_s: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    """The longest time without an acknowledged write in a round."""
    outcomes: Counter[tuple[Kind, Outcome]] = field(default_factory=Counter)
    keys_added: int = 0
    mount_reads: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    """What was done to the nodes, in units of its own."""
    leaders: int = 0
    packets: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def acknowledged(self) -> int:
        """Writes."""
        done = sum(self.outcomes[kind, Outcome.DONE] for kind in (Kind.PUT, Kind.DELETE))
        return done + self.keys_added

    def rows(self) -> list[tuple[str, int, str, str]]:
        """(kinds, rounds, recovery median / max, outage median / max) in seconds."""
        return [
            (kinds, len(times), _spread(times), _spread(self.outage_s[kinds]))
            for kinds, times in sorted(self.recovery_s.items())
        ]

    def summary(self) -> dict[str, Any]:
        """For programs, and the last line for people."""
        return {
            "seed": self.seed, "rounds": self.rounds, "seconds": round(self.seconds, 1),
            "acknowledged": self.acknowledged,
            "mount_reads": self.mount_reads,
            "reads": self.outcomes[Kind.GET, Outcome.DONE],
            "unknown": sum(n for (_, o), n in self.outcomes.items() if o is Outcome.UNKNOWN),
            "refused": sum(n for (_, o), n in self.outcomes.items() if o is Outcome.REFUSED),
            "leader_changes": self.leaders, "faults": dict(sorted(self.faults.items())),
            "counts": dict(sorted(self.counts.items())), "packets": self.packets,
        }


def _spread(times: Sequence[float]) -> str:
    return f"{statistics.median(times):.2f} / {max(times):.2f}" if times else ""


class Campaign:
    """One plan, carried out in a directory."""

    def __init__(self, plan: Plan, root: Path, say: Callable[[str], None]) -> None:
        self.plan, self.root, self._say = plan, root, say
        self._chance = random.Random(plan.seed)
        self._deck: list[str] = []
        """Faults that have their turn before any comes again."""
        self.report = Report(plan.seed)
        self.recorder: Recorder | None = None
        """Of the epoch under way, or the last one."""
        self._acks: list[Ack] = []
        """Of all epochs."""

    def run(self) -> Report:
        """Raises Violation, Undecided or Misconfigured."""
        begin_s = time.monotonic()
        with World(self.root, self.plan.setting, self._chance) as world:
            epoch = 0
            while self._goes_on(begin_s):
                self._epoch(world, epoch, begin_s)
                epoch += 1
            self.report.leaders = max(len(world.terms) - 1, 0)
            if world.network is not None:
                world.network.heal()
                self.report.packets = vars(world.network.counts)
            self._audit(world)
            self.report.counts = world.counts
        self.report.seconds = time.monotonic() - begin_s
        self._require_coverage()
        return self.report

    def _goes_on(self, begin_s: float) -> bool:
        by_rounds = self.report.rounds < self.plan.rounds
        return by_rounds or time.monotonic() - begin_s < self.plan.seconds

    def _epoch(self, world: World, number: int, begin_s: float) -> None:
        self.recorder = recorder = Recorder(world.cluster, f"epoch-{number}")
        with recorder.at_work():
            for _ in range(ROUNDS_PER_EPOCH):
                self._round(world, recorder)
                full = len(recorder.calls) > CALLS_PER_EPOCH_MAX
                if full or not self._goes_on(begin_s):
                    break
        world.cluster.agree()
        recorder.check()
        self.report.outcomes += recorder.outcomes()
        self.report.keys_added += len(recorder.added)
        self.report.mount_reads += sum(map(len, recorder.shown.values()))
        self._acks += recorder.acks()
        world.counts["large files stored"] += recorder.large.uploads
        world.counts["large files read"] += recorder.large.downloads
        world.counts["pairs of large files seen"] += recorder.large.pairs

    def _round(self, world: World, recorder: Recorder) -> None:
        begin_ns = time.monotonic_ns()
        with ExitStack() as stack:
            struck = self._strike(world, stack)
            time.sleep(self._chance.uniform(*HOLD_S))
            if world.has_majority() and self.report.rounds // 2 % 2 == 0:
                seen = recorder.progress()
                wait_until(
                    f"writes go on beside {struck}", lambda: recorder.progress() > seen, GOING_ON_S
                )
                time.sleep(self._chance.uniform(*AFTERMATH_S))
        healed_ns = time.monotonic_ns()
        wait_until(
            f"writes go on after {struck}", lambda: recorder.last_ns() > healed_ns, RECOVERY_S
        )
        world.settle()
        kinds = "+".join(sorted(struck)) if len(struck) < 2 else "two at once"
        recovery_s, outage_s = recorder.gaps(begin_ns, healed_ns)
        self.report.rounds += 1
        self.report.faults.update(struck)
        self.report.recovery_s[kinds].append(recovery_s)
        self.report.outage_s[kinds].append(outage_s)
        self._say(
            f"{self.report.rounds:4d}  {'+'.join(struck):24}  recovered {recovery_s:.2f} s"
            f"  longest outage {outage_s:.2f} s"
        )

    def _strike(self, world: World, stack: ExitStack) -> list[str]:
        """The next faults of the deck; one that finds nothing to hit has its turn later."""
        struck, later = [], []
        for _ in range(self._chance.randint(1, self.plan.at_once)):
            if not self._deck:
                self._deck = list(self.plan.faults)
                self._chance.shuffle(self._deck)
            kind = self._deck.pop()
            try:
                stack.enter_context(FAULTS[kind].strike(world))
                struck.append(kind)
            except NoTarget:
                later.append(kind)
        self._deck += later
        return struck

    def _audit(self, world: World) -> None:
        """Stops all nodes and reads what they have on disk."""
        world.cluster.agree()
        wait_until("all have all large contents", lambda: not any(map(_lacks, world.nodes)))
        world.stop()
        found = verify([node.data for node in world.nodes], self._acks)
        wrong = [*found.problems, *(text for node in found.nodes for text in node.problems)]
        if found.acks is not None:
            wrong += found.acks.problems
        require(not wrong, f"the audit found {len(wrong)} problems, such as {wrong[:5]}")
        world.counts["writes audited"] = len(self._acks)

    def _require_coverage(self) -> None:
        """What never happened was not tried."""
        require(self.report.leaders > 0, "the leader never changed")
        never = [kind for kind in self.plan.faults if not self.report.faults[kind]]
        require(not never, f"these faults never happened: {', '.join(never)}; more rounds, please")
        require(self.report.counts["large files stored"], "no large file was stored")
        seen = self.report.mount_reads or not self.plan.setting.mounts
        require(seen, "no file of a mount was read")
        require_variety(self.report.outcomes)


def _lacks(node: Node) -> int:
    """Large contents that it has yet to get."""
    return node.status().contents_missing
