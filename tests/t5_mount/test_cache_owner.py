"""Owners and extended attributes of what is dropped: what goes along, what is noticed, what not."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from dfs.cache.feeder import NOBODY
from dfs.cache.journal import Journal, Row
from dfs.cache.take import Signature
from dfs.client.values import Kind, Stat
from dfs.limits import INLINE_BYTES_MAX, OWNER_MAX

from .cache_rig import Rig, wait_until

ONE, TWO = (("user.one", b"1"),), (("user.one", b"1"), ("user.two", b"\0\xff"))
UID, GID = 12_345, 54_321
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to give files away")


def numeric(root: Path, rig: Rig | None = None, name: str = "node1") -> Rig:
    """An agent that carries owners."""
    made = Rig(root, rig.node if rig else None, name)
    made.options["owners"] = True
    return made


def give(path: Path, xattrs: tuple[tuple[str, bytes], ...]) -> None:
    """Has a file have these attributes and no others."""
    for name in os.listxattr(path):
        if name.startswith("user."):
            os.removexattr(path, name)
    for name, value in xattrs:
        os.setxattr(path, name, value)


def owner(stat: Stat) -> tuple[int | None, int | None]:
    return stat.uid, stat.gid


@needs_root
async def test_the_owner_of_a_drop_goes_along_where_that_is_wanted(tmp_path: Path) -> None:
    """With `-owner numeric` the uid and gid of a file, directory or link that is dropped are stored
    with it, also when they change alone, and shown by the mounts that say so; else neither."""
    async with numeric(tmp_path) as rig, Rig(tmp_path, rig.node, "node2") as other:
        paths = [rig.drop("d/file", b"1"), rig.cache / "empty", rig.cache / "link"]
        paths[1].mkdir()
        paths[2].symlink_to("d/file")
        await rig.settled()
        for number, path in enumerate(paths):
            os.lchown(path, UID + number, GID)
        other.drop("theirs", b"1")
        await rig.settled()
        await other.settled()
        for number, key in enumerate(("d/file", "empty", "link")):
            assert owner(rig.node.records[key]) == (UID + number, GID)
            assert rig.tree.shown[key][4:6] == (UID + number, GID)
            assert other.tree.shown[key][4:6] == (NOBODY, NOBODY)
        assert owner(rig.node.records["theirs"]) == (None, None)
        assert rig.tree.shown["theirs"][4:6] == (NOBODY, NOBODY)


@needs_root
async def test_an_owner_that_is_not_carried_makes_no_version(tmp_path: Path) -> None:
    async with Rig(tmp_path) as rig:
        file = rig.drop("file", b"1")
        await rig.settled()
        revision = rig.node.revision
        os.chown(file, UID, GID)
        await rig.settled()
        assert rig.node.revision == revision
        assert owner(rig.node.records["file"]) == (None, None)


@needs_root
async def test_owners_of_earlier_drops_follow_when_they_are_wanted(tmp_path: Path) -> None:
    """But for what others have changed or removed since: that stands, and is no conflict."""
    async with Rig(tmp_path) as rig:
        for name in ("mine", "changed", "removed"):
            os.chown(rig.drop(name, b"1"), UID, GID)
        (rig.cache / "directory").mkdir()
        await rig.settled()
        await rig.node.put("changed", b"2")
        await rig.node.delete("removed")
        await rig.stop()
        rig.options["owners"] = True
        await rig.start()
        assert owner(rig.node.records["mine"]) == (UID, GID)
        assert owner(rig.node.records["directory"]) == (0, 0)
        assert sorted(rig.node.records) == ["changed", "directory", "mine"]
        assert owner(rig.node.records["changed"]) == (None, None)
        revision = rig.node.revision
        await rig.rescan()
        await rig.stop()
        await rig.start()
        assert rig.node.revision == revision


@needs_root
@pytest.mark.allow_logs("drops wait here", "drops go into the tree")
async def test_one_content_of_two_owners_is_no_conflict(tmp_path: Path) -> None:
    """The first commit wins, and no copy is kept, as there is no other content."""
    async with numeric(tmp_path) as one, numeric(tmp_path, one, "node2") as two:
        one.node.away = True
        for number, rig in enumerate((one, two)):
            os.chown(rig.drop("file", b"1"), UID + number, GID)
            await wait_until("it waits", lambda rig=rig: "file" in rig.agent.journal.bases)
        one.node.away = False
        await one.settled()
        await two.settled()
        assert list(one.node.records) == ["file"]
        revision = one.node.revision
        await one.rescan()
        await two.rescan()
        assert one.node.revision == revision


async def test_extended_attributes_go_along(tmp_path: Path) -> None:
    """The extended attributes of users, of a file or directory that is dropped, are stored with it;
    a change of them alone is stored like one of content or mode."""
    async with Rig(tmp_path) as rig:
        paths = [rig.drop("d/file", b"1"), rig.cache / "empty"]
        paths[1].mkdir()
        keys = ["d/file", "empty"]
        for xattrs in (ONE, TWO, ONE, (), TWO):
            for path in paths:
                give(path, xattrs)
            await rig.settled()
            assert [rig.node.records[key].xattrs for key in keys] == [xattrs, xattrs]
        for path in paths:
            path.chmod(0o700)
        await rig.settled()
        assert [rig.node.records[key].xattrs for key in keys] == [TWO, TWO]
        assert [rig.node.records[key].mode for key in keys] == [0o700, 0o700]


@pytest.mark.parametrize("journal_lost", [False, True])
async def test_attributes_that_change_while_nobody_watches_are_found(
    tmp_path: Path, journal_lost: bool
) -> None:
    async with Rig(tmp_path) as rig:
        paths = [rig.drop("d/file", b"1"), rig.cache / "empty"]
        paths[1].mkdir()
        for xattrs in (ONE, TWO, ()):
            await rig.settled()
            await rig.stop()
            for path in paths:
                give(path, xattrs)
            if journal_lost:
                for part in rig.state.glob("drops.db*"):
                    part.unlink()
            await rig.start()
            assert rig.node.records["d/file"].xattrs == xattrs
            assert rig.node.records["empty"].xattrs == xattrs
        revision = rig.node.revision
        await rig.rescan()
        await rig.stop()
        await rig.start()
        assert rig.node.revision == revision
        assert sorted(rig.node.records) == ["d", "d/file", "empty"]


async def test_other_times_of_a_directory_are_no_change(tmp_path: Path) -> None:
    """What others have made of it since stands."""
    async with Rig(tmp_path) as rig:
        directory = rig.cache / "directory"
        directory.mkdir()
        await rig.settled()
        await rig.node.mkdir("directory", mode=0o700, xattrs=dict(ONE))
        await rig.settled()
        revision = rig.node.revision
        os.utime(directory, ns=(0, 42))
        await rig.settled()
        (directory / ".#ignored").touch()
        await rig.rescan()
        assert rig.node.revision == revision
        give(directory, TWO)
        await rig.settled()
        stat = rig.node.records["directory"]
        assert (stat.mode, stat.xattrs) == (directory.stat().st_mode & 0o7777, TWO)


async def test_what_a_mount_tells_of_a_file_is_no_part_of_it(tmp_path: Path) -> None:
    """`cp -a` of a file from a mount that shows attributes brings those along."""
    async with Rig(tmp_path) as rig:
        give(rig.drop("file", b"1"), (("user.dfs.revision", b"7"), *ONE))
        await rig.settled()
        assert rig.node.records["file"].xattrs == ONE


@pytest.mark.parametrize("elsewhere", [False, True])
async def test_a_large_drop_takes_both_along(tmp_path: Path, elsewhere: bool) -> None:
    rig = numeric(tmp_path)
    if not elsewhere:
        contents = tmp_path / "contents"
        (contents / "incoming").mkdir(parents=True)
        rig.node.files = contents
        rig.options["contents"] = str(contents)
    async with rig:
        file = rig.drop("large", bytes(INLINE_BYTES_MAX + 1))
        give(file, TWO)
        await rig.settled()
        stat = rig.node.records["large"]
        assert (stat.xattrs, stat.chunk_bytes > 0) == (TWO, True)
        assert owner(stat) == (os.getuid(), os.getgid())


@pytest.mark.allow_logs("extended attributes are not stored")
async def test_attributes_that_cannot_be_stored_are_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A drop whose extended attributes have more than XATTR_BYTES_MAX is stored without them and
    reported, and is not called safe, also after a restart, until they are fewer."""
    monkeypatch.setattr("dfs.cache.attributes.XATTR_BYTES_MAX", 100)
    async with Rig(tmp_path) as rig:
        file = rig.drop("file", b"1")
        give(file, (("user.large", bytes(91)), *ONE))
        await rig.settled()
        assert rig.node.records["file"].xattrs == ()
        assert rig.versions("file")[-1] == b"1"
        expected = ("file: its extended attributes are not stored: they have 110 bytes, names and "
                    "values, the limit is 100 bytes (XATTR_BYTES_MAX); remove some with setfattr")
        assert expected in rig.problems()
        while rig.agent.journal.rows["file"].racy:  # Until then it is read again at the start.
            await rig.rescan()
        await rig.stop()
        await rig.start()
        assert expected in rig.problems()
        assert (await rig.ask("look", "file"))["refused_count"] == 1
        give(file, (("user.large", bytes(90)),))
        await rig.settled()
        assert rig.problems() == ""
        assert rig.node.records["file"].xattrs == (("user.large", bytes(90)),)


