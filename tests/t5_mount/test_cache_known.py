"""What is committed, as the agent asks for it: the engine's tree, and beside it its twin."""

from __future__ import annotations

import contextlib
import hashlib
import random
from pathlib import Path

import pytest

from dfs._engine import Tree
from dfs.cache.known import Known, Needed
from dfs.cache.twin import MemoryNode, MemoryTree
from dfs.cache.twin.tree import encoded
from dfs.client.values import Item, Kind, Stat
from dfs.errors import DfsError
from dfs.limits import FEED_ITEMS_MAX

from .cache_rig import Rig, wait_until

NAMES = ("a", "b", "a/b", "a/c", "a/b/d", "b/e", "b/e/f", "g")
Trees = tuple[Tree, MemoryTree]


async def change(node: MemoryNode, chance: random.Random) -> None:
    """One change of any kind, some of which the node refuses."""
    name, what = chance.choice(NAMES), chance.random()
    with contextlib.suppress(DfsError):
        if what < 0.5:
            await node.put(name, b"%d" % chance.randrange(4))
        elif what < 0.6:
            await node.mkdir(name, mode=chance.choice((0o700, 0o755)))
        elif what < 0.7:
            await node.symlink(name, f"to-{what}")
        else:
            await node.delete(name, recursive=True)


def found(tree: Tree | MemoryTree) -> dict[str, Stat]:
    """All of it, asked for in every way."""
    known = Known(tree)
    stats = {path: known.get(path) for path, _ in known.entries()}
    assert len(known) == len(stats)
    for path, version in known.entries():
        stat = stats[path]
        assert stat is not None
        assert version[:2] == (stat.kind, stat.revision)
        assert version.sha256 == stat.sha256
        assert version.size == stat.size or not stat.is_file
        assert path in known
    assert not any(path in known for path in NAMES if path not in stats)
    for name in NAMES:
        below = {path for path, _ in known.entries(name)}
        assert below == {p for p in stats if p == name or p.startswith(f"{name}/")}
    return {path: stat for path, stat in stats.items() if stat is not None}


@pytest.mark.parametrize("seed", range(8))
async def test_any_history_leaves_what_is_committed(seed: int) -> None:
    """By events, and now and then by a snapshot: both trees have what the node has, and say the
    same of each step."""
    chance, node = random.Random(seed), MemoryNode()
    trees: Trees = Tree({}), MemoryTree()
    after = seen = 0
    for _ in range(60):
        for _ in range(chance.randrange(1, 6)):
            await change(node, chance)
        if chance.random() < 0.2:
            items = [Item(key, stat, b"x") for key, stat in node.records.items()]
            parts = [(encoded(items[::2]), 0), (encoded(items[1::2]), 0)]
            for tree in trees:
                tree.begin_snapshot()
            outcomes = [[tree.show([part], [], True) for part in parts] for tree in trees]
            ends = [tree.end_snapshot() for tree in trees]
            outcomes[0].append(ends[0])
            outcomes[1].append(ends[1])
        else:
            answers = [(encoded(node.events[seen:]), after)]
            wanted = [sorted(tree.contents(answers)) for tree in trees]
            assert wanted[0] == wanted[1]
            places = [(sha256, f"/{sha256.hex()}") for sha256, *_ in wanted[0][::2]]
            outcomes = [[tree.show(answers, places, False)] for tree in trees]
            assert [o[0] for o in outcomes[0]] == [o[0] for o in outcomes[1]]
        left = [{sha256 for outcome in each for sha256 in outcome[1]} for each in outcomes]
        assert left[0] >= left[1], "the engine also names what came and went in one batch"
        seen, after = len(node.events), node.revision
        assert found(trees[0]) == found(trees[1]) == node.records
        absent = [{path for path, _ in Known(tree).entries(absent=True)} for tree in trees]
        assert absent[0] == absent[1]
        digests = {stat.sha256 for stat in node.records.values() if stat.kind is Kind.FILE}
        for sha256 in {event.stat.sha256 for event in node.events} - {b""}:
            assert [sha256 in Needed(tree) for tree in trees] == [sha256 in digests] * 2


async def test_more_entries_than_come_in_one_go() -> None:
    node, tree = MemoryNode(), Tree({})
    for number in range(FEED_ITEMS_MAX + 5):
        await node.put(f"d{number % 3}/{number}", b"x")
    tree.show([(encoded(node.events), 0)], [], False)
    assert {path for path, _ in Known(tree).entries()} == set(node.records)


async def test_events_of_a_revision_that_is_known_change_nothing() -> None:
    node = MemoryNode()
    await node.put("f", b"1")
    await node.delete("f")
    await node.put("f", b"2")
    trees: Trees = Tree({}), MemoryTree()
    for tree in trees:
        tree.show([(encoded(node.events), 0)], [], False)
        deleted, left, _ = tree.show([(encoded(node.events[:2]), 2)], [], False)
        assert not deleted
        assert not left
        assert found(tree) == node.records


def test_what_is_no_answer_is_refused() -> None:
    tree = Tree({})
    with pytest.raises(ValueError, match="no answer of a watch"):
        tree.show([(b"\x0a\x05abc", 0)], [], False)
    with pytest.raises(ValueError, match="no answer of a watch"):
        tree.contents([(b"\xff", 0)])


async def test_content_of_what_was_replaced_goes_when_the_kernel_has_forgotten_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Until then somebody may open it."""
    monkeypatch.setattr("dfs.cache.objects.OBJECT_KEEP_S", 0.0)
    async with Rig(tmp_path) as rig:
        one = hashlib.sha256(b"one").digest()
        tree, known = rig.tree, {one}
        looks: list[None] = []
        settle, shows = tree._settle, tree.shows

        def left() -> list[bytes]:
            looks.append(None)
            return [] if known else [one]

        monkeypatch.setattr(tree, "_settle", lambda before: sorted(set(settle(before)) - known))
        monkeypatch.setattr(tree, "shows", lambda sha256: sha256 in known or shows(sha256))
        monkeypatch.setattr(tree, "left", left)
        await rig.node.put("file", b"one")
        await rig.shown("file", b"one")
        await rig.node.put("file", b"two")
        await rig.shown("file", b"two")
        looks.clear()
        await wait_until("it was looked for what can go", lambda: len(looks) > 1)
        assert rig.object(b"one").exists()
        known.clear()
        await wait_until("it is removed", lambda: not rig.object(b"one").exists())
        assert rig.shows("file", b"two")
