"""Real nodes that heal themselves: states that are damaged, and one that differs."""

from __future__ import annotations

from pathlib import Path

import dfs
from dfs.kv import RocksKV
from dfs.nemesis.processes import Cluster, Node, running, wait_until
from dfs.store import Store
from dfs.store.layout import META_KEY

CONTENT_BYTES = 40_000
FILES = 40


def flip_all(node: Node, pattern: str) -> None:
    """Flips a bit in the middle of all files of the state that match."""
    for path in (node.data / "store").rglob(pattern):
        with path.open("r+b") as file:
            file.seek(path.stat().st_size // 2)
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
    away = list((node.data / "quarantine").glob("*-store.txt"))
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
