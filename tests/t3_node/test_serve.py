"""A node from its settings: what it says when it cannot start, and how it ends."""

import asyncio
import os
import signal
import socket
from contextlib import asynccontextmanager

import pytest

from dfs.engine_memory import EngineError, MemoryEngine
from dfs.errors import DataLoss, Misconfigured
from dfs.identity import open_identity
from dfs.kv import MemoryKV
from dfs.nemesis.ports import free_port
from dfs.serve import Backend, run, running_node

from .conftest import Settings

MEMORY = Backend(MemoryEngine, EngineError, lambda _path: MemoryKV())


class Story:
    """What happened around a node, in order."""

    def __init__(self):
        self.lines = []
        self.begins = lambda: None

    @asynccontextmanager
    async def companion(self, running):
        self.lines.append("companion")
        self.begins()
        try:
            yield
        finally:
            self.lines.append("companion ends")

    def announce(self, running):
        self.lines.append("ready" if running.node.ready() else "not ready")
        os.kill(os.getpid(), signal.SIGTERM)


def settings(root, name="node1", *peers, raft="node1:1", **fields):
    return Settings(name, root / "data", peers, raft, **fields)


async def test_it_serves_until_sigterm_and_closes_in_reverse(tmp_path):
    story = Story()
    await run(settings(tmp_path), story.companion, story.announce, MEMORY)
    assert story.lines == ["companion", "ready", "companion ends"]
    assert sorted(os.listdir(tmp_path / "data")) == [
        "contents", "identity.json", "log", "peers.json", "store",
    ]


async def test_a_node_that_waits_for_peers_ends_at_sigterm_and_leaves_nothing(tmp_path):
    story = Story()
    loop = asyncio.get_running_loop()
    story.begins = lambda: loop.call_later(0.1, os.kill, os.getpid(), signal.SIGTERM)
    await run(settings(tmp_path, "node1", "node2:1"), story.companion, story.announce, MEMORY)
    assert story.lines == ["companion", "companion ends"]
    assert os.listdir(tmp_path) == []


@pytest.mark.allow_logs("stops serving its state: a bit has flipped", "dfs.healing")
async def test_a_node_with_damage_is_opened_anew_and_its_companion_lives_on(tmp_path, built):
    story = Story()

    def announce(running):
        if len(story.lines) == 1:
            story.lines.append("ready")
            running.node._damaged(DataLoss("a bit has flipped"))
        else:
            story.announce(running)

    wanted = settings(tmp_path, raft=f"127.0.0.1:{free_port()}")
    await run(wanted, story.companion, announce, built)
    assert story.lines == ["companion", "ready", "ready", "companion ends"]
    identity = open_identity(tmp_path / "data", "node1")
    assert (identity.fault, (tmp_path / "data/quarantine").exists()) == ("", False)


async def test_a_part_that_breaks_ends_the_node_with_its_error(tmp_path):
    story = Story()

    def announce(running):
        running.node.failed.set_exception(ZeroDivisionError("x"))

    with pytest.raises(ZeroDivisionError):
        await run(settings(tmp_path), story.companion, announce, MEMORY)
    assert story.lines == ["companion", "companion ends"]


@pytest.mark.parametrize("port", ["raft", "grpc"])
async def test_a_port_in_use_is_one_sentence_and_nothing_stays(tmp_path, built, port):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        free = f"127.0.0.1:{free_port()}"
        raft, grpc = (address, free) if port == "raft" else (free, address)
        wanted = settings(tmp_path / "x", raft=raft, grpc_listen=grpc)
        with pytest.raises(Misconfigured, match=f"{address}.*stop what listens there, or choose"):
            async with running_node(wanted, built):
                pass
    assert not (tmp_path / "x" / "data").exists()


async def test_a_data_directory_in_use_is_one_sentence(real_cluster):
    await real_cluster.start("node1")
    with pytest.raises(Misconfigured, match="another process uses the data directory"):
        await real_cluster.start("node1", address="other")
    assert await real_cluster.members["node1"].put("k") > 0


async def test_another_nodes_directory_is_refused(tmp_path):
    async with running_node(settings(tmp_path), MEMORY) as running:
        await running.node.become_member()
    with pytest.raises(Misconfigured, match="is the data directory of node node1, not of node2"):
        async with running_node(settings(tmp_path, "node2"), MEMORY):
            pass
