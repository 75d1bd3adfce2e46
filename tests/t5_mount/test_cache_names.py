"""Names that no key can have, and names that are taken: reported, and nothing else is disturbed."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from dfs.cache.problems import Problems, shown
from dfs.cache.watcher import Watcher
from dfs.limits import KEY_BYTES_MAX

from .cache_rig import Rig, wait_until

BAD = "bad key", "is not UTF-8"
NOT_UTF8 = os.fsdecode(b"caf\xe9")


async def wait_for_good(rig: Rig) -> None:
    """What is in order is stored, before and after a scan, and the journal is written."""
    await rig.shown("good", b"1")
    await rig.rescan()
    await rig.shown("dir/good", b"2")
    await wait_until("the journal is written", lambda: not rig.agent.journal._dirty)
    assert {"good", "dir", "dir/good"} == {k for k in rig.node.records if "other" not in k}


@pytest.mark.allow_logs(*BAD)
async def test_bad_names_are_reported_and_disturb_nobody(tmp_path: Path) -> None:
    """A name with a newline or another control character, or one that is not UTF-8, is reported in
    one line of the status that shows it; it breaks neither a scan nor a listing, and everything
    else is stored."""
    async with Rig(tmp_path) as rig:
        for name in ("two\nlines", "bell\a", "esc\x1b[31m", "c1\x9b", NOT_UTF8):
            rig.drop(name, b"")
            rig.drop(f"dir/{name}", b"")
            rig.drop(f"{name}d/inside", b"")
        rig.drop("good", b"1")
        rig.drop("dir/good", b"2")
        await wait_for_good(rig)
        lines = rig.agent.problems.lines()
        assert len(lines) == 15, "one for each, but none for what is in a directory that is named"
        text = "\n".join(lines)
        assert text.isascii()
        assert text.count("\n") == 14
        assert text.replace("\n", "").isprintable()
        for part in (r"two\nlines: bad key", r"esc\x1b[31m: bad key", r"caf\xe9: the name caf"):
            assert part in text
        assert rig.agent.status().SerializeToString()
        found = await rig.ask("sync", wait=True, within_ms=20_000)
        assert found["refused_count"] == 15
        assert await rig.dfs("sync") == 0


@pytest.mark.allow_logs(*BAD)
async def test_a_bad_name_that_is_corrected_is_stored(tmp_path: Path) -> None:
    async with Rig(tmp_path) as rig:
        rig.drop("a\nb/c/file", b"data")
        rig.drop(NOT_UTF8, b"more")
        await wait_until("they are reported", lambda: len(rig.agent.problems.lines()) == 2)
        (rig.cache / "a\nb").rename(rig.cache / "ab")
        (rig.cache / NOT_UTF8).rename(rig.cache / "café")
        await rig.shown("ab/c/file", b"data")
        await rig.shown("café", b"more")
        await rig.settled()
        assert not rig.problems()


@pytest.mark.allow_logs("drops wait here", *BAD)
async def test_bad_names_do_not_break_the_journal_while_drops_wait(tmp_path: Path) -> None:
    async with Rig(tmp_path) as rig:
        rig.node.away = True
        rig.drop("good", b"1")
        await wait_until("it waits", lambda: "(upload)" in rig.agent.problems)
        rig.drop(NOT_UTF8, b"")
        rig.drop("dir/good", b"2")
        await wait_until("it is pending", lambda: "dir/good" in rig.agent.uploader.pending.drops)
        await wait_until("the journal is written", lambda: not rig.agent.journal._dirty)
        assert not rig.ended()
        rig.node.away = False
        await wait_for_good(rig)


@pytest.mark.allow_logs(*BAD)
async def test_names_of_all_lengths_and_deep_trees(tmp_path: Path) -> None:
    """Names of up to 255 bytes and paths of up to KEY_BYTES_MAX are stored; what lies deeper is
    reported, at the first directory that is too deep."""
    async with Rig(tmp_path) as rig:
        long = "€" * 85
        rig.drop(long, b"long")
        rig.drop("good", b"1")
        rig.drop("dir/good", b"2")
        await rig.shown(long, b"long")
        fd = os.open(rig.cache, os.O_RDONLY | os.O_DIRECTORY)
        path = ""
        for level in range(40):  # Deeper than the longest path that the kernel takes.
            name = f"{level:02d}" + "x" * 198
            os.mkdir(name, dir_fd=fd)
            path = f"{path}/{name}" if path else name
            inner = os.open(name, os.O_RDONLY | os.O_DIRECTORY, dir_fd=fd)
            os.close(os.open("file", os.O_WRONLY | os.O_CREAT, dir_fd=inner))
            os.close(fd)
            fd = inner
        os.close(fd)
        deepest = "/".join(path.split("/")[:5])
        assert len(deepest) <= KEY_BYTES_MAX < len("/".join(path.split("/")[:6]))
        await rig.settled()
        await rig.rescan()
        await rig.shown(f"{deepest}/file", b"")
        lines = rig.agent.problems.lines()
        assert len(lines) == 1
        assert "the limit is 1,024" in lines[0]
        await rig.shown("dir/good", b"2")
        assert len(rig.node.records) == 4 + 2 * 5


async def test_names_that_differ_in_case_are_two(tmp_path: Path) -> None:
    async with Rig(tmp_path) as rig:
        rig.drop("Readme", b"1")
        rig.drop("README", b"2")
        await rig.shown("Readme", b"1")
        await rig.shown("README", b"2")
        assert not rig.problems()


@pytest.mark.allow_logs("is a directory", "is a file")
async def test_a_name_that_the_tree_has_for_something_else_is_reported(tmp_path: Path) -> None:
    """A drop at a path where the tree has a directory, or below a path where it has a file, is
    reported and kept; it is stored when that is deleted."""
    async with Rig(tmp_path) as rig:
        await rig.node.put("dir/other", b"")
        await rig.node.put("other", b"")
        await wait_until("they are shown", lambda: "other" in rig.tree.shown)
        rig.drop("dir", b"mine")
        rig.drop("other2/file", b"fine")
        rig.drop("other/file", b"mine")
        await rig.shown("other2/file", b"fine")
        await rig.settled()
        assert "dir: dir is a directory" in rig.problems()
        assert "other/file: " in rig.problems()
        found = await rig.ask("sync", "dir", wait=True, within_ms=20_000)
        assert found["refused_count"] == 1
        assert (rig.cache / "dir").read_bytes() == b"mine"
        await rig.node.delete("dir/other")
        await rig.node.delete("other")
        await rig.shown("dir", b"mine")
        await rig.shown("other/file", b"mine")
        await rig.settled()
        assert not rig.problems()


@pytest.mark.allow_logs("may not be read")
async def test_one_directory_that_cannot_be_read_does_not_stop_a_scan(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Rig(tmp_path) as rig:
        rig.drop("a/file", b"1")
        rig.drop("z/file", b"2")
        await rig.settled()
        listed = Watcher._list

        def fail(self: Watcher, directory: str) -> list[tuple[str, os.stat_result]]:
            if directory == "a":
                raise OSError(errno.EIO, "Input/output error")
            return listed(self, directory)

        with monkeypatch.context() as patched:
            patched.setattr(Watcher, "_list", fail)
            (rig.cache / "z" / "file").write_bytes(b"changed")
            await rig.rescan()
            await rig.shown("z/file", b"changed")
            assert "a: may not be read (Input/output error)" in rig.problems()
        await rig.rescan()
        assert not rig.problems()
        assert rig.versions("a/file") == [b"1"]


@pytest.mark.parametrize(("name", "line"), [
    ("plain name é", "plain name é"), ("a\nb", r"a\nb"), ("\x1b[2J", r"\x1b[2J"),
    ("x\udce9", r"x\xe9"), ("\u202ertl", r"\u202ertl"), ("\x85", r"\x85"),
])
def test_a_name_is_shown_as_one_line_of_text(name: str, line: str) -> None:
    assert shown(name) == line


@pytest.mark.allow_logs("is wrong")
def test_a_file_whose_name_looks_like_a_part_is_named() -> None:
    problems = Problems()
    problems.set("(1).txt", "is wrong")
    assert problems.lines() == ["(1).txt: is wrong"]
