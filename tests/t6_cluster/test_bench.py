"""bench/run with a real cluster, and the tests of its load generator; both need Go."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bench.kv import recovery

ROOT = Path(__file__).parent.parent.parent
ROW = "put 100B c1"

pytestmark = [
    pytest.mark.skipif(shutil.which("go") is None, reason="Go is not installed"),
    # The first build fetches and compiles gRPC.
    pytest.mark.timeout(600),
]


def bench(work: Path, row: str) -> tuple[dict[str, Any], str]:
    """A short run of one row with dfs: the measurement and what was printed."""
    out = work / "results.jsonl"
    done = subprocess.run(
        [
            ROOT / "bench/run", "--quick", "--systems", "dfs", "--rows", row,
            "--out", out, "--work", work / "work",
        ],
        env={**os.environ, "PYTHON": sys.executable}, capture_output=True, text=True, check=False,
    )
    assert done.returncode == 0, done.stderr
    (measured,) = map(json.loads, out.read_text().splitlines())
    assert (measured["row"], measured["system"], measured["failed"]) == (row, "dfs", 0)
    assert not list((work / "work").iterdir())
    return measured, done.stdout


def test_bench_measures_dfs(tmp_path: Path) -> None:
    """A short run of one row builds the generator, starts three nodes and prints its table."""
    measured, printed = bench(tmp_path, ROW)
    assert measured["value"] > 1
    assert measured["server_us"] > 0
    assert 0 < measured["p50_ms"] <= measured["p99_ms"]
    (line,) = (s for s in printed.splitlines() if s.startswith(f"| {ROW} "))
    assert " dfs " in line


@pytest.mark.skipif(os.geteuid() != 0, reason="disks that lose their power need root")
def test_bench_measures_recovery(tmp_path: Path) -> None:
    """All machines lose their power: puts are acknowledged again, and none is lost; no disk stays
    mounted."""
    measured, _ = bench(tmp_path, "recovery power cut")
    assert 0 < measured["value"] < recovery.AFTER_S
    assert str(tmp_path) not in Path("/proc/mounts").read_text()


def test_generator_notices_wrong_answers() -> None:
    """The Go tests of the load generator: each fault of a server is counted as a failure. And
    Go code is formatted."""
    done = subprocess.run(
        ["go", "test", "./kvload", "./wire"], cwd=ROOT / "bench/kv", capture_output=True, text=True,
        env={**os.environ, "CGO_ENABLED": "0"}, check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    formatted = subprocess.run(
        ["gofmt", "-l", "."], cwd=ROOT / "bench/kv", capture_output=True, text=True, check=True
    )
    assert formatted.stdout == ""
