"""Bounds of the content that an agent keeps: its own limit, and what stays free on the disk."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import hashlib
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from dfs.cache.objects import Objects
from dfs.cache.problems import Problems
from dfs.cache.room import Disk, NoRoom, Room
from dfs.limits import AGENT_DATA_BYTES_MAX, OBJECT_USED_S, QUARANTINED_MAX
from dfs.sealing import SEALED_NS
from dfs.sizes import FreeSpace

from .cache_rig import Rig, small_file_system, wait_until

LARGE = AGENT_DATA_BYTES_MAX + 1
"""Is fetched when it is wanted."""


def content(number: int, size: int = 10_000) -> bytes:
    return bytes([number]) * size


class Scales:
    """The most that the objects of a rig ever had on disk, temporary files included."""

    def __init__(self, rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
        self.most = 0
        add = Objects.add

        def weighed(objects: Objects, sha256: bytes, data: bytes) -> str:
            path = add(objects, sha256, data)
            self.most = max(self.most, self.now(objects.root))
            return path

        monkeypatch.setattr(Objects, "add", weighed)

    @staticmethod
    def now(root: str) -> int:
        size = 0
        for file in Path(root).glob("*/*"):
            with contextlib.suppress(FileNotFoundError):  # Another thread has just removed it.
                size += file.stat().st_size
        return size


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 8 MiB."""
    with small_file_system(tmp_path / "disk", 8 << 20) as point:
        yield point


async def test_the_cache_is_never_larger_than_its_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The content that an agent keeps never exceeds `-cache-size`, not for a moment: the least
    recently opened goes before new content is written, and comes back when it is read."""
    rig = Rig(tmp_path)
    rig.options["cache_bytes_max"] = 100_000
    scales = Scales(rig, monkeypatch)
    async with rig:
        for i in range(9):
            await rig.node.put(f"f{i}", content(i))
        await rig.shown("f8", content(8))
        assert await rig.read("f0") == content(0)
        await wait_until("it is noted", lambda: not rig.tree.opens)
        for i in range(9, 13):
            await rig.node.put(f"f{i}", content(i))
            await rig.shown(f"f{i}", content(i))
        assert rig.shows("f0", content(0)), "opened lately"
        assert rig.tree.shown["f1"].backing is None, "the oldest"
        assert await rig.read("f1") == content(1)
        for i in range(20, 40):
            await rig.node.put(f"l{i}", content(i, LARGE))
            await wait_until("it is shown", lambda i=i: f"l{i}" in rig.tree.shown)
        for i in range(20, 40):
            assert await rig.read(f"l{i}") == content(i, LARGE)
    assert 0 < scales.most <= 100_000


async def test_many_readers_at_once_keep_the_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig = Rig(tmp_path)
    rig.options["cache_bytes_max"] = 3 * LARGE
    scales = Scales(rig, monkeypatch)
    async with rig:
        for i in range(12):
            await rig.node.put(f"l{i}", content(i, LARGE))
        await wait_until("all are shown", lambda: "l11" in rig.tree.shown)
        found = await asyncio.gather(*(rig.read(f"l{i}") for i in range(12)))
        assert found == [content(i, LARGE) for i in range(12)]
    assert 0 < scales.most <= 3 * LARGE


@pytest.mark.allow_logs("cannot be read here")
async def test_what_is_larger_than_the_limit_is_refused_with_the_limits_name(
    tmp_path: Path,
) -> None:
    """Content larger than `-cache-size` is not served: its reader gets ENOSPC, and the status names
    the limit."""
    rig = Rig(tmp_path)
    rig.options["cache_bytes_max"] = LARGE
    async with rig:
        await rig.node.put("small", content(1))
        await rig.node.put("huge", content(2, LARGE + 1))
        await wait_until("it is shown", lambda: "huge" in rig.tree.shown)
        with pytest.raises(OSError, match="huge") as raised:
            await rig.read("huge")
        assert raised.value.errno == errno.ENOSPC
        assert "raise -cache-size" in rig.problems()
        assert rig.shows("small", content(1)), "nothing went for what cannot be kept"
        assert ("read", "huge") not in rig.node.calls, "nor was it fetched"


@pytest.mark.allow_logs("cannot be read here", "content cannot be kept")
async def test_content_that_is_open_is_not_evicted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Content that somebody has open or mapped is not evicted, nor counted as free."""
    monkeypatch.setattr("dfs.cache.room.ROOM_WAIT_MS", 100)
    rig = Rig(tmp_path)
    rig.options["cache_bytes_max"] = 2 * LARGE
    async with rig:
        for name in ("a", "b", "c"):
            await rig.node.put(name, content(ord(name), LARGE))
        await wait_until("all are shown", lambda: "c" in rig.tree.shown)
        assert await rig.read("a") == content(ord("a"), LARGE)
        with rig.object(content(ord("a"), LARGE)).open("rb"):
            assert await rig.read("b") == content(ord("b"), LARGE)
            with rig.object(content(ord("b"), LARGE)).open("rb"):
                with pytest.raises(OSError, match="c") as raised:
                    await rig.read("c")
                assert raised.value.errno == errno.ENOSPC
                assert "are open or on their way in" in rig.problems()
                await rig.shown("a", content(ord("a"), LARGE))
                await rig.shown("b", content(ord("b"), LARGE))
            monkeypatch.setattr("dfs.cache.room.ROOM_WAIT_MS", 20_000)
            assert await rig.read("c") == content(ord("c"), LARGE)
            assert rig.shows("a", content(ord("a"), LARGE))
            assert not rig.object(content(ord("b"), LARGE)).exists()


