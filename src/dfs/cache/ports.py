"""What the agent asks of the client and of the mount; `twin` has both in memory."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, BinaryIO, Final, Protocol

from ..client.calls import Xattrs
from ..client.transaction import AsyncTransaction
from ..client.values import Event, Item, Stat, Told, Update
from ..errors import DfsError
from ..limits import OWNER_MAX
from ..proto import dfs_pb2 as pb

Outcome = tuple[bool, Sequence[bytes], Sequence[tuple[str, str]]]
"""(something was deleted, contents that no path shows any more, paths not shown and why);
see `dfs._engine.Tree.show`."""

NOBODY: Final = OWNER_MAX + 1
"""Names no owner to the mount."""

Upsert = tuple[str, int, int, int, int, int, int, int, str | None]
"""(path, kind, size, mode, mtime_ns, uid, gid, version, backing or target); see
`dfs._engine.Tree.fill`."""

Question = tuple[int, str, int, str]
"""(question, path, version, what is asked); see `dfs._engine.Tree.next_questions`."""


class Client(Protocol):
    """The calls of `dfs.AsyncClient` that the agent makes."""

    async def put(
        self, key: str, data: bytes, *, mode: int | None = None, mtime_ns: int | None = None,
        uid: int | None = None, gid: int | None = None, xattrs: Xattrs | None = None,
        base_revision: int | None = None, request_id: bytes | None = None,
        timeout: float | None = None,
    ) -> int:
        """Stores a file; returns the revision."""
        ...

    def transaction(self, *, request_id: bytes | None = None) -> AsyncTransaction:
        """Several puts and links as one change, or none of them."""
        ...

    async def read(
        self, key: str, *, revision: int = 0, local: bool = False,
        min_revision: int | None = None, timeout: float | None = None,
    ) -> tuple[bytes, Stat]:
        """Content and record."""
        ...

    async def stat(
        self, key: str, *, revision: int = 0, local: bool = False,
        min_revision: int | None = None, timeout: float | None = None,
    ) -> Stat:
        """The record."""
        ...

    async def put_content(
        self, request: pb.PutContentRequest, *, timeout: float | None = None
    ) -> int:
        """Stores a content that was handed to the node; returns the revision."""
        ...

    async def have_content(
        self, sha256: bytes, *, wait_ms: int, chunk: int | None = None, manifest: bool = False
    ) -> pb.HaveContentResponse:
        """Has the node get a content."""
        ...

    async def upload(
        self, key: str, source: BinaryIO, *, size: int = 0, mode: int | None = None,
        mtime_ns: int | None = None, uid: int | None = None, gid: int | None = None,
        xattrs: Xattrs | None = None, base_revision: int | None = None,
        request_id: bytes | None = None,
    ) -> int:
        """Stores a file of any size; returns the revision."""
        ...

    async def download(
        self, key: str, target: BinaryIO, *, offset: int = 0, length: int = 0, revision: int = 0,
        local: bool = False, min_revision: int | None = None,
    ) -> Stat:
        """Writes the content of a file of any size, or some of it, into another."""
        ...

    async def mkdir(
        self, key: str, *, mode: int | None = None, uid: int | None = None,
        gid: int | None = None, xattrs: Xattrs | None = None, timeout: float | None = None,
    ) -> int:
        """Makes a directory that stays. `xattrs`: None leaves those that it has."""
        ...

    async def delete(
        self, key: str, *, base_revision: int | None = None, timeout: float | None = None
    ) -> int:
        """Deletes a file, or a directory with nothing in it; returns the revision."""
        ...

    async def symlink(
        self, key: str, target: str, *, mtime_ns: int | None = None, uid: int | None = None,
        gid: int | None = None,
        base_revision: int | None = None, request_id: bytes | None = None,
        timeout: float | None = None,
    ) -> int:
        """Stores a link."""
        ...

    def watch(
        self, key: str = "", *, after_revision: int = 0, snapshot: bool = False,
        data_bytes_max: int = 0, on_lost: Callable[[DfsError], None] | None = None,
    ) -> AsyncIterator[Update]:
        """The stream of changes; goes on by itself, telling `on_lost`, when it loses its node."""
        ...

    def watch_encoded(
        self, key: str = "", *, after_revision: int = 0, snapshot: bool = False,
        data_bytes_max: int = 0, data_after_revision: int = 0,
        on_lost: Callable[[DfsError], None] | None = None,
    ) -> AsyncIterator[Told]:
        """The same, for the engine."""
        ...

    def list(
        self, key: str = "", *, limit: int = 0, revision: int = 0, local: bool = False,
        min_revision: int | None = None,
    ) -> AsyncIterator[Item]:
        """What is in a directory, as of a past revision if one is given."""
        ...

    async def revision_at(self, time_ns: int) -> int:
        """The last revision that was not committed after a time."""
        ...

    def history(
        self, key: str, *, limit: int = 0, before_revision: int = 0, local: bool = False,
        min_revision: int | None = None,
    ) -> AsyncIterator[Event]:
        """The retained changes of a key and of what is below it, newest first."""
        ...

    async def newest(self, *, timeout: float | None = None) -> int:
        """The newest revision, linearizable."""
        ...

    async def members(self, *, timeout: float | None = None) -> pb.MembersResponse:
        """Who belongs to the cluster."""
        ...

    async def status(
        self, *, local: bool = False, timeout: float | None = None
    ) -> pb.StatusResponse:
        """What every member says of itself, or only the one that is asked."""
        ...

    async def report_agent(self, report: pb.AgentStatus, *, timeout: float | None = None) -> None:
        """Tells the node how its agent is."""
        ...


class Part(Protocol):
    """Content that comes chunk by chunk; see `dfs._engine.Part`."""

    def mark(self, number: int) -> None:
        """A chunk may be read."""
        ...

    def used(self) -> bool:
        """Somebody has it open."""
        ...


class Tree(Protocol):
    """The verbs of `dfs._engine.Tree` that the agent uses; their contract stands there."""

    def contents(
        self, answers: Sequence[tuple[bytes, int]]
    ) -> list[tuple[bytes, int, bytes | None]]:
        """Of what a watch brought: contents that are not known to be here."""
        ...

    def show(
        self, answers: Sequence[tuple[bytes, int]], places: Sequence[tuple[bytes, str]],
        snapshot: bool,
    ) -> Outcome:
        """Shows what a watch brought."""
        ...

    def begin_snapshot(self) -> None:
        """A snapshot begins."""
        ...

    def end_snapshot(self) -> Outcome:
        """All of it was shown: takes away what it did not have."""
        ...

    def place_contents(self, places: Sequence[tuple[bytes, str | None]]) -> int:
        """(SHA-256, backing): where contents are now."""
        ...

    def left(self) -> list[bytes]:
        """Contents that nobody can open any more, since the kernel forgot them."""
        ...

    def shows(self, sha256: bytes) -> bool:
        """A path shows that content, or the kernel may still come for it."""
        ...

    def committed(self) -> int:
        """How many entries the tree has."""
        ...

    def record(self, path: str) -> bytes | None:
        """The encoded record of an entry."""
        ...

    def entries(
        self, top: str, after: str, max_items: int, absent: bool
    ) -> list[tuple[str, int, int, int, bytes]]:
        """(path, kind, revision, size, SHA-256) of entries at and below a path."""
        ...

    def serve(self, fd: int, table: int = -1) -> None:
        """Serves a fresh descriptor; notes open files in `table`."""
        ...

    def adopt(self, fd: int, table: int = -1) -> None:
        """Takes over a live connection."""
        ...

    def next_misses(self, max_items: int, timeout_ms: int) -> list[tuple[int, str, int, int, int]]:
        """Content that is wanted: (miss, path, version, first chunk, behind the last one)."""
        ...

    def fulfil(self, miss: int, result: Any) -> bool:
        """A backing path, a part that `part` has made, or an errno."""
        ...

    def part(self, path: str, version: int, fd: int, size: int, chunk_bytes: int) -> Part:
        """A file into which chunks come."""
        ...

    def offer(self, names: Sequence[str]) -> None:
        """Shows files below `.dfs/`, each open of which is a question."""
        ...

    def next_questions(self, max_items: int, timeout_ms: int) -> list[Question]:
        """What the kernel wants to know."""
        ...

    def answer(self, question: int, result: bytes | int) -> bool:
        """The answer, or an errno."""
        ...

    def fill(self, question: int, entries: Sequence[Upsert]) -> bool:
        """The answer to a question about the past."""
        ...

    def flush(self, timeout_ms: int) -> bool:
        """Waits until every later look-up sees all changes so far; False when it took too long."""
        ...

    def set_free(self, free_bytes: int) -> None:
        """What `df` is told."""
        ...

    def set_live(self, live: bool) -> None:
        """Whether changes arrive."""
        ...

    def opened(self) -> list[bytes]:
        """Contents that were opened lately."""
        ...

    def stats(self) -> dict[str, int]:
        """Counters."""
        ...

    def running(self) -> bool:
        """False when the kernel has ended the connection."""
        ...

    def close(self) -> None:
        """Stops the threads."""
        ...
