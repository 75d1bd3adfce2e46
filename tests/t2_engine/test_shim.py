"""The shim that makes files fail: which call gets what, and that it leaves all else alone."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import time

import pytest

from dfs.nemesis.shim import TORN_EXIT, Fault, Kind, Op, Shim

CHILD = """
import json, os, socket, sys
inside, outside = sys.argv[1:]
told = []
def tell(call, *arguments):
    try:
        told.append(call(*arguments))
    except OSError as error:
        told.append(-error.errno)
for path in (inside, outside):
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND)
    for _ in range(3):
        tell(os.write, file, b"12345678")
        tell(os.fsync, file)
    tell(lambda: len(os.pread(file, 8, 0)))
here, there = socket.socketpair()
tell(os.write, here.fileno(), b"12345678")
print(json.dumps(told), flush=True)
"""
WRITTEN, SYNCED = 8, None
FINE = [WRITTEN, SYNCED] * 3 + [8]


@pytest.fixture
def shim(tmp_path):
    (tmp_path / "data").mkdir()
    with Shim(tmp_path / "data", tmp_path / "control") as made:
        yield made


def run(tmp_path, shim, code: int = 0):
    """What the calls of CHILD gave: of the file below root, and of everything else."""
    argv = [sys.executable, "-c", CHILD, str(tmp_path / "data" / "f"), str(tmp_path / "outside")]
    done = subprocess.run(
        argv, env=os.environ | shim.environment(), capture_output=True, text=True, check=False
    )
    assert done.returncode == code, done.stderr
    if code:
        return None
    told = json.loads(done.stdout)
    assert told[7:] == [*FINE, 8], "the shim leaves all else alone"
    return told[:7]


def test_without_a_fault_everything_is_counted_and_nothing_changed(tmp_path, shim):
    assert run(tmp_path, shim) == FINE
    calls = shim.counts().calls
    assert (calls[Op.WRITE], calls[Op.SYNC], calls[Op.READ], calls[Op.OPEN]) == (3, 3, 1, 1)
    assert calls[Op.RENAME] == calls[Op.TRUNCATE] == calls[Op.ALLOCATE] == 0


@pytest.mark.parametrize(
    ("fault", "expected", "hits", "again"),
    [
        (Fault(Kind.ERROR, 2, (Op.WRITE,)), [8, None, -errno.EIO, None, 8, None, 8], 1, 3),
        (Fault(Kind.ERROR, 3), [8, None, -errno.EIO, None, 8, None, 8], 1, 3),
        (
            Fault(Kind.ERROR, 2, (Op.SYNC,), errno.ENOSPC, sticky=True),
            [8, None, 8, -errno.ENOSPC, 8, -errno.ENOSPC, 8], 2, 2,
        ),
        (Fault(Kind.ERROR, 1, (Op.READ,)), [*FINE[:6], -errno.EIO], 1, 0),
        (Fault(Kind.SHORT, 3, (Op.WRITE,)), [8, None, 8, None, 4, None, 4 + 4], 1, 1),
        (Fault(Kind.ERROR, 1, match="elsewhere"), FINE, 0, 0),
        (Fault(Kind.ERROR, 4, (Op.WRITE,)), FINE, 0, 0),
    ],
)
def test_the_call_that_was_meant_gets_the_fault(tmp_path, shim, fault, expected, hits, again):
    shim.arm(fault)
    assert run(tmp_path, shim) == expected
    counts = shim.counts()
    assert (counts.hits, counts.again) == (hits, again)
    assert counts.failed == (str(tmp_path / "data" / "f") if hits else "")
    shim.disarm()
    (tmp_path / "data" / "f").unlink()
    assert run(tmp_path, shim) == FINE


def test_a_torn_write_is_the_last_thing_of_a_process(tmp_path, shim):
    shim.arm(Fault(Kind.TORN, 2, (Op.WRITE,)))
    run(tmp_path, shim, TORN_EXIT)
    assert (tmp_path / "data" / "f").read_bytes() == b"123456781234"


def test_a_slow_sync_waits_until_it_is_slow_no_more(tmp_path, shim):
    shim.slow(60_000)
    argv = [sys.executable, "-c", CHILD, str(tmp_path / "data" / "f"), str(tmp_path / "outside")]
    child = subprocess.Popen(
        argv, env=os.environ | shim.environment(), stdout=subprocess.PIPE, text=True
    )
    try:
        end_s = time.monotonic() + 10
        while not shim.counts().held:
            assert time.monotonic() < end_s
            os.sched_yield()
        assert shim.counts().calls[Op.WRITE] == 1
        shim.slow(0)
        said, _ = child.communicate(timeout=10)
    finally:
        child.kill()
        child.wait()
    assert json.loads(said)[:7] == FINE


@pytest.mark.parametrize("ahead_ms", [0, 1, 3_600_000, -86_400_123])
def test_a_clock_jumps_and_time_goes_on(tmp_path, shim, ahead_ms):
    """The wall clock is ahead or behind by what was asked for; the clock that measures is right."""
    shim.clock(ahead_ms)
    code = "import time; print(time.time_ns(), time.monotonic_ns())"
    argv = [sys.executable, "-c", code]
    bounds = [(time.time_ns(), time.monotonic_ns())]
    done = subprocess.run(argv, env=os.environ | shim.environment(), capture_output=True, text=True)
    bounds.append((time.time_ns(), time.monotonic_ns()))
    wall, measured = map(int, done.stdout.split())
    assert bounds[0][0] <= wall - ahead_ms * 1_000_000 <= bounds[1][0]
    assert bounds[0][1] <= measured <= bounds[1][1]


def test_arming_a_fault_leaves_the_clock_as_it_is(tmp_path, shim):
    shim.clock(-60_000)
    shim.arm(Fault(Kind.ERROR, 1, (Op.WRITE,)))
    code = "import time; print(time.time())"
    done = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | shim.environment(), capture_output=True,
        text=True, check=True,
    )
    assert float(done.stdout) < time.time() - 59
