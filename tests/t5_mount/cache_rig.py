"""An agent over a node and a mount in memory, with a real cache directory."""

from __future__ import annotations

import array
import asyncio
import fcntl
import hashlib
import os
import subprocess
import termios
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import pytest

from dfs.cache.agent import Agent, Options
from dfs.cache.asking import SOCKET, ask
from dfs.cache.inotify import Inotify
from dfs.cache.twin import MemoryNode, MemoryTree
from dfs.cli import main
from dfs.client.values import Kind

WAIT_S = 20.0
T = TypeVar("T")


@contextmanager
def small_file_system(point: Path, size: int) -> Iterator[Path]:
    """A file system of so many bytes, mounted there."""
    if os.geteuid():
        pytest.skip("only root may mount a tmpfs")
    point.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "dfs-test", point], check=True)
    yield point
    subprocess.run(["umount", "-l", point], check=True)


async def wait_until(
    what: str, condition: Callable[[], T], timeout_s: float = WAIT_S
) -> T:
    """The condition's first true value."""
    end = time.monotonic() + timeout_s
    while True:
        if value := condition():
            return value
        assert time.monotonic() < end, f"not within {timeout_s:.0f} s: {what}"
        await asyncio.sleep(0.002)


class Rig:
    """One agent; several may share a node."""

    def __init__(self, root: Path, node: MemoryNode | None = None, name: str = "node1") -> None:
        self.root, self.name = root / name, name
        self.cache, self.state = self.root / "cache", self.root / "state"
        self.cache.mkdir(parents=True, exist_ok=True)
        self.node = node or MemoryNode()
        self.options: dict[str, object] = {}
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Rig:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def start(self, scanned: bool = True) -> None:
        """Starts an agent with a fresh tree; the state directory stays."""
        self.tree = MemoryTree(WAIT_S, bool(self.options.get("owners")))
        given = {"cache": str(self.cache), "mount": str(self.root / "mount"), "name": self.name}
        options = Options(
            ["memory"], str(self.state), **{**given, **self.options},  # type: ignore[arg-type]
        )
        self.agent = Agent(options, self.node, self.tree)
        self._task = asyncio.create_task(self.agent.run())
        if scanned:
            await wait_until("the first scan is over", self.scanned)
            await self.settled()

    async def stop(self) -> None:
        """Stops it, as SIGTERM does."""
        task, self._task = self._task, None
        if task is not None:
            if task.done():
                task.result()
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    def scanned(self) -> bool:
        """The cache directory was scanned completely."""
        if self._task is not None and self._task.done():
            self._task.result()
        watcher = self.agent.watcher
        return watcher is not None and watcher.scans > 0

    async def settled(self) -> None:
        """All that happened was seen, nothing is pending, and what was stored is shown."""
        while True:
            await wait_until("all events are read", lambda: not self._unread())
            assert self.agent.watcher is not None
            await asyncio.wrap_future(self.agent.watcher._pool.submit(int))
            await wait_until("nothing is pending", lambda: not self.agent.uploader.pending.drops)
            if not self._unread() and not self.agent.uploader.pending.drops:
                break
        await wait_until(
            "the last revision is shown",
            lambda: self.agent.feeder.revision >= self.node.revision or self.node.cut,
        )

    def _unread(self) -> int:
        """Bytes of events that wait in the kernel."""
        assert self.agent.watcher is not None
        inotify = self.agent.watcher._inotify
        size = array.array("i", [0])
        if inotify is not None:
            fcntl.ioctl(inotify.fd, termios.FIONREAD, size)
        return size[0]

    async def ask(self, op: str, *paths: str, **arguments: object) -> Any:
        """As the command line asks."""
        return await asyncio.to_thread(
            ask, str(self.state / SOCKET), op, None, paths=list(paths), **arguments
        )

    async def dfs(self, *words: str) -> int:
        """A command that asks this agent; returns its exit code."""
        return await asyncio.to_thread(main, [*words, "--agent", str(self.state)])

    async def rescan(self) -> None:
        """Scans everything now, and waits for what that brings."""
        await self.rescan_without_settling()
        await self.settled()

    async def rescan_without_settling(self) -> None:
        """Scans everything now."""
        watcher = self.agent.watcher
        assert watcher is not None
        before = watcher.scans
        watcher.scan_all()
        await wait_until("the scan is over", lambda: watcher.scans > before)

    def ended(self) -> bool:
        """The agent has ended by itself; raises what it raised."""
        assert self._task is not None
        if self._task.done():
            self._task.result()
        return self._task.done()

    def fetcher_deadline(self, seconds: float) -> None:
        """How long a reader waits for content."""
        assert self.agent.fetcher is not None
        self.agent.fetcher.deadline_s = seconds

    def drop(self, path: str, data: bytes) -> Path:
        """Writes a file into the cache directory, in one go."""
        target = self.cache / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)
        return target

    def shows(self, path: str, data: bytes) -> bool:
        """The mount shows exactly this content, from a file here."""
        shown = self.tree.shown.get(path)
        if shown is None or shown.backing is None or shown.kind != Kind.FILE:
            return False
        return Path(shown.backing).read_bytes() == data

    async def shown(self, path: str, data: bytes) -> None:
        """Waits until the mount shows it."""
        await wait_until(f"{path} is shown", lambda: self.shows(path, data))

    async def read(self, path: str) -> bytes:
        """As a reader of the mount."""
        return await asyncio.to_thread(self.tree.read, path)

    def versions(self, path: str) -> list[bytes]:
        """All contents that were ever committed under a key."""
        return [e.data or b"" for e in self.node.events if e.key == path and not e.deleted]

    def problems(self) -> str:
        """The status's sentences."""
        return "\n".join(self.agent.problems.lines())

    def object(self, data: bytes) -> Path:
        """Where the cache keeps that content."""
        name = hashlib.sha256(data).hexdigest()
        return self.state / "objects" / name[:2] / name


def held_scan(
    monkeypatch: pytest.MonkeyPatch, meanwhile: Callable[[], object] = lambda: None
) -> tuple[threading.Event, threading.Event]:
    """The next scan does something and stops before it watches the directory `last`, when it has
    looked at the top: (it is there, it may go on)."""
    add, there, go_on = Inotify.add, threading.Event(), threading.Event()

    def slow(self: Inotify, path: str, mask: int) -> int:
        if path.endswith("/last") and not there.is_set():
            meanwhile()
            there.set()
            assert go_on.wait(WAIT_S)
        return add(self, path, mask)

    monkeypatch.setattr(Inotify, "add", slow)
    return there, go_on
