"""grpc-go against a node: what programs in other languages rely on."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from dfs.nemesis.processes import running

CLIENT = Path(__file__).parent.parent.parent / ".build" / "bin" / "conformance"


def test_grpc_go_finds_nothing_to_complain_about(tmp_path: Path) -> None:
    """Unary calls, streams, deadlines, cancelling, compression, metadata, details, 1,000 streams on
    one connection that nobody cuts; see tests/conformance."""
    if not CLIENT.exists():
        pytest.skip("no grpc-go client: `make test` builds it where Go is installed")
    with running(tmp_path, count=1) as cluster:
        done = subprocess.run(
            [CLIENT, cluster.nodes[0].endpoint],
            capture_output=True, text=True, timeout=60, check=False,
        )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("\nok ") == 11, done.stdout
