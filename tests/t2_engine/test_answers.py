"""Answers that the engine keeps: given without Python, never older than what is acknowledged."""

import itertools
import random
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest

from .nodes import Node, cluster, encoded
from .test_port import GET, serving

Get = Callable[[str], bytes]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """Makes a cluster of nodes with public ports that keep the answers of Get."""
    original = Node.open

    def opened(node: Node) -> None:
        if not node.routes:
            serving(node)
            node.keeps = {GET}
        original(node)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Node, "open", opened)
        yield lambda count, **options: cluster(tmp_path, count, **options)


def getter(channel: grpc.Channel) -> Get:
    """Linearizable reads by one channel."""
    call = channel.unary_unary("/dfs.FileService/Get")
    return lambda key: call(encoded(key), timeout=8)  # type: ignore[no-any-return]


def test_the_same_read_is_answered_without_python_until_its_key_changes(start: Any) -> None:
    with start(1) as (node,), grpc.insecure_channel(node.grpc) as channel:
        get = getter(channel)
        node.put("a", "1")
        assert [get("a") for _ in range(5)] == [b"1"] * 5
        assert node.asked[GET] == 1
        node.put("b", "2")
        assert (get("a"), get("b"), node.asked[GET]) == (b"1", b"2", 2)
        node.put("a", "3")
        assert (get("a"), get("a"), node.asked[GET]) == (b"3", b"3", 3)
        node.renews = True
        node.put("a", "4")
        assert (get("a"), node.asked[GET]) == (b"4", 3), "the change brought the answer along"
        node.engine.forget_all(False)
        assert (get("a"), node.asked[GET]) == (b"4", 4)
        node.engine.forget_all(True)
        assert ([get("a"), get("a")], node.asked[GET]) == ([b"4", b"4"], 6), "kept no more"


def test_how_fresh_a_read_wants_to_be_makes_it_no_other_read(start: Any) -> None:
    local, from_2 = b"\x18\x01", b"\x20\x02"
    with start(1) as (node,), grpc.insecure_channel(node.grpc) as channel:
        call = channel.unary_unary("/dfs.FileService/Get")
        node.put("a", "1")
        for level in (b"", local, from_2, local + from_2):
            assert call(encoded("a") + level, timeout=8) == b"1"
        assert node.asked[GET] == 1
        with pytest.raises(grpc.RpcError) as caught:
            call(encoded("a") + local + b"\x20\xff\x7f", timeout=0.3)
        assert caught.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
        node.put("a", "2")
        assert call(encoded("a") + local, timeout=8) == b"2"


def test_a_read_that_is_not_the_same_bytes_goes_to_python(start: Any) -> None:
    with start(1) as (node,), grpc.insecure_channel(node.grpc) as channel:
        call = channel.unary_unary("/dfs.FileService/Get")
        node.put("a", "1")
        for number in range(3):
            assert call(encoded("a") + b"\x10" + bytes([number]), timeout=8) == b"1"
        assert node.asked[GET] == 3


@pytest.mark.parametrize("bytes_max", [0, 1 << 20])
def test_the_room_is_bounded(start: Any, bytes_max: int) -> None:
    with (
        start(1, answers_bytes_max=bytes_max) as (node,),
        grpc.insecure_channel(node.grpc) as channel,
    ):
        get = getter(channel)
        node.put("a", "1")
        assert [get("a") for _ in range(3)] == [b"1"] * 3
        assert node.asked[GET] == (1 if bytes_max else 3)


@pytest.mark.parametrize("renews", [False, True])
def test_no_read_is_older_than_what_was_acknowledged_before_it(start: Any, renews: bool) -> None:
    """Writers count keys up on one node, readers of all nodes look at the acknowledged count first:
    what they read then is that count or a higher one."""
    keys = [f"k{n}" for n in range(6)]
    acknowledged = dict.fromkeys(keys, 0)
    done = threading.Event()
    reads = itertools.count()

    def write(node: Node, mine: list[str]) -> None:
        for number in range(1, 250):
            for key in mine:
                node.put(key, str(number))
                acknowledged[key] = number
        done.set()

    def read(node: Node, seed: int) -> None:
        rng = random.Random(seed)
        with grpc.insecure_channel(node.grpc) as channel:
            get = getter(channel)
            while not done.is_set():
                key = rng.choice(keys)
                before = acknowledged[key]
                found = int(get(key))
                assert found >= before, f"{key} at {node.name}"
                next(reads)

    with start(3) as nodes:
        for node in nodes:
            node.renews = renews
        for key in keys:
            nodes[0].put(key, "0")
        with ThreadPoolExecutor() as pool:
            tasks = [pool.submit(write, nodes[0], keys[n::2]) for n in range(2)]
            tasks += [pool.submit(read, nodes[n % 3], n) for n in range(6)]
            for task in tasks:
                task.result()
        assert sum(node.asked.get(GET, 0) for node in nodes) < next(reads) * 0.9, "some were kept"
