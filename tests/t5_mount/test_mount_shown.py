"""What a program sees on the mount: content, attributes, names; never anything stale."""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
import re
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from dfs._engine import Tree, fuse_open
from dfs.cache.inotify import DELETE_SELF, Inotify, events_of
from dfs.cache.ports import NOBODY

from .mount_rig import UNOWNED, Background, Rig, fails_with, mounted, needs_fuse, wait_until
from .telling import digest_of, show

pytestmark = needs_fuse

MODES = {"passthrough": {}, "cached": {"passthrough": 0}, "no_open": {"no_open": 1}}


@pytest.fixture(params=MODES)
def rig(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Rig]:
    with mounted(tmp_path, **MODES[request.param]) as rig:
        yield rig


@pytest.fixture
def one(tmp_path: Path) -> Iterator[Rig]:
    with mounted(tmp_path) as rig:
        yield rig


def test_files_have_the_content_and_attributes_that_were_committed(rig: Rig) -> None:
    data = os.urandom(8 << 20)
    rig.put("big/file", data, mode=0o640, mtime_ns=1_600_000_000_123_456_789)
    rig.put("big/empty", here=False)
    path = rig.at("big/file")
    assert path.read_bytes() == data
    with path.open("rb", buffering=0) as file:
        assert os.pread(file.fileno(), 100, 5_000_000) == data[5_000_000:5_000_100]
        assert os.pread(file.fileno(), 100, len(data)) == b""
        with mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as view:
            assert view[-9:] == data[-9:]
    status = path.stat()
    assert stat.S_ISREG(status.st_mode)
    assert (status.st_mode & 0o7777, status.st_size) == (0o640, len(data))
    assert status.st_mtime_ns == 1_600_000_000_123_456_789
    assert rig.at("big/empty").read_bytes() == b""


def test_directories_explicit_or_not_and_symlinks(one: Rig) -> None:
    one.mkdir("empty", mode=0o700, mtime_ns=5 * 10**17)
    one.put("a/b/c", b"x")
    one.symlink("link", "a/b/c")
    one.symlink("dangling", "../../nowhere")
    assert sorted(os.listdir(one.point)) == ["a", "dangling", "empty", "link"]
    assert os.listdir(one.at("empty")) == []
    status = one.at("empty").stat()
    assert (status.st_mode, status.st_mtime_ns) == (stat.S_IFDIR | 0o700, 5 * 10**17)
    assert one.at("a/b").stat().st_mode == stat.S_IFDIR | 0o755
    assert one.at("link").read_bytes() == b"x"
    assert os.readlink(one.at("dangling")) == "../../nowhere"
    assert one.at("link").lstat().st_size == 5
    one.delete("a/b/c")
    assert sorted(os.listdir(one.point)) == ["dangling", "empty", "link"]


def test_nothing_can_be_changed_through_the_mount(one: Rig) -> None:
    """Nothing can be changed through the mount: every attempt is EROFS."""
    one.put("f", b"x")
    for attempt in (
        lambda: one.at("new").write_bytes(b""),
        lambda: one.at("f").write_bytes(b""),
        lambda: one.at("f").unlink(),
        lambda: one.at("d").mkdir(),
        lambda: one.at("f").chmod(0o777),
        lambda: one.at("f").rename(one.at("g")),
    ):
        with fails_with(errno.EROFS):
            attempt()



def read_as(user: int, rig: Rig, name: str) -> subprocess.CompletedProcess[bytes]:
    """What `cat` of another user says."""
    for path in (rig.point, rig.objects, *rig.point.parents[:3]):
        with contextlib.suppress(OSError):
            path.chmod(0o755)
    return subprocess.run(
        ["cat", rig.at(name)], user=user, group=user, extra_groups=[], capture_output=True,
        check=False,
    )


def test_permission_bits_hold_for_other_users(one: Rig) -> None:
    one.put("public", b"yes", mode=0o644)
    one.put("private", b"no", mode=0o600)
    assert read_as(65534, one, "public").stdout == b"yes"
    assert b"Permission denied" in read_as(65534, one, "private").stderr


