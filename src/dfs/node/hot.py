"""The hot thread: takes batches from the engine, applies, answers.

It is the only thread that changes the store. One turn is one `step`: results in, next batch out.
Whatever the asyncio side has to hear of a turn goes over in one `call_soon_threadsafe`.

    engine ──step──► calls    → head of an entry, or the answer of a read, perhaps to be kept;
                                plain puts only while they are refused, or when they are large;
                                streams that are no single message go to the asyncio side
                     batches  → store.apply → results, changes for watchers, what reads get now
                     done     → outcome of what `submit` or `barrier` began
                     work     → snapshots here, questions to the asyncio side
                     flow     → to the asyncio side: who takes messages of streams, who is gone

An exception that is no DfsError inside apply would make this node differ from the others if it went
on: the process stops at once, and so it does when the store cannot be written. Where a checksum
does not fit, in apply or in a read, the node stops serving and is healed (`dfs.healing`).
"""

import asyncio
import itertools
import logging
import os
import secrets
import sys
import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final, NoReturn, Protocol

from ..errors import DataLoss, DfsError, Internal, OutOfSpace, remedy
from ..limits import (
    DEADLINE_MS_DEFAULT,
    HASH_MARKS_MAX,
    STEP_ITEMS_MAX,
    STEP_WAIT_MS,
    STREAM_CHUNK_BYTES_MAX,
    TURN_ANSWER_BYTES_MAX,
)
from ..store import LargeContent, Stored
from .ports import (
    Batch,
    Behind,
    Call,
    Changed,
    Codec,
    Done,
    Engine,
    Failure,
    Flow,
    Result,
    Work,
)

log = logging.getLogger("dfs.node")

EXIT_CODE_STATE: Final = 70
"""The process stopped itself because going on could serve wrong data (EX_SOFTWARE)."""


class Machine(Protocol):
    """What the hot thread needs of the store."""

    applied: int
    state_hash: bytes
    chain: bytes
    contents: dict[bytes, bool]

    def apply(
        self, entries: list[tuple[int, bytes, bool]], log_id: bytes, membership: bytes
    ) -> tuple[list[bytes | DfsError | None], list[Stored]]:
        """Applies committed entries, in order, as one atomic write."""


Step = tuple[list[Call], list[Batch], list[Done], list[Work], list[Flow]]
Mark = tuple[int, bytes]
"""(applied index, state hash and chain at it)."""


def stop_process(sentence: str) -> NoReturn:
    """Says why, with the traceback if it is a bug, and ends the process without clean-up."""
    error = sys.exception()
    bug = error is not None and not isinstance(error, OSError | DfsError)
    log.critical("%s", sentence, exc_info=bug)
    logging.shutdown()
    os._exit(EXIT_CODE_STATE)


class _EngineStopped(DfsError):
    """Raft or its log has failed."""


