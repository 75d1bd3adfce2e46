"""A tree without a kernel: what a mount would show."""
# ruff: noqa: ARG002  # The twins take what the real ones take.

from __future__ import annotations

import contextlib
import os
import queue
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from typing import BinaryIO, NamedTuple

from ...client.values import Event, Item, Kind, Stat, event_of, item_of
from ...errors import InvalidArgument
from ...paths import check_key, is_below
from ...proto import dfs_pb2 as pb
from ..ports import NOBODY, Outcome, Question, Upsert

Answer = bytes | int | list[Upsert]


class MemoryPart:
    """Content that comes chunk by chunk."""

    def __init__(self, path: str, version: int, fd: int, size: int, chunk_bytes: int) -> None:
        self.name = path, version
        self.size, self.chunk_bytes = size, chunk_bytes
        self.here: set[int] = set()
        self.opens = 0
        """How many have it open."""
        self._file = os.fdopen(os.dup(fd), "rb", buffering=0)

    def mark(self, number: int) -> None:
        """See `dfs._engine.Part`."""
        assert 0 <= number * self.chunk_bytes < self.size
        self.here.add(number)

    def used(self) -> bool:
        """See `dfs._engine.Part`."""
        return self.opens > 0

    def chunk(self, number: int) -> bytes:
        """What is in the file."""
        length = min(self.chunk_bytes, self.size - number * self.chunk_bytes)
        return os.pread(self._file.fileno(), length, number * self.chunk_bytes)

    def close(self) -> None:
        """One has closed it."""
        self.opens -= 1

    def __del__(self) -> None:
        self._file.close()


