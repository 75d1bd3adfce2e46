"""Chunks of contents from one node to another, over the peer port."""

from __future__ import annotations

import errno
import hashlib
import os
import random
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from dfs import _engine
from dfs.nemesis.shim import Fault, Kind, Op, Shim

from .contents import ANSWERS_BYTES, CHUNK_BYTES, FRAME_BYTES, HEAD_BYTES, Content, content, zeros
from .dam import Dam
from .nodes import Node, cluster, wait_until

GIVER = """
import sys
from pathlib import Path
from t2_engine.nodes import Node
node = Node(Path(sys.argv[1]), "node1").start()
print(node.addr, flush=True)
sys.stdin.readline()
node.close()
"""

ASKER = """
import sys
from pathlib import Path
from t2_engine.contents import content
from t2_engine.nodes import Node
node = Node(Path(sys.argv[1]), "node2").start()
try:
    print(content().fetch(node, sys.argv[2], Path(sys.argv[3])))
except OSError as error:
    print(error.strerror)
node.close()
"""


@pytest.fixture
def target(tmp_path: Path) -> Path:
    """An empty file."""
    path = tmp_path / "target"
    path.touch()
    return path


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[tuple[Node, Node]]:
    """A node that gives and one that asks."""
    giver, asker = (Node(tmp_path, f"node{i}", stall_ms_max=5_000).start() for i in (1, 2))
    yield giver, asker
    asker.close()
    giver.close()


@pytest.mark.parametrize("size", [1, 2, CHUNK_BYTES, 2 * CHUNK_BYTES, 1_000_001, 3_333_333])
def test_a_whole_content_arrives(pair, target, size: int) -> None:
    giver, asker = pair
    whole = content(size=size)
    whole.keep(giver)
    assert whole.fetch(asker, giver.addr, target) == [n for n, _ in whole.wanted()]
    assert target.read_bytes() == whole.data


def test_chunks_larger_than_a_frame_arrive(pair, target) -> None:
    giver, asker = pair
    whole = Content(random.Random(1).randbytes(5 << 20), FRAME_BYTES + 1)
    whole.keep(giver)
    assert whole.fetch(asker, giver.addr, target) == list(range(5))
    assert target.read_bytes() == whole.data


def test_only_what_is_wanted_is_written_in_the_order_wanted(pair, target) -> None:
    giver, asker = pair
    some = content(6)
    some.keep(giver)
    before = b"\xee" * len(some.data)
    target.write_bytes(before)
    assert some.fetch(asker, giver.addr, target, 5, 0, 3) == [5, 0, 3]
    after = Content(target.read_bytes())
    assert len(after.data) == len(some.data)
    for number in range(6):
        expected = some if number in {0, 3, 5} else Content(before)
        assert after.chunk(number) == expected.chunk(number), number


def test_nothing_wanted_is_nothing_asked(pair, target) -> None:
    _, asker = pair
    assert asker.engine.fetch_chunks("127.0.0.1:1", bytes(32), 9, 4, [], str(target), 1) == []


def test_it_needs_no_start_of_the_asker(pair, target, tmp_path: Path) -> None:
    giver, _ = pair
    whole = content()
    whole.keep(giver)
    other = Node(tmp_path, "node3")
    other.open()
    assert len(whole.fetch(other, giver.addr, target)) == 10
    other.engine.close()


def test_who_lacks_it_says_so(pair, target, tmp_path: Path) -> None:
    giver, asker = pair
    absent = content()
    name = absent.sha256.hex()
    with pytest.raises(_engine.EngineError, match=f"^{giver.addr}: node1 has no content {name}$"):
        absent.fetch(asker, giver.addr, target)
    path = absent.keep(giver)
    path.write_bytes(absent.data[:-1])
    with pytest.raises(_engine.EngineError, match=r"node1 has 998765 bytes as content \w+, which"):
        absent.fetch(asker, giver.addr, target)
    path.rename(tmp_path / "elsewhere")
    (tmp_path / "elsewhere").write_bytes(absent.data)
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(_engine.EngineError, match="node1 cannot open content"):
        absent.fetch(asker, giver.addr, target)
    for make in (os.mkfifo, os.mkdir):
        path.unlink()
        make(path)
        with pytest.raises(_engine.EngineError, match="something else than a file"):
            absent.fetch(asker, giver.addr, target)
    assert target.read_bytes() == b"", "nothing was written"


