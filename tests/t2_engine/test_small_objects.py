"""Objects that are stored many in one go."""

from __future__ import annotations

import hashlib
import random
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from dfs._engine import store_objects


def content(size: int) -> tuple[bytes, bytes]:
    """(SHA-256, data)"""
    data = random.Random(size).randbytes(size)
    return hashlib.sha256(data).digest(), data


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A directory that has those of the objects."""
    for i in range(256):
        (tmp_path / f"{i:02x}").mkdir()
    return tmp_path


def found(root: Path) -> dict[bytes, tuple[bytes, int]]:
    """(data, mode) of each file by the SHA-256 that names it."""
    return {
        bytes.fromhex(path.name): (path.read_bytes(), path.stat().st_mode & 0o777)
        for path in root.glob("*/*")
        if path.parent.name == path.name[:2]
    }


@contextmanager
def no_file_above(size: int) -> Iterator[None]:
    """A write beyond it fails in the middle."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("count", [0, 1, 2, 7])
def test_each_is_whole_under_its_name(root: Path, count: int) -> None:
    contents = [content(size) for size in (0, 1, 63, 64, 65, 16_384, 300_001)[:count]]
    assert store_objects(str(root), contents) == [True] * count
    assert found(root) == {sha256: (data, 0o444) for sha256, data in contents}


def test_what_is_not_right_or_there_already_is_left_alone(root: Path) -> None:
    """Whatever stands beside it."""
    good, twice, there = content(500), content(600), content(700)
    name = there[0].hex()
    (root / name[:2] / name).write_bytes(b"of another")
    wrong = (content(800)[0], good[1])
    contents = [wrong, good, twice, there, twice, wrong]
    assert store_objects(str(root), contents) == [False, True, True, False, False, False]
    files = found(root)
    assert files.pop(there[0])[0] == b"of another"
    assert files == {sha256: (data, 0o444) for sha256, data in (good, twice)}


def test_of_what_cannot_be_written_no_part_is_left(root: Path) -> None:
    small, large, last = content(5_000), content(20_000), content(9_000)
    with no_file_above(10_000):
        assert store_objects(str(root), [small, large, last]) == [True, False, True]
    unfinished = root / large[0].hex()[:2] / large[0].hex()
    assert unfinished.stat().st_mode & 0o777 == 0o200
    unfinished.chmod(0o600)
    files = found(root)
    assert files.pop(large[0]) == (b"", 0o600), "an unfinished one, but empty"
    assert files == {sha256: (data, 0o444) for sha256, data in (small, last)}


def test_a_directory_that_is_gone_is_no_reason_to_stop(root: Path) -> None:
    one, other = content(10), content(11)
    (root / one[0].hex()[:2]).rmdir()
    assert store_objects(str(root), [one, other]) == [False, True]
    assert store_objects(str(root / "nowhere"), [one]) == [False]


def test_what_is_named_by_no_digest_is_left_alone(root: Path) -> None:
    good = content(10)
    contents = [(b"\x01" * 31, b"x"), good, (b"", b""), (good[0] + b"\0", good[1])]
    assert store_objects(str(root), contents) == [False, True, False, False]
    assert found(root) == {good[0]: (good[1], 0o444)}
