"""grpcurl against each node, as a user types it: no .proto file, JSON in and out."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

from dfs.nemesis.processes import Node, running

Done = subprocess.CompletedProcess[str]


def call(grpcurl: Path, node: Node, method: str, **request: Any) -> Done:
    """Runs `grpcurl -plaintext -d REQUEST HOST:PORT METHOD`."""
    return subprocess.run(
        [grpcurl, "-plaintext", "-d", json.dumps(request), node.endpoint, method],
        capture_output=True, text=True, timeout=30, check=False,
    )


def answer(grpcurl: Path, node: Node, method: str, **request: Any) -> Any:
    """The answer of a call that succeeds."""
    done = call(grpcurl, node, method, **request)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_every_node_answers_grpcurl(tmp_path: Path, grpcurl: Path) -> None:
    """Any node, leader or not, answers grpcurl through server reflection: what is put at one is got
    at all."""
    with running(tmp_path) as cluster:
        for number, node in enumerate(cluster.nodes):
            key = f"foo{number}"
            put = answer(grpcurl, node, "dfs.FileService/Put", key=key, data="YmFy")
            for other in cluster.nodes:
                got = answer(grpcurl, other, "dfs.FileService/Get", key=key)
                assert got["data"] == "YmFy"
                assert got["record"]["revision"] == put["revision"]
        for node in cluster.nodes:
            health = answer(grpcurl, node, "grpc.health.v1.Health/Check")
            assert health == {"status": "SERVING"}
            refused = call(grpcurl, node, "dfs.FileService/Get", key="a//b")
            assert "Code: InvalidArgument" in refused.stderr
            assert '"reason": "INVALID_ARGUMENT"' in refused.stderr
        listed = subprocess.run(
            [grpcurl, "-plaintext", cluster.nodes[1].endpoint, "list"],
            capture_output=True, text=True, timeout=30, check=True,
        )
        assert {"dfs.FileService", "dfs.ClusterService"} <= set(listed.stdout.split())
