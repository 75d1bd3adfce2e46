"""The backup of a node, through every host, through the client and the command line."""

import hashlib
import os
import sys
from contextlib import contextmanager
from errno import ENOSPC
from pathlib import Path

import grpc
import pytest

import dfs
from dfs.cli import main
from dfs.contents import DIRECTORY, path_in
from dfs.limits import STREAM_CHUNK_BYTES_MAX
from dfs.node import StateFault
from dfs.offline.files import appearing
from dfs.proto import dfs_pb2 as pb
from dfs.store import backup
from dfs.store.layout import CURRENT

from .cli_rig import Cli, Served
from .conftest import refusal
from .test_contents import SIZE, some, upload


async def collected(api, **fields) -> tuple[list[bytes], bytes]:
    """The pieces, and the digest of the last answer."""
    pieces, sha256 = [], b""
    async for answer in api.cluster.Backup(pb.BackupRequest(**fields)):
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


async def test_a_backup_has_the_large_contents(api, tmp_path):
    """Through every host; without them where they are not wanted."""
    for seed in (1, 2):
        await upload(api, pb.UploadHead(key="f", size=SIZE), some(seed))
    for without in (False, True):
        pieces, sha256 = await collected(api, without_contents=without)
        assert max(map(len, pieces)) <= STREAM_CHUNK_BYTES_MAX
        path = tmp_path / "b"
        path.write_bytes(b"".join(pieces))
        assert hashlib.sha256(path.read_bytes()).digest() == sha256
        head = backup.verify(path)
        assert (head.contents, head.contents_bytes) == (2, 2 * SIZE)
        assert head.lacking == (2 if without else 0)


async def test_a_content_that_nobody_has_ends_the_backup_without_a_digest(api):
    await upload(api, pb.UploadHead(key="d/f", size=SIZE), some(3))
    files = api.running.node.contents.files
    files.path(hashlib.sha256(some(3)).digest()).unlink()
    files.here.clear()
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await collected(api)
    found = refusal(caught.value)
    assert found.code == grpc.StatusCode.FAILED_PRECONDITION
    assert "content of d/f cannot be had, so the backup was not made" in found.text


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
    await upload(api, pb.UploadHead(key="f", size=SIZE), some(1))
    put = await api.files.Put(pb.PutRequest(key="k", data=b"v"))
    path = tmp_path / "b"
    async with dfs.AsyncClient(api.address, learn=False) as client:
        for wanted in (True, False):
            pieces = client.backup(local=True, with_contents=wanted)
            path.write_bytes(b"".join([piece async for piece in pieces]))
            head = backup.verify(path)
            assert (head.revision, head.with_contents) == (put.revision, wanted)


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


class Terminal:
    """Standard error that a person looks at."""

    def __init__(self) -> None:
        self.text = ""

    def write(self, text: str) -> int:
        self.text += text
        return len(text)

    def flush(self) -> None:
        pass

    def isatty(self) -> bool:
        return True


def test_saved_verified_and_restored_by_the_command_line(
    node: Served, cli: Cli, tmp_path: Path, monkeypatch
):
    """Each says how many large contents there are, and on a terminal how far it is."""
    (tmp_path / "large").write_bytes(some(1))
    assert cli("put", "d/large", tmp_path / "large").code == 0
    for arguments in (
        ("save", "b"), ("verify", "b"), ("restore", "b", "-id", "node9", "-data", "new"),
    ):  # fmt: skip
        terminal = Terminal()
        with monkeypatch.context() as patch:
            patch.setattr(sys, "stderr", terminal)
            assert main(["snapshot", *arguments]) == 0
        assert "B/s" in terminal.text
        assert "\r\x1b[Kb " in terminal.text
    assert "1 contents, 8.0 MiB, all in it" in cli("snapshot", "verify", "b").out
    found = cli("snapshot", "verify", "b", "-o", "json").json
    assert (found["contents"], found["contents_bytes"], found["lacking"]) == (1, SIZE, 0)
    sha256 = hashlib.sha256(some(1)).digest()
    assert path_in(tmp_path / "new" / DIRECTORY, sha256).read_bytes() == some(1)


def test_without_its_contents_a_backup_warns_until_they_are_found(
    node: Served, cli: Cli, tmp_path: Path
):
    (tmp_path / "large").write_bytes(some(1))
    assert cli("put", "d/large", tmp_path / "large").code == 0
    saved = cli("snapshot", "save", "b", "--without-contents")
    assert saved.code == 0
    for ran in (saved, cli("snapshot", "verify", "b")):
        assert "1 contents, 8.0 MiB, NOT in it" in ran.out
        assert "is no whole backup" in ran.err
    assert cli("snapshot", "verify", "b", "-o", "json").json["lacking"] == 1
    at = "-id", "node9", "-data"
    alone = cli("snapshot", "restore", "b", *at, "alone")
    assert (alone.code, "LACKING: 1 large contents (8.0 MiB)" in alone.err) == (0, True)
    assert "d/large cannot be read" in alone.err
    assert "0 large contents" in alone.out
    given = cli("snapshot", "restore", "b", *at, "given", "--contents-from", "data")
    assert (given.code, "LACKING" in given.err) == (0, False)
    assert "1 large contents" in given.out
    nowhere = cli("snapshot", "restore", "b", *at, "x", "--contents-from", "nowhere")
    assert (nowhere.code, (tmp_path / "x").exists()) == (2, False)
    assert "no file or directory nowhere" in nowhere.err


def test_a_save_that_finds_no_space_leaves_nothing(
    node: Served, cli: Cli, tmp_path: Path, monkeypatch
):
    """Here in the middle of a content."""
    (tmp_path / "large").write_bytes(some(1))
    assert cli("put", "large", tmp_path / "large").code == 0
    (tmp_path / "saved").mkdir()
    taken = []

    class Full:
        def __init__(self, file):
            self._file = file

        def write(self, piece: bytes) -> int:
            taken.append(len(piece))
            if sum(taken) > SIZE // 2:
                raise OSError(ENOSPC, os.strerror(ENOSPC))
            return int(self._file.write(piece))

    @contextmanager
    def filling(target):
        with appearing(target) as file:
            yield Full(file)

    monkeypatch.setattr("dfs.offline.files.appearing", filling)
    ran = cli("snapshot", "save", "saved/b")
    assert ran.code != 0
    assert "saved/b was not written: No space left on device" in ran.err
    assert os.listdir(tmp_path / "saved") == []
