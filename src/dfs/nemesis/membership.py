"""Faults of the membership: members that are removed and come back, and that lose their disk.

They strike while nothing else is wrong, because a change needs a majority without the node that it
is about. What strikes after them is mended before them.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ..client import Client
from .processes import Node
from .waiting import wait_until
from .world import World


@contextmanager
def remove(world: World) -> Iterator[None]:
    """One member is removed, and added again with its data."""
    node = world.take_whole()
    with world.hurt([node]):
        number = _ask(world, lambda client: _id(client, node))
        _ask(world, lambda client: client.remove_member(node.name, number).config)
        world.counts["members removed"] += 1
        yield
        config = _ask(world, lambda client: client.add_member("", 0, node.place.raft, "").config)
        wait_until(f"{node.name} votes again", lambda: world.votes(node, config))
        world.counts["members added"] += 1


@contextmanager
def replace(world: World) -> Iterator[None]:
    """One node loses its disk; an empty one of its name takes its place."""
    node = world.take_whole()
    with world.hurt([node]):
        number = _ask(world, lambda client: _id(client, node))
        node.kill()
        node.kill_helpers()
        shutil.rmtree(node.data)
        node.data.mkdir()
        yield
        node.start()
        wait_until("it waits", lambda: node.status().role == "fresh")
        config = _ask(world, lambda client: _replace(client, node, number))
        wait_until(f"the new {node.name} votes", lambda: world.votes(node, config))
        world.counts["members replaced"] += 1


def _replace(client: Client, node: Node, former: int) -> int:
    """Asked again when the answer was lost, the cluster says that it was replaced meanwhile."""
    if _id(client, node) not in (0, former):
        return client.members().config
    return client.replace_member(node.name, former).config


def _ask(world: World, what: Callable[[Client], int]) -> int:
    """What is asked until it is answered; a change that was made is not made twice."""

    def answer() -> int:
        with world.cluster.client() as client:
            return what(client)

    return wait_until("the cluster changes its members", answer)


def _id(client: Client, node: Node) -> int:
    return next((m.id for m in client.members().members if m.name == node.name), 0)