def test_an_entry_belongs_to_whom_it_names_and_the_kernel_goes_by_that(tmp_path: Path) -> None:
    """Who may read at a mount the kernel decides, by mode, owner and group. All belongs to whoever
    mounts, but with `-owner numeric` what was stored with an owner belongs to that one."""
    with mounted(tmp_path, uid=7, gid=8) as rig:
        rig.put("a/named", b"yes", mode=0o600, owner=(1_001, 1_002))
        rig.put("a/group", b"yes", mode=0o640, owner=(NOBODY, 1_002))
        rig.put("a/none", b"yes", mode=0o640)
        rig.mkdir("a", mode=0o755, owner=(1_003, NOBODY))
        found = {name: rig.at(name).stat() for name in ("a", "a/named", "a/group", "a/none")}
        assert {name: (status.st_uid, status.st_gid) for name, status in found.items()} == {
            "a": (1_003, 8), "a/named": (1_001, 1_002), "a/group": (7, 1_002), "a/none": (7, 8),
        }
        may = [
            (user, name) for user in (1_001, 1_002, 7) for name in ("named", "group", "none")
            if read_as(user, rig, f"a/{name}").stdout == b"yes"
        ]
        assert may == [(1_001, "named"), (1_002, "group"), (7, "group"), (7, "none")]
        rig.put("a/named", b"yes", mode=0o600, owner=(1_002, 1_002))
        rig.mkdir("a", mode=0o755, owner=(1_004, 1_005))
        assert (rig.at("a").stat().st_uid, rig.at("a").stat().st_gid) == (1_004, 1_005)
        assert read_as(1_002, rig, "a/named").stdout == b"yes"
        assert b"Permission denied" in read_as(1_001, rig, "a/named").stderr


def test_df_shows_what_the_files_hold_and_what_is_free(one: Rig) -> None:
    """What `df` shows comes from memory and never waits for a node: used is the content of the
    files in the tree, free is what the fullest member may still store, as it said last; the inodes
    in use are the entries of the tree."""
    one.put("d/f", b"x" * 10_000)
    one.tree.set_free(4_096 * 7)
    figures = os.statvfs(one.point)
    assert (figures.f_frsize, figures.f_blocks, figures.f_bfree, figures.f_bavail) == (
        4_096, 3 + 7, 7, 7
    )
    assert figures.f_files - figures.f_ffree == 2
    assert figures.f_namemax == 255
    one.tree.set_free(0)
    assert os.statvfs(one.point).f_bavail == 0


def test_extended_attributes_are_not_supported_and_asked_for_once(one: Rig) -> None:
    for name in "ab":
        one.put(name, b"x")
        with fails_with(errno.EOPNOTSUPP):
            os.getxattr(one.at(name), "user.x")

    before = one.tree.stats()["requests"]
    with fails_with(errno.EOPNOTSUPP):
        os.getxattr(one.at("b"), "user.x")
    assert one.tree.stats()["requests"] == before


def test_an_open_file_keeps_its_version_and_a_new_open_has_the_new_one(rig: Rig) -> None:
    """An open file keeps the version that was opened, also when the key is replaced or removed;
    who opens it anew has the new one."""
    old, new = os.urandom(300_000), os.urandom(200_000)
    rig.put("f", old)
    with rig.at("f").open("rb", buffering=0) as file:
        assert file.read(1_000) == old[:1_000]
        rig.put("f", new)
        assert rig.at("f").read_bytes() == new
        assert os.fstat(file.fileno()).st_size == len(old)
        assert os.pread(file.fileno(), len(old), 0) == old
        rig.delete("f")
        assert not rig.at("f").exists()
        assert os.pread(file.fileno(), len(old), 0) == old


