"""`.dfs/at/` over a node in memory: what programs see through the kernel."""

from __future__ import annotations

import asyncio
import ctypes
import errno
import os
import subprocess
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from dfs.cache.agent import Agent, Options
from dfs.cache.attributes import SHOWN
from dfs.cache.past import TOP
from dfs.cache.twin import MemoryNode
from dfs.limits import AGENT_DATA_BYTES_MAX

from .cache_rig import wait_until
from .mount_rig import fails_with, needs_fuse
from .mount_rig import wait_until as wait_for
from .test_cache_kernel import listing

MS_REMOUNT = 32
LARGE = b"x" * (2 * AGENT_DATA_BYTES_MAX)


class Mounted:
    """An agent over a node, whose mount is real."""

    def __init__(self, folder: Path, passthrough: int) -> None:
        from dfs import _engine as engine

        self.engine = engine
        self.folder, self.passthrough = folder, passthrough
        self.point, self.node = folder / "mount", MemoryNode()
        self.point.mkdir()
        self.fd = engine.fuse_open()
        self.table = os.memfd_create("table")
        engine.fuse_mount(
            self.fd, str(self.point), "user_id=0,group_id=0,default_permissions,allow_other"
        )
        self._running: asyncio.Task[None] | None = None

    async def start(self, adopt: bool = False) -> None:
        """An agent that serves it, or goes on with what one before has left."""
        self.tree = self.engine.Tree({
            "passthrough": self.passthrough, "deadline_ms": 20_000, "xattr": 1,
        })
        options = Options(
            ["memory"], str(self.folder / "state"), mount=str(self.point), fuse_fd=self.fd,
            fuse_table=self.table, adopt=adopt,
        )
        self.agent = Agent(options, self.node, self.tree)
        self._running = asyncio.create_task(self.agent.run())

    async def stop(self) -> None:
        """Nobody serves it any more; the kernel does not know yet."""
        assert self._running is not None
        self._running.cancel()
        await asyncio.gather(self._running, return_exceptions=True)

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
        os.close(self.table)


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
    await unserved.start()
    try:
        yield unserved
    finally:
        await unserved.stop()


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
    assert await asyncio.to_thread(os.listdir, mounted.point / TOP) == ["README"]
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
async def test_what_history_passes_while_somebody_is_there(mounted: Mounted) -> None:
    """When history passes a revision, what is open there is read on. Its directory is ERANGE within
    a second, and so is, for who stands below it, what is not here yet."""
    await mounted.node.put("d/held", LARGE)
    await mounted.node.put("d/other", LARGE + b"other")
    await mounted.node.put("d/e/f", b"one")
    revision = mounted.node.revision
    await mounted.node.delete("d/held")
    await mounted.node.put("d/other", b"changed")
    await mounted.shown()
    held = await asyncio.to_thread(mounted.at(f"{revision}/d/held").open, "rb", buffering=0)
    standing = os.open(mounted.at(f"{revision}/d"), os.O_RDONLY)
    try:
        mounted.node.floor = revision + 1
        gone = mounted.at(str(revision))
        await asyncio.to_thread(wait_for, lambda: _errno(gone) == errno.ERANGE)
        assert await asyncio.to_thread(held.read) == LARGE

        def other() -> int:
            return os.open("other", os.O_RDONLY, dir_fd=standing)

        assert sorted(await asyncio.to_thread(os.listdir, standing)) == ["e", "held", "other"]
        with fails_with(errno.ERANGE):
            await asyncio.to_thread(other)
        with fails_with(errno.ERANGE):
            await asyncio.to_thread(os.stat, "e/f", dir_fd=standing)
    finally:
        held.close()
        os.close(standing)


