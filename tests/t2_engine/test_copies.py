"""Copies of files that are hashed on the way, and digests of chunks."""

from __future__ import annotations

import errno
import hashlib
import os
import random
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from dfs._engine import copy_and_hash, digest_chunks
from dfs.nemesis.shim import Fault, Kind, Op, Shim

PIECE = 256 << 10
HOLE = 64 << 10
COPIER = """
import os, sys
from dfs._engine import copy_and_hash
source, target = os.open(sys.argv[1], os.O_RDONLY), os.open(sys.argv[2], os.O_RDWR | os.O_CREAT)
try:
    print(copy_and_hash(source, target, 4 << 20)[0])
except OSError as error:
    print(error.strerror)
"""


def digests(data: bytes, chunk_bytes: int) -> tuple[int, bytes, bytes]:
    """What a copy of this has to say."""
    chunks = [data[at : at + chunk_bytes] for at in range(0, len(data), chunk_bytes)]
    listed = b"".join(hashlib.sha256(chunk).digest() for chunk in chunks)
    return len(data), hashlib.sha256(data).digest(), listed


def copied(source: Path, target: Path, chunk_bytes: int) -> tuple[int, bytes, bytes]:
    """Copies a file."""
    with source.open("rb") as one, target.open("wb") as other:
        return copy_and_hash(one.fileno(), other.fileno(), chunk_bytes)


def held(path: Path) -> int:
    """Bytes on disk."""
    return path.stat().st_blocks * 512


@pytest.mark.parametrize("chunk_bytes", [1_000, HOLE, PIECE, PIECE + 1, 1 << 20, 1 << 50])
def test_a_copy_is_the_same_and_hashed_as_by_python(tmp_path: Path, chunk_bytes: int) -> None:
    for size in (0, 1, 999, 1_000, HOLE, PIECE - 1, PIECE, PIECE + 1, 2 << 20, (3 << 20) + 5):
        data = random.Random(size).randbytes(size)
        (tmp_path / "source").write_bytes(data)
        found = copied(tmp_path / "source", tmp_path / "target", chunk_bytes)
        assert found == digests(data, chunk_bytes), size
        assert (tmp_path / "target").read_bytes() == data


@pytest.mark.parametrize("sparse", [False, True])
def test_zeros_and_holes_anywhere_are_copied_as_zeros(tmp_path: Path, sparse: bool) -> None:
    """Data, holes and written zeros at places of all kinds of alignment."""
    for seed in range(20):
        chance = random.Random(seed)
        data = bytearray(chance.randrange(1, 3 << 20))
        with (tmp_path / "source").open("wb") as file:
            if not sparse:
                file.write(data)
            file.truncate(len(data))
            for _ in range(chance.randrange(8)):
                at = chance.choice([chance.randrange(len(data)), HOLE * chance.randrange(16)])
                some = chance.choice([chance.randbytes(chance.randrange(200_000)), bytes(70_000)])
                some = some[: max(0, len(data) - at)]
                data[at : at + len(some)] = some
                file.seek(at)
                file.write(some)
        chunk_bytes = chance.choice([HOLE, 300_000, 1 << 20, 1 << 40])
        found = copied(tmp_path / "source", tmp_path / "target", chunk_bytes)
        assert found == digests(bytes(data), chunk_bytes), seed
        assert (tmp_path / "target").read_bytes() == data


@pytest.mark.parametrize("chunk_bytes", [4 << 20, 1 << 40])
def test_what_is_sparse_stays_sparse_and_zeros_become_holes(
    tmp_path: Path, chunk_bytes: int
) -> None:
    source, target, again = (tmp_path / name for name in ("source", "target", "again"))
    with source.open("wb") as file:
        file.write(bytes(8 << 20))
        file.seek(20 << 20)
        file.write(b"data")
        file.truncate(64 << 20)
    assert copied(source, target, chunk_bytes)[0] == 64 << 20
    assert held(target) <= HOLE < held(source)
    assert copied(target, again, chunk_bytes) == copied(source, tmp_path / "more", chunk_bytes)
    assert held(again) <= HOLE
    assert again.read_bytes() == source.read_bytes()


