"""Backups, audits and recovery of real nodes: saved under load and kills, restored, recovered."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

import dfs
from dfs.contents import DIRECTORY
from dfs.nemesis.processes import Cluster, Node, running
from dfs.nemesis.waiting import wait_until
from dfs.store import backup
from dfs.store.layout import META_KEY

pytestmark = pytest.mark.timeout(120)
COMMAND_S = 60
WRITERS = 3
LARGE = 1 << 20
LARGE_COUNT = 24
"""More than all that is between a node and somebody who reads nothing can hold."""


def command(*arguments: object, **fields) -> subprocess.CompletedProcess[str]:
    """Runs `dfs …`."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("DFS_")}
    return subprocess.run(
        [sys.executable, "-P", "-m", "dfs", *map(str, arguments)], text=True, env=environment,
        capture_output=True, timeout=COMMAND_S, check=False, **fields,
    )  # fmt: skip


def done(*arguments: object) -> str:
    """What a command that must succeed printed."""
    ran = command(*arguments)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout


class Writers:
    """Threads that put and delete until told to stop, and remember what was acknowledged."""

    def __init__(self, cluster: Cluster) -> None:
        self.acks: list[dict[str, object]] = []
        self._cluster = cluster
        self._stop = threading.Event()

    @contextlib.contextmanager
    def at_work(self) -> Iterator[Writers]:
        threads = [threading.Thread(target=self._write, args=(n,)) for n in range(WRITERS)]
        for thread in threads:
            thread.start()
        try:
            yield self
        finally:
            self._stop.set()
            for thread in threads:
                thread.join()

    def _write(self, number: int) -> None:
        with self._cluster.client() as client:
            count = 0
            while not self._stop.is_set():
                count += 1
                key, data = f"w{number}/{count % 50}", b"%d of %d" % (count, number)
                with contextlib.suppress(dfs.Unavailable, dfs.OutcomeUnknown, dfs.DeadlineExceeded):
                    if count % 7:
                        revision = client.put(key, data, timeout=5.0)
                        digest = hashlib.sha256(data).hexdigest()
                        self.acks.append({"revision": revision, "key": key, "sha256": digest})
                    else:
                        with contextlib.suppress(dfs.NotFound):
                            key = f"w{number}/{(count - 1) % 50}"
                            revision = client.delete(key, timeout=5.0)
                            self.acks.append({"revision": revision, "key": key, "deleted": True})

    def reach(self, count: int) -> None:
        """Waits until so many were acknowledged."""
        wait_until("writes are acknowledged", lambda: len(self.acks) >= count)

    def save(self, path: Path) -> Path:
        path.write_text("".join(json.dumps(ack) + "\n" for ack in self.acks))
        return path


def at(node: Node) -> list[str]:
    """The settings of a node, as flags."""
    return ["-id", node.name, "-data", str(node.data), "-raft", node.place.raft,
            "-grpc", node.place.grpc]


def records(path: Path) -> dict[bytes, bytes]:
    """All of a backup but for the record that says where it stands in the log."""
    with backup.opened(path) as saved:
        return {key: value for key, value in saved.records() if key != META_KEY}


def holds(client: dfs.Client, ack: dict[str, object]) -> bool:
    """A write is there, at its revision."""
    key, revision = str(ack["key"]), int(str(ack["revision"]))
    try:
        return client.stat(key, revision=revision).sha256.hex() == ack.get("sha256")
    except dfs.NotFound:
        return bool(ack.get("deleted"))


def test_saved_under_load_and_restored_into_three_nodes(tmp_path):
    """A backup that is saved while writes go on shows every write that was acknowledged before. The
    new cluster made of it has the same content, history and request ids byte for byte; its
    revisions go on, and no member of the old one can be in it."""
    file, again = tmp_path / "backup", tmp_path / "again"
    new = Cluster(tmp_path / "new")
    with running(tmp_path / "old") as old:
        request_id = os.urandom(16)
        with old.client() as client:
            first = client.put("once", b"only", request_id=request_id)
        with Writers(old).at_work() as writers:
            writers.reach(200)
            before = list(writers.acks)
            follower = next(node for node in old.nodes if node is not old.leader())
            found = json.loads(
                done("snapshot", "save", file, "-endpoint", follower.endpoint, "-o", "json")
            )
            writers.reach(len(writers.acks) + 20)
        assert found["revision"] >= max(int(str(ack["revision"])) for ack in before)
        assert done("snapshot", "verify", file).count(found["state_hash"]) == 1
        done("snapshot", "restore", file, *at(new.nodes[0]))
        with new:
            with new.client() as client:
                assert client.put("once", b"only", request_id=request_id) == first, "a late retry"
                wrong = [ack for ack in before[-100:] if not holds(client, ack)]
                assert wrong == []
            # Nothing was written: the new cluster's own entries are no changes.
            done("snapshot", "save", again, "-endpoint", new.nodes[2].endpoint)
            assert records(again) == records(file)
            with new.client() as client:
                assert client.put("new", b"x") > found["revision"]
            new.agree()
            stranger = old.nodes[0]
            assert stranger.stop() == 0
            wait_until("the others have a leader", lambda: old.nodes[1].status().leader)
            refused = command("serve", *at(stranger), "-peers", new.nodes[0].place.raft, "-cache",
                              "", "-mount", "")
            assert refused.returncode == 2
            assert "belongs to cluster" in refused.stderr
            stranger.start()


