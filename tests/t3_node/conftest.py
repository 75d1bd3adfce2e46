"""Nodes in one process: engines of one network in memory, each with store, server and socket."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from dfs.engine_memory import EngineError, MemoryEngine, MemoryNetwork
from dfs.kv import MemoryKV
from dfs.proto import dfs_pb2 as pb
from dfs.serve import Backend, Running, running_node

WAIT_S = 20.0
POLL_S = 0.01


async def wait_until(condition: Callable[[], object], timeout_s: float = WAIT_S) -> None:
    """Returns when the condition holds; for what several nodes come to by themselves."""
    async with asyncio.timeout(timeout_s):
        while not condition():
            tick = asyncio.get_running_loop().create_future()
            asyncio.get_running_loop().call_later(POLL_S, tick.cancel)
            await asyncio.wait([tick])


@dataclass(frozen=True)
class Settings:
    """A node whose peer address is its name."""

    id: str
    data: Path
    peers: tuple[str, ...]
    raft_listen: str
    insecure: bool = False
    grpc_listen: str = ""

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
    running: Running
    stop: Callable[[], Awaitable[None]]
    joining: asyncio.Task[None]

    @property
    def node(self):
        return self.running.node

    @property
    def engine(self) -> MemoryEngine:
        return self.running.engine

    @property
    def store(self):
        return self.running.store

    async def put(self, key: str, data: bytes = b"", **fields) -> int:
        """A put through the hot thread, as the wire makes it; the revision."""
        request = pb.PutRequest(key=key, data=data, **fields)
        result = await self.call(1, request.SerializeToString())
        return pb.PutResponse.FromString(result).revision

    async def get(self, key: str, **fields) -> bytes:
        result = await self.call(2, pb.GetRequest(key=key, **fields).SerializeToString())
        assert isinstance(result, bytes), result
        return pb.GetResponse.FromString(result).data

    async def call(self, method: int, body: bytes, timeout_ms: int = 10_000):
        """What the wire does with a unary call."""
        return await asyncio.wrap_future(self.engine.call(method, body, timeout_ms))

    def role(self) -> str:
        return self.engine.status()["role"]

    def votes(self) -> bool:
        members = self.engine.status()["members"]
        return any(m["id"] == self.engine.node_id and m["voter"] for m in members)


class Cluster:
    """Starts and stops nodes of one network."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.network = MemoryNetwork()
        self.members: dict[str, Member] = {}
        self.deaths: list[str] = []
        self._stack = AsyncExitStack()

    async def start(
        self, name: str, *peers: str, data: str = "", address: str = "", join: bool = True
    ) -> Member:
        """Starts a node, its peer address is `name`:1; with `join` waits until it is a member."""
        settings = Settings(name, self.root / (data or name), peers, address or f"{name}:1")

        def engine(**arguments) -> MemoryEngine:
            return MemoryEngine(**arguments, network=self.network)

        kvs = Backend(engine, EngineError, lambda _path: MemoryKV())
        stack = AsyncExitStack()
        running = await stack.enter_async_context(
            running_node(settings, kvs, self.deaths.append)
        )
        joining = asyncio.ensure_future(running.node.become_member())

        async def stop() -> None:
            joining.cancel()
            await asyncio.gather(joining, return_exceptions=True)
            await stack.aclose()
            self.members.pop(address or name, None)

        member = Member(name, running, stop, joining)
        self.members[address or name] = member
        if join:
            try:
                await joining
            except BaseException:
                await stop()
                raise
        return member

    async def close(self) -> None:
        for member in list(self.members.values()):
            await member.stop()


@pytest.fixture
async def cluster(tmp_path) -> AsyncIterator[Cluster]:
    found = Cluster(tmp_path)
    yield found
    await found.close()
    assert found.deaths == []
