"""One writer, eight readers: every read is one whole version, none older than what was shown."""

from __future__ import annotations

import errno
import json
import mmap
import os
import random
import struct
import subprocess
import time
from pathlib import Path

import pytest

from dfs._engine import Tree
from dfs.sealing import seal

from .mount_rig import UNOWNED, Background, Rig, mounted, needs_fuse, python, rows, wait_until
from .telling import digest_of
from .version_reader import FILES, content

pytestmark = needs_fuse

SECONDS = 3.0
READERS = 8


def write_versions(rig: Rig, shared: mmap.mmap) -> tuple[int, int]:
    """Replaces files by new versions, in batches, as fast as the mount takes them; what nobody can
    open any more is removed at once. Returns how many were written, and removed."""
    chance, versions = random.Random(5), [0] * FILES
    places: dict[bytes, Path] = {}
    written, removed, end = 0, 0, time.monotonic() + SECONDS
    while written < FILES or time.monotonic() < end:
        first = written < FILES
        batch = range(FILES) if first else chance.sample(range(FILES), chance.randint(1, 4))
        changes = []
        for number in batch:
            versions[number] += 1
            data = content(number, versions[number])
            place = rig.objects / f"{number}-{versions[number]}"
            place.write_bytes(data)
            seal(place)
            key = f"d{number % 3}/f{number}"
            places[digest_of(key, versions[number])] = place
            changes.append((key, 0, len(data), 0o644, 0, *UNOWNED, versions[number], str(place)))
        rig.apply(changes, [])
        for number in batch:
            struct.pack_into("<I", shared, number * 4, versions[number])
        for digest in (rig.left | set(rig.tree.left())) & places.keys():
            places.pop(digest).unlink()
            removed += 1
        rig.left.clear()
        written += len(changes)
    return written, removed


MODES = pytest.mark.parametrize(
    "options", [{}, {"passthrough": 0}, {"no_open": 1}], ids=["passthrough", "cached", "no_open"]
)


@MODES
def test_reads_are_whole_and_never_go_back(tmp_path: Path, options: dict[str, int]) -> None:
    """While files are replaced all the time, no reader sees a mixture of two versions, a wrong
    size, or an older version than one that was shown to be visible before."""
    floors = tmp_path / "floors"
    floors.write_bytes(bytes(FILES * 4))
    with mounted(tmp_path, **options) as rig, floors.open("r+b") as file:
        shared = mmap.mmap(file.fileno(), 0)
        rig.apply([
            (f"d{n % 3}/f{n}", 0, len(content(n, 0)), 0o644, 0, *UNOWNED, 0,
             rig.store(n, content(n, 0)))
            for n in range(FILES)
        ], [])
        readers = [
            python(
                "version_reader.py", rig.point, floors, seed,
                stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            )
            for seed in range(READERS)
        ]
        try:
            written, removed = write_versions(rig, shared)
        finally:
            reports = [json.loads(reader.communicate(timeout=20)[0]) for reader in readers]
        shared.close()
        assert written > 50
        assert removed
        assert sum(report["reads"] for report in reports) > 200
        assert [wrong for report in reports for wrong in report["wrong"]] == []
        assert [error for report in reports for error in report["errors"]] == []


@MODES
def test_what_was_looked_up_can_be_opened_however_late(
    tmp_path: Path, options: dict[str, int]
) -> None:
    """Who has looked a file up opens that version or a newer one, however often it is replaced
    before, and however late: its content stays here until the kernel has forgotten it."""
    with mounted(tmp_path, **options) as rig:
        first = rig.put("f", b"one")
        looked_up = os.open(rig.at("f"), os.O_PATH)  # As who opens it, halfway.
        for data in (b"two", b"three"):
            rig.put("f", data)
            assert rig.at("f").read_bytes() == data
        gone = digest_of("f", first)
        assert gone not in rig.left | set(rig.tree.left())
        with open(f"/proc/self/fd/{looked_up}", "rb") as file:
            assert file.read() == b"one"
        os.close(looked_up)
        wait_until(lambda: gone in rig.tree.left())
        assert rig.at("f").read_bytes() == b"three"


def test_a_version_that_is_nowhere_any_more_is_looked_up_anew(tmp_path: Path) -> None:
    """Without a word to who opens it: there is another one now."""
    with mounted(tmp_path) as rig:
        rig.put("f", b"one", here=False)
        opening = Background(rig.at("f").read_bytes)
        miss, *_ = rig.miss()
        rig.put("f", b"two")
        assert rig.tree.fulfil(miss, errno.EIO)
        assert opening.get() == b"two"


def test_a_directory_that_was_removed_is_empty_for_who_stands_in_it(tmp_path: Path) -> None:
    with mounted(tmp_path) as rig:
        rig.put("d/f", b"one")
        standing = os.open(rig.at("d"), os.O_RDONLY)
        rig.delete("d/f")
        with pytest.raises(FileNotFoundError):
            os.open("f", os.O_RDONLY, dir_fd=standing)
        assert os.listdir(standing) == []
        rig.put("d/f", b"two")
        file = os.open("f", os.O_RDONLY, dir_fd=standing)
        assert os.read(file, 9) == b"two"
        os.close(file)
        os.close(standing)


def test_without_opens_who_reads_what_was_replaced_goes_on_with_the_next_agents(
    tmp_path: Path,
) -> None:
    """Whether it was replaced before the agent died or after; until the kernel has forgotten it,
    and no longer."""
    table, contents = os.memfd_create("open-files"), [os.urandom(300_000) for _ in "abc"]
    before, after, untouched = contents
    with mounted(tmp_path, table=table, no_open=1) as rig:
        for name, data in zip(["before", "after", "untouched"], contents, strict=True):
            rig.put(name, data)
        files = [os.open(rig.at(name), os.O_RDONLY) for name in ("before", "after")]
        for file in files:
            os.posix_fadvise(file, 0, 0, os.POSIX_FADV_RANDOM)
            assert os.read(file, 10) in {before[:10], after[:10]}
        rig.put("before", b"new")
        assert rows(table) == 1

        def next_agent(*told: tuple[str, int, bytes]) -> None:
            rig.tree.close()
            rig.tree = Tree({"no_open": 1})
            rig.apply([
                (name, 0, len(data), 0o644, 10**18, *UNOWNED, version, rig.store(version, data))
                for name, version, data in told
            ], [], flush=False)
            rig.tree.adopt(rig.fd, table)

        next_agent(("before", 4, b"new"), ("after", 2, after), ("untouched", 3, untouched))
        assert os.pread(files[0], 100_000, 50_000) == before[50_000:150_000]
        rig.put("after", b"newer")
        rig.put("untouched", b"newest")
        wait_until(lambda: digest_of("untouched", 3) in rig.left | set(rig.tree.left()))
        assert os.pread(files[1], 100_000, 50_000) == after[50_000:150_000]
        assert rows(table) == 2
        next_agent(("before", 4, b"new"), ("after", 5, b"newer"), ("untouched", 6, b"newest"))
        for file, data in zip(files, contents, strict=False):
            assert os.pread(file, len(data), 0) == data
        assert rig.at("after").read_bytes() == b"newer"
        for file in files:
            os.close(file)
        wait_until(lambda: rows(table) == rig.tree.stats()["open"] == 0)
    os.close(table)
