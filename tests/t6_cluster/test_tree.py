"""The main job: a tree dropped on one node is read, verified, on every node's mount."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from dfs.cache.asking import SOCKET
from dfs.cli import main
from dfs.nemesis.places import on_loopback
from dfs.nemesis.processes import Cluster, Node, running, wait_until

FILES = 300
needs_fuse = pytest.mark.skipif(
    not Path("/dev/fuse").exists() or os.geteuid() != 0, reason="needs /dev/fuse and root"
)


def make_tree(root: Path) -> None:
    """Small and middle-sized files, nested directories, an empty one, a symlink, odd modes."""
    for number in range(FILES):
        path = root / f"dir{number % 7}" / f"sub{number % 3}" / f"file{number}"
        path.parent.mkdir(parents=True, exist_ok=True)
        seed = hashlib.sha256(str(number).encode()).digest()
        path.write_bytes(seed * (number * number % 500))
        path.chmod(0o755 if number % 10 == 0 else 0o640)
    (root / "large").write_bytes(os.urandom(1 << 20) * 3)
    (root / "empty").mkdir()
    (root / "link").symlink_to("dir0/sub0/file0")
    (root / "naïve name").write_text("ü")


def picture(root: Path) -> dict[str, tuple[str, int, str]]:
    """Path → kind, permission bits, digest or target; mtime is compared by `same`."""
    found = {}
    for directory, names, files in os.walk(root):
        for name in [*names, *files]:
            path = Path(directory) / name
            key = str(path.relative_to(root))
            mode = path.lstat().st_mode & 0o7777
            if path.is_symlink():
                found[key] = ("symlink", 0, str(path.readlink()))
            elif path.is_dir():
                found[key] = ("directory", mode, "")
            else:
                digest = hashlib.sha256(path.read_bytes()).hexdigest()
                found[key] = (f"file {path.lstat().st_mtime_ns}", mode, digest)
    return found


def without_directory_modes(
    tree: dict[str, tuple[str, int, str]],
) -> dict[str, tuple[str, int, str]]:
    """Implicit directories have no mode of their own."""
    return {k: (v[0], 0 if v[0] == "directory" else v[1], v[2]) for k, v in tree.items()}


def shows(node: Node, expected: dict[str, tuple[str, int, str]]) -> bool:
    return without_directory_modes(picture(node.mount)) == without_directory_modes(expected)


@needs_fuse
def test_dropped_tree_is_identical_on_every_mount(tmp_path: Path) -> None:
    """A tree that is copied into one node's cache directory appears byte for byte, with modes,
    times, symlinks and empty directories, on the mounts of all nodes."""
    source = tmp_path / "source"
    make_tree(source)
    expected = picture(source)
    with running(tmp_path, mounts=True) as cluster:
        shutil.copytree(source, cluster.nodes[0].cache, symlinks=True, dirs_exist_ok=True)
        for node in cluster.nodes:
            wait_until(f"{node.name} shows the tree", lambda n=node: shows(n, expected))


def owned(root: Path) -> dict[str, tuple[int, int, dict[str, bytes]]]:
    """Path → uid, gid, extended attributes of the drop; but for implicit directories."""
    found = {}
    for key in picture(root):
        path = root / key
        if path.is_symlink() or path.is_file() or os.listxattr(path):
            names = [] if path.is_symlink() else os.listxattr(path)
            kept = {n: os.getxattr(path, n) for n in names if not n.startswith("user.dfs.")}
            found[key] = (path.lstat().st_uid, path.lstat().st_gid, kept)
    return found


@needs_fuse
def test_owners_and_attributes_of_a_dropped_tree_are_shown_elsewhere(tmp_path: Path) -> None:
    source = tmp_path / "source"
    make_tree(source)
    for number, key in enumerate(sorted(picture(source))):
        os.lchown(source / key, 1_000 + number, 2_000 + number % 3)
    os.setxattr(source / "empty", "user.comment", b"\0of a directory")
    for key in ("dir0/sub0/file0", "large"):
        os.setxattr(source / key, "user.comment", key.encode())
        os.setxattr(source / key, "user.empty", b"")
    options = ("-owner", "numeric", "-xattr")
    one, two, three = on_loopback(3)
    places = [replace(one, options=options), replace(two, options=(*options, "-no-open")), three]
    expected = owned(source)
    with Cluster(tmp_path, 3, mounts=True, places=places) as cluster:
        first, second, third = cluster.nodes
        subprocess.run(["cp", "-a", f"{source}/.", first.cache], check=True)
        for node in (first, second):
            wait_until(
                f"{node.name} shows the same",
                lambda n=node: expected.items() <= owned(n.mount).items(),
            )
        assert (third.mount / "large").stat().st_uid == os.getuid()
        os.setxattr(first.cache / "large", "user.comment", b"another")
        os.chown(first.cache / "dir0/sub0/file0", 7, 8)
        wait_until(
            "the change is shown",
            lambda: os.getxattr(second.mount / "large", "user.comment") == b"another"
            and (second.mount / "dir0/sub0/file0").stat().st_uid == 7,
        )
        cluster.agree()


@needs_fuse
def test_dropped_tree_survives_kill_of_the_leader(tmp_path: Path) -> None:
    """The leader is killed by -9 while a tree is being taken in: it still becomes identical on all
    mounts, the killed node's included when it is back."""
    source = tmp_path / "source"
    make_tree(source)
    expected = picture(source)
    with running(tmp_path, mounts=True) as cluster:
        leader = cluster.leader()
        dropper = next(node for node in cluster.nodes if node is not leader)
        shutil.copytree(source, dropper.cache, symlinks=True, dirs_exist_ok=True)
        wait_until("some of it is visible", lambda: len(picture(dropper.mount)) > FILES // 10)
        leader.kill()
        leader.start()
        for node in cluster.nodes:
            wait_until(f"{node.name} shows the tree", lambda n=node: shows(n, expected))


@needs_fuse
def test_removing_a_drop_evicts_only(tmp_path: Path) -> None:
    """Removing a file from the cache directory evicts it there and nothing else."""
    with running(tmp_path, mounts=True) as cluster:
        first, second = cluster.nodes[:2]
        (first.cache / "kept").write_text("still here")
        wait_until("visible", lambda: (second.mount / "kept").exists())
        (first.cache / "kept").unlink()
        (first.cache / "marker").write_text("later")
        wait_until("the later drop is visible", lambda: (second.mount / "marker").exists())
        for node in cluster.nodes:
            assert (node.mount / "kept").read_text() == "still here"


@needs_fuse
def test_it_is_safe_to_unplug_when_dfs_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """When `dfs sync --wait` has returned, all that was dropped before is committed: the node can
    be killed at once, and its drops are on the mounts of the others."""
    source = tmp_path / "source"
    make_tree(source)
    expected = picture(source)
    with running(tmp_path, mounts=True) as cluster:
        first = cluster.nodes[0]
        shutil.copytree(source, first.cache, symlinks=True, dirs_exist_ok=True)
        local = ["-data", str(first.data)]
        # A node is ready before its agent is.
        wait_until("its agent can be asked", (first.data / "agent" / SOCKET).exists)
        assert main(["sync", "--wait", *local]) == 0
        first.kill()
        for node in cluster.nodes[1:]:
            wait_until(f"{node.name} shows the tree", lambda n=node: shows(n, expected))
        first.start()
        wait_until("it is back", lambda: shows(first, expected))
        asked = ["status", ".", *local, "-endpoint", first.endpoint]
        wait_until("all have it", lambda: main(asked) == 0 and "3 of 3" in capsys.readouterr().out)