class Uploads:
    """Large files, some with more than one version."""

    def __init__(self) -> None:
        self.digests: dict[tuple[str, int], str] = {}
        """SHA-256 by key and revision."""

    def upload(self, client: dfs.Client, key: str, size: int) -> None:
        """One more version."""
        data = os.urandom(size)
        revision = client.upload(key, io.BytesIO(data), size=size)
        self.digests[key, revision] = hashlib.sha256(data).hexdigest()

    def wrong_at(self, node: Node) -> list[tuple[str, int]]:
        """Those that a node gives otherwise."""
        wrong = []
        with dfs.connect(node.endpoint) as client:
            for (key, revision), digest in self.digests.items():
                found = io.BytesIO()
                client.download(key, found, revision=revision)
                if hashlib.sha256(found.getvalue()).hexdigest() != digest:
                    wrong.append((key, revision))
        return wrong


def test_large_files_are_saved_under_load_and_restored_whole(tmp_path):
    """A backup holds every file as of one revision, of whatever size, and what history has of
    each: the new cluster made of it, and whoever joins it, has them byte for byte. What no
    survivor has any more recovery takes from a backup."""
    file, new = tmp_path / "backup", Cluster(tmp_path / "new")
    uploads, later = Uploads(), Uploads()
    with running(tmp_path / "old") as old:
        with old.client() as client:
            for number in range(4):
                uploads.upload(client, f"large/{number % 3}", LARGE * (number + 5) + number)
        follower = next(node for node in old.nodes if node is not old.leader())
        ended = threading.Event()

        def go_on_uploading() -> None:
            with old.client() as client:
                while not ended.is_set():
                    later.upload(client, "large/1", 2 * LARGE)

        uploading = threading.Thread(target=go_on_uploading)
        with Writers(old).at_work() as writers:
            uploading.start()
            writers.reach(50)
            before = list(writers.acks)
            done("snapshot", "save", file, "-endpoint", follower.endpoint)
            writers.reach(len(writers.acks) + 20)
            ended.set()
            uploading.join()
    head = json.loads(done("snapshot", "verify", file, "-o", "json"))
    uploads.digests |= {k: v for k, v in later.digests.items() if k[1] <= head["revision"]}
    count = len(uploads.digests)
    assert (head["contents"], head["lacking"]) == (count, 0)
    done("snapshot", "restore", file, *at(new.nodes[0]))
    with new:
        for node in new.nodes:
            wait_until(f"{node.name} has all", lambda n=node: n.status().contents == count)
            wait_until("it has them", lambda n=node: not n.status().contents_missing)
            assert uploads.wrong_at(node) == []
        with new.client() as client:
            wrong = [ack for ack in before if not holds(client, ack)]
            assert wrong == []
        new.agree()
    places = [node.data for node in new.nodes]
    assert json.loads(done("verify", *places, "-o", "json"))["sound"]
    left, made = places[0], new.nodes[1]
    digest = uploads.digests[min(uploads.digests)]
    (left / DIRECTORY / digest[:2] / digest).unlink()
    for place in places[1:]:
        shutil.rmtree(place)
    said = done("recover", "--from", left, "--backup", tmp_path / "saved", *at(made),
                "--contents-from", file)
    assert f"{count} of {count} large contents were taken" in said
    assert json.loads(done("verify", made.data, "-o", "json"))["sound"]
    with (made.data / DIRECTORY / digest[:2] / digest).open("rb") as found:
        assert hashlib.file_digest(found, "sha256").hexdigest() == digest


