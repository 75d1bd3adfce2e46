"""The asyncio client: the same as the blocking one where that has a test, and its own ends."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

import dfs
from dfs.client import aio

from .fake_node import Node, Tree, failing, wait_until


@pytest.fixture
async def client(nodes: list[Node]) -> AsyncIterator[dfs.AsyncClient]:
    async with dfs.AsyncClient(*(n.endpoint for n in nodes), timeout=5.0, learn=False) as made:
        yield made


async def test_what_is_put_can_be_read(client: dfs.AsyncClient) -> None:
    revision = await client.put("a", b"1")
    data, stat = await client.read("a")
    assert (data, stat.revision) == (b"1", revision)
    assert await client.get("a") == b"1"
    assert await client.stat("a") == stat
    assert [i.key async for i in client.list()] == ["a"]
    with pytest.raises(FileNotFoundError):
        await client.get("missing")


async def test_the_newest_revision_is_that_of_the_last_write(
    client: dfs.AsyncClient, nodes: list[Node]
) -> None:
    assert await client.newest() == 0
    await client.put("a", b"1")
    revision = await client.put("b/c", b"2")
    assert await client.newest() == revision
    with dfs.Client(*(n.endpoint for n in nodes), learn=False) as blocking:
        assert await asyncio.to_thread(blocking.newest) == revision


async def test_a_write_is_repeated_and_applied_once(
    client: dfs.AsyncClient, nodes: list[Node], tree: Tree
) -> None:
    nodes[0].lose = failing("Put", dfs.OutcomeUnknown("lost"))
    nodes[1].fail = failing("Put", dfs.Overloaded("busy"))
    assert await client.put("a", b"1") == 1
    assert tree.revision == 1


async def test_no_node_at_all_is_said_soon() -> None:
    async with dfs.AsyncClient("127.0.0.1:1") as client:
        with pytest.raises(dfs.Unavailable, match="connection refused"):
            await client.get("a", timeout=60.0)


async def test_the_members_are_learned(nodes: list[Node]) -> None:
    first, second = nodes
    first.members = [first.endpoint, second.endpoint]
    async with dfs.AsyncClient(first.endpoint) as client:
        await client.put("a", b"1")
        await client.put("a", b"2")
        task = client._learning
        assert task is not None
        await task
        assert second.endpoint in client.endpoints
        first.stop()
        assert await client.get("a") == b"2"


async def test_many_calls_at_once(client: dfs.AsyncClient, tree: Tree) -> None:
    await asyncio.gather(*(client.put(f"k{i}", b"x") for i in range(200)))
    assert tree.revision == 200


async def test_a_watch_survives_broken_streams(
    client: dfs.AsyncClient, nodes: list[Node]
) -> None:
    for i in range(5):
        await client.put(f"k{i}", b"")
    for node in nodes:
        node.fail = failing("Watch part", dfs.Unavailable("stopping"), times=3)
    seen: list[int] = []
    lost: list[dfs.DfsError] = []
    async for update in client.watch(after_revision=1, on_lost=lost.append):
        seen += [event.revision for event in update.events]
        if seen and seen[-1] == 8:
            break
        if seen and seen[-1] >= 5:
            await client.put("next", b"")
    assert seen == [2, 3, 4, 5, 6, 7, 8]
    assert lost


async def test_a_silent_node_is_left(
    client: dfs.AsyncClient, nodes: list[Node], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(aio, "WATCH_SILENCE_S", 0.5)
    await client.put("a", b"")
    nodes[0].silent = True
    async for update in client.watch():
        assert update.revision == 1
        break
    assert nodes[1].count("Watch") == 1


async def test_a_gap_is_raised(client: dfs.AsyncClient, tree: Tree) -> None:
    for _ in range(5):
        await client.put("a", b"")
    tree.floor = 3
    with pytest.raises(dfs.OutOfRange, match="history begins at 3"):
        async for _ in client.watch(after_revision=1):
            pass


async def test_close_ends_a_watch(client: dfs.AsyncClient, nodes: list[Node]) -> None:
    await client.put("a", b"")
    nodes[0].silent = True

    async def follow() -> list[dfs.Update]:
        return [update async for update in client.watch()]

    task = asyncio.create_task(follow())
    await asyncio.to_thread(wait_until, "it waits", lambda: nodes[0].count("Watch") == 1)
    await client.close()
    assert await asyncio.wait_for(task, 5) == []


async def test_a_cancelled_watch_ends_at_the_node(
    client: dfs.AsyncClient, nodes: list[Node]
) -> None:
    async def follow() -> None:
        async for _ in client.watch():
            pass

    task = asyncio.create_task(follow())
    await asyncio.to_thread(wait_until, "it waits", lambda: nodes[0].count("Watch part") > 0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await asyncio.to_thread(nodes[0].stop)
