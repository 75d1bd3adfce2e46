"""Clients that call a cluster at the same time, and what they did and saw."""

from __future__ import annotations

import hashlib
import os
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

from ..check import (
    NEVER,
    Call,
    Kind,
    Outcome,
    Shown,
    Told,
    badly_shown,
    badly_told,
    not_linearizable,
    out_of_order,
)
from ..client import Client, Watch
from ..errors import (
    Conflict,
    DeadlineExceeded,
    NotFound,
    OutcomeUnknown,
    OutOfSpace,
    Unavailable,
)
from ..offline.acks import Ack
from .large import LargeFiles
from .processes import Cluster, Node
from .waiting import require, wait_until

CLIENTS: Final = 6
KEYS: Final = 12
"""Fewer than two for each client: they meet."""
KINDS: Final = (Kind.PUT, Kind.PUT, Kind.PUT, Kind.GET, Kind.GET, Kind.DELETE, Kind.DELETE)
SHORT_S: Final = 0.03
"""Of most calls: less than it takes to replace a leader, so that each time some outcomes of both
kinds of writes stay unknown, and that reads begin at a node that stands still, again and again."""
SHORT_CHANCE: Final = 0.8
LONG_S: Final = 5.0
UNKNOWN_SHARE_MAX: Final = 0.1
"""Of all calls. Beyond it all limits are long: where machines are slow almost everything would be
unknown, and the search for an order takes for ever."""
END_S: Final = 90.0
"""Every call has an end that is nearer; that of an upload is TRANSFER_STALL_MS away at most."""
READ_PAUSE_S: Final = 0.02
"""Between two reads of those who stay at one node."""


@dataclass
class Heard:
    """What a watcher was told."""

    told: list[Told] = field(default_factory=list)
    after: int = 0
    """The watch begins here, and has heard of all that came up to:"""
    until: int = 0

    def listen(self, watch: Watch, values: dict[bytes, bytes]) -> None:
        """Until the watch is closed. `values`: content by its SHA-256; events have no more."""
        for update in watch:
            for event in update.events:
                value = None if event.deleted else values.get(event.stat.sha256, b"?")
                if event.stat.is_file:
                    self.told.append(Told(event.key, event.revision, value))
            self.until = update.revision
            self.after = self.after or update.revision


