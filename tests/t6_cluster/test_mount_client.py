"""`dfs mount` on a machine that is no node, by hand and as mount(8) calls it."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

import dfs
from dfs.mount import owner, top_mount
from dfs.nemesis.ports import free_ports
from dfs.nemesis.processes import Cluster, running, wait_until

SOURCE = str(Path(dfs.__file__).parents[1])
HELPER = Path(__file__).parents[2] / "contrib" / "mount.dfs"
ENDS_S = 60
NOBODY = 65534
MIB = 1 << 20
FUSE = Path("/dev/fuse")
pytestmark = pytest.mark.skipif(
    not FUSE.exists() or os.geteuid() != 0, reason="needs /dev/fuse and root"
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


def run(
    *words: str | Path, cwd: Path, path: str = os.environ["PATH"]
) -> subprocess.CompletedProcess[str]:
    """Runs it to its end."""
    return subprocess.run(
        [str(word) for word in words], cwd=cwd, env={**environment(), "PATH": path}, text=True,
        check=False, stdin=subprocess.DEVNULL, capture_output=True, timeout=ENDS_S,
    )


def nobody() -> tuple[str, ...]:
    """Words in front of a command that run it as a user who may not mount. The one capability is
    for reading an interpreter that lies in somebody's home directory."""
    found = shutil.which("setpriv")
    if found is None:
        pytest.skip("needs setpriv (package util-linux)")
    capability = "+dac_read_search"
    return (
        found, f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups",
        f"--inh-caps={capability}", f"--ambient-caps={capability}",
    )


def owned_by_nobody(folder: Path) -> Path:
    """A directory of the user nobody, who can reach it."""
    made = folder / "nobody"
    made.mkdir()
    os.chown(made, NOBODY, NOBODY)
    for above in folder.parents[:3]:
        with contextlib.suppress(OSError):
            above.chmod(0o755)
    folder.chmod(0o755)
    return made


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
    revision = survivor.put("f", b"three")
    assert int((point / ".dfs/sync").read_text()) >= revision
    assert (point / "f").read_bytes() == b"three"
    assert (point / ".dfs/stats").read_text().splitlines()[1] == "live: yes"


def test_a_large_file_is_read_while_it_is_on_its_way(
    cluster: Cluster, point: Path, tmp_path: Path
) -> None:
    """On a machine that has nothing of a large file yet, a read of its first bytes, or of its last,
    returns when a few chunks of it have come; the rest comes for who goes on reading."""
    data = os.urandom(MIB) * 255 + b"last"
    cluster.nodes[0].client().upload("large", io.BytesIO(data), size=len(data))
    words = (sys.executable, "-P", "-m", "dfs", "mount", "--servers", servers(cluster))
    words += ("--mount", str(point), "--cache", "none", "--state", "state", "--background")
    assert run(*words, cwd=tmp_path).returncode == 0
    path, name = point / "large", hashlib.sha256(data).hexdigest()
    arriving, whole = (tmp_path / "state" / at / name for at in ("arriving", f"objects/{name[:2]}"))
    for first, last in ((0, 1), (len(data) - 4, len(data))):
        with path.open("rb", buffering=0) as file:
            assert os.pread(file.fileno(), last - first, first) == data[first:last]
        assert 0 < arriving.stat().st_blocks * 512 < len(data) / 2
    assert path.read_bytes() == data
    wait_until("it is an object as others", whole.exists)
    assert not arriving.exists()
    assert path.read_bytes() == data


def test_what_was_replaced_on_its_way_is_read_on_when_the_agent_is_killed(
    cluster: Cluster, point: Path, tmp_path: Path
) -> None:
    """When an agent is killed, who has a large file open that is still on its way reads on, with
    the next one, what was opened, though the file was replaced or removed meanwhile."""
    client = cluster.nodes[0].client()
    contents = {"replaced": os.urandom(MIB) * 65, "d/removed": os.urandom(MIB) * 67}
    for key, data in contents.items():
        client.upload(key, io.BytesIO(data), size=len(data))
    words = (sys.executable, "-P", "-m", "dfs", "mount", "--servers", servers(cluster))
    words += ("--mount", str(point), "--cache", "none", "--state", "state", "--background")
    assert run(*words, cwd=tmp_path).returncode == 0
    top = top_mount(str(point))
    assert top is not None
    agent = agent_of(owner(top.source))
    with contextlib.ExitStack() as files:
        readers = {
            key: files.enter_context((point / key).open("rb", buffering=0)) for key in contents
        }
        for key, reader in readers.items():
            assert os.pread(reader.fileno(), 4, 0) == contents[key][:4]
        os.kill(agent, signal.SIGSTOP)  # Nothing more comes.
        client.put("replaced", b"another")
        client.delete("d", recursive=True)
        os.kill(agent, signal.SIGKILL)
        for key, reader in readers.items():
            assert reader.read() == contents[key]
        assert (point / "replaced").read_bytes() == b"another"
        assert os.listdir(point) == ["replaced"]
    wait_until(
        "what nobody reads any more goes", lambda: not any((tmp_path / "state/arriving").iterdir())
    )


