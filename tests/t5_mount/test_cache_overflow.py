"""When more happens in the cache directory than the kernel can queue, nothing of it is missed."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from dfs._engine import Tree
from dfs.cache.inotify import Inotify
from dfs.client.values import Kind

from . import cache_rig
from .cache_rig import Rig, held_scan, small_file_system, wait_until

FILES = 60_000
QUEUED = Path("/proc/sys/fs/inotify/max_queued_events")
QUEUE = 16
"""Events: a file that is written makes three."""
STORED_S = 90.0
WRITER = """
import os, sys
root, files = sys.argv[1], int(sys.argv[2])
for number in range(files):
    directory = f"{root}/d{number // 1000}/s{number % 7}"
    if number % 1000 < 7:
        os.makedirs(directory)
    with open(f"{directory}/f{number}", "wb", buffering=0) as file:
        file.write(b"%d" % number)
"""


@pytest.fixture
def short_queue(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Who begins to watch has a short queue. It is a setting of the machine: nobody else may meet
    it."""
    try:
        QUEUED.write_text(QUEUED.read_text())
    except OSError as error:
        pytest.skip(f"{QUEUED} cannot be set: {error.strerror}")
    make = Inotify.__init__

    def with_a_short_queue(self: Inotify) -> None:
        before = QUEUED.read_text()
        try:
            QUEUED.write_text(str(QUEUE))
            make(self)
        finally:
            QUEUED.write_text(before)

    monkeypatch.setattr(Inotify, "__init__", with_a_short_queue)
    before = QUEUED.read_text()
    yield
    assert QUEUED.read_text() == before


def expected() -> dict[str, bytes]:
    return {f"d{n // 1000}/s{n % 7}/f{n}": b"%d" % n for n in range(FILES)}


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system that takes files faster than an agent stores them."""
    with small_file_system(tmp_path / "disk", 1 << 30) as path:
        yield path


@pytest.mark.usefixtures("short_queue")
@pytest.mark.timeout(300)
async def test_all_of_a_crowd_of_files_arrives_though_most_events_are_lost(
    disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process makes files and directories as fast as it can, while the kernel queues a few
    events only: each file is stored once, with what it holds, and the journal knows all of them."""
    # The twin looks at all that it shows at each change.
    monkeypatch.setattr(cache_rig, "MemoryTree", lambda *_: Tree({}))
    async with Rig(disk) as rig:
        watcher, pending = rig.agent.watcher, rig.agent.uploader.pending
        assert watcher is not None
        writer = await asyncio.create_subprocess_exec(
            sys.executable, "-c", WRITER, rig.cache, str(FILES)
        )
        assert await writer.wait() == 0
        await wait_until(
            "what was seen is stored",
            lambda: not pending.drops and not rig._unread() and watcher._begun == watcher._ended,
            STORED_S,
        )
        await rig.settled()
        assert watcher.overflows > 1
        records = rig.node.records
        files = {
            path: rig.node.contents[path, stat.revision]
            for path, stat in records.items() if stat.kind is Kind.FILE
        }
        assert files == expected()
        assert len(rig.node.events) == len(records) == rig.tree.committed()
        assert rig.agent.journal.rows.keys() == records.keys()
        assert all(rig.object(data).read_bytes() == data for data in files.values())


@pytest.mark.usefixtures("short_queue")
async def test_what_is_lost_while_a_scan_goes_on_is_found_by_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The scan has passed already where it happened: that it goes on is not enough."""
    async with Rig(tmp_path) as rig:
        watcher = rig.agent.watcher
        assert watcher is not None
        rig.drop("last/file", b"1")
        await rig.shown("last/file", b"1")
        await rig.rescan()
        begun, go_on = held_scan(monkeypatch)
        overflows = watcher.overflows
        watcher.scan_all()
        await wait_until("what is at the top was looked at", begun.is_set)
        for number in range(10 * QUEUE):
            rig.drop(f"lost{number}", b"%d" % number)
        await wait_until("it is said", lambda: watcher.overflows > overflows)
        go_on.set()
        await rig.settled()
        assert len(rig.node.records) == 10 * QUEUE + 2
        for number in range(10 * QUEUE):
            assert rig.versions(f"lost{number}") == [b"%d" % number]