def test_a_node_without_contents_gives_none(pair, target, tmp_path: Path) -> None:
    other = Node(tmp_path, "node3")
    other.contents = ""
    other.start()
    try:
        with pytest.raises(_engine.EngineError, match="node3 keeps no contents"):
            content().fetch(pair[1], other.addr, target)
    finally:
        other.close()


def test_strangers_get_nothing(pair, target, tmp_path: Path) -> None:
    giver, asker = pair
    whole = content()
    whole.keep(giver)
    for name, mine, reason in [
        ("other", bytes(16), "node1 belongs to cluster 00010203-.*, the caller to cluster 0000"),
        ("fresh", b"", "fresh belongs to no cluster yet"),
    ]:
        stranger = Node(tmp_path, name, cluster=mine).start()
        try:
            with pytest.raises(_engine.EngineError, match=reason):
                whole.fetch(stranger, giver.addr, target)
        finally:
            stranger.close()
    assert whole.fetch(asker, giver.addr, target, 1) == [1], "the same from a member"


@pytest.mark.parametrize("at", [0, 250_000, 998_765])
def test_a_chunk_that_is_damaged_there_is_left_out(pair, target, at: int) -> None:
    giver, asker = pair
    whole = content()
    path = whole.keep(giver)
    damaged = bytearray(whole.data)
    damaged[at] ^= 1
    path.write_bytes(damaged)
    bad = at // CHUNK_BYTES
    assert whole.fetch(asker, giver.addr, target) == [n for n in range(10) if n != bad]
    assert whole.fetch(asker, giver.addr, target, bad) == []
    path.write_bytes(whole.data)
    assert whole.fetch(asker, giver.addr, target, bad) == [bad]
    assert target.read_bytes() == whole.data


def test_a_chunk_that_cannot_be_read_there_is_left_out(target, tmp_path: Path) -> None:
    """The giver is a process whose second and fifth read of the content fail."""
    whole = content()
    asker = Node(tmp_path, "node2").start()
    whole.keep(Node(tmp_path, "node1"))
    with Shim(tmp_path / "node1" / "contents", tmp_path / "control") as shim:
        argv = [sys.executable, "-c", GIVER, str(tmp_path)]
        paths = {"PYTHONPATH": os.pathsep.join(sys.path)}
        giver = subprocess.Popen(
            argv, env=os.environ | paths | shim.environment(), text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )
        try:
            assert giver.stdout
            addr = giver.stdout.readline().strip()
            for failing, bad in [(2, 1), (5, 4)]:
                shim.arm(Fault(Kind.ERROR, failing, (Op.READ,)))
                expected = [n for n in range(10) if n != bad]
                assert whole.fetch(asker, addr, target) == expected
                assert shim.counts().hits == 1
            shim.disarm()
            assert whole.fetch(asker, addr, target, 4) == [4]
            giver.communicate("", timeout=10)
        finally:
            giver.kill()
            giver.wait()
            asker.close()
    assert giver.returncode == 0
    assert target.read_bytes() == whole.data


def test_a_chunk_that_is_damaged_on_the_way_is_left_out(pair, target) -> None:
    giver, asker = pair
    whole = content()
    whole.keep(giver)
    third = ANSWERS_BYTES + 2 * (HEAD_BYTES + CHUNK_BYTES)
    with Dam(giver.addr, 1 << 40, flip=third + HEAD_BYTES) as dam:
        assert whole.fetch(asker, dam.addr, target) == [0, 1, *range(3, 10)]
    with Dam(giver.addr, 1 << 40, flip=third + HEAD_BYTES - 1) as dam:
        assert whole.fetch(asker, dam.addr, target) == [0, 1], "it makes no sense from there on"
    with (
        Dam(giver.addr, 1 << 40, flip=ANSWERS_BYTES + 1) as dam,
        pytest.raises(_engine.EngineError, match="a frame of kind 1 with"),
    ):
        whole.fetch(asker, dam.addr, target)


