"""What is mounted where and by whom, without mounting anything."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from dfs.cli.shared import key_of
from dfs.errors import Misconfigured
from dfs.mount import (
    Mounted,
    describe_exit,
    half_dead,
    identity,
    locate,
    mounts,
    owner,
    started,
    unescape,
)

TABLE = r"""
22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
40 22 0:36 / /mnt/with\040space ro,nosuid,nodev,relatime shared:9 master:2 - fuse.dfs dfs:1:2 ro
41 22 0:37 / /mnt/no-tags rw - tmpfs none rw
"""


def test_mountinfo_is_read_with_and_without_optional_fields() -> None:
    assert mounts(TABLE.strip()) == [
        Mounted("/", "ext4", "/dev/vda"),
        Mounted("/mnt/with space", "fuse.dfs", "dfs:1:2"),
        Mounted("/mnt/no-tags", "tmpfs", "none"),
    ]
    assert any(mount.point == "/" for mount in mounts())


def test_octal_escapes() -> None:
    assert unescape(r"a\040b\134c\011") == "a b\\c\t"
    assert unescape("plain") == "plain"


def test_a_living_process_owns_its_mounts() -> None:
    assert owner(identity()) == os.getpid()
    assert owner(f"dfs:{os.getpid()}:1") == 0  # Another process had the number before.
    assert owner("dfs:999999999:5") == 0
    for foreign in ("dfs", "sshfs", "dfs:", "dfs:x:y", "dfs:12", "other:1:2", ""):
        assert owner(foreign) == 0
    assert started(999_999_999) == ""


def test_a_process_that_nobody_has_reaped_owns_nothing() -> None:
    process = subprocess.Popen(["sleep", "60"])
    source = f"dfs:{process.pid}:{started(process.pid)}"
    assert owner(source) == process.pid
    process.kill()
    try:
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert owner(source) == 0
    finally:
        process.wait()


def test_paths_are_followed_but_for_what_is_mounted(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    real = os.path.realpath(tmp_path)
    assert locate(str(tmp_path / "link")) == f"{real}/real"
    assert locate(f"{tmp_path}/link/../real/") == f"{real}/real"
    assert locate("/") == "/"


def test_a_path_below_a_mount_stands_for_its_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    point = tmp_path / "mount"
    (point / "d").mkdir(parents=True)
    (tmp_path / "link").symlink_to(point)
    table = [
        Mounted(str(point), "fuse.dfs", "dfs:1:2"), Mounted(str(point / "other"), "tmpfs", "none"),
    ]
    monkeypatch.setattr("dfs.mount.mounts", lambda: table)
    assert key_of(f"{point}/d/f") == "d/f"
    assert key_of(f"{point}/d/../f") == "f"
    assert key_of(f"{tmp_path}/link/d/f") == "d/f"
    assert key_of("d/f") == "d/f"
    assert key_of(".hidden") == ".hidden"
    monkeypatch.chdir(point / "d")
    assert key_of("./f") == "d/f"
    assert key_of("../f") == "f"
    for outside in ("/", str(point), f"{tmp_path}/mount-2/f"):
        with pytest.raises(Misconfigured, match=r"is not below a mount of dfs \(/.*mount\)"):
            key_of(outside)
    table.clear()
    with pytest.raises(Misconfigured, match="there is none on this machine"):
        key_of("/mnt/dfs/f")


def test_ends_of_agents_in_words() -> None:
    assert describe_exit(-9) == "was ended by SIGKILL"
    assert describe_exit(2) == "ended with exit code 2"
    assert describe_exit(None) == "was killed and has not ended yet"
    assert not half_dead(os.getpid())
    assert not half_dead(999_999_999)
