"""Downloads that break on the way: both clients go on where they were, or say why not."""

from __future__ import annotations

import asyncio
import hashlib
import io
import random
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import pytest
from t2_engine.relay import Network, Relay

import dfs
from dfs import errors
from dfs.cli import main
from dfs.proto import dfs_pb2 as pb

from .fake_node import Node, Tree, refuse, wait_until

PIECE = 1_000
SIZE = 9 * PIECE + 321
DATA = random.Random(1).randbytes(SIZE)
BREAKS = ("refused", "ended", "lost")
"""The node says that it stops; it ends the stream as if that was all; the connection breaks."""


def other(size: int) -> bytes:
    """Not the beginning of DATA."""
    return random.Random(2).randbytes(size)


class Script:
    """What the nodes do with the next downloads, and what they were asked."""

    def __init__(self, tree: Tree) -> None:
        self.tree = tree
        self.breaks: list[tuple[int, str]] = []
        """Of each download: after how many pieces it breaks, and in which of the ways."""
        self.asked: list[tuple[int, int, int]] = []
        """Which node, from where on, how much."""
        self.meanwhile: Callable[[], object] = int
        """Happens when a download breaks."""
        self.sent = self.received = 0

    def progress(self, step: dfs.Transferred) -> None:
        """Of the client."""
        assert step.received > self.received
        self.received = step.received

    def store(self, data: bytes, shown: bytes | None = None) -> None:
        """Puts `f`. `shown`: what nodes give of it, which they should not."""
        id_ = self.tree.revision.to_bytes(16, "big")
        self.tree.put(pb.PutRequest(key="f", data=data, request_id=id_))
        _, record = self.tree.files["f"]
        record.sha256 = hashlib.sha256(data).digest()
        self.tree.files["f"] = (data if shown is None else shown, record)


class Giver(Node):
    """A node that gives files in pieces, as far as the script lets it."""

    def __init__(self, script: Script, number: int) -> None:
        self.script, self.number, self.network = script, number, Network()
        super().__init__(script.tree)
        self.relay = Relay(self.network, number, self.endpoint)

    def Download(self, request: pb.DownloadRequest, context: Any) -> Iterator[pb.DownloadResponse]:
        script = self.script
        script.asked.append((self.number, request.offset, request.length))
        try:
            data, record = self._find(request.key)
        except errors.NotFound as error:
            refuse(context, error)
        begin = min(request.offset, len(data))
        end = min(begin + request.length, len(data)) if request.length else len(data)
        pieces, way = script.breaks.pop(0) if script.breaks else (len(data), "")
        answer = pb.DownloadResponse(record=record)
        for at in range(begin, end, PIECE)[:pieces]:
            answer.data = data[at : min(at + PIECE, end)]
            script.sent += len(answer.data)
            yield answer
            answer = pb.DownloadResponse()
        if way:
            self.end(way, context)
        elif answer.HasField("record"):
            yield answer

    def end(self, way: str, context: Any) -> None:
        """Breaks off when the client has all that was sent."""
        script = self.script
        wait_until("it has arrived", lambda: script.received == script.sent)
        script.meanwhile()
        if way == "refused":
            refuse(context, errors.Unavailable("this node is stopping"))
        if way == "lost":
            self.network.cut()


@pytest.fixture
def script(tree: Tree) -> Script:
    made = Script(tree)
    made.store(DATA)
    return made


@pytest.fixture
def endpoints(script: Script) -> Iterator[list[str]]:
    """Of two nodes, whose connections can break."""
    givers = [Giver(script, number) for number in range(2)]
    yield [giver.relay.addr for giver in givers]
    for giver in givers:
        giver.stop()
        giver.relay.close()


Download = Callable[..., Any]


@pytest.fixture(params=["sync", "async"])
def download(
    request: pytest.FixtureRequest, script: Script, endpoints: list[str]
) -> Download:
    """Downloads `f` with a client of its own; its record."""

    def blocking(target: BinaryIO, **wanted: int) -> dfs.Stat:
        with dfs.connect(*endpoints, learn=False) as client:
            return client.download("f", target, progress=script.progress, **wanted)

    async def beside(target: BinaryIO, **wanted: int) -> dfs.Stat:
        async with dfs.AsyncClient(*endpoints, learn=False) as client:
            return await client.download("f", target, progress=script.progress, **wanted)

    async def in_thread(target: BinaryIO, **wanted: int) -> dfs.Stat:
        return await asyncio.to_thread(blocking, target, **wanted)

    return beside if request.param == "async" else in_thread


@pytest.mark.parametrize("way", BREAKS)
async def test_a_download_goes_on_where_it_was_broken_off(
    script: Script, download: Download, way: str
) -> None:
    """A download that breaks on the way goes on at another node behind what has come, again and
    again, also where nothing came, and is the whole file in the end."""
    script.breaks = [(3, way), (0, way), (1, way), (4, way)]
    target = io.BytesIO()
    stat = await download(target)
    assert script.asked == [
        (0, 0, 0), (1, 3 * PIECE, 0), (0, 3 * PIECE, 0), (1, 4 * PIECE, 0), (0, 8 * PIECE, 0),
    ]  # fmt: skip
    assert target.getvalue() == DATA
    assert (stat.revision, stat.size) == (1, SIZE)
    assert stat.sha256 == hashlib.sha256(DATA).digest()
    assert script.received == script.sent == SIZE, "nothing came twice"