def test_a_file_that_is_cut_while_it_is_given_lacks_the_end(pair, target) -> None:
    """In a chunk's only frame, and in the first of two."""
    giver, asker = pair
    for chunk_bytes, left in [(FRAME_BYTES, 15), (2 * FRAME_BYTES, 7)]:
        whole = Content(random.Random(7).randbytes(16 * FRAME_BYTES), chunk_bytes)
        path = whole.keep(giver)
        with Dam(giver.addr, ANSWERS_BYTES) as dam, ThreadPoolExecutor() as pool:
            fetching = pool.submit(whole.fetch, asker, dam.addr, target)
            assert dam.full.acquire(timeout=10)
            os.truncate(path, left * chunk_bytes + 1)
            dam.open()
            assert fetching.result(10) == list(range(left))


def test_what_was_right_counts_when_the_connection_ends(pair, target) -> None:
    giver, asker = pair
    whole = content()
    whole.keep(giver)
    level = ANSWERS_BYTES + 4 * (HEAD_BYTES + CHUNK_BYTES)
    for more, right in [(0, 4), (CHUNK_BYTES + HEAD_BYTES - 1, 4), (CHUNK_BYTES + HEAD_BYTES, 5)]:
        with Dam(giver.addr, level + more) as dam, ThreadPoolExecutor() as pool:
            fetching = pool.submit(whole.fetch, asker, dam.addr, target)
            assert dam.full.acquire(timeout=10)
            dam.cut()
            assert fetching.result(10) == list(range(right))
    assert whole.fetch(asker, giver.addr, target, *range(5, 10)) == list(range(5, 10))
    assert target.read_bytes() == whole.data


@pytest.mark.parametrize("level", [5, ANSWERS_BYTES, ANSWERS_BYTES + CHUNK_BYTES])
def test_a_connection_that_ends_before_anything_was_right_is_an_error(
    pair, target, level: int
) -> None:
    giver, asker = pair
    whole = content()
    whole.keep(giver)
    with Dam(giver.addr, level) as dam, ThreadPoolExecutor() as pool:
        fetching = pool.submit(whole.fetch, asker, dam.addr, target)
        assert dam.full.acquire(timeout=10)
        dam.cut()
        with pytest.raises(ConnectionError, match=f"^{dam.addr}: the peer closed the connection$"):
            fetching.result(10)


def test_a_giver_that_goes_is_no_hang(pair, target) -> None:
    giver, asker = pair
    whole = zeros(16)
    whole.keep(giver)
    level = ANSWERS_BYTES + 4 * (HEAD_BYTES + FRAME_BYTES)
    with Dam(giver.addr, level) as dam, ThreadPoolExecutor() as pool:
        fetching = pool.submit(whole.fetch, asker, dam.addr, target)
        assert dam.full.acquire(timeout=10)
        begun = time.monotonic()
        giver.close()
        assert time.monotonic() - begun < 3, "its thread was waiting for the asker"
        dam.open()
        got = fetching.result(10)
        assert got[:4] == [0, 1, 2, 3]
        assert len(got) < 16
    with pytest.raises(ConnectionError, match=f"^{giver.addr}: connection refused$"):
        whole.fetch(asker, giver.addr, target)


def test_an_asker_that_is_closed_lets_go(pair, target) -> None:
    giver, asker = pair
    whole = content()
    whole.keep(giver)
    for level, expected in [(ANSWERS_BYTES + HEAD_BYTES + CHUNK_BYTES, [0]), (ANSWERS_BYTES, None)]:
        with Dam(giver.addr, level) as dam, ThreadPoolExecutor() as pool:
            fetching = pool.submit(whole.fetch, asker, dam.addr, target)
            assert dam.full.acquire(timeout=10)
            if expected:
                wait_until(lambda: target.stat().st_size == CHUNK_BYTES, what="the first chunk")
            asker.engine.close()
            if expected is None:
                with pytest.raises(ConnectionError, match="the engine is closed"):
                    fetching.result(2)
            else:
                assert fetching.result(2) == expected
        asker.close()
        asker.start()


