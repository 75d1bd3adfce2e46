"""`.dfs/at/` over a node in memory: what is answered, and what programs see through the kernel."""

from __future__ import annotations

import asyncio
import ctypes
import errno
import os
import subprocess
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from dfs.cache.agent import Agent, Options
from dfs.cache.feeder import NOBODY
from dfs.cache.past import TOP
from dfs.cache.questions import LIST, NAME
from dfs.cache.twin import MemoryNode
from dfs.client.values import Kind
from dfs.limits import AGENT_DATA_BYTES_MAX, PAST_TIMES_MAX

from .cache_rig import Rig, wait_until
from .mount_rig import fails_with, needs_fuse
from .mount_rig import wait_until as wait_for
from .test_cache_kernel import listing

MS_REMOUNT = 32
LARGE = b"x" * (2 * AGENT_DATA_BYTES_MAX)


# ---- what is answered ----------------------------------------------------------------------------
@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    """One agent."""
    async with Rig(tmp_path) as made:
        yield made


async def look(rig: Rig, path: str, what: str) -> list[Any]:
    """As the kernel."""
    return await asyncio.to_thread(rig.tree.look, path, what)


def time_name(rig: Rig, key: str) -> str:
    """When the present version of a key was committed."""
    time_ns = rig.node.records[key].time_ns
    at = datetime.fromtimestamp(time_ns // 10**9, UTC)
    return f"{at:%Y-%m-%dT%H:%M:%S}.{time_ns % 10**9:09}Z"


async def test_a_revision_and_a_time_are_directories(rig: Rig) -> None:
    await rig.node.put("d/f", b"one", mode=0o640, mtime_ns=5)
    await rig.node.symlink("d/link", "there", mtime_ns=6)
    revision = rig.node.revision
    name = time_name(rig, "d/link")
    await rig.node.put("d/f", b"other")
    await rig.shown("d/f", b"other")
    for then in (str(revision), name):
        [found] = await look(rig, TOP, NAME + then)
        assert found[:2] == (then, Kind.DIRECTORY)
        assert found[7] == revision
        assert [entry[:2] for entry in await look(rig, f"{TOP}/{then}", LIST)] == [
            ("d", Kind.DIRECTORY)
        ]
        file, link = await look(rig, f"{TOP}/{then}/d", LIST)
        assert file[:8] == ("d/f", Kind.FILE, 3, 0o640, 5, NOBODY, NOBODY, 1)
        assert Path(file[8]).read_bytes() == b"one", "its content is here yet"
        assert link[:2] + link[8:] == ("d/link", Kind.SYMLINK, "there")


async def test_what_is_no_revision(rig: Rig) -> None:
    await rig.node.put("f", b"one")
    await rig.shown("f", b"one")
    for name in ("none", "0", "2026-13-01", "2026-11-25T10:00:00", "1 "):
        with fails_with(errno.ENOENT):
            await look(rig, TOP, NAME + name)
    for name in ("77", "1999-01-01"):
        with fails_with(errno.ERANGE):
            await look(rig, TOP, NAME + name)
    name = time_name(rig, "f")
    assert await look(rig, TOP, NAME + name)
    await rig.node.put("f", b"two")
    rig.node.floor = 2
    for gone in ("1", name):
        with fails_with(errno.ERANGE):
            await look(rig, TOP, NAME + gone)
        with fails_with(errno.ERANGE):
            await look(rig, f"{TOP}/{gone}", LIST)


async def test_what_was_shown_needs_no_quorum_and_a_node_is_waited_for(rig: Rig) -> None:
    await rig.node.put("f", b"one")
    await rig.shown("f", b"one")
    rig.node.away = True
    assert await look(rig, TOP, f"{NAME}1")
    assert await look(rig, f"{TOP}/1", LIST)
    looking = asyncio.create_task(look(rig, TOP, NAME + time_name(rig, "f")))
    assert not (await asyncio.wait({looking}, timeout=0.1))[0]
    rig.node.away = False
    assert (await looking)[0][7] == 1
    assert rig.agent.questions is not None
    rig.agent.questions.deadline_s = 0.1
    rig.node.away = True
    with fails_with(errno.ETIMEDOUT):
        await look(rig, TOP, f"{NAME}2")


async def test_a_directory_of_too_many_entries_is_refused(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dfs.cache.past.PAST_DIRECTORY_MAX", 2)
    for name in "abc":
        await rig.node.put(name, b"one")
    with fails_with(errno.EFBIG):
        await look(rig, f"{TOP}/3", LIST)
    assert len(await look(rig, f"{TOP}/2", LIST)) == 2


async def test_times_are_remembered_within_a_bound(rig: Rig) -> None:
    await rig.node.put("f", b"one")
    assert rig.agent.questions is not None
    past = rig.agent.questions._past
    for second in range(PAST_TIMES_MAX + 5):
        await past.named(f"2200-01-01T{second // 3600:02}:{second // 60 % 60:02}:{second % 60:02}Z")
    assert len(past._times) == PAST_TIMES_MAX


# ---- through the kernel --------------------------------------------------------------------------
class Mounted:
    """An agent over a node, whose mount is real."""

    def __init__(self, folder: Path, passthrough: int) -> None:
        from dfs import _engine as engine

        self.engine = engine
        self.point, self.node = folder / "mount", MemoryNode()
        self.point.mkdir()
        self.fd = engine.fuse_open()
        engine.fuse_mount(
            self.fd, str(self.point), "user_id=0,group_id=0,default_permissions,allow_other"
        )
        self.tree = engine.Tree({"passthrough": passthrough, "deadline_ms": 20_000})
        options = Options(
            ["memory"], str(folder / "state"), mount=str(self.point), fuse_fd=self.fd
        )
        self.agent = Agent(options, self.node, self.tree)

    def at(self, path: str) -> Path:
        """Where a past path is."""
        return self.point / TOP / path

    async def shown(self) -> None:
        """Waits until the mount shows what the node has."""
        await wait_until(
            "all is shown", lambda: self.agent.feeder.revision == self.node.revision
            and self.agent.feeder.ready.is_set()
        )
        assert await asyncio.to_thread(self.tree.flush, 10_000)

    def close(self) -> None:
        """Unmounts."""
        self.engine.fuse_unmount(str(self.point), force=True)
        os.close(self.fd)


@pytest.fixture(params=[0, 1], ids=["read", "passthrough"])
def unserved(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Mounted]:
    """A mount that is surely gone at the end."""
    made = Mounted(tmp_path, request.param)
    try:
        yield made
    finally:
        made.close()


@pytest.fixture
async def mounted(unserved: Mounted) -> AsyncIterator[Mounted]:
    """The same, served."""
    running = asyncio.create_task(unserved.agent.run())
    try:
        yield unserved
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def grow(node: MemoryNode) -> int:
    """A tree, and what becomes of it; the revision of the tree."""
    for number in range(40):
        await node.put(f"d/{number % 3}/f{number}", b"%d" % number * number, mode=0o600 + number,
                       mtime_ns=10**18 + number)
    await node.put("d/large", LARGE)
    await node.put("d/empty", b"")
    await node.symlink("d/link", "0/f3", mtime_ns=10**18)
    await node.mkdir("e", mode=0o711)
    revision = node.revision
    for number in range(0, 40, 2):
        await node.delete(f"d/{number % 3}/f{number}")
    await node.put("d/0/f3", b"changed")
    await node.put("d/large", LARGE + b"y")
    await node.delete("d/link")
    await node.delete("e")
    await node.put("e", b"a file now")
    return revision


async def run(*words: object) -> tuple[int, str]:
    """(exit code, output) of a program."""
    made = await asyncio.create_subprocess_exec(
        *map(str, words), stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    output, _ = await made.communicate()
    return made.returncode or 0, output.decode()


@needs_fuse
async def test_past_revisions_are_directories_of_the_mount(
    mounted: Mounted, tmp_path: Path
) -> None:
    """Below `.dfs/at/` of the mount every revision that history retains is a directory, by its
    number and by times: the whole tree as it was then, with content, modes, times, links and empty
    directories, also what was changed or removed since. Nothing of it can be changed, and no
    listing shows it."""
    revision = await grow(mounted.node)
    name = datetime.fromtimestamp(
        mounted.node.events[-1].stat.time_ns / 10**9 + 1, UTC
    ).strftime("%Y-%m-%dT%H:%M:%SZ")
    await mounted.shown()
    now = await asyncio.to_thread(listing, mounted.point)
    assert await asyncio.to_thread(listing, mounted.at(name)) == now
    then = await asyncio.to_thread(listing, mounted.at(str(revision)))
    directories, others = ["d", "d/0", "d/1", "d/2", "e"], ["d/large", "d/empty", "d/link"]
    assert len(then) == 40 + len(directories) + len(others)
    assert then["e"] == oct(0o40711)
    assert then["d/link"] == "→ 0/f3"
    code, output = await run("diff", "-r", mounted.at(str(revision)), mounted.point)
    assert code == 1
    changed = {line.split(": ")[-1] for line in output.splitlines() if line.startswith("Only in")}
    assert {f"f{number}" for number in range(0, 40, 2)} <= changed
    assert sum(line.startswith(("Binary", "diff ")) for line in output.splitlines()) == 2
    for version in range(1, 41):
        key = mounted.node.events[version - 1].key
        data = await asyncio.to_thread(mounted.at(f"{version}/{key}").read_bytes)
        assert data == b"%d" % (version - 1) * (version - 1)
    assert (await run("cp", "-a", mounted.at(str(revision)), tmp_path / "copy"))[0] == 0
    assert await asyncio.to_thread(listing, tmp_path / "copy") == then
    assert await asyncio.to_thread(os.listdir, mounted.point / TOP) == []
    assert "at" in await asyncio.to_thread(os.listdir, mounted.point / ".dfs")
    with fails_with(errno.EROFS):
        await asyncio.to_thread(mounted.at(f"{revision}/new").write_bytes, b"")
    with fails_with(errno.EROFS):
        await asyncio.to_thread(mounted.at(f"{revision}/new").mkdir)


@needs_fuse
async def test_names_in_the_past_that_are_none(mounted: Mounted) -> None:
    """A name in `.dfs/at/` that is neither a revision nor a time does not exist (ENOENT); one that
    history does not reach, or that is yet to come, is ERANGE."""
    revision = await grow(mounted.node)
    await mounted.shown()
    for name in ("none", "2026-11-25T10:00", "0"):
        with fails_with(errno.ENOENT):
            await asyncio.to_thread(os.stat, mounted.at(name))
    with fails_with(errno.ENOENT):
        await asyncio.to_thread(os.stat, mounted.at(f"{revision}/none"))
    with fails_with(errno.ERANGE):
        await asyncio.to_thread(os.stat, mounted.at(str(revision + 1000)))
    file = mounted.at(f"{revision}/d/0/f3")
    held = await asyncio.to_thread(file.open, "rb", buffering=0)
    mounted.node.floor = revision + 1
    await asyncio.to_thread(wait_for, lambda: _errno(mounted.at(str(revision))) == errno.ERANGE)
    assert await asyncio.to_thread(held.read) == b"333", "what is open stays"
    held.close()


def _forget_names(point: Path) -> None:
    """Has the kernel forget the names of this mount that nobody uses, as remounting does."""
    flags = MS_REMOUNT | os.ST_RDONLY | os.ST_NOSUID | os.ST_NODEV
    assert ctypes.CDLL(None).mount(b"none", os.fsencode(point), None, flags, None) == 0


def _errno(path: Path) -> int:
    try:
        path.stat()
    except OSError as error:
        return error.errno or 0
    return 0


@needs_fuse
async def test_a_version_that_history_no_longer_names_is_read_where_it_was(
    mounted: Mounted,
) -> None:
    """It was made before the floor, and was still there then."""
    await mounted.node.put("f", LARGE)
    await mounted.node.put("g", b"")
    await mounted.node.put("f", b"other")
    await mounted.shown()
    mounted.node.floor = 2
    assert await asyncio.to_thread(mounted.at("2/f").read_bytes) == LARGE


@needs_fuse
async def test_what_the_kernel_forgets_of_the_past_takes_no_memory(mounted: Mounted) -> None:
    """Entries of the past are kept within a bound, and what the kernel has forgotten goes."""
    revision = await grow(mounted.node)
    await mounted.shown()
    before = mounted.tree.stats()["nodes"]
    for past in range(revision - 20, revision):
        await asyncio.to_thread(listing, mounted.at(str(past)))
    assert mounted.tree.stats()["nodes"] > before + 500
    _forget_names(mounted.point)

    def forgotten() -> bool:
        return mounted.tree.stats()["nodes"] <= before + 2

    await wait_until("all of it has gone", forgotten)
    assert mounted.tree.stats()["past"] == 0
    assert len(await asyncio.to_thread(listing, mounted.at(str(revision)))) > 40
