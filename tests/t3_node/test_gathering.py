"""What a node finds of an upload before its sender has to send it."""

from __future__ import annotations

import asyncio
import threading

import pytest

from dfs.assembling import Assembly
from dfs.engine_memory import MemoryEngine
from dfs.errors import DfsError, FailedPrecondition
from dfs.limits import CHUNK_BYTES_MIN

from .test_large_contents import SIZE, hand_over, holds, put_content, some


def part_of(member, manifest, data: bytes, numbers: list[int]) -> None:
    """An upload at a member that was broken off."""
    path = member.node.contents.files.announced(manifest)
    with path.open("r+b") as file:
        for number in numbers:
            file.seek(number * CHUNK_BYTES_MIN)
            file.write(data[number * CHUNK_BYTES_MIN :][:CHUNK_BYTES_MIN])


def described(member, data: bytes):
    path, manifest = hand_over(member, data)
    path.unlink()
    return manifest


async def test_an_upload_goes_on_at_another_node(any_cluster):
    """An upload that was broken off goes on at any node: chunks that some member has got of it are
    not sent again."""
    one, two, three = await any_cluster.three()
    data = some(1)
    manifest = described(one, data)
    part_of(one, manifest, data, [1])
    part_of(three, manifest, data, [2])
    path, left = await two.node.contents.gather(manifest, b"")
    assert left == [0, 3]
    assembly = Assembly(path, manifest, left)
    assembly.add(data[:CHUNK_BYTES_MIN] + data[3 * CHUNK_BYTES_MIN :])
    assert assembly.finish() == manifest
    assembly.close()
    await two.node.contents.adopt(path, manifest)
    assert holds(two, manifest, data)


async def test_chunks_of_the_version_before_are_used(cluster):
    one = await cluster.start("node1")
    before = await put_content(one, "f", some(2))
    data = some(2)[:CHUNK_BYTES_MIN] + some(3, CHUNK_BYTES_MIN) + some(2)[CHUNK_BYTES_MIN:]
    manifest = described(one, data)
    _, left = await one.node.contents.gather(manifest, before.sha256)
    assert left == [1], "the others are where they were, or one further"


async def test_what_was_coming_from_another_member_is_used(cluster):
    """A member was asked to hold it, and then its sender comes here."""
    one, two, _ = await cluster.three()
    data = some(4)
    manifest = described(one, data)
    arriving = two.node.contents.files.arrive(manifest)
    with arriving.open("r+b") as file:
        file.write(data[: 2 * CHUNK_BYTES_MIN])
    path, left = await two.node.contents.gather(manifest, b"")
    assert left == [2, 3]
    assert not arriving.exists()
    assert path.stat().st_size == SIZE


async def test_what_is_being_fetched_is_left_alone(cluster, monkeypatch):
    """Somebody who announces other chunks, or comes just then, takes nothing away from it."""
    one, two, _ = await cluster.three()
    data = some(9)
    path, manifest = hand_over(one, data)
    await one.node.contents.adopt(path, manifest)
    other = manifest._replace(digests=bytes(len(manifest.digests)))
    contents = two.node.contents
    original = MemoryEngine.fetch_chunks
    begun, go_on = asyncio.Event(), threading.Event()
    loop = asyncio.get_running_loop()

    def slow(self, *arguments):
        loop.call_soon_threadsafe(begun.set)
        go_on.wait(10)
        return original(self, *arguments)

    monkeypatch.setattr(MemoryEngine, "fetch_chunks", slow)
    pull = contents._pulls.begin(manifest, contents._others())
    await begun.wait()
    monkeypatch.setattr(MemoryEngine, "fetch_chunks", original)
    _, left = await contents.gather(other, b"")
    assert left == [0, 1, 2, 3]
    assert contents.files.arriving.joinpath(manifest.sha256.hex()).exists()
    go_on.set()
    await pull.task
    assert holds(two, manifest, data)


async def test_a_member_that_is_silent_holds_nobody_up(cluster):
    one, two, three = await cluster.three()
    data = some(5)
    manifest = described(one, data)
    part_of(three, manifest, data, [0])
    await one.stop()
    _, left = await two.node.contents.gather(manifest, b"")
    assert left == [1, 2, 3]


async def test_chunks_that_nobody_has_proved_become_no_content(any_cluster):
    """Chunks that have arrived without the rest prove nothing of the whole: no member takes them
    for the content that they were announced for, unless it has read all of it."""
    one, two, three = await any_cluster.three()
    data, other = some(6), some(7)
    lie = described(one, other)._replace(sha256=described(one, data).sha256)
    part_of(one, lie, other, [0, 1, 2, 3])
    with pytest.raises(DfsError, match="cannot be had"):
        await two.node.contents.adopt(None, lie)
    path, left = await two.node.contents.gather(lie, b"")
    assert left == []
    assembly = Assembly(path, lie, left)
    with pytest.raises(FailedPrecondition, match="not the announced"):
        assembly.finish()
    assembly.close()
    # Who tells the truth has to send what is not right there.
    path, left = await two.node.contents.gather(described(one, data), b"")
    assert left == [0, 1, 2, 3]
    assert not any(member.node.contents.files.here for member in (one, two, three))


async def test_a_pull_under_way_is_waited_for(cluster):
    """Only by who means the same; what cannot be had is asked of its sender."""
    one, two, _ = await cluster.three()
    data = some(8)
    path, manifest = hand_over(one, data)
    contents = two.node.contents
    assert not await contents.had(manifest), "nobody knows of it"
    await one.node.contents.adopt(path, manifest)
    contents._pulls.begin(manifest, contents._others())
    assert not await contents.had(manifest._replace(digests=bytes(len(manifest.digests))))
    assert await contents.had(manifest)
    assert holds(two, manifest, data)
