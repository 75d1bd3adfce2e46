"""From the stream of changes to what the mount shows: exactly the committed tree, verified."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import random
from pathlib import Path

import pytest

from dfs.cache.feeder import Feeder
from dfs.cache.fetcher import Wanted, changed_since
from dfs.cache.ignore import Ignore
from dfs.cache.problems import Problems
from dfs.cache.twin import MemoryNode, MemoryTree
from dfs.cache.twin.tree import encoded
from dfs.client.values import Event, Kind, Told
from dfs.errors import DeadlineExceeded, DfsError
from dfs.limits import AGENT_DATA_BYTES_MAX, FEED_ITEMS_MAX, TRANSACTION_CHANGES_MAX

from .cache_rig import Rig, wait_until

BROKE = "the stream of changes broke"
LARGE = os.urandom(AGENT_DATA_BYTES_MAX + 1)


def tree_of(rig: Rig) -> dict[str, tuple[int, int]]:
    return {path: (shown.kind, shown.version) for path, shown in rig.tree.shown.items()}


def committed(node: MemoryNode) -> dict[str, tuple[int, int]]:
    return {path: (int(stat.kind), stat.revision) for path, stat in node.records.items()}


async def test_small_content_is_here_before_anybody_asks(tmp_path: Path) -> None:
    node = MemoryNode()
    await node.put("before", b"1", mode=0o600, mtime_ns=5)
    async with Rig(tmp_path, node) as rig:
        await rig.shown("before", b"1")
        await node.put("after", b"2")
        await node.put("empty", b"")
        await node.put("copy", b"2")
        for key, data in (("after", b"2"), ("empty", b""), ("copy", b"2")):
            await rig.shown(key, data)
        assert ("read", "before") not in node.calls
        assert rig.tree.shown["before"][2:4] == (0o600, 5)


async def test_a_revision_is_shown_as_a_whole() -> None:
    """However many changes it has: they reach the mount in one call, what goes and what comes."""
    node, tree = MemoryNode(), MemoryTree(1.0)
    await node.put("k", b"1")
    stat = node.records["k"]._replace(revision=1)
    count = TRANSACTION_CHANGES_MAX // 2
    assert count > FEED_ITEMS_MAX
    feeder = Feeder(node, Problems(), tree)
    for revision in (2, 3):
        new = stat._replace(revision=revision)
        events = [
            Event(f"d{r}/{n}", revision, r < revision, new, None, 0, n)
            for r in (revision, revision - 1) for n in range(count)
        ]
        before = tree.applied
        answer = encoded(events)
        await feeder._take([Told(answer, 0, len(events), False, False, False, revision)])
        assert tree.applied == before + 1
        assert sorted(tree.shown) == sorted(f"d{revision}/{n}" for n in range(count))


async def test_large_content_is_fetched_once_when_it_is_wanted(tmp_path: Path) -> None:
    async with Rig(tmp_path) as rig:
        await rig.node.put("large", LARGE)
        await wait_until("it is shown", lambda: "large" in rig.tree.shown)
        assert rig.tree.shown["large"].backing is None
        rig.node.hold = asyncio.Event()
        readers = [asyncio.create_task(rig.read("large")) for _ in range(8)]
        await wait_until("it is fetched", lambda: ("read", "large") in rig.node.calls)
        rig.node.hold.set()
        assert await asyncio.gather(*readers) == [LARGE] * 8
        await rig.shown("large", LARGE)
        assert rig.node.calls.count(("read", "large")) == 1


@pytest.mark.allow_logs("a reader waited in vain")
async def test_a_fetch_that_never_comes_is_an_errno(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Rig(tmp_path) as rig:
        await rig.node.put("large", LARGE)
        await wait_until("it is shown", lambda: "large" in rig.tree.shown)
        rig.fetcher_deadline(0.05)
        rig.node.hold = asyncio.Event()
        with pytest.raises(TimeoutError):
            await rig.read("large")
        rig.node.hold.set()
        rig.fetcher_deadline(20.0)
        assert await rig.read("large") == LARGE


async def test_a_past_version_waits_for_the_node_as_any_other(tmp_path: Path) -> None:
    async with Rig(tmp_path) as rig:
        past = await rig.node.put("file", LARGE)
        await rig.node.put("file", b"now")
        await rig.shown("file", b"now")
        fetcher = rig.agent.fetcher
        assert fetcher is not None
        rig.node.cut = True
        fetching = asyncio.create_task(fetcher._once(Wanted("file", past, past, "file")))
        await wait_until("it tries again", lambda: rig.node.calls.count(("read", "file")) > 2)
        rig.node.cut = False
        assert Path(await fetching).read_bytes() == LARGE
        rig.fetcher_deadline(0.05)
        rig.node.hold = asyncio.Event()
        with pytest.raises(DeadlineExceeded):
            await asyncio.wait_for(fetcher._once(Wanted("file", past, past, "file")), 5)


@pytest.mark.allow_logs("is not to be had")
async def test_wrong_bytes_from_a_node_are_never_served(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Content is verified against its SHA-256 before it is shown: wrong bytes are never served."""
    monkeypatch.setattr("dfs.cache.fetcher.AGENT_RETRY_MS_MAX", 100)
    async with Rig(tmp_path) as rig:
        await rig.node.put("large", LARGE)
        await wait_until("it is shown", lambda: "large" in rig.tree.shown)
        rig.node.damage_reads = 1
        assert await rig.read("large") == LARGE
        await rig.node.put("other", LARGE[:-1] + b"x" if LARGE[-1:] != b"x" else LARGE[:-1] + b"y")
        await wait_until("it is shown", lambda: "other" in rig.tree.shown)
        rig.node.damage_reads = 1_000
        with pytest.raises(OSError, match="other") as caught:
            await rig.read("other")
        assert caught.value.errno == errno.EIO


