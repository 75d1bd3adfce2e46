"""bench/run with a real cluster, and the tests of its load generator; both need Go."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
ROW = "put 100B c1"

pytestmark = [
    pytest.mark.skipif(shutil.which("go") is None, reason="Go is not installed"),
    # The first build fetches and compiles gRPC.
    pytest.mark.timeout(600),
]


def test_bench_measures_dfs(tmp_path: Path) -> None:
    """A short run of one row builds the generator, starts three nodes and prints its table."""
    out = tmp_path / "results.jsonl"
    done = subprocess.run(
        [
            ROOT / "bench/run", "--quick", "--systems", "dfs", "--rows", ROW,
            "--out", out, "--work", tmp_path / "work",
        ],
        env={**os.environ, "PYTHON": sys.executable}, capture_output=True, text=True, check=False,
    )
    assert done.returncode == 0, done.stderr
    (measured,) = map(json.loads, out.read_text().splitlines())
    assert (measured["row"], measured["system"], measured["failed"]) == (ROW, "dfs", 0)
    assert measured["value"] > 1
    assert measured["server_us"] > 0
    assert 0 < measured["p50_ms"] <= measured["p99_ms"]
    (line,) = (s for s in done.stdout.splitlines() if s.startswith(f"| {ROW} "))
    assert " dfs " in line
    assert not list((tmp_path / "work").iterdir())


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
