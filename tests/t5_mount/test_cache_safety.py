"""Is it safe to unplug this machine? `dfs status PATH` and `dfs sync`."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from dfs.cache.watcher import Watcher
from dfs.cli import safe
from dfs.errors import FailedPrecondition, NotADirectory, NotFound, Unavailable
from dfs.mount import KIND
from dfs.mount.points import Mounted
from dfs.proto import dfs_pb2 as pb

from .cache_rig import Rig, wait_until


class MemoryStat(NamedTuple):
    """A record."""

    revision: int


class Cluster:
    """What the nodes say, as a client asks them."""

    def __init__(self, *applied: int | None) -> None:
        """Of each member; None = silent."""
        self.applied, self.error, self.there = list(applied), "", False
        self.missing = [0] * len(applied)
        """Large contents that each member lacks."""
        self.asked: list[str] = []
        """The keys whose record was wanted."""

    def status(self) -> pb.StatusResponse:
        if self.error:
            raise Unavailable(self.error)
        return pb.StatusResponse(nodes=[
            pb.NodeStatus(
                role="follower" if a is not None else "", applied=a or 0, contents_missing=missing
            )
            for a, missing in zip(self.applied, self.missing, strict=True)
        ])

    def stat(self, key: str, local: bool) -> Any:
        self.asked.append(key)
        if self.error:
            raise Unavailable(self.error)
        if not self.there:
            raise NotFound(f"no such key: {key}")
        return MemoryStat(7)

    def list(self, key: str, recursive: bool, local: bool) -> Any:
        raise NotADirectory(f"{key} is a file")


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Cluster:
    made = Cluster(1_000, 1_000, 1_000)

    @contextlib.contextmanager
    def client(*_: object) -> Iterator[Cluster]:
        yield made

    monkeypatch.setattr(safe.shared, "client", client)
    monkeypatch.setattr(safe, "connect", client)
    return made


async def test_what_is_stored_is_safe(
    tmp_path: Path, cluster: Cluster, capsys: pytest.CaptureFixture[str]
) -> None:
    """`dfs status PATH` says safe, with exit code 0, only if everything that lies there in the
    cache directory is in the tree and a majority of the members has applied it."""
    async with Rig(tmp_path) as rig:
        rig.drop("a/1", b"1")
        await rig.settled()
        rig.drop("a/2", b"22")
        await rig.settled()
        assert await rig.dfs("status", "a") == 0
        said = capsys.readouterr().out.splitlines()
        assert said[0] == "safe: stored on 3 of 3 members"
        assert said[1].endswith("cache: 2 files stored, newest revision 3")
        assert said[2] == "  content on this machine: 2 of 2 files, 3 B of 3 B"
        cluster.applied = [3, 3, None]
        assert await rig.dfs("status", str(rig.cache / "a" / "1")) == 0
        assert "safe: stored on 2 of 3 members" in capsys.readouterr().out
        cluster.applied = [3, 1, None]
        assert await rig.dfs("status", "a") == 1
        assert capsys.readouterr().out.startswith("NOT safe: stored on 1 of 3 members\n")
        cluster.error = "no node answers"
        assert await rig.dfs("status", "a", "-o", "json") == 1
        found = json.loads(capsys.readouterr().out)
        assert (found["safe"], found["stored_on"], found["drops"]) == (False, 0, 2)
        assert await rig.dfs("status", "b") == 3


async def test_a_member_that_lacks_large_contents_does_not_count(
    tmp_path: Path, cluster: Cluster, capsys: pytest.CaptureFixture[str]
) -> None:
    """It has applied the revision, and may not have the bytes that it names: which contents it
    lacks is not said, so it may be that of the file."""
    async with Rig(tmp_path) as rig:
        rig.drop("a", b"1")
        await rig.settled()
        for missing, code, said in (
            ([0, 0, 1], 0, "safe: stored on 2 of 3 members\n"),
            ([0, 3, 1], 1, "NOT safe: stored on 1 of 3 members\n"),
            ([1, 1, 1], 1, "NOT safe: stored on 0 of 3 members\n"),
            ([0, 0, 0], 0, "safe: stored on 3 of 3 members\n"),
        ):
            cluster.missing = missing
            assert await rig.dfs("status", "a") == code
            assert capsys.readouterr().out.startswith(said)
        cluster.missing = [1, 0, 1]
        assert await rig.dfs("status", "a", "-o", "json") == 1
        found = json.loads(capsys.readouterr().out)
        assert (found["safe"], found["stored_on"], found["members"]) == (False, 1, 3)


@pytest.mark.allow_logs("drops wait here")
async def test_what_waits_for_a_quorum_is_not_safe(
    tmp_path: Path, cluster: Cluster, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("dfs.cache.safety.SETTLE_MS", 0)
    async with Rig(tmp_path) as rig:
        rig.drop("a/1", b"1")
        await rig.settled()
        while rig.agent.journal.rows["a/1"].racy:  # Until then it is read again, and waits as well.
            await rig.rescan()
        rig.node.away = True
        rig.drop("a/2", b"2")
        rig.drop("b", b"2")
        await wait_until("it waits", lambda: "(upload)" in rig.agent.problems)
        assert await rig.dfs("status", "a") == 1
        said = capsys.readouterr().out.splitlines()
        assert said[0].startswith("NOT safe: 1 file pending (drops wait here and go when the")
        assert "no leader" in said[0]
        assert said[1].startswith("  pending: a/2: ")
        assert await rig.dfs("sync", "--wait", "--within", "100ms") == 6
        assert "2 files not stored within 100ms" in capsys.readouterr().err
        waiting = asyncio.create_task(rig.dfs("sync", "--wait"))
        rig.node.away = False
        assert await waiting == 0
        assert "all that is in the cache directory is stored" in capsys.readouterr().out
        assert rig.versions("a/2") == [b"2"]
        assert await rig.dfs("status", ".") == 0


@pytest.mark.allow_logs("is a device, socket or pipe", "bad key")
async def test_what_is_refused_is_not_safe_and_fails_a_sync(
    tmp_path: Path, cluster: Cluster, capsys: pytest.CaptureFixture[str]
) -> None:
    """`dfs sync --wait` returns when every drop that was in the cache directory when it was asked
    is in the tree, whether the kernel has told of it or not; it fails if one cannot be stored, and
    says why."""
    async with Rig(tmp_path) as rig:
        watcher = rig.agent.watcher
        assert watcher is not None
        watcher._happened = lambda *_: None  # type: ignore[method-assign]
        rig.drop("unseen", b"no event told of it")
        assert await rig.dfs("sync", "--wait") == 0
        assert rig.versions("unseen") == [b"no event told of it"]
        capsys.readouterr()
        (rig.cache / "d").mkdir()
        (rig.cache / "d" / "socket").touch()
        (rig.cache / "d" / "socket").unlink()


        os.mkfifo(rig.cache / "d" / "pipe")
        assert await rig.dfs("sync", "--wait") == 1
        assert "refused: d/pipe: is a device, socket or pipe" in capsys.readouterr().out
        assert await rig.dfs("sync", "unseen", "--wait") == 0
        assert await rig.dfs("status", "d") == 1
        assert capsys.readouterr().out.splitlines()[-4].startswith("NOT safe: 1 file refused")


async def test_a_sync_waits_for_what_is_changed_while_it_is_stored(tmp_path: Path) -> None:
    async with Rig(tmp_path) as rig:
        rig.node.hold = asyncio.Event()
        rig.drop("file", b"first")
        await wait_until("it is stored", lambda: ("put", "file") in rig.node.calls)
        rig.drop("file", b"second")
        asked = asyncio.create_task(rig.ask("sync", wait=True, within_ms=20_000))
        pending = rig.agent.uploader.pending.drops
        await wait_until("the change is seen", lambda: pending["file"].again)
        watcher = rig.agent.watcher
        assert watcher is not None
        await wait_until("it waits", lambda: watcher.scans > 1)
        rig.node.hold.set()
        found = await asked
        assert found["pending_count"] == 0
        assert rig.versions("file") == [b"first", b"second"]
        assert found["revision"] == rig.node.records["file"].revision


async def test_a_sync_does_not_wait_for_later_changes(tmp_path: Path) -> None:
    async with Rig(tmp_path) as rig:
        rig.drop("file", b"first")
        await rig.settled()
        with (rig.cache / "open").open("wb") as file:
            file.write(b"part")
            file.flush()
            found = await rig.ask("sync", wait=True, within_ms=300)
            assert [p["path"] for p in found["pending"]] == ["open"]
            assert found["pending"][0]["why"] == "somebody has it open for writing"
            assert (await rig.ask("sync", "file", wait=True, within_ms=0))["pending_count"] == 0
        assert (await rig.ask("sync", wait=True, within_ms=20_000))["pending_count"] == 0


async def test_a_path_that_was_meant_as_a_file_of_here_is_named_in_full(
    tmp_path: Path, cluster: Cluster, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A path without / in front is a key, though a shell completes it."""
    async with Rig(tmp_path) as rig:
        rig.drop("file", b"data")
        await rig.shown("file", b"data")
        monkeypatch.chdir(rig.root)
        assert await rig.dfs("status", "cache/file") == 3
        assert f"directory; the file here is {rig.cache}/file. Try" in capsys.readouterr().err
        assert await rig.dfs("status", f"{rig.cache}/file") == 0
        assert await rig.dfs("status", "nowhere") == 3
        assert "the cache directory. Try" in capsys.readouterr().err


