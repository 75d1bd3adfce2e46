"""Large content that is not here: readers get what they read, the agent brings the rest."""

from __future__ import annotations

import asyncio
import errno
import io
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from dfs.cache.twin.tree import MemoryPart
from dfs.contents import INCOMING
from dfs.limits import INLINE_BYTES_MAX
from dfs.proto import dfs_pb2 as pb

from .cache_rig import Rig, wait_until
from .mount_rig import fails_with

CHUNK = 1 << 19
CHUNKS = 8
DATA = os.urandom((CHUNKS - 1) * CHUNK + 12_345)
REST = set(range(1, CHUNKS))


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dfs.manifest.CHUNK_BYTES_MIN", CHUNK)
    monkeypatch.setattr("dfs.cache.arriving.ARRIVING_LOOK_MS", 50)


@pytest.fixture(params=["elsewhere", "here"])
async def rig(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[Rig]:
    """An agent whose node is on another machine, or on this one."""
    made = Rig(tmp_path)
    if request.param == "here":
        made.node.files = tmp_path / "contents"
        (made.node.files / INCOMING).mkdir(parents=True)
        made.options["contents"] = str(made.node.files)
    async with made:
        await shown(made, DATA)
        yield made


@pytest.fixture
async def remote(tmp_path: Path) -> AsyncIterator[Rig]:
    """An agent whose node is on another machine."""
    async with Rig(tmp_path) as made:
        await shown(made, DATA)
        yield made


async def shown(rig: Rig, data: bytes) -> None:
    """Others store it."""
    revision = await rig.node.upload("large", io.BytesIO(data), size=len(data))
    await wait_until("it is shown", lambda: rig.agent.feeder.revision >= revision)


def withhold(rig: Rig, chunks: set[int]) -> None:
    for gate in rig.node.gates.values():
        gate.set()
    rig.node.gates = {number: asyncio.Event() for number in chunks}


async def opened(rig: Rig) -> MemoryPart:
    part = await asyncio.to_thread(rig.tree.open, "large")
    assert isinstance(part, MemoryPart)
    return part


async def chunk(rig: Rig, part: MemoryPart, number: int) -> bool:
    """Reads one; it must be right."""
    found = await asyncio.to_thread(rig.tree.read_chunk, part, number)
    assert found == DATA[number * CHUNK : (number + 1) * CHUNK]
    return True


async def test_each_chunk_is_read_as_soon_as_it_is_there(rig: Rig) -> None:
    assert len(DATA) > INLINE_BYTES_MAX
    withhold(rig, REST)
    part = await opened(rig)
    assert await chunk(rig, part, 0)
    assert part.here == {0}
    withhold(rig, set())
    await wait_until("all is here", lambda: rig.tree.shown["large"].backing)
    assert rig.shows("large", DATA)
    part.close()
    assert await rig.read("large") == DATA
    assert sorted(rig.node.chunks) == list(range(CHUNKS)), "each once"


async def test_what_a_reader_wants_comes_first_and_then_what_follows(rig: Rig) -> None:
    withhold(rig, set(range(CHUNKS)))
    part = await opened(rig)
    await wait_until("some are on their way", lambda: len(rig.node.chunks) == 4)
    reading = asyncio.create_task(chunk(rig, part, 6))
    waiting = rig.agent.fetcher._arrivals._begun  # type: ignore[union-attr]
    [begun] = waiting.values()
    await wait_until("it is wanted", lambda: begun.result()._order._waiting)
    rig.node.gates[0].set()
    await wait_until("the next one is asked for", lambda: len(rig.node.chunks) == 5)
    assert rig.node.chunks[4] == 6
    rig.node.gates[6].set()
    assert await reading
    await wait_until("the next one is asked for", lambda: len(rig.node.chunks) == 6)
    assert rig.node.chunks[5] == 7
    part.close()


async def test_nothing_more_comes_when_nobody_has_it_open_and_what_came_is_used_again(
    remote: Rig,
) -> None:
    rig = remote
    withhold(rig, REST)
    part = await opened(rig)
    assert await chunk(rig, part, 0)
    part.close()
    del part
    objects, fetcher = rig.agent.objects, rig.agent.fetcher
    assert objects is not None
    assert fetcher is not None
    await wait_until("it has ended", lambda: not fetcher._arrivals._begun)
    withhold(rig, set())
    [sha256] = objects._parts
    assert 0 < objects.bytes < 3 * CHUNK, "what is on the disk counts"
    assert objects.backing(sha256, len(DATA)) is None
    assert rig.tree.shown["large"].backing is None
    assert objects.verify(sha256) is None
    rig.node.chunks.clear()
    assert await rig.read("large") == DATA
    assert 0 not in rig.node.chunks
    await wait_until("all is here", lambda: rig.tree.shown["large"].backing)
    assert objects.bytes == len(DATA)


async def test_the_next_agent_uses_what_came_and_is_right(remote: Rig) -> None:
    """What is found is verified chunk by chunk: a damaged one is fetched again."""
    rig = remote
    withhold(rig, {6, 7})
    part = await opened(rig)
    await wait_until("most of it is here", lambda: part.here == {0, 1, 2, 3, 4, 5})
    await rig.stop()
    [file] = (rig.state / "arriving").iterdir()
    with file.open("r+b") as writer:
        writer.seek(2 * CHUNK + 7)
        writer.write(b"damaged")
    withhold(rig, set())
    rig.node.chunks.clear()
    await rig.start()
    await wait_until("it is shown", lambda: "large" in rig.tree.shown)
    assert await rig.read("large") == DATA
    assert sorted(rig.node.chunks) == [2, 6, 7]


@pytest.mark.allow_logs("with another SHA-256")
async def test_a_damaged_chunk_is_never_given(remote: Rig) -> None:
    """Of a large file that is not whole each chunk is verified against its SHA-256 before a byte of
    it is read: one that is damaged is an error, and the others are read."""
    rig = remote
    rig.node.damaged = {3}
    part = await opened(rig)
    with fails_with(errno.EIO):
        await chunk(rig, part, 3)
    assert await chunk(rig, part, 4)
    rig.node.damaged = set()
    assert await chunk(rig, part, 3)
    part.close()


@pytest.mark.allow_logs("a reader waited in vain: no node gave it")
async def test_the_deadline_is_that_of_the_chunk_that_is_read(rig: Rig) -> None:
    withhold(rig, {5})
    part = await opened(rig)
    assert await chunk(rig, part, 0)
    rig.fetcher_deadline(0.1)
    with fails_with(errno.ETIMEDOUT):
        await chunk(rig, part, 5)
    rig.fetcher_deadline(30)
    assert await chunk(rig, part, 7)
    withhold(rig, set())
    assert await chunk(rig, part, 5)
    part.close()


async def test_a_version_that_is_replaced_is_read_to_its_end(rig: Rig) -> None:
    withhold(rig, REST)
    part = await opened(rig)
    assert await chunk(rig, part, 0)
    await shown(rig, DATA[::-1])
    withhold(rig, set())
    for number in range(CHUNKS):
        assert await chunk(rig, part, number)
    part.close()
    assert await rig.read("large") == DATA[::-1]


@pytest.mark.allow_logs("small.* 0B are pinned and 3.5MiB are open or on their way in")
async def test_room_is_made_for_all_of_it_before_it_is_open(tmp_path: Path) -> None:
    made = Rig(tmp_path)
    made.options["cache_bytes_max"] = len(DATA) + CHUNK
    async with made as rig:
        await rig.node.put("small", os.urandom(2 * CHUNK))
        await wait_until("it is shown", lambda: "small" in rig.tree.shown)
        await rig.read("small")
        await shown(rig, DATA)
        withhold(rig, REST)
        part = await opened(rig)
        objects = rig.agent.objects
        assert objects is not None
        assert objects.bytes == 0, "the small one has gone"
        assert await chunk(rig, part, 0)
        with fails_with(errno.ENOSPC):
            await rig.read("small")
        part.close()
        del part
        withhold(rig, set())
        await wait_until("it has ended", lambda: objects.bytes)
        await rig.node.put("other", os.urandom(len(DATA) - 1))
        await wait_until("it is shown", lambda: "other" in rig.tree.shown)
        assert len(await rig.read("other")) == len(DATA) - 1
        assert list((rig.state / "arriving").iterdir()) == [], "what nobody has open goes"


async def test_what_has_come_counts_once(remote: Rig) -> None:
    """As an object, or as room that is kept for it: else a long fetch would take the room twice."""
    rig, room = remote, remote.agent.room
    withhold(rig, {4, 5, 6, 7})
    part = await opened(rig)
    here, objects = part.here, rig.agent.objects
    assert objects is not None
    assert room is not None
    await wait_until("half of it is here", lambda: here == {0, 1, 2, 3})
    assert (objects.bytes, room._reserved) == (4 * CHUNK, len(DATA) - 4 * CHUNK)
    part.close()
    del part
    await wait_until("it has ended", lambda: not room._reserved)
    assert 4 * CHUNK <= objects.bytes < 5 * CHUNK
    withhold(rig, set())
    assert await rig.read("large") == DATA
    await wait_until("all is here", lambda: rig.tree.shown["large"].backing)
    assert (objects.bytes, room._reserved) == (len(DATA), 0)


@pytest.mark.allow_logs("with another SHA-256")
async def test_without_opens_it_comes_to_its_end_or_to_what_is_not_to_be_had(
    tmp_path: Path
) -> None:
    """The kernel does not say when a file is closed then."""
    made = Rig(tmp_path)
    made.options["no_open"] = True
    async with made as rig:
        await shown(rig, DATA)
        rig.node.damaged = {5}
        part = await opened(rig)
        part.close()
        with fails_with(errno.EIO):
            await chunk(rig, part, 5)
        del part
        fetcher = rig.agent.fetcher
        assert fetcher is not None
        await wait_until("it is given up", lambda: not fetcher._arrivals._begun)
        rig.node.damaged = set()
        part = await opened(rig)
        part.close()
        await wait_until("all is here", lambda: rig.tree.shown["large"].backing)


@pytest.mark.allow_logs("it is older than this agent: bring the nodes to its version first")
async def test_a_node_that_knows_nothing_of_chunks_is_named_as_the_reason(
    remote: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def before(*_: object, **__: object) -> pb.HaveContentResponse:
        return pb.HaveContentResponse(here=True)

    monkeypatch.setattr(remote.node, "have_content", before)
    with fails_with(errno.EIO):
        await remote.read("large")


async def test_what_is_pinned_comes_to_its_end_though_nobody_reads_it(rig: Rig) -> None:
    assert await rig.dfs("warmup", "large") == 0
    await wait_until("all is here", lambda: rig.tree.shown["large"].backing)
    assert rig.shows("large", DATA)
