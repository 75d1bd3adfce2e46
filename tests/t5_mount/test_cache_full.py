"""A disk that is full in the very write, where there was room a moment before."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import io
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from dfs.cache.twin.tree import MemoryPart
from dfs.limits import AGENT_DATA_BYTES_MAX, INLINE_BYTES_MAX

from .cache_rig import Rig, small_file_system, wait_until
from .mount_rig import fails_with

DISK = 12 << 20
CHUNK = 1 << 19
DATA = os.urandom(8 * CHUNK)
FREE = 100_000
"""Less than a chunk: the write of one begins, and does not end."""


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A small file system."""
    with small_file_system(tmp_path / "disk", DISK) as point:
        yield point


@pytest.fixture
async def rig(tmp_path: Path, disk: Path, monkeypatch: pytest.MonkeyPatch) -> Rig:
    """An agent whose node is elsewhere, with its state on that disk. Not started."""
    monkeypatch.setattr("dfs.manifest.CHUNK_BYTES_MIN", CHUNK)
    monkeypatch.setattr("dfs.cache.arriving.ARRIVING_LOOK_MS", 50)
    made = Rig(tmp_path)
    made.state = disk / "state"
    return made


@contextlib.contextmanager
def filled(disk: Path, free: int) -> Iterator[None]:
    """Somebody else fills it, but for `free` bytes."""
    others = disk / "others"
    found = os.statvfs(disk)
    with others.open("wb", buffering=0) as file:
        os.posix_fallocate(file.fileno(), 0, found.f_bavail * found.f_frsize - free)
    try:
        yield
    finally:
        others.unlink()


def on_disk(directory: Path) -> list[Path]:
    return [path for path in directory.rglob("*") if path.is_file()]


@pytest.mark.allow_logs("large: content cannot be kept: .*No space left on device")
async def test_a_chunk_for_which_the_disk_has_no_room_is_an_error_and_comes_later(
    rig: Rig, disk: Path
) -> None:
    """When the disk of an agent is full in the very write of a chunk, its reader gets ENOSPC and
    never wrong bytes; what is here is read on, and the chunk comes when there is room."""
    async with rig:
        revision = await rig.node.upload("large", io.BytesIO(DATA), size=len(DATA))
        await wait_until("it is shown", lambda: rig.agent.feeder.revision >= revision)
        rig.node.gates = {1: asyncio.Event()}
        part = await asyncio.to_thread(rig.tree.open, "large")
        assert isinstance(part, MemoryPart)

        async def read(number: int) -> bool:
            found = await asyncio.to_thread(rig.tree.read_chunk, part, number)
            return found == DATA[number * CHUNK : (number + 1) * CHUNK]

        others = {0, 2, 3, 4, 5, 6, 7}
        await wait_until("the others are here", lambda: part.here == others)
        with filled(disk, FREE):
            rig.node.gates[1].set()
            with fails_with(errno.ENOSPC):
                await read(1)
            assert part.here == others
            assert await read(0)
        assert await read(1)
        part.close()
        await wait_until("all is here", lambda: rig.tree.shown["large"].backing)
        assert rig.shows("large", DATA)
        assert rig.agent.objects is not None
        assert rig.agent.objects.bytes == len(DATA), "what failed does not count"


@pytest.mark.allow_logs("file: content cannot be kept: .*No space left on device")
async def test_content_for_which_the_disk_has_no_room_leaves_nothing_behind(
    rig: Rig, disk: Path
) -> None:
    data = os.urandom(AGENT_DATA_BYTES_MAX * 4)
    async with rig:
        await rig.node.put("file", data)
        await wait_until("it is shown", lambda: "file" in rig.tree.shown)
        assert rig.agent.objects is not None
        objects = Path(rig.agent.objects.root)
        before = on_disk(objects)
        with filled(disk, FREE):
            with fails_with(errno.ENOSPC):
                await rig.read("file")
            assert on_disk(objects) == before
        assert await rig.read("file") == data
        assert {*on_disk(objects)} == {*before, rig.object(data)}


@pytest.mark.allow_logs("content cannot be kept in .*No space left on device")
async def test_content_that_comes_with_its_change_is_shown_though_it_cannot_be_kept(
    rig: Rig, disk: Path
) -> None:
    """The mount goes on with the changes; who reads it waits for the node."""
    data = os.urandom(AGENT_DATA_BYTES_MAX)
    async with rig:
        with filled(disk, AGENT_DATA_BYTES_MAX // 4):
            await rig.node.put("file", data)
            await wait_until("it is shown", lambda: "file" in rig.tree.shown)
            assert rig.tree.shown["file"].backing is None
            assert "No space left on device" in rig.problems()
        assert await rig.read("file") == data
        await rig.node.put("next", b"more")
        await rig.shown("next", b"more")
        assert not rig.problems()


@pytest.mark.allow_logs("drops wait here")
async def test_a_large_drop_that_fills_the_disk_while_it_is_copied_waits(
    rig: Rig, disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing of the copy stays, and it is stored once there is room."""
    monkeypatch.setattr("dfs.cache.uploader.AGENT_RETRY_MS_MAX", 20)
    monkeypatch.setattr("dfs.cache.take.DISK_FREE_BYTES_MIN", -DISK)  # Room, as far as one sees.
    async with rig:
        with filled(disk, INLINE_BYTES_MAX):
            rig.drop("large", DATA)
            await wait_until("it is said", lambda: "which is full: make room" in rig.problems())
            await wait_until("no copy stays", lambda: not on_disk(rig.agent.large.incoming))
            assert "large" not in rig.node.records
        await wait_until("it is stored", lambda: "large" in rig.node.records)
        await rig.settled()
        assert await rig.read("large") == DATA
        assert on_disk(rig.agent.large.incoming) == []