def test_what_is_here_stays_readable_when_no_server_is_left(
    cluster: Cluster, point: Path, tmp_path: Path
) -> None:
    data = os.urandom(300_000)
    cluster.nodes[0].client().put("f", data)
    words = (sys.executable, "-P", "-m", "dfs", "mount", "--servers", servers(cluster))
    words += ("--mount", str(point), "--cache", "none", "--state", "state", "--background")
    assert run(*words, cwd=tmp_path).returncode == 0
    assert (point / "f").read_bytes() == data
    for node in cluster.nodes:
        node.kill()
    stats = point / ".dfs/stats"
    wait_until("it is said to be old", lambda: "\nlive: no (stale since 20" in stats.read_text())
    assert (point / "f").read_bytes() == data
    assert os.listdir(point) == ["f"]
    assert os.statvfs(point).f_blocks > 0
    assert "members: unknown: " in (point / ".dfs/members").read_text()
    for node in cluster.nodes:
        node.start()
    wait_until("it is whole again", lambda: "\nlive: yes\n" in stats.read_text())


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


def test_with_no_open_what_is_open_is_read_on_when_the_agent_is_killed(
    cluster: Cluster, point: Path, tmp_path: Path
) -> None:
    """With `-no-open`, too, a file that is open keeps its version when its agent is killed, be it
    replaced before that or once the next one is there."""
    client, old, new = cluster.nodes[0].client(), os.urandom(300_000), os.urandom(200_000)
    for key in ("before", "after"):
        client.put(key, old)
    options = f"no_open,state={tmp_path / 'state'}"
    done = run(helper(tmp_path), servers(cluster), point, "-o", options, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    top = top_mount(str(point))
    assert top is not None
    pid = owner(top.source)
    assert not (point / ".dfs").exists()
    with (point / "before").open("rb", 0) as before, (point / "after").open("rb", 0) as after:
        for file in (before, after):
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_RANDOM)
            assert file.read(10) == old[:10]
        client.put("before", new)
        wait_until("it is replaced", lambda: (point / "before").stat().st_size == len(new))
        os.kill(agent_of(pid), signal.SIGKILL)
        assert not (point / "asked of the next one").exists()
        client.put("after", new)
        wait_until("it is, too", lambda: (point / "after").stat().st_size == len(new))
        for file in (before, after):
            assert os.pread(file.fileno(), len(old), 0) == old
            assert (point / Path(file.name).name).read_bytes() == new
    subprocess.run(["umount", point], check=True)
    wait_until("the process has ended", lambda: not Path(f"/proc/{pid}").exists())


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


@pytest.fixture
def fuse_for_everybody() -> Iterator[None]:
    """/dev/fuse as udev makes it; where there is no udev root alone may use it."""
    mode = FUSE.stat().st_mode & 0o777
    FUSE.chmod(0o666)
    yield
    FUSE.chmod(mode)


