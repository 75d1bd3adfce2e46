"""What a caller sees of HTTP/2 and gRPC: the same on every host, and nothing gets lost."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager

import grpc
import pytest

from dfs.limits import STREAMS_PER_CONNECTION_MAX
from dfs.proto import dfs_pb2 as pb
from dfs.proto.dfs_pb2_grpc import ClusterServiceStub
from dfs.status import TRAILER

from .conftest import WIRE, refused

Code = grpc.StatusCode
WAIT_S = 10
STREAMS = 1_000


@contextmanager
def held_apply(api, monkeypatch) -> Iterator[threading.Event]:
    """Until the end of the block nothing is applied; the event says that something waits for it."""
    begun, go_on = threading.Event(), threading.Event()
    apply = api.running.store.apply

    def held(*arguments):
        begun.set()
        assert go_on.wait(WAIT_S)
        return apply(*arguments)

    monkeypatch.setattr(api.running.store, "apply", held)
    try:
        yield begun
    finally:
        go_on.set()


async def reached(event):
    assert await asyncio.to_thread(event.wait, WAIT_S)


async def test_an_answer_has_no_metadata_but_its_own(api):
    sent = (("x-text", "anything"), ("x-data-bin", b"\x00\xff"))
    put = api.files.Put(pb.PutRequest(key="k"), metadata=sent)
    await put
    assert list(await put.trailing_metadata()) == []
    assert [key for key, _ in await put.initial_metadata() if key != "accept-encoding"] == []
    assert (await put.code(), await put.details()) == (Code.OK, "")
    get = api.files.Get(pb.GetRequest(key="none"), metadata=sent)
    assert (await refused(get)).code == Code.NOT_FOUND
    assert [key for key, _ in await get.trailing_metadata()] == [TRAILER]
    listing = api.files.List(pb.ListRequest(key="none"), metadata=sent)
    assert (await refused(listing.read())).code == Code.NOT_FOUND
    assert [key for key, _ in await listing.trailing_metadata()] == [TRAILER]


@pytest.mark.parametrize("code", [Code.CANCELLED, Code.DEADLINE_EXCEEDED])
async def test_a_write_that_was_proposed_is_done_though_its_caller_is_gone(api, monkeypatch, code):
    """A caller that cancels, or whose time is up, ends its wait and nothing else."""
    timeout = 0.3 if code == Code.DEADLINE_EXCEEDED else WAIT_S
    with held_apply(api, monkeypatch) as begun:
        put = api.files.Put(pb.PutRequest(key="k", data=b"v"), timeout=timeout)
        await reached(begun)
        if code == Code.CANCELLED:
            put.cancel()
        # Shortly before its time is up the engine says that the outcome is unknown, and why.
        told = {code, Code.UNAVAILABLE} if api.host in WIRE else {code}
        assert await put.code() in told
    assert (await api.files.Get(pb.GetRequest(key="k"))).data == b"v"


async def test_a_read_of_the_future_ends_at_its_deadline(api):
    request = pb.GetRequest(key="k", min_revision=api.applied() + 1_000_000)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await api.files.Get(request, timeout=0.2)
    assert caught.value.code() == Code.DEADLINE_EXCEEDED


async def test_compressed_requests(api):
    gzip, deflate = grpc.Compression.Gzip, grpc.Compression.Deflate
    for size in (0, 10, 1 << 20):
        for compression in (gzip, deflate):
            request = pb.PutRequest(key="k", data=b"z" * size)
            await api.files.Put(request, compression=compression)
            got = await api.files.Get(pb.GetRequest(key="k"), compression=compression)
            assert got.data == b"z" * size
    listing = api.files.List(pb.ListRequest(key="k"), compression=gzip)
    assert [item.key for item in (await listing.read()).items] == ["k"]


async def test_a_thousand_streams_on_one_connection(api):
    """They are open at the same time, and calls go on beside them until no stream is left."""
    assert STREAMS < STREAMS_PER_CONNECTION_MAX
    watches = [api.files.Watch(pb.WatchRequest(key="w")) for _ in range(STREAMS)]
    await asyncio.gather(*(watch.read() for watch in watches))
    put = await api.files.Put(pb.PutRequest(key="w", data=b"1"))

    async def told(watch):
        while (answer := await watch.read()).revision < put.revision:
            assert not answer.events
        return [event.revision for event in answer.events]

    seen = await asyncio.gather(*map(told, watches))
    assert seen == [[put.revision]] * STREAMS
    for watch in watches:
        watch.cancel()
    await asyncio.gather(*(watch.code() for watch in watches))

    async def keep(number):
        await api.files.Put(pb.PutRequest(key=f"k{number}", data=b"%d" % number))
        return (await api.files.Get(pb.GetRequest(key=f"k{number}"))).data

    kept = await asyncio.gather(*map(keep, range(STREAMS)))
    assert kept == [b"%d" % number for number in range(STREAMS)]


async def test_a_burst_of_calls_is_answered_whole(api):
    """More than grpcio would let wait for Python by itself."""
    async with AsyncExitStack() as stack:
        connections = [
            await stack.enter_async_context(api.dial([("grpc.use_local_subchannel_pool", 1)]))
            for _ in range(4)
        ]
        stubs = [ClusterServiceStub(channel) for _, channel in connections]
        calls = [stub.Status(pb.StatusRequest()) for stub in stubs for _ in range(STREAMS)]
        answers = await asyncio.gather(*calls)
    assert [len(answer.nodes) for answer in answers] == [1] * len(calls)


async def test_streams_that_were_cancelled_leave_nothing(api):
    watches = [api.files.Watch(pb.WatchRequest(key="w")) for _ in range(20)]
    await asyncio.gather(*(watch.read() for watch in watches))
    if api.host in WIRE:
        assert api.running.engine.status()["streams"] >= 20
    for watch in watches:
        watch.cancel()
    async with asyncio.timeout(WAIT_S):
        while api.running.engine.status()["streams"]:
            await api.files.Put(pb.PutRequest(key="w"))


@pytest.mark.parametrize("api", WIRE, indirect=True)
async def test_a_client_that_pings_is_not_cut(api):
    """As gRPC clients do for quiet streams; ours does each ten seconds, this one far more often.
    Stock gRPC has a policy of its own, but nobody except the engine calls it."""
    options = [
        ("grpc.keepalive_time_ms", 10), ("grpc.keepalive_timeout_ms", 5_000),
        ("grpc.http2.max_pings_without_data", 0), ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.use_local_subchannel_pool", 1),
    ]
    async with api.dial(options) as (files, _):
        watch = files.Watch(pb.WatchRequest(progress_ms=300))
        marks = [await watch.read() for _ in range(3)]
        assert [len(mark.events) for mark in marks] == [0, 0, 0]
        watch.cancel()
