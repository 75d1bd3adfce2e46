"""The agent as a process: how it starts, stops and says what is wrong."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

SOURCES = Path(__file__).parent.parent.parent / "src"
START_S = 30.0


@contextmanager
def agent(tmp_path: Path, *extra: str) -> Iterator[subprocess.Popen[bytes]]:
    """An agent of a node that does not answer; its log is `tmp_path/log`."""
    argv = [sys.executable, "-m", "dfs.cache.agent", "--endpoint", f"unix:{tmp_path}/none.sock"]
    argv += ["--state", str(tmp_path / "state"), "--cache", str(tmp_path / "cache"), *extra]
    with (tmp_path / "log").open("ab") as log:
        process = subprocess.Popen(
            argv, stdin=subprocess.PIPE, stderr=log, env={**os.environ, "PYTHONPATH": str(SOURCES)}
        )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def wait_until_watching(tmp_path: Path, process: subprocess.Popen[bytes]) -> None:
    """It runs when it says that there is no node."""
    end = time.monotonic() + START_S
    while "no node answers" not in (tmp_path / "log").read_text():
        assert process.poll() is None, (tmp_path / "log").read_text()
        assert time.monotonic() < end
        time.sleep(0.02)


def wait_until_ended(process: subprocess.Popen[bytes]) -> float:
    """Seconds that it took."""
    begin = time.monotonic()
    process.wait(START_S)
    return time.monotonic() - begin


def test_it_ends_within_a_second_when_it_is_asked_to(tmp_path: Path) -> None:
    with agent(tmp_path) as process:
        wait_until_watching(tmp_path, process)
        process.send_signal(signal.SIGTERM)
        assert wait_until_ended(process) < 1.0
        assert process.returncode == 0


def test_it_ends_with_its_supervisor(tmp_path: Path) -> None:
    with agent(tmp_path) as process:
        wait_until_watching(tmp_path, process)
        assert process.stdin is not None
        process.stdin.close()
        wait_until_ended(process)
        process.stdin = None
        assert process.returncode == 0
        assert "the supervisor has ended" in (tmp_path / "log").read_text()


def test_a_state_directory_that_is_a_file_is_one_sentence_and_exit_code_2(tmp_path: Path) -> None:
    (tmp_path / "state").write_bytes(b"")
    with agent(tmp_path) as process:
        wait_until_ended(process)
        assert process.returncode == 2
        text = (tmp_path / "log").read_text()
        assert "choose another with --state" in text
        assert "Traceback" not in text
