"""Nodes in one process, each with engine, store, server and socket.

`cluster` has engines of one network in memory. `any_cluster` is that, and once more with real
engines on loopback and stores on disk.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from dfs.engine_memory import EngineError, MemoryEngine, MemoryNetwork
from dfs.errors import Misconfigured
from dfs.kv import MemoryKV
from dfs.proto import dfs_pb2 as pb
from dfs.serve import Backend, Running, real_backend, running_node

REMOVED = "is no member of its cluster any more, it was removed: stop it"
WAIT_S = 30.0
POLL_S = 0.01


async def wait_until(condition: Callable[[], object], timeout_s: float = WAIT_S) -> None:
    """Returns when the condition holds; for what several nodes come to by themselves."""
    async with asyncio.timeout(timeout_s):
        while not condition():
            tick = asyncio.get_running_loop().create_future()
            asyncio.get_running_loop().call_later(POLL_S, tick.cancel)
            await asyncio.wait([tick])


def state(member: Any) -> tuple[int, bytes, bytes]:
    """What members agree in once the same entries are applied. A new one becomes a voter some time
    after it has joined, so they come to it by themselves."""
    return member.store.applied, member.store.state_hash, member.store.chain


@dataclass(frozen=True)
class Settings:
    id: str
    data: Path
    peers: tuple[str, ...]
    raft_listen: str
    insecure: bool = False
    grpc_listen: str = ""
    transfer_rate: int = 0

    @property
    def raft_advertise(self) -> str:
        return self.raft_listen

    @property
    def grpc_advertise(self) -> str:
        return f"{self.id}:grpc"


@dataclass
class Member:
    """A running node, and how to stop it."""

    name: str
    raft: str
    running: Running
    stop: Callable[[], Awaitable[None]]
    joining: asyncio.Task[None]

    @property
    def node(self):
        return self.running.node

    @property
    def engine(self):
        return self.running.engine

    @property
    def store(self):
        return self.running.store

    async def put(self, key: str, data: bytes = b"", **fields) -> int:
        """The revision of a put."""
        request = pb.PutRequest(key=key, data=data, **fields)
        result = await self.node.write(1, request.SerializeToString(), 10_000)
        assert isinstance(result, bytes), result
        return pb.PutResponse.FromString(result).revision

    async def get(self, key: str, local: bool = False, **fields) -> bytes:
        body = pb.GetRequest(key=key, **fields).SerializeToString()
        result = await self.node.read(2, body, local, 10_000)
        assert isinstance(result, bytes), result
        return pb.GetResponse.FromString(result).data

    async def call(self, method: int, body: bytes, timeout_ms: int = 10_000):
        """What the wire does with a unary call; only with an engine in memory."""
        return await asyncio.wrap_future(self.engine.call(method, body, timeout_ms))

    async def differ(self) -> None:
        """A bit of its state hash flips. The hot thread does it, between two batches: what another
        thread changes while a batch is applied is overwritten with that."""
        loop, done = asyncio.get_running_loop(), asyncio.Event()

        def flip() -> None:
            self.store._meta.state_hash ^= 1
            loop.call_soon_threadsafe(done.set)

        self.node._hot._jobs.append(flip)
        self.engine.wake()
        await done.wait()

    def role(self) -> str:
        return self.engine.status()["role"]

    def votes(self) -> bool:
        me = self.running.identity.id
        return any(m["id"] == me and m["voter"] for m in self.engine.status()["members"])


class Cluster:
    """Starts and stops nodes that can reach each other."""

    def __init__(self, root: Path, backend: Backend | None = None) -> None:
        self.root = root
        self.network = MemoryNetwork()
        self.members: dict[str, Member] = {}
        self.deaths: list[str] = []
        self.real = backend is not None
        self._backend = backend or Backend(self._engine, EngineError, lambda _path: MemoryKV())
        self._ports: dict[str, int] = {}

    def at(self, name: str) -> str:
        """The peer address of a node, whether it runs or not."""
        if not self.real:
            return f"{name}:1"
        if name not in self._ports:
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", 0))
                self._ports[name] = probe.getsockname()[1]
        return f"127.0.0.1:{self._ports[name]}"

    async def start(
        self, name: str, *peers: str, data: str = "", address: str = "", join: bool = True
    ) -> Member:
        """Starts a node with the names of its peers; with `join` waits until it is a member."""
        raft = self.at(address or name)
        directory = self.root / (data or name)
        settings = Settings(name, directory, tuple(map(self.at, peers)), raft)
        stack = AsyncExitStack()
        running = await stack.enter_async_context(
            running_node(settings, self._backend, self.deaths.append)
        )
        joining = asyncio.ensure_future(running.node.become_member())

        async def stop() -> None:
            joining.cancel()
            await asyncio.gather(joining, return_exceptions=True)
            await stack.aclose()
            self.members.pop(address or name, None)

        member = Member(name, raft, running, stop, joining)
        self.members[address or name] = member
        if join:
            try:
                await joining
            except BaseException:
                await stop()
                raise
        return member

    async def three(self) -> tuple[Member, Member, Member]:
        """node1, which leads, and node2 and node3, which joined it; all vote."""
        one = await self.start("node1")
        two = await self.start("node2", "node1")
        three = await self.start("node3", "node2")
        members = one, two, three

        def complete() -> bool:
            views = [member.engine.status()["members"] for member in members]
            return all(len(v) == 3 and all(m["voter"] for m in v) for v in views)

        await wait_until(complete)
        assert len({member.node.cluster for member in members}) == 1
        return members

    async def close(self) -> None:
        for member in list(self.members.values()):
            await member.stop()

    def _engine(self, **arguments) -> MemoryEngine:
        return MemoryEngine(**arguments, network=self.network)


async def running_cluster(root: Path, backend: Backend | None) -> AsyncIterator[Cluster]:
    found = Cluster(root, backend)
    yield found
    await found.close()
    assert found.deaths == []


@pytest.fixture
async def cluster(tmp_path) -> AsyncIterator[Cluster]:
    async for found in running_cluster(tmp_path, None):
        yield found


@pytest.fixture
def built() -> Backend:
    """The real engine; skips visibly where it is not built."""
    try:
        return real_backend()
    except Misconfigured as error:
        pytest.skip(str(error))


@pytest.fixture
async def real_cluster(built, tmp_path) -> AsyncIterator[Cluster]:
    async for found in running_cluster(tmp_path, built):
        yield found


@pytest.fixture(params=["cluster", "real_cluster"], ids=["memory", "real"])
def any_cluster(request) -> Cluster:
    return request.getfixturevalue(request.param)
