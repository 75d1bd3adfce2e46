"""`dfs demo` as a user runs it: three processes, a real tree, nothing left behind."""

from __future__ import annotations

import ctypes
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import dfs

pytestmark = pytest.mark.timeout(180)

SOURCE = str(Path(dfs.__file__).parents[1])
DEMO_S = 120
CAP_SYS_ADMIN, PR_CAPBSET_DROP = 21, 24
can_mount = Path("/dev/fuse").exists() and os.geteuid() == 0
needs_mount = pytest.mark.skipif(not can_mount, reason="needs /dev/fuse and root")


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Files of several sizes, an empty directory, a symlink, odd names and modes."""
    root = tmp_path / "tree"
    for number in range(120):
        path = root / f"dir{number % 5}" / f"file {number}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(os.urandom(number * 37))
        path.chmod(0o755 if number % 7 == 0 else 0o640)
    (root / "large").write_bytes(os.urandom(3 << 20))
    (root / "empty").mkdir()
    (root / "link").symlink_to("dir0/file 0")
    (root / "naïve").write_text("ü")
    (root / "__pycache__").mkdir()
    (root / "__pycache__" / "left out").write_text("")
    return root


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts a demo below tmp_path / "d"; afterwards nothing of it may be left."""
    started: list[subprocess.Popen[str]] = []

    def run(*arguments: str, preexec: Callable[[], None] | None = None) -> subprocess.Popen[str]:
        environment = {k: v for k, v in os.environ.items() if not k.startswith("DFS_")}
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "dfs", "demo", "--dir", str(tmp_path / "d"), *arguments],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path,
            env={**environment, "PYTHONPATH": SOURCE, "NO_COLOR": "1"}, preexec_fn=preexec,
        )
        started.append(process)
        return process

    yield run
    for process in started:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        with process:  # closes its pipes
            process.wait(60)
    assert leftovers(tmp_path / "d") == []


def leftovers(root: Path) -> list[str]:
    """Processes and mounts of a demo."""
    found = [line for line in Path("/proc/self/mountinfo").read_text().splitlines()
             if f" {root}/" in line]
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_bytes()
        except OSError:
            continue
        if f"{root}/node".encode() in command:
            found.append(command.decode(errors="replace"))
    return found


def wait_until(what: str, condition: Callable[[], object], timeout_s: float = 30.0) -> None:
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, f"not within {timeout_s} s: {what}"
        time.sleep(0.05)


def finish(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=DEMO_S)
    return process.returncode, out, err


@needs_mount
@pytest.mark.parametrize("kill", [False, True])
def test_once(kill: bool, start: Callable[..., subprocess.Popen[str]], tree: Path) -> None:
    """The tree becomes identical on both other mounts, leader killed or not."""
    more = ["--kill-leader"] if kill else []
    code, out, err = finish(start("--once", "--tree", str(tree), *more))
    assert code == 0, err
    assert "dropped             122 files, " in out
    for name in ("node2", "node3"):
        assert re.search(rf"identical on {name}  after .* by its mount", out), out
    assert ("killed by -9" in out) == kill
    assert "drop to visible" in out


def test_once_without_mounts(start: Callable[..., subprocess.Popen[str]], tree: Path) -> None:
    """Where nothing may be mounted the demo says so and compares by the API."""

    def forbid_mounting() -> None:
        ctypes.CDLL(None).prctl(PR_CAPBSET_DROP, CAP_SYS_ADMIN, 0, 0, 0)

    process = start("--once", "--tree", str(tree), preexec=forbid_mounting)
    code, out, err = finish(process)
    assert code == 0, err
    assert "no mounts: " in err
    assert re.search(r"identical on node3  after .* by its API", out), out


def test_until_ctrl_c(start: Callable[..., subprocess.Popen[str]], tree: Path) -> None:
    """The nodes keep running, one that is killed comes back, Ctrl-C ends everything."""
    process = start("--tree", str(tree))
    assert process.stdout is not None
    lines = []
    while "Ctrl-C stops everything." not in (line := process.stdout.readline()):
        assert line, finish(process)[2]
        lines.append(line)
    endpoint = re.search(r"status -endpoint (\S+)", "".join(lines))
    victim = re.search(r"kill -9 (\d+) .*# (\w+), the leader", "".join(lines))
    assert endpoint
    assert victim
    os.kill(int(victim[1]), signal.SIGKILL)
    with dfs.connect(endpoint[1]) as client:
        client.put("while one is away", b"x")

        def back() -> bool:
            return all(node.role for node in client.status().nodes)

        wait_until("the killed node is back", back)
        assert client.get("while one is away") == b"x"
    process.send_signal(signal.SIGINT)
    code, _, err = finish(process)
    assert code == 0
    assert f"{victim[2]} has ended; starting it again" in err
    assert "Traceback" not in err


def test_after_a_demo_that_was_killed(
    start: Callable[..., subprocess.Popen[str]], tree: Path, tmp_path: Path
) -> None:
    """What a killed demo left running is ended, its mounts and files are taken away."""
    first = start("--tree", str(tree))
    assert first.stdout is not None
    assert any("Ctrl-C stops everything." in line for line in first.stdout)
    second = start("--once", "--tree", str(tree))
    code, _, err = finish(second)
    assert code == 2
    assert "a demo runs in" in err
    first.kill()
    first.communicate()
    assert leftovers(tmp_path / "d")
    code, _, err = finish(start("--once", "--tree", str(tree)))
    assert code == 0, err


def test_a_directory_of_something_else_is_left_alone(
    start: Callable[..., subprocess.Popen[str]], tree: Path, tmp_path: Path
) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "mine").write_text("keep")
    code, _, err = finish(start("--once", "--tree", str(tree)))
    assert code == 2
    assert "is not empty and no demo's: give another with --dir" in err
    assert (tmp_path / "d" / "mine").read_text() == "keep"
    code, _, err = finish(start("--once", "--tree", str(tree / "large")))
    assert (code, "is no directory" in err) == (2, True)