def test_who_watches_a_file_hears_when_it_is_replaced_or_removed(rig: Rig) -> None:
    """Who watches a file of the mount by inotify is told that it was deleted (DELETE_SELF) when it
    is replaced or removed elsewhere."""
    changes = {
        "replaced": lambda: rig.put("replaced", b"2"),
        "removed": lambda: rig.delete("removed"),
        "link": lambda: rig.symlink("link", "elsewhere"),
    }
    for path in (*changes, "other"):
        rig.put(path, b"1")
    with Inotify() as watches:
        files = {watches.add(str(rig.at(path)), DELETE_SELF): path for path in (*changes, "other")}

        def heard() -> set[str]:
            try:
                events = list(events_of(os.read(watches.fd, 4096)))
            except BlockingIOError:
                return set()
            return {files[event.watch] for event in events if event.mask & DELETE_SELF}

        for path, change in changes.items():
            change()
            wait_until(lambda path=path: heard() == {path})
        again = watches.add(str(rig.at("replaced")), DELETE_SELF)
        assert again not in files
        files[again] = "again"
        with rig.at("replaced").open("rb", buffering=0) as file:
            rig.put("replaced", b"33")
            assert os.pread(file.fileno(), 9, 0) == b"2"
        assert rig.at("replaced").read_bytes() == b"33"
        wait_until(lambda: heard() == {"again"})


@pytest.mark.parametrize("options", [{}, {"passthrough": 0}], ids=["passthrough", "cached"])
def test_an_evicted_object_stays_readable_for_who_has_it_open(
    tmp_path: Path, options: dict[str, int]
) -> None:
    data = os.urandom(1 << 20)
    with mounted(tmp_path, **options) as rig:
        version = rig.put("f", data)
        with rig.at("f").open("rb", buffering=0) as file:
            assert rig.tree.place_contents([(digest_of("f", version), None)]) == 1
            (rig.objects / str(version)).unlink()
            assert file.read(4_096) + os.pread(file.fileno(), len(data), 4_096) == data
        wait_until(lambda: rig.tree.stats()["open"] == 0)
        again = Background(rig.at("f").read_bytes)
        miss = rig.miss()
        assert miss[1:] == ("f", version)
        assert rig.tree.fulfil(miss[0], rig.store(version, data))
        assert again.get() == data


def test_names_are_never_stale_after_a_flush(one: Rig) -> None:
    one.put("d/keep", b"keep")
    for number in range(100):
        name, folder = f"d/n{number}", f"new{number}"
        assert not one.at(name).exists()
        assert f"n{number}" not in os.listdir(one.at("d"))
        one.put(name, b"first")
        assert f"n{number}" in os.listdir(one.at("d"))
        assert one.at(name).read_bytes() == b"first"
        one.put(name, b"the second", mode=0o600)
        status = one.at(name).stat()
        assert (status.st_size, status.st_mode & 0o777) == (10, 0o600)
        assert one.at(name).read_bytes() == b"the second"
        if number % 2:
            one.delete(name)
            assert not one.at(name).exists()
            assert f"n{number}" not in os.listdir(one.at("d"))
        assert not one.at(folder).exists()
        one.put(f"{folder}/sub/x", b"deep")
        assert one.at(f"{folder}/sub/x").read_bytes() == b"deep"
        one.delete(f"{folder}/sub/x")
        assert not one.at(folder).exists()
        one.put(folder, b"now a file")
        assert one.at(folder).read_bytes() == b"now a file"
        one.delete(folder)


def test_a_missing_name_is_asked_for_once_until_it_comes_to_be(one: Rig) -> None:
    """The kernel remembers that a name does not exist, until it comes to be; so programs that look
    for a file in many places cost nothing."""
    one.put("d/there")
    assert not one.at("d/missing").exists()
    before = one.tree.stats()["requests"]
    for _ in range(100):
        assert not one.at("d/missing").exists()
    assert one.tree.stats()["requests"] == before
    one.put("d/missing", b"content")
    assert one.at("d/missing").read_bytes() == b"content"


def test_a_listing_brings_the_attributes_along(one: Rig) -> None:
    """`ls -l` of a directory asks for no file one by one."""
    for number in range(200):
        one.put(f"d/f{number}", b"x" * number, flush=number == 199)
    before = one.tree.stats()
    with os.scandir(one.at("d")) as entries:
        sizes = sorted(entry.stat().st_size for entry in entries)
    assert sizes == list(range(200))
    after = one.tree.stats()
    assert after["lookups"] - before["lookups"] <= 1  # Of the directory itself.
    assert after["requests"] - before["requests"] < 20


