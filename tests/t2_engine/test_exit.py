"""A process whose engine serves at full load ends when it should, in whatever way: it neither hangs
nor crashes."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest

CHILD = Path(__file__).parent / "exit_child.py"
ROUNDS = int(os.environ.get("DFS_TEST_EXIT_ROUNDS", "1"))
"""Of all ways. More rounds find what depends on the moment."""
CALLS_BEFORE = 200
CALLERS = 8
END_S = 20
WAYS = {
    "close": 0, "close in another thread": 0, "drain and close": 0, "sys.exit": 3, "exception": 1,
    "SIGTERM": -15, "SIGINT": -2, "forget": 0, "return": 0,
}


@contextmanager
def load(address: str) -> Iterator[threading.Event]:
    """Callers that never pause; the event says that they are well under way."""
    busy, done = threading.Event(), threading.Event()
    answered: list[int] = []

    def caller() -> None:
        options = [("grpc.use_local_subchannel_pool", 1), ("grpc.enable_retries", 0)]
        options += [(f"grpc.{name}_reconnect_backoff_ms", 100) for name in ("initial", "max")]
        with grpc.insecure_channel(address, options) as channel:
            put, get = channel.unary_unary("/t.S/Put"), channel.unary_unary("/t.S/Get")
            while not done.is_set():
                try:
                    put(b"a=1", timeout=END_S)
                    get(b"", timeout=END_S)
                except grpc.RpcError:
                    if busy.is_set():
                        return
                answered.append(1)
                if len(answered) >= CALLS_BEFORE:
                    busy.set()

    callers = [threading.Thread(target=caller) for _ in range(CALLERS)]
    for one in callers:
        one.start()
    try:
        yield busy
    finally:
        done.set()
        for one in callers:
            one.join()


@pytest.mark.parametrize("way", WAYS)
def test_the_process_ends(way: str, tmp_path: Path) -> None:
    for number in range(ROUNDS):
        process = subprocess.Popen(
            [sys.executable, CHILD, way, str(tmp_path / str(number))],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        )
        try:
            assert process.stdout
            address = process.stdout.readline().strip()
            assert address, process.communicate()
            with load(address) as busy:
                assert busy.wait(END_S), "no load"
                _, said = process.communicate("go on\n", timeout=END_S)
        finally:
            process.kill()
            process.wait()
        assert process.returncode == WAYS[way], f"round {number}: {said}"
        for word in ("panicked", "Fatal Python error", "terminate called", "dropped"):
            assert word not in said, f"round {number}: {said}"
