"""Disks that are slow, that do not answer, that are full, that cannot be read."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import pairwise

import pytest

import dfs
from dfs.limits import DISK_FREE_BYTES_MIN
from dfs.nemesis.disk import Disk
from dfs.nemesis.processes import Cluster, Node
from dfs.nemesis.shim import Fault, Kind, Op, Shim
from dfs.nemesis.waiting import wait_until

WRITERS = 4
MOVE_S = 5.0
"""For leadership to leave a disk that is too slow."""
PAUSE_S_MAX = 2.0
"""For all writers together, while it does."""
HANDED = "leadership is handed to another node: its disk"
SLOW_MS, HANGS_MS = 60, 600_000
DISK_BYTES = 320 << 20


class Shimmed:
    """Three nodes, each with a shim."""

    def __init__(self, root) -> None:
        self.cluster = Cluster(root)
        self.shims = {node.name: Shim(node.data, node.root / "faults") for node in self.nodes}
        for node in self.nodes:
            node.environment = self.shims[node.name].environment()

    @property
    def nodes(self) -> list[Node]:
        return self.cluster.nodes

    def shim(self, node: Node) -> Shim:
        return self.shims[node.name]


@pytest.fixture
def shimmed(tmp_path):
    made = Shimmed(tmp_path)
    with made.cluster:
        yield made
        for shim in made.shims.values():
            shim.reset()


@contextmanager
def writing(cluster: Cluster) -> Iterator[list[tuple[float, str, int]]]:
    """Writers on all nodes; (when, key, revision) of what was acknowledged, which is all there at
    the end."""
    stop, done = threading.Event(), []

    def write(number: int) -> None:
        with cluster.client() as client:
            for count in range(1 << 30):
                if stop.is_set():
                    return
                key = f"w{number}/{count % 100}"
                try:
                    revision = client.put(key, b"%d" % count, timeout=10.0)
                except dfs.DfsError:
                    continue
                done.append((time.monotonic(), key, revision))

    threads = [threading.Thread(target=write, args=(number,)) for number in range(WRITERS)]
    for thread in threads:
        thread.start()
    try:
        wait_until("writes are acknowledged", lambda: len(done) > 50)
        yield done
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    last = {key: revision for _, key, revision in sorted(done, key=lambda d: d[2])}
    with cluster.client() as client:
        for key, revision in last.items():
            assert client.stat(key).revision >= revision, key


def moved_from(cluster: Cluster, old: Node) -> bool:
    others = [node.status().leader for node in cluster.nodes if node is not old]
    return all(leader not in ("", old.name) for leader in others)


def pause_s(done: list[tuple[float, str, int]], since_s: float) -> float:
    """The longest time without an acknowledgement."""
    times = [since_s, *(at for at, _, _ in list(done) if at > since_s), time.monotonic()]
    return max(b - a for a, b in pairwise(times))


@pytest.mark.parametrize(("delay_ms", "says"), [(SLOW_MS, "is slow"), (HANGS_MS, "not answer")])
def test_leadership_leaves_a_slow_disk(shimmed, delay_ms, says):
    """Leadership leaves a node whose disk is slower than those of the others, or does not answer at
    all, within five seconds, while writes go on; the node says why."""
    cluster, old = shimmed.cluster, shimmed.cluster.leader()
    with writing(cluster) as done:
        began_s = time.monotonic()
        shimmed.shim(old).slow(delay_ms)
        wait_until("leadership has moved", lambda: moved_from(cluster, old), MOVE_S)
        assert pause_s(done, began_s) < PAUSE_S_MAX
        wait_until("it follows, and says why", lambda: says in old.status().error)
        assert old.status().role == "follower"
        count = len(done)
        wait_until("writes go on", lambda: len(done) > count + 100)
        shimmed.shim(old).slow(0)
    wait_until("it is logged", lambda: HANDED in old.log.read_text())
    wait_until("it is well again", lambda: old.status().error == "")
    cluster.agree()


def test_where_all_disks_are_slow_leadership_stays(shimmed):
    """Where all disks are equally slow leadership stays where it is: nobody would do better."""
    cluster, leader = shimmed.cluster, shimmed.cluster.leader()
    terms = {node.status().term for node in cluster.nodes}
    for shim in shimmed.shims.values():
        shim.slow(SLOW_MS)
    with writing(cluster) as done:
        count = len(done)
        wait_until("many slow writes", lambda: len(done) > count + 80)
        assert leader.leads()
    assert terms == {node.status().term for node in cluster.nodes}
    assert all("disk" not in node.status().error for node in cluster.nodes)


def test_a_log_that_cannot_be_read_ends_the_node_and_harms_nobody(shimmed):
    """A leader that cannot read its log ends, with a sentence; the others go on, and the member for
    whom it read gets everything."""
    cluster, leader = shimmed.cluster, shimmed.cluster.leader()
    behind, _ = (node for node in cluster.nodes if node is not leader)
    behind.kill()
    with cluster.client() as client:
        for n in range(24):  # more than the log keeps in memory
            client.put(f"large/{n}", bytes([n]) * (1 << 20))
        shimmed.shim(leader).arm(Fault(Kind.ERROR, 1, (Op.READ,), match="/log/log/"))
        behind.start()
        wait_until("it has ended", lambda: not leader.alive())
        assert "Input/output error" in leader.tail()
        assert "panicked" not in leader.tail()
        assert shimmed.shim(leader).counts().hits == 1
        client.put("after", b"1")
        leader.log.write_text("")  # its complaints were expected
        leader.start()
        cluster.agree()
        for n in range(24):
            assert client.get(f"large/{n}") == bytes([n]) * (1 << 20)


# ---- full disks ----------------------------------------------------------------------------------


@pytest.fixture
def small(tmp_path):
    """Three nodes on small disks of their own."""
    if os.geteuid() != 0:
        pytest.skip("mounts file systems of its own: needs root")
    with ExitStack() as stack:
        root = tmp_path / "disks"
        root.mkdir()
        disks = [
            stack.enter_context(Disk(tmp_path / f"image{i}", root / f"node{i}", DISK_BYTES))
            for i in (1, 2, 3)
        ]
        cluster = stack.enter_context(Cluster(root))
        yield cluster, dict(zip((node.name for node in cluster.nodes), disks, strict=True))


def refused(node: Node) -> bool:
    """A put at this node is refused for want of space, or is taken."""
    with node.client() as client:
        try:
            client.put("probe", node.name.encode())
        except dfs.OutOfSpace as error:
            return "DISK_FREE_BYTES_MIN" in str(error)
        return False


def test_full_disks(small):
    """A full disk under the leader moves leadership and stops nobody. With full disks under a
    majority writes are refused at every node while reads and deletes go on, and are taken again
    when there is space. A node that finds no space at all ends with a sentence, and comes back."""
    cluster, disks = small
    with cluster.client() as client:
        for n in range(10):
            client.put(f"k{n}", b"v")
        first = cluster.leader()
        disks[first.name].fill(DISK_FREE_BYTES_MIN - (8 << 20))
        wait_until("leadership has moved", lambda: moved_from(cluster, first))
        assert "MiB left" in first.status().error
        assert not any(map(refused, cluster.nodes))

        second, third = (node for node in cluster.nodes if node is not first)
        disks[second.name].fill(DISK_FREE_BYTES_MIN - (8 << 20))
        wait_until("writes are refused", lambda: all(map(refused, cluster.nodes)))
        for n, node in enumerate(cluster.nodes * 3):
            with node.client() as caller:
                assert caller.get(f"k{n}") == b"v"
                caller.delete(f"k{n}")
        disks[second.name].fill(DISK_FREE_BYTES_MIN * 2)
        wait_until("writes are taken", lambda: not any(map(refused, cluster.nodes)))

        disks[first.name].fill(0)
        for n in range(200):
            if first.alive():
                client.put(f"large/{n % 20}", bytes([n]) * (256 << 10))
        wait_until("it has ended", lambda: not first.alive())
        assert "No space left" in first.tail()
        assert third.alive()
        client.put("after", b"1")
        disks[first.name].fill(DISK_FREE_BYTES_MIN * 2)
        for node in cluster.nodes:
            node.log.write_text("")  # its complaints were expected
        first.start()
        cluster.agree()
        assert client.get("after") == b"1"