@pytest.mark.skipif(
    shutil.which("fusermount3") is None, reason="needs fusermount3 (package fuse3)"
)
@pytest.mark.usefixtures("fuse_for_everybody")
def test_a_user_without_privileges_mounts_with_fusermount3(tmp_path: Path) -> None:
    """A user without privileges mounts on a directory of theirs with fusermount3: an agent that
    dies is replaced as everywhere, reads never go past the agent, `fusermount3 -u` ends it."""
    home = owned_by_nobody(tmp_path)
    point = home / "mount"
    data = os.urandom(300_000)

    def ask(*words: str | Path) -> subprocess.CompletedProcess[str]:
        return run(*nobody(), *words, cwd=home)

    def shown() -> bool:
        return ask("cmp", point / "f", home / "expected").returncode == 0

    with running(tmp_path / "cluster", 1) as cluster:
        revision = cluster.client().put("f", data)
        (home / "expected").write_bytes(data)
        done = ask(
            sys.executable, "-P", "-m", "dfs", "mount", "--servers", cluster.nodes[0].place.grpc,
            "--mount", point, "--cache", "none", "--state", home / "state", "--background",
        )
        assert done.returncode == 0, done.stderr
        top = top_mount(str(point))
        assert top is not None
        pid = owner(top.source)
        try:
            assert Path(f"/proc/{pid}").stat().st_uid == NOBODY
            assert shown()
            assert "\npassthrough: 0\n" in ask("cat", point / ".dfs/stats").stdout
            with standing_in(point / f".dfs/at/{revision}") as past:
                os.kill(agent_of(pid), signal.SIGKILL)
                assert shown()
                read, _ = past.communicate(b"go on\n", 60)
                assert read == data + data, "as it was opened, and as it is there"
            assert ask("fusermount3", "-u", point).returncode == 0
            wait_until("the process has ended", lambda: not Path(f"/proc/{pid}").exists())
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)
        wait_until("nothing is mounted", lambda: top_mount(str(point)) is None)


@contextlib.contextmanager
def standing_in(directory: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A shell of nobody's that is in a directory and has `f` open there. Told to go on it gives
    what it reads from that, and what `f` is then."""
    script = 'cd "$1" && exec 3<f && echo && read -r _ && cat <&3 && cat f'
    shell = subprocess.Popen(
        [*nobody(), "sh", "-c", script, "sh", str(directory)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )
    try:
        assert shell.stdout is not None
        assert shell.stdout.readline() == b"\n"
        yield shell
    finally:
        shell.kill()
        shell.communicate()


def test_without_privileges_and_fusermount3_the_way_out_is_said(tmp_path: Path) -> None:
    home = owned_by_nobody(tmp_path)
    done = run(
        *nobody(), sys.executable, "-P", "-m", "dfs", "mount", "-endpoint", "127.0.0.1:1", "-mount",
        "there", "-cache", "none", cwd=home, path="/nowhere",
    )
    assert done.returncode == 2, done.stderr
    assert "fuse3" in done.stderr


def agent_of(pid: int) -> int:
    """The agent that a process has started; the one that stands by is younger."""
    children = " ".join(p.read_text() for p in Path(f"/proc/{pid}/task").glob("*/children"))
    child, *_ = children.split()
    return int(child)


def test_the_past_is_read_on_a_node_and_elsewhere_while_agents_die(
    tmp_path: Path, point: Path
) -> None:
    with running(tmp_path / "cluster", mounts=True) as cluster:
        client, node = cluster.nodes[0].client(), cluster.nodes[1]
        data = os.urandom(3 << 20)
        client.put("d/small", b"one")
        with (tmp_path / "large").open("w+b") as file:
            file.write(data)
            file.seek(0)
            revision = client.upload("d/large", file)
        seconds, rest = divmod(client.stat("d/large").time_ns, 10**9)
        time = f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{rest:09}Z"
        client.delete("d", recursive=True)
        newest = client.put("d", b"a file now")
        words = (sys.executable, "-P", "-m", "dfs", "mount", "--servers", servers(cluster))
        words += ("--mount", str(point), "--cache", "none", "--state", "state", "--background")
        done = run(*words, cwd=tmp_path)
        assert (done.returncode, done.stdout) == (0, ""), done.stderr
        assert int((node.mount / ".dfs/sync").read_text()) >= newest
        for top in (point, node.mount):
            then = top / f".dfs/at/{revision}/d"
            assert sorted(os.listdir(then)) == ["large", "small"]
            assert (then / "large").read_bytes() == data
            assert (then / "small").read_bytes() == b"one"
            assert (top / f".dfs/at/{time}/d/large").read_bytes() == data
            assert (top / f".dfs/at/{newest}/d").read_bytes() == b"a file now"
        held = (node.mount / f".dfs/at/{revision}/d/large").open("rb", buffering=0)
        standing = os.open(node.mount / f".dfs/at/{time}/d", os.O_RDONLY)
        with held, contextlib.ExitStack() as ends:
            ends.callback(os.close, standing)
            assert held.read(1 << 20) == data[: 1 << 20]
            assert node.process is not None
            os.kill(agent_of(node.process.pid), signal.SIGKILL)
            assert held.read() == data[1 << 20 :]
            assert os.stat("large", dir_fd=standing).st_size == len(data)
            assert (node.mount / f".dfs/at/{revision}/d/small").read_bytes() == b"one"
