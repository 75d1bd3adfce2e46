"""What goes wrong, by the seed; in the end everything is healed, in any order."""

from __future__ import annotations

from collections.abc import Sequence

from dfs.errors import OutOfSpace

from .agents import Agent
from .network import Network
from .node import Machine
from .raft import Raft
from .world import World


class Storm:
    """Faults of all kinds, one after the other and at the same time."""

    def __init__(
        self, world: World, network: Network, raft: Raft, machines: list[Machine],
        others: list[str], agents: Sequence[Agent] = (),
    ) -> None:
        """`others`: who calls the machines, the agents included."""
        self.world, self.network, self.raft = world, network, raft
        self.machines, self.others = machines, others
        self._agents = agents
        world.kill = self._kill_named
        self._starting: set[str] = set()
        self._kinds = (
            (self._crash, 4), (self._crash_all, 1), (self._stop, 2), (self._isolate, 3),
            (self._swizzle, 1), (self._cut_caller, 3), (self._elect, 3), (self._weather, 4),
            (self._clock, 2), (self._snapshot, 4), (self._purge, 2), (self._leave_behind, 3),
            (self._fill_disk, 3),
            *(((self._crash_agent, 4),) if agents else ()),
        )

    async def rage(self, seconds: float) -> None:
        """For so long."""
        world, chance = self.world, self.world.chance
        end = world.now + seconds
        quiet = chance.choice((0.2, 0.6, 1.5))
        some = chance.sample(self._kinds, chance.randint(3, len(self._kinds)))
        while world.now < end:
            await world.wait(chance.expovariate(1 / quiet))
            chance.choices([kind for kind, _ in some], [weight for _, weight in some])[0]()

    async def end(self) -> None:
        """Nothing fails from here on, and what was broken is repaired."""
        world, chance = self.world, self.world.chance
        cuts = self.network.cuts()
        chance.shuffle(cuts)
        for cut in cuts:
            self.network.heal(*cut)
            await world.wait(chance.uniform(0, 0.3))
        world.calm = True
        self.network.loss = self.network.slow_s = 0.0
        for cut in self.network.cuts():
            self.network.heal(*cut)
        for machine in self.machines:
            machine.skew_ns = 0
            machine.node._hot.fill(None)
        world.note("calm")
        await world.wait_until(
            "all machines are up",
            lambda: all(
                (m.up and not m.engine.draining) or self._start(m) for m in self.machines
            ), 10.0,
        )

    async def one_stays_away(self) -> str:
        """In calm weather a majority is enough: the name of who is missing, if anybody is."""
        if len(self.machines) < 3 or self.world.likely(0.5):
            return ""
        machine = self.world.chance.choice(self.machines)
        self.world.count("member stays away", machine.name)
        machine.crash()
        return machine.name

    # ---- machines --------------------------------------------------------------------------------
    def _some(self) -> Machine | None:
        up = [machine for machine in self.machines if machine.up]
        return self.world.chance.choice(up) if up else None

    def _crash(self) -> None:
        machine = self._some()
        if machine is not None:
            self._kill(machine)

    def _crash_all(self) -> None:
        self.world.count("all crash at once")
        for machine in self.machines:
            if machine.up:
                self._kill(machine)

    def _kill(self, machine: Machine) -> None:
        leads = "leader" if machine.engine.leading else "follower"
        self.world.count(f"{leads} crashes", machine.name)
        machine.crash()
        self.world.later(self.world.chance.uniform(0.05, 3.0), self._start, machine)

    def _kill_named(self, name: str) -> None:
        machine = self.machines[self.raft.names.index(name)]
        if machine.up:
            self._kill(machine)

    def _stop(self) -> None:
        machine = self._some()
        if machine is None:
            return
        self.world.count("stop in order", machine.name)
        engine = machine.engine
        machine.stop()

        def gone() -> None:
            if not engine.dead:
                machine.crash()
                self.world.later(self.world.chance.uniform(0.05, 2.0), self._start, machine)

        self.world.later(self.world.chance.uniform(0.05, 0.5), gone)

    def _start(self, machine: Machine) -> bool:
        if not machine.up and machine.name not in self._starting:
            self._starting.add(machine.name)
            starting = self.world.begin(machine.start())
            starting.add_done_callback(lambda _: self._starting.discard(machine.name))
        return False

    def _crash_agent(self) -> None:
        chance = self.world.chance
        chance.choice(self._agents).crash(chance.random() < 0.2)

    def _clock(self) -> None:
        machine = self.world.chance.choice(self.machines)
        machine.skew_ns = int(self.world.chance.uniform(0, 5e9))
        self.world.count("clock jumps", f"{machine.name} {machine.skew_ns / 1e9:.1f}")

    def _snapshot(self) -> None:
        machine = self._some()
        if machine is not None:
            machine.snapshot()

    def _purge(self) -> None:
        """Members that are behind the snapshot cannot be given the log any more."""
        if self.raft.purged < self.raft.snapshot.index:
            self.raft.purged = self.raft.snapshot.index
            self.world.count("log purged", str(self.raft.purged))

    def _fill_disk(self) -> None:
        """A member takes no writes that need space, until there is some."""
        machine = self._some()
        if machine is None:
            return
        self.world.count("disk full", machine.name)
        hot = machine.node._hot
        hot.fill(OutOfSpace("the disk has 1 MiB left"))
        self.world.later(self.world.chance.uniform(0.1, 2.0), hot.fill, None)

    def _leave_behind(self) -> None:
        """A member that serves its callers hears nothing of the others, until there is a snapshot
        and no log any more of what it has missed."""
        followers = [m for m in self.machines if m.up and not m.engine.leading]
        if not followers or not self.raft.leader:
            return
        machine = self.world.chance.choice(followers)
        self.world.count("member left behind", machine.name)
        links = [(n, machine.name) for n in self.raft.names if n != machine.name]
        for link in links:
            self.network.cut(*link)
        away_s = self.world.chance.uniform(0.3, 2.5)

        def come_back() -> None:
            if not self.world.calm:
                self._purge()
            for link in links:
                self.network.heal(*link)

        self.world.later(away_s * 0.8, self._snapshot_of_the_leader)
        self.world.later(away_s, come_back)

    def _snapshot_of_the_leader(self) -> None:
        for machine in self.machines:
            if machine.up and machine.engine.leading and not self.world.calm:
                machine.snapshot()

    # ---- the network -----------------------------------------------------------------------------
    def _isolate(self) -> None:
        """One member cannot talk to the others, or not hear them, or is not heard."""
        name = self.world.chance.choice(self.raft.names)
        shape = self.world.chance.choice(("both ways", "deaf", "mute"))
        self.world.count(f"member cut off {shape}", name)
        links = []
        for other in self.raft.names:
            if other != name:
                links += [(name, other)] if shape != "deaf" else []
                links += [(other, name)] if shape != "mute" else []
        for link in links:
            self.network.cut(*link)
        self._heal_later(links)

    def _swizzle(self) -> None:
        """All links of some members end one by one, and come back in another order."""
        chance, names = self.world.chance, self.raft.names
        chosen = chance.sample(names, chance.randint(1, len(names)))
        self.world.count("swizzle", " ".join(chosen))
        links = [(a, b) for a in chosen for b in [*names, *self.others] if a != b]
        chance.shuffle(links)
        for number, link in enumerate(links):
            self.world.later(number * 0.05, self._cut_unless_calm, link)
        chance.shuffle(links)
        for number, link in enumerate(links):
            self.world.later(1.5 + number * 0.1, self.network.heal, *link)

    def _cut_unless_calm(self, link: tuple[str, str]) -> None:
        if not self.world.calm:
            self.network.cut(*link)

    def _cut_caller(self) -> None:
        """A client and a member lose each other, in one direction or both."""
        chance = self.world.chance
        one, two = chance.choice(self.others), chance.choice(self.raft.names)
        links = chance.choice(([(one, two)], [(two, one)], [(one, two), (two, one)]))
        self.world.count("caller cut off", f"{one} {two}")
        for link in links:
            self.network.cut(*link)
        self._heal_later(links)

    def _heal_later(self, links: list[tuple[str, str]]) -> None:
        for link in links:
            self.world.later(self.world.chance.uniform(0.2, 6.0), self.network.heal, *link)

    def _elect(self) -> None:
        if self.raft.engines:
            self.raft.elect_another()

    def _weather(self) -> None:
        chance = self.world.chance
        self.network.loss = chance.choice((0.0, 0.05, 0.15, 0.35))
        self.network.slow_s = chance.choice((0.0, 0.05, 1.0))
        self.world.count("weather", f"loss {self.network.loss} slow {self.network.slow_s}")