Opened = BinaryIO | MemoryPart | int
"""A whole file, one that comes, or why there is none."""


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

    def __init__(self, deadline_s: float = 30.0, owners: bool = False) -> None:
        self._owners = owners
        self.shown: dict[str, Shown] = {}
        self._records: dict[str, Stat] = {}
        self._above: Counter[str] = Counter()
        """How many entries each directory has below it."""
        self._places: dict[bytes, str | None] = {}
        """Of contents that are shown."""
        self._unseen: set[str] = set()
        """What the snapshot that arrives has not told of."""
        self.live = False
        self.fd = -1
        self.adopted = False
        self.ended = False
        self.opens: list[bytes] = []
        self.applied = 0
        """Calls of `show`."""
        self._deadline_s = deadline_s
        self._misses: queue.Queue[tuple[int, str, int, int, int]] = queue.Queue(10_000)
        self._waiting: dict[int, tuple[threading.Event, list[Opened]]] = {}
        self._last_miss = 0
        self._lock = threading.Lock()
        self.offered: list[str] = []
        self.free = 0
        self._questions: queue.Queue[Question] = queue.Queue(10_000)
        self._asked: dict[int, Future[Answer]] = {}

    # ---- what is committed -----------------------------------------------------------------------
    def contents(
        self, answers: Sequence[tuple[bytes, int]]
    ) -> list[tuple[bytes, int, bytes | None]]:
        """See `dfs._engine.Tree`."""
        found: dict[bytes, tuple[bytes, int, bytes | None]] = {}
        for entry in _told(answers):
            sha256, size = entry.stat.sha256, entry.stat.size
            if _gone(entry) or entry.stat.kind is not Kind.FILE or sha256 in found:
                continue
            absent = self._places.get(sha256) is None
            if sha256 not in self._places or (absent and entry.data is not None):
                found[sha256] = sha256, size, entry.data
        return list(found.values())

    def show(
        self, answers: Sequence[tuple[bytes, int]], places: Sequence[tuple[bytes, str]],
        snapshot: bool,
    ) -> Outcome:
        """See `dfs._engine.Tree`."""
        self.applied += 1
        before, deleted, refused = self._digests(), False, []
        self._places |= dict(places)
        for entry in _told(answers):
            try:
                check_key(entry.key)
            except InvalidArgument as error:
                refused.append((entry.key, error.text))
                continue
            if _gone(entry):
                deleted |= self._delete(entry.key)
            else:
                self._unseen.discard(entry.key)
                deleted |= self._put(entry.key, entry.stat)
        return deleted, self._settle(before), refused

    def begin_snapshot(self) -> None:
        """See `dfs._engine.Tree`."""
        self._unseen = set(self._records)

    def end_snapshot(self) -> Outcome:
        """See `dfs._engine.Tree`."""
        before = self._digests()
        deleted = [self._delete(path) for path in self._unseen]
        return any(deleted), self._settle(before), []

    def _digests(self) -> set[bytes]:
        return {stat.sha256 for stat in self._records.values()}

    def _settle(self, before: set[bytes]) -> list[bytes]:
        now = self._digests()
        self._places = {s: place for s, place in self._places.items() if s in now}
        self._places |= {s: None for s in now if s and s not in self._places}
        for path, stat in self._records.items():
            if stat.kind is Kind.FILE:
                place = self._places[stat.sha256]
                self.shown[path] = self.shown[path]._replace(backing=place)
        return sorted(before - now - {b""})

    def _put(self, path: str, stat: Stat) -> bool:
        """Returns whether something had to go for it. What is newer stays."""
        old = self._records.get(path)
        if old is not None and old.revision > stat.revision:
            return False
        way = [p for p in parents(path) if p in self.shown and self.shown[p].kind != Kind.DIRECTORY]
        if stat.kind is not Kind.DIRECTORY and self._above[path] > 0:
            way += [p for p in self.shown if is_below(p, path)]
        if old is not None and old.kind is not stat.kind:
            way.append(path)
        gone = [self._delete(p) for p in way]
        if path not in self._records:
            self._above.update(parents(path))
        self._records[path] = stat
        uid, gid = ((stat.uid, stat.gid) if self._owners else (None, None))
        self.shown[path] = Shown(
            stat.kind, stat.size, stat.mode, stat.mtime_ns, NOBODY if uid is None else uid,
            NOBODY if gid is None else gid, stat.revision, stat.target or None,
        )
        return any(gone)

    def _delete(self, path: str) -> bool:
        if self._records.pop(path, None) is None:
            return False
        del self.shown[path]
        self._above.subtract(parents(path))
        return True

    def place_contents(self, places: Sequence[tuple[bytes, str | None]]) -> int:
        """See `dfs._engine.Tree`."""
        known = [(sha256, place) for sha256, place in places if sha256 in self._places]
        self._places |= dict(known)
        self._settle(set())
        return len(known)

    def left(self) -> list[bytes]:
        """None: no kernel knows anything."""
        return []

    def shows(self, sha256: bytes) -> bool:
        """See `dfs._engine.Tree`."""
        return sha256 in self._places

    def committed(self) -> int:
        """See `dfs._engine.Tree`."""
        return len(self._records)

    def record(self, path: str) -> bytes | None:
        """See `dfs._engine.Tree`."""
        path.encode()  # As the engine: what is not UTF-8 is an error.
        stat = self._records.get(path)
        return None if stat is None else record_of(stat).SerializeToString()

    def entries(
        self, top: str, after: str, max_items: int, absent: bool
    ) -> list[tuple[str, int, int, int, bytes]]:
        """See `dfs._engine.Tree`."""
        top.encode()
        return [
            (path, int(stat.kind), stat.revision, stat.size, stat.sha256)
            for path, stat in sorted(self._records.items())
            if path > after and (not top or path == top or is_below(path, top))
            and not (absent and (
                stat.kind is not Kind.FILE or self._places[stat.sha256] is not None
            ))
        ][:max_items]

    # ---- the kernel ------------------------------------------------------------------------------
    def serve(self, fd: int, table: int = -1) -> None:
        """See `dfs._engine.Tree`."""
        self.fd = fd

    def adopt(self, fd: int, table: int = -1) -> None:
        """See `dfs._engine.Tree`."""
        self.fd, self.adopted = fd, True

    def next_misses(self, max_items: int, timeout_ms: int) -> list[tuple[int, str, int, int, int]]:
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

    def fulfil(self, miss: int, result: str | MemoryPart | int) -> bool:
        """See `dfs._engine.Tree`: who waited has the file open when this returns."""
        waiting = self._waiting.pop(miss, None)
        if waiting is None:
            return False
        if isinstance(result, MemoryPart):
            result.opens += 1
        waiting[1].append(_opened(result) if isinstance(result, str) else result)
        waiting[0].set()
        return True

    def part(
        self, path: str, version: int, fd: int, size: int, chunk_bytes: int
    ) -> MemoryPart:
        """See `dfs._engine.Tree`."""
        return MemoryPart(path, version, fd, size, chunk_bytes)

    def read(self, path: str) -> bytes:
        """As a reader of the mount, in a thread of its own: waits for content. Raises OSError."""
        opened = self.open(path)
        if not isinstance(opened, MemoryPart):
            with opened:
                return opened.read()
        with contextlib.closing(opened):
            chunks = range(-(-opened.size // opened.chunk_bytes))
            return b"".join(self.read_chunk(opened, number) for number in chunks)

    def read_chunk(self, part: MemoryPart, number: int) -> bytes:
        """As a reader of a file that is open, in a thread of its own. Raises OSError."""
        if number not in part.here:
            with contextlib.closing(self._missed(*part.name, number, number + 1)) as opened:
                if not isinstance(opened, MemoryPart):  # All of it has come meanwhile.
                    opened.seek(number * part.chunk_bytes)
                    return opened.read(part.chunk_bytes)
                part = opened
        return part.chunk(number)

    def open(self, path: str) -> BinaryIO | MemoryPart:
        """As a reader of the mount, in a thread of its own: waits until the file is open. Raises
        OSError."""
        shown = self.shown[path]
        self.opens.append(self._records[path].sha256)
        if shown.backing is not None:
            with contextlib.suppress(FileNotFoundError):  # Taken away just now: a miss.
                return _opened(shown.backing)
        return self._missed(path, shown.version, 0, 0)

    def _missed(
        self, path: str, version: int, first: int, upto: int
    ) -> BinaryIO | MemoryPart:
        event, results = threading.Event(), list[Opened]()
        with self._lock:
            self._last_miss += 1
            miss = self._last_miss
        self._waiting[miss] = event, results
        self._misses.put((miss, path, version, first, upto))
        if not event.wait(self._deadline_s):
            raise TimeoutError(f"{path}: the agent did not answer")
        if isinstance(results[0], int):
            raise OSError(results[0], path)
        return results[0]

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

    def opened(self) -> list[bytes]:
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


def _told(answers: Sequence[tuple[bytes, int]]) -> Iterator[Item | Event]:
    for encoded, after in answers:
        answer = pb.WatchResponse.FromString(encoded)
        yield from map(item_of, answer.items)
        yield from (event_of(event) for event in answer.events if event.revision > after)


def _gone(entry: Item | Event) -> bool:
    return entry.stat.implicit or (isinstance(entry, Event) and entry.deleted)


def record_of(stat: Stat) -> pb.Record:
    """As the API sends it."""
    fields = stat._asdict()
    fields["xattrs"] = [pb.Xattr(name=name, value=value) for name, value in stat.xattrs]
    return pb.Record(**fields)


def encoded(entries: Sequence[Item | Event]) -> bytes:
    """An answer of a watch."""
    answer = pb.WatchResponse()
    for entry in entries:
        part = answer.items.add() if isinstance(entry, Item) else answer.events.add()
        part.key, part.has_data, part.data = entry.key, entry.data is not None, entry.data or b""
        part.record.CopyFrom(record_of(entry.stat))
        if isinstance(part, pb.Event) and isinstance(entry, Event):
            part.type = pb.Event.DELETE if entry.deleted else pb.Event.PUT
            part.revision, part.sub = entry.revision, entry.sub
            part.previous_revision = entry.previous_revision
    return answer.SerializeToString()


def _opened(path: str) -> BinaryIO:
    return open(path, "rb")


def parents(path: str) -> list[str]:
    """All directories above, the highest first."""
    parts = path.split("/")
    return ["/".join(parts[:count]) for count in range(1, len(parts))]
