"""Two nodes and one file; a node without a quorum; restarts with work left over."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import sqlite3
from pathlib import Path

import pytest

from dfs._engine import Tree
from dfs.cache import conflicts
from dfs.cache.agent import Agent, Options
from dfs.cache.journal import MARKS, PIN, Journal
from dfs.cache.known import Known
from dfs.cache.twin import MemoryNode, MemoryTree
from dfs.errors import RequestTooOld
from dfs.limits import COMPONENT_BYTES_MAX
from dfs.proto import dfs_pb2 as pb

from .cache_rig import Rig, wait_until

LOST = "was changed elsewhere at the same time"
WAITING = "drops wait here"


def copies(node: MemoryNode) -> list[str]:
    return [key for key in node.records if ".dfs-conflict-" in key]


def test_a_conflict_name_says_when_and_where_and_fits() -> None:
    when = 1_790_000_000_000_000_000
    assert conflicts.name("d/f.txt", when, "node1") == (
        "d/f.txt.dfs-conflict-20260921T141320Z-node1"
    )
    assert conflicts.name("d/f.txt", when, "node1", 2).endswith("-node1-2")
    again = conflicts.name("d/f.txt", when, "node1")
    assert conflicts.name(again, when, "node2") == "d/f.txt.dfs-conflict-20260921T141320Z-node2"
    long = conflicts.name("d/" + "ü" * 127, when, "node1")
    assert len(long.split("/")[1].encode()) <= COMPONENT_BYTES_MAX
    assert conflicts.name("x", 10**30, "n").startswith("x.dfs-conflict-19700101")


@pytest.mark.allow_logs(LOST)
async def test_the_first_commit_wins_and_the_loser_is_kept_once(tmp_path: Path) -> None:
    """When two nodes change one file at once, the first commit wins and the other content is kept
    once beside it as a conflict copy."""
    node = MemoryNode()
    async with Rig(tmp_path, node, "node1") as one, Rig(tmp_path, node, "node2") as two:
        one.drop("file", b"base")
        await two.shown("file", b"base")
        await one.settled()
        node.hold = asyncio.Event()
        one.drop("file", b"from one")
        two.drop("file", b"from two")
        await wait_until("both are on their way", lambda: node.calls.count(("put", "file")) == 3)
        node.hold.set()
        node.hold = None
        await wait_until("the loser is kept", lambda: copies(node))
        await one.settled()
        await two.settled()
        await one.rescan()
        await two.rescan()
        (copy,) = copies(node)
        contents = {node.events[-1].data, node.contents["file", node.records["file"].revision]}
        assert contents == {b"from one", b"from two"}
        assert copy.startswith("file.dfs-conflict-20")
        revision = node.revision
        for rig in (one, two):
            await rig.stop()
            await rig.start()
        assert node.revision == revision


async def test_the_same_content_from_two_nodes_is_no_conflict(tmp_path: Path) -> None:
    node = MemoryNode()
    async with Rig(tmp_path, node, "node1") as one, Rig(tmp_path, node, "node2") as two:
        node.hold = asyncio.Event()
        one.drop("file", b"same")
        two.drop("file", b"same")
        await wait_until("both are on their way", lambda: len(node.calls) >= 6)
        node.hold.set()
        await one.settled()
        await two.settled()
        assert [e.key for e in node.events] == ["file"]


@pytest.mark.parametrize("below", ["", "d/"])
@pytest.mark.allow_logs("the stream of changes broke")
async def test_what_is_removed_and_comes_again_at_once_is_no_conflict(
    tmp_path: Path, below: str
) -> None:
    """Though the stream has not told yet of the version that was stored from here."""
    async with Rig(tmp_path) as rig:
        await rig.node.set_cut(True)
        path, again = f"{below}file", rig.root / "again"
        for number, data in enumerate((b"1", b"22", b"333"), 1):
            (again / below).mkdir(parents=True, exist_ok=True)
            (again / path).write_bytes(data)
            os.rename(again / (below or path), rig.cache / (below or path))
            await wait_until("it is stored", lambda n=number: rig.versions(path)[n - 1 :])
            await rig.settled()
            if number < 3:
                shutil.move(rig.cache / (below or path), tmp_path / f"away{number}")
                await rig.settled()
                assert rig.agent.journal.rows == {}
        await rig.node.set_cut(False)
        await rig.shown(path, b"333")
        assert copies(rig.node) == []
        (rig.cache / path).unlink()
        await rig.settled()
        assert rig.agent.journal.unseen == {}, "all is seen"


async def test_a_later_drop_elsewhere_replaces_what_it_has_seen(tmp_path: Path) -> None:
    node = MemoryNode()
    async with Rig(tmp_path, node, "node1") as one, Rig(tmp_path, node, "node2") as two:
        one.drop("file", b"1")
        await two.shown("file", b"1")
        two.drop("file", b"2")
        await one.shown("file", b"2")
        one.drop("file", b"3")
        await two.shown("file", b"3")
        assert list(node.records) == ["file"]


@pytest.mark.allow_logs(LOST, WAITING)
async def test_a_drop_that_waited_for_a_quorum_does_not_overwrite_what_came_meanwhile(
    tmp_path: Path,
) -> None:
    """A drop that waited for a quorum does not overwrite what came meanwhile: it becomes a
    conflict copy."""
    async with Rig(tmp_path) as rig:
        rig.drop("file", b"base")
        await rig.shown("file", b"base")
        rig.node.away = True
        rig.drop("file", b"offline")
        await wait_until("it waits", rig.problems)
        await rig.stop()
        rig.node.away = False
        await rig.node.put("file", b"meanwhile")
        await rig.start()
        await rig.shown("file", b"meanwhile")
        (copy,) = copies(rig.node)
        await rig.shown(copy, b"offline")


@pytest.mark.allow_logs(WAITING)
async def test_without_a_quorum_drops_wait_and_go_later_in_order(tmp_path: Path) -> None:
    async with Rig(tmp_path) as rig:
        rig.node.away = True
        for i in range(100):
            rig.drop(f"d/f{i}", b"%d" % i)
        await wait_until("it is said", rig.problems)
        await wait_until("all wait", lambda: rig.agent.status().pending_drops == 101)
        rig.drop("d/f0", b"second thoughts")
        rig.node.away = False
        await rig.shown("d/f0", b"second thoughts")
        await rig.settled()
        assert [len(rig.versions(f"d/f{i}")) for i in range(1, 100)] == [1] * 99
        assert rig.problems() == ""


@pytest.mark.allow_logs(WAITING)
async def test_a_drop_that_is_removed_while_it_waits_is_forgotten(tmp_path: Path) -> None:
    async with Rig(tmp_path) as rig:
        rig.node.away = True
        rig.drop("kept", b"1")
        removed = rig.drop("removed", b"2")
        await wait_until("both wait", lambda: set(rig.agent.journal.bases) == {"kept", "removed"})
        removed.unlink()
        await wait_until("it is seen", lambda: "removed" not in rig.agent.journal.bases)
        await rig.stop()
        rig.node.away = False
        await rig.start()
        await rig.shown("kept", b"1")
        assert list(rig.node.records) == ["kept"]


@pytest.mark.allow_logs(WAITING)
async def test_a_lost_answer_is_retried_and_applied_once(tmp_path: Path) -> None:
    async with Rig(tmp_path) as rig:
        rig.node.lose_answers = 2
        rig.drop("file", b"data")
        await rig.shown("file", b"data")
        await rig.settled()
        assert rig.versions("file") == [b"data"]
        assert rig.problems() == ""


@pytest.mark.allow_logs(WAITING)
async def test_what_changes_after_a_lost_answer_is_another_request(tmp_path: Path) -> None:
    """The first attempt was done: the later content replaces it, though it goes with the base of
    the first, and neither is refused nor kept as a conflict with itself."""
    async with Rig(tmp_path) as rig:
        file = rig.drop("file", b"base")
        rig.drop("mode", b"base")
        await rig.settled()
        rig.node.lose_answers = 100
        rig.drop("file", b"first")
        mode = rig.drop("mode", b"first")
        await wait_until("both were done", lambda: len(rig.node.events) == 4)
        rig.node.away = True
        file.write_bytes(b"second")
        mode.chmod(0o600)
        rig.node.away = False
        await rig.shown("file", b"second")
        await rig.settled()
        assert rig.versions("file") == [b"base", b"first", b"second"]
        assert rig.node.records["mode"].mode == 0o600
        assert copies(rig.node) == []
        assert rig.problems() == ""


@pytest.mark.allow_logs(WAITING)
async def test_a_drop_whose_id_is_older_than_history_goes_with_another(tmp_path: Path) -> None:
    ids: list[bytes | None] = []

    class Forgetful(MemoryNode):
        async def put(self, key, data, *, request_id=None, **rest):
            ids.append(request_id)
            if len(ids) == 1:
                raise RequestTooOld("the request id is older than the retained history")
            return await super().put(key, data, request_id=request_id, **rest)

    async with Rig(tmp_path, Forgetful()) as rig:
        rig.drop("file", b"data")
        await rig.shown("file", b"data")
        await rig.settled()
        assert len(set(ids)) == 2
        assert rig.problems() == ""


@pytest.mark.allow_logs(LOST)
async def test_a_change_during_an_upload_does_not_overwrite_what_came_meanwhile(
    tmp_path: Path,
) -> None:
    """It was made before the other version was known here, as much as the content under way."""
    async with Rig(tmp_path) as rig:
        rig.drop("file", b"base")
        await rig.settled()
        rig.node.hold = asyncio.Event()
        rig.drop("file", b"first")
        await wait_until("it is under way", lambda: rig.node.calls.count(("put", "file")) == 2)
        rig.drop("file", b"second")
        await wait_until("it is noticed", lambda: rig.agent.uploader.pending.drops["file"].again)
        await rig.node.put_elsewhere("file", b"elsewhere")
        await rig.shown("file", b"elsewhere")
        rig.node.hold.set()
        await rig.settled()
        assert rig.versions("file") == [b"base", b"elsewhere"]
        kept = {rig.node.contents[key, rig.node.records[key].revision] for key in copies(rig.node)}
        assert kept == {b"first", b"second"}


@pytest.mark.allow_logs(WAITING)
async def test_pending_drops_survive_a_restart(tmp_path: Path) -> None:
    async with Rig(tmp_path) as rig:
        rig.node.away = True
        for i in range(20):
            rig.drop(f"f{i}", b"%d" % i)
        await wait_until("they wait", lambda: rig.agent.status().pending_drops == 20)
        await rig.stop()
        rig.drop("while-down", b"x")
        rig.node.away = False
        await rig.start()
        for i in range(20):
            await rig.shown(f"f{i}", b"%d" % i)
        await rig.shown("while-down", b"x")


@pytest.mark.allow_logs(LOST)
async def test_old_files_of_a_lost_journal_do_not_overwrite_newer_versions(tmp_path: Path) -> None:
    async with Rig(tmp_path) as rig:
        rig.drop("file", b"old")
        rig.drop("same", b"same")
        await rig.shown("file", b"old")
        await rig.node.put("file", b"newer")
        await rig.shown("file", b"newer")
        await rig.settled()
        await rig.stop()
        shutil.rmtree(rig.state)
        revision = rig.node.revision
        await rig.start()
        await rig.settled()
        assert rig.shows("file", b"newer")
        (copy,) = copies(rig.node)
        assert rig.shows(copy, b"old")
        assert rig.node.revision == revision + 1


@pytest.mark.allow_logs("is damaged")
async def test_a_damaged_journal_is_set_aside(tmp_path: Path) -> None:
    async with Rig(tmp_path) as rig:
        rig.drop("file", b"data")
        await rig.shown("file", b"data")
        await rig.settled()
        await rig.stop()
        (rig.state / "drops.db").write_bytes(b"no database" * 1_000)
        await rig.start()
        await rig.settled()
        assert rig.node.revision == 1
        assert (rig.state / "drops.db.damaged").exists()


@pytest.mark.allow_logs("is damaged")
def test_nothing_of_a_damaged_journal_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor are marks that were read before the damage was found."""
    load, loads = Journal._load, []

    def damaged(journal: Journal) -> None:
        load(journal)
        loads.append(1)
        if len(loads) == 1:
            raise sqlite3.DatabaseError("database disk image is malformed")

    with contextlib.closing(Journal(str(tmp_path))) as journal:
        journal.open()
        journal.mark(PIN, "d", 1)
    monkeypatch.setattr(Journal, "_load", damaged)
    with contextlib.closing(Journal(str(tmp_path))) as journal:
        journal.open()
        assert len(loads) == 2
        assert journal.marks == {kind: {} for kind in MARKS}


