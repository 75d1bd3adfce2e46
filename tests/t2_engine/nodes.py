"""Nodes for the tests of the engine: a dict as state machine and a thread that calls `step`.

An entry is b"key=value"; behind it stands the leader's time. The result is b"<index>". What a store
would have on disk lives in a `Disk`, which outlives the node.
"""

from __future__ import annotations

import itertools
import json
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dfs import _engine
from dfs.nemesis.ports import free_port

WAIT_S = 10.0
STAMP_BYTES = 9
CLUSTER = bytes(range(16))
KINDS = {
    "no_leader": 14,
    "outcome_unknown": 14,
    "overloaded": 8,
    "deadline": 4,
    "too_large": 8,
    "metadata_too_large": 8,
    "shutting_down": 14,
    "malformed": 13,
    "unimplemented": 12,
    "not_loopback": 7,
    "needs_tls": 7,
}
FAILURES = {kind: (code, kind, b"details of " + kind.encode()) for kind, code in KINDS.items()}


class Refused(Exception):
    """The engine answered with a failure; `args` is (code, text, details)."""


def wait_until(condition: Callable[[], Any], timeout_s: float = WAIT_S, what: str = "") -> Any:
    """Returns the condition's value once it is true; the engine moves by its own clock."""
    until = time.monotonic() + timeout_s
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < until, f"not within {timeout_s} s: {what or condition}"
        time.sleep(0.01)


def encoded(key: str) -> bytes:
    """A request with field 1."""
    return b"\x0a" + bytes([len(key)]) + key.encode()


class Disk:
    """What a store would have on disk."""

    def __init__(self) -> None:
        self.data: dict[str, str] = {}
        self.applied = 0
        self.log_id = b""
        self.membership = b""
        self.stamps: list[int] = []
        self.changed: list[str] = []

    def apply(self, entries: list[tuple[int, bytes, bool]]) -> list[bytes | None]:
        """Applies one batch; a result for each entry. Notes the changed keys."""
        self.changed = []
        results: list[bytes | None] = []
        for index, payload, wanted in entries:
            assert index == self.applied + 1 or self.applied == 0, "entries come in order"
            self.applied = index
            if payload:
                body, stamp = payload[:-STAMP_BYTES], payload[-STAMP_BYTES:]
                assert stamp[0] == 0x11
                self.stamps.append(int.from_bytes(stamp[1:], "little"))
                key, value = body.decode().split("=", 1)
                self.data[key] = value
                self.changed.append(key)
            results.append(str(index).encode() if wanted and payload else None)
        return results

    def dump(self) -> str:
        """The whole state as text."""
        return json.dumps([self.data, self.applied])

    def load(self, text: str, log_id: bytes, membership: bytes) -> None:
        """Replaces the state."""
        self.data, self.applied = json.loads(text)
        self.log_id, self.membership = log_id, membership


