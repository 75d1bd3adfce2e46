"""A leader that does not get round to applying: how much it still takes, and what goes on."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from .nodes import Node, Refused, cluster, leader, same, wait_until

PATIENT = {"python_ms_max": 600_000}
"""A stalled hot thread shall not lose leadership here."""
LONG_MS = 60_000


@pytest.fixture
def nodes(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[list[Node]]:
    """Three voters with the limits that the test is parametrized with."""
    with cluster(tmp_path, 3, **PATIENT, **request.param) as nodes:
        yield nodes


def offer(first: Node, other: Node, number: int, size: int) -> int:
    """Puts by way of another node; returns when the leader has taken or refused it."""
    before = first.status()["last_log"]
    ticket = other.begin_put(f"k{number}", "v" * size, LONG_MS)

    def decided() -> Any:
        return first.status()["last_log"] > before or other.tickets[ticket]

    wait_until(decided, what="the leader's decision")
    return ticket


def results(node: Node, tickets: list[int]) -> tuple[int, list[str]]:
    """How many of them were applied, and what the others were told."""
    applied, refused = 0, []
    for ticket in tickets:
        try:
            node.wait(ticket)
            applied += 1
        except Refused as refusal:
            code, text, _ = refusal.args
            assert code == 8
            refused.append(str(text))
    return applied, refused


@pytest.mark.parametrize(
    ("nodes", "size", "taken", "knob"),
    [
        ({"apply_lag_entries_max": 20}, 1, range(20, 23), "APPLY_LAG_ENTRIES_MAX"),
        ({"apply_lag_bytes_max": 1 << 20}, 100_000, range(9, 13), "APPLY_LAG_BYTES_MAX"),
    ],
    indirect=["nodes"],
)
def test_a_leader_that_applies_nothing_refuses_more_and_takes_it_again_later(
    nodes: list[Node], size: int, taken: range, knob: str
) -> None:
    """A leader that is far behind with applying refuses writes with RESOURCE_EXHAUSTED; reads and
    the other nodes go on, and writes are taken again as soon as it has caught up."""
    first, other, third = nodes
    assert leader(nodes) is first
    other.put("before", "1")
    first.going.clear()
    first.engine.wake()
    try:
        tickets = [offer(first, other, number, size) for number in range(40)]
        status = first.status()
        assert status["last_log"] - status["applied"] in taken
        wait_until(lambda: third.disk.applied == status["last_log"], what="applied elsewhere")
        assert third.get("before") == "1", "a linearizable read"
        assert third.get("k3") == "v" * size
    finally:
        first.going.set()
    applied, refused = results(other, tickets)
    assert applied in taken
    assert len(refused) == 40 - applied
    assert all(knob in text and "not applied yet" in text for text in refused)
    assert other.put("after", "1") > 0
    same(nodes)