@pytest.mark.allow_logs("the cache directory .* is gone", "scan of .* failed")
async def test_a_sync_that_cannot_scan_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Rig(tmp_path) as rig:
        def fail(self: Watcher, directory: str) -> None:
            raise OSError(5, "Input/output error")

        with monkeypatch.context() as patched:
            patched.setattr(Watcher, "_list", fail)
            with pytest.raises(FailedPrecondition, match="Input/output error"):
                await rig.ask("sync")
        assert (await rig.ask("sync"))["pending_count"] == 0
        rig.cache.rename(tmp_path / "elsewhere")
        await wait_until("it is noticed", lambda: "(cache)" in rig.agent.problems)
        with pytest.raises(FailedPrecondition, match="is gone"):
            await rig.ask("sync")
        (tmp_path / "elsewhere").rename(rig.cache)


@pytest.mark.allow_logs("may not be read")
async def test_a_cache_directory_that_can_be_read_again_is_all_right(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Rig(tmp_path) as rig:
        rig.drop("file", b"1")
        await rig.settled()

        def fail(self: Watcher, directory: str) -> None:
            raise PermissionError(errno.EACCES, "Permission denied")

        with monkeypatch.context() as patched:
            patched.setattr(Watcher, "_list", fail)
            for _ in range(2):
                with pytest.raises(FailedPrecondition, match="may not be read"):
                    await rig.ask("sync")
            assert f"the cache directory {rig.cache} may not be read" in rig.problems()
        assert (await rig.ask("sync", wait=True, within_ms=20_000))["pending_count"] == 0
        assert not rig.problems()
        with monkeypatch.context() as patched:
            patched.setattr(Watcher, "_list", fail)
            await rig.rescan()
            assert "may not be read" in rig.problems()
        await rig.rescan()
        assert not rig.problems()


async def test_without_an_agent_nothing_is_said_to_be_safe(
    tmp_path: Path, cluster: Cluster, capsys: pytest.CaptureFixture[str]
) -> None:
    rig = Rig(tmp_path)
    assert await rig.dfs("status", "a") == 5
    said = capsys.readouterr().err
    assert "a is not in the tree; what is in the cache directory is unknown: no agent" in said
    cluster.there = True
    assert await rig.dfs("status", "a") == 1
    assert "what is in the cache directory is unknown" in capsys.readouterr().out
    cluster.error = "no node answers"
    assert await rig.dfs("status", "a") == 5
    said = capsys.readouterr().err
    assert "what is in the tree is unknown: no node answers; what is in the cache" in said


async def test_without_an_agent_a_path_below_a_mount_is_its_key(
    tmp_path: Path, cluster: Cluster, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("dfs.mount.mounts", lambda: [Mounted("/mnt/tree", KIND, "dfs:1:1")])
    rig = Rig(tmp_path)
    cluster.there = True
    for path in ("/mnt/tree/d/file", "d/file", "./d/file", "d/file/"):
        assert await rig.dfs("status", path) == 1
        assert capsys.readouterr().out.startswith("NOT safe: what is in the cache directory is")
    assert cluster.asked == ["d/file"] * 4
    assert await rig.dfs("status", str(rig.cache / "a")) == 5
    said = capsys.readouterr().err
    assert "is not below a mount of dfs (/mnt/tree)" in said
    assert "what is in the cache directory is unknown: no agent answers" in said
    assert len(cluster.asked) == 4


@pytest.mark.allow_logs("the stream of changes broke")
async def test_an_agent_that_does_not_know_the_tree_does_not_say_what_is_missing_there(
    tmp_path: Path, cluster: Cluster, capsys: pytest.CaptureFixture[str]
) -> None:
    rig = Rig(tmp_path)
    rig.node.cut = True
    await rig.start()
    try:
        assert await rig.dfs("status", "a") == 1
        assert "the agent does not know the tree yet" in capsys.readouterr().out
    finally:
        await rig.stop()

