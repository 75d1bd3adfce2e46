"""A throw-away cluster, and all that faults take away from it and give back."""

from __future__ import annotations

import json
import os
import random
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from ..errors import DfsError, Misconfigured
from ..mount import open_device
from .disk import Disk
from .network import Direction, Network
from .node import LIMITS
from .processes import Cluster, Node
from .shim import Shim, library
from .switch import Rule
from .waiting import require, wait_until

SMALL: Final[Mapping[str, int]] = {
    "SNAPSHOT_LOG_BYTES": 64 << 10, "LOG_KEEP_BYTES": 32 << 10, "FLUSH_INTERVAL_MS": 200,
    "STATE_HASH_INTERVAL_MS": 1_000, "SCRUB_INTERVAL_MS": 50, "SCRUB_PASS_S_MIN": 1,
}
"""Limits with which the log is cut all the time, so that members that were away need snapshots, and
all that is stored is read all the time."""
SNAPSHOT: Final = "replacing the state by the snapshot"
"""What nodes log that get one."""
PROGRAM: Final = ("-m", "dfs.nemesis.node")


class NoTarget(Exception):
    """There is nothing left that this fault could hit: others have it already."""


@dataclass(frozen=True)
class Setting:
    """What a cluster is made of."""

    nodes: int = 3
    network: bool = True
    """Namespaces with a network that can be cut. Needs root."""
    disks: bool = True
    """A disk of its own for each node. Needs root and loop devices."""
    shims: bool = False
    """Disks that fail and are slow, clocks that jump. Needs a C compiler."""
    mounts: bool = False
    """Each node has a mount, whose files are read all the time. Needs FUSE."""
    small: bool = True
    """With the limits of SMALL."""

    def check(self) -> None:
        """Raises Misconfigured where this cannot be had here."""
        if (self.network or self.disks) and os.geteuid() != 0:
            raise Misconfigured(
                "networks and disks that break need root: run it as root, or choose faults that"
                " need neither (--faults kill,kill-all,pause)"
            )
        if self.shims:
            try:
                library()
            except OSError as error:
                raise Misconfigured(f"faults of disks and clocks need a shim: {error}") from None
        if self.mounts:
            os.close(open_device())
        if not 1 <= self.nodes <= 7:
            raise Misconfigured(f"{self.nodes} nodes: one to seven can be had")


