"""`dfs mount` on a machine that is no node, by hand and as mount(8) calls it."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import dfs
from dfs.mount import owner, top_mount
from dfs.nemesis.ports import free_ports
from dfs.nemesis.processes import Cluster, running, wait_until

SOURCE = str(Path(dfs.__file__).parents[1])
HELPER = Path(__file__).parents[2] / "contrib" / "mount.dfs"
ENDS_S = 60
pytestmark = pytest.mark.skipif(
    not Path("/dev/fuse").exists() or os.geteuid() != 0, reason="needs /dev/fuse and root"
)


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    """Three nodes that mount nothing."""
    with running(tmp_path / "cluster") as made:
        yield made


@pytest.fixture
def point(tmp_path: Path) -> Iterator[Path]:
    """A mount point; whoever mounted there is ended afterwards."""
    path = tmp_path / "mount"
    path.mkdir()
    yield path
    if (top := top_mount(str(path))) is not None:
        if pid := owner(top.source):
            os.kill(pid, signal.SIGTERM)
        wait_until("nothing is mounted", lambda: top_mount(str(path)) is None)


def environment() -> dict[str, str]:
    """Without settings of this process."""
    found = {k: v for k, v in os.environ.items() if not k.startswith("DFS_")}
    return {**found, "PYTHONPATH": SOURCE}


def run(*words: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Runs it to its end."""
    return subprocess.run(
        [str(word) for word in words], cwd=cwd, env=environment(), text=True, check=False,
        stdin=subprocess.DEVNULL, capture_output=True, timeout=ENDS_S,
    )


def servers(cluster: Cluster) -> str:
    """All of them, as a user writes it."""
    return ",".join(node.endpoint for node in cluster.nodes)


def helper(folder: Path) -> Path:
    """The mount helper as it is installed: beside a `dfs`."""
    (folder / "contrib").mkdir()
    program = folder / "dfs"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -P -m dfs "$@"\n')
    program.chmod(0o755)
    return Path(shutil.copy(HELPER, folder / "contrib" / "mount.dfs"))


def test_a_mount_of_several_servers_goes_on_when_one_is_gone(
    cluster: Cluster, point: Path, tmp_path: Path
) -> None:
    """A mount on a machine that is no node needs one of the servers that it was given: when the one
    that it uses is killed it goes on with another."""
    cluster.nodes[1].client().put("f", b"one")
    words = (sys.executable, "-P", "-m", "dfs", "mount", "--servers", servers(cluster))
    words += ("--mount", str(point), "--cache", "none", "--state", "state", "--background")
    done = run(*words, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    assert (point / "f").read_bytes() == b"one"
    cluster.nodes[0].kill()
    survivor = cluster.nodes[1].client()
    wait_until("the others go on", lambda: survivor.put("f", b"two"))
    wait_until("the change is shown", lambda: (point / "f").read_bytes() == b"two")
    assert (point / ".dfs/stats").read_text().splitlines()[1] == "live: yes"


def test_mount_8_mounts_and_unmounts_by_the_helper(
    cluster: Cluster, point: Path, tmp_path: Path
) -> None:
    """`mount -t dfs SERVER,… DIR -o …` returns when the mount can be read; `umount` ends the
    process that serves it."""
    cluster.nodes[0].client().put("d/f", b"content")
    mount = helper(tmp_path)
    # As mount(8) calls it for a line of fstab.
    options = f"rw,_netdev,nofail,xattr,state={tmp_path / 'state'}"
    done = run(mount, servers(cluster), point, "-o", options, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    assert (point / "d/f").read_bytes() == b"content"
    assert b"user.dfs.sha256" in b" ".join(os.fsencode(n) for n in os.listxattr(point / "d/f"))
    top = top_mount(str(point))
    assert top is not None
    pid = owner(top.source)
    done = run(mount, servers(cluster), point, "-o", options, cwd=tmp_path)
    assert done.returncode == 2
    assert f"is mounted by process {pid}, which is alive" in done.stderr
    subprocess.run(["umount", point], check=True)
    wait_until("the process has ended", lambda: not Path(f"/proc/{pid}").exists())
    assert top_mount(str(point)) is None
    assert f"{point} was unmounted" in (tmp_path / "state/mount.log").read_text()


def test_what_keeps_a_mount_from_being_made_is_one_sentence(point: Path, tmp_path: Path) -> None:
    """When no server answers, or a directory or an option is wrong, nothing is mounted: the helper
    ends with one sentence and a code that is not 0."""
    mount = helper(tmp_path)
    nobody = f"127.0.0.1:{free_ports(1)[0]}"
    state = f"state={tmp_path / 'state'}"
    for server, where, options, code, sentence in (
        (nobody, point, f"rw,{state}", 2, "none of the servers answers, so nothing is mounted"),
        (nobody, tmp_path / "dfs", state, 2, "is no directory"),
        (nobody, point, f"{state},colour=red", 2, "unknown flag -colour"),
        (nobody, point, f"{state},noexec", 1, "the option noexec is not supported"),
        ("node1:99999", point, state, 2, "port '99999' is not a number from 1 to 65535"),
    ):
        done = run(mount, server, where, "-o", options, cwd=tmp_path)
        assert done.returncode == code, done.stderr
        assert sentence in done.stderr
        assert "Traceback" not in done.stderr
        assert top_mount(str(point)) is None
    assert run(mount, "only-one-word", cwd=tmp_path).returncode == 1
    assert run(mount, nobody, point, "-f", "-o", "rw", cwd=tmp_path).returncode == 0
