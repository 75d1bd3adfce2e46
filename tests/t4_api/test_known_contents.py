"""What the cluster has already is not sent again."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import io
import os
from pathlib import Path

import grpc
import pytest

import dfs
from dfs.client.sending import Sending, manifest_of
from dfs.limits import (
    CHUNK_BYTES_MIN,
    INLINE_BYTES_MAX,
    TRANSACTION_BYTES_MAX,
    TRANSACTION_OPERATIONS_MAX,
)
from dfs.manifest import Manifest
from dfs.proto import dfs_pb2 as pb
from dfs.sealing import SEALED_NS

from .cli_rig import Cli, Served
from .conftest import refusal
from .test_contents import SIZE, download, rest_of, some, upload


def announced(data: bytes, **fields) -> pb.UploadHead:
    manifest = manifest_of(io.BytesIO(data))
    return pb.UploadHead(
        size=manifest.size, sha256=manifest.sha256, digests=manifest.digests, **fields
    )


async def send(api, head: pb.UploadHead, data: bytes, chunks: int = 1 << 20):
    """As a client that has announced its chunks: sends those that the node asks for; the first
    answer, and the others."""
    call = api.files.Upload()
    await call.write(pb.UploadRequest(head=head))
    first = await call.read()
    with contextlib.suppress(asyncio.InvalidStateError):  # refused by now
        for number in first.chunks[:chunks]:
            chunk = data[number * CHUNK_BYTES_MIN : (number + 1) * CHUNK_BYTES_MIN]
            await call.write(pb.UploadRequest(data=chunk[:1_000_000]))
            await call.write(pb.UploadRequest(data=chunk[1_000_000:]))
        await call.done_writing()
    return first, await rest_of(call)


async def refused_send(api, head: pb.UploadHead, data: bytes, chunks: int = 1 << 20):
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await send(api, head, data, chunks)
    return refusal(caught.value)


@pytest.fixture
def sent(monkeypatch) -> list[int]:
    """Bytes of each piece that a client of this process sends."""
    found: list[int] = []
    piece = Sending.piece

    def counting(self: Sending) -> pb.UploadRequest | None:
        made = piece(self)
        found.extend([len(made.data)] if made is not None and made.data else [])
        return made

    monkeypatch.setattr(Sending, "piece", counting)
    return found


async def test_what_the_cluster_has_is_not_sent_again(api, sent, tmp_path):
    """A large content that the cluster has already, under whatever key, is not sent again when it
    is uploaded or named by a transaction; of a new version of a large file only those chunks are
    sent that differ. Each is a new revision all the same."""
    if api.host == "tls":
        pytest.skip("the client speaks no TLS yet")
    data = some(1)
    changed = data[:CHUNK_BYTES_MIN] + b"!" + data[CHUNK_BYTES_MIN + 1 :]
    (tmp_path / "same").write_bytes(data)
    (tmp_path / "pad").write_bytes(bytes(TRANSACTION_BYTES_MAX))
    async with dfs.AsyncClient(api.address, learn=False) as client:
        first = await client.upload("f", io.BytesIO(data))
        assert sum(sent) == SIZE
        sent.clear()
        again = await client.upload("f", io.BytesIO(data))
        elsewhere = await client.upload("d/other", data)
        async with client.transaction() as changes:
            changes.put("t", tmp_path / "same")
        assert not sent
        assert first < again < elsewhere < changes.revision
        await client.upload("f", io.BytesIO(changed))
        assert sum(sent) == CHUNK_BYTES_MIN
    for key, content in (("f", changed), ("d/other", data), ("t", data)):
        record, found = await download(api, key=key)
        assert (found, record.sha256) == (content, hashlib.sha256(content).digest())


async def test_small_contents_that_a_transaction_uploads_are_found_too(api, sent):
    """A tree of more than a transaction holds, whose files are small."""
    if api.host == "tls":
        pytest.skip("the client speaks no TLS yet")
    files = {f"d/{n}": some(n, INLINE_BYTES_MAX - n) for n in range(20)}
    async with dfs.AsyncClient(api.address, learn=False) as client:
        revisions = []
        for _ in range(2):
            sent.clear()
            async with client.transaction() as changes:
                for key, data in files.items():
                    changes.put(key, io.BytesIO(data))
            revisions.append(changes.revision)
        assert revisions[0] < revisions[1]
        assert not sent
        # What was held is stored in the log when it is put by itself.
        assert await client.upload("alone", files["d/0"]) == api.applied()
    assert (await download(api, key="alone"))[1] == files["d/0"]


def test_an_unchanged_directory_is_published_without_its_bytes(
    node: Served, cli: Cli, tmp_path: Path, sent: list[int]
) -> None:
    """What stands in the way of all that differs is not sent; the revision is new for all."""
    top = tmp_path / "site"
    top.mkdir()
    for name, seed in (("image", 5), ("other", 6)):
        (top / name).write_bytes(some(seed, TRANSACTION_BYTES_MAX + 5))
    assert cli("put", "--atomic", "-p", "w", top).code == 0
    assert sum(sent) == 2 * TRANSACTION_BYTES_MAX + 10
    sent.clear()
    with (top / "other").open("r+b") as file:
        file.seek(CHUNK_BYTES_MIN)
        file.write(b"changed")
    (top / "image").rename(top / "renamed")
    done = cli("put", "--atomic", "--delete", "-p", "w", top)
    assert done.code == 0
    assert sum(sent) == CHUNK_BYTES_MIN
    items = {item["key"]: item for item in cli("ls", "-r", "-o", "json", "w").lines}
    assert {key: item["revision"] for key, item in items.items()} == {
        "w/other": int(done.out), "w/renamed": int(done.out)
    }
    for name in ("other", "renamed"):
        assert cli("get", f"w/{name}", tmp_path / "copy").code == 0
        assert (tmp_path / "copy").read_bytes() == (top / name).read_bytes()


async def test_only_what_is_lacking_is_asked_for(api):
    """Chunks of zeros, too, are nothing to send."""
    data = some(2, CHUNK_BYTES_MIN) + bytes(CHUNK_BYTES_MIN) + some(3, 77)
    first, answers = await send(api, announced(data, key="f"), data)
    assert list(first.chunks) == [0, 2]
    assert (first.received, answers[-1].revision) == (CHUNK_BYTES_MIN, api.applied())
    assert (await download(api, key="f"))[1] == data
    longer = data + bytes(CHUNK_BYTES_MIN) + b"end"
    first, answers = await send(api, announced(longer, key="f"), longer)
    assert list(first.chunks) == [2, 3], "the last chunk of before was a shorter one"
    assert (await download(api, key="f"))[1] == longer
    first, answers = await send(api, announced(data, key="other"), data)
    assert (first.received, list(first.chunks)) == (len(data), [])
    shorter = data[:-3]
    first, _ = await send(api, announced(shorter, key="other"), shorter)
    assert list(first.chunks) == [2]


async def test_chunks_that_arrived_of_an_upload_that_was_broken_off_are_not_sent_again(api):
    """Whoever goes on, with whatever request id."""
    data = some(4)
    found = await refused_send(api, announced(data, key="f"), data, chunks=2)
    assert found.reason == "FAILED_PRECONDITION"
    assert f"{2 * CHUNK_BYTES_MIN:,} of {SIZE:,} bytes are here" in found.text
    head = announced(data, hold_for="f", request_id=os.urandom(16))
    first, answers = await send(api, head, data)
    assert (first.received, list(first.chunks)) == (2 * CHUNK_BYTES_MIN, [2])
    assert answers[-1].content.sha256 == head.sha256
    [upload_left] = [list(api.running.node.contents.files.uploads.iterdir())]
    assert not upload_left


async def test_two_who_send_the_same_at_once(api):
    """The second one sends all of it: nobody waits for another, who may never end."""
    data, head = some(5), announced(some(5), key="f")
    call = api.files.Upload()
    await call.write(pb.UploadRequest(head=head))
    first = await call.read()
    assert list(first.chunks) == [0, 1, 2]
    head = announced(data, key="g")
    answers = await upload(api, head, data)
    assert (answers[0].received, list(answers[0].chunks)) == (0, [])
    for at in range(0, SIZE, 1 << 20):
        await call.write(pb.UploadRequest(data=data[at : at + (1 << 20)]))
    await call.done_writing()
    assert (await rest_of(call))[-1].revision == api.applied()
    for key in ("f", "g"):
        assert (await download(api, key=key))[1] == data


async def test_what_was_announced_and_does_not_come_is_refused(api):
    """By digests that fit nothing is stored, nor by those of chunks alone."""
    data, other = some(6), some(7)
    head = announced(data, key="f")
    wrong_whole = announced(data, key="f")
    wrong_whole.sha256 = hashlib.sha256(other).digest()
    few = announced(data, key="f")
    few.digests = few.digests[32:]
    nameless = announced(data, key="f")
    nameless.sha256 = b""
    for tried, sent_data, reason, words in (
        (head, other, "FAILED_PRECONDITION", "f: 3 chunks have come otherwise"),
        (wrong_whole, data, "FAILED_PRECONDITION", "not the announced"),
        (few, data, "INVALID_ARGUMENT", "a digest of 32 bytes for each chunk"),
        (nameless, data, "INVALID_ARGUMENT", "with digests goes the SHA-256 of the whole"),
    ):
        found = await refused_send(api, tried, sent_data)
        assert (found.reason, words in found.text) == (reason, True), found.text
    call = api.files.Upload()
    await call.write(pb.UploadRequest(head=head))
    await call.read()
    for at in range(0, SIZE, 1 << 20):
        await call.write(pb.UploadRequest(data=data[at : at + (1 << 20)]))
    await call.write(pb.UploadRequest(data=b"more"))
    await call.done_writing()
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await rest_of(call)
    assert "more has come than was asked for" in refusal(caught.value).text
    assert not api.running.node.contents.files.here


async def test_a_file_that_changes_while_it_is_sent_is_refused(api, tmp_path):
    if api.host == "tls":
        pytest.skip("the client speaks no TLS yet")
    source = tmp_path / "source"
    source.write_bytes(some(8))

    def change(step: dfs.Transferred) -> None:
        if step.looked_at == SIZE:
            with source.open("r+b") as file:
                file.seek(CHUNK_BYTES_MIN)
                file.write(b"changed")

    async with dfs.AsyncClient(api.address, learn=False) as client:
        refused = pytest.raises(dfs.FailedPrecondition, match="changed meanwhile")
        with source.open("rb") as file, refused:
            await client.upload("f", file, progress=change)
        with source.open("rb") as file:
            await client.upload("f", file)
    assert (await download(api, key="f"))[1] == source.read_bytes()


async def test_a_content_that_everybody_has_lost_comes_back_with_an_upload(api):
    """A large content of which every member has lost the bytes comes back when it is uploaded
    again."""
    data = some(9)
    head = announced(data, key="f")
    await send(api, head, data)
    files = api.running.node.contents.files
    files.path(head.sha256).unlink()
    files.here.clear()
    first, answers = await send(api, head, data)
    assert list(first.chunks) == [0, 1, 2]
    assert answers[-1].revision == api.applied()
    assert (await download(api, key="f"))[1] == data


async def test_contents_that_a_node_keeps(api):
    data = some(10)
    await upload(api, pb.UploadHead(key="f", size=SIZE), data)
    here, not_here = hashlib.sha256(data).digest(), bytes(32)
    path = api.running.node.contents.files.path(here)
    os.utime(path, ns=(0, SEALED_NS))
    found = await api.files.KeepContents(pb.KeepContentsRequest(sha256=[not_here, here]))
    assert list(found.sha256) == [here]
    assert path.stat().st_atime > 0
    many = TRANSACTION_OPERATIONS_MAX + 1
    for asked, reason in (([b"short"], "INVALID_ARGUMENT"), ([here] * many, "TOO_LARGE")):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await api.files.KeepContents(pb.KeepContentsRequest(sha256=asked))
        assert refusal(caught.value).reason == reason


@pytest.mark.parametrize("kind", ["sync", "async"])
async def test_a_node_that_cannot_say_what_it_has_is_sent_all(api, sent, monkeypatch, kind):
    """One of an earlier version."""
    if api.host == "tls":
        pytest.skip("the client speaks no TLS yet")
    data = some(11, TRANSACTION_BYTES_MAX)

    def unknown(_contents) -> None:
        raise dfs.Unimplemented("no such method")

    monkeypatch.setattr("dfs.client.calls.keep_contents", unknown)
    if kind == "async":
        async with (
            dfs.AsyncClient(api.address, learn=False) as client, client.transaction() as changes,
        ):  # fmt: skip
            changes.put("f", data)
    else:

        def commit() -> None:
            with dfs.Client(api.address, learn=False) as client, client.transaction() as changes:
                changes.put("f", data)

        await asyncio.to_thread(commit)
    assert sum(sent) == TRANSACTION_BYTES_MAX
    assert (await download(api, key="f"))[1] == data


async def test_where_all_travels_along_the_node_is_asked_nothing(api, sent, monkeypatch):
    if api.host == "tls":
        pytest.skip("the client speaks no TLS yet")

    def asked(_contents) -> None:
        raise AssertionError("the node was asked")

    monkeypatch.setattr("dfs.client.calls.keep_contents", asked)
    for parts in ([2], [700_000] * 3, [INLINE_BYTES_MAX] * 4):
        contents = {f"f{number}": some(number, size) for number, size in enumerate(parts)}
        async with (
            dfs.AsyncClient(api.address, learn=False) as client, client.transaction() as changes,
        ):  # fmt: skip
            for key, data in contents.items():
                changes.put(key, data)

        def commit(contents=contents) -> None:
            with dfs.Client(api.address, learn=False) as client, client.transaction() as changes:
                for key, data in contents.items():
                    changes.put(f"of a file/{key}", io.BytesIO(data))

        await asyncio.to_thread(commit)
        for key, data in contents.items():
            assert (await download(api, key=key))[1] == data
            assert (await download(api, key=f"of a file/{key}"))[1] == data
    assert not sent


@pytest.mark.parametrize("size", [0, 1, CHUNK_BYTES_MIN, SIZE])
def test_a_file_is_described_from_where_it_stands(size):
    data, seen = some(12, size), []
    source = io.BytesIO(b"before" + data)
    source.seek(6)
    found = manifest_of(source, seen.append)
    at = range(0, size, CHUNK_BYTES_MIN)
    chunks = b"".join(hashlib.sha256(data[n : n + CHUNK_BYTES_MIN]).digest() for n in at)
    assert found == Manifest(hashlib.sha256(data).digest(), size, CHUNK_BYTES_MIN, chunks)
    assert source.tell() == 6
    assert seen[-1:] == ([size] if size else [])
    with contextlib.closing(source):
        assert source.read() == data
