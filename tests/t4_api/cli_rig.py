"""A node whose engine is in memory, in a thread of its own, and the command line against it."""

from __future__ import annotations

import asyncio
import io
import json
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from dfs.cli import main
from dfs.config import load
from dfs.engine_memory import EngineError, MemoryEngine
from dfs.kv import MemoryKV
from dfs.serve import Backend, running_node


class Ran(NamedTuple):
    """What a command did."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """The result of `-o json`."""
        return json.loads(self.out)

    @property
    def lines(self) -> list[Any]:
        """The result of `-o json` where it is one object a line."""
        return [json.loads(line) for line in self.out.splitlines()]


class Served:
    """A node in a thread of its own."""

    def __init__(self, root: Path) -> None:
        self._settings = load({"id": "node1", "data": str(root / "data")}, {}, root).settings
        self._up = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()))
        self.endpoint = ""

    def __enter__(self) -> Served:
        self._thread.start()
        assert self._up.wait(20)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._end.set)
        self._thread.join()

    async def _serve(self) -> None:
        self._loop, self._end = asyncio.get_running_loop(), asyncio.Event()
        backend = Backend(MemoryEngine, EngineError, lambda _: MemoryKV())
        async with AsyncExitStack() as stack:
            running = await stack.enter_async_context(running_node(self._settings, backend))
            await running.node.become_member()
            self.endpoint = f"unix:{running.upstream.absolute()}"
            self._up.set()
            await self._end.wait()


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Served]:
    monkeypatch.chdir(tmp_path)
    with Served(tmp_path) as served:
        monkeypatch.setenv("DFS_ENDPOINT", served.endpoint)
        yield served


Cli = Callable[..., Ran]


@pytest.fixture
def cli(capfdbinary: pytest.CaptureFixture[bytes], monkeypatch: pytest.MonkeyPatch) -> Cli:
    def run(*arguments: object, stdin: bytes = b"") -> Ran:
        stream = io.TextIOWrapper(io.BytesIO(stdin))
        with monkeypatch.context() as patch:
            patch.setattr(sys, "stdin", stream)
            code = main([str(a) for a in arguments])
        sys.stdout.flush()
        sys.stderr.flush()
        out, err = capfdbinary.readouterr()
        return Ran(code, out.decode(), err.decode())

    return run
