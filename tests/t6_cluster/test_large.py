"""Files that are too large for the log: on real nodes, disks and mounts."""

from __future__ import annotations

import hashlib
import io
import os
import threading
from pathlib import Path

import pytest

import dfs
from dfs.contents import DIRECTORY, UPLOADS
from dfs.nemesis.processes import Cluster, Node, running, wait_until

needs_fuse = pytest.mark.skipif(
    not Path("/dev/fuse").exists() or os.geteuid() != 0, reason="needs /dev/fuse and root"
)
MIB = 1 << 20


def digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def made(path: Path, size: int) -> str:
    """Writes a file of random bytes; its digest."""
    path.write_bytes(os.urandom(size))
    return digest(path)


def shows(node: Node, name: str, size: int, sha256: str) -> bool:
    """The mount shows the file, whole. It never shows anything else under that name."""
    path = node.mount / name
    if not path.exists():
        return False
    assert path.stat().st_size == size
    assert digest(path) == sha256
    return True


def kept(node: Node) -> list[Path]:
    """Large contents on its disk."""
    return [p for p in (node.data / DIRECTORY).glob("??/*") if len(p.name) == 64]


@needs_fuse
def test_a_large_file_is_identical_on_every_mount(tmp_path: Path) -> None:
    """A file that is too large for the log, dropped on one node, is shown whole or not at all on
    the mounts of all nodes, byte for byte, and stands once on the disk of each."""
    size = 48 * MIB + 17
    source = tmp_path / "source"
    sha256 = made(source, size)
    with running(tmp_path, mounts=True) as cluster:
        dropped = cluster.nodes[0].cache / "large"
        dropped.write_bytes(source.read_bytes())
        for node in cluster.nodes:
            wait_until(f"{node.name} shows it", lambda n=node: shows(n, "large", size, sha256))
            [content] = kept(node)
            assert content.name == sha256
            assert not list((node.data / "agent" / "objects").glob(f"??/{sha256}"))
            assert node.status().contents == 1
        with cluster.client() as client:
            client.delete("large")
        for node in cluster.nodes:
            wait_until("it is gone", lambda n=node: not (n.mount / "large").exists())


