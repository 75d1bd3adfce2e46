"""Real nodes that heal themselves, and data directories that are refused."""

from __future__ import annotations

import shutil
from pathlib import Path

import dfs
from dfs.kv import RocksKV
from dfs.nemesis.places import on_loopback
from dfs.nemesis.processes import Cluster, Node, running, wait_until
from dfs.store import Store
from dfs.store.layout import META_KEY

CONTENT_BYTES = 40_000
FILES = 40
READY_S = 30.0


def flip_all(node: Node, pattern: str) -> None:
    """Flips a bit in the middle of all files of the state that match."""
    for path in (node.data / "store").rglob(pattern):
        flip(path)


def flip(path: Path, at: float = 0.5) -> None:
    """Flips a bit of a file."""
    with path.open("r+b") as file:
        file.seek(int(path.stat().st_size * at))
        byte = file.read(1)[0]
        file.seek(-1, 1)
        file.write(bytes([byte ^ 4]))


def differ(node: Node) -> None:
    """Changes the state in a way that no checksum shows."""
    kv = RocksKV(node.data / "store")
    store = Store(kv)
    store._meta.state_hash ^= 1
    kv.write({META_KEY: store._meta.pack()})
    kv.flush()
    store.close()


def healed(node: Node, times: int) -> bool:
    """It has put away so many states and serves again."""
    away = list((node.data / "quarantine").glob("*/why.txt"))
    return len(away) == times and bool(node.status().leader) and not node.status().error


def read_all(node: Node, contents: dict[str, bytes]) -> int:
    """Reads everything at one node; how many reads were refused. Wrong bytes fail."""
    refused = 0
    with node.client() as client:
        for key, data in contents.items():
            try:
                assert client.get(key, timeout=2.0) == data, key
            except (dfs.DataLoss, dfs.Unavailable, dfs.DeadlineExceeded):
                refused += 1
    return refused


def flushed(cluster: Cluster) -> bool:
    """All of the state is in files."""
    return all(list((n.data / "store").rglob("*.blob")) for n in cluster.nodes)


def test_damaged_states_heal_by_themselves(tmp_path: Path) -> None:
    """A node whose state is damaged while it is stopped or while it runs, or differs from that of
    the others, never gives wrong bytes, stops serving, says why, and gets a good state by itself,
    in the same process; the others go on."""
    contents = {f"k{n}": bytes([n]) * CONTENT_BYTES for n in range(FILES)}
    with running(tmp_path) as cluster:
        with cluster.client() as client:
            for key, data in contents.items():
                client.put(key, data)
        wait_until("the states are in files", lambda: flushed(cluster))
        one, two, three = cluster.nodes

        three.stop()
        flip_all(three, "MANIFEST-*")
        three.start()
        wait_until("it is healed", lambda: healed(three, 1))
        assert read_all(three, contents) == 0

        process = two.process
        flip_all(two, "*.blob")
        wait_until("a reader has met it", lambda: read_all(two, contents))
        wait_until("it is healed", lambda: healed(two, 1))
        assert two.process is process
        assert two.alive()
        assert read_all(two, contents) == 0
        assert "stops serving its state" in two.log.read_text()

        one.stop()
        differ(one)
        one.start()
        wait_until("it is healed", lambda: healed(one, 1))
        assert "differs from that of the other members" in one.log.read_text()
        cluster.agree()
        assert read_all(one, contents) == 0


def ended(node: Node) -> str:
    """What a node says that ends by itself with exit code 2."""
    node.start()
    assert node.process is not None
    try:
        assert node.process.wait(READY_S) == 2, node.tail()
    finally:
        node.kill()
    return node.tail(1)


def test_a_damaged_log_makes_a_new_member_and_foreign_directories_are_refused(
    tmp_path: Path,
) -> None:
    """A node whose log is damaged takes its own place as a new member, by itself, while the others
    go on. A data directory that was wiped, copied, or is that of another cluster or node is refused
    with what to do, and what it holds is not touched."""
    with running(tmp_path) as cluster:
        one, two, three = cluster.nodes
        with cluster.client() as client:
            for number in range(20):
                client.put(f"k/{number}", b"x" * 1_000)
            former = {m.name: m.id for m in client.members().members}
            three.kill()
            flip(next((three.data / "log/log").glob("*.wal")))
            three.start()
            wait_until("it is a voter again", cluster.complete)
            assert {m.name: m.id for m in client.members().members}["node3"] != former["node3"]
            assert (three.data / "quarantine").exists()
            assert client.get("k/7") == b"x" * 1_000
        cluster.agree()

        twin = Node(tmp_path / "twin", "node2", on_loopback(1)[0], "")
        no_sockets = shutil.ignore_patterns("*.sock")
        shutil.copytree(two.data, twin.data, dirs_exist_ok=True, ignore=no_sockets)
        assert f"node2 runs already, at {two.place.raft}" in ended(twin)

        two.stop()
        kept = tmp_path / "kept"
        two.data.rename(kept)
        shutil.copytree(one.data, two.data, ignore=no_sockets)
        assert "is the data directory of node node1, not of node2" in ended(two)
        shutil.rmtree(two.data)
        (kept / "identity.json").rename(tmp_path / "identity.json")
        kept.rename(two.data)
        assert "but no identity.json: put that file back" in ended(two)
        (two.data / "identity.json").write_text('{"cluster": null, "name": "node2", "id": -3}')
        assert "is damaged" in ended(two)
        (tmp_path / "identity.json").rename(two.data / "identity.json")
        two.start()
        cluster.agree()
