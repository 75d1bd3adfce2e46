"""Every k-th call to the disk fails: a choice of k; `make kth` tries all."""

from __future__ import annotations

import errno
import signal

import pytest

from dfs.identity import LOG, SOCKET
from dfs.kv import MemoryKV
from dfs.nemesis.kth import PLANS, Ended, Expected, Life, Loop, sweep
from dfs.nemesis.shim import Fault, Kind, Op, Shim
from dfs.nemesis.waiting import Violation
from dfs.nemesis.zygote import Zygote
from dfs.store import Store


@pytest.fixture(scope="module")
def rig(tmp_path_factory):
    root = tmp_path_factory.mktemp("kth")
    with Shim(root / "data", root / "faults") as shim, Zygote(shim.environment()) as zygote:
        yield Loop(root, shim, zygote)


def test_the_shim_sees_the_log_and_the_store(rig):
    """The engine and RocksDB write and sync by calls that the shim can make fail."""
    for part, ops in ((f"/{LOG}/log/", (Op.WRITE, Op.SYNC)), ("/store/", (Op.WRITE, Op.SYNC))):
        for op in ops:
            rig.shim.arm(Fault(Kind.ERROR, 1 << 40, (op,), match=part))
            rig.life()
            assert rig.shim.counts().seen > 10, (part, op)


@pytest.mark.parametrize("plan", PLANS, ids=lambda plan: plan.name)
def test_a_failing_disk_loses_nothing(rig, plan):
    """Whichever call to the disk fails, of those tried, and however: the node goes on with clean
    errors or ends with a sentence that names the cause, starts by itself afterwards, and has all
    that was acknowledged, and nothing else but what had no clear answer. A sync of the log that
    failed is never tried again."""
    tried = [k for k, _ in sweep(rig, plan, full=False)]
    assert len(tried) > 1, f"{plan.name}: only k = {tried}"


def test_a_write_whose_sync_fails_is_not_acknowledged(rig):
    """A write of which the sync fails is not acknowledged: its outcome is unknown, and the node
    ends. It is there after the next start, or it is not."""
    expected = Expected()
    node = rig.fresh()
    assert node.ready(20)
    with Life(node, rig.data / SOCKET, expected) as life:
        life.put("before", b"1")
        rig.quiet()
        rig.shim.arm(Fault(Kind.ERROR, 1, (Op.SYNC,), match=f"/{LOG}/log/"))
        with pytest.raises(Ended):
            life.put("now", b"2")
    assert "cannot be written: Input/output error" in node.said()
    assert (list(expected.known), list(expected.open)) == (["before"], ["now"])
    assert rig.shim.counts().again == 0
    rig.shim.reset()
    rig.verify(expected)


def test_a_snapshot_after_one_that_found_no_space_is_whole(rig):
    """A snapshot for which there is no space is given up and said so; the node goes on, and the
    next one is whole."""
    node = rig.fresh()
    try:
        assert node.ready(20)
        with Life(node, rig.data / SOCKET, Expected()) as life:
            for n in range(5):
                life.put(f"large/{n}", bytes([n]) * (20 << 10))
            rig.shim.arm(
                Fault(Kind.ERROR, 1, (Op.WRITE,), errno.ENOSPC, True, match="/snapshots/")
            )
            assert not life.snapshot()
            assert "No space left" in node.said()
            rig.shim.disarm()
            life.put("small", b"after")
            assert life.snapshot()
            there = life.everything()
        (path,) = (p for p in (rig.data / LOG / "snapshots").iterdir() if not p.suffix)
        store = Store(MemoryKV())
        store.restore(str(path))
        with store.view() as view:
            assert {key: view.get(key)[1] for key in there} == {k: v[0] for k, v in there.items()}
    finally:
        node.signal(signal.SIGKILL)
        assert node.wait(10)


def test_the_check_notices_a_lost_write_and_one_that_nobody_made():
    expected = Expected()
    expected.done("a", b"1", 5)
    expected.done("b", b"2", 6)
    expected.unclear("b", None)
    expected.unclear("c", b"3")
    expected.check({"a": (b"1", 5), "b": (b"2", 6)})
    expected.check({"a": (b"1", 5), "c": (b"3", 7)})
    for wrong in (
        {"b": (b"2", 6)}, {"a": (b"1", 4), "b": (b"2", 6)}, {"a": (b"1", 5), "b": (b"x", 6)},
        {"a": (b"1", 5), "b": (b"2", 6), "d": (b"", 8)},
    ):
        with pytest.raises(Violation):
            expected.check(wrong)
