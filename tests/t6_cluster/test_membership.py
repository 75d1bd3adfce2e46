"""Members come, go and are replaced while clients write: nothing is lost."""

from __future__ import annotations

import asyncio
import itertools
import os
import random
import re
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

import dfs
from dfs.limits import ELECTION_MS_MIN
from dfs.nemesis.places import on_loopback
from dfs.nemesis.processes import Cluster, Node
from dfs.nemesis.recorder import Recorder
from dfs.nemesis.waiting import wait_until

ROUNDS = int(os.environ.get("DFS_TEST_MEMBERSHIP_ROUNDS", "1"))
"""How often each test does what it does: `DFS_TEST_MEMBERSHIP_ROUNDS=20 make pytest T="-k
t6_cluster/test_membership"` takes half an hour."""
KILLS = 4
HAND_OVER_S = ELECTION_MS_MIN / 4 / 1000
TRIES = 3
"""A busy machine may be slow once, or twice."""
NOBODY = "127.0.0.1:1"
"""A peer address where nobody listens: who knows only that waits to be added."""


class Changing(Cluster):
    """A cluster whose clients know the first nodes, and have to learn of the others."""

    def __init__(self, root: Path, count: int = 3) -> None:
        super().__init__(root, count)
        self.root, self.count = root, count
        self.seeds = [node.endpoint for node in self.nodes]
        self.started = list(self.nodes)

    def _end(self) -> None:
        self.nodes = self.started
        super()._end()

    def client(self) -> dfs.Client:
        return dfs.connect(*self.seeds)

    def caller(self) -> dfs.Client:
        """A client of the nodes there are now."""
        return dfs.connect(*(node.endpoint for node in self.nodes))

    def start_another(self, peers: str) -> Node:
        """A new node, not yet a member."""
        self.count += 1
        (place,) = on_loopback(1)
        node = Node(self.root / f"node{self.count}", f"node{self.count}", place, peers)
        node.start()
        self.started.append(node)
        return node

    def dfs(self, *arguments: str) -> str:
        """Types a command; what it printed."""
        ran = self.try_dfs(*arguments)
        assert ran.returncode == 0, ran.stdout + ran.stderr
        return ran.stdout

    def try_dfs(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        argv = [sys.executable, "-P", "-m", "dfs", *arguments]
        argv += [f"-endpoint={','.join(node.endpoint for node in self.nodes)}"]
        return subprocess.run(argv, capture_output=True, text=True, check=False)

    def voters(self) -> set[str]:
        with self.caller() as client:
            return {m.name for m in client.members().members if m.voter}

    def wait_for_voters(self) -> None:
        """All that are left, and nobody else, have a vote."""
        names = {node.name for node in self.nodes}
        wait_until(f"voters are {names}", lambda: self.voters() == names)

    def remove(self, node: Node) -> None:
        """Removes a node, which says so, and ends it."""
        self.nodes.remove(node)
        self.dfs("member", "remove", node.name)
        wait_until("it knows", lambda: "it was removed: stop it" in node.status().error)
        assert node.stop() == 0


def test_three_five_three_and_all_of_them_others(tmp_path: Path) -> None:
    """From three nodes to five and back to three under load, the leader among those who go, until
    none of the first three is left: no acknowledged write is lost, no read is stale, the watcher
    hears of each change once, the states are equal; and clients that were given the first three
    nodes follow."""
    with Changing(tmp_path) as cluster:
        for _ in range(ROUNDS):
            recorder = Recorder(cluster, f"round-{cluster.count}")
            with recorder.at_work():
                replace_all(cluster, recorder)
            cluster.agree()
            recorder.check()


def replace_all(cluster: Changing, recorder: Recorder) -> None:
    first = list(cluster.nodes)
    joins = cluster.start_another(",".join(node.place.raft for node in first))
    waits = cluster.start_another(NOBODY)
    wait_until("it waits", lambda: "waiting for" in waits.log.read_text())
    said = cluster.dfs("member", "add", waits.place.raft, "--name", waits.name)
    assert f"{waits.name} at {waits.place.raft} joins as a learner and gets its vote" in said
    cluster.nodes += [joins, waits]
    cluster.wait_for_voters()
    leader = cluster.leader()
    cluster.dfs("leader", "move", first[0].name)  # so that one of the first three leads
    cluster.remove(wait_until("it leads", lambda: first[0] if first[0].leads() else None))
    assert leader in (*cluster.nodes, first[0])
    cluster.remove(first[1])
    seen = recorder.progress()
    wait_until("writes go on", lambda: recorder.progress() > seen)
    first[2].kill()
    last = cluster.start_another(NOBODY)
    wait_until("it waits", lambda: "waiting for" in last.log.read_text())
    cluster.nodes.remove(first[2])
    cluster.dfs("member", "replace", first[2].name, last.place.raft)
    cluster.nodes.append(last)
    cluster.wait_for_voters()
    seen = recorder.progress()
    wait_until("the clients have followed", lambda: recorder.progress() > seen)
    cluster.seeds = [node.endpoint for node in cluster.nodes]


def test_a_node_whose_disk_died_is_replaced_by_what_it_says(tmp_path: Path) -> None:
    """A member's disk dies under load. Started with an empty one, it says which command lets it
    take its place; typed on another machine, that shows what will happen, and the node becomes a
    voter that has everything."""
    with Changing(tmp_path) as cluster:
        for number in range(ROUNDS):
            recorder = Recorder(cluster, f"round-{number}")
            victim = cluster.nodes[number % 3]
            with recorder.at_work():
                victim.kill()
                shutil.rmtree(victim.data)
                victim.data.mkdir()
                said_before = len(victim.log.read_text())
                victim.start()
                typed = what_it_says_to_type(victim, said_before)
                assert "nothing was changed" in cluster.try_dfs(*typed, "--dry-run").stderr
                assert victim.status().role == "fresh"
                said = cluster.dfs(*typed)
                assert re.search(r"^now .* 3 +1 +\d$", said, re.MULTILINE), said
                assert re.search(r"^when \w+ has caught up .* 3 +1 +1$", said, re.MULTILINE), said
                cluster.wait_for_voters()
                assert "nothing to do" in cluster.try_dfs("member", "promote", victim.name).stderr
            cluster.agree()


def what_it_says_to_type(node: Node, said_before: int) -> list[str]:
    def find() -> re.Match[str] | None:
        return re.search(r"`dfs (member replace \w+)`", node.log.read_text()[said_before:])

    return wait_until("it says what to type", find).group(1).split()


def test_leaders_that_are_killed_while_they_change_the_members(tmp_path: Path) -> None:
    """A voter is removed and added again and again, by two callers at once, and the leader is
    killed meanwhile: each request ends with what it asked for, all nodes share one membership, and
    nothing that was acknowledged is lost."""
    with Changing(tmp_path, 4) as cluster:
        recorder = Recorder(cluster)
        chance = random.Random(1)
        guest = cluster.nodes[-1]
        with recorder.at_work():
            for number in range(KILLS * ROUNDS):
                leader = cluster.leader()
                if leader is guest:
                    cluster.dfs("leader", "move", cluster.nodes[0].name)
                    leader = cluster.leader()
                ask_twice_and_kill(cluster, leader, guest, number % 2 == 0, chance.uniform(0, 0.03))
        cluster.wait_for_voters()
        cluster.agree()
        recorder.check()
        with cluster.caller() as client:
            assert client.members().config > 0
        assert len({config(node) for node in cluster.nodes}) == 1


def config(node: Node) -> int:
    with node.client() as client:
        return client.members().config


def ask_twice_and_kill(
    cluster: Changing, leader: Node, guest: Node, removes: bool, after_s: float
) -> None:
    """Two callers want the same, one at a node that will stay, one anywhere."""
    endpoints = [node.endpoint for node in cluster.nodes if node not in (leader, guest)]
    errors: list[BaseException] = []
    begun = threading.Barrier(3)

    def ask(*where: str) -> None:
        try:
            with dfs.connect(*where) as client:
                begun.wait()
                while True:
                    try:
                        if removes:
                            client.remove_member(guest.name, numbers[guest.name], timeout=20)
                        else:
                            client.add_member(guest.name, 0, guest.place.raft, "", timeout=20)
                        return
                    except (dfs.OutcomeUnknown, dfs.Unavailable):
                        continue  # what was asked for may be repeated
        except BaseException as error:  # boundary: shown below
            errors.append(error)

    with cluster.caller() as client:
        numbers = {m.name: m.id for m in client.members().members}
        numbers.setdefault(guest.name, 0)
    threads = [
        threading.Thread(target=ask, args=endpoints),
        threading.Thread(target=ask, args=[leader.endpoint, *endpoints]),
    ]
    for thread in threads:
        thread.start()
    begun.wait()
    strike = threading.Timer(after_s, leader.kill)
    strike.start()
    for thread in (*threads, strike):
        thread.join()
    leader.start()
    assert not errors, errors
    wait_until("the killed one is back", lambda: leader.status().leader)
    names = {node.name for node in cluster.nodes} - ({guest.name} if removes else set())
    wait_until(f"voters are {names}", lambda: cluster.voters() == names)


async def test_a_leader_that_is_stopped_hands_over_at_once(tmp_path: Path) -> None:
    """A leader that gets SIGTERM under load hands leadership over first: between two acknowledged
    writes lies no more than a fraction of an election timeout."""
    with Changing(tmp_path) as cluster:
        gaps: list[float] = []
        while not gaps or (min(gaps) > HAND_OVER_S and len(gaps) < TRIES):
            leader = await asyncio.to_thread(cluster.leader)
            gaps.append(await gap_around(cluster, leader))
            leader.start()
            await asyncio.to_thread(wait_until, "it is back", lambda n=leader: n.status().leader)
        print(f"longest time without an acknowledged write: {[f'{g:.3f}' for g in gaps]} s")
        assert min(gaps) < HAND_OVER_S, gaps


async def gap_around(cluster: Changing, leader: Node) -> float:
    """Seconds without an acknowledged write while that node is stopped; eight callers."""
    others = [node.endpoint for node in cluster.nodes if node is not leader]
    times: list[float] = []

    async def put(client: dfs.AsyncClient, number: int, until: asyncio.Event) -> None:
        while not until.is_set():
            await client.put(f"gap/{number}", b"x", timeout=10)
            times.append(time.monotonic())

    async def put_some(client: dfs.AsyncClient) -> None:
        for number in range(200):
            await client.put("gap/some", b"%d" % number, timeout=10)

    async with dfs.AsyncClient(*others) as client, asyncio.TaskGroup() as tasks:
        stop = asyncio.Event()
        for number in range(8):
            tasks.create_task(put(client, number, stop))
        await put_some(client)
        assert await asyncio.to_thread(leader.stop) == 0
        await put_some(client)
        stop.set()
    return max(b - a for a, b in itertools.pairwise(times))


def test_a_removed_node_that_is_started_again_disturbs_nobody(tmp_path: Path) -> None:
    """A node that was removed and is started again finds out, says what to do and answers no call;
    the others keep their leader and their term."""
    with Changing(tmp_path) as cluster:
        guest = next(node for node in cluster.nodes if node is not cluster.leader())
        cluster.remove(guest)
        before = cluster.leader().status()
        guest.start()
        wait_until("it knows", lambda: "it was removed: stop it" in guest.status().error)
        recorder = Recorder(cluster)
        cluster.seeds = [node.endpoint for node in cluster.nodes]
        with recorder.at_work():
            wait_until("many writes pass", lambda: recorder.progress() > before.applied + 300)
        with guest.client() as client:
            for local in (False, True):
                with pytest.raises(dfs.Unavailable, match="empty its data directory and start it"):
                    client.get("recorded/1", local=local, timeout=1)
        after = cluster.leader().status()
        assert (after.term, after.leader) == (before.term, before.leader)
        assert guest.stop() == 0
        cluster.agree()
