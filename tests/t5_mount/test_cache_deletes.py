"""Removals from the cache directory that are deleted from the tree, where that is wished."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
from pathlib import Path
from typing import Any

import pytest

from dfs.cache.ignore import MARKER
from dfs.errors import FailedPrecondition

from .cache_rig import Rig, wait_until

STOPPED = "nothing is deleted from the tree until you say so"
MISSING = "is missing; make it where removals are to count"


def rig_of(tmp_path: Path, marker: bool = True, delay_s: float = 0.1) -> Rig:
    """An agent that propagates deletes; "keep…" are enough others that a few do not matter."""
    rig = Rig(tmp_path)
    rig.options |= {"propagate_deletes": True, "delete_delay_s": delay_s}
    if marker:
        rig.drop(MARKER, b"")
    return rig


async def with_drops(rig: Rig, *paths: str) -> None:
    for path in [*paths, *(f"keep{i}" for i in range(8))]:
        rig.drop(path, path.encode())
    await rig.settled()


def waiting(rig: Rig) -> set[str]:
    assert rig.agent.deletes is not None
    return set(rig.agent.deletes.waiting)


async def nothing_waits(rig: Rig) -> None:
    await rig.settled()
    await wait_until("nothing waits", lambda: not waiting(rig))


async def test_what_is_removed_is_deleted_after_the_delay(tmp_path: Path) -> None:
    """With `-propagate-deletes` and the marker file, what is removed from the cache directory is
    deleted from the tree when it has been gone for the delay, directories after what is in them."""
    async with rig_of(tmp_path) as rig:
        await with_drops(rig, "file", "d/e/1", "d/e/2")
        (rig.cache / "link").symlink_to("file")
        await rig.settled()
        assert MARKER not in rig.node.records
        (rig.cache / "file").unlink()
        (rig.cache / "link").unlink()
        shutil.rmtree(rig.cache / "d")
        await wait_until("all is deleted", lambda: not {"file", "link", "d", "d/e", "d/e/1"} &
                         rig.node.records.keys())
        await nothing_waits(rig)
        assert {k for k in rig.node.records if not k.startswith("keep")} == set()
        assert len(rig.node.records) == 8
        assert not rig.problems()


async def test_a_move_within_the_directory_is_a_put_and_a_deletion(tmp_path: Path) -> None:
    async with rig_of(tmp_path) as rig:
        await with_drops(rig, "old/1", "old/2")
        (rig.cache / "old").rename(rig.cache / "new")
        await rig.shown("new/2", b"old/2")
        await wait_until("the old one is gone", lambda: "old" not in rig.node.records)
        await nothing_waits(rig)
        assert {k for k in rig.node.records if "keep" not in k} == {"new", "new/1", "new/2"}


@pytest.mark.allow_logs(MISSING)
async def test_without_a_marker_nothing_is_deleted(tmp_path: Path) -> None:
    """Without the marker file `.dfs-propagate` at the top of the cache directory nothing is
    deleted: a disk that is not mounted, or is taken out, deletes nothing."""
    async with rig_of(tmp_path, marker=False) as rig:
        await with_drops(rig, "file")
        (rig.cache / "file").unlink()
        await rig.settled()
        assert waiting(rig) == set()
        await wait_until("it is said", lambda: MISSING in rig.problems())
        rig.drop(MARKER, b"")
        await wait_until("it is over", lambda: not rig.problems())
        assert rig.agent.deletes is not None
        assert rig.agent.deletes._known() == rig.agent.deletes._look()
        (rig.cache / "keep1").unlink()
        await wait_until("removals count from now on", lambda: "keep1" not in rig.node.records)
        assert "file" in rig.node.records


@pytest.mark.allow_logs(MISSING, STOPPED, "the cache directory .* is gone")
async def test_a_disk_that_is_taken_out_deletes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dfs.cache.watcher.CACHE_RETRY_S", 0.05)
    async with rig_of(tmp_path, delay_s=0.4) as rig:
        await with_drops(rig, "file", "gone")
        (rig.cache / "gone").unlink()
        await wait_until("it waits", lambda: waiting(rig) == {"gone"})
        watcher = rig.agent.watcher
        assert watcher is not None
        scans = watcher.scans
        rig.cache.rename(tmp_path / "disk")
        rig.cache.mkdir(exist_ok=True)
        await wait_until("it is noticed", lambda: watcher.scans > scans)
        await wait_until("and said", lambda: MISSING in rig.problems())
        assert waiting(rig) == {"gone"}
        rig.cache.rmdir()
        (tmp_path / "disk").rename(rig.cache)
        await wait_until("only what was removed before goes",
                         lambda: "gone" not in rig.node.records)
        await rig.settled()
        assert len(rig.node.records) == 9


@pytest.mark.parametrize("running", [True, False])
@pytest.mark.allow_logs(MISSING, "the cache directory .* is gone")
async def test_an_older_copy_of_the_disk_deletes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, running: bool
) -> None:
    """When the cache directory is replaced by an older copy of itself, marker included, what the
    copy has not is not deleted from the tree."""
    monkeypatch.setattr("dfs.cache.watcher.CACHE_RETRY_S", 0.05)
    rig = rig_of(tmp_path, delay_s=0.5)
    async with rig:
        await with_drops(rig)
        shutil.copytree(rig.cache, tmp_path / "copy")
        await with_drops(rig, "newest")
        assert rig.agent.watcher is not None
        if running:
            scans = rig.agent.watcher.scans
            rig.cache.rename(tmp_path / "disk")
            with contextlib.suppress(FileNotFoundError):
                rig.cache.rmdir()
            (tmp_path / "copy").rename(rig.cache)
            await wait_until("it is scanned", lambda: rig.agent.watcher.scans > scans)
        else:
            await rig.stop()
            rig.cache.rename(tmp_path / "disk")
            (tmp_path / "copy").rename(rig.cache)
            await rig.start()
        await wait_until("it was noticed", lambda: "newest" not in rig.agent.journal.rows)
        (rig.cache / "keep1").unlink()
        await rig.settled()
        assert rig.agent.deletes is not None
        known = rig.agent.deletes._known
        await wait_until("the copy is trusted", lambda: known() == rig.agent.deletes._look())
        (rig.cache / "keep2").unlink()
        await wait_until("what is removed there later is deleted",
                         lambda: "keep2" not in rig.node.records)
        await nothing_waits(rig)
        assert {"newest", "keep1"} < rig.node.records.keys()


async def test_what_comes_back_in_time_stays(tmp_path: Path) -> None:
    async with rig_of(tmp_path, delay_s=0.5) as rig:
        await with_drops(rig, "same", "other", "ignored")
        for name in ("same", "other"):
            (rig.cache / name).unlink()
        await wait_until("they wait", lambda: waiting(rig) == {"same", "other"})
        rig.drop("same", b"same")
        rig.drop("other", b"changed")
        await nothing_waits(rig)
        assert {"same", "other"} < rig.node.records.keys()
        rig.drop(".dfsignore", b"ignored\n")
        await rig.rescan()
        await nothing_waits(rig)
        assert "ignored" in rig.node.records, "it is still there, only no drop any more"
        assert ("delete", "ignored") not in rig.node.calls


async def test_a_newer_version_from_elsewhere_is_kept(tmp_path: Path) -> None:
    """A removal deletes only the version that was in the cache directory: a newer one from
    elsewhere stays, and so does the winner of a conflict that this one had lost."""
    async with rig_of(tmp_path, delay_s=0.3) as rig:
        await with_drops(rig, "early", "late", "lost")
        await rig.node.put("early", b"newer")
        await wait_until("it is shown", lambda: rig.agent.feeder.revision == rig.node.revision)
        rig.agent.journal.rows["lost"] = rig.agent.journal.rows["lost"]._replace(sha256=b"mine")
        for name in ("early", "late", "lost"):
            (rig.cache / name).unlink()
        await wait_until("one waits", lambda: waiting(rig) == {"late"})
        # Committed where this agent does not hear of it before its delete arrives.
        rig.node.commit("late", b"newer")
        await wait_until("nothing waits", lambda: not waiting(rig))
        await rig.node._tell()
        await nothing_waits(rig)
        assert ("delete", "late") in rig.node.calls
        assert {"early", "late", "lost"} < rig.node.records.keys()


async def test_a_directory_that_others_use_stays(tmp_path: Path) -> None:
    async with rig_of(tmp_path) as rig:
        await with_drops(rig, "d/mine")
        await rig.node.put("d/theirs", b"")
        shutil.rmtree(rig.cache / "d")
        await nothing_waits(rig)
        assert {"d", "d/theirs"} < rig.node.records.keys()
        assert "d/mine" not in rig.node.records


@pytest.mark.allow_logs(STOPPED)
async def test_a_mass_of_removals_waits_for_a_word(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """When more than half of the cache directory is gone, or all of it, nothing is deleted until
    `dfs sync --confirm-deletes`."""
    async with rig_of(tmp_path) as rig:
        await with_drops(rig)
        for i in range(5):
            (rig.cache / f"keep{i}").unlink()
        await wait_until("it is stopped", lambda: "5 of 8 entries" in rig.problems())
        assert STOPPED in rig.problems()
        assert len(rig.node.records) == 8
        assert await rig.dfs("sync", "--discard-deletes") == 0
        assert "5 files that were removed here stay in the tree" in capsys.readouterr().out
        await wait_until("it is over", lambda: not rig.problems())
        assert len(rig.node.records) == 8
        for i in range(5, 8):
            (rig.cache / f"keep{i}").unlink()
        await wait_until("it is stopped", lambda: "3 of 3 entries" in rig.problems())
        assert await rig.dfs("sync") == 0
        assert "not deleted from the tree yet: 3 files" in capsys.readouterr().out
        assert await rig.dfs("sync", "--confirm-deletes") == 0
        await wait_until("they are deleted", lambda: len(rig.node.records) == 5)
        await wait_until("it is over", lambda: not rig.problems())


@pytest.mark.allow_logs(STOPPED)
async def test_many_removals_are_a_mass_in_a_large_directory_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dfs.cache.deletes.MASS_DELETE_FILES", 2)
    async with rig_of(tmp_path) as rig:
        await with_drops(rig)
        for i in range(3):
            (rig.cache / f"keep{i}").unlink()
        await wait_until("it is stopped", lambda: "3 of 8 entries" in rig.problems())
        rig.drop("keep0", b"keep0")
        await wait_until("two are no mass", lambda: len(rig.node.records) == 6)


@pytest.mark.allow_logs("removals wait here", "the stream of changes broke")
async def test_without_a_quorum_removals_wait(tmp_path: Path) -> None:
    async with rig_of(tmp_path) as rig:
        await with_drops(rig, "file")
        rig.node.away = True
        (rig.cache / "file").unlink()
        await wait_until("it waits", lambda: "removals wait here" in rig.problems())
        assert waiting(rig) == {"file"}
        rig.node.away = False
        await wait_until("it goes", lambda: "file" not in rig.node.records)
        await wait_until("it is over", lambda: not rig.problems())


@pytest.mark.allow_logs("removals wait here", "the stream of changes broke")
async def test_one_removal_that_has_to_wait_is_enough(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the cluster takes none, the others are not tried: each would wait as long."""
    monkeypatch.setattr("dfs.cache.deletes.DELETES_MAX", 1)
    async with rig_of(tmp_path) as rig:
        await with_drops(rig, "d/1", "d/2", "d/3")
        rig.node.away = True
        shutil.rmtree(rig.cache / "d")
        assert rig.agent.deletes is not None
        due, now_s = rig.agent.deletes._due, asyncio.get_running_loop().time
        await wait_until("all are due", lambda: len(due) == 4 and max(due.values()) < now_s())
        for tries in (1, 3):
            rig.node.calls.clear()
            await wait_until("it is tried", lambda n=tries: _deletions(rig).count("d/3") >= n)
        assert set(_deletions(rig)) == {"d/3"}
        rig.node.away = False
        await wait_until("they go", lambda: len(rig.node.records) == 8)
        await wait_until("it is over", lambda: not rig.problems())


