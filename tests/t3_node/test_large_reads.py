"""Large contents that are read at a member before it has all of them."""

from __future__ import annotations

import asyncio
import threading

import pytest

from dfs.engine_memory import MemoryEngine
from dfs.errors import Unavailable
from dfs.limits import CHUNK_BYTES_MIN, CONTENT_PULLS_MAX

from .conftest import wait_until
from .test_large_contents import holds, put_content, some


@pytest.mark.parametrize("waits", [False, True], ids=["new", "waits"])
async def test_a_chunk_that_somebody_reads_comes_before_all_others(cluster, monkeypatch, waits):
    """A chunk that somebody reads comes to a member ahead of the rest of its content, and of other
    contents."""
    one, _two, three = await cluster.three()
    await three.stop()
    data = {}
    for seed in range(CONTENT_PULLS_MAX + 1):
        manifest = await put_content(one, f"f{seed}", some(20 + seed))
        data[manifest] = some(20 + seed)
    *others, late = data
    original, gate = MemoryEngine.fetch_chunks, threading.Event()

    def slow(self, *arguments):
        if [number for number, _ in arguments[4]] != [2]:
            assert gate.wait(30)
        return original(self, *arguments)

    monkeypatch.setattr(MemoryEngine, "fetch_chunks", slow)
    monkeypatch.setattr("dfs.node.contents.contents.CONTENT_PULLS_BEHIND", 0)
    back = await cluster.start("node3", "node1")
    contents = back.node.contents
    waiting = [asyncio.ensure_future(contents.have(manifest)) for manifest in others]
    await wait_until(lambda: len(contents._pulls) == CONTENT_PULLS_MAX)
    if waits:
        waiting.append(asyncio.ensure_future(contents.have(late)))
        await wait_until(lambda: late.sha256 in contents._pulls)
        assert contents._pulls.get(late.sha256).waits
    try:
        found = await contents.read(late, 2)
        assert found == data[late][2 * CHUNK_BYTES_MIN : 3 * CHUNK_BYTES_MIN]
        assert late.sha256 not in contents.files
    finally:
        gate.set()
    await asyncio.gather(*waiting)
    for manifest, content in data.items():
        await wait_until(lambda m=manifest, c=content: holds(back, m, c))


async def test_who_waits_for_a_chunk_is_told_when_nobody_can_give_it(cluster, monkeypatch):
    one, two, three = await cluster.three()
    await three.stop()
    manifest = await put_content(one, "big", some(30))
    monkeypatch.setattr("dfs.node.contents.contents.CONTENT_RETRY_MS", 60_000)
    def fails(*_arguments):
        raise ConnectionError("not now")

    monkeypatch.setattr(MemoryEngine, "fetch_chunks", fails)
    back = await cluster.start("node3", "node1")
    await wait_until(lambda: back.node.contents.missing == 1)
    with pytest.raises(Unavailable, match=r"cannot be had: .*not now"):
        await back.node.contents.have_chunk(manifest, 1)
    assert two.node.contents.files.here
