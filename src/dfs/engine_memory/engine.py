"""One member of a cluster in memory, with the verbs of `_engine.Engine`."""

import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from typing import Any, Final

from ..limits import STREAM_BYTES
from .answers import KeptAnswers
from .contents import Contents
from .membership import EngineError, Membership
from .network import Cluster, Failure, LogItem, MemoryNetwork, Result, Waiting, log_id
from .streams import StreamedCall, Streams

Call = tuple[int, int, bytes]
Entry = tuple[int, bytes, bool]
Batch = tuple[int, list[Entry], bytes, bytes]
Done = tuple[int, Result]
Work = tuple[int, int, str, bytes]
Flow = tuple[int, bool]
Step = tuple[list[Call], list[Batch], list[Done], list[Work], list[Flow]]

WORK_ASK: Final = 1
WORK_SNAPSHOT: Final = 2
WORK_INSTALL: Final = 3
LEADER_WAIT_MS_MAX: Final = 5_000
BATCH_ENTRIES_MAX: Final = 512
TIME_TAG: Final = b"\x11"


class MemoryEngine(Membership, Contents):
    """One node's member of a cluster in memory; see `_engine.Engine` for every verb."""

    def __init__(
        self,
        *,
        data_dir: str,
        name: str,
        node_id: int,
        cluster: bytes,
        raft_addr: str,
        raft_advertise: str,
        grpc_addr: str,
        grpc_advertise: str,
        local: str,
        upstream: str,
        routes: Mapping[str, tuple[int, bool, bool]],
        failures: Mapping[str, Failure],
        options: Mapping[str, int],
        contents: str = "",
        network: MemoryNetwork | None = None,
        clock: Callable[[], int] = time.time_ns,
    ) -> None:
        self.data_dir, self.name, self.node_id, self.cluster = data_dir, name, node_id, cluster
        self.raft, self.grpc, self.contents = raft_advertise, grpc_advertise, contents
        self.listens = raft_addr, grpc_addr, local
        self.upstream, self.options, self.failures = upstream, options, failures
        self.reads = {method for method, reads, _ in routes.values() if reads}
        self.network = network or MemoryNetwork()
        self.cluster_log = self.network.cluster_of(node_id)
        self.applied = 0
        self.durable_index = 0
        self.kept = KeptAnswers()
        self._changed = self.network.changed
        self._streams = Streams(self._changed, options.get("stream_bytes", STREAM_BYTES))
        self._clock = clock
        self._position = 0
        self._ids = 0
        self._out: tuple[int, list[LogItem]] | None = None
        self._frozen_for = 0
        self._calls: deque[Call] = deque()
        self._bodies: dict[int, tuple[int, bytes, Future[Result]]] = {}
        self._done: deque[Done] = deque()
        self._work: deque[Work] = deque()
        self._works: dict[int, Future[Result]] = {}
        self._waiting: list[Waiting] = []
        self._woken = False
        self._draining = False
        self._refused: Failure | None = None
        self._error = ""

    # ---- life ------------------------------------------------------------------------------------

    def recovery(self) -> dict[str, Any]:
        """Nothing survives in memory but what the network still has."""
        log = self.cluster_log or Cluster()
        path, index, membership = log.snapshot
        return {
            "first": log.purged + 1 if log.log else 0, "last": len(log.log), "purged": log.purged,
            "durable": self.durable_index, "snapshot": path, "snapshot_index": index,
            "snapshot_log_id": log_id(log.term, index), "snapshot_membership": membership,
        }

    def lost(self, promised: bytes) -> str:  # noqa: ARG002
        """Nothing is, in memory."""
        return ""

    def objection(self, applied: bytes) -> str:
        """A store behind what was purged is of no use."""
        have, log = int.from_bytes(applied[8:], "big"), self.cluster_log or Cluster()
        return f"the store has revision {have}" if have < log.purged else ""

    def fetch_snapshot(self, addr: str, index: int, timeout_ms: int) -> int:
        """Has another member take a snapshot."""
        with self._changed:
            other = self.network.engines.get(addr)
        if other is None:
            raise ConnectionError(f"{addr}: connection refused")
        if other.applied < index:
            raise EngineError(f"{addr}: {other.name} has the state of log index {other.applied}")
        other.snapshot(timeout_ms)
        found: int = self.recovery()["snapshot_index"]
        return found

    def start(self, applied: bytes, membership: bytes) -> None:  # noqa: ARG002
        """Takes its address in the network."""
        with self._changed:
            if self.raft in self.network.engines:
                raise OSError(98, f"{self.raft}: Address already in use")
            self._position = self.applied = int.from_bytes(applied[8:], "big")
            self.network.engines[self.raft] = self

    def step(
        self,
        applied: Sequence[tuple[int, Sequence[Result | None]]],
        propose: Sequence[tuple[int, bytes]],
        respond: Sequence[tuple[int, Result]],
        changed: Sequence[tuple[int, bytes, bytes | None]],
        keep: Sequence[tuple[int, bytes]],
        max_items: int,
        timeout_ms: int,
    ) -> Step:
        """Results in, next batch out."""
        deadline = time.monotonic() + timeout_ms / 1000
        with self._changed:
            if self._error:
                raise EngineError(self._error)
            self.kept.change(changed)
            for seq, results in applied:
                self._applied(seq, results)
            for call_id, head in propose:
                _, body, future = self._bodies[call_id]
                self._propose(head + body, self._answer_of(call_id, future), LEADER_WAIT_MS_MAX)
            for call_id, result in respond:
                if call_id in self._bodies:
                    self._answer_of(call_id, self._bodies[call_id][2])(result)
                else:
                    self._streams.end(call_id, result)
            for call_id, answer in keep:
                method, body, future = self._bodies[call_id]
                self.kept.keep(call_id, method, body, answer)
                self._answer_of(call_id, future)(answer)
            while True:
                found = self._collect(max_items)
                left = deadline - time.monotonic()
                if any(found) or self._woken or left <= 0 or self._error:
                    self._woken = False
                    return found
                self._changed.wait(min(left, 0.05) if self._waiting else left)

    def forget_all(self, for_good: bool) -> None:
        """Nothing that was kept is given any more."""
        with self._changed:
            self.kept.forget_all(self._ids, for_good)

    def admit(self, method: int, writer: bytes, data_bytes_max: int) -> None:
        """All calls go to `step` here, which makes the same heads."""

    def wake(self) -> None:
        """Makes a waiting `step` return."""
        with self._changed:
            self._woken = True
            self._changed.notify_all()

    def drain(self, timeout_ms: int) -> None:  # noqa: ARG002
        """Takes no more calls and hands leadership away."""
        with self._changed:
            self._draining = True
            log = self.cluster_log
            if log and log.leader == self.node_id:
                others = [i for i, m in log.members.items() if m["voter"] and i != self.node_id]
                log.leader = next((i for i in others if self._reachable(i)), 0)
                log.term += 1
            self._changed.notify_all()

    def close(self) -> None:
        """Leaves the network; whoever waits gets "shutting_down"."""
        with self._changed:
            if self.network.engines.get(self.raft) is self:
                del self.network.engines[self.raft]
            log = self.cluster_log
            if log and log.leader == self.node_id:
                log.leader = 0
            for waiting in self._waiting:
                waiting.answer(self.failures["shutting_down"])
            for future in self._works.values():
                future.set_exception(ConnectionError(f"{self.raft}: connection closed"))
            self._streams.close(self.failures["shutting_down"])
            self._waiting, self._works = [], {}
            self._changed.notify_all()

    def fail(self, text: str) -> None:
        """A test's storage error: `step` raises from here on."""
        with self._changed:
            self._error = text
            self._changed.notify_all()

    # ---- calls and proposals ---------------------------------------------------------------------

    def call(self, method: int, body: bytes, timeout_ms: int = 10_000) -> Future[Result]:
        """What the wire does with a unary call: hands it to Python, after a barrier if it reads."""
        future: Future[Result] = Future()
        with self._changed:
            if refusal := self._refusal():
                future.set_result(refusal)
                return future
            self._ids += 1
            self._bodies[self._ids] = (method, body, future)
            self._hand_over(self._ids, method, body, self._answer_of(self._ids, future), timeout_ms)
        return future

    def stream(self, method: int, body: bytes, timeout_ms: int = 10_000) -> StreamedCall:
        """The same for a call that is answered by a stream."""
        with self._changed:
            self._ids += 1
            call_id, call = self._ids, self._streams.open(self._ids)
            answer = partial(self._streams.end, call_id)
            if refusal := self._refusal():
                answer(refusal)
            else:
                self._hand_over(call_id, method, body, answer, timeout_ms)
        return call

    def _hand_over(
        self, call_id: int, method: int, body: bytes, answer: Callable[[Result], None], limit: int
    ) -> None:
        def passed(result: Result) -> None:
            if not isinstance(result, bytes):
                answer(result)
            elif (known := self.kept.find(method, body)) is not None:
                answer(known)
            else:
                self._calls.append((call_id, method, body))

        if method in self.reads:
            self._barrier(passed, 0, limit)
        else:
            passed(b"")
        self._changed.notify_all()

    def send(self, calls: Sequence[int], message: bytes) -> list[tuple[int, int]]:
        """Sends one message of their answers to all of these calls."""
        with self._changed:
            return self._streams.send(calls, message)

    def refuse(self, failure: Failure | None) -> None:
        """Answers every call that comes with this."""
        with self._changed:
            self._refused = failure

    def _refusal(self) -> Failure | None:
        return self.failures["shutting_down"] if self._draining else self._refused

    def end(self, call: int, failure: Failure | None) -> None:
        """Ends an answer by a stream."""
        with self._changed:
            self._streams.end(call, failure or b"")

    def submit(self, ticket: int, entry: bytes, timeout_ms: int) -> None:
        """Proposes an entry; the result comes as Done."""
        with self._changed:
            self._propose(entry, self._done_of(ticket), timeout_ms)

    def barrier(self, ticket: int, min_revision: int, timeout_ms: int) -> None:
        """Done when everything committed, or `min_revision`, is applied here."""
        with self._changed:
            self._barrier(self._done_of(ticket), min_revision, timeout_ms)

    def _answer_of(self, call_id: int, future: Future[Result]) -> Callable[[Result], None]:
        def answer(result: Result) -> None:
            self._bodies.pop(call_id, None)
            if not future.done():
                future.set_result(result)

        return answer

    def _done_of(self, ticket: int) -> Callable[[Result], None]:
        def answer(result: Result) -> None:
            self._done.append((ticket, result))
            self._changed.notify_all()

        return answer

    def _propose(self, entry: bytes, answer: Callable[[Result], None], timeout_ms: int) -> None:
        wait = min(timeout_ms, LEADER_WAIT_MS_MAX) / 1000
        self._waiting.append(Waiting(answer, time.monotonic() + wait, entry=entry))
        self._changed.notify_all()

    def _barrier(self, answer: Callable[[Result], None], index: int, timeout_ms: int) -> None:
        deadline = time.monotonic() + timeout_ms / 1000
        self._waiting.append(Waiting(answer, deadline, index=index))
        self._changed.notify_all()

    # ---- the log ---------------------------------------------------------------------------------

    def _applied(self, seq: int, results: Sequence[Result | None]) -> None:
        assert self._out is not None
        assert self._out[0] == seq
        items = self._out[1]
        assert len(items) == len(results)
        self._out = None
        self.applied = self._position
        for item, result in zip(items, results, strict=True):
            if item.answer is not None and result is not None:
                item.answer(result)
                item.answer = None
        self._changed.notify_all()

    def _collect(self, max_items: int) -> Step:
        self._serve_waiting()
        work = list(self._work)
        self._work.clear()
        calls = [self._calls.popleft() for _ in range(min(max_items, len(self._calls)))]
        done = [self._done.popleft() for _ in range(min(max_items, len(self._done)))]
        batches: list[Batch] = []
        if self._out is None and not self._frozen_for and not self._cut_off():
            if installing := self._install():
                work.append(installing)
            else:
                batches = self._next_batch()
        return calls, batches, done, work, self._streams.heard()

    def _next_batch(self) -> list[Batch]:
        log = self.cluster_log
        if log is None or self._position >= len(log.log) or self.node_id not in log.members:
            return []
        items = log.log[self._position : self._position + BATCH_ENTRIES_MAX]
        wanted = log.leader == self.node_id
        first = self._position + 1
        entries = [
            (first + i, item.payload, wanted and item.answer is not None)
            for i, item in enumerate(items)
        ]
        self._position += len(items)
        membership = next((i.membership for i in reversed(items) if i.membership), b"")
        self._out = (self._position, items)
        return [(self._position, entries, log_id(log.term, self._position), membership)]

    def _serve_waiting(self) -> None:
        log, now, left = self.cluster_log, time.monotonic(), []
        for waiting in self._waiting:
            led = log is not None and log.leader and not self._cut_off()
            if log is not None and led and waiting.entry is not None:
                stamp = TIME_TAG + self._clock().to_bytes(8, "little")
                log.log.append(LogItem(waiting.entry + stamp, b"", waiting.answer))
                self._changed.notify_all()
                continue
            if log is not None and led and not waiting.index:
                waiting.index = len(log.log)
            if waiting.entry is None and waiting.index and self.applied >= waiting.index:
                waiting.answer(b"")
            elif now >= waiting.deadline:
                kind = "deadline" if waiting.index else "no_leader"
                waiting.answer(self.failures[kind])
            else:
                left.append(waiting)
        self._waiting = left

    def _install(self) -> Work | None:
        log = self.cluster_log
        if log is None or self._position >= log.purged or self.node_id not in log.members:
            return None
        path, index, membership = log.snapshot
        parts = (log_id(log.term, index), membership)
        data = b"".join(len(part).to_bytes(4, "big") + part for part in parts)

        def installed(done: Future[Result]) -> None:
            with self._changed:
                self._frozen_for = 0
                self.forget_all(False)
                if done.exception() is None and done.result() == b"":
                    self._position = self.applied = index
                else:
                    self._error = f"the snapshot could not be installed: {done}"
                self._changed.notify_all()

        work = self._new_work()
        self._works[work].add_done_callback(installed)
        self._frozen_for = work
        return work, WORK_INSTALL, path, data

    def _cut_off(self) -> bool:
        return self.raft in self.network.silent

    # ---- rare work -------------------------------------------------------------------------------

    def _new_work(self) -> int:
        self._ids += 1
        self._works[self._ids] = Future()
        return self._ids

    def frozen(self, work: int) -> None:
        """Apply may go on."""
        with self._changed:
            if self._frozen_for == work:
                self._frozen_for = 0
            self._changed.notify_all()

    def finish(self, work: int, result: Result) -> None:
        """The outcome of a piece of work."""
        with self._changed:
            future = self._works.pop(work, None)
            if future is not None:
                future.set_result(result)
            self._changed.notify_all()

    def durable(self, index: int) -> None:
        """Recorded, for tests to look at."""
        self.durable_index = max(self.durable_index, index)

    def snapshot(self, timeout_ms: int) -> None:
        """Has Python write a snapshot, then forgets the log before it."""
        with self._changed:
            log = self.cluster_log
            if log is None:
                raise EngineError("there is nothing to take a snapshot of")
            path = str(Path(self.data_dir) / f"snapshot-{self._ids + 1}")
            work = self._new_work()
            future = self._works[work]
            self._frozen_for = work
            self._work.append((work, WORK_SNAPSHOT, path, b""))
            self._changed.notify_all()
            index = self.applied
        result = future.result(timeout_ms / 1000)
        if not isinstance(result, bytes):
            raise EngineError(result[1])
        with self._changed:
            membership = next((i.membership for i in log.log[:index][::-1] if i.membership), b"")
            log.snapshot, log.purged = (path, index, membership), index

    def ask(self, addr: str, body: bytes, timeout_ms: int) -> bytes:
        """Puts a question to the Python of the engine at `addr`."""
        with self._changed:
            other = self.network.engines.get(addr)
            if other is None:
                raise ConnectionError(f"{addr}: connection refused")
            if self._cut_off() or addr in self.network.silent:
                raise TimeoutError(f"{addr}: no answer within {timeout_ms} ms")
            if self.cluster and other.cluster and self.cluster != other.cluster:
                theirs, ours = other.cluster.hex(), self.cluster.hex()
                raise EngineError(
                    f"{addr}: {other.name} belongs to cluster {theirs}, the caller to {ours}"
                )
            work = other._new_work()
            future = other._works[work]
            other._work.append((work, WORK_ASK, self.name if self.cluster else "", body))
            self._changed.notify_all()
        try:
            result = future.result(timeout_ms / 1000)
        except TimeoutError:
            raise TimeoutError(f"{addr}: no answer within {timeout_ms} ms") from None
        if isinstance(result, bytes):
            return result
        raise EngineError(result[1])

    # ---- figures ---------------------------------------------------------------------------------

    def status(self) -> dict[str, Any]:
        """The figures that `_engine.Engine.status` has."""
        with self._changed:
            log = self.cluster_log or Cluster()
            me = log.members.get(self.node_id)
            role = "fresh" if not log.log else "follower" if me and me["voter"] else "learner"
            if log.leader == self.node_id:
                role = "leader"
            last = len(log.log) if not self._cut_off() else self.applied
            zeros = (
                "log_bytes", "snapshots_sent", "snapshots_installed", "streams", "connections",
                "handed_over_for_disk", "disk_stalled",
            )
            return {
                "id": self.node_id, "term": log.term if log.log else 0, "role": role,
                "leader": 0 if self._cut_off() else log.leader, "last_log": last,
                "committed": last, "applied": self.applied, "purged": log.purged,
                "config": log.config,
                "snapshot": log.snapshot[1], "durable": self.durable_index, "elections": log.term,
                "calls": len(self._bodies), "promised": b"", "disk": "",
                **dict.fromkeys(zeros, 0),
                "members": [self._member_status(m, role == "leader") for m in log.members.values()],
            }

    def _member_status(self, member: dict[str, Any], leading: bool) -> dict[str, Any]:
        engine = self.network.engines.get(member["raft"])
        up = engine is not None and member["raft"] not in self.network.silent
        matched = engine.applied if engine is not None and leading else 0
        error = "" if up else "connection refused"
        return {**member, "matched": matched, "contact_ms": 0 if up else -1, "error": error}
