"""bench/run --files with a real cluster: every row comes out, and all content was right."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from bench.files.__main__ import ROWS
from bench.files.results import FIGURES

ROOT = Path(__file__).parent.parent.parent

pytestmark = [
    pytest.mark.timeout(300),  # A quarter of a minute; on a busy machine it takes what it takes.
    pytest.mark.skipif(
        not Path("/dev/fuse").exists() or os.geteuid() != 0, reason="needs /dev/fuse and root"
    ),
]


def bench(work: Path, *options: str) -> tuple[int, list[dict[str, Any]], str, str]:
    """A short run: exit code, measurements, what was printed, and complaints."""
    out = work / "results.jsonl"
    done = subprocess.run(
        [ROOT / "bench/run", "--files", "--quick", "--out", out, "--work", work / "work", *options],
        env={**os.environ, "PYTHON": sys.executable}, capture_output=True, text=True, check=False,
    )
    measured = [json.loads(line) for line in out.read_text().splitlines()]
    assert str(work) not in Path("/proc/mounts").read_text()
    return done.returncode, measured, done.stdout, done.stderr


def lines(printed: str) -> list[Sequence[str]]:
    """(row, figure, system) of each line of the table."""
    table = [line for line in printed.splitlines() if line.startswith("| ")]
    return [tuple(cell.strip() for cell in line.split("|")[1:4]) for line in table[2:]]


def test_bench_measures_every_figure(tmp_path: Path) -> None:
    """All rows, little of everything: each figure is measured and positive, and no content was
    wrong, missing, or visible before it was whole."""
    code, measured, printed, said = bench(tmp_path, "--rows", ",".join(ROWS))
    assert code == 0, said
    assert {one["row"] for one in measured} == set(ROWS)
    assert [one for one in measured if one["errors"]] == []
    shown = lines(printed)
    for figure in FIGURES:
        assert (figure.row, figure.key, "dfs") in shown
    for one in measured:
        for name, value in one["figures"].items():
            assert value > 0 or name in ("errors", "longest stall, nobody killed"), name
    assert list((tmp_path / "work").iterdir()) == []
