"""The log on which all members agree, as Raft would give it: what is committed stays, what a leader
had not committed when it was replaced may be lost or committed by the next."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from dfs.engine_memory.network import log_id, member

from .network import Network
from .world import World

if TYPE_CHECKING:
    from .engine import SimEngine

TICK_S: Final = 0.06
ELECTION_S: Final = (0.3, 0.9)
"""How long a leader is missed before another stands."""
REPLICATION_S: Final = (0.0005, 0.012)
"""Until a majority has an entry on disk."""


class Proposed(NamedTuple):
    """An entry that its leader has appended."""

    payload: bytes
    answer: Callable[[Any], None]


class Snapshot(NamedTuple):
    """A file that a member wrote, for others."""

    path: str
    index: int


class Raft:
    """One cluster's log and leader."""

    def __init__(
        self, world: World, network: Network, names: list[str],
        committed: Callable[[int, bytes], None],
    ) -> None:
        """`committed` hears of each entry when it is."""
        self.world, self.network, self.names = world, network, names
        self.engines: dict[str, SimEngine] = {}
        """Those that run."""
        self.log: list[bytes] = []
        self.terms: list[int] = []
        self.term = 0
        self.leader = ""
        self.snapshot = Snapshot("", 0)
        self.purged = 0
        """No member needs a snapshot file that has all up to here."""
        self.membership = json.dumps(
            [member(i + 1, name, name, f"{name}:13000", True) for i, name in enumerate(names)]
        ).encode()
        self._committed = committed
        self._tail: list[Proposed] = []
        self._missed_since = 0.0
        self._patience_s = 0.0

    def last(self) -> int:
        """The index of the last committed entry."""
        return len(self.log)

    def log_id(self, index: int) -> bytes:
        """Of a committed entry."""
        return log_id(self.terms[index - 1], index)

    def reaches_majority(self, name: str) -> bool:
        """It runs, and can talk with a majority that does."""
        if name not in self.engines:
            return False
        heard = sum(
            other in self.engines and self.network.both_ways(name, other) for other in self.names
        )
        return 2 * heard > len(self.names)

    # ---- leaders ---------------------------------------------------------------------------------
    def start(self) -> None:
        """The first leader, and what has to happen again and again."""
        self._elect(self.names[0])
        self._tick()

    def _tick(self) -> None:
        world = self.world
        if self._leads():
            self._missed_since, self._patience_s = world.now, world.chance.uniform(*ELECTION_S)
        elif world.now - self._missed_since > self._patience_s:
            self.elect_another()
        for name in self.names:
            self._tell(name)
        world.later(TICK_S, self._tick)

    def _leads(self) -> bool:
        """The leader lives, as one, and is followed. One that was restarted does not resume."""
        engine = self.engines.get(self.leader)
        led = engine is not None and engine.leading == self.term
        return led and self.reaches_majority(self.leader)

    def elect_another(self) -> None:
        """A new leader, if any member reaches a majority."""
        able = [name for name in self.names if self.reaches_majority(name)]
        others = [name for name in able if name != self.leader] or able
        if others:
            self._elect(self.world.chance.choice(others))

    def _elect(self, name: str) -> None:
        world, tail = self.world, self._tail
        kept = world.chance.randint(0, len(tail))
        if self.term:
            world.count("leader change", f"{self.leader} -> {name}, {kept} of {len(tail)} kept")
            world.counts["entries lost with their leader"] += len(tail) - kept
            world.counts["entries committed by the next leader"] += kept
        for proposed in tail[:kept]:
            self._commit(proposed.payload)
        former, self._tail = self.engines.get(self.leader), []
        if former is not None:
            # It hears of it when somebody can tell it: see `_tell`.
            former.lost += [proposed.answer for proposed in tail]
        self.term, self.leader = self.term + 1, name
        self._missed_since = world.now
        self._commit(b"")
        self.engines[name].lead(self.term)
        self.engines[name].learn(self.term, name, self.last())
        for other in self.names:
            self._tell(other)

    def _tell(self, name: str) -> None:
        """The leader says who it is and what is committed; who misses it hears it later."""
        engine, leader = self.engines.get(name), self.engines.get(self.leader)
        if engine is None or leader is None or leader.leading != self.term:
            return
        if name == self.leader:
            return
        if engine.heard != (self.term, self.last()):
            self.network.send(
                self.leader, name, engine.learn, self.term, self.leader, self.last()
            )

    # ---- entries ---------------------------------------------------------------------------------
    def append(self, engine: SimEngine, proposed: Proposed) -> None:
        """What the leader of a term does with an entry; one that was replaced only thinks so."""
        if engine.leading != self.term:
            engine.lost.append(proposed.answer)
            return
        self._tail.append(proposed)
        self.world.later(
            self.world.chance.uniform(*REPLICATION_S), self._replicated, engine, proposed
        )

    def _replicated(self, engine: SimEngine, proposed: Proposed) -> None:
        if proposed not in self._tail or engine.dead:
            return
        if not self.reaches_majority(engine.name):
            self.world.later(TICK_S, self._replicated, engine, proposed)
            return
        while proposed in self._tail:
            first = self._tail.pop(0)
            self._commit(first.payload)
            engine.waiters[self.last()] = first.answer
        engine.learn(self.term, engine.name, self.last())
        for name in self.names:
            self._tell(name)

    def _commit(self, payload: bytes) -> None:
        self.log.append(payload)
        self.terms.append(max(self.term, 1))
        self._committed(self.last(), payload)