def test_a_journal_that_cannot_be_written_is_closed_and_loses_no_mark(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    journal = Journal(str(tmp_path))
    journal.open()
    journal.mark(PIN, "d", 1)
    journal.wait("file", 7)
    with monkeypatch.context() as patched:
        patched.setattr(Journal, "_write", full)
        with pytest.raises(OSError, match="disk is full"):
            journal.close()
    assert journal._database is None
    again = Journal(str(tmp_path))
    again.open()
    assert (again.marks[PIN], again.bases) == ({"d": 1}, {})
    again.close()


@pytest.mark.allow_logs("is a file")
async def test_what_a_file_in_the_tree_blocks_goes_when_the_file_is_deleted(tmp_path: Path) -> None:
    async with Rig(tmp_path) as rig:
        await rig.node.put("a", b"a file")
        await rig.shown("a", b"a file")
        rig.drop("a/b", b"below it")
        await wait_until("it is said", lambda: "a/b: a is a file" in rig.problems())
        await rig.node.delete("a")
        await rig.shown("a/b", b"below it")
        await rig.settled()
        assert rig.problems() == ""


async def test_a_drop_that_was_deleted_from_the_tree_does_not_come_back(tmp_path: Path) -> None:
    async with Rig(tmp_path) as rig:
        file = rig.drop("file", b"data")
        await rig.shown("file", b"data")
        await rig.settled()
        await rig.node.delete("file")
        await wait_until("it is gone", lambda: "file" not in rig.tree.shown)
        await rig.rescan()
        await rig.stop()
        await rig.start()
        assert "file" not in rig.node.records
        os.utime(file)
        file.write_bytes(b"a new one")
        await rig.shown("file", b"a new one")


async def test_without_a_mount_drops_go_all_the_same(tmp_path: Path) -> None:
    node, cache = MemoryNode(), tmp_path / "cache"
    options = Options(
        ["memory"], str(tmp_path / "state"), str(cache), contents=str(tmp_path / "contents")
    )
    agent = Agent(options, node, None)
    running = asyncio.create_task(agent.run())
    try:
        await wait_until("the cache is there", cache.exists)
        (cache / "file").write_bytes(b"data")
        await wait_until("it is stored", lambda: "file" in node.records)
        await wait_until("it is reported", lambda: node.reports)
        assert node.reports[0].mount_mode == "off: nothing is mounted"
        assert not (tmp_path / "state" / "objects").exists()
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


def test_the_twin_of_the_tree_refuses_what_the_real_one_refuses() -> None:
    for tree in (MemoryTree(), Tree({})):
        bad = pb.Item(key="a//b", record=pb.Record(revision=1))
        answer = pb.WatchResponse(items=[bad]).SerializeToString()
        _, _, refused = tree.show([(answer, 0)], [], True)
        assert [path for path, _ in refused] == ["a//b"]
        assert tree.committed() == 0
        for ask in (tree.record, lambda path, tree=tree: tree.entries(path, "", 1, False)):
            with pytest.raises(UnicodeEncodeError):
                ask(os.fsdecode(b"caf\xe9"))
        assert os.fsdecode(b"caf\xe9") not in Known(tree)