async def test_a_replaced_version_is_still_complete_for_its_reader(tmp_path: Path) -> None:
    async with Rig(tmp_path) as rig:
        await rig.node.put("large", LARGE)
        await wait_until("it is shown", lambda: "large" in rig.tree.shown)
        rig.node.hold = asyncio.Event()
        reader = asyncio.create_task(rig.read("large"))
        await wait_until("it is fetched", lambda: ("read", "large") in rig.node.calls)
        rig.node.hold.set()
        await rig.node.put("large", b"small now")
        assert await reader == LARGE
        await rig.shown("large", b"small now")


@pytest.mark.allow_logs("cached object is damaged")
@pytest.mark.parametrize("rebooted", [True, False])
@pytest.mark.parametrize("cut", [True, False])
async def test_an_object_that_was_damaged_meanwhile_is_set_aside_and_fetched_again(
    tmp_path: Path, rebooted: bool, cut: bool
) -> None:
    """Somebody has cut it, or written to it."""
    async with Rig(tmp_path) as rig:
        await rig.node.put("large", LARGE)
        await rig.node.put("small", b"small")
        await rig.shown("small", b"small")
        assert await rig.read("large") == LARGE
        await rig.stop()
        for data in (LARGE, b"small"):
            rig.object(data).chmod(0o600)
            rig.object(data).write_bytes(data[:-1] if cut else data[:-1] + b"!")
        if rebooted:
            (rig.state / "boot").write_text("another boot of this machine")
        await rig.start()
        await rig.shown("small", b"small")
        assert await rig.read("large") == LARGE
        assert len(os.listdir(rig.state / "quarantine")) == 2


async def test_objects_of_an_earlier_boot_are_verified_and_kept(tmp_path: Path) -> None:
    async with Rig(tmp_path) as rig:
        for data in (b"one", b"two"):
            await rig.node.put(data.decode(), data)
            await rig.shown(data.decode(), data)
        await rig.stop()
        inode = rig.object(b"one").stat().st_ino
        (rig.state / "boot").write_text("another boot of this machine")
        rig.node.calls.clear()
        await rig.start()
        await rig.shown("one", b"one")
        await rig.shown("two", b"two")
        assert rig.object(b"one").stat().st_ino == inode
        assert not [call for call in rig.node.calls if call[0] == "read"]
        left = [f for _, _, files in os.walk(rig.state / "former") for f in files]
        assert not left


