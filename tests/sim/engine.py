"""The verbs of `_engine.Engine` for one simulated member; none of them waits."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final

from dfs import commands
from dfs._engine import WORK_INSTALL, WORK_SNAPSHOT, plain_head
from dfs.engine_memory.answers import KeptAnswers
from dfs.engine_memory.network import Failure, Result
from dfs.proto import dfs_pb2 as pb
from dfs.server import hot
from dfs.status import engine_failures

from .raft import Proposed, Raft, Snapshot
from .streams import ServerStream

Answer = Callable[[Any], None]
FAILURES: Final = engine_failures()
LEADER_WAIT_S: Final = 5.0
RETRY_S: Final = 0.03
READS: Final = {
    hot.GET.number: pb.GetRequest, hot.STAT.number: pb.StatRequest,
    hot.LIST.number: pb.ListRequest, hot.HISTORY.number: pb.HistoryRequest,
}


class Once:
    """An answer that is given once."""

    def __init__(self, answer: Answer) -> None:
        self.given = False
        self._answer = answer

    def __call__(self, result: Any) -> None:
        if not self.given:
            self.given = True
            self._answer(result)


class SimEngine:
    """One life of one member: a restart makes another."""

    def __init__(
        self, raft: Raft, number: int, name: str, clock: Callable[[], int],
        wake: Callable[[], None], stream_bytes: int,
    ) -> None:
        """`clock`: what this machine thinks of the time. `wake`: the hot thread has work."""
        self.raft, self.world, self.network = raft, raft.world, raft.network
        self.number, self.name = number, name
        self.stream_bytes = stream_bytes
        self.dead = self.draining = False
        self.believes = ""
        """Who leads, as far as it knows."""
        self.leading = 0
        """The term in which it thinks that it leads."""
        self.heard = (0, 0)
        """Term and committed index that it knows of."""
        self.waiters: dict[int, Answer] = {}
        """Of committed entries, who waits for their result here."""
        self.lost: list[Answer] = []
        """Who waits for entries of which this leader will never hear again."""
        self.applied = self.position = self.durable_index = 0
        self.breaks: dict[int, Callable[[], None]] = {}
        """What ends each call when this member dies."""
        self.streams: dict[int, ServerStream] = {}
        self._clock, self._wake = clock, wake
        self._kept = KeptAnswers()
        self._admitted = (0, b"", 0)
        self._ids = 0
        self._bodies: dict[int, tuple[int, bytes, Answer]] = {}
        self._ends: dict[int, float] = {}
        """The deadlines of those calls."""
        self._calls: deque[tuple[int, int, bytes]] = deque()
        self._done: deque[tuple[int, Result]] = deque()
        self._work: deque[tuple[int, int, str, bytes]] = deque()
        self._flow: list[tuple[int, bool]] = []
        self._out: tuple[int, int] | None = None
        self._frozen_for = 0
        self._finishing: dict[int, Callable[[Result], None]] = {}
        self._when_applied: list[tuple[int, Once]] = []

    # ---- life ------------------------------------------------------------------------------------
    def start(self, applied: bytes, membership: bytes) -> None:
        """Joins the others where its store is."""
        self.position = self.applied = int.from_bytes(applied[8:], "big")
        self.raft.engines[self.name] = self

    def crash(self) -> None:
        """Everything in memory is gone."""
        self.dead = True
        self.raft.engines.pop(self.name, None)
        for end in list(self.breaks.values()):
            end()
        self.breaks.clear()

    def lead(self, term: int) -> None:
        """It was elected."""
        self.leading = term

    def learn(self, term: int, leader: str, committed: int) -> None:
        """News of the leader."""
        if self.dead or (term, committed) < self.heard:
            return
        self.heard, self.believes = (term, committed), leader
        if self.leading and self.leading < term:
            self._step_down()
        self._wake()

    def _step_down(self) -> None:
        self.leading = 0
        waiting, self.lost = self.lost, []
        if self.world.likely(0.5):
            waiting += [self.waiters.pop(index) for index in list(self.waiters)]
        for answer in waiting:
            answer(FAILURES["outcome_unknown"])

    def status(self) -> dict[str, Any]:
        """What a node asks for."""
        role = "leader" if self.leading else "follower"
        return {
            "id": self.number, "role": role, "term": self.heard[0], "applied": self.applied,
            "committed": self.heard[1], "last_log": self.heard[1], "members": [],
            "leader": self.number if self.leading else 0, "promised": b"", "disk": "",
        }

    # ---- the hot loop ----------------------------------------------------------------------------
    def step(
        self, applied: Any, propose: Any, respond: Any, changed: Any, keep: Any, max_items: int,
        timeout_ms: int,
    ) -> Any:
        """Results in, next batch out."""
        self._kept.change(changed)
        for seq, results in applied:
            self._was_applied(seq, results)
        for call_id, head in propose:
            if call_id in self._bodies:
                _, body, answer = self._bodies.pop(call_id)
                left_s = self._ends.pop(call_id) - self.world.now
                self._propose(head + body, Once(answer), min(left_s, LEADER_WAIT_S))
        for call_id, result in respond:
            self._respond(call_id, result)
        for call_id, result in keep:
            if call_id in self._bodies:
                method, body, _ = self._bodies[call_id]
                self._kept.keep(call_id, method, body, result)
                self._respond(call_id, result)
        limit = min(max_items, self.world.knobs.turn_items)
        calls = [self._calls.popleft() for _ in range(min(limit, len(self._calls)))]
        done = [self._done.popleft() for _ in range(min(limit, len(self._done)))]
        work = list(self._work)
        self._work.clear()
        batches = self._next_batches(work)
        flow, self._flow = self._flow, []
        found = calls, batches, done, work, flow
        if any(found) or applied or propose or respond or keep or self._calls or self._done:
            self._wake()
        return found

    def _next_batches(self, work: list[Any]) -> list[Any]:
        if self._out is not None or self._frozen_for:
            return []
        snapshot = self.raft.snapshot
        if snapshot.index > self.position and (
            self.position < self.raft.purged or self.world.fault(0.3)
        ):
            work.append(self._install(snapshot))
            return []
        size = min(self.heard[1] - self.position, self.world.chance.randint(1, self._batch_max()))
        if size <= 0:
            return []
        first, last = self.position + 1, self.position + size
        entries = [
            (index, self.raft.log[index - 1], index in self.waiters)
            for index in range(first, last + 1)
        ]
        self._out = first, last
        self.position = last
        membership = self.raft.membership if first == 1 else b""
        return [(last, entries, self.raft.log_id(last), membership)]

    def _batch_max(self) -> int:
        return self.world.knobs.batch_entries

    def _was_applied(self, seq: int, results: Sequence[Any]) -> None:
        assert self._out is not None
        first, last = self._out
        assert (seq, len(results)) == (last, last - first + 1)
        self._out = None
        self.applied = last
        for index, result in zip(range(first, last + 1), results, strict=True):
            answer = self.waiters.pop(index, None)
            if answer is not None and result is not None:
                answer(result)
            elif answer is not None:
                answer(FAILURES["outcome_unknown"])  # It began to wait when the batch was out.
        self._serve_applied()

    def _serve_applied(self) -> None:
        ready = [answer for index, answer in self._when_applied if index <= self.applied]
        self._when_applied = [w for w in self._when_applied if w[0] > self.applied]
        for answer in ready:
            answer(b"")

    def _respond(self, call_id: int, result: Result) -> None:
        if call_id in self._bodies:
            del self._ends[call_id]
            self._bodies.pop(call_id)[2](result)
        else:
            self._end_stream(call_id, result)

    # ---- calls -----------------------------------------------------------------------------------
    def call(self, number: int, body: bytes, limit_s: float, answer: Answer) -> None:
        """What the wire does with a unary call."""
        answer = Once(answer)
        if self.draining:
            answer(FAILURES["shutting_down"])
            return
        self._ids += 1
        call_id = self._ids
        method, writer, data_max = self._admitted
        if number == method and writer and (head := plain_head(body, writer, data_max)):
            self.world.counts["put without the hot thread"] += 1
            self._propose(head + body, answer, min(limit_s, LEADER_WAIT_S))
            return
        self._hand_over(call_id, number, body, answer, limit_s)

    def stream(self, number: int, body: bytes, sink: Any) -> ServerStream:
        """The same for a call that is answered by a stream."""
        self._ids += 1
        call_id = self._ids
        stream = self.streams[call_id] = ServerStream(self, call_id, sink)
        if self.draining:
            self._end_stream(call_id, FAILURES["shutting_down"])
        else:
            answer = Once(lambda result: self._end_stream(call_id, result))
            self._hand_over(call_id, number, body, answer, 10.0)
        return stream

    def _hand_over(
        self, call_id: int, number: int, body: bytes, answer: Answer, limit_s: float
    ) -> None:
        end = self.world.now + limit_s
        level = READS[number].FromString(body) if number in READS else None
        asks = level is not None and level.consistency != pb.LOCAL
        least = level.min_revision if level is not None else 0
        if level is not None and number in (hot.GET.number, hot.STAT.number):
            # How fresh is the engine's to see to; so requests for the same are the same.
            body = _without_level(level)

        def passed(result: Result) -> None:
            if self.dead or not isinstance(result, bytes):
                answer(result)
                return
            if (known := self._kept.find(number, body)) is not None:
                self.world.counts["answer given again"] += 1
                answer(known)
                return
            if call_id not in self.streams:
                self._bodies[call_id] = (number, body, answer)
                self._ends[call_id] = end
            self._calls.append((call_id, number, body))
            self._wake()

        if asks or least:
            self._barrier(Once(passed), least, limit_s, asks)
        else:
            passed(b"")

    def send(self, calls: Sequence[int], message: bytes) -> list[tuple[int, int]]:
        """One message to all of these callers."""
        news = []
        for call_id in calls:
            stream = self.streams.get(call_id)
            waits = -1 if stream is None or self.dead else stream.push(message)
            if waits:
                news.append((call_id, waits))
        return news

    def end(self, call: int, failure: Failure | None) -> None:
        """Ends an answer by a stream."""
        self._end_stream(call, failure or b"")

    def _end_stream(self, call_id: int, result: Result) -> None:
        stream = self.streams.pop(call_id, None)
        if stream is not None and not self.dead:
            stream.finish(result)

    def flow(self, call_id: int, room: bool) -> None:
        """A caller has room again, or is gone."""
        if self.dead or call_id not in self.streams:
            return
        if not room:
            del self.streams[call_id]
        self._flow.append((call_id, room))
        self._wake()

    # ---- proposals and barriers ------------------------------------------------------------------
    def submit(self, ticket: int, entry: bytes, timeout_ms: int) -> None:
        """Proposes an entry; the result comes as Done."""
        self._propose(entry, Once(lambda r: self._is_done(ticket, r)), timeout_ms / 1000)

    def barrier(self, ticket: int, min_revision: int, timeout_ms: int) -> None:
        """Done when what is committed, or `min_revision`, is applied here."""
        answer = Once(lambda result: self._is_done(ticket, result))
        self._barrier(answer, min_revision, timeout_ms / 1000, not min_revision)

    def _is_done(self, ticket: int, result: Result) -> None:
        if not self.dead:
            self._done.append((ticket, result))
            self._wake()

    def _propose(self, entry: bytes, answer: Once, limit_s: float) -> None:
        self._find_leader(entry, answer, self.world.now + limit_s)

    def _find_leader(self, entry: bytes, answer: Once, end: float) -> None:
        if self.dead or answer.given:
            return
        if self.leading:
            stamped = entry + commands.stamp(self._clock())
            self.raft.append(self, Proposed(stamped, answer))
            self.world.later(max(end - self.world.now, 0), answer, FAILURES["outcome_unknown"])
        elif self.world.now >= end:
            answer(FAILURES["no_leader"])
        elif not self.believes or self.believes == self.name:
            self.world.later(RETRY_S, self._find_leader, entry, answer, end)
        else:
            sent = self.network.send(
                self.name, self.believes, self._forwarded, self.believes, entry, answer, end
            )
            if not sent:
                self._give_up_later(answer)
                self._late(self.believes, entry, end - self.world.now)

    def _late(self, leader: str, entry: bytes, left_s: float) -> None:
        """What was written into a connection may be delivered long after its end, and the leader
        knows only how much time was left when it was sent."""
        world = self.world
        if not world.fault(0.5):
            return

        def arrive() -> None:
            engine = self.raft.engines.get(leader)
            if engine is not None and engine.leading:
                world.count("forwarded write comes late")
                engine._find_leader(entry, Once(lambda _: None), world.now + left_s)

        world.later(world.chance.uniform(0.2, 5.0), arrive)

    def _forwarded(self, leader: str, entry: bytes, answer: Once, end: float) -> None:
        """At the leader, if it is one."""
        engine = self.raft.engines.get(leader)
        if engine is None:
            self._give_up_later(answer)
            return
        if not engine.leading:
            self.world.later(RETRY_S, self._find_leader, entry, answer, end)
            return

        def back(result: Result) -> None:
            if not self.network.send(leader, self.name, self._unless_dead, answer, result):
                self.world.count("result of a forwarded write lost")
                self._give_up_later(answer)

        engine._find_leader(entry, Once(back), end)

    def _unless_dead(self, answer: Once, result: Result) -> None:
        if not self.dead:
            answer(result)

    def _give_up_later(self, answer: Once) -> None:
        self.world.later(
            self.world.chance.uniform(0.01, 1.0), answer, FAILURES["outcome_unknown"]
        )

    def _barrier(self, answer: Once, least: int, limit_s: float, asks: bool) -> None:
        end = self.world.now + limit_s
        self.world.later(limit_s, answer, FAILURES["no_leader" if asks else "deadline"])
        if asks:
            self._ask_leader(answer, least, end)
        else:
            self._await(least, answer)

    def _await(self, index: int, answer: Once) -> None:
        if self.applied >= index:
            answer(b"")
        else:
            self._when_applied.append((index, answer))

    def _ask_leader(self, answer: Once, least: int, end: float) -> None:
        if self.dead or answer.given:
            return
        again = self._ask_leader, answer, least, end
        leader = self.name if self.leading else self.believes
        if not leader or (leader == self.name and not self.leading):
            self.world.later(RETRY_S, *again)
        elif not self.network.send(self.name, leader, self._asked, leader, answer, least, end):
            self.world.later(5 * RETRY_S, *again)

    def _asked(self, leader: str, answer: Once, least: int, end: float) -> None:
        """At the leader: what is committed now, and then whether a majority still follows it."""
        again = self._ask_leader, answer, least, end
        engine = self.raft.engines.get(leader)
        if engine is None or not engine.leading:
            self.world.later(RETRY_S, *again)
            return
        committed, term = engine.heard[1], engine.leading

        def confirmed() -> None:
            leads = engine.leading == term == self.raft.term and not engine.dead
            if not leads or not self.raft.reaches_majority(leader):
                self.world.count("barrier not confirmed")
                self.world.later(RETRY_S, *again)
            elif not self.network.send(leader, self.name, self._passed, committed, least, answer):
                self.world.later(5 * RETRY_S, *again)

        self.world.later(2 * self.network.latency(), confirmed)

    def _passed(self, committed: int, least: int, answer: Once) -> None:
        if not self.dead:
            self._await(max(committed, least), answer)

    # ---- rare work -------------------------------------------------------------------------------
    def snapshot(self, path: str) -> None:
        """Has Python write the state to a file, which any member may be given from then on."""
        if self._frozen_for or self._out is not None or self._work or not self.position:
            return
        work = self._new_work()
        index = self.position

        def written(result: Result) -> None:
            if result != b"":
                self.world.count("snapshot not written", f"{self.name}: {result[1]}")
            elif index > self.raft.snapshot.index:
                self.raft.snapshot = Snapshot(path, index)
                self.world.count("snapshot written", f"{self.name} at {index}")

        self._finishing[work] = written
        self._frozen_for = work
        self._work.append((work, WORK_SNAPSHOT, path, b""))
        self._wake()

    def frozen(self, work: int) -> None:
        """The view is pinned."""
        if self._frozen_for == work:
            self._frozen_for = 0

    def finish(self, work: int, result: Result) -> None:
        """Rare work has come to its end."""
        if not self.dead:
            self._finishing.pop(work)(result)
            self._wake()

    def _install(self, snapshot: Snapshot) -> tuple[int, int, str, bytes]:
        work = self._new_work()

        def installed(result: Result) -> None:
            if result != b"":
                self.world.fail(f"{self.name} could not install a snapshot: {result!r}")
            self._frozen_for = 0
            self.forget_all(False)
            self.position = self.applied = snapshot.index
            self._serve_applied()
            self.world.count("snapshot installed", f"{self.name} at {snapshot.index}")

        self._finishing[work] = installed
        self._frozen_for = work
        parts = self.raft.log_id(snapshot.index), self.raft.membership
        data = b"".join(len(part).to_bytes(4, "big") + part for part in parts)
        return work, WORK_INSTALL, snapshot.path, data

    def _new_work(self) -> int:
        self._ids += 1
        return self._ids

    def forget_all(self, for_good: bool) -> None:
        """Nothing that was kept is given any more."""
        self._kept.forget_all(self._ids, for_good)

    def admit(self, method: int, writer: bytes, data_bytes_max: int) -> None:
        """Plain puts of this method go to the log by themselves."""
        self._admitted = (method, writer, data_bytes_max)

    def wake(self) -> None:
        """The hot thread has a job."""
        self._wake()

    def durable(self, index: int) -> None:
        """The store is on disk up to there."""
        self.durable_index = max(self.durable_index, index)


def _without_level(request: Any) -> bytes:
    request.ClearField("consistency")
    request.ClearField("min_revision")
    encoded: bytes = request.SerializeToString()
    return encoded
