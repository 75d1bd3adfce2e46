"""What comes while a scan goes on, by the clock of a kernel whose time stamps lag behind."""

from __future__ import annotations

import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from .cache_rig import Rig, held_scan, wait_until

TICK_NS = 4_000_000
"""Before Linux 6.13 the time of a change is that of the last timer tick."""


async def test_what_is_stored_while_a_scan_goes_on_is_not_forgotten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that is made behind the look of a scan, in the tick in which that began, is none that
    is gone: the journal knows it afterwards, and what others delete is not stored anew."""
    clock = SimpleNamespace(time_ns=lambda: time.time_ns() + TICK_NS)
    monkeypatch.setattr("dfs.cache.watcher.time", clock)
    async with Rig(tmp_path) as rig:
        watcher = rig.agent.watcher
        assert watcher is not None
        rig.drop("last/file", b"1")
        await rig.shown("last/file", b"1")
        begun, go_on = held_scan(monkeypatch, lambda: rig.drop("late", b"late"))
        scans = watcher.scans
        watcher.scan_all()
        await wait_until("what is at the top was looked at", begun.is_set)
        await wait_until("it is stored", lambda: "late" in rig.agent.journal.rows)
        await rig.shown("late", b"late")
        go_on.set()
        await wait_until("the scan is over", lambda: watcher.scans > scans)
        assert "late" in rig.agent.journal.rows
        await rig.node.delete("late")
        await rig.settled()
        await rig.rescan()
        assert "late" not in rig.node.records