@pytest.mark.allow_logs("is fuller than it should be")
async def test_a_disk_that_others_fill_is_given_back_and_readers_are_served(
    tmp_path: Path,
) -> None:
    """When less than `-cache-free` is left on the disk, content goes until it is; nothing is kept
    ahead of its use, the status says so, and readers still get what they read."""
    rig = Rig(tmp_path)
    rig.options["cache_free"] = FreeSpace.of("1M")
    async with rig:
        room = rig.agent.room
        assert room is not None
        disk = Disk(10 << 20, 5 << 20)
        room._disk_of = lambda _: disk
        await rig.node.put("early", content(1))
        await rig.shown("early", content(1))
        disk = Disk(10 << 20, (1 << 20) - 50_000)
        await wait_until("it went", lambda: rig.tree.shown["early"].backing is None)
        await rig.node.put("late", content(2))
        await wait_until("it is shown", lambda: "late" in rig.tree.shown)
        assert rig.tree.shown["late"].backing is None
        assert await rig.read("late") == content(2)
        assert await rig.read("early") == content(1)
        await wait_until("it is said", lambda: "are to stay free (-cache-free)" in rig.problems())
        await wait_until("it goes again", lambda: rig.tree.shown["late"].backing is None)
        disk = Disk(10 << 20, 5 << 20)
        await wait_until("all is well", lambda: not rig.problems())
        await rig.node.put("later", content(3))
        await rig.shown("later", content(3))


@pytest.mark.allow_logs("cannot be read here", "content cannot be kept", "is fuller than")
async def test_a_disk_that_is_nearly_full_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dfs.cache.room.ROOM_WAIT_MS", 100)
    rig = Rig(tmp_path)
    rig.options["cache_free"] = FreeSpace.of("1M")
    async with rig:
        room = rig.agent.room
        assert room is not None
        room._disk_of = lambda _: Disk(10 << 20, (1 << 19) + 1_000)
        await rig.node.put("file", content(2))
        await wait_until("it is shown", lambda: "file" in rig.tree.shown)
        with pytest.raises(OSError, match="file") as raised:
            await rig.read("file")
        assert raised.value.errno == errno.ENOSPC
        assert "make room there" in rig.problems()


@pytest.mark.allow_logs("cannot be read here")
async def test_what_cannot_go_is_not_looked_at_all_the_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dfs.cache.room.ROOM_WAIT_MS", 400)
    objects = Objects(str(tmp_path))
    objects.open()
    for number in (1, 2):
        objects.add(hashlib.sha256(content(number)).digest(), content(number))
    looks: list[int] = []

    def slow() -> set[bytes]:
        end_s = time.monotonic() + 0.02
        while time.monotonic() < end_s:
            pass  # A large tree.
        looks.append(1)
        return set(objects.all())

    with contextlib.closing(Room(objects, Problems(), lambda _: None, 25_000)) as room:
        room.pinned = slow
        with pytest.raises(NoRoom, match="are pinned"):
            async with room.reserved(b"", 10_000, "file"):
                pass
        assert len(looks) <= 4, "one of them for the sentence"
        looks.clear()
        room.bytes_max = 5_000
        for _ in range(50):
            await room.trim()
        assert len(looks) <= 2
        room.pinned = frozenset
        while objects.bytes > 5_000:
            await room.trim()
            await asyncio.sleep(0)