@dataclass
class Recorder:
    """Everything lies below one directory, which a watcher follows, and another one once more when
    all is over."""

    cluster: Cluster
    directory: str = "recorded"
    calls: list[Call] = field(default_factory=list)
    unknown: int = 0
    """Of these, about: threads count at the same time."""
    live: Heard = field(default_factory=Heard)
    late: Heard = field(default_factory=Heard)
    values: dict[bytes, bytes] = field(default_factory=dict)
    """By their SHA-256: events have no more."""
    tried: set[str] = field(default_factory=set)
    """Keys that were added once each and never touched again; of these:"""
    added: dict[str, int] = field(default_factory=dict)
    """those that were acknowledged, with their revisions, and"""
    listed: set[str] = field(default_factory=set)
    """those that stand there at the end."""
    shown: dict[tuple[str, int], list[Shown]] = field(default_factory=dict)
    """What files of mounts had, by name and process id of the node."""
    errors: list[BaseException] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.large = LargeFiles(self.directory)

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """Clients call and a watcher listens until the end of the block; then every key is read,
        and the watcher hears of the last change."""
        stop = threading.Event()
        with self.cluster.client() as watching, watching.watch(self.directory) as watch:
            nodes = self.cluster.nodes
            threads = [
                *(self._thread(self._work, number, stop) for number in range(CLIENTS)),
                *(self._thread(self._stay, node, stop) for node in nodes),
                *(self._thread(self._look, node, stop) for node in nodes if node.mounts),
                self._thread(self._add, stop),
                self._thread(self._upload, stop),
            ]
            listener = self._thread(self.live.listen, watch, self.values)
            listener.start()
            try:
                wait_until("the watcher listens", lambda: self.live.after or self.errors)
                for thread in threads:
                    thread.start()
                yield
                stop.set()
                for thread in threads:
                    thread.join(END_S)
                    require(not thread.is_alive(), "a call or a read of a mount does not end")
                self._read_all()
                last = self.progress()
                wait_until("it has heard", lambda: self.live.until >= last or self.errors)
                self._listen_late(last)
            finally:
                stop.set()
                watch.close()
                listener.join()
        require(not self.errors, f"{self.errors}")

    def progress(self) -> int:
        """The newest revision that any client was told."""
        return max((call.revision for call in list(self.calls)), default=0)

    def last_ns(self) -> int:
        """When a write was acknowledged most recently."""
        return max(self._acknowledged(), default=0)

    def gaps(self, begin_ns: int, healed_ns: int) -> tuple[float, float]:
        """(from the second time to the next acknowledged write, longest time without one from the
        first time until then), in seconds."""
        times = sorted(end for end in self._acknowledged() if end > begin_ns)
        first = next(end for end in times if end > healed_ns)
        until = [begin_ns, *(end for end in times if end <= first)]
        outage = max(later - earlier for earlier, later in pairwise(until))
        return (first - healed_ns) / 1e9, outage / 1e9

    def _acknowledged(self) -> list[int]:
        return [
            call.end for call in list(self.calls) if call.writes and call.outcome is Outcome.DONE
        ]

    def check(self) -> None:
        """Raises Violation when something is wrong with what was seen."""
        for found in (
            not_linearizable(self.calls),
            out_of_order(self.calls),
            *(
                badly_told(heard.told, self.calls, heard.after, heard.until, self.directory)
                for heard in (self.live, self.late)
            ),
            *(badly_shown(shown, self.live.told) for shown in self.shown.values()),
        ):
            require(found is None, f"{found}")
        lost = sorted(self.added.keys() - self.listed)
        require(not lost, f"{len(lost)} keys were added and are not listed, such as {lost[:3]}")
        made_up = sorted(self.listed - self.tried)
        require(not made_up, f"nobody added these keys, which are listed: {made_up[:3]}")

    def outcomes(self) -> Counter[tuple[Kind, Outcome]]:
        """How many calls of each kind had which outcome."""
        return Counter((call.kind, call.outcome) for call in self.calls)

    def acks(self) -> Iterator[Ack]:
        """Every write that was acknowledged."""
        for call in self.calls:
            if call.writes and call.outcome is Outcome.DONE:
                digest = b"" if call.value is None else hashlib.sha256(call.value).digest()
                yield Ack(call.revision, call.key, digest)
        for key, revision in self.added.items():
            yield Ack(revision, key, hashlib.sha256(b"").digest())
        yield from self.large.acks

    def _thread(self, work: Callable[..., None], *arguments: Any) -> threading.Thread:
        """Nobody waits for it when something else is wrong: it may read at a node that stands
        still."""
        return threading.Thread(target=self._guarded, args=(work, *arguments), daemon=True)

    def _guarded(self, work: Callable[..., None], *arguments: Any) -> None:
        try:
            work(*arguments)
        except BaseException as error:  # boundary: shown by `at_work`
            self.errors.append(error)

    def _listen_late(self, last: int) -> None:
        """One more watcher hears of the same, all from history."""
        self.late.after = self.live.after
        with self.cluster.client() as client:
            watch = client.watch(self.directory, after_revision=self.live.after)
            listener = self._thread(self.late.listen, watch, self.values)
            with watch:
                listener.start()
                wait_until("history is read", lambda: self.late.until >= last or self.errors)
            listener.join()

    def _work(self, number: int, stop: threading.Event) -> None:
        chance = random.Random(number)
        seen: dict[str, int] = {}
        with self.cluster.client() as client:
            for count in range(1 << 30):
                if stop.is_set():
                    return
                key = f"{self.directory}/{chance.randrange(KEYS)}"
                kind = chance.choice(KINDS)
                limit_s = self._limit_s(chance)
                if kind is Kind.GET:
                    seen[key] = self._get(client, key, limit_s)
                    continue
                value = b"%d.%d" % (number, count) if kind is Kind.PUT else None
                base = seen.get(key) if chance.random() < 0.3 else None
                seen[key] = self._write(client, kind, key, value, base, limit_s)

    def _limit_s(self, chance: random.Random) -> float:
        short = chance.random() < SHORT_CHANCE
        return SHORT_S if short and self.unknown <= UNKNOWN_SHARE_MAX * len(self.calls) else LONG_S

    def _stay(self, node: Node, stop: threading.Event) -> None:
        """Reads at one node, which may be an old leader that nobody else asks any more."""
        chance = random.Random(node.name)
        with node.client() as client:
            while not stop.wait(READ_PAUSE_S):
                self._get(client, f"{self.directory}/{chance.randrange(KEYS)}", SHORT_S)

    def _look(self, node: Node, stop: threading.Event) -> None:
        """Reads files in the mount of one node, whenever it has one. A node that was started again
        may show what is older than what it showed before."""
        chance = random.Random(node.name)
        while not stop.wait(READ_PAUSE_S):
            key, process = f"{self.directory}/{chance.randrange(KEYS)}", node.process
            try:
                value = _mounted(node.mount, key)
            except OSError:
                continue  # it stands still, or is gone
            if process is not None and node.process is process:
                self.shown.setdefault((node.name, process.pid), []).append(Shown(key, value))

    def _write(
        self, client: Client, kind: Kind, key: str, value: bytes | None, base: int | None,
        limit_s: float,
    ) -> int:
        """The revision that the key has now, as far as this client knows."""
        begin = time.monotonic_ns()
        outcome, revision = Outcome.DONE, 0
        try:
            if value is None:
                revision = client.delete(key, base_revision=base, timeout=limit_s)
            else:
                self.values[hashlib.sha256(value).digest()] = value
                revision = client.put(key, value, base_revision=base, timeout=limit_s)
        except (Conflict, NotFound):
            outcome = Outcome.REFUSED
        except (OutcomeUnknown, DeadlineExceeded):
            outcome = Outcome.UNKNOWN
            self.unknown += 1
        except (Unavailable, OutOfSpace):
            return 0
        end = NEVER if outcome is Outcome.UNKNOWN else time.monotonic_ns()
        self.calls.append(Call(kind, key, begin, end, outcome, value, revision, base))
        return 0 if value is None else revision

    def _get(self, client: Client, key: str, limit_s: float = LONG_S) -> int:
        begin = time.monotonic_ns()
        value, revision = None, 0
        try:
            value, stat = client.read(key, timeout=limit_s)
            revision = stat.revision
        except NotFound:
            pass
        except (Unavailable, DeadlineExceeded):
            return 0
        end = time.monotonic_ns()
        self.calls.append(Call(Kind.GET, key, begin, end, value=value, revision=revision))
        return revision

    def _add(self, stop: threading.Event) -> None:
        """Adds key after key, each in a directory beside the one that is watched."""
        with self.cluster.client() as client:
            while not stop.is_set():
                key = f"{self._beside}/{len(self.tried)}"
                self.tried.add(key)
                try:
                    self.added[key] = client.put(key, b"", timeout=LONG_S)
                except (OutcomeUnknown, DeadlineExceeded, Unavailable, OutOfSpace):
                    pass  # it may be there

    def _upload(self, stop: threading.Event) -> None:
        with self.cluster.client() as client:
            self.large.work(client, stop)

    @property
    def _beside(self) -> str:
        return f"{self.directory}-added"

    def _read_all(self) -> None:
        with self.cluster.client() as client:
            for number in range(KEYS):
                self._get(client, f"{self.directory}/{number}")
            self.large.check(client)
            self.listed.update(item.key for item in client.list(self._beside))


def _mounted(mount: Path, key: str) -> bytes | None:
    """What a file has, None = there is none. Raises OSError, also when nothing is mounted."""
    root = os.open(mount, os.O_RDONLY | os.O_DIRECTORY)
    try:
        if os.fstat(root).st_dev == mount.parent.stat().st_dev:
            raise OSError(f"nothing is mounted at {mount}")
        with open(os.open(key, os.O_RDONLY, dir_fd=root), "rb") as file:
            return file.read()
    except FileNotFoundError:
        return None
    finally:
        os.close(root)


def require_variety(outcomes: Counter[tuple[Kind, Outcome]]) -> None:
    """Raises Violation when some kind of call never had some outcome: too little was tried."""
    for kind in Kind:
        for outcome in Outcome if kind is not Kind.GET else [Outcome.DONE]:
            count = outcomes.total()
            require(
                outcomes[kind, outcome], f"no {kind.value} was {outcome.value} in {count} calls"
            )