def _deletions(rig: Rig) -> list[str]:
    return [key for verb, key in rig.node.calls if verb == "delete"]


@pytest.mark.allow_logs(MISSING)
async def test_a_marker_that_goes_meanwhile_ends_the_removals(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dfs.cache.deletes.DELETES_MAX", 1)
    async with rig_of(tmp_path) as rig:
        await with_drops(rig, "1", "2", "3")
        delete = rig.node.delete

        async def deleting(key: str, **arguments: Any) -> int:
            (rig.cache / MARKER).unlink(missing_ok=True)
            return await delete(key, **arguments)

        monkeypatch.setattr(rig.node, "delete", deleting)
        assert rig.agent.deletes is not None
        now_s = asyncio.get_running_loop().time
        with monkeypatch.context() as patched:  # All three in one pass.
            patched.setattr(rig.agent.feeder, "live", False)
            for name in ("1", "2", "3"):
                (rig.cache / name).unlink()
            await wait_until("all are seen", lambda: waiting(rig) == {"1", "2", "3"})
            seen_s = now_s()
            await wait_until("all are due", lambda: now_s() > seen_s + 0.1)
        await wait_until("it is said", lambda: MISSING in rig.problems())
        assert _deletions(rig) == ["3"]
        assert waiting(rig) == {"1", "2"}


async def test_removals_survive_a_restart_and_count_while_the_agent_is_down(tmp_path: Path) -> None:
    rig = rig_of(tmp_path, delay_s=20.0)
    async with rig:
        await with_drops(rig, "before", "during")
        (rig.cache / "before").unlink()
        await wait_until("it waits", lambda: rig.agent.journal.marks["delete"])
    (rig.cache / "during").unlink()
    rig.options["delete_delay_s"] = 0.2
    async with rig:
        await wait_until("both are deleted", lambda: len(rig.node.records) == 8)


async def test_without_the_setting_nothing_is_deleted_not_even_later(tmp_path: Path) -> None:
    rig = rig_of(tmp_path, delay_s=20.0)
    async with rig:
        await with_drops(rig, "file")
        (rig.cache / "file").unlink()
        await wait_until("it waits", lambda: rig.agent.journal.marks["delete"])
    rig.options["propagate_deletes"] = False
    async with rig:
        (rig.cache / "keep1").unlink()
        await rig.settled()
        with pytest.raises(FailedPrecondition, match="start it with -propagate-deletes"):
            await rig.ask("confirm_deletes")
    rig.options |= {"propagate_deletes": True, "delete_delay_s": 0.05}
    async with rig:
        (rig.cache / "keep2").unlink()
        await wait_until("only the new one", lambda: "keep2" not in rig.node.records)
        await nothing_waits(rig)
        assert {"file", "keep1"} < rig.node.records.keys()


@pytest.mark.allow_logs("the cache directory .* is gone")
async def test_a_directory_that_is_made_anew_is_watched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dfs.cache.watcher.CACHE_RETRY_S", 0.05)
    async with Rig(tmp_path) as rig:
        rig.drop("before", b"1")
        await rig.settled()
        # The agent holds it open: the kernel does not tell that it is gone.
        shutil.rmtree(rig.cache)
        rig.drop("after", b"2")
        await rig.shown("after", b"2")
        assert rig.shows("before", b"1")