@pytest.mark.parametrize("way", BREAKS)
async def test_a_part_of_a_file_goes_on_where_it_was_broken_off(
    script: Script, download: Download, way: str
) -> None:
    """Up to where it was to end, and no further."""
    script.breaks = [(2, way), (1, way)]
    target = io.BytesIO()
    begin, length = PIECE + 5, 4 * PIECE + 7
    await download(target, offset=begin, length=length)
    assert script.asked == [
        (0, begin, length), (1, begin + 2 * PIECE, length - 2 * PIECE),
        (0, begin + 3 * PIECE, length - 3 * PIECE),
    ]  # fmt: skip
    assert target.getvalue() == DATA[begin : begin + length]


@pytest.mark.parametrize("way", BREAKS)
@pytest.mark.parametrize("offset", [0, 5])
async def test_a_file_that_breaks_behind_its_last_byte_is_whole(
    script: Script, download: Download, way: str, offset: int
) -> None:
    script.breaks = [(SIZE, way)]
    target = io.BytesIO()
    assert (await download(target, offset=offset)).size == SIZE
    assert target.getvalue() == DATA[offset:]


@pytest.mark.parametrize("way", BREAKS)
@pytest.mark.parametrize("after", [SIZE, SIZE // 4, 2 * SIZE], ids=["same size", "less", "more"])
async def test_a_file_that_was_changed_meanwhile_is_never_mixed(
    script: Script, download: Download, way: str, after: int
) -> None:
    """The rest of a download that was broken off would be of another version: that is said, and
    nothing of it is written."""
    script.breaks, script.meanwhile = [(3, way)], partial(script.store, other(after))
    target = io.BytesIO()
    with pytest.raises(dfs.FailedPrecondition) as caught:
        await download(target)
    assert caught.value.text == "f was changed while it was read: read it again"
    assert target.getvalue() == DATA[: 3 * PIECE]
    assert [offset for _, offset, _ in script.asked] == [0, 3 * PIECE]


async def test_a_new_version_with_the_same_content_is_no_other_file(
    script: Script, download: Download
) -> None:
    """Its bytes are the same; the record is that of the version that was found first."""
    script.breaks, script.meanwhile = [(3, "lost")], partial(script.store, DATA)
    target = io.BytesIO()
    assert (await download(target)).revision == 1
    assert target.getvalue() == DATA
    assert script.tree.revision == 2


async def test_a_file_that_was_deleted_meanwhile_is_not_there(
    script: Script, download: Download
) -> None:
    script.breaks, script.meanwhile = [(3, "lost")], script.tree.files.clear
    with pytest.raises(dfs.NotFound, match="no such key: f"):
        await download(io.BytesIO())


async def test_what_comes_otherwise_than_it_is_stored_is_refused(
    script: Script, download: Download
) -> None:
    """By the SHA-256 of all that came, in however many attempts."""
    script.store(b"!" + DATA[1:], shown=DATA)
    script.breaks = [(3, "ended")]
    with pytest.raises(dfs.DataLoss, match="f came otherwise than it is stored: read it again"):
        await download(io.BytesIO())


async def test_a_download_that_gets_no_further_is_given_up(
    script: Script, download: Download, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After TRANSFER_STALL_MS without a byte, however much had come before."""
    monkeypatch.setattr("dfs.client.transfers.STALL_S", 0.5)
    script.breaks = [(3, "refused"), *[(0, "refused")] * 999]
    target = io.BytesIO()
    with pytest.raises(dfs.Unavailable, match="this node is stopping"):
        await download(target)
    assert target.getvalue() == DATA[: 3 * PIECE]
    assert {offset for _, offset, _ in script.asked[1:]} == {3 * PIECE}
    assert {node for node, _, _ in script.asked} == {0, 1}


def test_a_get_that_cannot_be_finished_leaves_the_file_as_it_was(
    script: Script, endpoints: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of the command line: the file appears whole, or not at all."""
    (tmp_path / "copy").write_bytes(b"as it was")
    monkeypatch.setattr(
        "dfs.cli.transfers.Line.show", lambda _line, step: script.progress(step)
    )
    script.breaks = [(3, "lost")]
    script.meanwhile = partial(script.store, other(SIZE))
    get = ["get", "f", str(tmp_path / "copy"), "-endpoint", ",".join(endpoints)]
    assert main(get) == 4
    assert "f was changed while it was read: read it again" in capsys.readouterr().err
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"as it was"]
    script.breaks, script.meanwhile = [(4, "lost")], int
    script.sent = script.received = 0
    assert main(get) == 0
    assert (tmp_path / "copy").read_bytes() == script.tree.files["f"][0]
    assert script.asked[-1][1] == 4 * PIECE


@pytest.mark.parametrize("way", BREAKS)
async def test_a_part_that_breaks_behind_its_last_byte_is_no_more_than_that(
    script: Script, download: Download, way: str
) -> None:
    script.breaks = [(SIZE, way)]
    target = io.BytesIO()
    await download(target, offset=PIECE, length=2 * PIECE)
    assert target.getvalue() == DATA[PIECE : 3 * PIECE]