@needs_fuse
def test_what_somebody_wrote_into_local_files_is_not_read(tmp_path: Path) -> None:
    """The kernel reads local files by itself. An open sees that somebody has written to one since
    it was verified: what is wrong with it is had again from another member."""
    contents = {"small": os.urandom(5_000), "large": os.urandom(9 * MIB)}
    with running(tmp_path, mounts=True) as cluster:
        node = cluster.nodes[1]
        with cluster.client() as client:
            client.put("small", contents["small"])
            client.upload("large", io.BytesIO(contents["large"]))
        for name, data in contents.items():
            sha256 = hashlib.sha256(data).hexdigest()
            wait_until("it is shown", lambda n=name, s=sha256, d=data: shows(node, n, len(d), s))
            for _ in range(2):  # the second time another file is in its place
                [place] = node.data.rglob(sha256)
                with place.open("r+b") as file:
                    file.seek(len(data) // 2)
                    file.write(b"other bytes")
                assert (node.mount / name).read_bytes() == data
        assert "cached object is damaged" in node.log.read_text()
        assert "was written to" in node.log.read_text()


def upload_until_stored(cluster: Cluster, path: Path, outcome: list[object]) -> None:
    with cluster.client() as client, path.open("rb") as file:
        try:
            outcome.append(client.upload("large", file, size=path.stat().st_size))
        except dfs.DfsError as error:
            outcome.append(error)


def test_an_upload_survives_kills_of_all_nodes(tmp_path: Path) -> None:
    """While a large file is uploaded every node is killed in turn: in the end it is stored once and
    whole, on the disks of all."""
    source = tmp_path / "source"
    sha256 = made(source, 160 * MIB)
    with running(tmp_path) as cluster:
        outcome: list[object] = []
        uploading = threading.Thread(target=upload_until_stored, args=(cluster, source, outcome))
        uploading.start()
        for node in cluster.nodes:
            wait_until("something has arrived", lambda n=node: arrived(n) or outcome)
            node.kill()
            node.start()
            wait_until(f"{node.name} is back", lambda n=node: n.status().applied)
        uploading.join(timeout=90)
        assert outcome, "the upload has an end"
        assert isinstance(outcome[0], int), outcome
        for node in cluster.nodes:
            wait_until(f"{node.name} has it", lambda n=node: len(kept(n)) == 1)
            assert digest(kept(node)[0]) == sha256
        with cluster.client() as client, (tmp_path / "copy").open("wb") as copy:
            assert client.download("large", copy).revision == outcome[0]
        assert digest(tmp_path / "copy") == sha256
        assert client_history(cluster) == 1


@pytest.mark.timeout(240)
def test_a_tree_with_large_files_is_published_at_once(tmp_path: Path) -> None:
    """A directory with files of any size is published at once, also when the leader is killed on
    the way: readers see all of the former one or all of the new one, on every node."""
    with running(tmp_path) as cluster:
        trees = [made_tree(tmp_path / str(number)) for number in range(4)]
        acknowledged = [publish(cluster, trees[0])]
        shown = Shown(cluster, trees)
        for number, moment in enumerate((on_its_way, held, proposed), 1):
            outcome: list[object] = []
            publishing = threading.Thread(
                target=lambda n=number, o=outcome: o.append(publish(cluster, trees[n]))
            )
            leader = cluster.leader()
            publishing.start()
            wait_until("it is time", lambda m=moment, n=number: m(cluster, trees[n]))
            leader.kill()
            while publishing.is_alive():
                shown.look()
            publishing.join()
            leader.start()
            assert outcome, "it has an end"
            assert isinstance(outcome[0], int), outcome
            acknowledged.append(outcome[0])
            wait_until("it is back", lambda node=leader: node.status().applied)
            assert shown.look() == number
        assert acknowledged == sorted(set(acknowledged))
        for node in cluster.nodes:
            wait_until(f"{node.name} has all", lambda n=node: len(kept(n)) == 2 * len(trees))
        with cluster.client() as client:
            for name, path in trees[-1].items():
                with (tmp_path / "copy").open("wb") as copy:
                    client.download(f"w/{name}", copy)
                assert digest(tmp_path / "copy") == digest(path)
            changes = list(client.history("w/first"))
        assert [change.revision for change in changes] == acknowledged[::-1]


def made_tree(top: Path) -> dict[str, Path]:
    """Name → file; two of them are large."""
    top.mkdir()
    sizes = {"first": 24 * MIB + 1, "last": 12 * MIB, **{f"small{n}": 100 + n for n in range(20)}}
    for name, size in sizes.items():
        made(top / name, size)
    return {name: top / name for name in sizes}


def publish(cluster: Cluster, tree: dict[str, Path]) -> int:
    with cluster.client() as client, client.transaction() as changes:
        for name, path in tree.items():
            changes.put(f"w/{name}", path)
    return changes.revision


class Shown:
    """What readers see, at each node in turn."""

    def __init__(self, cluster: Cluster, trees: list[dict[str, Path]]) -> None:
        self._nodes = cluster.nodes
        self._trees = [
            {f"w/{name}": hashlib.sha256(path.read_bytes()).digest() for name, path in t.items()}
            for t in trees
        ]
        self._newest = 0

    def look(self) -> int:
        """The number of the tree that is there: whole, and no older than what was seen before."""
        for node in self._nodes:
            try:
                with node.client() as client:
                    items = list(client.list("w", timeout=2))
            except dfs.DfsError:
                continue  # It was killed, or nobody leads.
            found = {item.key: item.stat.sha256 for item in items}
            assert found in self._trees, "all of one"
            assert len({item.stat.revision for item in items}) == 1
            number = self._trees.index(found)
            assert number >= self._newest
            self._newest = number
        return self._newest


def on_its_way(cluster: Cluster, tree: dict[str, Path]) -> bool:
    return any(map(arrived, cluster.nodes)) or holders(cluster, tree, "first") > 0


def held(cluster: Cluster, tree: dict[str, Path]) -> bool:
    """A majority has one of its large files."""
    return holders(cluster, tree, "first") > 1


def proposed(cluster: Cluster, tree: dict[str, Path]) -> bool:
    """Nothing is left to do but the entry."""
    return holders(cluster, tree, "last") > 1


def holders(cluster: Cluster, tree: dict[str, Path], name: str) -> int:
    sha256 = digest(tree[name])
    return sum(any(p.name == sha256 for p in kept(node)) for node in cluster.nodes)


def arrived(node: Node) -> bool:
    """Bytes of a content that is not whole yet are on its disk."""
    directory = node.data / DIRECTORY
    on_the_way = [*directory.glob("arriving/*"), *(directory / UPLOADS).glob("*")]
    return any(size_on_disk(path) for path in on_the_way)


def size_on_disk(path: Path) -> int:
    try:
        return path.stat().st_blocks
    except FileNotFoundError:
        return 0  # It has become a content meanwhile.


def client_history(cluster: Cluster) -> int:
    with cluster.client() as client:
        return len(list(client.history("large")))


def test_memory_stays_small_while_a_large_file_goes_through(tmp_path: Path) -> None:
    """A node holds no more than pieces of a large file in memory, whoever sends, reads and saves
    it."""
    source = tmp_path / "source"
    size = 400 * MIB
    with source.open("wb") as file:
        for _ in range(size // MIB):
            file.write(os.urandom(MIB))
    sha256 = digest(source)
    with running(tmp_path) as cluster:
        peaks = {node.name: 0 for node in cluster.nodes}
        done = threading.Event()

        def watch() -> None:
            while not done.wait(0.02):
                for node in cluster.nodes:
                    peaks[node.name] = max(peaks[node.name], resident(node))

        watching = threading.Thread(target=watch)
        watching.start()
        try:
            with cluster.client() as client:
                with source.open("rb") as file:
                    client.upload("large", file, size=size)
                with (tmp_path / "copy").open("wb") as copy:
                    client.download("large", copy)
                assert sum(map(len, client.backup())) > size
        finally:
            done.set()
            watching.join()
        assert digest(tmp_path / "copy") == sha256
        for name, peak in peaks.items():
            assert peak < 200 * MIB, f"{name} had {peak / MIB:.0f} MiB"


def resident(node: Node) -> int:
    assert node.process is not None
    try:
        pages = Path(f"/proc/{node.process.pid}/statm").read_text().split()[1]
    except (OSError, IndexError):
        return 0
    return int(pages) * os.sysconf("SC_PAGESIZE")