class HotLoop:
    """Runs the hot thread; see the module's text."""

    def __init__(
        self,
        engine: Engine,
        store: Machine,
        codec: Codec,
        on_work: Callable[[Work], None],
        on_changes: Callable[[tuple[int, list[Stored]]], None],
        on_streams: Callable[[tuple[list[Call], list[Flow]]], None],
        on_damage: Callable[[DataLoss], None],
        on_contents: Callable[[dict[bytes, bool]], None],
        on_large: Callable[[tuple[LargeContent, Callable[[Result], None]]], None],
        die: Callable[[str], Any] = stop_process,
    ) -> None:
        """`on_work` and `on_damage` run on the hot thread, the others on the asyncio thread.
        `on_contents` hears what an apply did to large contents; `on_large` answers a read of one,
        by calling what it is given."""
        self._engine, self._store, self._codec = engine, store, codec
        self._on_work, self._on_changes, self._die = on_work, on_changes, die
        self._on_streams, self._on_damage = on_streams, on_damage
        self._on_contents, self._on_large = on_contents, on_large
        self.watched = False
        """Somebody wants the changes. Set on the asyncio thread."""
        self.fault: DfsError | None = None
        """Once set, every call is refused with it, for good; see `condemn`."""
        self.away: DfsError | None = None
        """While set, every call is refused with it: the state is being replaced; see `leave`."""
        self.dismissal: DfsError | None = None
        """While set, every call is refused with it: this node is no member; see `dismiss`."""
        self.full: OutOfSpace | None = None
        """While set, writes that need space are refused with it; see `fill`."""
        self._refusing = threading.Lock()
        """Held while one of these changes."""
        self.marks: deque[Mark] = deque(maxlen=HASH_MARKS_MAX)
        self.mark()
        self._jobs: deque[Callable[[], None]] = deque()  # bounded by the calls of the server
        self._tickets: dict[int, Callable[[Result], None]] = {}
        self._numbers = itertools.count(1)
        self._respond: list[tuple[int, Result]] = []
        self._changed: list[Changed] = []
        self._keep: list[tuple[int, bytes]] = []
        """Answers that the engine may give again until they are forgotten."""
        self._later: list[Call] = []
        """Calls of this turn that are answered in the next, as the answers are large."""
        self._streams: list[Call] = []
        """Calls of this turn that the asyncio side answers."""
        self._outbox: list[tuple[Callable[[Any], None], Any]] = []
        self._applied: list[tuple[int, Sequence[Result | None]]] = []
        self._propose: list[tuple[int, bytes]] = []
        """What the next `step` is told of the last turn."""
        self._stopping = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = threading.Thread(target=self._run, name="dfs-hot", daemon=True)

    # ---- from the asyncio thread -----------------------------------------------------------------

    def start(self) -> None:
        """Starts the thread; call it inside the event loop that shall hear of everything."""
        self.begin()
        self._thread.start()

    def begin(self) -> None:
        """The same for somebody who calls `turn` without a thread."""
        self._loop = asyncio.get_running_loop()
        with self._refusing:
            self._admit()

    def stop(self) -> None:
        """Ends the thread and waits for it. Blocks."""
        self._stopping = True
        self._engine.wake()
        if self._thread.ident is not None:
            self._thread.join()

    def condemn(self, fault: DfsError) -> None:
        """Refuses every call from here on, for good."""
        with self._refusing:
            self.fault = fault
            self._admit()
        self._engine.forget_all(True)

    def dismiss(self, dismissal: DfsError | None) -> None:
        """Refuses every call, also before its barrier, or answers them again."""
        with self._refusing:
            self.dismissal = dismissal
            self._admit()
        self._engine.refuse(self._codec.failure(dismissal) if dismissal else None)

    def come_back(self) -> None:
        """Ends what `leave` began."""
        with self._refusing:
            self.away = None
            self._admit()

    def fill(self, full: OutOfSpace | None) -> None:
        """Refuses writes that need space, or takes them again."""
        with self._refusing:
            self.full = full
            self._admit()

    async def submit(self, entry: bytes, timeout_ms: int) -> Result:
        """Proposes an entry; the result of its apply, or why there is none."""
        future: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        ticket = self._new_ticket(lambda result: self.post(_resolve, (future, result)))
        self._engine.submit(ticket, entry, timeout_ms)
        return await future

    async def barrier(self, revision: int, timeout_ms: int) -> Result:
        """b"" once all that is committed now, or `revision` if not 0, is applied here."""
        future: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        ticket = self._new_ticket(lambda result: self.post(_resolve, (future, result)))
        self._engine.barrier(ticket, revision, timeout_ms)
        return await future

    async def read(self, method: int, body: bytes, local: bool, timeout_ms: int) -> Result:
        """Answers a read as if the wire had brought it; `local`: without a read barrier."""
        if self.dismissal:
            return self._codec.failure(self.dismissal)
        future: asyncio.Future[Result] = asyncio.get_running_loop().create_future()

        def answer(result: Result) -> None:
            self.post(_resolve, (future, result))

        def passed(barrier: Result) -> None:
            if isinstance(barrier, bytes):
                self._read(method, body, timeout_ms, answer)
            else:
                answer(barrier)

        if local:
            self._jobs.append(lambda: passed(b""))
            self._engine.wake()
        else:
            self._engine.barrier(self._new_ticket(passed), 0, timeout_ms)
        return await future

    # ---- on the hot thread -----------------------------------------------------------------------

    def post(self, callback: Callable[[Any], None], argument: Any) -> None:
        """Has the asyncio thread call back after this turn. Hot thread only."""
        self._outbox.append((callback, argument))

    def leave(self, away: DfsError) -> None:
        """Refuses every call until `come_back`. Hot thread only."""
        with self._refusing:
            self.away = away
            self._admit()
        # Of the state that is to be replaced nothing may be kept from here on.
        self._changed = [(method, body, None) for method, body, _ in self._changed]
        self._engine.forget_all(False)

    def mark(self) -> None:
        """Notes the hashes of the state as it is. Hot thread only."""
        self.marks.append((self._store.applied, self._store.state_hash + self._store.chain))

    def _run(self) -> None:
        try:
            while not self._stopping:
                self.turn()
        except DataLoss as error:
            self._on_damage(error)
        except _EngineStopped as error:
            self._die(f"this node stops: {error}")
        except (OutOfSpace, OSError) as error:
            self._die(f"the store cannot be written, so this node stops: {error}{remedy(error)}")
        except BaseException as error:  # boundary: ends the process
            self._die(f"this node stops, going on could serve wrong data: {error}")

    def turn(self) -> None:
        """One turn: results of the last one in, the next batch out. Hot thread only."""
        # Small calls that come now are not kept waiting by large answers.
        more = STEP_ITEMS_MAX - len(self._later)
        wait_ms = 0 if self._later else STEP_WAIT_MS
        calls, batches, done, work, flow = self._step(more, wait_ms)
        self._respond, self._changed, self._keep = [], [], []
        self._applied = self._apply(batches) if batches else []
        calls = self._later + calls
        self._propose = self._answer(calls) if calls else []
        if self._streams or flow:
            self.post(self._on_streams, (self._streams, flow))
            self._streams = []
        self._finish_turn(done, work)

    def _step(self, more: int, wait_ms: int) -> Step:
        try:
            return self._engine.step(
                self._applied, self._propose, self._respond, self._changed, self._keep, more,
                wait_ms,
            )
        except (TypeError, ValueError, OverflowError):
            raise
        except Exception as error:  # boundary: EngineError, a sentence for the user
            raise _EngineStopped(str(error)) from None

    def _apply(self, batches: list[Batch]) -> list[tuple[int, Sequence[Result | None]]]:
        failure = self._codec.failure
        applied: list[tuple[int, Sequence[Result | None]]] = []
        changed: list[Stored] = []
        for seq, entries, log_id, membership in batches:
            results, changes = self._store.apply(entries, log_id, membership)
            applied.append(
                (seq, [failure(r) if isinstance(r, DfsError) else r for r in results])
            )
            changed += changes
            if self._store.contents:
                self.post(self._on_contents, self._store.contents)
        self._changed = self._codec.changed(changed)
        self.mark()
        if self.watched:
            self.post(self._on_changes, (self._store.applied, changed))
        return applied

    def _answer(self, calls: list[Call]) -> list[tuple[int, bytes]]:
        """Heads to propose; the answers of reads and refusals go to `_respond` and `_keep`."""
        propose: list[tuple[int, bytes]] = []
        writes, respond = self._codec.writes, self._respond
        self._later = []
        size = 0
        if refusal := self.refusal:
            failure = self._codec.failure(refusal)
            respond += [(call_id, failure) for call_id, _, _ in calls]
            return propose
        calls = self._answer_together(calls)
        for call in calls:
            call_id, method, body = call
            write = writes.get(method)
            if write is None and size > TURN_ANSWER_BYTES_MAX:
                self._later.append(call)
                continue
            try:
                if write is None:
                    answer = self._read_now(call_id, method, body)
                    if answer is None:
                        size += STREAM_CHUNK_BYTES_MAX
                        continue
                    respond.append((call_id, answer))
                    size += len(answer)
                elif self.full is not None and method not in self._codec.frees_space:
                    raise self.full
                else:
                    propose.append((call_id, write(body)))
            except LargeContent as large:
                self._read_large(large, self._responder(call_id))
            except Behind as behind:
                self._reread(behind, method, body, DEADLINE_MS_DEFAULT, self._responder(call_id))
            except DfsError as error:
                respond.append((call_id, self._refused(error)))
            except Exception as error:  # boundary: the caller gets an id, the log the rest
                respond.append((call_id, self._codec.failure(unexpected(error))))
        return propose

    def _read_now(self, call_id: int, method: int, body: bytes) -> bytes | None:
        """The answer of a read; None when the asyncio side makes it."""
        stream = self._codec.streams.get(method)
        if stream is None:
            return self._codec.reads[method](body)
        answer = stream(body)
        if answer is None:
            self._streams.append((call_id, method, body))
        return answer

    def _answer_together(self, calls: list[Call]) -> list[Call]:
        """Answers what it can; the calls that are left."""
        try:
            self._keep = self._codec.together(calls)
        except DfsError:
            return calls  # the one that it is about will say so
        except Exception as error:  # boundary: they are answered one by one
            unexpected(error)
            return calls
        if not self._keep:
            return calls
        answered = {call_id for call_id, _ in self._keep}
        return [call for call in calls if call[0] not in answered]

    def _refused(self, error: DfsError) -> Failure:
        if isinstance(error, DataLoss):
            self._on_damage(error)
        return self._codec.failure(error)

    def _admit(self) -> None:
        """Has the engine take plain puts by itself, unless they are to be refused."""
        method, writer, size = self._codec.plain
        taken = self._loop is not None and not (self.refusal or self.full)
        self._engine.admit(method, writer if taken else b"", size)

    @property
    def refusal(self) -> DfsError | None:
        """Why no call at all is answered, if so."""
        return self.fault or self.away or self.dismissal

    def _responder(self, call_id: int) -> Callable[[Result], None]:
        return lambda result: self._respond.append((call_id, result))

    def _read(
        self, method: int, body: bytes, timeout_ms: int, answer: Callable[[Result], None]
    ) -> None:
        try:
            if refusal := self.refusal:
                raise refusal
            answer(self._codec.reads[method](body))
        except LargeContent as large:
            self._read_large(large, answer)
        except Behind as behind:
            self._reread(behind, method, body, timeout_ms, answer)
        except DfsError as error:
            answer(self._refused(error))
        except Exception as error:  # boundary: the caller gets an id, the log the rest
            answer(self._codec.failure(unexpected(error)))

    def _read_large(self, large: LargeContent, answer: Callable[[Result], None]) -> None:
        """Has the asyncio side answer, as it takes the disk, and perhaps other members."""

        def answered(result: Result) -> None:
            self._jobs.append(lambda: answer(result))
            self._engine.wake()

        self.post(self._on_large, (large, answered))

    def _reread(
        self,
        behind: Behind,
        method: int,
        body: bytes,
        timeout_ms: int,
        answer: Callable[[Result], None],
    ) -> None:
        def passed(barrier: Result) -> None:
            if isinstance(barrier, bytes):
                self._read(method, body, timeout_ms, answer)
            else:
                answer(barrier)

        self._engine.barrier(self._new_ticket(passed), behind.revision, timeout_ms)

    def _finish_turn(self, done: list[Done], work: list[Work]) -> None:
        for ticket, result in done:
            self._tickets.pop(ticket)(result)
        for item in work:
            self._on_work(item)
        while self._jobs:
            self._jobs.popleft()()
        if self._outbox:
            outbox, self._outbox = self._outbox, []
            assert self._loop is not None
            try:
                self._loop.call_soon_threadsafe(_deliver, outbox)
            except RuntimeError:  # the event loop has ended; nobody waits any more
                log.debug("the event loop has ended before the hot thread")

    def _new_ticket(self, done: Callable[[Result], None]) -> int:
        ticket = next(self._numbers)  # atomic: both threads make tickets
        self._tickets[ticket] = done
        return ticket


def unexpected(error: Exception) -> Internal:
    """Logs a bug under a random id, which is all that the caller is told."""
    number = secrets.token_hex(4)
    log.error("internal error %s", number, exc_info=error)
    return Internal(f"internal error {number}; the log of the node says more under that number")


def _deliver(outbox: list[tuple[Callable[[Any], None], Any]]) -> None:
    for callback, argument in outbox:
        callback(argument)


def _resolve(done: tuple[asyncio.Future[Any], Any]) -> None:
    if not done[0].done():
        done[0].set_result(done[1])
