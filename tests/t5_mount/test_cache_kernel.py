"""The agent over a node in memory and a mount of the kernel: what programs see."""

from __future__ import annotations

import asyncio
import hashlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from dfs.cache.agent import Agent, Options
from dfs.cache.twin import MemoryNode
from dfs.limits import AGENT_DATA_BYTES_MAX

from .cache_rig import wait_until

engine = pytest.importorskip("dfs._engine")
pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or not os.path.exists("/dev/fuse"), reason="needs root and /dev/fuse"
)


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator[tuple[int, Path]]:
    """A descriptor and its mount point; nobody serves it yet."""
    point = tmp_path / "mount"
    point.mkdir()
    fd = engine.fuse_open()
    options = "user_id=0,group_id=0,default_permissions,allow_other"
    engine.fuse_mount(fd, str(point), options)
    try:
        yield fd, point
    finally:
        engine.fuse_unmount(str(point), force=True)
        os.close(fd)


def listing(root: Path) -> dict[str, str]:
    """What a program finds below a directory: link targets, hashes of files, modes."""
    found = {}
    for directory, names, files in os.walk(root):
        for name in [*names, *files]:
            path = Path(directory, name)
            key = str(path.relative_to(root))
            if path.is_symlink():
                found[key] = "→ " + os.readlink(path)
            elif path.is_dir():
                found[key] = oct(path.stat().st_mode)
            else:
                digest = hashlib.sha256(path.read_bytes()).hexdigest()
                found[key] = f"{oct(path.stat().st_mode)} {path.stat().st_mtime_ns} {digest}"
    return found


async def test_a_tree_that_was_copied_in_is_read_back_through_the_kernel(
    tmp_path: Path, mounted: tuple[int, Path]
) -> None:
    fd, point = mounted
    source, cache, node = tmp_path / "source", tmp_path / "cache", MemoryNode()
    for i in range(300):
        file = source / f"d{i % 7}" / "e" / f"f{i}"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(os.urandom(i * 37 % 5_000))
        file.chmod(0o640 + i % 8)
    (source / "large").write_bytes(os.urandom(3 * AGENT_DATA_BYTES_MAX))
    (source / "empty").mkdir(mode=0o711)
    (source / "link").symlink_to("d1/e/f1")
    (source / "dangling").symlink_to("/nowhere")
    options = Options(["memory"], str(tmp_path / "state"), str(cache), str(point), fuse_fd=fd)
    tree = engine.Tree({"passthrough": 1})
    agent = Agent(options, node, tree)
    running = asyncio.create_task(agent.run())
    try:
        await wait_until("the cache is there", cache.exists)
        copy = await asyncio.create_subprocess_exec("cp", "-a", source, cache / "tree")
        assert await copy.wait() == 0
        expected = await asyncio.to_thread(listing, source)
        await wait_until("all is committed", lambda: len(node.records) == len(expected) + 1)
        await wait_until("nothing is pending", lambda: not agent.uploader.pending.drops)
        await wait_until("all is shown", lambda: agent.feeder.revision == node.revision)
        assert await asyncio.to_thread(tree.flush, 5_000)
        assert await asyncio.to_thread(listing, point / "tree") == expected
        done = await asyncio.create_subprocess_exec(
            "diff", "-r", source, point / "tree", stderr=subprocess.PIPE
        )
        assert b"Input/output" not in (await done.communicate())[1]
        (cache / "tree" / "large").write_bytes(b"small now")
        await wait_until(
            "the change is shown", lambda: node.records["tree/large"].size == 9
            and agent.feeder.revision == node.revision
        )
        assert await asyncio.to_thread(tree.flush, 5_000)
        read = await asyncio.to_thread((point / "tree" / "large").read_bytes)
        assert read == b"small now"
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


@pytest.mark.parametrize("passthrough", [0, 1])
async def test_what_a_program_has_open_in_the_mount_is_not_evicted(
    tmp_path: Path, mounted: tuple[int, Path], passthrough: int
) -> None:
    fd, point = mounted
    size = AGENT_DATA_BYTES_MAX + 1
    options = Options(
        ["memory"], str(tmp_path / "state"), mount=str(point), fuse_fd=fd,
        cache_bytes_max=2 * size,
    )
    node = MemoryNode()
    contents = {name: os.urandom(size) for name in "abcd"}
    for name, data in contents.items():
        await node.put(name, data)
    agent = Agent(options, node, engine.Tree({"passthrough": passthrough}))
    running = asyncio.create_task(agent.run())
    assert agent.objects is not None
    here = agent.objects

    def kept(name: str) -> bool:
        return Path(here.path(hashlib.sha256(contents[name]).digest())).exists()

    try:
        await wait_until("the tree is shown", agent.feeder.ready.is_set)
        held = await asyncio.to_thread((point / "a").open, "rb", buffering=0)
        for name in "bcd":
            assert await asyncio.to_thread((point / name).read_bytes) == contents[name]
            assert kept("a")
        assert not kept("b")
        assert await asyncio.to_thread(held.read) == contents["a"]
        held.close()
        assert await asyncio.to_thread((point / "b").read_bytes) == contents["b"]
        assert await asyncio.to_thread((point / "c").read_bytes) == contents["c"]
        await wait_until("it goes like any other", lambda: not kept("a"))
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
