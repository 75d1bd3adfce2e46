"""Drops that wait at the same time go as one change, and each has its own outcome all the same."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest

from dfs.cache.pending import CLOSED
from dfs.cache.twin import MemoryNode
from dfs.errors import DeadlineExceeded

from .cache_rig import Rig, wait_until

LOST = "was changed elsewhere at the same time"
WAITING = "drops wait here"
FILES = [f"f{i}" for i in range(8)]


@pytest.fixture(autouse=True)
def _one_batch_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dfs.cache.uploader.DROP_BATCHES", 1)


class Node(MemoryNode):
    """Something happens to the answer to several changes."""

    def __init__(self, happens: Callable[[MemoryNode], Awaitable[None]]) -> None:
        super().__init__()
        self._happens = happens

    async def _write(self, changes: Any, request_id: bytes | None) -> int:
        revision = await super()._write(changes, request_id)
        if len(changes) > 1:
            await self._happens(self)
        return revision


async def is_lost(_: MemoryNode) -> None:
    raise DeadlineExceeded("no answer in time; the write may still happen")


async def is_the_last(node: MemoryNode) -> None:
    node.away = True
    raise DeadlineExceeded("no answer in time; the write may still happen")


async def never_comes(_: MemoryNode) -> None:
    await asyncio.Event().wait()


async def gathered(rig: Rig, names: Sequence[str] = FILES) -> None:
    """Has drops wait until another one is stored, which is held up."""
    rig.node.hold = asyncio.Event()
    ahead = f"before-{names[0]}"
    rig.drop(ahead, b"data")
    await wait_until("it is on its way", lambda: ("put", ahead) in rig.node.calls)
    for name in names:
        rig.drop(name, name.encode())
    drops = rig.agent.uploader.pending.drops
    await wait_until(
        "they wait", lambda: all(name in drops and drops[name].why & CLOSED for name in names)
    )


def release(node: MemoryNode) -> None:
    assert node.hold is not None
    node.hold.set()
    node.hold = None


def revisions(node: MemoryNode, names: Iterable[str] = FILES) -> set[int]:
    return {node.records[name].revision for name in names}


async def test_what_waits_while_another_is_stored_is_one_change(tmp_path: Path) -> None:
    async with Rig(tmp_path) as rig:
        await gathered(rig)
        os.symlink("f0", rig.root / "link")
        (rig.root / "link").rename(rig.cache / "link")
        (rig.cache / "made").mkdir()
        await wait_until("all wait", lambda: "made" in rig.agent.uploader.pending.drops)
        release(rig.node)
        await rig.settled()
        assert rig.node.transactions == [len(FILES) + 1]
        assert revisions(rig.node, [*FILES, "link"]) == {rig.node.revision}
        assert all(rig.versions(name) == [name.encode()] for name in FILES)
        assert rig.node.records["link"].target == "f0"
        assert rig.agent.uploader.counts.stored == len(FILES) + 3
        await rig.stop()
        await rig.start()
        assert len(rig.node.events) == len(FILES) + 3


async def test_one_that_comes_alone_waits_for_no_other(tmp_path: Path) -> None:
    async with Rig(tmp_path) as rig:
        for name in FILES:
            rig.drop(name, b"data")
            await rig.settled()
        assert rig.node.transactions == []
        assert rig.node.calls.count(("put", "f0")) == 1


@pytest.mark.allow_logs(LOST, "is a directory")
async def test_one_that_is_refused_takes_no_other_with_it(tmp_path: Path) -> None:
    async with Rig(tmp_path) as rig:
        await rig.node.put_elsewhere("dir/below", b"elsewhere")
        await rig.shown("dir/below", b"elsewhere")
        await gathered(rig, [*FILES, "dir", "taken"])
        rig.node.commit("taken", b"elsewhere")
        release(rig.node)
        await rig.settled()
        assert rig.node.transactions == [len(FILES) + 2]
        assert all(rig.versions(name) == [name.encode()] for name in FILES)
        assert len(revisions(rig.node)) == len(FILES), "they went one by one"
        assert rig.problems().startswith("dir: dir is a directory")
        assert rig.versions("taken") == [b"elsewhere"]
        [copy] = [key for key in rig.node.records if key.startswith("taken.dfs-conflict-")]
        assert rig.versions(copy) == [b"taken"]
        assert rig.agent.status().pending_drops == 1
        assert len(rig.agent.problems) == 1


async def test_a_change_of_one_meanwhile_comes_behind_it(tmp_path: Path) -> None:
    async with Rig(tmp_path) as rig:
        await gathered(rig)
        held = rig.node.hold
        rig.node.hold = asyncio.Event()
        assert held is not None
        held.set()
        await wait_until("they are on their way", lambda: rig.node.transactions)
        rig.drop("f3", b"second")
        await wait_until("it is seen", lambda: rig.agent.uploader.pending.drops["f3"].again)
        release(rig.node)
        await rig.settled()
        assert rig.versions("f3") == [b"f3", b"second"]
        assert [key for key in rig.node.records if "conflict" in key] == []


@pytest.mark.allow_logs(WAITING, "the stream of changes broke")
async def test_the_answer_to_all_is_lost_and_each_is_there_once(tmp_path: Path) -> None:
    """Nor does the stream of changes say that they were stored."""
    async with Rig(tmp_path, Node(is_lost)) as rig:
        await gathered(rig)
        await rig.node.set_cut(True)
        await wait_until("it is cut off", lambda: not rig.agent.feeder.live)
        release(rig.node)
        await wait_until("all are dealt with", lambda: not rig.agent.uploader.pending.drops)
        assert rig.node.transactions == [len(FILES)]
        assert all(rig.versions(name) == [name.encode()] for name in FILES)
        rows = rig.agent.journal.rows
        assert {rows[name].revision for name in FILES} == revisions(rig.node)
        assert "(upload)" not in rig.agent.problems
        await rig.node.set_cut(False)


@pytest.mark.allow_logs(WAITING)
async def test_what_changes_after_a_lost_answer_to_all_is_no_conflict(tmp_path: Path) -> None:
    async with Rig(tmp_path, Node(is_the_last)) as rig:
        await gathered(rig)
        release(rig.node)
        await wait_until("they wait", lambda: WAITING in rig.problems())
        rig.drop("f3", b"second")
        rig.node.away = False
        await rig.settled()
        assert rig.versions("f3") == [b"f3", b"second"]
        assert all(rig.versions(name) == [name.encode()] for name in FILES if name != "f3")
        assert [key for key in rig.node.records if "conflict" in key] == []
        assert rig.problems() == ""


async def test_an_agent_that_dies_before_the_answer_stores_nothing_twice(tmp_path: Path) -> None:
    async with Rig(tmp_path, Node(never_comes)) as rig:
        await gathered(rig)
        release(rig.node)
        await wait_until("they are committed", lambda: "f7" in rig.node.records)
        await rig.stop()
        assert "f7" not in rig.agent.journal.rows
        rig.drop("f3", b"second")
        before = len(rig.node.events)
        await rig.start()
        assert len(rig.node.events) == before + 1
        assert rig.versions("f3") == [b"f3", b"second"]
        assert rig.agent.journal.rows["f7"].revision == rig.node.records["f7"].revision


async def test_what_goes_together_is_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dfs.cache.uploader.DROPS_TOGETHER_MAX", 5)
    async with Rig(tmp_path) as rig:
        await gathered(rig)
        release(rig.node)
        await rig.settled()
        assert rig.node.transactions == [5, 3]
        monkeypatch.setattr("dfs.cache.reader.DROPS_TOGETHER_BYTES_MAX", 7)
        await gathered(rig, names := [f"g{i}" for i in range(8)])
        release(rig.node)
        await rig.settled()
        assert set(rig.node.transactions[2:]) == {4}, "two bytes each: the fourth passes seven"
        assert all(rig.versions(name) == [name.encode()] for name in names)


@pytest.mark.allow_logs(WAITING)
async def test_only_what_is_stored_says_that_the_cluster_takes_drops(tmp_path: Path) -> None:
    async with Rig(tmp_path) as rig:
        rig.drop("there", b"data")
        await rig.settled()
        rig.node.away = True
        waits = rig.drop("waits", b"data")
        await wait_until("it waits", lambda: WAITING in rig.problems())
        rig.drop("there", b"data")
        await wait_until("the tree has it", lambda: rig.agent.uploader.counts.equal == 1)
        assert WAITING in rig.problems()
        assert rig.agent.uploader.why(rig.agent.uploader.pending.drops["waits"]).startswith(WAITING)
        waits.unlink()
        await wait_until("nothing waits any more", lambda: not rig.problems())
