"""From a file dropped into the cache directory to a committed version: only complete ones, once."""

from __future__ import annotations

import asyncio
import errno
import logging
import mmap
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from dfs.cache.agent import Options, run
from dfs.cache.inotify import Inotify
from dfs.client.values import Kind
from dfs.errors import Misconfigured
from dfs.limits import DROP_QUIET_MS, INLINE_BYTES_MAX

from .cache_rig import WAIT_S, Rig, wait_until


async def test_a_dropped_file_is_shown_with_its_mode_and_times(tmp_path: Path) -> None:
    async with Rig(tmp_path) as rig:
        file = rig.root / "file"
        file.write_bytes(b"data")
        file.chmod(0o750)
        os.utime(file, ns=(1, 1_234_567_890_123_456_789))
        file.rename(rig.cache / "file")
        await rig.shown("file", b"data")
        shown = rig.tree.shown["file"]
        assert (shown.mode, shown.mtime_ns, shown.size) == (0o750, 1_234_567_890_123_456_789, 4)
        assert oct(rig.object(b"data").stat().st_mode & 0o777) == "0o444"


async def test_no_prefix_is_stored_while_a_writer_holds_the_file_open(tmp_path: Path) -> None:
    """A file is taken only when it is complete: as long as a writer has it open, nothing of it is
    stored."""
    async with Rig(tmp_path) as rig:
        with (rig.cache / "slow").open("wb", buffering=0) as file:
            for part in range(20):
                file.write(b"%d" % (part % 10) * 1_000)
                await rig.rescan_without_settling()
                assert "slow" not in rig.tree.shown
        await rig.settled()
        assert rig.versions("slow") == [b"".join(b"%d" % (i % 10) * 1_000 for i in range(20))]


async def test_no_prefix_is_stored_while_the_file_is_mapped_after_its_close(tmp_path: Path) -> None:
    async with Rig(tmp_path) as rig:
        with (rig.cache / "mapped").open("w+b") as file:
            file.write(bytes(8_192))
            file.flush()
            memory = mmap.mmap(file.fileno(), 8_192)
        for page in (0, 4_096):
            await rig.rescan_without_settling()
            assert "mapped" not in rig.tree.shown
            memory[page] = 1
        expected = memory[:]
        memory.close()
        await rig.shown("mapped", expected)
        assert rig.versions("mapped") == [expected]


async def test_what_a_mapping_changes_later_is_found_by_a_scan(tmp_path: Path) -> None:
    async with Rig(tmp_path) as rig:
        file = rig.drop("mapped", bytes(8_192))
        await rig.shown("mapped", bytes(8_192))
        with file.open("r+b") as opened, mmap.mmap(opened.fileno(), 8_192) as memory:
            memory[5_000] = 1
        await rig.rescan()
        assert rig.versions("mapped")[-1] == file.read_bytes()


async def test_an_appender_makes_few_versions_and_the_last_one_is_right(tmp_path: Path) -> None:
    async with Rig(tmp_path) as rig:
        expected = b""
        for line in range(200):
            with (rig.cache / "log").open("ab") as file:
                file.write(b"%d\n" % line)
            expected += b"%d\n" % line
            if line == 0:
                await rig.shown("log", expected)
        await rig.shown("log", expected)
        versions = rig.versions("log")
        assert all(expected.startswith(v) for v in versions)
        assert len(versions) <= 2 + 2 * 1_000 // DROP_QUIET_MS


@pytest.mark.allow_logs("has no leases")
async def test_without_leases_a_file_must_have_been_left_alone_for_a_while(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EINVAL, "Invalid argument")

    monkeypatch.setattr("dfs.cache.take.fcntl.fcntl", refuse)
    monkeypatch.setattr("dfs.cache.take.DROP_QUIET_NO_LEASE_MS", 200)
    async with Rig(tmp_path) as rig:
        begin = time.monotonic()
        rig.drop("file", b"data")
        await rig.shown("file", b"data")
        assert time.monotonic() - begin >= 0.19
        assert "counts as complete when it was left alone" in rig.problems()


