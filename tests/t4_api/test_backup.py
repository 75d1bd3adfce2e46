"""The backup of a node, through every host, through the client and the command line."""

import hashlib
import os
from errno import ENOSPC
from pathlib import Path

import grpc
import pytest

import dfs
from dfs.limits import STREAM_CHUNK_BYTES_MAX
from dfs.node import StateFault
from dfs.offline.files import appearing
from dfs.proto import dfs_pb2 as pb
from dfs.store import backup
from dfs.store.layout import CURRENT

from .cli_rig import Cli, Served
from .conftest import refusal


async def collected(api) -> tuple[list[bytes], bytes]:
    """The pieces, and the digest of the last answer."""
    pieces, sha256 = [], b""
    async for answer in api.cluster.Backup(pb.BackupRequest()):
        assert not sha256, "nothing comes behind the digest"
        pieces.append(answer.data)
        sha256 = answer.sha256
    return pieces, sha256


async def test_a_backup_is_the_state_in_pieces_with_its_digest(api, tmp_path):
    await api.files.Put(pb.PutRequest(key="large", data=bytes(5 << 20)))
    for number in range(40):
        await api.files.Put(pb.PutRequest(key=f"d/{number}", data=b"%d" % number))
    put = await api.files.Put(pb.PutRequest(key="last", data=b"of all"))
    pieces, sha256 = await collected(api)
    assert len(pieces) > 5
    assert max(map(len, pieces)) <= STREAM_CHUNK_BYTES_MAX
    path = tmp_path / "b"
    path.write_bytes(b"".join(pieces))
    assert hashlib.sha256(path.read_bytes()).digest() == sha256
    head = backup.verify(path)
    assert (head.revision, head.node) == (put.revision, "node1"), "it shows what was acknowledged"
    assert head.cluster == api.running.identity.cluster.hex()
    assert head.state_hash == api.running.store.state_hash.hex()


@pytest.mark.allow_logs("this node stops serving its state: .*the record of k")
async def test_a_damaged_state_ends_the_backup_without_a_digest(api):
    await api.files.Put(pb.PutRequest(key="k", data=b"v"))
    kv = api.running.store._kv
    value = kv.get(CURRENT + b"k")
    kv.write({CURRENT + b"k": value[:-1] + bytes((value[-1] ^ 1,))})
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await collected(api)
    found = refusal(caught.value)
    assert found.code == grpc.StatusCode.DATA_LOSS
    assert "the record of k" in found.text
    with pytest.raises(StateFault, match="the record of k"):
        await api.running.node.failed


async def test_the_clients_give_the_file_whole(api, tmp_path):
    if api.host == "tls":
        pytest.skip("the client speaks no TLS yet")
    put = await api.files.Put(pb.PutRequest(key="k", data=b"v"))
    async with dfs.AsyncClient(api.address, learn=False) as client:
        path = tmp_path / "b"
        path.write_bytes(b"".join([piece async for piece in client.backup(local=True)]))
    assert backup.verify(path).revision == put.revision


def test_a_stream_that_ends_without_its_digest_is_no_backup():
    """However it ended: what has come is told from a whole file."""
    whole = dfs.client.streams.Whole()
    assert whole.take(pb.BackupResponse(data=b"half")) == b"half"
    with pytest.raises(dfs.Unavailable, match="before it was whole"):
        whole.end()
    with pytest.raises(dfs.DataLoss, match="otherwise than it was sent"):
        whole.take(pb.BackupResponse(data=b"of it", sha256=hashlib.sha256(b"other").digest()))
    good = dfs.client.streams.Whole()
    good.take(pb.BackupResponse(data=b"all"))
    good.take(pb.BackupResponse(sha256=hashlib.sha256(b"all").digest()))
    good.end()


def full(_descriptor: int) -> None:
    raise OSError(ENOSPC, os.strerror(ENOSPC))


def test_a_file_appears_whole_or_not_at_all(tmp_path: Path, monkeypatch):
    target = tmp_path / "b"
    target.write_bytes(b"the last good one")

    def lose_the_node():
        with appearing(target) as file:
            file.write(b"half")
            raise dfs.Unavailable("the node is gone")

    with pytest.raises(dfs.Unavailable):
        lose_the_node()
    assert [p.name for p in tmp_path.iterdir()] == ["b"]
    assert target.read_bytes() == b"the last good one"
    with appearing(target) as file:
        file.write(b"the next")
        assert target.read_bytes() == b"the last good one"
    assert target.read_bytes() == b"the next"
    assert [p.name for p in tmp_path.iterdir()] == ["b"]
    monkeypatch.setattr(os, "fsync", full)

    def find_no_space():
        with appearing(target) as file:
            file.write(b"more")

    with pytest.raises(dfs.OutOfSpace, match="was not written: No space left"):
        find_no_space()
    assert [p.name for p in tmp_path.iterdir()] == ["b"]
    assert target.read_bytes() == b"the next"
    nowhere = appearing(tmp_path / "missing" / "b")
    with pytest.raises(dfs.Misconfigured, match="choose another place"):
        nowhere.__enter__()


def test_a_backup_that_is_whole_is_kept(node: Served, cli: Cli, tmp_path: Path, monkeypatch):
    """Also when the node is gone right after it has sent the last byte."""
    cli("put", "k", "-t", "v")

    def silent(*_arguments: object, **_more: object) -> None:
        raise dfs.Unavailable("no node answers")

    monkeypatch.setattr(dfs.Client, "status", silent)
    ran = cli("snapshot", "save", tmp_path / "b")
    assert ran.code == 0
    assert "Not in it: large contents, if there are any, which is unknown (no node" in ran.err
    assert backup.verify(tmp_path / "b").keys == 1
