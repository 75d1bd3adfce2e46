"""What a node does for its own health beside the calls: flush, floor, hashes."""

import logging
import threading
from collections.abc import Callable, Sequence
from typing import Any

from ..errors import DataLoss, DfsError, Unavailable, remedy
from ..identity import UNDECIDED
from ..limits import (
    FLOOR_PROBE_MAX,
    FLOOR_STEP_MIN,
    FLUSH_INTERVAL_MS,
    HASH_MARKS_SENT_MAX,
    HISTORY_AGE_S,
    HISTORY_REVISIONS_MAX,
)
from ..store import View
from .cluster import Answer, Cluster, voters
from .hot import HotLoop
from .ports import Engine

log = logging.getLogger("dfs.node")


class Flusher:
    """Makes the store durable every now and then, in a thread of its own.

    Only behind an index that the engine was told of as durable is the log purged.
    """

    def __init__(
        self,
        engine: Engine,
        flush: Callable[[], int],
        keep_promises: Callable[[bytes], None],
        on_damage: Callable[[DataLoss], None],
        die: Callable[[str], Any],
    ) -> None:
        """`keep_promises`: writes down what the log has on disk. `on_damage`: the store is damaged.
        Both run on the thread that flushes."""
        self._engine, self._flush, self._die = engine, flush, die
        self._keep_promises, self._on_damage = keep_promises, on_damage
        self._promised = b""
        self._stopping = threading.Event()
        self.lock = threading.Lock()
        """Held during a flush; whoever replaces the state holds it too."""
        self._thread = threading.Thread(target=self._run, name="dfs-flush", daemon=True)

    def start(self) -> None:
        """Starts the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Ends the thread after a last flush. Blocks."""
        self._stopping.set()
        if self._thread.ident is not None:
            self._thread.join()

    def _run(self) -> None:
        try:
            while not self._stopping.wait(FLUSH_INTERVAL_MS / 1000):
                self.flush()
            self.flush()
        except DataLoss as error:
            self._on_damage(error)
        except BaseException as error:  # boundary: ends the process
            self._die(f"the store cannot be flushed, so this node stops: {error}{remedy(error)}")

    def flush(self) -> None:
        """Flushes now and tells the engine. Writes down what that has kept by then. Blocks."""
        with self.lock:
            self._engine.durable(self._flush())
            promised = self._engine.status()["promised"]
            if promised != self._promised:
                self._keep_promises(promised)
                self._promised = promised


class Clocks:
    """What time it is for a majority. By the clock of one machine alone, which may be days ahead,
    history would be too old and gone, and request ids that clients make now be refused."""

    def __init__(self, engine: Engine, cluster: Cluster, clock: Callable[[], int]) -> None:
        self._engine, self._cluster, self._clock = engine, cluster, clock
        cluster.on("clock", self._answer)

    async def now(self) -> int:
        """The latest time, ns since 1970, that the clocks of a majority of the voters have reached;
        0 where too few answer."""
        answers = await self._cluster.ask_others({"ask": "clock"})
        asked = voters(self._engine)
        times = [int(answer["time_ns"]) for voter, answer in answers.items() if voter in asked]
        return reached([self._clock(), *times], len(asked))

    async def _answer(self, _question: Answer) -> Answer:
        return {"time_ns": self._clock()}


def reached(times: Sequence[int], voters: int) -> int:
    """The latest time that a majority of so many voters says is reached; 0 without a majority."""
    needed = voters // 2 + 1
    return sorted(times, reverse=True)[needed - 1] if len(times) >= needed else 0


class Floor:
    """Decides how far the floor of history may move: by count of revisions and by age."""

    def __init__(
        self,
        record_time: Callable[[bytes], int],
        age_s: int = HISTORY_AGE_S,
        revisions_max: int = HISTORY_REVISIONS_MAX,
        step_min: int = FLOOR_STEP_MIN,
    ) -> None:
        self._record_time = record_time
        self._age_s, self._revisions_max, self._step_min = age_s, revisions_max, step_min

    def next(self, view: View, now_ns: int) -> int:
        """The revision that should become the floor, or 0 to leave it. `now_ns`: since 1970.
        Blocks: reads history."""
        by_count = view.revision - self._revisions_max
        target = max(by_count, self._too_old(view, max(view.floor, by_count), now_ns))
        return target if target >= view.floor + self._step_min else 0

    def _too_old(self, view: View, low: int, now_ns: int) -> int:
        """The largest revision of which all changes up to it are too old; `low` if none is."""
        limit = now_ns - self._age_s * 1_000_000_000
        high = view.revision
        while low < high:
            middle = (low + high + 1) // 2
            if self._time_after(view, middle - 1, now_ns) < limit:
                low = middle
            else:
                high = middle - 1
        return low

    def _time_after(self, view: View, revision: int, now_ns: int) -> int:
        """Time of the first change after `revision` that says it; now when none does."""
        for count, change in enumerate(view.changes(revision)):
            if not change.deleted:  # a deletion carries the record before it
                return self._record_time(change.record)
            if count >= FLOOR_PROBE_MAX:
                break
        return now_ns


