"""Who can reach whom, and how long it takes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .world import World


class Network:
    """Links between names: nodes, clients, agents."""

    def __init__(self, world: World) -> None:
        self.world = world
        self._cut: set[tuple[str, str]] = set()
        self.loss = 0.0
        """Of messages between nodes, and of requests and answers."""
        self.slow_s = 0.0
        """On top of the usual time, at most."""

    def cut(self, source: str, target: str) -> None:
        """Nothing passes from here to there."""
        self._cut.add((source, target))

    def heal(self, source: str, target: str) -> None:
        """It passes again."""
        self._cut.discard((source, target))

    def cuts(self) -> list[tuple[str, str]]:
        """All that is cut."""
        return sorted(self._cut)

    def passes(self, source: str, target: str) -> bool:
        """Nothing is cut between them in this direction."""
        return (source, target) not in self._cut

    def both_ways(self, one: str, two: str) -> bool:
        """They can talk."""
        return one == two or (self.passes(one, two) and self.passes(two, one))

    def latency(self) -> float:
        """Of one message now."""
        chance = self.world.chance
        usual = chance.uniform(0.0002, 0.004)
        if not self.world.calm and chance.random() < 0.1:
            usual += chance.uniform(0, self.slow_s)
        return usual

    def lost(self, source: str, target: str) -> bool:
        """Whether a message that is sent now never arrives."""
        if not self.passes(source, target):
            self.world.counts["message cut off"] += 1
            return True
        if self.world.fault(self.loss):
            self.world.counts["message lost"] += 1
            return True
        return False

    def send(
        self, source: str, target: str, arrive: Callable[..., Any], *arguments: Any
    ) -> bool:
        """Calls `arrive` when the message is there; False when it never will be."""
        if source != target and self.lost(source, target):
            return False
        self.world.later(self.latency(), arrive, *arguments)
        return True