@pytest.mark.allow_logs("cached object is damaged")
async def test_setting_objects_of_an_earlier_boot_aside_may_be_interrupted(tmp_path: Path) -> None:
    """Some are moved already, some are not: all are verified, the right ones are kept."""
    contents = [b"moved", b"moved, bad", b"left", b"left, bad"]
    async with Rig(tmp_path) as rig:
        for data in contents:
            await rig.node.put(data.decode(), data)
            await rig.shown(data.decode(), data)
        await rig.stop()
        inodes = {data: rig.object(data).stat().st_ino for data in contents}
        for data in (b"moved, bad", b"left, bad"):
            rig.object(data).chmod(0o600)
            rig.object(data).write_bytes(data.upper())
        for data in (b"moved", b"moved, bad"):
            former = rig.state / "former" / rig.object(data).parent.name
            former.mkdir(parents=True, exist_ok=True)
            rig.object(data).rename(former / rig.object(data).name)
        (rig.state / "boot").write_text("another boot of this machine")
        rig.node.calls.clear()
        await rig.start()
        for data in contents:
            assert await rig.read(data.decode()) == data
            await rig.shown(data.decode(), data)
        asked = {key for verb, key in rig.node.calls if verb == "read"}
        assert asked <= {"moved, bad", "left, bad"}
        for data in (b"moved", b"left"):
            assert rig.object(data).stat().st_ino == inodes[data]
        quarantined = sorted(p.read_bytes() for p in (rig.state / "quarantine").iterdir())
        assert quarantined == [b"LEFT, BAD", b"MOVED, BAD"]
        assert not [f for _, _, files in os.walk(rig.state / "former") for f in files]


async def test_a_restart_uses_what_is_here_without_asking_for_content(tmp_path: Path) -> None:
    async with Rig(tmp_path) as rig:
        for i in range(200):
            await rig.node.put(f"f{i}", b"%d" % i)
        await rig.shown("f199", b"199")
        await rig.stop()
        rig.node.calls.clear()
        await rig.start()
        for i in range(200):
            await rig.shown(f"f{i}", b"%d" % i)
        assert not [call for call in rig.node.calls if call[0] == "read"]


def test_what_has_mostly_changed_lately_is_found() -> None:
    assert changed_since([], 100) == 100
    assert changed_since([100], 100) == 99
    assert changed_since([98], 100) == 100, "two others would come along"
    assert changed_since([2, 3, 95, 97, 99], 100) == 94
    assert changed_since(range(1, 101), 100) == 0
    assert changed_since([60, *range(61, 101, 2)], 100) == 59


async def test_what_changed_beyond_what_comes_with_the_tree_comes_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dfs.cache.feeder.AGENT_AHEAD_BYTES_MAX", 0)
    async with Rig(tmp_path) as rig:
        for i in range(100):
            await rig.node.put(f"f{i}", b"%d" % i)
        await rig.shown("f99", b"99")
        await rig.stop()
        for i in range(0, 100, 2):
            await rig.node.put(f"f{i}", b"lost")
            await rig.node.put(f"f{i}", b"new %d" % i)
        rig.node.calls.clear()
        await rig.start()
        for i in range(100):
            await rig.shown(f"f{i}", b"%d" % i if i % 2 else b"new %d" % i)
        assert [verb for verb, _ in rig.node.calls].count("read") == 0
        assert not rig.object(b"lost").exists(), "no version has it any more"


async def test_what_is_missing_and_does_not_come_at_once_comes_one_by_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dfs.cache.feeder.AGENT_AHEAD_BYTES_MAX", 0)
    async with Rig(tmp_path) as rig:
        for i in range(9):
            await rig.node.put(f"f{i}", b"%d" % i)
        await rig.shown("f8", b"8")
        await rig.stop()
        for i in range(9):
            await rig.node.put(f"f{i}", b"new %d" % i)
        rig.node.floor = rig.node.revision - 1
        await rig.start()
        for i in range(9):
            await rig.shown(f"f{i}", b"new %d" % i)
        assert {key for verb, key in rig.node.calls if verb == "read"} == {
            f"f{i}" for i in range(1, 9, 2)  # The others came with the first part of the tree.
        }


