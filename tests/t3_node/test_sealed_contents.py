"""Large contents to which somebody has written, though they were verified."""

from __future__ import annotations

import math
import os

import pytest

from dfs.errors import Unavailable
from dfs.limits import CHUNK_BYTES_MIN, CONTENT_KEEP_S
from dfs.sealing import is_sealed, seal

from .conftest import wait_until
from .test_large_contents import holds, path_of, put_content, some

pytestmark = pytest.mark.allow_logs("written to, or removed", "fetched again from other members")


def write_to(member, manifest, data: bytes) -> None:
    """Somebody writes to a content, where it begins."""
    with path_of(member, manifest).open("r+b") as file:
        file.write(data)


@pytest.mark.parametrize("stopped", [False, True])
async def test_one_that_somebody_wrote_to_is_had_from_others(cluster, stopped):
    members = await cluster.three()
    data = some(30)
    manifest = await put_content(members[0], "big", data)
    for member in members:
        await wait_until(lambda m=member: holds(m, manifest, data))
        assert is_sealed(path_of(member, manifest).stat())
    one = members[1]
    if stopped:
        await one.stop()
    write_to(one, manifest, b"other bytes")
    if stopped:
        one = await cluster.start("node2")
    else:
        await one.node.contents.doubt(manifest.sha256)
    await one.node.contents.have(manifest)
    assert holds(one, manifest, data)
    assert is_sealed(path_of(one, manifest).stat())


async def test_one_that_is_right_all_the_same_needs_no_other_and_no_space(cluster, monkeypatch):
    """Somebody wrote what had been there, or set its times."""
    one = await cluster.start("node1")
    data = some(31)
    manifest = await put_content(one, "big", data)
    monkeypatch.setattr(one.node.contents.files, "free", lambda: 1 << 30)
    monkeypatch.setattr("dfs.node.contents.pulls.DISK_FREE_BYTES_MIN", 1 << 30)
    await one.node.contents.doubt(manifest.sha256)
    assert holds(one, manifest, data), "nobody wrote to it"
    write_to(one, manifest, data[:9])
    await one.node.contents.doubt(manifest.sha256)
    assert one.node.contents.missing == 1
    await one.node.contents.have(manifest)
    assert one.node.contents.missing == 0
    assert holds(one, manifest, data)


async def test_what_is_right_of_a_damaged_one_stays_however_long_others_are_away(cluster):
    """What of a damaged content is right stays, however long nobody can give the rest of it."""
    one = await cluster.start("node1")
    data = some(32)
    manifest = await put_content(one, "big", data)
    contents = one.node.contents
    write_to(one, manifest, b"other bytes")
    with pytest.raises(Unavailable):
        await contents.read(manifest, 0)
    arriving = contents.files.arriving / manifest.sha256.hex()
    old = arriving.stat().st_mtime - CONTENT_KEEP_S - 1
    os.utime(arriving, (old, old))
    contents._tidied_s = -math.inf

    async def no_barrier() -> None:
        pass

    await contents.tidy(no_barrier)
    second = data[CHUNK_BYTES_MIN : 2 * CHUNK_BYTES_MIN]
    assert await contents.read(manifest, 1, wanted=False) == second
    with arriving.open("r+b") as file:
        file.write(data[:99])
    await contents.have(manifest)
    assert holds(one, manifest, data)


async def test_a_use_is_no_verification(cluster):
    """Who is about to name a content, to which somebody has written, does not seal it."""
    one = await cluster.start("node1")
    manifest = await put_content(one, "big", some(33))
    files = one.node.contents.files
    write_to(one, manifest, b"other bytes")
    assert files.touch(manifest.sha256)
    assert files.doubt(manifest.sha256)
    assert not files.doubt(manifest.sha256), "it arrives"
    assert not files.touch(manifest.sha256)
    seal(files.arriving / manifest.sha256.hex())
    assert manifest.sha256 not in files
