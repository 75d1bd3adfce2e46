"""The public port with the engine behind it: calls as a stock gRPC client makes them."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from ports import free_port

from dfs._engine import plain_head

from .nodes import STAMP_BYTES, Node, cluster, encoded

PUT, GET = 1, 2
ROUTES = {
    "/dfs.FileService/Put": (PUT, False, False),
    "/dfs.FileService/Get": (GET, True, False),
}
LOCAL = b"\x18\x01"


def serving(node: Node) -> None:
    """Before the start: Put takes its body as entry, Get reads the key in field 1."""
    node.grpc = f"127.0.0.1:{free_port()}"
    node.routes = ROUTES
    node.method = {
        PUT: lambda body: (3, "no =", b"") if b"=" not in body else None,
        GET: lambda body: node.disk.data.get(body[2 : 2 + body[1]].decode(), "-").encode(),
    }


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[list[Node]]:
    """Three voters with public ports."""
    original = Node.open

    def opened(node: Node) -> None:
        if not node.routes:
            serving(node)
        original(node)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Node, "open", opened)
        with cluster(tmp_path, 3, no_leader_ms_max=1_500) as nodes:
            yield nodes


def call(node: Node, method: str, body: bytes, timeout_s: float = 8) -> Any:
    """One unary call with plain bytes."""
    with grpc.insecure_channel(node.grpc) as channel:
        return channel.unary_unary(f"/dfs.FileService/{method}")(body, timeout=timeout_s)


def test_calls_work_on_every_node(nodes: list[Node]) -> None:
    for i, node in enumerate(nodes):
        assert int(call(node, "Put", f"a={i}".encode())) > 0
        for reader in nodes:
            assert call(reader, "Get", encoded("a")) == str(i).encode()


def test_pythons_refusal_reaches_the_caller(nodes: list[Node]) -> None:
    with pytest.raises(grpc.RpcError) as error:
        call(nodes[0], "Put", b"nothing")
    assert error.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert error.value.details() == "no ="


def test_local_reads_need_no_leader(nodes: list[Node]) -> None:
    call(nodes[0], "Put", b"a=1")
    nodes[2].barrier()
    for node in nodes[:2]:
        node.close()
    assert call(nodes[2], "Get", encoded("a") + LOCAL) == b"1"
    with pytest.raises(grpc.RpcError) as error:
        call(nodes[2], "Get", encoded("a"), timeout_s=7)
    assert error.value.code() == grpc.StatusCode.UNAVAILABLE
    assert "node1" in error.value.details()


def test_drain_ends_calls_and_hands_over(nodes: list[Node]) -> None:
    assert nodes[0].status()["connections"] == 0
    with grpc.insecure_channel(nodes[0].grpc) as channel:
        put = channel.unary_unary("/dfs.FileService/Put")
        put(b"a=1", timeout=5)
        assert nodes[0].status()["connections"] == 1
        nodes[0].engine.drain(3_000)
        with pytest.raises(grpc.RpcError):
            put(b"a=2", timeout=1)
    assert not nodes[0].leads()
    assert int(call(nodes[1], "Put", b"a=3")) > 0


def test_plain_puts_go_into_the_log_without_python(nodes: list[Node]) -> None:
    """But only while they are admitted; larger and unusual ones never."""
    payloads: list[bytes] = []

    def apply(entries: list[tuple[int, bytes, bool]]) -> list[bytes | None]:
        payloads.extend(payload for _, payload, wanted in entries if wanted)
        return [b"%d" % index if wanted else None for index, _, wanted in entries]

    for node in nodes:
        node.disk.apply = apply  # type: ignore[method-assign]
    follower = next(node for node in nodes if not node.leads())
    writer, plain = b"\x08\x01\x1a\x01w", b"\x0a\x01k\x12\x02vv"
    follower.engine.admit(PUT, writer, 2)
    assert int(call(follower, "Put", plain)) > 0
    assert payloads[-1][:-STAMP_BYTES] == (plain_head(plain, writer, 2) or b"") + plain
    assert PUT not in follower.asked
    for other in (b"\x0a\x01k\x12\x03vvv", b"\x0a\x02..\x12\x02vv", plain + b"\x20\x00"):
        with pytest.raises(grpc.RpcError, match="no ="):
            call(follower, "Put", other)
    follower.engine.admit(PUT, b"", 2)
    with pytest.raises(grpc.RpcError, match="no ="):
        call(follower, "Put", plain)
    assert follower.asked[PUT] == 4
