"""Large files: handed to the node of the machine without a socket, read where it has them."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dfs.cache import take
from dfs.contents import INCOMING
from dfs.limits import DISK_FREE_BYTES_MIN, INLINE_BYTES_MAX
from dfs.manifest import chunk_bytes_of

from .cache_rig import Rig, wait_until

SIZE = INLINE_BYTES_MAX + 123_456


def local(root: Path, rig: Rig | None = None, name: str = "node1") -> Rig:
    """An agent whose node has its contents on this machine."""
    made = Rig(root, rig.node if rig else None, name)
    contents = root / f"{name}-contents"
    (contents / INCOMING).mkdir(parents=True, exist_ok=True)
    made.node.files = contents
    made.options["contents"] = str(contents)
    return made


def incoming(rig: Rig) -> list[str]:
    assert rig.node.files is not None
    return os.listdir(rig.node.files / INCOMING)


async def test_a_large_drop_is_handed_over_and_shown_where_the_node_has_it(tmp_path: Path) -> None:
    """A large file that is dropped is copied once, into the directory of its node, and the mount
    shows it from there: it is kept a single time."""
    async with local(tmp_path) as rig:
        data = os.urandom(SIZE)
        file = rig.drop("d/large", data)
        file.chmod(0o600)
        await wait_until("it is stored", lambda: "d/large" in rig.node.records)
        await wait_until("it is shown", lambda: "d/large" in rig.tree.shown)
        stat = rig.node.records["d/large"]
        assert (stat.size, stat.chunk_bytes) == (SIZE, chunk_bytes_of(SIZE))
        assert await rig.read("d/large") == data
        backing = rig.tree.shown["d/large"].backing
        assert backing is not None
        assert backing.startswith(str(rig.node.files))
        assert rig.agent.objects is not None
        assert rig.agent.objects.bytes == 0
        assert incoming(rig) == []
        await wait_until("its mode is carried", lambda: rig.node.records["d/large"].mode == 0o600)


async def test_an_agent_elsewhere_uploads_and_downloads(tmp_path: Path) -> None:
    """Where the node is on another machine the copy is uploaded, and what is read is kept among the
    objects of the agent."""
    async with Rig(tmp_path) as rig, Rig(tmp_path, rig.node, "node2") as other:
        data = os.urandom(SIZE)
        rig.drop("large", data)
        await wait_until("it is shown", lambda: "large" in other.tree.shown)
        assert ("upload", "large") in rig.node.calls
        assert await other.read("large") == data
        assert other.agent.objects is not None
        assert other.agent.objects.bytes == SIZE
        await wait_until("it need not ask again", lambda: other.tree.shown["large"].backing)
        assert os.listdir(rig.state / INCOMING) == []
        assert await other.read("large") == data
        assert rig.node.reports == [], "the status of a node is that of its own agent"


async def test_a_large_past_version_is_kept_for_a_while_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dfs.cache.objects.OBJECT_KEEP_S", 0.0)
    async with Rig(tmp_path) as rig:
        data = os.urandom(SIZE)
        await rig.node.upload("large", _source(data), size=SIZE)
        await wait_until("it is shown", lambda: "large" in rig.tree.shown)
        rig.node.hold = asyncio.Event()
        reader = asyncio.create_task(rig.read("large"))
        await wait_until("it is fetched", lambda: ("read", "large") in rig.node.calls)
        await rig.node.put_elsewhere("large", b"small now")
        await rig.shown("large", b"small now")
        objects = rig.agent.objects
        assert objects is not None
        await wait_until("nothing is left to be removed", lambda: not objects._retired)
        rig.node.hold.set()
        assert await reader == data
        await wait_until("it is removed", lambda: not rig.object(data).exists())


async def test_content_that_the_node_lacks_is_fetched_once_when_it_is_wanted(
    tmp_path: Path,
) -> None:
    async with local(tmp_path) as rig:
        data = os.urandom(SIZE)
        rig.node.hold = asyncio.Event()
        rig.node.hold.set()
        await rig.node.upload("large", _source(data), size=SIZE)
        await wait_until("it is shown", lambda: "large" in rig.tree.shown)
        assert rig.tree.shown["large"].backing is None
        rig.node.hold.clear()
        reads = [asyncio.create_task(rig.read("large")) for _ in range(5)]
        await wait_until("the node is asked", lambda: rig.node.chunks)
        rig.node.hold.set()
        assert await asyncio.gather(*reads) == [data] * 5
        assert rig.node.chunks == [0]


def _source(data: bytes) -> Any:
    import io

    return io.BytesIO(data)


def _puts(rig: Rig) -> int:
    return rig.node.calls.count(("put_content", "large"))


async def test_no_prefix_of_a_large_file_is_stored_while_somebody_writes_it(
    tmp_path: Path,
) -> None:
    async with local(tmp_path) as rig:
        data = os.urandom(SIZE)
        with (rig.cache / "large").open("wb") as writer:
            writer.write(data[: SIZE - 5])
            writer.flush()
            rig.drop("other", b"x")
            await rig.shown("other", b"x")
            assert "large" not in rig.node.records
            writer.write(data[SIZE - 5 :])
        await wait_until("it is shown", lambda: "large" in rig.tree.shown)
        assert await rig.read("large") == data


async def test_a_large_file_that_changes_while_it_is_copied_is_copied_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is stored is what the file held at one moment."""
    copy, copies = take._copy, []

    def meddling(source: int, target: Path, size: int) -> object:
        copied = copy(source, target, size)
        copies.append(size)
        if len(copies) == 1:
            with (rig.cache / "large").open("r+b") as writer:
                writer.write(b"changed")
        return copied

    monkeypatch.setattr(take, "_copy", meddling)
    rig = local(tmp_path)
    async with rig:
        data = os.urandom(SIZE)
        rig.drop("large", data)
        await wait_until("it is shown", lambda: "large" in rig.tree.shown)
        assert len(copies) == 2
        assert await rig.read("large") == b"changed" + data[7:]
        assert incoming(rig) == []


