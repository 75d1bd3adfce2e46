"""Changes of the membership: one entry, if nobody was faster, and one vote at a time."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from dfs import _engine

from .nodes import Node, cluster, leader, same, wait_until


def rows(node: Node) -> list[tuple[int, str, str, str, bool]]:
    """The members, as `change` takes them."""
    found = node.status()["members"]
    return [(m["id"], m["name"], m["raft"], m["grpc"], m["voter"]) for m in found]


def one_configuration(nodes: list[Node]) -> None:
    wait_until(lambda: len({n.status()["config"] for n in nodes}) == 1, what="one configuration")


def test_of_changes_of_one_configuration_one_is_made(tmp_path: Path) -> None:
    """As many as may be proposed at the same time."""
    with cluster(tmp_path, 3) as nodes:
        node, config = nodes[0], nodes[0].status()["config"]
        made: list[int] = []
        refused: list[str] = []

        def add(number: int) -> None:
            new = (number, f"new{number}", f"127.0.0.1:{number}", "", False)
            try:
                made.append(node.engine.change(config, [*rows(node)[:3], new], 5_000))
            except _engine.EngineError as error:
                refused.append(str(error))

        threads = [threading.Thread(target=add, args=(n,)) for n in range(1, 9)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert made == [node.status()["config"]]
        assert len(refused) == 7
        one_configuration(nodes)
        assert {len(rows(other)) for other in nodes} == {4}
        said = rf"those of entry {made[0]}, not of {config} any more"
        with pytest.raises(_engine.EngineError, match=said):
            node.engine.change(config, rows(node), 5_000)
        assert node.engine.change(made[0], rows(node), 5_000) == made[0], "nothing to change"


def test_two_votes_at_once_are_refused(tmp_path: Path) -> None:
    """Then a majority before and one after might not meet."""
    with cluster(tmp_path, 3) as nodes:
        node = nodes[0]
        before, config = rows(node), node.status()["config"]
        for wrong in (before[:1], [], [(*row[:4], False) for row in before]):
            with pytest.raises(_engine.EngineError):
                node.engine.change(config, wrong, 5_000)
        assert (rows(node), node.status()["config"]) == (before, config)
        with pytest.raises(_engine.EngineError, match="not the leader, node1 is"):
            nodes[1].engine.change(config, before[:2], 5_000)


def test_a_voter_is_swapped_by_one_entry(tmp_path: Path) -> None:
    """The one that is gone goes and the new one comes together; a snapshot tells the new one."""
    with cluster(tmp_path, 3) as nodes:
        node, lost = nodes[0], nodes[2]
        node.put("a", "1")
        lost.close()
        new = Node(tmp_path / "new", lost.name).start()
        try:
            config = node.status()["config"]
            here = [row for row in rows(node) if row[0] != lost.id]
            row = (new.id, new.name, new.addr, new.grpc, False)
            last = node.status()["last_log"]
            assert node.engine.change(config, [*here, row], 5_000) == last + 1
            node.admit(new)
            assert new.put("b", "1") > 0
            nodes[1].close()
            assert node.get("b") == "1", "the new one counts"
            same([node, new])
            nodes[1].start()
        finally:
            new.close()
            lost.start()


def test_a_change_without_a_majority_may_come_about_later(tmp_path: Path) -> None:
    with cluster(tmp_path, 3) as nodes:
        node, config = nodes[0], nodes[0].status()["config"]
        for other in nodes[1:]:
            other.close()
        new = (9, "new", "127.0.0.1:9", "", False)
        with pytest.raises((TimeoutError, _engine.EngineError), match=r"node[123]"):
            node.engine.change(config, [*rows(node), new], 700)
        for other in nodes[1:]:
            other.start()
        leads = leader(nodes)
        leads.put("a", "1")
        one_configuration(nodes)
        leads.change(7, (7, "newer", "127.0.0.1:7", "", False))
        assert 7 in {row[0] for row in rows(leads)}