def test_a_file_that_is_one_hole_needs_nothing(tmp_path: Path) -> None:
    (tmp_path / "source").touch()
    os.truncate(tmp_path / "source", (4 << 20) + 1)
    found = copied(tmp_path / "source", tmp_path / "target", 1 << 20)
    assert found == digests(bytes((4 << 20) + 1), 1 << 20)
    assert held(tmp_path / "target") == 0


def test_a_file_that_grows_meanwhile_is_copied_to_the_end_that_it_had(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_bytes(b"begin" * 100)
    os.truncate(source, 64 << 20)
    ended = threading.Event()

    def grow() -> None:
        with source.open("ab") as file:
            while not ended.is_set():
                file.write(b"more" * 10_000)

    writer = threading.Thread(target=grow)
    writer.start()
    try:
        size, sha256, _ = copied(source, target, 1 << 20)
    finally:
        ended.set()
        writer.join()
    assert 64 << 20 <= size == target.stat().st_size <= source.stat().st_size
    data = target.read_bytes()
    assert sha256 == hashlib.sha256(data).digest()
    assert data == source.read_bytes()[:size]


def test_digests_are_those_of_the_copy_when_the_file_changes_and_is_cut_meanwhile(
    tmp_path: Path,
) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_bytes(random.Random(3).randbytes(32 << 20))
    ended = threading.Event()

    def disturb() -> None:
        with source.open("rb+") as file:
            while not ended.is_set():
                file.seek(0)
                file.write(os.urandom(10_000))
                file.truncate(16 << 20)
                file.truncate(24 << 20)

    other = threading.Thread(target=disturb)
    other.start()
    try:
        found = copied(source, target, 1 << 20)
    finally:
        ended.set()
        other.join()
    assert found == digests(target.read_bytes(), 1 << 20)


@pytest.mark.parametrize("size", [100, 8 << 20])
def test_errors_of_either_file_are_told(tmp_path: Path, size: int) -> None:
    """In one thread and in two."""
    (tmp_path / "source").write_bytes(b"x" * size)
    (tmp_path / "more").write_bytes(b"x" * size)
    with ExitStack() as stack:

        def opened(path: str | Path, flags: int) -> int:
            file = os.open(path, flags | os.O_CREAT)
            stack.callback(os.close, file)
            return file

        source = opened(tmp_path / "source", os.O_RDONLY)
        blind = opened(tmp_path / "source", os.O_WRONLY)
        empty = opened(tmp_path / "empty", os.O_WRONLY)
        for one, two, number in [
            (source, opened("/dev/full", os.O_WRONLY), errno.ENOSPC),
            (source, opened(tmp_path / "empty", os.O_RDONLY), errno.EBADF),
            (blind, empty, errno.EBADF),
            (-1, empty, errno.EBADF),
            (source, 99_999, errno.EBADF),
        ]:
            with pytest.raises(OSError, match=r"\[Errno") as told:
                copy_and_hash(one, two, 4 << 20)
            assert told.value.errno == number
        with pytest.raises(ValueError, match="must be empty"):
            copy_and_hash(source, opened(tmp_path / "more", os.O_WRONLY), 4 << 20)
        with pytest.raises(ValueError, match="only files are copied"):
            copy_and_hash(opened("/dev/zero", os.O_RDONLY), empty, 4 << 20)
        with pytest.raises(ValueError, match="at least one byte"):
            copy_and_hash(source, empty, 0)
        assert copy_and_hash(source, empty, 4 << 20)[0] == size, "none has touched it"


@pytest.fixture
def sharing(tmp_path: Path) -> Iterator[Path]:
    """A directory on a file system where files can share blocks."""
    if os.getuid() or not shutil.which("mkfs.btrfs"):
        pytest.skip("it needs root, and mkfs.btrfs (apt-get install btrfs-progs)")
    image, mount = tmp_path / "image", tmp_path / "mount"
    mount.mkdir()
    with image.open("wb") as file:
        file.truncate(512 << 20)
    subprocess.run(["mkfs.btrfs", "-q", str(image)], check=True)
    subprocess.run(["mount", "-o", "loop", str(image), str(mount)], check=True)
    try:
        yield mount
    finally:
        subprocess.run(["umount", str(mount)], check=True)


def test_where_files_can_share_blocks_nothing_is_copied(sharing: Path) -> None:
    size = (64 << 20) + 5
    data = random.Random(1).randbytes(size)
    (sharing / "source").write_bytes(data)
    os.sync()
    free = shutil.disk_usage(sharing).free
    with (sharing / "source").open("rb") as one, (sharing / "target").open("wb+") as other:
        assert copy_and_hash(one.fileno(), other.fileno(), 4 << 20) == digests(data, 4 << 20)
        os.sync()
        assert free - shutil.disk_usage(sharing).free < size / 4
    with (sharing / "source").open("rb+") as one:
        one.write(b"changed")
    assert (sharing / "target").read_bytes() == data
    assert copied(sharing / "target", sharing / "unread", 4 << 20) == digests(data, 4 << 20)


def test_the_disk_begins_to_write_while_the_rest_is_copied(tmp_path: Path) -> None:
    """It is told behind each 4 MiB; when it fails the copy has failed."""
    (tmp_path / "targets").mkdir()
    (tmp_path / "source").write_bytes(random.Random(1).randbytes(11 << 20))
    with Shim(tmp_path / "targets", tmp_path / "control") as shim:

        def copy(target: str) -> str:
            paths = tmp_path / "source", tmp_path / "targets" / target
            argv = [sys.executable, "-c", COPIER, *paths]
            env = os.environ | shim.environment()
            return subprocess.run(argv, env=env, capture_output=True, text=True).stdout.strip()

        assert copy("first") == str(11 << 20)
        assert shim.counts().calls[Op.SYNC] == 2
        shim.arm(Fault(Kind.ERROR, 2, (Op.SYNC,), errno.EIO))
        assert copy("second") == os.strerror(errno.EIO)


def test_descriptors_stay_open(tmp_path: Path) -> None:
    (tmp_path / "source").write_bytes(b"0123456789")
    with (tmp_path / "source").open("rb") as one, (tmp_path / "target").open("wb+") as other:
        one.seek(3)
        copy_and_hash(one.fileno(), other.fileno(), 4)
        other.seek(0)
        assert other.read() == b"0123456789"
        one.seek(4)
        digest_chunks(one.fileno(), 10, 4, [0])
        assert one.read() == b"456789"


def test_chunks_of_a_file_are_hashed_as_by_python(tmp_path: Path) -> None:
    data = random.Random(5).randbytes(1_234_567)
    path = tmp_path / "file"
    path.write_bytes(data)
    for chunk_bytes in (100_000, PIECE, PIECE + 1, 1 << 40):
        whole = digests(data, chunk_bytes)[2]
        known = [whole[at : at + 32] for at in range(0, len(whole), 32)]
        numbers = [*range(len(known))[::-1], 0]
        with path.open("rb") as file:
            found = digest_chunks(file.fileno(), len(data), chunk_bytes, numbers)
        assert found == [known[n] for n in numbers]


def test_chunks_that_are_not_there_have_no_digest(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"0123456789")
    with path.open("rb") as file:
        number = file.fileno()
        assert digest_chunks(number, 10, 4, []) == []
        with pytest.raises(ValueError, match="have no chunk 3"):
            digest_chunks(number, 10, 4, [3])
        with pytest.raises(ValueError, match="the file ends before chunk 2 does"):
            digest_chunks(number, 11, 4, [0, 2])
        assert len(digest_chunks(number, 11, 4, [0, 1])) == 2
        with pytest.raises(ValueError, match="at least one byte"):
            digest_chunks(number, 10, 0, [])
    with pytest.raises(OSError, match="Bad file descriptor"):
        digest_chunks(-1, 10, 4, [0])