@pytest.mark.allow_logs("drops wait here")
async def test_without_a_quorum_the_copy_of_a_large_drop_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is not copied again for each attempt."""
    copy, copies = take._copy, []
    monkeypatch.setattr(take, "_copy", lambda *a: copies.append(1) or copy(*a))
    monkeypatch.setattr("dfs.cache.uploader.AGENT_RETRY_MS_MAX", 20)
    async with local(tmp_path) as rig:
        rig.node.away = True
        data = os.urandom(SIZE)
        file = rig.drop("large", data)
        os.utime(file, (1, 1))
        await wait_until("it waits", lambda: "(upload)" in rig.problems() or copies)
        await wait_until("it was tried again", lambda: _puts(rig) > 3)
        rig.node.away = False
        await wait_until("it is shown", lambda: "large" in rig.tree.shown)
        assert await rig.read("large") == data
        assert len(copies) <= 2
        assert incoming(rig) == []


def _becomes_small(file: Path) -> None:
    file.write_bytes(b"small")


def _becomes_a_pipe(file: Path) -> None:
    file.unlink()
    os.mkfifo(file)


@pytest.mark.parametrize("meanwhile", [Path.unlink, _becomes_small, _becomes_a_pipe])
@pytest.mark.parametrize("here", [True, False])
@pytest.mark.allow_logs("drops wait here", "is a device, socket or pipe")
async def test_the_copy_of_a_large_drop_that_is_none_any_more_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, meanwhile: Callable[[Path], None], here: bool
) -> None:
    """Whatever became of the file while its copy waited."""
    monkeypatch.setattr("dfs.cache.uploader.AGENT_RETRY_MS_MAX", 20)
    async with local(tmp_path) if here else Rig(tmp_path) as rig:
        directory = rig.agent.large.incoming
        rig.node.away = True
        file = rig.drop("large", os.urandom(SIZE))
        await wait_until("its copy waits", lambda: os.listdir(directory))
        await wait_until("it is said", lambda: "(upload)" in rig.agent.problems)
        meanwhile(file)
        if meanwhile is _becomes_small:
            await wait_until("it is seen", lambda: ("put", "large") in rig.node.calls)
        else:
            await wait_until("its copy goes", lambda: not os.listdir(directory))
        rig.node.away = False
        await rig.settled()
        assert os.listdir(directory) == []
        small = rig.node.records.get("large")
        assert (small is not None and small.size == 5) == (meanwhile is _becomes_small)


@pytest.mark.allow_logs("changed elsewhere at the same time")
async def test_a_large_file_that_lost_is_kept_as_a_conflict_copy(tmp_path: Path) -> None:
    async with local(tmp_path) as rig:
        rig.node.hold = asyncio.Event()
        data = os.urandom(SIZE)
        rig.drop("large", data)
        await wait_until("it is on its way", lambda: ("put_content", "large") in rig.node.calls)
        await rig.node.put_elsewhere("large", b"first")
        rig.node.hold.set()
        await wait_until("both are there", lambda: len(rig.node.records) == 2)
        [copy] = [key for key in rig.node.records if key != "large"]
        assert copy.startswith("large.dfs-conflict-")
        await rig.shown("large", b"first")
        await wait_until("it is shown", lambda: copy in rig.tree.shown)
        assert await rig.read(copy) == data


@pytest.mark.allow_logs("drops wait here")
async def test_a_full_disk_makes_a_large_drop_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dfs.cache.uploader.AGENT_RETRY_MS_MAX", 20)
    copy, full = take._copy, [True]

    def copying(*arguments: Any) -> object:
        if full:
            raise OSError(errno.ENOSPC, "No space left on device")
        return copy(*arguments)

    monkeypatch.setattr(take, "_copy", copying)
    async with local(tmp_path) as rig:
        data = os.urandom(SIZE)
        rig.drop("large", data)
        await wait_until("it is said", lambda: "which is full: make room there" in rig.problems())
        assert f"large needs a copy in {rig.agent.large.incoming}, on" in rig.problems()
        assert rig.agent.status().pending_drops == 1
        full.clear()
        await wait_until("it is shown", lambda: "large" in rig.tree.shown)
        assert await rig.read("large") == data
        assert incoming(rig) == []


@pytest.mark.allow_logs("drops wait here")
async def test_a_copy_leaves_the_disk_the_space_that_the_node_needs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What counts is what the copy takes: a hole takes nothing."""
    monkeypatch.setattr("dfs.cache.uploader.AGENT_RETRY_MS_MAX", 20)
    statvfs, lacking = os.statvfs, [True]

    def nearly_full(path: Any) -> Any:
        found = statvfs(path)
        free = DISK_FREE_BYTES_MIN + SIZE // 2
        fields = list(found)
        fields[4] = free // found.f_frsize
        return os.statvfs_result(fields) if lacking else found

    monkeypatch.setattr("dfs.cache.take.os.statvfs", nearly_full)
    async with local(tmp_path) as rig:
        data = os.urandom(SIZE)
        rig.drop("large", data)
        await wait_until("it is said", lambda: "128MiB that stay free" in rig.problems())
        assert incoming(rig) == []
        with (rig.cache / "hole").open("wb") as file:
            file.truncate(SIZE)
        await wait_until("it fits", lambda: "hole" in rig.node.records)
        assert "large" not in rig.node.records
        lacking.clear()
        await wait_until("it is shown", lambda: "large" in rig.tree.shown)
        assert await rig.read("large") == data