async def test_the_mount_shows_exactly_the_committed_tree(tmp_path: Path) -> None:
    """The mount shows exactly the committed tree."""
    node = MemoryNode()
    async with Rig(tmp_path, node) as rig:
        await node.put("a", b"a file")
        await node.put("d/e/f", b"deep")
        await node.mkdir("d/empty", mode=0o700)
        await node.symlink("link", "d/e/f")
        await node.delete("a")
        await node.put("a/b", b"now a directory")
        await node.delete("d", recursive=True)
        await node.put("d", b"now a file")
        await node.mkdir("x")
        await node.delete("x")
        await node.symlink("x", "target")
        await rig.settled()
        assert tree_of(rig) == committed(node)
        assert rig.tree.shown["link"].backing == "d/e/f"
        assert rig.tree.shown["x"].kind == Kind.SYMLINK
        assert await rig.read("d") == b"now a file"


@pytest.mark.allow_logs(BROKE)
async def test_a_broken_stream_goes_on_where_it_was(tmp_path: Path) -> None:
    async with Rig(tmp_path) as rig:
        await rig.node.put("before", b"1")
        await rig.shown("before", b"1")
        await wait_until("the stream is live", lambda: rig.tree.live)
        await rig.node.set_cut(True)
        await wait_until("it is known to be old", lambda: not rig.tree.live)
        for i in range(1_000):
            await rig.node.put(f"meanwhile{i % 300}", b"%d" % i)
        await rig.node.delete("before")
        assert rig.shows("before", b"1")
        await rig.node.set_cut(False)
        for i in range(700, 1_000):
            await rig.shown(f"meanwhile{i % 300}", b"%d" % i)
        await wait_until("the stream is live", lambda: rig.tree.live)
        assert tree_of(rig) == committed(rig.node)
        assert [verb for verb, _ in rig.node.calls].count("snapshot") == 1


@pytest.mark.allow_logs(BROKE)
async def test_a_gap_is_closed_by_a_snapshot_that_deletes_what_is_gone(tmp_path: Path) -> None:
    async with Rig(tmp_path) as rig:
        for i in range(50):
            await rig.node.put(f"d{i % 5}/f{i}", b"%d" % i)
        await rig.shown("d4/f49", b"49")
        await rig.node.set_cut(True)
        await wait_until("it is known to be old", lambda: not rig.tree.live)
        await rig.node.delete("d1", recursive=True)
        await rig.node.put("d1", b"a file now")
        await rig.node.put("d2/f2", b"changed")
        await rig.node.put("new", b"3")
        rig.node.floor = rig.node.revision
        await rig.node.put("newer", b"4")
        applied = rig.tree.applied
        await rig.node.set_cut(False)
        await rig.shown("newer", b"4")
        await wait_until("all is shown", lambda: tree_of(rig) == committed(rig.node))
        await rig.shown("d2/f2", b"changed")
        assert await rig.read("d1") == b"a file now"
        assert rig.tree.applied - applied < 20


@pytest.mark.allow_logs(BROKE)
@pytest.mark.parametrize("seed", range(6))
async def test_any_history_with_breaks_and_gaps_ends_as_the_committed_tree(
    tmp_path: Path, seed: int
) -> None:
    chance = random.Random(seed)
    names = ["a", "b", "a/b", "a/c", "a/b/d", "b/e", "b/e/f", "g"]
    async with Rig(tmp_path) as rig:
        node = rig.node
        for step in range(300):
            name, what = chance.choice(names), chance.random()
            with contextlib.suppress(DfsError):
                if what < 0.4:
                    await node.put(name, b"%d" % step)
                elif what < 0.5:
                    await node.mkdir(name)
                elif what < 0.6:
                    await node.symlink(name, f"to-{step}")
                elif what < 0.9:
                    await node.delete(name, recursive=True)
            if what > 0.95:
                await node.set_cut(not node.cut)
            elif what > 0.93:
                node.floor = node.revision
            if what > 0.9:
                await asyncio.sleep(0)
        await node.set_cut(False)
        await node.put("end", b"end")
        await rig.shown("end", b"end")
        await wait_until("all is shown", lambda: tree_of(rig) == committed(node))
        for path, stat in node.records.items():
            if stat.kind is Kind.FILE:
                assert await rig.read(path) == node.contents[path, stat.revision]


