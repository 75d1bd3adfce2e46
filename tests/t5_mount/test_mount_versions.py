"""One writer, eight readers: every read is one whole version, none older than what was shown."""

from __future__ import annotations

import json
import mmap
import random
import struct
import subprocess
import time
from pathlib import Path

import pytest

from .mount_rig import UNOWNED, Rig, mounted, needs_fuse, python
from .version_reader import FILES, content

pytestmark = needs_fuse

SECONDS = 3.0
READERS = 8
KEPT = 60
"""A replaced object stays for a while, as in the cache: who has just looked it up may open it."""


def write_versions(rig: Rig, shared: mmap.mmap, kept: int) -> int:
    """Replaces files by new versions, in batches, as fast as the mount takes them."""
    chance, versions = random.Random(5), [0] * FILES
    retired: list[Path] = []
    written, end = 0, time.monotonic() + SECONDS
    while written < FILES or time.monotonic() < end:
        first = written < FILES
        batch = range(FILES) if first else chance.sample(range(FILES), chance.randint(1, 4))
        changes = []
        for number in batch:
            versions[number] += 1
            data = content(number, versions[number])
            place = rig.objects / f"{number}-{versions[number]}"
            place.write_bytes(data)
            retired.append(place)
            key = f"d{number % 3}/f{number}"
            changes.append((key, 0, len(data), 0o644, 0, *UNOWNED, versions[number], str(place)))
        rig.apply(changes, [])
        for number in batch:
            struct.pack_into("<I", shared, number * 4, versions[number])
        while len(retired) > FILES + kept:
            oldest = retired.pop(0)
            number, version = map(int, oldest.name.split("-"))
            if versions[number] == version:
                retired.append(oldest)
            else:
                oldest.unlink()
        written += len(changes)
    return written


@pytest.mark.parametrize(
    ("options", "kept"),
    [({}, KEPT), ({"passthrough": 0}, KEPT), ({"no_open": 1}, 10**9)],  # Nothing pins without open.
    ids=["passthrough", "cached", "no_open"],
)
def test_reads_are_whole_and_never_go_back(
    tmp_path: Path, options: dict[str, int], kept: int
) -> None:
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
            written = write_versions(rig, shared, kept)
        finally:
            reports = [json.loads(reader.communicate(timeout=20)[0]) for reader in readers]
        shared.close()
        assert written > 50
        assert sum(report["reads"] for report in reports) > 200
        assert [wrong for report in reports for wrong in report["wrong"]] == []
        assert [error for report in reports for error in report["errors"]] == []
