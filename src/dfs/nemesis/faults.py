"""The faults. Each is a context: it strikes at the beginning, and is mended at the end.

Which nodes and links it takes, and when, is drawn from the world's chance, so a seed repeats the
choice; what the nodes do meanwhile is up to them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Final

from . import hardware, membership
from .network import Direction, between, everyone
from .processes import Node
from .switch import Rule
from .world import World

CUT: Final = Rule(blocked=True)
FLAP_S: Final = 0.2
FLAPS: Final = 5
Rules = dict[Direction, Rule]


@dataclass(frozen=True)
class Fault:
    """A kind of fault."""

    strike: Callable[[World], AbstractContextManager[None]]
    doc: str
    network: bool = False
    disks: bool = False
    shims: bool = False
    """Loaded into the nodes: they make calls to files fail, and clocks jump."""
    nodes_min: int = 1


# ---- processes and power -------------------------------------------------------------------------
@contextmanager
def _kill(world: World, victims: list[Node]) -> Iterator[None]:
    with world.hurt(victims):
        for node in victims:
            world.kill(node)
        yield
        for node in victims:
            node.start()


def kill(world: World) -> AbstractContextManager[None]:
    """kill -9 of one node."""
    return _kill(world, world.choose())


def kill_all(world: World) -> AbstractContextManager[None]:
    """kill -9 of every node."""
    return _kill(world, world.choose(len(world.nodes)))


@contextmanager
def _lose_power(world: World, victims: list[Node]) -> Iterator[None]:
    """All stand still before the first disk is gone. Nobody may act on an fdatasync that was under
    way: the kernel ends it without an error, where a machine without power ends nothing."""
    with world.hurt(victims):
        for node in victims:
            node.stand_still()
            node.kill_helpers()
        for node in victims:
            world.disks[node.name].cut()
        for node in victims:
            node.kill()
            node.unmount()  # What was open there may be open on the disk, too.
            world.disks[node.name].restore()
        world.counts["disks without power"] += len(victims)
        yield
        for node in victims:
            node.start()


def power(world: World) -> AbstractContextManager[None]:
    """One machine loses power."""
    return _lose_power(world, world.choose())


def power_all(world: World) -> AbstractContextManager[None]:
    """Every machine loses power at once."""
    return _lose_power(world, world.choose(len(world.nodes)))


@contextmanager
def pause(world: World) -> Iterator[None]:
    """One process stands still and goes on, without knowing."""
    victims = world.choose()
    with world.hurt(victims):
        victims[0].stand_still()
        yield
        victims[0].go_on()


# ---- partitions ----------------------------------------------------------------------------------
@contextmanager
def _apart(world: World, victims: list[Node], rules: Rules) -> Iterator[None]:
    with world.hurt(victims), world.links(rules):
        yield


def _cut(directions: list[Direction]) -> Rules:
    return dict.fromkeys(directions, CUT)


def _others(world: World, node: Node) -> list[int]:
    return [world.number(other) for other in world.nodes if other is not node]


def isolate(world: World) -> AbstractContextManager[None]:
    """One node is alone."""
    (node,) = world.choose()
    return _apart(world, [node], _cut(between([world.number(node)], _others(world, node))))


def deaf(world: World) -> AbstractContextManager[None]:
    """One node hears nobody; what it says arrives."""
    (node,) = world.choose()
    return _apart(world, [node], _cut([(o, world.number(node)) for o in _others(world, node)]))


def mute(world: World) -> AbstractContextManager[None]:
    """One node is heard by nobody; it hears."""
    (node,) = world.choose()
    return _apart(world, [node], _cut([(world.number(node), o) for o in _others(world, node)]))


def ring(world: World) -> AbstractContextManager[None]:
    """Two nodes do not reach each other; both reach the others."""
    one, other = world.choose(2)
    return _apart(world, [], _cut(between([world.number(one)], [world.number(other)])))


def halves(world: World) -> AbstractContextManager[None]:
    """A minority, as large as it can be, is apart from the rest."""
    few = world.choose((len(world.nodes) - 1) // 2)
    these = [world.number(node) for node in few]
    those = [world.number(node) for node in world.nodes if node not in few]
    return _apart(world, few, _cut(between(these, those)))


@contextmanager
def swizzle(world: World) -> Iterator[None]:
    """Links of one node fail one after the other, and come back in another order."""
    (node,) = world.choose()
    links = between([world.number(node)], _others(world, node))
    rules: Rules = {}
    with world.hurt([node]), world.links(rules):
        world.chance.shuffle(links)
        for link in links:
            world.relink(rules, {**rules, link: CUT})
            time.sleep(FLAP_S)
        yield
        world.chance.shuffle(links)
        for link in links:
            world.relink(rules, {other: rule for other, rule in rules.items() if other != link})
            time.sleep(FLAP_S)


@contextmanager
def flap(world: World) -> Iterator[None]:
    """One node goes away and comes back, and again."""
    (node,) = world.choose()
    links = _cut(between([world.number(node)], _others(world, node)))
    rules: Rules = {}
    with world.hurt([node]), world.links(rules):
        for _ in range(FLAPS):
            world.relink(rules, links)
            time.sleep(FLAP_S)
            world.relink(rules, {})
            time.sleep(FLAP_S)
        yield


# ---- bad networks --------------------------------------------------------------------------------
def _everywhere(world: World, rule: Rule) -> AbstractContextManager[None]:
    return world.links(dict.fromkeys(everyone(len(world.nodes)), rule))


def loss(world: World) -> AbstractContextManager[None]:
    """Packets vanish and arrive twice, everywhere."""
    share = world.chance.uniform(0.05, 0.3)
    return _everywhere(world, Rule(loss=share, repeat=share))


def delay(world: World) -> AbstractContextManager[None]:
    """Packets are late, and overtake each other, everywhere."""
    late_ms = world.chance.uniform(5, 60)
    return _everywhere(world, Rule(delay_ms=late_ms, jitter_ms=late_ms))


def narrow(world: World) -> AbstractContextManager[None]:
    """Little passes in a second, everywhere."""
    return _everywhere(world, Rule(bytes_s=world.chance.uniform(64, 512) * 1024))


FAULTS: Final[dict[str, Fault]] = {
    "kill": Fault(kill, "kill -9 of one node"),
    "kill-all": Fault(kill_all, "kill -9 of all nodes at once"),
    "pause": Fault(pause, "one process stands still"),
    "power": Fault(power, "power cut of one node", disks=True),
    "power-all": Fault(power_all, "power cut of all nodes at once", disks=True),
    "isolate": Fault(isolate, "one node is alone", network=True),
    "deaf": Fault(deaf, "one node hears nobody", network=True),
    "mute": Fault(mute, "one node is heard by nobody", network=True),
    "ring": Fault(ring, "two nodes do not reach each other", network=True, nodes_min=3),
    "halves": Fault(halves, "minority and majority", network=True, nodes_min=5),
    "swizzle": Fault(swizzle, "links fail and return one by one", network=True),
    "flap": Fault(flap, "one node goes and comes", network=True),
    "remove": Fault(membership.remove, "one member is removed, and added again", nodes_min=3),
    "replace": Fault(membership.replace, "one node loses its disk and is replaced", nodes_min=3),
    "slow-disk": Fault(hardware.slow_disk, "a disk is slow or does not answer", shims=True),
    "failing-disk": Fault(hardware.failing_disk, "writes or syncs of a node fail", shims=True),
    "torn-write": Fault(hardware.torn_write, "a node ends within a write", shims=True),
    "full-disk": Fault(hardware.full_disk, "the disk of one node is full", disks=True),
    "full-disks": Fault(hardware.full_disks, "all disks are nearly full", disks=True),
    "clocks": Fault(hardware.clocks, "the clocks of all nodes jump", shims=True),
    "damage": Fault(hardware.damage, "a file of one node is damaged", nodes_min=3),
    "loss": Fault(loss, "lost and repeated packets", network=True),
    "delay": Fault(delay, "late packets that overtake", network=True),
    "narrow": Fault(narrow, "a network of little throughput", network=True),
}
"""By the names that `dfs nemesis --faults` takes."""
