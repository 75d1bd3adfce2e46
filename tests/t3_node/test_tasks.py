"""Work beside the event loop."""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref
from contextlib import suppress

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


async def test_work_that_fails_keeps_nothing() -> None:
    """What the work had open is free as soon as its error is dealt with, without any collection."""

    class Opened:
        pass

    found: list[weakref.ref[Opened]] = []

    def work() -> None:
        opened = Opened()
        found.append(weakref.ref(opened))
        raise ValueError("damaged")

    gc.disable()
    try:
        with suppress(ValueError):
            await in_thread(work)
        # The thread lets go of it when it takes its next work.
        for _ in range(100):
            await asyncio.to_thread(lambda: None)
        assert found[0]() is None
    finally:
        gc.enable()
