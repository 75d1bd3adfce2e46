"""Crashes on the way of healing: the next start goes on, whatever was done by then."""

import shutil

import pytest

from dfs.healing import Quarantine
from dfs.identity import LOG, Identity
from dfs.nemesis.damage import cut, put_away
from dfs.store import Store

from .conftest import state, wait_until


@pytest.fixture(autouse=True)
def quick_flushes(monkeypatch):
    """What is on disk is written down at once."""
    monkeypatch.setattr("dfs.node.keeping.FLUSH_INTERVAL_MS", 50)


class Crash(BaseException):
    """The process has ended here."""


def crash(monkeypatch, owner, name, before):
    """Has the first call of a function end the process, before or after what it does."""
    real = getattr(owner, name)

    def crashing(*arguments, **named):
        if not before:
            real(*arguments, **named)
        monkeypatch.setattr(owner, name, real)
        raise Crash

    monkeypatch.setattr(owner, name, crashing)


@pytest.mark.allow_logs("dfs.healing")
async def test_a_crash_while_a_state_is_healed(real_cluster, monkeypatch):
    """Wherever the process ends while it puts a state away and gets another: the next one ends with
    a good state, under the same id."""
    one, _, three = await real_cluster.three()
    await one.put("k", b"v")
    await wait_until(lambda: state(three) == state(one))
    data = real_cluster.root / "node3"
    steps = [
        (owner, name, before)
        for owner, name in (
            (Identity, "condemn"), (Quarantine, "put_away"), (Store, "restore"),
            (Identity, "pardon"),
        )
        for before in (True, False)
    ]  # fmt: skip
    for owner, name, before in steps:
        number = three.running.identity.id
        await three.stop()
        shutil.rmtree(data / "quarantine", ignore_errors=True)
        if name == "restore":  # the log alone could make it again; this must come from others
            three.running.identity.condemn("it differs", 1)
        else:
            cut(next((data / "store").rglob("MANIFEST-*")), 0.1)
        crash(monkeypatch, owner, name, before)
        with pytest.raises(Crash):
            await real_cluster.start("node3", "node1")
        three = await real_cluster.start("node3", "node1")
        await wait_until(lambda: state(three) == state(one))  # noqa: B023 - waited for here
        assert three.running.identity.id == number, (name, before)
        assert not three.running.identity.fault, (name, before)
        assert await three.get("k") == b"v"


@pytest.mark.allow_logs("dfs.healing")
async def test_a_crash_while_a_node_becomes_another(real_cluster, monkeypatch):
    """Wherever the process ends while it gives its id up and takes its own place: the next one does
    not act under the former id, and ends as a voter; no place is taken twice."""
    one, _, three = await real_cluster.three()
    await one.put("k", b"v")
    data = real_cluster.root / "node3"
    for owner, name, before in (
        (Identity, "start_over", True),
        (Identity, "start_over", False),
        (Quarantine, "put_away", True),
        (Quarantine, "put_away", False),
        (Identity, "join", True),
        (Identity, "join", False),
    ):
        await wait_until(lambda: any(three.running.identity.promises()[:8]))  # noqa: B023
        former = three.running.identity.id
        await three.stop()
        shutil.rmtree(data / "quarantine", ignore_errors=True)
        shutil.rmtree(data / LOG)
        crash(monkeypatch, owner, name, before)
        with pytest.raises(Crash):
            await real_cluster.start("node3", "node1")
        three = await real_cluster.start("node3", "node1")
        await wait_until(three.votes)
        case = name, before
        assert three.running.identity.id != former, case
        assert "store" in put_away(data), case
        members = [m["name"] for m in one.engine.status()["members"]]
        assert sorted(members) == ["node1", "node2", "node3"], case
        await one.put(f"{name}{before}")
        await wait_until(lambda: state(three) == state(one))  # noqa: B023 - waited for here
        assert await three.get("k") == b"v"
