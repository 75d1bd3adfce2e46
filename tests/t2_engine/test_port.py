"""The public port with the engine behind it: calls as a stock gRPC client makes them."""

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from dfs._engine import plain_head
from dfs.nemesis.ports import free_port

from .nodes import STAMP_BYTES, Node, cluster, encoded, wait_until

PUT, GET = 1, 2
ROUTES = {
    "/dfs.FileService/Put": (PUT, False, False),
    "/dfs.FileService/Get": (GET, True, False),
}
LOCAL = b"\x18\x01"
TLS = Path(__file__).parent.parent / "tls"


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


def test_callers_of_a_node_that_drains_go_elsewhere_without_an_error(nodes: list[Node]) -> None:
    """The connection is given up by GOAWAY: what is under way ends, what follows is sent to another
    node, and no call fails. A node that is closed without that breaks them off."""
    call(nodes[0], "Put", b"a=1")
    nodes[1].barrier()
    drained, failed = threading.Event(), []
    addresses = ",".join(node.grpc for node in nodes[:2])
    options = [
        ("grpc.use_local_subchannel_pool", 1),
        # gRPC would send the list of addresses, which is none to HTTP/2.
        ("grpc.default_authority", "localhost"),
    ]

    def ask() -> None:
        after = 0
        with grpc.insecure_channel(f"ipv4:{addresses}", options) as channel:
            get = channel.unary_unary("/dfs.FileService/Get")
            while after < 50 and not failed:
                after += drained.is_set()
                try:
                    assert get(encoded("a") + LOCAL, timeout=5) == b"1"
                except BaseException as error:  # boundary: shown by the assertion below
                    failed.append(error)

    callers = [threading.Thread(target=ask) for _ in range(4)]
    for caller in callers:
        caller.start()
    wait_until(lambda: failed or nodes[0].asked.get(GET, 0) > 100, what="calls at the first node")
    assert not failed, failed
    nodes[0].engine.drain(3_000)
    drained.set()
    for caller in callers:
        caller.join()
    assert not failed, failed
    assert nodes[0].status()["connections"] == 0
    assert nodes[1].asked[GET] >= 4 * 49


def test_tls_is_asked_for_where_it_is_configured(tmp_path: Path) -> None:
    node = Node(tmp_path, "node1")
    serving(node)
    shown = [(TLS / name).read_bytes() for name in ("node.pem", "node.key", "ca.pem")]
    node.tls = (shown[0], shown[1], shown[2])
    node.start()
    node.engine.initialize(5_000)
    mine = [(TLS / name).read_bytes() for name in ("ca.pem", "client.key", "client.pem")]
    try:
        known = grpc.ssl_channel_credentials(*mine)
        with grpc.secure_channel(node.grpc, known) as channel:
            assert int(channel.unary_unary("/dfs.FileService/Put")(b"a=1", timeout=5)) > 0
        unknown = grpc.ssl_channel_credentials(mine[0])
        with grpc.secure_channel(node.grpc, unknown) as channel, pytest.raises(grpc.RpcError):
            channel.unary_unary("/dfs.FileService/Put")(b"a=2", timeout=1)
        with pytest.raises(grpc.RpcError) as error:
            call(node, "Put", b"a=3")
        assert error.value.details() == "needs_tls"
        assert node.disk.data == {"a": "1"}
    finally:
        node.close()


def test_tls_that_does_not_fit_is_a_value_error(tmp_path: Path) -> None:
    node = Node(tmp_path, "node1")
    node.tls = ((TLS / "node.pem").read_bytes(), b"", b"")
    with pytest.raises(ValueError, match="the TLS key is not a private key in PEM"):
        node.open()


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