@dataclass
class World:
    """The cluster runs while the block lasts. What is hit stands in `hit` until it is mended."""

    root: Path
    setting: Setting
    chance: random.Random
    cluster: Cluster = field(init=False)
    network: Network | None = None
    disks: dict[str, Disk] = field(default_factory=dict)
    shims: dict[str, Shim] = field(default_factory=dict)
    hit: set[str] = field(default_factory=set)
    """Names of nodes that are down, stand still, or are apart from the others."""
    choices: int = 0
    """Of targets, so far."""
    terms: set[int] = field(default_factory=set)
    """In which somebody led."""
    counts: Counter[str] = field(default_factory=Counter)
    """What was done, in units of its own: a fault may kill one node or all."""
    _rules: list[dict[Direction, Rule]] = field(default_factory=list)
    _stack: ExitStack = field(default_factory=ExitStack)

    def __enter__(self) -> World:
        self.setting.check()
        try:
            self._open()
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, *error: Any) -> None:
        self._stack.__exit__(*error)

    def _open(self) -> None:
        places = None
        if self.setting.network:
            network = Network(self.setting.nodes, self.chance.randrange(1 << 32))
            self.network = self._stack.enter_context(network)
            places = self.network.places
        self.cluster = Cluster(
            self.root, self.setting.nodes, self.setting.mounts, places
        )
        for node in self.cluster.nodes:
            if self.setting.disks:
                disk = Disk(node.root / "image", node.root / "disk")
                self.disks[node.name] = self._stack.enter_context(disk)
                node.data = disk.mount / "data"
                node.data.mkdir()
            if self.setting.shims:
                shim = self._stack.enter_context(Shim(node.data, node.root / "faults"))
                self.shims[node.name] = shim
                node.environment |= shim.environment()
            if self.setting.small:
                node.program = PROGRAM
                node.environment[LIMITS] = json.dumps(dict(SMALL))
        self._stack.enter_context(self.cluster)

    # ---- targets ---------------------------------------------------------------------------------

    @property
    def nodes(self) -> list[Node]:
        """All of them."""
        return self.cluster.nodes

    @property
    def unhurt(self) -> list[Node]:
        """Those that no fault has now."""
        return [node for node in self.nodes if node.name not in self.hit]

    @property
    def whole(self) -> bool:
        """No fault has a node or a link now."""
        return not (self.hit or self._rules)

    def number(self, node: Node) -> int:
        """Its number in the network."""
        return self.nodes.index(node)

    def has_majority(self) -> bool:
        """Writes can go on: of the unhurt nodes that reach a majority each would be elected by such
        nodes alone. One that is not among them may have the longest log, for which nobody can be
        elected without it, and it by nobody."""
        cut = {link for rules in self._rules for link, rule in rules.items() if rule.blocked}
        free = [self.number(node) for node in self.unhurt]

        def reached(node: int, among: Iterable[int]) -> int:
            return sum(1 for other in among if not {(node, other), (other, node)} & cut)

        electable = [node for node in free if 2 * reached(node, free) > len(self.nodes)]
        return bool(electable) and all(
            2 * reached(node, electable) > len(self.nodes) for node in electable
        )

    def leads(self, node: Node) -> bool:
        """It says that it is the leader."""
        try:
            return node.leads()
        except DfsError:
            return False

    def choose(self, count: int = 1) -> list[Node]:
        """Nodes that no fault has yet; the leader is among them every other time. Raises
        NoTarget."""
        free = self.unhurt
        if len(free) < count:
            raise NoTarget
        self.chance.shuffle(free)
        self.choices += 1
        if self.choices % 2:
            free.sort(key=self.leads, reverse=True)
        return free[:count]

    def take_whole(self) -> Node:
        """A node to take out of a cluster that lacks nothing. Raises NoTarget."""
        if not self.whole:
            raise NoTarget
        return self.choose()[0]

    @contextmanager
    def hurt(self, nodes: Iterable[Node]) -> Iterator[None]:
        """They are hit while the block lasts."""
        names = {node.name for node in nodes}
        self.hit |= names
        try:
            yield
        finally:
            self.hit -= names

    # ---- network ---------------------------------------------------------------------------------

    @contextmanager
    def links(self, rules: dict[Direction, Rule]) -> Iterator[None]:
        """Rules while the block lasts; a cut link stays cut, else those that came last count."""
        self._rules.append(rules)
        self._apply_rules()
        try:
            yield
        finally:
            self._rules.remove(rules)
            self._apply_rules()

    def relink(self, rules: dict[Direction, Rule], instead: dict[Direction, Rule]) -> None:
        """Changes rules that are in force."""
        rules.clear()
        rules.update(instead)
        self._apply_rules()

    def _apply_rules(self) -> None:
        if self.network is None:
            raise ValueError("this cluster has no network of its own")
        merged: dict[Direction, Rule] = {}
        for rules in self._rules:
            for link, rule in rules.items():
                if rule.blocked or link not in merged or not merged[link].blocked:
                    merged[link] = rule
        self.network.rule(merged)

    # ---- nodes -----------------------------------------------------------------------------------

    def kill(self, node: Node) -> None:
        """kill -9."""
        node.kill()
        self.counts["kills"] += 1

    def renew(self, node: Node) -> None:
        """Starts it anew. What it said until now was expected."""
        if node.alive():
            self.kill(node)
        node.put_log_away()
        node.start()

    def stop(self) -> None:
        """Stops all nodes in order, and counts what they said. Raises Violation."""
        for node in self.nodes:
            code = node.stop()
            require(code == 0, f"{node.name} ended with {code}:\n{node.tail()}")
            for log in node.root.glob("log*"):
                said = log.read_text(errors="replace")
                self.counts["snapshots installed"] += said.count(SNAPSHOT)

    def votes(self, node: Node, config: int = 0) -> bool:
        """It is a voter, in this configuration or a later one: others may lag behind a change, and
        show it, or the one before it of that name, as what it was."""
        mine = node.status().member.id
        with self.cluster.client() as client:
            found = client.members()
        return found.config >= config and any(m.voter for m in found.members if m.id == mine)

    def serves(self, node: Node) -> bool:
        """It is a voter that lacks nothing and follows somebody, or leads."""
        status = node.status()
        return bool(status.leader) and not status.error and self.votes(node)

    # ---- health ----------------------------------------------------------------------------------

    def all_follow(self) -> bool:
        """Every node runs and knows a leader."""
        found = [node.status() for node in self.nodes]
        self.terms |= {status.term for status in found}
        return all(status.leader for status in found)

    def settle(self) -> None:
        """Every node is back; none has said what it should not. Raises Violation."""
        for node in self.nodes:
            require(node.alive(), f"{node.name} ended by itself:\n{node.tail()}")
            require(not (said := node.complaints()), f"{node.name}: {said[:5]}")
        wait_until("every node follows a leader", self.all_follow)
