"""One seed from beginning to end."""

from __future__ import annotations

import logging
import random
import tempfile
from collections import Counter
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from dfs import check, errors
from dfs.check import Call

from . import drops, knobs
from .agents import PATHS, Agent
from .callers import Caller, client_of
from .faults import Storm
from .model import Model, digest
from .network import Network
from .node import Machine
from .raft import Raft
from .watchers import Watcher
from .world import World, Wrong
from .written import Written

MEMBERS: Final = (3, 3, 3, 5, 1)
CALLERS: Final = 4
WATCHED: Final = ("", "r", "t", "r/1")
CALM_S: Final = 40.0
MEMORY: Final = Path("/dev/shm")


@dataclass
class Report:
    """What came of one seed."""

    seed: int
    kind: str
    wrong: Wrong | None
    counts: Counter[str]
    lines: list[str]
    digest: str
    seconds: float
    """Of simulated time."""


class Cluster:
    """Members, their log, and the model of it."""

    def __init__(self, world: World, folder: Path) -> None:
        self.world = world
        self.model = Model(world)
        self.network = Network(world)
        names = [f"node{number + 1}" for number in range(world.chance.choice(MEMBERS))]
        self.raft = Raft(world, self.network, names, self.model.commit)
        self.machines = [
            Machine(world, self.raft, self.model, number + 1, name, folder)
            for number, name in enumerate(names)
        ]

    async def start(self) -> None:
        """All members, and a leader."""
        for machine in self.machines:
            await machine.start()
        self.raft.start()

    async def agree(self) -> None:
        """In calm weather all members come to the same state, which is that of the model."""
        machines, world, model = self.machines, self.world, self.model
        await world.wait_until(
            "all members have applied everything",
            lambda: all(m.engine.applied == self.raft.last() for m in machines), CALM_S,
        )
        states = {(m.store.applied, m.store.state_hash, m.store.chain) for m in machines}
        world.check(len(states) == 1, f"the members differ: {states}")
        for machine in machines:
            with machine.store.view() as view:
                model.same_tree(view.list("", True), machine.name)


async def calls_and_watches(world: World, folder: Path) -> None:
    """Clients call and watch a cluster; what they were told is checked."""
    chance = world.chance
    cluster = Cluster(world, folder)
    raft, model = cluster.raft, cluster.model
    calls: list[Call] = []
    written = Written()
    callers = [Caller(world, raft, model, n, calls, written) for n in range(CALLERS)]
    watchers = [
        Watcher(world, raft, model, n, chance.choice(WATCHED)) for n in range(chance.randint(1, 4))
    ]
    storm = Storm(
        world, cluster.network, raft, cluster.machines,
        [*(c.me for c in callers), *(w.me for w in watchers)],
    )
    await cluster.start()
    for watcher in watchers:
        world.begin(watcher.follow())
    working = [world.begin(caller.work(chance.randint(5, 25))) for caller in callers]
    await storm.rage(chance.uniform(2.0, 10.0))
    await storm.end()
    for task in working:
        await task
    absent = await storm.one_stays_away()
    for caller in callers:
        if caller.knows_another(absent):
            await caller.last_word()
    await storm.end()
    await cluster.agree()
    last = raft.last()
    await world.wait_until(
        "all watchers have heard of everything", lambda: all(w.until >= last for w in watchers),
        CALM_S,
    )
    written.check(world, model)
    for watcher in watchers:
        watcher.check()
        watcher.check_with(calls, {digest(c.value): c.value for c in calls if c.value is not None})
    for found in (check.not_linearizable(calls), check.out_of_order(calls)):
        world.check(found is None, str(found))
    world.counts["entries that came again"] += model.repeated


class Deleter:
    """A client that deletes what agents have stored."""

    me = "x0"

    def __init__(self, world: World, raft: Raft) -> None:
        self.world, self.client = world, client_of(world, raft, self.me)

    async def work(self, count: int) -> None:
        """So many deletions."""
        for _ in range(count):
            await self.world.wait(self.world.chance.expovariate(1.0))
            path = self.world.chance.choice(PATHS)
            try:
                await self.client.delete(path, timeout=1.0)
                self.world.count("drop deleted", path)
            except errors.DfsError as error:
                self.world.count("drop not deleted", f"{path} {type(error).__name__}")


async def drops_of_agents(world: World, folder: Path) -> None:
    """Users of several cache directories change the same files; another client deletes some."""
    chance = world.chance
    cluster = Cluster(world, folder)
    raft, model = cluster.raft, cluster.model
    agents = [Agent(world, raft, model, number) for number in range(chance.randint(1, 3))]
    other = Deleter(world, raft)
    storm = Storm(
        world, cluster.network, raft, cluster.machines, [*(a.me for a in agents), other.me], agents
    )
    await cluster.start()
    for agent in agents:
        agent.start()
    using = [world.begin(agent.use(chance.randint(3, 15))) for agent in agents]
    using.append(world.begin(other.work(chance.randint(0, 6))))
    await storm.rage(chance.uniform(2.0, 10.0))
    await storm.end()
    for task in using:
        await task
    await world.wait_until(
        "all drops are dealt with", lambda: all(a.up or a.start() for a in agents)
        and all(a.idle() for a in agents), CALM_S,
    )
    await cluster.agree()
    drops.check(world, model, agents)
    for agent in agents:
        drops.check_known(world, model, agent)


Scenario = Callable[[World, Path], Coroutine[Any, Any, None]]
SCENARIOS: Final[dict[str, Scenario]] = {
    "calls": calls_and_watches, "drops": drops_of_agents,
}


def kind_of(seed: int) -> str:
    """Each seed has its scenario."""
    kinds = list(SCENARIOS)
    return kinds[seed % len(kinds)]


def run(seed: int) -> Report:
    """Simulates one seed."""
    kind = kind_of(seed)
    chosen = knobs.choose(random.Random(f"knobs {seed}"))
    world = World(seed, chosen)
    world.note(f"seed {seed}: {kind}, {chosen}")
    wrong = None
    root = MEMORY if MEMORY.is_dir() else None
    silenced = logging.root.manager.disable
    logging.disable(logging.CRITICAL)  # What members and agents say of faults made on purpose.
    try:
        with knobs.turned(chosen), tempfile.TemporaryDirectory(dir=root) as folder:
            world.run(SCENARIOS[kind](world, Path(folder)))
    except Wrong as error:
        wrong = error
    finally:
        logging.disable(silenced)
    return Report(
        seed, kind, wrong, world.counts, list(world.lines), world.digest(), world.now
    )