def test_a_directory_made_again_is_alive_for_who_stands_in_it(one: Rig) -> None:
    one.put("d/a", b"1")
    inside = os.open(one.at("d"), os.O_RDONLY | os.O_DIRECTORY)
    try:
        assert os.listdir(inside) == ["a"]
        one.delete("d/a")
        assert not one.at("d").exists()
        one.put("d/b", b"2")
        assert os.listdir(one.at("d")) == ["b"]
        assert os.listdir(inside) == ["b"]
        assert one.at("d/b").read_bytes() == b"2"
    finally:
        os.close(inside)


def test_a_large_directory_is_listed_whole(one: Rig) -> None:
    names = {f"{number:05}-{'x' * (number % 200)}" for number in range(20_000)}
    one.apply([(f"d/{name}", 0, 0, 0o644, 0, *UNOWNED, 1, None) for name in names], [])
    listed = os.listdir(one.at("d"))
    assert len(listed) == len(names)
    assert set(listed) == names
    with os.scandir(one.at("d")) as entries:
        assert all(entry.is_file() and entry.stat().st_size == 0 for entry in entries)


def test_bad_paths_are_refused_and_do_not_take_the_others_with_them(one: Rig) -> None:
    good = ("good", 0, 0, 0o644, 0, *UNOWNED, 1, None)
    short = ("", "/a", "a/", "a//b", ".", "a/..", "a\0b", "a\nb", ".dfs/x")
    for number, bad in enumerate((*short, "x" * 256, "a/" * 600 + "a")):
        wrong, late = (bad, *good[1:-2], 2, None), (f"late{number}", *good[1:])
        refused = show(one.tree, [good, wrong, late])
        assert list(refused) == [bad]
        assert re.search(r"empty|component|control|reserved|bytes", refused[bad])
        assert one.tree.flush(10_000)
        assert one.at(f"late{number}").exists()
        show(one.tree, [], [f"late{number}"])
    refused = show(one.tree, [("l", 2, *good[2:]), ("k", 3, *good[2:])])
    assert "target" in refused["l"]
    assert "kind" in refused["k"]
    assert one.tree.flush(10_000)
    assert os.listdir(one.point) == ["good"]


def test_a_short_or_long_local_file_is_an_error_and_counted(tmp_path: Path) -> None:
    with mounted(tmp_path, deadline_ms=50) as rig:
        for wrong in (b"four", b"sixsix"):
            version = rig.put("f", b"fives")
            (rig.objects / str(version)).write_bytes(wrong)
            with fails_with(errno.ETIMEDOUT):
                rig.at("f").read_bytes()
  # Wanted anew, and nobody fetches.
        assert rig.tree.stats()["damaged"] == 2


def test_changes_that_do_not_arrive_make_the_kernel_ask_again(one: Rig) -> None:
    one.tree.set_live(False)
    one.put("f", b"x")
    one.at("f").stat()
    before = one.tree.stats()["lookups"]
    one.at("f").stat()
    assert one.tree.stats()["lookups"] > before
    one.tree.set_live(True)
    one.at("f").stat()
    before = one.tree.stats()["lookups"]
    one.at("f").stat()
    assert one.tree.stats()["lookups"] == before


def test_only_a_mounted_descriptor_is_served(tmp_path: Path) -> None:
    fd = fuse_open()
    tree = Tree({})
    with fails_with(errno.EBADF):
        tree.adopt(-1)
    tree.serve(fd)
    wait_until(lambda: not tree.running())
    tree.close()
    os.close(fd)
    with pytest.raises(ValueError, match=r'unknown option "depth"'):
        Tree({"depth": 1})
    with mounted(tmp_path) as rig:
        with pytest.raises(OSError, match="one connection"):
            rig.tree.serve(rig.fd)
        rig.put("f", b"x")
        assert rig.at("f").read_bytes() == b"x"


def test_the_tree_says_when_the_kernel_has_ended_it(tmp_path: Path) -> None:
    with mounted(tmp_path) as rig:
        rig.put("f", b"x")
        assert rig.at("f").read_bytes() == b"x"
        assert rig.tree.running()
        # Another mount takes the place, so that the rig has one to take away.
        subprocess.run(["umount", rig.point], check=True)
        wait_until(lambda: not rig.tree.running())
        subprocess.run(["mount", "-t", "tmpfs", "none", rig.point], check=True)
