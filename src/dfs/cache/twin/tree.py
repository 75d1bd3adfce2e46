"""A tree without a kernel: what a mount would show."""
# ruff: noqa: ARG002  # The twins take what the real ones take.

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import Future
from typing import BinaryIO, NamedTuple

from ...client.values import Kind
from ...paths import check_key
from ..ports import Question, Upsert

Answer = bytes | int | list[Upsert]


class Shown(NamedTuple):
    """What the mount shows of a path."""

    kind: int
    size: int
    mode: int
    mtime_ns: int
    uid: int
    gid: int
    version: int
    backing: str | None


class MemoryTree:
    """What a mount would show, as a dict."""

    def __init__(self, deadline_s: float = 30.0) -> None:
        self.shown: dict[str, Shown] = {}
        self._above: Counter[str] = Counter()
        self.live = False
        self.fd = -1
        self.adopted = False
        self.ended = False
        self.opens: list[tuple[str, int]] = []
        self.applied = 0
        """Calls of `apply`."""
        self._deadline_s = deadline_s
        self._misses: queue.Queue[tuple[int, str, int]] = queue.Queue(10_000)
        self._waiting: dict[int, tuple[threading.Event, list[BinaryIO | int]]] = {}
        self._last_miss = 0
        self._lock = threading.Lock()
        self.offered: list[str] = []
        self.free = 0
        self._questions: queue.Queue[Question] = queue.Queue(10_000)
        self._asked: dict[int, Future[Answer]] = {}

    def apply(self, upserts: Sequence[Upsert], deletes: Sequence[str]) -> int:
        """See `dfs._engine.Tree`."""
        self.applied += 1
        for path in deletes:
            self._check(path)
            if self.shown.pop(path, None):
                self._above.subtract(parents(path))
        for path, kind, size, mode, mtime_ns, uid, gid, version, backing in upserts:
            self._check(path)
            new = Shown(kind, size, mode, mtime_ns, uid, gid, version, backing)
            for parent in parents(path):
                if parent in self.shown and self.shown[parent].kind != Kind.DIRECTORY:
                    raise AssertionError(f"{path} is put below the file {parent}")
            if new.kind != Kind.DIRECTORY and self._above[path] > 0:
                raise AssertionError(f"{path} is put where a directory is")
            if path not in self.shown:
                self._above.update(parents(path))
            self.shown[path] = new
        return len(upserts) + len(deletes)

    def _check(self, path: str) -> None:
        check_key(path)

    def place(self, items: Sequence[tuple[str, int, str | None]]) -> int:
        """See `dfs._engine.Tree`."""
        count = 0
        for path, version, backing in items:
            shown = self.shown.get(path)
            if shown is not None and shown.version == version:
                self.shown[path] = shown._replace(backing=backing)
                count += 1
        return count

    def serve(self, fd: int, table: int = -1) -> None:
        """See `dfs._engine.Tree`."""
        self.fd = fd

    def adopt(self, fd: int, table: int = -1) -> None:
        """See `dfs._engine.Tree`."""
        self.fd, self.adopted = fd, True

    def next_misses(self, max_items: int, timeout_ms: int) -> list[tuple[int, str, int]]:
        """See `dfs._engine.Tree`."""
        if self.ended:
            return []
        try:
            found = [self._misses.get(timeout=timeout_ms / 1000)]
        except queue.Empty:
            return []
        while len(found) < max_items and not self._misses.empty():
            found.append(self._misses.get_nowait())
        return found

    def fulfil(self, miss: int, result: str | int) -> bool:
        """See `dfs._engine.Tree`: who waited has the file open when this returns."""
        waiting = self._waiting.pop(miss, None)
        if waiting is None:
            return False
        waiting[1].append(_opened(result) if isinstance(result, str) else result)
        waiting[0].set()
        return True

    def read(self, path: str) -> bytes:
        """As a reader of the mount, in a thread of its own: waits for content. Raises OSError."""
        shown = self.shown[path]
        self.opens.append((path, shown.version))
        opened: BinaryIO | int | None = None
        if shown.backing is not None:
            with contextlib.suppress(FileNotFoundError):  # Taken away just now: a miss.
                opened = _opened(shown.backing)
        if opened is None:
            event, results = threading.Event(), list[BinaryIO | int]()
            with self._lock:
                self._last_miss += 1
                miss = self._last_miss
            self._waiting[miss] = event, results
            self._misses.put((miss, path, shown.version))
            if not event.wait(self._deadline_s):
                raise TimeoutError(f"{path}: the agent did not answer")
            opened = results[0]
        if isinstance(opened, int):
            raise OSError(opened, path)
        with opened:
            return opened.read()

    def offer(self, names: Sequence[str]) -> None:
        """See `dfs._engine.Tree`."""
        self.offered = list(names)

    def next_questions(self, max_items: int, timeout_ms: int) -> list[Question]:
        """See `dfs._engine.Tree`."""
        try:
            return [] if self.ended else [self._questions.get(timeout=timeout_ms / 1000)]
        except queue.Empty:
            return []

    def answer(self, question: int, result: bytes | int) -> bool:
        """See `dfs._engine.Tree`."""
        return self._answered(question, result)

    def fill(self, question: int, entries: Sequence[Upsert]) -> bool:
        """See `dfs._engine.Tree`."""
        return self._answered(question, list(entries))

    def _answered(self, question: int, result: Answer) -> bool:
        asked = self._asked.pop(question, None)
        if asked is not None:
            asked.set_result(result)
        return asked is not None

    def look(self, path: str, what: str) -> list[Upsert]:
        """As the kernel in the past, in a thread of its own. Raises OSError."""
        entries = self._ask(path, 0, what)
        assert isinstance(entries, list)
        return entries

    def ask(self, path: str, what: str) -> bytes:
        """As the kernel, in a thread of its own: waits for the answer. Raises OSError."""
        answer = self._ask(path, self.shown[path].version if what != "content" else 0, what)
        assert isinstance(answer, bytes)
        return answer

    def _ask(self, path: str, version: int, what: str) -> bytes | list[Upsert]:
        question, future = time.monotonic_ns(), Future[Answer]()
        self._asked[question] = future
        self._questions.put((question, path, version, what))
        answer = future.result(self._deadline_s)
        if isinstance(answer, int):
            raise OSError(answer, path)
        return answer

    def flush(self, timeout_ms: int) -> bool:
        """See `dfs._engine.Tree`."""
        return True

    def set_free(self, free_bytes: int) -> None:
        """See `dfs._engine.Tree`."""
        self.free = free_bytes

    def set_live(self, live: bool) -> None:
        """See `dfs._engine.Tree`."""
        self.live = live

    def opened(self) -> list[tuple[str, int]]:
        """See `dfs._engine.Tree`."""
        opens, self.opens = self.opens, []
        return opens

    def stats(self) -> dict[str, int]:
        """See `dfs._engine.Tree`."""
        return {"passthrough": 0}

    def running(self) -> bool:
        """See `dfs._engine.Tree`."""
        return not self.ended

    def close(self) -> None:
        """See `dfs._engine.Tree`."""
        self.ended = True


def _opened(path: str) -> BinaryIO:
    return open(path, "rb")


def parents(path: str) -> list[str]:
    """All directories above, the highest first."""
    parts = path.split("/")
    return ["/".join(parts[:count]) for count in range(1, len(parts))]
