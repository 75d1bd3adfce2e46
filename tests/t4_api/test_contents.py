"""Files of any size through every host and both clients."""

from __future__ import annotations

import hashlib
import io
import os
import random

import grpc
import pytest

import dfs
from dfs.client.sending import Sending
from dfs.limits import CHUNK_BYTES_MIN, INLINE_BYTES_MAX, SMALL_VALUE_BYTES_MAX, UPLOAD_PIECE_BYTES
from dfs.manifest import chunk_bytes_of
from dfs.proto import dfs_pb2 as pb

from .conftest import refusal

SIZE = 2 * CHUNK_BYTES_MIN + 4_321
PIECE = 1 << 20


def some(seed: int, size: int = SIZE) -> bytes:
    return random.Random(seed).randbytes(size)


async def upload(
    api, head: pb.UploadHead, data: bytes, end: int = 1 << 40
) -> list[pb.UploadResponse]:
    """As every client should: sends when it is told from where on."""
    call = api.files.Upload()
    await call.write(pb.UploadRequest(head=head))
    first = await call.read()
    for at in range(first.received, min(len(data), end), PIECE):
        await call.write(pb.UploadRequest(data=data[at : min(at + PIECE, end)]))
    await call.done_writing()
    return [first, *await rest_of(call)]


async def refused_upload(api, head: pb.UploadHead, data: bytes, end: int = 1 << 40):
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await upload(api, head, data, end)
    return refusal(caught.value)


async def rest_of(call) -> list[pb.UploadResponse]:
    answers = []
    while (answer := await call.read()) is not grpc.aio.EOF:
        answers.append(answer)
    return answers


async def refused_download(api):
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await download(api, key="f")
    return refusal(caught.value)


async def download(api, **fields) -> tuple[pb.Record, bytes]:
    answers = [a async for a in api.files.Download(pb.DownloadRequest(**fields))]
    return answers[0].record, b"".join(answer.data for answer in answers)


