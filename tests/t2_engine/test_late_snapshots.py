"""Snapshots whose sender has ceased to lead before they were installed."""

import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import pytest

from dfs import _engine

from .nodes import CLUSTER, WAIT_S, Node, Refused, cluster, same, wait_until

WORKING, DONE = 0, 1
Vote = tuple[int, int]
"""Term and node of a leader."""


class File(NamedTuple):
    """A snapshot: its bytes, and the note beside it."""

    index: int
    state: bytes
    note: bytes


@pytest.fixture
def voter(tmp_path: Path) -> Iterator[Node]:
    """It leads alone."""
    with cluster(tmp_path, 1) as nodes:
        yield nodes[0]


@pytest.fixture
def other(tmp_path: Path) -> Iterator[Node]:
    """It belongs to the cluster and is no member yet, so that only the test talks to it."""
    node = Node(tmp_path, "node2").start()
    yield node
    node.close()


def snapshot(voter: Node) -> File:
    """After one more put."""
    index = voter.put(f"k{voter.disk.applied}", "v")
    voter.engine.snapshot(5_000)
    path = Path(voter.engine.recovery()["snapshot"])
    return File(index, path.read_bytes(), Path(f"{path}.meta").read_bytes())


def vote_of(voter: Node) -> Vote:
    """Its vote, as leader."""
    return voter.status()["term"], voter.id


def frame(peer: socket.socket, *parts: bytes) -> None:
    """Sends one frame."""
    message = b"".join(parts)
    peer.sendall(struct.pack(">I", len(message)) + message)


def answer(peer: socket.socket) -> bytes:
    """The next frame."""
    head = peer.recv(4, socket.MSG_WAITALL)
    return peer.recv(int.from_bytes(head, "big"), socket.MSG_WAITALL)


@contextmanager
def sent(to: Node, vote: Vote, file: File) -> Iterator[socket.socket]:
    """All of a snapshot goes there, from the leader of this vote. Refused, with the reason."""
    host, port = to.addr.split(":")
    with socket.create_connection((host, int(port)), WAIT_S) as peer:
        hello = struct.pack(">8sHcI16sQQ", b"dfs-peer", 1, b"N", 16, CLUSTER, vote[1], to.id)
        frame(peer, hello, struct.pack(">I", 0))
        assert answer(peer) == b"\0"
        frame(peer, struct.pack(">QQB", *vote, 1), file.note)
        begun = answer(peer)
        if begun[0] != WORKING:
            raise Refused(begun[1:].decode())
        frame(peer, file.state)
        frame(peer)
        yield peer


def send(to: Node, vote: Vote, file: File) -> Vote:
    """Sends a snapshot and waits until the receiver is done; its vote."""
    with sent(to, vote, file) as peer:
        while (last := answer(peer))[0] == WORKING:
            pass
    if last[0] != DONE:
        raise Refused(last[1:].decode())
    term, node, committed = struct.unpack(">QQB", last[1:])
    assert committed
    return term, node


def test_one_that_was_never_installed_is_when_the_next_leader_sends_an_older_one(
    voter: Node, other: Node
) -> None:
    """The next leader may have an older file than the last one had, and no reason to make another:
    it would send it for ever to a node that takes only newer ones."""
    first, second, third = snapshot(voter), snapshot(voter), snapshot(voter)
    passed = vote_of(voter)
    vote = (passed[0] + 1, passed[1] + 1)
    assert send(other, vote, first) == vote
    assert other.disk.applied == first.index
    assert send(other, passed, third) == vote, "it is told who leads"
    assert other.disk.applied == first.index, "whose time has passed brings nothing"
    assert send(other, vote, second) == vote
    assert other.disk.applied == third.index
    assert other.disk.data == voter.disk.data
    voter.admit(other)
    voter.put("after", "1")
    same([voter, other])


def test_one_of_a_later_leader_is_not_installed_for_an_earlier_one(
    voter: Node, tmp_path: Path
) -> None:
    older, newer = snapshot(voter), snapshot(voter)
    place = tmp_path / "node2" / "snapshots"
    place.mkdir(parents=True)
    name = f"snapshot-{'-'.join(map(str, (*vote_of(voter), newer.index)))}"
    (place / name).write_bytes(newer.state)
    (place / f"{name}.meta").write_bytes(newer.note)
    other = Node(tmp_path, "node2").start()
    try:
        wait_until(lambda: other.disk.applied == newer.index, what="the file of before the start")
        with pytest.raises(Refused, match="the snapshot of a later leader is here"):
            send(other, (vote_of(voter)[0], 0), older)
    finally:
        other.close()


def test_one_is_installed_to_its_end_before_the_next_is_taken(voter: Node, other: Node) -> None:
    """Also when its sender goes: its file is in use until then."""
    older, newer = snapshot(voter), snapshot(voter)
    vote = vote_of(voter)
    reading, go_on = threading.Event(), threading.Event()
    do = other.do

    def slowly(number: int, kind: int, text: str, data: bytes) -> None:
        assert kind == _engine.WORK_INSTALL
        reading.set()
        assert go_on.wait(WAIT_S)
        do(number, kind, text, data)

    other.do = slowly  # type: ignore[method-assign]
    with sent(other, vote, older):
        assert reading.wait(WAIT_S)
    with pytest.raises(Refused, match="another snapshot is on its way here"):
        send(other, vote, newer)
    assert other.disk.applied == 0
    go_on.set()
    wait_until(lambda: other.disk.applied == older.index, what="the first one")
    other.do = do  # type: ignore[method-assign]

    def taken() -> bool:
        """Its turn may end a moment later."""
        with suppress(Refused):
            return send(other, vote, newer) == vote
        return False

    wait_until(taken, what="the next one")
    assert other.disk.applied == newer.index
