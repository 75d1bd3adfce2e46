"""A node that is left alone says so, and who is missing; what it has applied can still be read."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import dfs
from dfs.nemesis.processes import Cluster, Node, running, wait_until


def leave_alone(cluster: Cluster) -> tuple[Node, list[Node]]:
    """Kills all nodes but the leader."""
    leader = cluster.leader()
    others = [node for node in cluster.nodes if node is not leader]
    for node in others:
        node.kill()
    return leader, others


@pytest.mark.parametrize("timeout_s", [2.0, 8.0])
def test_without_a_quorum_calls_end_in_time_and_name_the_silent(
    tmp_path: Path, timeout_s: float
) -> None:
    """Without a majority a write and a linearizable read end within their deadline, and say which
    nodes are silent and how many are needed; a local read is answered."""
    with running(tmp_path) as cluster:
        with cluster.client() as client:
            client.put("k", b"v")
        leader, others = leave_alone(cluster)
        with leader.client() as client:
            outcomes: list[Exception] = []

            def first_put() -> None:
                # In flight while the leader still believes in its majority: unknown or not done.
                try:
                    client.put("k", b"w", timeout=timeout_s)
                except (dfs.OutcomeUnknown, dfs.Unavailable) as error:
                    outcomes.append(error)

            def refused(call: Callable[[], object]) -> tuple[str, float]:
                begin_s = time.monotonic()
                with pytest.raises((dfs.Unavailable, dfs.OutcomeUnknown)) as refusal:
                    call()
                return str(refusal.value), time.monotonic() - begin_s

            with ThreadPoolExecutor() as at_once:
                early = at_once.submit(first_put)
                calls = (lambda: client.put("other", b"x", timeout=timeout_s),
                         lambda: client.get("k", timeout=timeout_s))  # fmt: skip
                for said, took_s in at_once.map(refused, calls):
                    assert took_s < timeout_s
                    for node in others:
                        assert f"{node.name} silent for" in said
                    assert "2 of 3 voters are needed" in said
                early.result()
            assert len(outcomes) == 1
            assert all(f"{node.name} silent for" in str(outcomes[0]) for node in others)
            assert client.get("k", local=True) == b"v"
        for node in others:
            node.start()
        wait_until("the cluster is whole", cluster.complete)
        with cluster.client() as client:
            assert client.get("k") in (b"v", b"w")
            client.put("k", b"after")
            assert client.get("k") == b"after"
