"""Store, node, client and cache on one thread with faults of all kinds, by the seed: see `sim`."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from sim.mutants import MUTANTS, seeds_needed
from sim.scenario import run

SEEDS = 320
SEEDS_FOR_A_MUTANT = 400
"""Ten times what the one that hides best needs."""
HAPPEN = (
    # faults
    "agent crashes", "agent loses its journal", "all crash at once", "answer lost",
    "answer lost, applied", "barrier not confirmed", "caller cut off", "clock jumps",
    "disk full",
    "entries committed by the next leader", "entries lost with their leader", "events overflow",
    "follower crashes", "forwarded write comes late", "leader change", "leader crashes",
    "log purged", "member cut off both ways", "member cut off deaf", "member cut off mute",
    "member left behind", "member stays away", "message cut off", "message lost",
    "node died during a call", "node dies as it answers", "request duplicated", "request lost",
    "result of a forwarded write lost", "snapshot installed", "snapshot written", "stop in order",
    "stream died", "stream full", "stream reset", "swizzle", "unflushed writes lost in a crash",
    "weather",
    # outcomes
    "answer given again", "bare put done", "bare put failed", "changes told", "conflict copies",
    "copy done", "copy refused", "delete done", "delete refused", "drop", "drop deleted",
    "drops together done", "drops together not known", "drops together refused",
    "entries that came again", "eviction", "floor moved", "gap told",
    "history done", "list done", "local read done", "move done", "move refused", "move unknown",
    "put done", "put refused", "put unknown",
    "put without the hot thread", "read below the floor", "read done", "read failed",
    "read of the past", "repetition done", "request id too old", "scans", "snapshot told",
    "symlink done", "transaction done", "transaction not done", "transaction unknown",
    "watch moved", "write done", "write refused", "write surely not done",
    "write unknown",
)
"""A run in which one of these never happens shows less than it seems to."""


@pytest.mark.timeout(300)
def test_faults_of_all_kinds_break_no_promise() -> None:
    """Clients, watchers and agents on a cluster whose machines crash, whose links fail and whose
    clocks are wrong, by the seed: no acknowledged write is lost or done twice, no read is stale,
    watchers are told everything once, no drop is lost or overwrites what was not known."""
    counts: Counter[str] = Counter()
    for seed in range(1, SEEDS + 1):
        report = run(seed)
        assert report.wrong is None, f"make sim SEED={seed}: {report.wrong}"
        counts += report.counts
    assert [kind for kind in HAPPEN if not counts[kind]] == []


def test_the_same_seed_gives_the_same_trace() -> None:
    """In one process, and in others that hash strings otherwise."""
    seeds = ("11", "12")
    here = [run(int(seed)).digest for seed in seeds]
    assert [run(int(seed)).digest for seed in seeds] == here
    folder = Path(__file__).parent.parent
    for hash_seed in ("1", "2"):
        for seed, digest in zip(seeds, here, strict=True):
            shown = subprocess.run(
                [sys.executable, "-m", "sim", "--seed", seed], check=True, capture_output=True,
                text=True, cwd=folder, env={**os.environ, "PYTHONHASHSEED": hash_seed,
                "PYTHONPATH": f"{folder.parent / 'src'}:{folder}"},
            )
            assert shown.stdout.rstrip().endswith(digest)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", MUTANTS)
def test_a_wrong_version_is_found(name: str) -> None:
    assert seeds_needed(name, SEEDS_FOR_A_MUTANT)