def test_a_transfer_that_stands_still_is_broken_off(pair, target, tmp_path: Path) -> None:
    giver, _ = pair
    whole = content()
    whole.keep(giver)
    asker = Node(tmp_path, "node3", stall_ms_max=1_000).start()
    try:
        with (
            Dam(giver.addr, ANSWERS_BYTES) as dam,
            pytest.raises(TimeoutError, match=f"^{dam.addr}: nothing moved for 1000 ms$"),
        ):
            whole.fetch(asker, dam.addr, target)
        with Dam(giver.addr, ANSWERS_BYTES + 2 * (HEAD_BYTES + CHUNK_BYTES)) as dam:
            assert whole.fetch(asker, dam.addr, target) == [0, 1]
    finally:
        asker.close()


def test_a_disk_that_is_full_or_a_file_that_is_not_there_is_an_error_of_this_node(
    pair, tmp_path: Path
) -> None:
    giver, asker = pair
    whole = content()
    whole.keep(giver)
    with pytest.raises(OSError, match="No space left") as full:
        whole.fetch(asker, giver.addr, Path("/dev/full"))
    assert (full.value.errno, full.value.filename) == (errno.ENOSPC, "/dev/full")
    absent = tmp_path / "absent"
    with pytest.raises(FileNotFoundError) as missing:
        whole.fetch(asker, giver.addr, absent)
    assert missing.value.filename == str(absent)
    assert not absent.exists()
    with pytest.raises(IsADirectoryError):
        whole.fetch(asker, giver.addr, tmp_path)


def test_the_disk_begins_to_write_each_chunk_that_has_come(target, tmp_path: Path) -> None:
    """When it fails, what has come until then counts, and the next call is told."""
    giver = Node(tmp_path, "node1").start()
    content().keep(giver)
    with Shim(target.parent, tmp_path / "control") as shim:

        def fetch() -> str:
            argv = [sys.executable, "-c", ASKER, tmp_path, giver.addr, target]
            env = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)} | shim.environment()
            return subprocess.run(argv, env=env, capture_output=True, text=True).stdout.strip()

        try:
            shim.arm(Fault(Kind.ERROR, 5, (Op.SYNC,), match="/target"))
            assert fetch() == str([0, 1, 2, 3])
            shim.arm(Fault(Kind.ERROR, 1, (Op.SYNC,), match="/target"))
            assert fetch() == os.strerror(errno.EIO)
        finally:
            giver.close()
    assert target.read_bytes()[: 4 * CHUNK_BYTES] == content().data[: 4 * CHUNK_BYTES]


def test_what_was_right_counts_when_the_disk_is_full(pair, target) -> None:
    """Here it is a limit for the size of files; the next call is told."""
    giver, asker = pair
    whole = content()
    whole.keep(giver)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2 * CHUNK_BYTES + 10, before[1]))
    try:
        assert whole.fetch(asker, giver.addr, target) == [0, 1]
        with pytest.raises(OSError, match="File too large") as told:
            whole.fetch(asker, giver.addr, target, 2, 3)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert (told.value.errno, told.value.filename) == (errno.EFBIG, str(target))
    assert whole.fetch(asker, giver.addr, target, *range(2, 10)) == list(range(2, 10))
    assert target.read_bytes() == whole.data


def test_one_file_is_filled_from_two_members_at_once(pair, target, tmp_path: Path) -> None:
    whole = content(40)
    other = Node(tmp_path, "node3").start()
    try:
        for giver in (pair[0], other):
            whole.keep(giver)
        with ThreadPoolExecutor() as pool:
            parts = [
                pool.submit(whole.fetch, pair[1], giver.addr, target, *range(first, 40, 2))
                for giver in (pair[0], other) for first in (0, 1)
            ]
            assert sorted(n for part in parts for n in part.result(20)) == sorted([*range(40)] * 2)
    finally:
        other.close()
    assert target.read_bytes() == whole.data