class Node:
    """One engine with its hot thread."""

    ids = itertools.count(1)

    def __init__(self, path: Path, name: str, cluster: bytes = CLUSTER, **options: int) -> None:
        self.path, self.name, self.cluster, self.options = path, name, cluster, options
        self.id = secrets.randbits(62) + 1
        self.addr = f"127.0.0.1:{free_port()}"
        self.listen = ""
        """Where it listens, if that is not its address."""
        self.grpc = ""
        self.tls: tuple[bytes, bytes, bytes] | None = None
        self.contents: Path | str = path / name / "contents"
        self.disk = Disk()
        self.answer: Callable[[str, bytes], Any] = lambda name, body: name.encode() + b":" + body
        self.method: dict[int, Callable[[bytes], Any]] = {}
        self.keeps: set[int] = set()
        """Methods whose answers may be given again; the body has the key in field 1."""
        self.renews = False
        """With a change comes the new answer."""
        self.asked: dict[int, int] = {}
        """Calls that came here, by method."""
        self.routes: dict[str, tuple[int, bool, bool]] = {}
        self.going = threading.Event()
        self.going.set()
        self.error: BaseException | None = None
        self.batches: list[int] = []
        self.engine: _engine.Engine = None  # type: ignore[assignment]

    # ---- life -----------------------------------------------------------------------------------

    def open(self) -> None:
        """Constructs the engine."""
        self.engine = _engine.Engine(
            data_dir=str(self.path / self.name),
            name=self.name,
            node_id=self.id,
            cluster=self.cluster,
            raft_addr=self.listen or self.addr,
            raft_advertise=self.addr,
            grpc_addr=self.grpc,
            grpc_advertise=self.grpc,
            local="",
            upstream="",
            routes=self.routes,
            failures=FAILURES,
            options=self.options,
            tls=self.tls,
            contents=str(self.contents),
        )
        self.stopping = False
        self.error = None
        self.tickets: dict[int, list[Any]] = {}
        self.numbers = itertools.count(1)
        self.settled = threading.Condition()

    def start(self) -> Node:
        """Opens, starts and steps."""
        self.open()
        self.engine.start(self.disk.log_id, self.disk.membership)
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()
        return self

    def close(self) -> None:
        """Ends the engine and its thread; the disk stays."""
        self.stopping = True
        self.going.set()
        self.engine.close()
        self.thread.join()

    # ---- the hot thread -------------------------------------------------------------------------

    def run(self) -> None:
        """Steps until the engine or the test ends."""
        applied: list[Any] = []
        propose: list[Any] = []
        respond: list[Any] = []
        changed: list[Any] = []
        keep: list[Any] = []
        while not self.stopping:
            try:
                turn = self.engine.step(applied, propose, respond, changed, keep, 512, 200)
            except _engine.EngineError as error:
                self.error = error
                return
            self.going.wait()
            calls, batches, done, work, flow = turn
            applied, propose, respond, changed, keep = [], [], [], [], []
            for seq, entries, log_id, membership in batches:
                self.batches.append(len(entries))
                applied.append((seq, self.disk.apply(entries)))
                changed += map(self.changed, self.disk.changed)
                self.disk.log_id = log_id
                self.disk.membership = membership or self.disk.membership
            streams = [call for call in calls if call[1] not in self.method]
            respond += self.streams(streams, flow)
            for call, method, body in calls:
                if method not in self.method:
                    continue
                head = self.method[method](body)
                self.asked[method] = self.asked.get(method, 0) + 1
                if method in self.keeps:
                    keep.append((call, head))
                elif head is None:
                    propose.append((call, b""))
                else:
                    respond.append((call, head))
            with self.settled:
                for ticket, result in done:
                    self.tickets[ticket].append(result)
                self.settled.notify_all()
            for item in work:
                self.do(*item)

    def streams(self, calls: list[Any], flow: list[Any]) -> list[Any]:
        """Calls of methods that are not here, and news of them; what to respond."""
        assert not calls
        assert not flow
        return []

    def changed(self, key: str) -> tuple[int, bytes, bytes | None]:
        """What reads of a key get from now on, if that is told."""
        answer = self.disk.data[key].encode() if self.renews else None
        return next(iter(self.keeps), 0), encoded(key), answer

    def do(self, number: int, kind: int, text: str, data: bytes) -> None:
        """Rare work."""
        if kind == _engine.WORK_ASK:
            self.engine.finish(number, self.answer(text, data))
        elif kind == _engine.WORK_SNAPSHOT:
            state = self.disk.dump()
            self.engine.frozen(number)
            threading.Thread(target=self.write_snapshot, args=(number, text, state)).start()
        elif kind == _engine.WORK_INSTALL:
            n = int.from_bytes(data[:4], "big")
            log_id, membership = data[4 : 4 + n], data[8 + n :]
            self.disk.load(Path(text).read_text(), log_id, membership)
            self.engine.finish(number, b"")

    def write_snapshot(self, number: int, path: str, state: str) -> None:
        """The slow part of a snapshot."""
        Path(path).write_text(state)
        self.engine.finish(number, b"")

    # ---- what tests do --------------------------------------------------------------------------

    def ticket(self, begin: Callable[[int], None]) -> int:
        """A ticket with which something has begun."""
        ticket = next(self.numbers)
        self.tickets[ticket] = []
        begin(ticket)
        return ticket

    def wait(self, ticket: int, timeout_s: float = WAIT_S) -> bytes:
        """The result of a ticket; Refused for a failure."""
        with self.settled:
            found = self.settled.wait_for(lambda: self.tickets[ticket], timeout_s)
        assert found, "no result in time"
        (result,) = self.tickets.pop(ticket)
        if isinstance(result, tuple):
            raise Refused(*result)
        assert isinstance(result, bytes)
        return result

    def begin_put(self, key: str, value: str, timeout_ms: int = 8_000) -> int:
        """Submits; `wait` has the result."""
        entry = f"{key}={value}".encode()
        return self.ticket(lambda t: self.engine.submit(t, entry, timeout_ms))

    def put(self, key: str, value: str, timeout_ms: int = 8_000) -> int:
        """The index of the entry."""
        return int(self.wait(self.begin_put(key, value, timeout_ms)))

    def barrier(self, min_revision: int = 0, timeout_ms: int = 8_000) -> None:
        """Waits for a read barrier."""
        self.wait(self.ticket(lambda t: self.engine.barrier(t, min_revision, timeout_ms)))

    def get(self, key: str) -> str | None:
        """A linearizable read."""
        self.barrier()
        return self.disk.data.get(key)

    def status(self) -> dict[str, Any]:
        """What the engine says of itself."""
        return self.engine.status()

    def leads(self) -> bool:
        """It is the leader."""
        return bool(self.status()["role"] == "leader")

    def member(self, other: Node) -> dict[str, Any]:
        """What this node says of a member; empty when it knows none."""
        found = [m for m in self.status()["members"] if m["id"] == other.id]
        return found[0] if found else {}

    def admit(self, other: Node, promote: bool = True) -> None:
        """Makes another node a member; this one leads."""
        known = self.member(other)
        row = (other.id, other.name, other.addr, other.grpc, bool(known and known["voter"]))
        self.change(other.id, row)
        if promote:
            last = self.status()["last_log"]
            wait_until(lambda: self.member(other)["matched"] >= last, what="caught up")
            self.change(other.id, (*row[:4], True))

    def remove(self, other: Node) -> None:
        """Another node is no member any more; this one leads."""
        self.change(other.id)

    def change(self, number: int, *rows: tuple[int, str, str, str, bool]) -> int:
        """Puts these rows in the place of the member with that id."""
        status = self.status()
        members = [
            (m["id"], m["name"], m["raft"], m["grpc"], m["voter"])
            for m in status["members"] if m["id"] != number
        ]
        return self.engine.change(status["config"], [*members, *rows], 5_000)


@contextmanager
def cluster(
    path: Path, count: int, kind: type[Node] = Node, **options: int
) -> Iterator[list[Node]]:
    """`count` voters; the first leads."""
    nodes = [kind(path, f"node{i + 1}", **options).start() for i in range(count)]
    try:
        nodes[0].engine.initialize(5_000)
        for other in nodes[1:]:
            nodes[0].admit(other)
        yield nodes
    finally:
        for node in nodes:
            node.close()


def leader(nodes: list[Node]) -> Node:
    """The one that leads, and that all of them follow."""

    def agreed() -> Node | None:
        leaders = {n.status()["leader"] for n in nodes}
        found = [n for n in nodes if n.id in leaders and n.leads()]
        return found[0] if len(leaders) == 1 and found else None

    return wait_until(agreed, what="a leader")  # type: ignore[no-any-return]


def same(nodes: list[Node]) -> None:
    """Waits until all have applied the same, and compares."""
    wait_until(lambda: len({n.disk.applied for n in nodes}) == 1, what="equal applied index")
    assert len({json.dumps(n.disk.data, sort_keys=True) for n in nodes}) == 1