@pytest.mark.parametrize("size", [0, 1, INLINE_BYTES_MAX, INLINE_BYTES_MAX + 1, SIZE])
async def test_a_file_of_any_size_comes_back(api, size):
    """A file of any size that is uploaded comes back byte for byte, whole or in part, with a record
    that has its size and digest."""
    data = some(size, size)
    metadata = pb.Metadata(mode=0o640, mtime_ns=7)
    answers = await upload(api, pb.UploadHead(key="d/f", size=size, metadata=metadata), data)
    assert answers[0].received == 0
    assert (answers[-1].received, answers[-1].revision) == (size, api.applied())
    record, found = await download(api, key="d/f")
    assert found == data
    assert record == pb.Record(
        revision=api.applied(), created_revision=api.applied(), version=1, size=size,
        sha256=hashlib.sha256(data).digest(), mode=0o640, mtime_ns=7, node="node1",
        time_ns=record.time_ns,
        chunk_bytes=chunk_bytes_of(size) if size > INLINE_BYTES_MAX else 0,
    )  # fmt: skip
    got = await api.files.Get(pb.GetRequest(key="d/f"))
    assert (got.data, got.record) == (data, record)
    for offset, length in ((0, 10), (size // 2, 0), (max(size - 5, 0), 100), (size + 7, 1)):
        part = data[offset : offset + length] if length else data[offset:]
        assert (await download(api, key="d/f", offset=offset, length=length))[1] == part


async def test_a_past_version_of_a_large_file_comes_back(api):
    first = (await upload(api, pb.UploadHead(key="f", size=SIZE), some(1)))[-1].revision
    await upload(api, pb.UploadHead(key="f", size=SIZE), some(2))
    await api.files.Put(pb.PutRequest(key="f", data=b"small"))
    assert (await download(api, key="f", revision=first))[1] == some(1)
    assert (await download(api, key="f"))[1] == b"small"
    got = await api.files.Get(pb.GetRequest(key="f", revision=first))
    assert got.data == some(1)


async def test_an_upload_goes_on_where_it_was_broken_off(api):
    """An upload that was broken off goes on behind what the node has got, by its request id."""
    data, request_id = some(3), os.urandom(16)
    head = pb.UploadHead(key="f", size=SIZE, request_id=request_id)
    cut = 3 * PIECE
    found = await refused_upload(api, head, data, cut)
    assert found.code == grpc.StatusCode.FAILED_PRECONDITION
    assert "the same request id goes on" in found.text
    answers = await upload(api, head, data)
    assert answers[0].received == cut
    revision = answers[-1].revision
    assert revision == api.applied()
    assert (await download(api, key="f"))[1] == data
    again = pb.UploadHead(
        key="f", size=SIZE, request_id=request_id, sha256=hashlib.sha256(data).digest()
    )
    answers = await upload(api, again, data)
    assert answers[0].received == SIZE, "what the cluster has need not be sent again"
    assert answers[-1].revision == revision, "it was applied once"


async def test_what_does_not_fit_is_refused_and_nothing_is_stored(api):
    data = some(4)
    digest = hashlib.sha256(b"other").digest()
    for head, reason, words in (
        (pb.UploadHead(key="f", size=SIZE + 1), "FAILED_PRECONDITION", "were announced"),
        (pb.UploadHead(key="f", size=SIZE, sha256=digest), "FAILED_PRECONDITION", "SHA-256"),
        (pb.UploadHead(key="f", sha256=b"short"), "INVALID_ARGUMENT", "32 bytes"),
        (pb.UploadHead(key="/f"), "INVALID_ARGUMENT", "/f"),
        (pb.UploadHead(key="f", request_id=b"5"), "INVALID_ARGUMENT", "request id"),
        (pb.UploadHead(key="f", size=1 << 60), "OUT_OF_SPACE", "make room"),
        (pb.UploadHead(key="f", size=SIZE, base_revision=7), "CONFLICT", "expected revision 7"),
    ):
        found = await refused_upload(api, head, data)
        assert found.reason == reason, found.text
        assert words in found.text
    assert (await refused_download(api)).reason == "NOT_FOUND"


async def test_an_upload_whose_digest_comes_last_is_stored_only_if_it_fits(api):
    """What a node had kept of an upload is wrong: who sent it says so at the end."""
    call = api.files.Upload()
    await call.write(pb.UploadRequest(head=pb.UploadHead(key="f", size=SIZE)))
    await call.read()
    data = some(12)
    for at in range(0, SIZE, PIECE):
        await call.write(pb.UploadRequest(data=data[at : at + PIECE]))
    await call.write(pb.UploadRequest(head=pb.UploadHead(sha256=hashlib.sha256(b"x").digest())))
    await call.done_writing()
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await rest_of(call)
    assert refusal(caught.value).reason == "FAILED_PRECONDITION"
    assert "nothing was stored" in refusal(caught.value).text
    assert (await refused_download(api)).reason == "NOT_FOUND"


@pytest.mark.parametrize("kept", [0, 5, PIECE, UPLOAD_PIECE_BYTES + 7, SIZE])
def test_the_client_says_the_digest_at_the_end(kept):
    """Whatever a node has kept when an upload goes on, all of it has been digested."""
    data = some(13)
    sending = Sending("f", io.BytesIO(data), SIZE, None, None, os.urandom(16), None)
    sending.head()
    sending.begin(pb.UploadResponse(received=0))
    while sending.piece().data and sending._at < SIZE // 2 + kept:
        pass
    sending.head()
    sending.begin(pb.UploadResponse(received=kept))
    sent = b"".join(piece.data for piece in iter(sending.piece, None))
    assert sent == data[kept:]
    assert sending.head().head.sha256 == hashlib.sha256(data).digest()


@pytest.mark.parametrize("left", [SIZE, PIECE, 3])
def test_what_another_process_has_sent_is_digested_too(left):
    """So what goes on with another content, or with one that is shorter, is not taken for whole."""
    data = some(16)
    sending = Sending("f", io.BytesIO(data[:left]), 0, None, None, os.urandom(16), None)
    sending.head()
    sending.begin(pb.UploadResponse(received=2 * PIECE))
    sent = b"".join(piece.data for piece in iter(sending.piece, None))
    assert sent == data[2 * PIECE : left]
    assert sending.head().head.sha256 == hashlib.sha256(data[:left]).digest()


async def test_a_watch_and_a_list_show_a_large_file_without_its_content(api):
    await upload(api, pb.UploadHead(key="f", size=SIZE), some(5))
    watch = api.files.Watch(pb.WatchRequest(after_revision=1, data_bytes_max=1 << 30))
    answer = await watch.read()
    while not answer.events:
        answer = await watch.read()
    watch.cancel()
    [event] = answer.events
    assert (event.key, event.has_data, event.record.size) == ("f", False, SIZE)
    listed = [a async for a in api.files.List(pb.ListRequest(data_bytes_max=1 << 30))]
    [item] = listed[0].items
    assert (item.key, item.has_data, item.record.size) == ("f", False, SIZE)


async def test_a_content_that_is_handed_over(api):
    data = some(6)
    contents, name = api.running.node.contents, os.urandom(16).hex()
    contents.files.incoming_path(name).write_bytes(data)
    chunks = [
        hashlib.sha256(data[at : at + CHUNK_BYTES_MIN]).digest()
        for at in range(0, SIZE, CHUNK_BYTES_MIN)
    ]
    request = pb.PutContentRequest(
        key="f", sha256=hashlib.sha256(data).digest(), size=SIZE, chunk_bytes=CHUNK_BYTES_MIN,
        digests=b"".join(chunks), incoming=name,
    )  # fmt: skip
    done = await api.files.PutContent(request)
    assert done.revision == api.applied()
    assert not contents.files.incoming_path(name).exists()
    assert (await download(api, key="f"))[1] == data
    request.key, request.incoming = "copy", ""
    await api.files.PutContent(request)
    assert (await download(api, key="copy"))[1] == data
    found = await api.files.HaveContent(pb.HaveContentRequest(sha256=request.sha256))
    assert (found.here, found.received, found.size) == (True, SIZE, SIZE)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await api.files.HaveContent(pb.HaveContentRequest(sha256=bytes(32)))
    assert refusal(caught.value).reason == "NOT_FOUND"


async def test_a_content_is_held_for_a_transaction(api):
    """Nothing is stored by that; who sends it again need not send its bytes."""
    data, sha256 = some(14), hashlib.sha256(some(14)).digest()
    before, request_id = api.applied(), os.urandom(16)
    head = pb.UploadHead(hold_for="d/f", size=SIZE, request_id=request_id)
    await refused_upload(api, head, data, PIECE)
    answers = await upload(api, head, data)
    assert answers[0].received == PIECE
    held = answers[-1].content
    assert (answers[-1].revision, api.applied()) == (0, before)
    assert (held.sha256, held.size, held.chunk_bytes) == (sha256, SIZE, CHUNK_BYTES_MIN)
    head = pb.UploadHead(hold_for="other", size=SIZE, sha256=sha256)
    answers = await upload(api, head, data)
    assert (answers[0].received, answers[-1].content) == (SIZE, held)
    held.key = "d/f"
    done = await api.files.Transaction(pb.TransactionRequest(operations=[
        pb.Operation(put=pb.PutRequest(key="d/small", data=b"1")), pb.Operation(put_content=held),
    ]))  # fmt: skip
    assert (done.revision, done.changes) == (api.applied(), 3)
    record, found = await download(api, key="d/f")
    assert (record.revision, found) == (done.revision, data)


async def test_what_cannot_be_held_is_refused(api):
    for head, words in (
        (pb.UploadHead(hold_for="a//b"), "a//b"),
        (pb.UploadHead(hold_for="f", key="f"), "has no key, metadata and base_revision yet"),
        (pb.UploadHead(hold_for="f", base_revision=0), "has no key, metadata and base_rev"),
        (pb.UploadHead(hold_for="f"), "f: 2,048 bytes are too few to be held"),
        (pb.UploadHead(), "key"),
    ):
        found = await refused_upload(api, head, bytes(SMALL_VALUE_BYTES_MAX))
        assert (found.reason, words in found.text) == ("INVALID_ARGUMENT", True), found.text
    head = pb.UploadHead(hold_for="f", size=SIZE + 1)
    found = await refused_upload(api, head, some(15))
    assert (found.reason, found.text[:3]) == ("FAILED_PRECONDITION", "f: ")


async def test_the_client_moves_files_of_any_size(api, tmp_path):
    if api.host == "tls":
        pytest.skip("the client speaks no TLS yet")
    data, seen = some(7), []
    source = tmp_path / "source"
    source.write_bytes(b"skipped" + data)
    async with dfs.AsyncClient(api.address, learn=False) as client:
        with source.open("rb") as file:
            file.seek(7)
            revision = await client.upload("f", file, size=SIZE, mode=0o600, progress=seen.append)
        assert revision == api.applied()
        assert seen[-1].received == SIZE
        assert any(step.held == step.voters == 1 for step in seen)
        target = io.BytesIO()
        stat = await client.download("f", target)
        assert target.getvalue() == data
        assert (stat.size, stat.mode, stat.revision) == (SIZE, 0o600, revision)
        part = io.BytesIO()
        await client.download("f", part, offset=CHUNK_BYTES_MIN - 3, length=9)
        assert part.getvalue() == data[CHUNK_BYTES_MIN - 3 : CHUNK_BYTES_MIN + 6]
        with pytest.raises(dfs.NotFound):
            await client.download("none", io.BytesIO())
        with pytest.raises(dfs.Conflict):
            await client.upload("f", data, base_revision=0)