class Hashes:
    """Compares the hashes of all members at equal indexes.

    Members apply in batches that end at different indexes, so each remembers its hashes at the last
    HASH_MARKS_MAX ends. The leader collects them and looks at the highest index that most of those
    who answered share. Whoever differs there from a majority of the members is told, stops serving
    and is healed. Where too few have answered for that, no state is thrown away: of more than two
    members the leader waits for another to arbitrate; of two, the one that does not lead stops, and
    a person decides.
    """

    def __init__(
        self, engine: Engine, cluster: Cluster, hot: HotLoop, condemn: Callable[[str, int], None]
    ) -> None:
        """`condemn`: what is wrong, and the index from which on it was, or UNDECIDED."""
        self._engine, self._cluster, self._hot, self._condemn = engine, cluster, hot, condemn
        self.compared = 0
        """Highest index at which this node, as leader, found members equal."""
        cluster.on("marks", self._marks)
        cluster.on("condemned", self._condemned)

    async def compare(self) -> None:
        """Leader: asks everybody and tells those who differ."""
        status = self._engine.status()
        if status["role"] != "leader":
            return
        found = {
            number: {int(index): str(mark) for index, mark in answer["marks"]}
            for number, answer in (await self._cluster.ask_others({"ask": "marks"})).items()
        }
        if not found:
            return
        found[status["id"]] = dict(_recent(self._hot))
        index, wrong = judge(found, status["id"])
        self.compared = max(self.compared, index)
        right = [i for i, m in found.items() if index in m and i not in wrong]
        for member in status["members"]:
            if member["id"] in wrong:
                text = (
                    f"the state of {member['name']} differs from that of the other members at log"
                    f" index {index}: it has hash {found[member['id']][index]}, they have"
                    f" {found[right[0]][index]}"
                )
                if 2 * len(right) > len(status["members"]):
                    await self._tell(member, text, index, status["id"])
                elif len(status["members"]) > 2:
                    log.error("%s; too few members answer to say which is right", text)
                else:
                    await self._tell(member, text, UNDECIDED, status["id"])

    async def _tell(self, member: Answer, text: str, index: int, leader: int) -> None:
        if member["id"] == leader:
            self._condemn(text, index)
            return
        log.warning("%s", text)
        question = {"ask": "condemned", "text": text, "index": index}
        try:
            await self._cluster.ask(member["raft"], question)
        except DfsError as error:
            log.warning("%s could not be told yet: %s", member["name"], error)

    async def _marks(self, _question: Answer) -> Answer:
        return {"marks": _recent(self._hot)}

    async def _condemned(self, question: Answer) -> Answer:
        self._condemn(str(question["text"]), int(question["index"]))
        return {}


def judge(found: dict[int, dict[int, str]], leader: int) -> tuple[int, set[int]]:
    """(index, ids that are wrong there) of the marks by id; (0, nobody) without a common index."""
    reported: dict[int, list[int]] = {}
    for node_id, marks in found.items():
        for index in marks:
            reported.setdefault(index, []).append(node_id)
    shared = {index: ids for index, ids in reported.items() if len(ids) > 1}
    if not shared:
        return 0, set()
    # As many witnesses as possible, then as late as possible.
    index = max(shared, key=lambda i: (len(shared[i]), i))
    votes: dict[str, list[int]] = {}
    for node_id in shared[index]:
        votes.setdefault(found[node_id][index], []).append(node_id)
    right = max(votes.values(), key=lambda ids: (len(ids), leader in ids))
    return index, set(shared[index]) - set(right)


def _recent(hot: HotLoop) -> list[tuple[int, str]]:
    marks = hot.marks.copy()  # one step under the interpreter lock: the hot thread appends
    return [(index, mark.hex()) for index, mark in list(marks)[-HASH_MARKS_SENT_MAX:] if index]


class StateFault(Exception):
    """The state of this node may not be served any more, which is recorded: it has to be healed."""


def fault(text: str) -> Unavailable:
    """What every caller of a condemned node gets: others have a good copy."""
    return Unavailable(f"this node gets a new copy of its state, ask another: {text}")