@pytest.mark.allow_logs("extended attributes are not stored")
async def test_an_attribute_whose_name_is_no_text_is_reported(tmp_path: Path) -> None:
    async with Rig(tmp_path) as rig:
        os.setxattr(rig.drop("file", b"1"), b"user.\xff", b"")
        await rig.settled()
        assert r"the name user.\xff is not UTF-8" in rig.problems()
        (rig.cache / "file").unlink()
        await rig.settled()
        assert rig.problems() == ""


async def test_a_file_system_without_attributes_has_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(_fd: int) -> list[str]:
        raise OSError(errno.ENOTSUP, os.strerror(errno.ENOTSUP))

    monkeypatch.setattr("dfs.cache.attributes.os.listxattr", none)
    async with Rig(tmp_path) as rig:
        rig.drop("file", b"1")
        await rig.shown("file", b"1")
        assert rig.problems() == ""


@pytest.mark.allow_logs("drops wait here", "drops go into the tree")
async def test_other_attributes_are_another_request(tmp_path: Path) -> None:
    """A write that may have been done is repeated under its id only while it says the same: what is
    asked for under a known id is not looked at again."""
    async with Rig(tmp_path) as rig:
        rig.node.away = True
        file = rig.drop("file", b"1")
        give(file, ONE)
        await wait_until("it waits", lambda: "file" in rig.agent.journal.bases)
        rig.node.lose_answers, rig.node.away = 1, False
        await wait_until("it was done", lambda: "file" in rig.node.records)
        give(file, TWO)
        await rig.settled()
        assert rig.node.records["file"].xattrs == TWO
        assert list(rig.node.records) == ["file"]


def test_the_journal_knows_after_a_restart_what_a_drop_was_stored_with(tmp_path: Path) -> None:
    signature = Signature(1, 2, 3, 4)
    plain = Row(Kind.FILE, signature, False, 0o644, 3, b"s", "", 7)
    rows = {
        "plain": plain, "owned": plain._replace(uid=0, gid=OWNER_MAX),
        "told": plain._replace(xattrs=TWO), "all": plain._replace(uid=UID, gid=GID, xattrs=ONE),
        "less": plain._replace(left_out="too large"),
    }
    for known in (rows, {**rows, "all": plain, "less": plain}):
        journal = Journal(str(tmp_path))
        journal.open()
        for path, row in known.items():
            journal.store(path, row)
        journal.close()
        journal = Journal(str(tmp_path))
        journal.open()
        assert journal.rows == known
        assert journal.left_out() == [(p, r.left_out) for p, r in known.items() if r.left_out]
        journal.close()
