"""What the node needs from others: an engine, and somebody who knows the encodings."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, Protocol

from ..errors import DfsError
from ..store import Stored

Failure = tuple[int, str, bytes]
"""(gRPC code, sentence, encoded details); opaque here."""
Result = bytes | Failure
Call = tuple[int, int, bytes]
Entry = tuple[int, bytes, bool]
Batch = tuple[int, list[Entry], bytes, bytes]
Changed = tuple[int, bytes, bytes | None]
"""(method, body of a read, its answer now or None if that is not known)."""
Done = tuple[int, Result]
Flow = tuple[int, bool]
"""(call id, there is room for its next message; or else its caller is gone)."""
Work = tuple[int, int, str, bytes]

WORK_ASK: Final = 1
WORK_SNAPSHOT: Final = 2
WORK_INSTALL: Final = 3
"""The kinds of work, as `_engine` numbers them; a test compares."""


class Update(NamedTuple):
    """One message of a watch."""

    revision: int
    """All changes up to here have been told."""
    changes: list[Stored] = []
    items: bytes = b""
    """Of the snapshot, encoded."""
    snapshot_end: bool = False
    gap_floor: int = 0
    """Not 0: history up to there is gone, and the watch has ended."""


class Engine(Protocol):
    """The verbs of `_engine.Engine` that a node uses; that stub says what each does."""

    def recovery(self) -> dict[str, Any]: ...  # noqa: D102
    def lost(self, promised: bytes) -> str: ...  # noqa: D102
    def objection(self, applied: bytes) -> str: ...  # noqa: D102
    def fetch_snapshot(self, addr: str, index: int, timeout_ms: int) -> int: ...  # noqa: D102
    def start(self, applied: bytes, membership: bytes) -> None: ...  # noqa: D102
    def step(  # noqa: D102
        self,
        applied: Sequence[tuple[int, Sequence[Result | None]]],
        propose: Sequence[tuple[int, bytes]],
        respond: Sequence[tuple[int, Result]],
        changed: Sequence[Changed],
        keep: Sequence[tuple[int, bytes]],
        max_items: int,
        timeout_ms: int,
    ) -> tuple[list[Call], list[Batch], list[Done], list[Work], list[Flow]]: ...
    def send(  # noqa: D102
        self, calls: Sequence[int], message: bytes
    ) -> list[tuple[int, int]]: ...
    def end(self, call: int, failure: Failure | None) -> None: ...  # noqa: D102
    def submit(self, ticket: int, entry: bytes, timeout_ms: int) -> None: ...  # noqa: D102
    def barrier(self, ticket: int, min_revision: int, timeout_ms: int) -> None: ...  # noqa: D102
    def forget_all(self, for_good: bool) -> None: ...  # noqa: D102
    def admit(self, method: int, writer: bytes, data_bytes_max: int) -> None: ...  # noqa: D102
    def refuse(self, failure: Failure | None) -> None: ...  # noqa: D102
    def wake(self) -> None: ...  # noqa: D102
    def frozen(self, work: int) -> None: ...  # noqa: D102
    def finish(self, work: int, result: Result) -> None: ...  # noqa: D102
    def durable(self, index: int) -> None: ...  # noqa: D102
    def set_cluster(self, cluster: bytes) -> None: ...  # noqa: D102
    def status(self) -> dict[str, Any]: ...  # noqa: D102
    def initialize(self, timeout_ms: int) -> None: ...  # noqa: D102
    def ask(self, addr: str, body: bytes, timeout_ms: int) -> bytes: ...  # noqa: D102
    def change(  # noqa: D102
        self, config: int, members: Sequence[tuple[int, str, str, str, bool]], timeout_ms: int
    ) -> int: ...
    def transfer_leader(self, node_id: int, timeout_ms: int) -> None: ...  # noqa: D102
    def fetch_chunks(  # noqa: D102
        self, addr: str, content: bytes, size: int, chunk_bytes: int,
        wanted: Sequence[tuple[int, bytes]], path: str, timeout_ms: int, unfinished: bool = ...,
    ) -> list[int]: ...
    def drain(self, timeout_ms: int) -> None: ...  # noqa: D102
    def close(self) -> None: ...  # noqa: D102


@dataclass(frozen=True)
class Codec:
    """All that knows how requests, answers and entries are encoded."""

    writes: Mapping[int, Callable[[bytes], bytes]]
    """Method number → (request body → head of the log entry). Raises DfsError. Any thread."""
    plain: tuple[int, bytes, int]
    """What `Engine.admit` is told of the writes that it may head by itself."""
    reads: Mapping[int, Callable[[bytes], bytes]]
    """Method number → (request body → encoded answer). Raises DfsError, Behind. Hot thread only."""
    streams: Mapping[int, Callable[[bytes], bytes | None]]
    """Method number → (request body → the whole answer in one message, if that is small enough to
    be made at once; None: the event loop makes it). Raises DfsError. Hot thread only."""
    together: Callable[[list[Call]], list[tuple[int, bytes]]]
    """(call id, answer) of those calls that are reads of the usual kind, answered at once. The same
    request may be given the same answer until `changed` names it. Raises DfsError when they have
    to be answered one by one. Hot thread only."""
    changed: Callable[[list[Stored]], list[Changed]]
    """All requests whose answers of `together` these changes make untrue, with those of now."""
    frees_space: frozenset[int]
    """Writes that are taken even when the disk is full."""
    failure: Callable[[DfsError], Failure]
    update: Callable[[Update, int], bytes]
    """The message for what a watch tells, with content up to so many bytes."""
    floor_entry: Callable[[int], bytes]
    record_time: Callable[[bytes], int]
    """Encoded Record → commit time in ns."""


@dataclass(frozen=True)
class Myself:
    """What this node tells others of itself."""

    name: str
    id: int
    raft: str
    """Peer address, as others reach it."""
    grpc: str
    version: str


class Behind(Exception):
    """A read asks for a state that is not applied here yet: it is repeated when it is."""

    def __init__(self, revision: int) -> None:
        super().__init__(revision)
        self.revision = revision


class Refused(Exception):
    """The engine refused; `failure` goes to the caller as it is."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure[1])
        self.failure = failure