async def test_a_real_disk_never_fills(small_disk: Path) -> None:
    rig = Rig(small_disk)
    rig.options["cache_free"] = FreeSpace.of("2M,50%")
    async with rig:
        for i in range(20):
            await rig.node.put(f"f{i}", content(i, 1 << 20))
        await wait_until("all are shown", lambda: "f19" in rig.tree.shown)
        for i in range(20):
            assert await rig.read(f"f{i}") == content(i, 1 << 20)
            found = os.statvfs(small_disk)
            # The journal beside them may take some of it.
            assert found.f_bavail * found.f_frsize >= (2 << 20) - (256 << 10)
        objects = rig.agent.objects
        assert objects is not None
        assert objects.bytes >= 4 << 20, "and is used"


@pytest.mark.allow_logs("cannot be kept within its bounds", "content cannot be kept")
async def test_a_disk_that_fails_is_said_and_survived(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    rig.options["cache_free"] = FreeSpace.of("1M")

    def fail(path: str) -> Disk:
        raise OSError(errno.EIO, "Input/output error")

    async with rig:
        room = rig.agent.room
        assert room is not None
        healthy, room._disk_of = room._disk_of, fail
        await wait_until("it is said", lambda: "kernel log" in rig.problems())
        await rig.node.put("file", content(1))
        await wait_until("it is shown", lambda: "file" in rig.tree.shown)
        with pytest.raises(OSError, match="file") as raised:
            await rig.read("file")
        assert raised.value.errno == errno.EIO
        assert not rig.ended()
        room._disk_of = healthy
        await wait_until("it is over", lambda: not rig.problems())
        assert await rig.read("file") == content(1)


def test_an_object_that_is_opened_all_the_time_is_not_touched_all_the_time(tmp_path: Path) -> None:
    objects = Objects(str(tmp_path))
    objects.open()
    objects.note_used([])
    path, now = objects.add(hashlib.sha256(b"x").digest(), b"x"), int(time.time())
    os.utime(path, (0, 5))
    objects.note_used([hashlib.sha256(b"x").digest()])
    assert os.stat(path).st_atime == 0  # It was written just now: nobody looks.
    objects = Objects(str(tmp_path))
    objects.open()
    for age, touched in ((OBJECT_USED_S - 10, False), (OBJECT_USED_S + 1, True), (-100, True)):
        os.utime(path, (now - age, 5))
        objects.note_used([hashlib.sha256(b"x").digest()])
        assert (os.stat(path).st_atime != now - age) == touched
        assert os.stat(path).st_mtime == 5  # To be used is not to be verified.


async def test_what_was_opened_last_stays_over_a_restart(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    async with rig:
        for i in range(4):
            await rig.node.put(f"f{i}", content(i))
        await rig.shown("f3", content(3))
    for i in range(4):
        os.utime(rig.object(content(i)), ns=(i * 10**9, SEALED_NS))
    async with rig:
        assert await rig.read("f0") == content(0)
        await wait_until("it is noted", lambda: rig.object(content(0)).stat().st_atime > 3)
    rig.options["cache_bytes_max"] = 21_000
    async with rig:
        await wait_until("the others went", lambda: rig.tree.shown["f2"].backing is None)
        await rig.shown("f0", content(0))
        assert rig.tree.shown["f1"].backing is None


def test_an_object_is_removed_only_when_nobody_has_it_open(tmp_path: Path) -> None:
    objects = Objects(str(tmp_path))
    objects.open()
    data = content(1)
    digest = hashlib.sha256(data).digest()
    assert objects.remove(digest) == 0, "there is none"
    path = objects.add(digest, data)
    objects.hide(digest)
    assert objects.backing(digest, len(data)) is None
    with open(path, "rb"):
        assert objects.remove(digest) == 0
        assert objects.backing(digest, len(data)) == path, "it stays, and is used"
    objects.hide(digest)
    assert objects.verify(digest) == path
    assert objects.remove(digest) == 0, "somebody wanted it meanwhile"
    objects.hide(digest)
    assert objects.remove(digest) == len(data)
    assert (objects.bytes, os.path.exists(path)) == (0, False)


@pytest.mark.allow_logs("is damaged")
def test_only_the_last_damaged_objects_are_kept(tmp_path: Path) -> None:
    objects = Objects(str(tmp_path))
    objects.open()
    for i in range(1, QUARANTINED_MAX + 3):
        data = content(i)
        digest = hashlib.sha256(data).digest()
        path = Path(objects.add(digest, data))
        path.unlink()
        path.write_bytes(b"cut")
        assert objects.backing(digest, len(data) + 1) is None
        newest = digest.hex()
    kept = os.listdir(objects.quarantine)
    assert len(kept) == QUARANTINED_MAX
    assert any(name.startswith(newest) for name in kept)
