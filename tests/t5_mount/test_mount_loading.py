"""The first agent loads its programs before there is a mount; its turn comes with that."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from dfs.errors import Misconfigured
from dfs.mount import MountState

from .mount_rig import needs_fuse, unmount_all, wait_until
from .test_mount_supervisor import Site, mounted

pytestmark = needs_fuse


@pytest.fixture
def loaded(tmp_path: Path) -> Iterator[Site]:
    """Nothing is mounted yet."""
    site = Site(tmp_path)
    site.supervisor.load()
    if not site.state.standby:
        pytest.skip("only who may mount has a descriptor beforehand")
    try:
        yield site
    finally:
        site.supervisor.stop()
        unmount_all(site.point)


def gone(pid: int) -> bool:
    return not os.path.exists(f"/proc/{pid}")


def test_the_agent_that_was_loaded_serves_the_mount(loaded: Site) -> None:
    pid = loaded.state.standby
    assert not mounted(loaded)
    assert os.listdir(loaded.point) == []
    loaded.supervisor.start()
    loaded.read(7)
    assert loaded.state == MountState(True, pid, 0, None, "")
    wait_until(lambda: loaded.state.standby)
    assert loaded.state.standby != pid
    loaded.supervisor.stop()
    assert gone(pid)
    assert not mounted(loaded)


def test_where_it_has_died_another_is_started(loaded: Site) -> None:
    pid = loaded.state.standby
    os.kill(pid, signal.SIGKILL)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    loaded.supervisor.start()
    loaded.read(7)
    assert loaded.state.pid not in (0, pid)


def test_it_ends_where_there_is_no_turn_for_it(loaded: Site) -> None:
    pid = loaded.state.standby
    (loaded.point / "file").write_text("")
    with pytest.raises(Misconfigured, match="is not empty"):
        loaded.supervisor.start()
    assert gone(pid)
    assert loaded.state == MountState(False, 0, 0, None, "")
    (loaded.point / "file").unlink()
    loaded.supervisor.load()
    second = loaded.state.standby
    loaded.supervisor.stop()
    assert gone(second)
    assert not mounted(loaded)
