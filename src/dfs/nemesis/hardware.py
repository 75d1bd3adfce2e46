"""Faults of disks, files and clocks: what machines do that are not well."""

from __future__ import annotations

import errno
import math
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from ..errors import OutOfSpace
from ..identity import FILE as IDENTITY
from ..identity import QUARANTINE
from ..limits import DISK_FREE_BYTES_MIN
from .damage import UNTOUCHED, anywhere
from .processes import Node
from .shim import Fault, Kind, Op
from .waiting import READY_S, wait_until
from .world import World

SLOW_MS: Final = (20, 100, 600_000)
"""A busy disk, a slow one, and one that does not answer."""
CALLS: Final = 40
"""The fault comes with one of so many next writes and syncs."""
FULL_BYTES: Final = (0, DISK_FREE_BYTES_MIN // 2)
"""Nothing is left; or less than what is kept back for that no disk becomes quite full."""
AMPLE_BYTES: Final = 1 << 40
READ_PER_S: Final = 1_000
"""Revisions whose records are read again in a second, on a busy machine, in two passes: the one
that is under way may have passed the damage."""
CLOCK_MS: Final = (50, 12 * 3_600_000)
"""From what time synchronization corrects all the time, to a time zone set wrong."""


# ---- disks ---------------------------------------------------------------------------------------
@contextmanager
def slow_disk(world: World) -> Iterator[None]:
    """Every sync of one node takes long, or does not end."""
    (node,) = world.choose()
    with world.hurt([node]):
        world.shims[node.name].slow(world.chance.choice(SLOW_MS))
        yield
        world.shims[node.name].slow(0)


@contextmanager
def failing_disk(world: World) -> Iterator[None]:
    """A write or sync of one node fails, once or from then on: the node ends, and is started anew.

    What it logs for it is no complaint."""
    (node,) = world.choose()
    ops = world.chance.choice(((Op.WRITE,), (Op.SYNC,), (Op.WRITE, Op.SYNC)))
    error = world.chance.choice((errno.EIO, errno.ENOSPC))
    at, sticky = world.chance.randint(1, CALLS), world.chance.random() < 0.5
    with world.hurt([node]), _armed(world, node, Fault(Kind.ERROR, at, ops, error, sticky)):
        yield


@contextmanager
def torn_write(world: World) -> Iterator[None]:
    """One node writes half of what it wanted, and is gone."""
    (node,) = world.choose()
    fault = Fault(Kind.TORN, world.chance.randint(1, CALLS), (Op.WRITE,))
    with world.hurt([node]), _armed(world, node, fault):
        yield


@contextmanager
def _armed(world: World, node: Node, fault: Fault) -> Iterator[None]:
    shim = world.shims[node.name]
    shim.arm(fault)
    yield
    shim.disarm()
    world.counts[f"disk: {fault.kind.name.lower()}"] += shim.counts().hits
    world.renew(node)


@contextmanager
def full_disk(world: World) -> Iterator[None]:
    """The disk of one node is full, or nearly: it may end, and is started when there is space."""
    (node,) = world.choose()
    disk = world.disks[node.name]
    with world.hurt([node]):
        disk.fill(world.chance.choice(FULL_BYTES))
        wait_until(f"{node.name} sees it", lambda: not node.alive() or node.status().error)
        yield
        disk.fill(AMPLE_BYTES)
        if node.alive():
            _has_space(node)
            node.put_log_away()
        else:
            world.renew(node)


@contextmanager
def full_disks(world: World) -> Iterator[None]:
    """All disks are nearly full: writes are refused until there is space, and nobody ends."""
    with world.hurt(world.choose(len(world.nodes))):
        for disk in world.disks.values():
            disk.fill(FULL_BYTES[-1])
        wait_until("writes are refused", lambda: any(not _takes(node) for node in world.nodes))
        yield
        for disk in world.disks.values():
            disk.fill(AMPLE_BYTES)
        wait_until("writes are taken", lambda: all(map(_takes, world.nodes)))
        for node in world.nodes:
            _has_space(node)
            node.put_log_away()


def _has_space(node: Node) -> None:
    wait_until(f"{node.name} has space", lambda: not node.status().error)


def _takes(node: Node) -> bool:
    """It has space for a write. Raises what else is wrong."""
    with node.client() as client:
        try:
            client.put("probe", b"")
        except OutOfSpace:
            return False
    return True


# ---- clocks --------------------------------------------------------------------------------------
@contextmanager
def clocks(world: World) -> Iterator[None]:
    """The wall clocks of all nodes jump, each by its own amount, and then back."""
    low, high = map(math.log, CLOCK_MS)
    for shim in world.shims.values():
        ahead_ms = math.exp(world.chance.uniform(low, high))
        shim.clock(int(ahead_ms * world.chance.choice((-1, 1))))
    yield
    for shim in world.shims.values():
        shim.clock(0)


# ---- files ---------------------------------------------------------------------------------------
@contextmanager
def damage(world: World) -> Iterator[None]:
    """A file in the data directory of one node is damaged while it is down. The node heals while
    the others lack nothing; its identity alone it cannot heal, and a person has to put it back."""
    node = world.take_whole()
    with world.hurt([node]):
        node.kill()
        node.kill_helpers()
        identity = (node.data / IDENTITY).read_bytes()
        # A day's count of heals is for what comes unasked.
        shutil.rmtree(node.data / QUARANTINE, ignore_errors=True)
        former, now = node.root / "former", node.root / "now"
        shutil.copytree(node.data, now, ignore=shutil.ignore_patterns(*UNTOUCHED))
        how, file = anywhere(node.data, world.chance, former)
        shutil.rmtree(former, ignore_errors=True)
        now.rename(former)
        world.counts[f"damage: {how}"] += 1
        revision = max(other.status().applied for other in world.nodes if other is not node)
        yield
        node.start()

        def healed() -> bool:
            if node.alive():
                # Damage that nobody has met yet is found by reading everything.
                return world.serves(node) and node.status().verified >= revision
            if file.name == IDENTITY and IDENTITY in node.tail():
                file.write_bytes(identity)
            world.renew(node)  # it ended when it found the damage, and heals at a start
            return False

        limit_s = READY_S + revision / READ_PER_S
        wait_until(f"{node.name} is well after {how} of {file}", healed, limit_s)
        node.put_log_away()
