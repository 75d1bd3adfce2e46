"""Many readers of real mounts: the agent dies under them, or what they read is replaced."""

from __future__ import annotations

import contextlib
import hashlib
import os
import random
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import pytest

import dfs
from bench.files.systems import by_age, is_agent
from dfs.cli import main
from dfs.mount import owner, top_mount
from dfs.nemesis.processes import BROKEN_LOG_WORDS, Node, running, wait_until

from .test_large import MIB
from .test_mount_client import run

pytestmark = pytest.mark.skipif(
    not Path("/dev/fuse").exists() or os.geteuid() != 0, reason="needs /dev/fuse and root"
)


def digest(path: Path) -> bytes:
    """SHA-256 of a file as somebody reads it who opens it once."""
    with path.open("rb", buffering=0) as file:
        return hashlib.file_digest(file, "sha256").digest()


def sha256(data: bytes) -> bytes:
    """Of content, as `digest`."""
    return hashlib.sha256(data).digest()


def synced(top: Path) -> int:
    """A revision; what was acknowledged before is shown by the mount when this returns."""
    return int((top / ".dfs/sync").read_text())


class Gate:
    """Where readers wait before each look."""

    def __init__(self) -> None:
        self.shut, self._changed = False, threading.Condition()

    def set(self, shut: bool) -> None:
        """For all at once."""
        with self._changed:
            self.shut = shut
            self._changed.notify_all()

    def pass_through(self, reader: Reader) -> None:
        """Waits until it is open. Once it is shut, only who is `looking` is behind it."""
        with self._changed:
            self._changed.wait_for(lambda: not self.shut)
            reader.looking = True


class Reader:
    """Does the same over and over in a thread of its own, until something is wrong."""

    def __init__(self, look: Callable[[], None], gate: Gate) -> None:
        self.count, self.error = 0, ""
        self.looking, self.ended = False, False
        self._look, self._gate = look, gate
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self) -> None:
        while not self.ended and not self.error:
            self._gate.pass_through(self)
            try:
                self._look()
            except (OSError, AssertionError) as error:
                self.error = f"{type(error).__name__} after {self.count} looks: {error}"
            self.count += 1
            self.looking = False


class Readers:
    """Several of them, at work until the end of the block."""

    def __init__(self, looks: Sequence[Callable[[], None]]) -> None:
        self._gate = Gate()
        self._all = [Reader(look, self._gate) for look in looks]

    def go_on(self) -> None:
        """Returns when each has begun anew, and ended well."""
        before = {reader: reader.count for reader in self._all}
        self._wait_until_all("go on", lambda reader: reader.count > before[reader] + 1)

    def hold(self) -> None:
        """Returns when none reads any more."""
        self._gate.set(shut=True)
        self._wait_until_all("are held", lambda reader: not reader.looking)

    def let_all_begin(self) -> None:
        """Behind `hold`: returns when all have begun. Somebody keeps them from coming to an end."""
        self._gate.set(shut=False)
        self._wait_until_all("have begun", lambda reader: reader.looking)

    def _wait_until_all(self, what: str, condition: Callable[[Reader], bool]) -> None:
        """Fails as soon as one of them has seen anything wrong."""

        def are() -> bool:
            true = all(map(condition, self._all))
            assert [reader.error for reader in self._all if reader.error] == []
            return true

        wait_until(f"all {what}", are)

    def __enter__(self) -> Readers:
        return self

    def __exit__(self, *_: object) -> None:
        for reader in self._all:
            reader.ended = True
        self._gate.set(shut=False)
        self._wait_until_all("have ended", lambda reader: not reader.thread.is_alive())


