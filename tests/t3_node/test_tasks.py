"""Work beside the event loop."""

from __future__ import annotations

import asyncio
import threading

import pytest

from dfs.node.tasks import in_thread


async def test_work_is_waited_for_however_often_it_is_cancelled() -> None:
    """A caller goes, which cancels, and then the node stops, which cancels again: what the thread
    reads must not be closed under it."""
    go, ended = threading.Event(), threading.Event()

    def work() -> None:
        go.wait(10)
        ended.set()
        raise ValueError("the work has failed, and nobody hears of it")

    working = asyncio.ensure_future(in_thread(work))
    await asyncio.sleep(0)
    for _ in range(3):
        working.cancel()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    assert not working.done()
    go.set()
    with pytest.raises(asyncio.CancelledError):
        await working
    assert ended.is_set()
