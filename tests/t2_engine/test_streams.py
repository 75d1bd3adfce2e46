"""Answers by a stream of messages, through the boundary: `send`, `end` and the news of `step`."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from dfs._engine import Engine
from dfs.nemesis.ports import free_port

from .nodes import Node, cluster, encoded, wait_until

WATCH, LIST = 3, 4
ROUTES = {"/dfs.S/Watch": (WATCH, False, True), "/dfs.S/List": (LIST, True, True)}
LOCAL = b"\x18\x01"
STREAM_BYTES = 64 << 10


class Streaming(Node):
    """A node that leaves its streams to the test."""

    def __init__(self, *args: Any, **options: int) -> None:
        super().__init__(*args, **options)
        self.grpc = f"127.0.0.1:{free_port()}"
        self.routes = ROUTES
        self.calls: dict[int, tuple[int, bytes]] = {}
        self.flow: list[tuple[int, bool]] = []
        self.response: Any = None
        """What calls are answered with at once."""

    def streams(self, calls: list[Any], flow: list[Any]) -> list[Any]:
        self.calls |= {call: (method, body) for call, method, body in calls}
        assert all(call in self.calls for call, _ in flow), "news of an earlier turn's calls"
        self.flow += flow
        return [(call, self.response) for call, *_ in calls] if self.response else []

    def call(self, count: int = 1) -> int:
        """The id of the newest call, when there are so many."""
        wait_until(lambda: len(self.calls) >= count, what="the call")
        return max(self.calls)


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Streaming]:
    """A cluster of one with a public port."""
    with cluster(tmp_path, 1, Streaming, stream_bytes=STREAM_BYTES) as nodes:
        yield nodes[0]  # type: ignore[misc]


def watch(channel: grpc.Channel, method: str = "Watch", body: bytes = b"", **how: Any) -> Any:
    """Begins a call."""
    return channel.unary_stream(f"/dfs.S/{method}")(body, **how)


@pytest.fixture
def channel(node: Streaming) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(node.grpc) as channel:
        yield channel


def ends(call: Any) -> tuple[grpc.StatusCode, str, dict[str, Any]]:
    """How a call that fails ends."""
    with pytest.raises(grpc.RpcError):
        next(call)
    return call.code(), call.details(), dict(call.trailing_metadata())


def test_messages_in_order_and_a_good_end(node: Streaming, channel: grpc.Channel) -> None:
    call = watch(channel, body=b"body")
    number = node.call()
    assert node.calls[number] == (WATCH, b"body")
    for n in range(1_000):
        assert node.engine.send([number], b"%d" % n) == []
    node.engine.end(number, None)
    assert list(call) == [b"%d" % n for n in range(1_000)]
    assert call.code() == grpc.StatusCode.OK
    assert node.engine.send([number], b"late") == [(number, -1)]
    node.engine.end(number, None)
    assert node.flow == []


@pytest.mark.parametrize("before", [0, 2])
def test_a_failure_alone_and_behind_messages(
    node: Streaming, channel: grpc.Channel, before: int
) -> None:
    call = watch(channel)
    number = node.call()
    for _ in range(before):
        node.engine.send([number], b"message")
    node.engine.end(number, (5, "nothing “here”", b"details"))
    assert [next(call) for _ in range(before)] == [b"message"] * before
    code, text, trailers = ends(call)
    assert (code, text) == (grpc.StatusCode.NOT_FOUND, "nothing “here”")
    assert trailers["grpc-status-details-bin"] == b"details"


def test_respond_is_one_message_or_a_failure(node: Streaming, channel: grpc.Channel) -> None:
    node.response = b"all"
    assert list(watch(channel)) == [b"all"]
    node.response = (9, "not now", b"")
    assert ends(watch(channel))[:2] == (grpc.StatusCode.FAILED_PRECONDITION, "not now")


def test_a_list_comes_behind_its_barrier(node: Streaming, channel: grpc.Channel) -> None:
    """And a Watch without one; what never becomes true ends at the deadline of unary calls."""
    index = node.put("a", "1")
    waits = watch(channel, "List", encoded("a") + b"\x20" + bytes([index + 1]))
    other = watch(channel)
    assert node.calls[node.call()][0] == WATCH
    node.put("b", "1")
    assert node.calls[node.call(2)][0] == LIST
    node.engine.end(node.call(), None)
    assert list(waits) == []
    other.cancel()
    code, *_ = ends(watch(channel, "List", LOCAL + b"\x20\xff\xff\x7f", timeout=0.3))
    assert code == grpc.StatusCode.DEADLINE_EXCEEDED
    assert len(node.calls) == 2


def test_who_sends_waits_for_a_caller_that_does_not_read(
    node: Streaming, channel: grpc.Channel
) -> None:
    call = watch(channel)
    number = node.call()
    other = watch(channel)
    message, sent, moved = bytes(10_000), 0, True
    while moved:  # until the windows of the client are full
        node.flow.clear()
        while not (news := node.engine.send([number], message)):
            sent += 1
        sent += 1
        (told, waiting), = news
        assert told == number
        assert STREAM_BYTES < waiting <= STREAM_BYTES + len(message) + 5
        node.engine.send([node.call(2)], b"not held up")
        assert next(other) == b"not held up"
        moved = bool(node.flow)
    while not node.flow:
        assert next(call) == message
        sent -= 1
    assert node.flow == [(number, True)]
    assert node.engine.send([number], b"last") == []
    node.engine.end(number, None)
    assert list(call)[-1] == b"last"
    assert sent > 0


@pytest.mark.parametrize("messages", [0, 1])
def test_a_caller_that_goes_is_told_once(
    node: Streaming, channel: grpc.Channel, messages: int
) -> None:
    call = watch(channel)
    number = node.call()
    for _ in range(messages):
        node.engine.send([number], b"x")
        next(call)
    call.cancel()
    wait_until(lambda: node.flow, what="the news")
    assert node.flow == [(number, False)]
    assert node.engine.send([number], b"x") == [(number, -1)]
    node.engine.end(number, (5, "too late", b""))
    wait_until(lambda: node.status()["streams"] == 0)
    assert node.flow == [(number, False)]


def test_a_lost_connection_is_told_for_each_call(node: Streaming) -> None:
    with grpc.insecure_channel(node.grpc) as channel:
        calls = [watch(channel) for _ in range(20)]
        node.call(20)
        node.engine.send(list(node.calls), b"x")
        assert [next(call) for call in calls] == [b"x"] * 20
    wait_until(lambda: len(node.flow) == 20)
    assert sorted(node.flow) == [(number, False) for number in sorted(node.calls)]


def test_the_callers_deadline_ends_a_stream(node: Streaming, channel: grpc.Channel) -> None:
    call = watch(channel, timeout=0.3)
    number = node.call()
    node.engine.send([number], b"x")
    assert next(call) == b"x"
    assert ends(call)[0] == grpc.StatusCode.DEADLINE_EXCEEDED
    wait_until(lambda: node.flow == [(number, False)])


def test_one_message_for_a_thousand_callers(node: Streaming, channel: grpc.Channel) -> None:
    calls = [watch(channel) for _ in range(1_000)]
    node.call(1_000)
    assert node.status()["streams"] == 1_000
    numbers = [*node.calls, 10**9]
    for n in range(3):
        assert node.engine.send(numbers, b"%d" % n) == [(10**9, -1)]
    for number in node.calls:
        node.engine.end(number, None)
    assert [list(call) for call in calls] == [[b"0", b"1", b"2"]] * 1_000
    wait_until(lambda: node.status()["streams"] == 0)
    # Unary calls have places of their own.
    assert node.status()["calls"] == 0


def test_drain_waits_for_streams_and_close_ends_them(node: Streaming) -> None:
    with grpc.insecure_channel(node.grpc) as channel:
        call = watch(channel)
        number = node.call()
        node.engine.send([number], b"before")
        assert next(call) == b"before"
        draining = threading.Thread(target=node.engine.drain, args=(10_000,))
        draining.start()
        node.engine.send([number], b"meanwhile")
        assert next(call) == b"meanwhile"
        node.engine.end(number, None)
        assert list(call) == []
        draining.join()
    node.close()
    node.start()
    with grpc.insecure_channel(node.grpc) as channel:
        call = watch(channel)
        number = node.call(2)
        node.close()
        assert ends(call)[0] == grpc.StatusCode.UNAVAILABLE
    assert node.engine.send([number], b"x") == [(number, -1)]


def test_send_takes_numbers_and_bytes_only(tmp_path: Path) -> None:
    node = Streaming(tmp_path, "a")
    node.open()
    engine: Engine = node.engine
    for calls, message in (([-1], b""), (["1"], b""), ([1], "text"), (1, b"")):
        with pytest.raises((TypeError, OverflowError)):
            engine.send(calls, message)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        engine.end(1, "text")  # type: ignore[arg-type]
    assert engine.send((), b"") == []
    engine.close()