async def test_content_that_no_version_needs_is_removed_after_a_while(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dfs.cache.objects.OBJECT_KEEP_S", 0.0)
    async with Rig(tmp_path) as rig:
        await rig.node.put("file", b"one")
        await rig.node.put("other", b"one")
        await rig.shown("other", b"one")
        await rig.node.put("file", b"two")
        await rig.shown("file", b"two")
        assert rig.object(b"one").exists()
        await rig.node.delete("other")
        await wait_until("it is removed", lambda: not rig.object(b"one").exists())
        assert rig.shows("file", b"two")


@pytest.mark.allow_logs(BROKE, "was unmounted")
async def test_the_mount_is_served_when_the_tree_is_complete_and_adopted_after_a_death(
    tmp_path: Path,
) -> None:
    node = MemoryNode()
    await node.set_cut(True)
    rig = Rig(tmp_path, node)
    rig.options |= {"fuse_fd": 99, "adopt": True, "contents": str(tmp_path / "contents")}
    rig.cache.rmdir()
    await rig.start(scanned=False)
    try:
        await wait_until("the cache is there", rig.cache.exists)
        assert rig.tree.fd == -1
        await node.set_cut(False)
        await wait_until("it is served", lambda: rig.tree.fd == 99)
        assert rig.tree.adopted
        await wait_until("it is reported", lambda: node.reports)
        await wait_until("the mode is reported", lambda: node.reports[-1].mount_mode == "read")
        rig.tree.ended = True
        await wait_until("the agent ends", rig.ended)
    finally:
        await rig.stop()


@pytest.mark.parametrize(("path", "ignored"), [
    (".dfs", True), (".dfs/x", False), (".dfsignore", True), ("a/.dfsignore", False),
    ("x.swp", True), ("a/b.tmp", True), (".#lock", True), ("#auto#", True), (".~lock.a.odt#", True),
    (".a.txt.Ab3dEf", True), (".app.backup", False), ("a.backup", False), ("tmp", False),
    ("4913", True), ("49130", False), (".nfs0001", True), (".goutputstream-X", True),
])
def test_the_built_in_list(path: str, ignored: bool) -> None:
    assert Ignore().ignored(path, False) is ignored


@pytest.mark.parametrize(("text", "path", "directory", "ignored"), [
    ("*.o", "a/b.o", False, True), ("/top", "top", False, True), ("/top", "a/top", False, False),
    ("a/*.c", "a/x.c", False, True), ("a/*.c", "a/b/x.c", False, False),
    ("a/**/x", "a/x", False, True), ("a/**/x", "a/b/c/x", False, True),
    ("build/", "build", True, True), ("build/", "build", False, False),
    ("*.o\n!keep.o", "keep.o", False, False), ("[ab]?", "bx", False, True),
    ("[!ab]?", "bx", False, False), ("\\!x", "!x", False, True), ("# x", "# x", False, False),
    ("**", "a/b", False, True), ("", "a", False, False), ("/", "a", False, False),
])
def test_the_language_of_dfsignore(text: str, path: str, directory: bool, ignored: bool) -> None:
    assert Ignore(text).ignored(path, directory) is ignored


def test_what_is_below_an_ignored_directory_is_ignored() -> None:
    ignore = Ignore("build/\n")
    assert ignore.below_ignored("a/build/x/y")
    assert not ignore.below_ignored("a/build")