def test_a_save_that_its_node_does_not_survive_says_so(tmp_path):
    """A backup whose node or whose command is killed while it is saved does not appear under its
    name, and the exit code says so."""
    with running(tmp_path / "one", 1) as cluster:
        node = cluster.nodes[0]
        with cluster.client() as client:
            for number in range(LARGE_COUNT):
                client.put(f"large/{number}", os.urandom(LARGE))
        argv = [sys.executable, "-P", "-m", "dfs", "snapshot", "save"]
        endpoint = ["-endpoint", node.endpoint]
        piped = subprocess.Popen(
            [*argv, "-", *endpoint], stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        assert piped.stdout is not None
        assert piped.stdout.read(1000).startswith(backup.MAGIC)
        node.kill()
        rest, said = piped.communicate(timeout=COMMAND_S)
        assert piped.returncode == 5, said
        assert b"lost the node after" in said
        assert len(rest) < LARGE * LARGE_COUNT
        node.start()
        wait_until("the node is back", lambda: node.status().leader)
        with subprocess.Popen(
            [*argv, "-", *endpoint], stdout=subprocess.PIPE, stderr=subprocess.PIPE
        ) as piped:
            assert piped.stdout is not None
            assert piped.stderr is not None
            assert piped.stdout.read(1000).startswith(backup.MAGIC)
            piped.stdout.close()
            assert b"has ended before it was whole" in piped.stderr.read()
            assert piped.wait(COMMAND_S) == 1
        file = tmp_path / "saved" / "file"
        file.parent.mkdir()
        saving = subprocess.Popen([*argv, file, *endpoint], stderr=subprocess.PIPE)
        wait_until("it has begun", lambda: os.listdir(file.parent) or saving.poll() is not None)
        saving.kill()
        saving.communicate(timeout=COMMAND_S)
        if file.exists():
            backup.verify(file)
        done("snapshot", "save", file, *endpoint)
        assert backup.verify(file).content_bytes == LARGE * LARGE_COUNT


def test_a_save_whose_node_is_stopped_amid_a_content_says_so(tmp_path):
    """The node does not wait for a caller who takes nothing, and has let go of what it held."""
    size = 3 * LARGE * LARGE_COUNT
    with running(tmp_path / "one", 1) as cluster:
        node = cluster.nodes[0]
        with cluster.client() as client:
            Uploads().upload(client, "large", size)
        argv = [sys.executable, "-P", "-m", "dfs", "snapshot", "save"]
        endpoint = ["-endpoint", node.endpoint]
        piped = subprocess.Popen(
            [*argv, "-", *endpoint], stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        assert piped.stdout is not None
        assert len(piped.stdout.read(2 * LARGE)) == 2 * LARGE
        assert node.stop() == 0
        rest, said = piped.communicate(timeout=COMMAND_S)
        assert piped.returncode, said
        assert len(rest) < size - 2 * LARGE
        node.start()
        wait_until("the node is back", lambda: node.status().leader)
        done("snapshot", "save", tmp_path / "b", *endpoint)
        assert backup.verify(tmp_path / "b").contents_bytes == size


def test_recovered_after_two_of_three_directories_are_gone(tmp_path):
    """After kill -9 of all nodes under load `dfs verify` finds every acknowledged write in the logs
    or states of a majority, and says so of one that is not there. When two of three data
    directories are lost, `dfs recover` makes a new cluster of what the third has, after a backup;
    a lost member that comes back cannot mix in."""
    new = Cluster(tmp_path / "new")
    old = Cluster(tmp_path / "old")
    with contextlib.ExitStack() as stack:
        stack.enter_context(old)
        with Writers(old).at_work() as writers:
            writers.reach(300)
            leader = old.leader()
            # It last: else the others elect another, who acknowledges what it does not have.
            for node in sorted(old.nodes, key=lambda node: node is leader):
                node.kill()
        acks = writers.save(tmp_path / "acks")
        places = [node.data for node in old.nodes]
        report = json.loads(done("verify", *places, "--acks", acks, "-o", "json"))
        assert report["sound"]
        assert report["acks"]["checked"] == len(writers.acks)
        with acks.open("a") as file:
            file.write('{"revision": 5, "key": "never", "sha256": "00"}\n')
        lost = command("verify", *places, "--acks", acks)
        assert lost.returncode == 1
        assert "WRONG revision 5, never, was acknowledged, but nobody has it" in lost.stdout

        shutil.copytree(next(n.data for n in old.nodes if n is not leader), tmp_path / "came back",
                        ignore=shutil.ignore_patterns("*.sock"))
        for node in old.nodes:
            if node is not leader:
                shutil.rmtree(node.data)
        planned = done("recover", "--plan", leader.data)
        assert "2 voters are a majority" in planned
        assert "cannot be known and is lost" in planned
        refused = command("recover", "--from", leader.data, *at(new.nodes[0]))
        assert (refused.returncode, "--backup FILE" in refused.stderr) == (2, True)
        done("recover", "--from", leader.data, "--backup", tmp_path / "saved", *at(new.nodes[0]))
        with new:
            with new.client() as client:
                # The leader had all that it acknowledged.
                wrong = [ack for ack in writers.acks if not holds(client, ack)]
                assert wrong == []
                assert client.put("new", b"x") > max(int(str(a["revision"])) for a in writers.acks)
            new.agree()
            back = old.nodes[2] if old.nodes[2] is not leader else old.nodes[1]
            name = json.loads((tmp_path / "came back" / "identity.json").read_text())["name"]
            refused = command(
                "serve", "-id", name, "-data", tmp_path / "came back", "-raft", back.place.raft,
                "-grpc", back.place.grpc, "-peers", new.nodes[1].place.raft, "-cache", "",
                "-mount", "",
            )
            assert refused.returncode == 2
            assert "belongs to cluster" in refused.stderr
