"""Large contents on their way into the files of one member."""

from __future__ import annotations

import hashlib
import random

from dfs.assembling import Arrival
from dfs.contents import Files, lacking
from dfs.limits import CHUNK_BYTES_MIN

SIZE = 3 * CHUNK_BYTES_MIN + 12_345


def test_an_arrival_goes_on_where_the_one_before_ended(tmp_path):
    data = random.Random(14).randbytes(SIZE)
    first = Arrival(tmp_path / "a", SIZE)
    first.add(data[:5_000_000])
    first.close()
    second = Arrival(tmp_path / "a", SIZE)
    assert second.size == 5_000_000
    second.add(data[5_000_000:])
    manifest = second.finish()
    second.close()
    assert manifest.sha256 == hashlib.sha256(data).digest()
    at = range(0, SIZE, CHUNK_BYTES_MIN)
    chunks = [hashlib.sha256(data[n : n + CHUNK_BYTES_MIN]).digest() for n in at]
    assert manifest.digests == b"".join(chunks)


def test_what_has_arrived_is_used_after_a_crash(tmp_path):
    """Chunks that are right in a file that was arriving need not come again; wrong ones do."""
    data = random.Random(15).randbytes(SIZE)
    arrival = Arrival(tmp_path / "a", SIZE)
    arrival.add(data)
    manifest = arrival.finish()
    arrival.close()
    files = Files(tmp_path / "contents")
    files.root.mkdir()
    files.open()
    path = files.arrive(manifest)
    assert lacking(path, manifest) == [0, 1, 2, 3]
    with path.open("r+b") as file:
        file.write(data[:CHUNK_BYTES_MIN])
        file.write(b"wrong")
    again = Files(tmp_path / "contents")
    again.open()
    assert again.arrive(manifest) == path
    assert lacking(path, manifest) == [1, 2, 3]