# ---- kill -9 of the agent ------------------------------------------------------------------------
READERS = 100
SIZES = {10: 10, 5_000: 10, 100_000: 10, 400_000: 10, MIB + MIB // 2: 2, 5 * MIB: 1}
"""Size → so many files; beyond 64 KiB what is not here is fetched, beyond 1 MiB in chunks."""


@dataclass
class Site:
    """A mount, what serves it, and what stands there."""

    node: Node
    top: Path
    state: Path
    """Of its agents."""
    digests: dict[str, bytes] = field(default_factory=dict)
    """By key: all that a reader may choose."""

    def read(self, chance: random.Random) -> None:
        """One file, as somebody does who knows what is in it."""
        digests = self.digests
        key = chance.choice(list(digests))
        assert digest(self.top / key) == digests[key], key

    def store(self, directory: str) -> dict[str, bytes]:
        """Stores files of all sizes at once. By key, what each is; the mount shows all of them."""
        chance, found = random.Random(directory), {}
        with self.node.client() as client, client.transaction() as changes:
            for size, count in SIZES.items():
                for number in range(count):
                    data, key = chance.randbytes(size), f"{directory}/{size}-{number}"
                    changes.put(key, data)
                    found[key] = sha256(data)
        assert synced(self.top) >= changes.revision
        return found

    def fetched(self, digests: Mapping[str, bytes]) -> list[str]:
        """Those of 400,000 bytes that the agent has: nobody gave them to it unasked."""
        at = {key: sha256.hex() for key, sha256 in digests.items() if "/400000-" in key}
        return [k for k, name in at.items() if (self.state / "objects" / name[:2] / name).exists()]

    def agent(self) -> int:
        """The process that serves it; who stands by is younger, who was killed is none."""
        mount = top_mount(str(self.top))
        assert mount is not None
        tasks = Path(f"/proc/{owner(mount.source)}/task")

        def oldest() -> int:
            children = " ".join(path.read_text() for path in tasks.glob("*/children"))
            return next(iter(by_age(filter(is_agent, map(int, children.split())))), 0)

        return wait_until("an agent", oldest)

    def freeze(self) -> int:
        """SIGSTOP of the agent; returns when all its threads have stopped."""
        pid = self.agent()
        os.kill(pid, signal.SIGSTOP)
        tasks = Path(f"/proc/{pid}/task")
        wait_until(
            "it stands still",
            lambda: all("\nState:\tT" in path.read_text() for path in tasks.glob("*/status")),
        )
        return pid


@contextlib.contextmanager
def on_a_node(folder: Path) -> Iterator[Site]:
    """The mount of a node; it must end well, and take the mount along."""
    with running(folder, 1, mounts=True) as cluster:
        (node,) = cluster.nodes
        yield Site(node, node.mount, node.data / "agent")
        assert node.stop() == 0
        assert top_mount(str(node.mount)) is None


@contextlib.contextmanager
def elsewhere(folder: Path) -> Iterator[Site]:
    """A mount on a machine that is no node; umount must end it well."""
    with running(folder, 1) as cluster:
        (node,) = cluster.nodes
        site = Site(node, folder / "there", folder / "state")
        site.top.mkdir()
        done = run(
            sys.executable, "-P", "-m", "dfs", "mount", "--servers", node.endpoint, "--mount",
            site.top, "--cache", "none", "--state", site.state, "--background", cwd=folder,
        )
        assert done.returncode == 0, done.stderr
        mount = top_mount(str(site.top))
        assert mount is not None
        pid = owner(mount.source)
        try:
            yield site
            done = run("umount", site.top, cwd=folder)
            assert done.returncode == 0, done.stderr
            wait_until("it has ended", lambda: not owner(mount.source))
        finally:
            if owner(mount.source):
                os.kill(pid, signal.SIGTERM)
            wait_until("nothing is mounted", lambda: top_mount(str(site.top)) is None)
        said = (site.state / "mount.log").read_text()
        assert f"{site.top} was unmounted" in said
        assert not any(word in said for word in BROKEN_LOG_WORDS), said


@pytest.mark.parametrize("mounted", [on_a_node, elsewhere])
def test_100_readers_do_not_notice_that_the_agent_is_killed(
    tmp_path: Path, mounted: Callable[[Path], contextlib.AbstractContextManager[Site]]
) -> None:
    """kill -9 of the agent of a real node, or of a mount elsewhere, while 100 readers open files of
    all sizes, and while all of them wait for it, many for content that is not here yet: none has an
    error or wrong bytes, all go on, and the mount is unmounted as any other."""
    with mounted(tmp_path) as site:
        site.digests = site.store("first")
        chances = [random.Random(number) for number in range(READERS)]
        with Readers([partial(site.read, chance) for chance in chances]) as readers:
            readers.go_on()
            killed = [site.agent()]
            os.kill(killed[0], signal.SIGKILL)
            readers.go_on()
            for directory in ("second", "third"):
                fresh = site.store(directory)
                readers.hold()
                killed.append(site.freeze())
                site.digests = site.digests | fresh
                readers.let_all_begin()
                assert site.fetched(fresh) == []
                os.kill(killed[-1], signal.SIGKILL)
                readers.go_on()
                assert site.fetched(fresh)
        assert len(set(killed)) == 3


# ---- overwrites ----------------------------------------------------------------------------------
KEY = "f"
ROUNDS = 10
CALLS = 99
"""In a round, several at a time; then there is a drop, which must be alone: 1,000 in all."""
WRITERS = 4
HASHERS = 8
LENGTHS = (9, 700, 5_000, 40_000, 3, 4_097, 70_000, 1_000)
"""In bytes: below and beyond a page, and what travels with a change. Of drops:"""
DROPPED = (20, 6_000, 100_000, MIB + 5)


def content(name: str, length: int) -> bytes:
    """Bytes that no other name has anywhere."""
    part = hashlib.sha256(name.encode()).digest()
    return (part * (length // len(part) + 1))[:length]


class Shown:
    """What a mount shows of the key, to all who look at it."""

    def __init__(self, top: Path, begun: Mapping[bytes, object]) -> None:
        """`begun`: by SHA-256, all versions whose write was begun."""
        self.top, self.begun = top, begun
        self.seen = self.synced = digest(top / KEY)
        """By a look that has ended; what `.dfs/sync` said. Whoever looks now sees nothing older."""
        self.followed: set[tuple[bytes, bytes]] = set()
        """What was shown, behind what."""


class Look:
    """One reader's, again and again."""

    def __init__(self, shown: Shown) -> None:
        self._shown, self._last = shown, shown.seen

    def __call__(self) -> None:
        """Reads the file once."""
        shown = self._shown
        before, found = (self._last, shown.seen, shown.synced), digest(shown.top / KEY)
        assert found in shown.begun, "this is no version"
        shown.followed.update((earlier, found) for earlier in before)
        self._last = shown.seen = found


class Writer:
    """Overwrites the key: by calls to all nodes, and by drops on the first."""

    def __init__(self, nodes: Sequence[Node], stack: contextlib.ExitStack) -> None:
        self.versions: dict[bytes, int] = {}
        """Those that were begun, by SHA-256: their revisions; 0 = not acknowledged yet."""
        self.first = nodes[0]
        self._clients = [stack.enter_context(node.client()) for node in nodes]
        self._pool = stack.enter_context(ThreadPoolExecutor(WRITERS))
        self._old = 1
        """The key has another revision for certain."""

    def round(self, number: int) -> Iterator[None]:
        """So many calls, and a drop; behind each of the two all that was begun is acknowledged."""
        list(self._pool.map(self._call, range(number * CALLS, (number + 1) * CALLS)))
        yield
        self._drop(content(f"drop {number}", DROPPED[number % len(DROPPED)]))
        yield

    def newest(self) -> bytes:
        """Of what is acknowledged."""
        return max(self.versions, key=lambda name: self.versions[name])

    def _call(self, number: int) -> None:
        client, length = self._clients[number % 3], LENGTHS[number % len(LENGTHS)]
        if number % 10 == 1:
            with pytest.raises(dfs.Conflict):
                client.put(KEY, content(f"refused {number}", length), base_revision=self._old)
        data = content(f"call {number}", length)
        self.versions[name := sha256(data)] = 0
        self.versions[name] = client.put(KEY, data)

    def _drop(self, data: bytes) -> None:
        """By rename; returns when it is stored."""
        self._old = synced(self.first.mount)  # It replaces what is there.
        complete, place = self.first.root / "complete", self.first.cache / KEY
        complete.write_bytes(data)
        self.versions[name := sha256(data)] = 0
        complete.rename(place)
        assert main(["sync", "--wait", "-data", str(self.first.data)]) == 0
        stat = self._clients[0].stat(KEY)
        assert stat.sha256 == name
        self.versions[name] = stat.revision
        place.unlink()  # Else the next one has to wait: it might be written again and again.

    def history(self) -> dict[bytes, int]:
        """What the cluster remembers, as `versions`."""
        return {e.stat.sha256: e.stat.revision for e in self._clients[0].history(KEY)}


def test_each_of_1000_overwrites_is_read_whole_and_in_order(tmp_path: Path) -> None:
    """One key is overwritten 1,000 times, by calls to all nodes and by drops, while 8 readers hash
    it on the mounts of the nodes where nothing is dropped: each hash is that of a version, none of
    a write that was refused, and none older than what the same mount has shown before; what was
    acknowledged is shown behind `.dfs/sync`, and in the end all mounts show the last version."""
    with running(tmp_path, mounts=True) as cluster, contextlib.ExitStack() as stack:
        writer = Writer(cluster.nodes, stack)
        list(writer.round(0))
        for node in cluster.nodes:
            synced(node.mount)
        shown = [Shown(node.mount, writer.versions) for node in cluster.nodes[1:]]
        looks = [Look(shown[number % len(shown)]) for number in range(HASHERS)]
        with Readers(looks) as readers:
            for number in range(1, ROUNDS + 1):
                for _ in writer.round(number):
                    for mount in shown:
                        synced(mount.top)
                        mount.synced = writer.newest()
                readers.go_on()
        versions = writer.versions
        for node in cluster.nodes:
            synced(node.mount)
            assert digest(node.mount / KEY) == writer.newest()
            assert (node.mount / ".dfs/conflicts").read_text() == ""
        assert len(versions) == 1_000 + CALLS + 1
        assert writer.history() == versions
        for mount in shown:
            followed = {(versions[before], versions[found]) for before, found in mount.followed}
            assert [(before, found) for before, found in followed if before > found] == []
            assert len({found for _, found in followed}) > ROUNDS
