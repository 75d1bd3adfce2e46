"""Permissions and times that are set while no agent watches, as when it dies within a `cp -p`."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from .cache_rig import Rig


@pytest.mark.parametrize("journal_lost", [False, True])
@pytest.mark.parametrize("mode", [0o644, 0o600])
async def test_what_was_set_while_nobody_watched_is_carried(
    mode: int, journal_lost: bool, tmp_path: Path
) -> None:
    async with Rig(tmp_path) as rig:
        file = rig.drop("file", b"data")
        await rig.shown("file", b"data")
        file.chmod(0o644)
        await rig.settled()
        await rig.stop()
        os.utime(file, ns=(0, 42))
        file.chmod(mode)
        if journal_lost:  # It is written a moment after the drop: a crash may come before that.
            for part in rig.state.glob("drops.db*"):
                part.unlink()
        await rig.start()
        shown = rig.tree.shown["file"]
        assert (shown.mode, shown.mtime_ns) == (mode, 42)
        assert sorted(rig.tree.shown) == ["file"]
        revision = rig.node.revision
        await rig.rescan()
        assert rig.node.revision == revision


async def test_times_of_another_nodes_version_are_left_alone(tmp_path: Path) -> None:
    async with Rig(tmp_path) as one, Rig(tmp_path, one.node, "node2") as two:
        one.drop("file", b"data")
        await two.shown("file", b"data")
        await two.stop()
        os.utime(two.drop("file", b"data"), ns=(0, 42))
        revision = one.node.revision
        await two.start()
        assert one.node.revision == revision
