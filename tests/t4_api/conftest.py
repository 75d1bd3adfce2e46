"""A node for each test, on every host that answers calls.

memory   grpcio on the unix socket, engine and store in memory
grpcio   grpcio on the unix socket, the real engine and store
wire     the real engine's public port, which serves FileService itself and forwards the others
tls      the same with TLS

Tests of the client run against fake nodes that share one tree.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import grpc
import pytest
from google.protobuf.any_pb2 import Any
from google.rpc.error_details_pb2 import ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status

import dfs
from dfs.engine_memory import EngineError, MemoryEngine
from dfs.errors import Misconfigured
from dfs.kv import MemoryKV
from dfs.limits import MESSAGE_BYTES_MAX
from dfs.nemesis.ports import free_port
from dfs.proto.dfs_pb2_grpc import ClusterServiceStub, FileServiceStub
from dfs.serve import Backend, Running, real_backend, running_node

from .cli_rig import cli, node  # noqa: F401  (fixtures)
from .fake_node import Node, Tree

HOSTS = ("memory", "grpcio", "wire", "tls")
WIRE = ("wire", "tls")
TLS = Path(__file__).parent.parent / "tls"


@dataclass(frozen=True)
class Settings:
    id: str
    data: Path
    raft_listen: str
    grpc_listen: str
    peers: tuple[str, ...] = ()
    insecure: bool = False
    transfer_rate: int = 0

    @property
    def raft_advertise(self) -> str:
        return self.raft_listen

    @property
    def grpc_advertise(self) -> str:
        return self.grpc_listen


@dataclass
class Api:
    """What a test calls."""

    files: FileServiceStub
    cluster: ClusterServiceStub
    channel: grpc.aio.Channel
    running: Running
    host: str
    address: str
    """Where the host listens, as gRPC names it."""

    @asynccontextmanager
    async def dial(
        self, options: list[tuple[str, int]]
    ) -> AsyncIterator[tuple[FileServiceStub, grpc.aio.Channel]]:
        """Another connection, with options of its own."""
        async with dialled(self.host, self.address, options) as channel:
            yield FileServiceStub(channel), channel

    async def raw(self, method: str, body: bytes) -> bytes:
        """A unary call with a body of any bytes."""
        return await self.channel.unary_unary(method)(body, timeout=10)

    def applied(self) -> int:
        return self.running.store.applied


@dataclass
class Refusal:
    """A refusal with its details."""

    code: grpc.StatusCode
    text: str
    reason: str
    domain: str
    metadata: dict[str, str]
    retry_ms: int
    """0 = no hint."""


async def refused(call) -> Refusal:
    """Awaits a call that must be refused."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return refusal(caught.value)


def refusal(error: grpc.aio.AioRpcError) -> Refusal:
    details = dict(error.trailing_metadata() or ()).get("grpc-status-details-bin", b"")
    status = Status.FromString(details)
    info, retry = ErrorInfo(), RetryInfo()
    for part in status.details:
        assert isinstance(part, Any)
        assert part.Unpack(info) or part.Unpack(retry)
    if details:
        assert (status.code, status.message) == (error.code().value[0], error.details())
    return Refusal(
        error.code(), error.details(), info.reason, info.domain, dict(info.metadata),
        retry.retry_delay.ToMilliseconds(),
    )


def backend_of(host: str) -> Backend:
    if host == "memory":
        return Backend(MemoryEngine, EngineError, lambda _path: MemoryKV())
    try:
        backend = real_backend()
    except Misconfigured as error:
        pytest.skip(str(error))
    if host != "tls":
        return backend
    shown = (TLS / "node.pem").read_bytes(), (TLS / "node.key").read_bytes(), b""
    return backend._replace(engine=partial(backend.engine, tls=shown))


def dialled(host: str, address: str, options: list[tuple[str, int]]) -> grpc.aio.Channel:
    """A channel to the host that is to be tested."""
    if host != "tls":
        return grpc.aio.insecure_channel(address, options)
    trusted = grpc.ssl_channel_credentials((TLS / "ca.pem").read_bytes())
    return grpc.aio.secure_channel(address, trusted, options)


@asynccontextmanager
async def serve(host: str, data: Path) -> AsyncIterator[Api]:
    grpc_address = f"127.0.0.1:{free_port()}"
    settings = Settings("node1", data, f"127.0.0.1:{free_port()}", grpc_address)
    async with running_node(settings, backend_of(host)) as running:
        await running.node.become_member()
        options = [
            ("grpc.max_receive_message_length", 2 * MESSAGE_BYTES_MAX),
            ("grpc.max_send_message_length", -1),
            ("grpc.enable_retries", 0),
        ]
        address = grpc_address if host in WIRE else f"unix:{running.upstream}"
        async with dialled(host, address, options) as channel:
            stubs = FileServiceStub(channel), ClusterServiceStub(channel)
            yield Api(*stubs, channel, running, host, address)


@pytest.fixture(params=HOSTS)
async def api(request, tmp_path) -> AsyncIterator[Api]:
    async with serve(request.param, tmp_path / "data") as found:
        yield found


@pytest.fixture
def tree() -> Tree:
    return Tree()


@pytest.fixture
def nodes(tree: Tree) -> Iterator[list[Node]]:
    made = [Node(tree), Node(tree)]
    yield made
    for each in made:
        each.stop()


@pytest.fixture
def client(nodes: list[Node]) -> Iterator[dfs.Client]:
    with dfs.connect(*(n.endpoint for n in nodes), timeout=5.0, learn=False) as made:
        yield made