def test_offsets_beyond_4_gib(pair, target) -> None:
    """In files that are holes but for a few bytes."""
    giver, asker = pair
    name, size, chunk_bytes = bytes(range(32)), (5 << 30) + 77, 4 << 20
    path = Path(giver.contents, name.hex()[:2], name.hex())
    path.parent.mkdir(parents=True)
    wanted = []
    with path.open("wb") as file:
        file.truncate(size)
        for number in (1024, 1279, 1280):
            start, length = number * chunk_bytes, min(chunk_bytes, size - number * chunk_bytes)
            chunk = number.to_bytes(2, "big") + bytes(length - 3) + b"!"
            file.seek(start)
            file.write(chunk)
            wanted.append((number, hashlib.sha256(chunk).digest()))
    os.truncate(target, size)
    numbers = asker.engine.fetch_chunks(
        giver.addr, name, size, chunk_bytes, wanted, str(target), 2_000
    )
    assert numbers == [1024, 1279, 1280]
    assert target.stat().st_size == size
    assert target.stat().st_blocks * 512 < 64 << 20
    with target.open("rb") as file:
        found = _engine.digest_chunks(file.fileno(), size, chunk_bytes, numbers)
    assert found == [digest for _, digest in wanted]


def test_too_many_at_once_wait_for_a_place_and_are_refused_then(tmp_path: Path, target) -> None:
    giver = Node(tmp_path, "node1", stall_ms_max=6_000).start()
    asker = Node(tmp_path, "node2").start()
    whole = zeros(8)
    whole.keep(giver)
    places = _engine.TRANSFERS_MAX
    try:
        with Dam(giver.addr, ANSWERS_BYTES) as dam, ThreadPoolExecutor(places + 1) as pool:
            paths = [tmp_path / f"target{i}" for i in range(places)]
            for path in paths:
                path.touch()
            others = [pool.submit(whole.fetch, asker, dam.addr, path) for path in paths]
            for _ in paths:
                assert dam.full.acquire(timeout=10)
            with pytest.raises(_engine.EngineError, match=f"node1 is busy.* {places} others"):
                whole.fetch(asker, giver.addr, target)
            waiting = pool.submit(whole.fetch, asker, giver.addr, target)
            dam.open()
            assert [other.result(20) for other in others] == [list(range(8))] * places
            assert waiting.result(20) == list(range(8))
    finally:
        asker.close()
        giver.close()


def test_content_does_not_hold_up_puts(tmp_path: Path) -> None:
    """A transfer that stands still on both sides, and others that run meanwhile."""
    with cluster(tmp_path, 3) as nodes:
        whole = zeros(8)
        whole.keep(nodes[0])
        (tmp_path / "slow").touch()
        term = nodes[0].status()["term"]
        with Dam(nodes[0].addr, ANSWERS_BYTES) as dam, ThreadPoolExecutor() as pool:
            slow = pool.submit(whole.fetch, nodes[1], dam.addr, tmp_path / "slow")
            assert dam.full.acquire(timeout=10)
            for number in range(4):
                path = tmp_path / f"fast{number}"
                path.touch()
                assert len(whole.fetch(nodes[2], nodes[0].addr, path)) == 8
                assert nodes[1].put(f"k{number}", "v", 1_000) > 0
            dam.open()
            assert slow.result(10) == list(range(8))
        assert nodes[0].status()["term"] == term


@pytest.mark.parametrize(
    ("name", "size", "chunk_bytes", "wanted", "says"),
    [
        (bytes(31), 9, 4, [(0, bytes(32))], "named by 32 bytes"),
        (bytes(32), 9, 0, [(0, bytes(32))], "at least one byte"),
        (bytes(32), 9, 4, [(3, bytes(32))], "have no chunk 3"),
        (bytes(32), 0, 4, [(0, bytes(32))], "have no chunk 0"),
        (bytes(32), 9, 4, [(0, bytes(31))], "31"),
        (bytes(32), 1 << 40, 1, [(0, bytes(32))] * 16_385, "16385 chunks, of 16384 at most"),
    ],
)
def test_what_cannot_be_wanted_is_not_asked(
    pair, target, name: bytes, size: int, chunk_bytes: int, wanted: list, says: str
) -> None:
    with pytest.raises(ValueError, match=says):
        pair[1].engine.fetch_chunks("127.0.0.1:1", name, size, chunk_bytes, wanted, str(target), 1)
