"""What an agent that starts is told with the tree: the small content that it has not had."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import sqlite3
from pathlib import Path

import pytest

from dfs.cache.twin import MemoryNode
from dfs.client.values import Stat
from dfs.limits import AGENT_DATA_BYTES_MAX

from .cache_rig import Rig, wait_until

LARGE = os.urandom(AGENT_DATA_BYTES_MAX + 1)


class Sending(MemoryNode):
    """Notes the contents that come along."""

    def __init__(self) -> None:
        super().__init__()
        self.sent: list[tuple[str, int]] = []

    def _content(self, key: str, stat: Stat, data_bytes_max: int) -> bytes | None:
        data = super()._content(key, stat, data_bytes_max)
        if data is not None:
            self.sent.append((key, stat.revision))
        return data

    def asked_for(self, verb: str) -> list[str]:
        """The keys of such calls."""
        return [key for called, key in self.calls if called == verb]


def noted(state: Path) -> int | None:
    """What the journal in a state directory says to an agent that starts."""
    with contextlib.closing(sqlite3.connect(state / "drops.db")) as database:
        found: tuple[int] | None = database.execute(
            "SELECT value FROM marks WHERE kind='kept'"
        ).fetchone()
    return found and found[0]


async def filled(rig: Rig, count: int) -> None:
    """Files of one number each, which are here."""
    for i in range(count):
        await rig.node.put(f"f{i}", b"%d" % i)
    await rig.shown(f"f{count - 1}", b"%d" % (count - 1))


@pytest.mark.parametrize("how", ["stopped", "killed", "killed behind its note"])
async def test_what_changed_while_it_was_down_comes_with_the_tree(
    tmp_path: Path, how: str
) -> None:
    """The small content that changed while no agent was here is here as soon as the mount is served
    again, and no other content is sent for it."""
    node = Sending()
    async with Rig(tmp_path, node) as rig:
        await filled(rig, 100)
        kept_until, left = node.revision, tmp_path / "left"
        if how != "stopped":  # What an agent leaves that is killed just now, or a moment later.
            await wait_until("it is noted", lambda: noted(rig.state) == kept_until)
            shutil.copytree(rig.state, left, ignore=shutil.ignore_patterns("*.sock", "objects"))
            if how == "killed behind its note":
                await node.put("f7", b"once more")
                await rig.shown("f7", b"once more")
        await rig.stop()
        if how != "stopped":
            shutil.copytree(left, rig.state, dirs_exist_ok=True)
        for i in range(0, 100, 2):
            await node.put(f"f{i}", b"new %d" % i)
        await node.put("large", LARGE)
        node.calls.clear()
        node.sent.clear()
        await rig.start(scanned=False)
        await wait_until("the tree is here", rig.agent.feeder.ready.is_set)
        assert all(rig.shows(f"f{i}", b"new %d" % i) for i in range(0, 100, 2))
        assert not node.asked_for("read")
        assert sorted(node.sent) == sorted(
            (key, stat.revision) for key, stat in node.records.items()
            if stat.revision > kept_until and key != "large"
        )
        await rig.settled()


@pytest.mark.parametrize("kept_until", [0, 1, 1 << 60])
async def test_what_an_agent_notes_is_a_hint_and_no_more(tmp_path: Path, kept_until: int) -> None:
    """Lost, old, or of another cluster: all is right in the end, and what is here stays."""
    async with Rig(tmp_path) as rig:
        await filled(rig, 20)
        await rig.stop()
        assert noted(rig.state) == rig.node.revision
        with contextlib.closing(sqlite3.connect(rig.state / "drops.db")) as database, database:
            database.execute("UPDATE marks SET value=? WHERE kind='kept'", [kept_until])
        inodes = [rig.object(b"%d" % i).stat().st_ino for i in range(5, 20)]
        for i in range(5):
            await rig.node.put(f"f{i}", b"new %d" % i)
        await rig.start()
        for i in range(20):
            await rig.shown(f"f{i}", b"new %d" % i if i < 5 else b"%d" % i)
        assert [rig.object(b"%d" % i).stat().st_ino for i in range(5, 20)] == inodes
        await wait_until("it is noted anew", lambda: noted(rig.state) == rig.node.revision)


async def test_objects_that_somebody_took_away_come_again_with_the_tree(tmp_path: Path) -> None:
    """Whatever the journal says."""
    node = Sending()
    async with Rig(tmp_path, node) as rig:
        await filled(rig, 9)
        await rig.stop()
        for i in range(9):
            rig.object(b"%d" % i).unlink()
        node.sent.clear()
        await rig.start()
        for i in range(9):
            await rig.shown(f"f{i}", b"%d" % i)
        assert sorted(key for key, _ in node.sent) == sorted(node.records)
        assert not node.asked_for("read")


async def test_only_so_much_content_comes_ahead_of_the_mount(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where more has changed the mount is served without the rest, which is fetched then."""
    monkeypatch.setattr("dfs.cache.feeder.AGENT_AHEAD_BYTES_MAX", 10_000)
    node = Sending()
    for i in range(100):
        await node.put(f"f{i}", b"%d" % i)
    node.floor, node.hold = node.revision, asyncio.Event()
    rig = Rig(tmp_path, node)
    await rig.start(scanned=False)
    try:
        await wait_until("the tree is here", rig.agent.feeder.ready.is_set)
        assert len(rig.tree.shown) == 100
        assert len(node.asked_for("snapshot")) == 2
        here = [i for i in range(100) if rig.shows(f"f{i}", b"%d" % i)]
        assert here == list(range(0, 100, 2)), "one part: then it was enough"
        node.hold.set()
        for i in range(100):
            await rig.shown(f"f{i}", b"%d" % i)
        assert set(node.asked_for("read")) == {f"f{i}" for i in range(1, 100, 2)}
    finally:
        await rig.stop()