async def test_a_mount_below_the_cache_directory_is_no_part_of_it(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    inside = rig.cache / "inside"
    inside.mkdir()
    (inside / "shown").write_bytes(b"of the mount")
    rig.options["mount"] = str(inside)
    async with rig:
        rig.drop("file", b"data")
        await rig.shown("file", b"data")
        await rig.rescan()
        assert list(rig.node.records) == ["file"]


async def test_a_truncation_by_path_is_noticed(tmp_path: Path) -> None:
    async with Rig(tmp_path) as rig:
        file = rig.drop("file", b"0123456789")
        await rig.shown("file", b"0123456789")
        os.truncate(file, 4)
        await rig.shown("file", b"0123")


async def test_files_written_right_after_mkdir_arrive_all_the_same(tmp_path: Path) -> None:
    async with Rig(tmp_path) as rig:
        for i in range(200):
            rig.drop(f"a{i}/b/c/file", b"%d" % i)
            if i % 20 == 0:
                await asyncio.sleep(0)
        for i in range(200):
            await rig.shown(f"a{i}/b/c/file", b"%d" % i)


async def test_what_the_kernel_could_not_queue_is_found(tmp_path: Path) -> None:
    async with Rig(tmp_path) as rig:
        assert rig.agent.watcher is not None
        limit = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())
        for name in ("x", "y"):
            rig.drop(name, b"")
        for count in range(limit // 2 + 1):
            os.utime(rig.cache / "x", ns=(0, count))
            os.utime(rig.cache / "y", ns=(0, count))
        for i in range(300):
            rig.drop(f"lost{i}/file", b"%d" % i)
        for i in range(300):
            await rig.shown(f"lost{i}/file", b"%d" % i)
        assert rig.agent.watcher.overflows > 0


async def test_an_editors_save_is_one_version_and_its_temporary_files_are_none(
    tmp_path: Path,
) -> None:
    async with Rig(tmp_path) as rig:
        rig.drop("text", b"old")
        await rig.shown("text", b"old")
        rig.drop(".text.swp", b"swap")
        rig.drop("4913", b"")
        (rig.cache / "text").rename(rig.cache / "text~")
        rig.drop("text", b"new")
        (rig.cache / "text~").unlink()
        rig.drop(".upload.Xy12Zz", b"rsync")
        (rig.cache / ".upload.Xy12Zz").rename(rig.cache / "upload")
        await rig.shown("text", b"new")
        await rig.shown("upload", b"rsync")
        await rig.rescan()
        assert sorted(rig.node.records) == ["text", "upload"]
        assert rig.versions("text") == [b"old", b"new"]


async def test_dfsignore_overrides_the_list_and_takes_effect_at_once(tmp_path: Path) -> None:
    async with Rig(tmp_path) as rig:
        rig.drop("kept.tmp", b"1")
        rig.drop("build/out", b"2")
        await rig.shown("build/out", b"2")
        rig.drop(".dfsignore", b"# mine\n!*.tmp\nbuild/\n*.o\n")
        await rig.shown("kept.tmp", b"1")
        rig.drop("build/later", b"3")
        rig.drop("x.o", b"4")
        rig.drop("last", b"5")
        await rig.shown("last", b"5")
        await rig.rescan()
        assert sorted(rig.node.records) == ["build", "build/out", "kept.tmp", "last"]


async def test_the_same_content_again_makes_no_revision(tmp_path: Path) -> None:
    async with Rig(tmp_path) as rig:
        for i in range(20):
            rig.drop(f"d/f{i}", b"%d" % i)
        await rig.settled()
        revision = rig.node.revision
        for i in range(20):
            rig.drop(f"d/f{i}", b"%d" % i)
        await rig.settled()
        await rig.rescan()
        await rig.stop()
        await rig.start()
        assert rig.node.revision == revision
        assert len(rig.node.events) == 21


async def test_mode_and_times_set_later_are_carried(tmp_path: Path) -> None:
    async with Rig(tmp_path) as rig:
        file = rig.drop("file", b"data")
        await rig.shown("file", b"data")
        file.chmod(0o600)
        await wait_until("the mode is shown", lambda: rig.tree.shown["file"].mode == 0o600)
        os.utime(file, ns=(0, 42))
        await wait_until("the time is shown", lambda: rig.tree.shown["file"].mtime_ns == 42)


async def test_directories_and_links_are_carried_as_they_are(tmp_path: Path) -> None:
    async with Rig(tmp_path) as rig:
        outside = tmp_path / "outside"
        outside.mkdir()
        (outside / "secret").write_bytes(b"not for you")
        (rig.cache / "empty").mkdir(mode=0o700)
        (rig.cache / "link").symlink_to("../nowhere")
        (rig.cache / "directory-link").symlink_to(outside)
        await wait_until("all are shown", lambda: len(rig.tree.shown) == 3)
        await rig.rescan()
        kinds = {path: Kind(shown.kind) for path, shown in rig.tree.shown.items()}
        assert kinds == {
            "empty": Kind.DIRECTORY, "link": Kind.SYMLINK, "directory-link": Kind.SYMLINK
        }
        assert rig.tree.shown["empty"].mode == 0o700
        assert rig.tree.shown["link"].backing == "../nowhere"
        assert rig.tree.shown["directory-link"].backing == str(outside)


async def test_a_tree_moved_in_and_within_is_found_under_its_new_name(tmp_path: Path) -> None:
    async with Rig(tmp_path) as rig:
        source = rig.root / "source"
        (source / "a" / "b").mkdir(parents=True)
        (source / "a" / "b" / "file").write_bytes(b"1")
        source.rename(rig.cache / "first")
        await rig.shown("first/a/b/file", b"1")
        (rig.cache / "first").rename(rig.cache / "second")
        await rig.shown("second/a/b/file", b"1")
        rig.drop("second/a/b/more", b"2")
        await rig.shown("second/a/b/more", b"2")
        assert "first/a/b/more" not in rig.node.records


async def test_removing_a_drop_evicts_it_and_deletes_nothing(tmp_path: Path) -> None:
    async with Rig(tmp_path) as rig:
        rig.drop("d/file", b"data")
        await rig.shown("d/file", b"data")
        shutil.rmtree(rig.cache / "d")
        await rig.rescan()
        assert rig.agent.journal.rows == {}
        assert rig.shows("d/file", b"data")


@pytest.mark.allow_logs("is not UTF-8", "is a device", "control")
async def test_what_cannot_be_stored_is_kept_and_reported(tmp_path: Path) -> None:
    """What cannot be stored, as a name that breaks the rules, or a device, stays in the cache
    directory and is reported with the reason."""
    async with Rig(tmp_path) as rig:
        rig.drop(os.fsdecode(b"bad\xff"), b"1")
        rig.drop("new\nline", b"2")
        os.mkfifo(rig.cache / "pipe")
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(str(rig.cache / "socket"))
        rig.drop("good", b"3")
        await rig.shown("good", b"3")
        await rig.settled()
        assert list(rig.node.records) == ["good"]
        text = rig.problems()
        assert "the name bad\\xff is not UTF-8; rename it" in text
        assert "control character" in text
        assert "pipe: is a device, socket or pipe" in text
        assert "socket: is a device, socket or pipe" in text
        assert rig.agent.status().pending_drops == 4
        (rig.cache / "pipe").unlink()
        await wait_until("it is forgotten", lambda: rig.agent.status().pending_drops == 3)
        assert "pipe: is" not in rig.problems()


async def test_the_largest_drop_that_goes_through_the_log(tmp_path: Path) -> None:
    async with Rig(tmp_path) as rig:
        data = os.urandom(INLINE_BYTES_MAX)
        rig.drop("large", data)
        await wait_until("it is stored", lambda: "large" in rig.tree.shown)
        assert ("put", "large") in rig.node.calls
        assert await rig.read("large") == data


async def test_a_copied_tree_arrives_whole(tmp_path: Path) -> None:
    async with Rig(tmp_path) as rig:
        source = tmp_path / "source"
        for i in range(2_000):
            file = source / f"d{i % 40}" / f"f{i}"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(b"%d" % i * (i % 50))
        copy = await asyncio.create_subprocess_exec("cp", "-r", source, rig.cache / "tree")
        assert await copy.wait() == 0
        await wait_until("all are shown", lambda: len(rig.tree.shown) == 2_041)
        for i in range(2_000):
            assert rig.shows(f"tree/d{i % 40}/f{i}", b"%d" % i * (i % 50))


@pytest.mark.allow_logs("is gone")
async def test_a_cache_directory_that_vanishes_deletes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cache directory that vanishes as a whole deletes nothing from the tree, and is watched
    again when it is back."""
    monkeypatch.setattr("dfs.cache.watcher.CACHE_RETRY_S", 0.01)
    async with Rig(tmp_path) as rig:
        rig.drop("file", b"data")
        await rig.shown("file", b"data")
        rig.cache.rename(rig.root / "elsewhere")
        await wait_until("it is made again", rig.cache.exists)
        await wait_until("it is watched", lambda: not rig.problems())
        rig.drop("other", b"more")
        await rig.shown("other", b"more")
        assert rig.shows("file", b"data")


async def test_an_agent_that_is_stopped_in_a_scan_ends_the_scan_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Otherwise the scan adds a watch to an inotify instance that is closed, or worse, to whatever
    has its number by then."""
    rig = Rig(tmp_path)
    for number in range(50):
        (rig.cache / f"d{number}").mkdir()
    add = Inotify.add
    begun, go_on = threading.Event(), threading.Event()

    def slow(self: Inotify, path: str, mask: int) -> int:
        if not path.endswith("cache"):
            begun.set()
            assert go_on.wait(WAIT_S)
        return add(self, path, mask)

    monkeypatch.setattr(Inotify, "add", slow)
    await rig.start(scanned=False)
    await wait_until("the scan goes on", begun.is_set)
    watcher = rig.agent.watcher
    assert watcher is not None
    stopping = asyncio.create_task(rig.stop())
    await wait_until("it is to stop", lambda: watcher._stopping)
    go_on.set()
    await stopping
    assert watcher.scans == 0
    assert [r for r in caplog.records if r.levelno >= logging.WARNING] == []


@pytest.mark.allow_logs("cannot be used")
async def test_a_cache_directory_that_cannot_be_made_is_one_sentence(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    rig.cache.rmdir()
    rig.cache.write_bytes(b"a file")
    await rig.start(scanned=False)
    try:
        await wait_until("it is reported", rig.problems)
        assert f"mkdir -p {rig.cache}" in rig.problems()
        await rig.node.put("file", b"data")
        await rig.shown("file", b"data")
    finally:
        await rig.stop()


async def test_a_cache_inside_the_mount_is_refused(tmp_path: Path) -> None:
    options = Options(["unix:x"], str(tmp_path / "s"), str(tmp_path / "m/c"), str(tmp_path / "m"))
    with pytest.raises(Misconfigured, match="lies in the mount"):
        await run(options)


async def test_a_second_agent_on_the_same_state_is_refused(tmp_path: Path) -> None:
    async with Rig(tmp_path) as rig:
        second = Rig(tmp_path, rig.node)
        await second.start(scanned=False)
        with pytest.raises(Misconfigured, match="another agent uses the state directory"):
            await wait_until("it gives up", second.scanned)


def test_a_writer_is_never_killed_or_kept_waiting_by_our_lease(tmp_path: Path) -> None:
    """A process of its own writes one file in place while it is taken again and again."""
    code = (
        "import sys, time\n"
        "worst = 0\n"
        "for i in range(300):\n"
        "    t = time.monotonic()\n"
        "    with open(sys.argv[1], 'r+b') as f:\n"
        "        f.write(b'%04d' % i * 50_000)\n"
        "    worst = max(worst, time.monotonic() - t)\n"
        "print(worst)\n"
    )

    async def body() -> tuple[float, list[bytes]]:
        async with Rig(tmp_path) as rig:
            file = rig.drop("file", b"0" * 200_000)
            writer = await asyncio.create_subprocess_exec(
                sys.executable, "-c", code, file, stdout=subprocess.PIPE
            )
            assert writer.stdout is not None
            while writer.returncode is None and not writer.stdout.at_eof():
                rig.agent.uploader.changed("file", 2)
                await asyncio.sleep(0)
                await rig.settled()
                if writer.stdout.at_eof() or writer.returncode is not None:
                    break
                await asyncio.sleep(0)
            output, _ = await writer.communicate()
            await rig.settled()
            return float(output), rig.versions("file")

    worst_s, versions = asyncio.run(body())
    assert worst_s < 2.0
    for version in versions[1:]:
        assert len({version[i : i + 4] for i in range(0, len(version), 4)}) == 1
    assert versions[-1] == b"0299" * 50_000