@needs_fuse
async def test_what_is_open_in_the_past_outlives_the_agent(mounted: Mounted) -> None:
    """What somebody has open below `.dfs/at/` is read on when the agent is killed, and who stands
    in a directory there stays in it: the next one shows the same."""
    revision = await grow(mounted.node)
    name = datetime.fromtimestamp(
        mounted.node.events[revision - 1].stat.time_ns / 10**9 + 1, UTC
    ).strftime("%Y-%m-%dT%H:%M:%SZ")
    await mounted.shown()
    held = [
        await asyncio.to_thread(mounted.at(f"{then}/d/large").open, "rb", buffering=0)
        for then in (revision, name)
    ]
    expected = [LARGE, LARGE + b"y"]
    before = await asyncio.to_thread(os.stat, held[0].fileno())
    standing = os.open(mounted.at(f"{revision}/d"), os.O_RDONLY)
    try:
        assert await asyncio.to_thread(held[0].read, 5) == LARGE[:5]
        await mounted.stop()
        # Nobody asks for the content anew, and the floor does not matter to what is open.
        mounted.node.floor = mounted.node.revision
        await mounted.start(adopt=True)
        await mounted.shown()
        assert await asyncio.to_thread(os.pread, held[0].fileno(), 1 << 20, 0) == expected[0]
        assert await asyncio.to_thread(os.pread, held[1].fileno(), 1 << 20, 0) == expected[1]
        assert await asyncio.to_thread(os.stat, held[0].fileno()) == before
        assert mounted.tree.stats()["misses"] == 0, "it was here"
        mounted.node.floor = 0
        names = await asyncio.to_thread(os.listdir, standing)
        assert sorted(names) == ["0", "1", "2", "empty", "large", "link"]
        there = await asyncio.to_thread(os.stat, "0/f3", dir_fd=standing)
        assert there.st_mode & 0o7777 == 0o603
        assert await asyncio.to_thread(mounted.at(f"{revision}/d/0/f3").read_bytes) == b"333"
    finally:
        for file in held:
            file.close()
        os.close(standing)


@needs_fuse
async def test_what_was_replaced_or_removed_is_read_on_when_the_agent_dies(
    mounted: Mounted,
) -> None:
    for key in ("replaced", "removed"):
        await mounted.node.put(key, LARGE)
    await mounted.shown()
    keys = [mounted.point / "replaced", mounted.point / "removed"]
    held = [await asyncio.to_thread(key.open, "rb", buffering=0) for key in keys]
    try:
        await mounted.node.put("replaced", b"now")
        await mounted.node.delete("removed")
        await mounted.shown()
        await mounted.stop()
        await mounted.start(adopt=True)
        await mounted.shown()
        for file in held:
            assert await asyncio.to_thread(os.pread, file.fileno(), 1 << 20, 0) == LARGE
            there = await asyncio.to_thread(os.stat, file.fileno())
            assert there.st_size == len(LARGE)
        assert await asyncio.to_thread(keys[0].read_bytes) == b"now"
        assert not await asyncio.to_thread(keys[1].exists)
    finally:
        for file in held:
            file.close()


@needs_fuse
async def test_extended_attributes_of_the_past(mounted: Mounted) -> None:
    """With `-xattr` what is below `.dfs/at/` has the extended attributes that it had at that
    revision, and with `-owner numeric` the owner."""
    first = await mounted.node.put("d/f", b"one", uid=12, gid=34, xattrs={"user.color": b"red"})
    then = await mounted.node.put("d/f", b"two", uid=13, xattrs={"user.shape": b"round"})
    await mounted.node.put("d/f", b"three")
    await mounted.shown()

    def seen(revision: int) -> tuple[object, ...]:
        path = mounted.at(f"{revision}/d/f")
        own = {n: os.getxattr(path, n) for n in os.listxattr(path) if not n.startswith(SHOWN)}
        told = int(os.getxattr(path, SHOWN + "revision"))
        return own, told, path.stat().st_uid, path.stat().st_gid

    nobody = os.getgid()
    assert await asyncio.to_thread(seen, first) == ({"user.color": b"red"}, first, 12, 34)
    assert await asyncio.to_thread(seen, then) == ({"user.shape": b"round"}, then, 13, nobody)
    with fails_with(errno.ENODATA):
        await asyncio.to_thread(os.getxattr, mounted.at(f"{then}/d/f"), "user.color")


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
