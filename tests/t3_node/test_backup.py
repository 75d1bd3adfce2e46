"""Backups of nodes with large contents: what they hold, what a node lacks, what must stay."""

from __future__ import annotations

import asyncio
import math
import os
from contextlib import aclosing
from pathlib import Path

import pytest

from dfs.commands import floor_entry
from dfs.contents import ARRIVING, DIRECTORY, path_in
from dfs.errors import FailedPrecondition
from dfs.limits import CHUNK_BYTES_MIN, INLINE_BYTES_MAX, STREAM_CHUNK_BYTES_MAX
from dfs.offline.audit import verify
from dfs.offline.recover import lines, plan, recover
from dfs.offline.restore import Founder, restore
from dfs.store import backup

from .conftest import Member, wait_until
from .test_large_contents import holds, keep_nothing, path_of, put_content, some
from .test_offline import stopped

FOUNDER = Founder("node9", "127.0.0.1:1", "127.0.0.1:2")


async def save(member: Member, path: Path, with_contents: bool = True) -> Path:
    with path.open("wb") as file:
        async for piece, _ in member.node.backup(with_contents):
            assert len(piece) <= STREAM_CHUNK_BYTES_MAX
            file.write(piece)
    return path


def content_of(directory: Path, sha256: bytes) -> bytes:
    return path_in(directory / DIRECTORY, sha256).read_bytes()


@pytest.mark.allow_logs("fetched again from other members")
async def test_what_a_node_lacks_or_has_damaged_it_gets_first(any_cluster, tmp_path):
    """A backup from any node has all large contents, those of history too: what the node lacks
    or has damaged it gets from the others first."""
    one, two, three = await any_cluster.three()
    datas = [some(1), some(2), some(3, INLINE_BYTES_MAX + 1), bytes(CHUNK_BYTES_MIN) + some(4)]
    manifests = [await put_content(one, f"f{n % 3}", data) for n, data in enumerate(datas)]
    for member in (one, two, three):
        for manifest, data in zip(manifests, datas, strict=True):
            await wait_until(lambda m=member, n=manifest, d=data: holds(m, n, d))
    gone, damaged, lacking = manifests[0], manifests[1], manifests[2]
    path_of(three, gone).unlink()
    path_of(three, damaged).chmod(0o600)
    with path_of(three, damaged).open("r+b") as file:
        file.seek(CHUNK_BYTES_MIN + 5)
        file.write(b"damage")
    path_of(three, lacking).unlink()
    del three.node.contents.files.here[lacking.sha256]

    path = await save(three, tmp_path / "b")
    head = backup.verify(path)
    assert (head.contents, head.lacking) == (4, 0)
    assert restore(path, tmp_path / "data", FOUNDER).lacking.contents == 0
    for manifest, data in zip(manifests, datas, strict=True):
        assert content_of(tmp_path / "data", manifest.sha256) == data
    assert verify([tmp_path / "data"]).sound


@pytest.mark.allow_logs("fetched again from other members")
@pytest.mark.parametrize("how", ["lacking", "damaged"])
async def test_a_content_that_nobody_has_ends_the_save(cluster, tmp_path, how):
    """A save ends with an error that names the keys when a large content is nowhere; without
    contents it saves the state, and says what is lacking."""
    one = await cluster.start("node1")
    manifest = await put_content(one, "d/big", some(1))
    path_of(one, manifest).chmod(0o600)
    if how == "lacking":
        path_of(one, manifest).unlink()
        del one.node.contents.files.here[manifest.sha256]
    else:
        path_of(one, manifest).write_bytes(some(2))
    with pytest.raises(FailedPrecondition, match=r"content of d/big cannot .*--without-contents"):
        await save(one, tmp_path / "b")
    head = backup.verify(await save(one, tmp_path / "alone", with_contents=False))
    assert (head.contents, head.contents_bytes, head.lacking) == (1, manifest.size, 1)


async def test_what_a_save_reads_is_not_let_go_meanwhile(cluster, tmp_path, monkeypatch):
    """A large content that a save is going to read stays until the save has ended, whatever
    becomes of the files that had it."""
    one = await cluster.start("node1")
    contents, data = one.node.contents, some(1)
    manifest = await put_content(one, "big", data)
    keep_nothing(monkeypatch)

    async def tidy() -> None:
        contents._tidied_s = -math.inf
        await contents.tidy(lambda: asyncio.sleep(0))

    async with aclosing(one.node.backup(True)) as pieces:
        with (tmp_path / "b").open("wb") as file:
            file.write((await anext(pieces))[0])
            await one.put("big", b"small now")
            await one.put("other")
            await one.node._hot.submit(floor_entry(one.store.applied, "node1"), 10_000)
            await wait_until(lambda: contents.manifest(manifest.sha256) is None)
            await tidy()
            async for piece, _ in pieces:
                file.write(piece)
                await tidy()
    assert backup.verify(tmp_path / "b").contents == 1
    restore(tmp_path / "b", tmp_path / "data", FOUNDER)
    assert content_of(tmp_path / "data", manifest.sha256) == data
    await tidy()
    assert not path_of(one, manifest).exists()


async def test_a_save_that_is_given_up_leaves_nothing(cluster):
    """Its caller is gone while it waits for a content that another member has."""
    one, two, _three = await cluster.three()
    manifest = await put_content(one, "big", some(1))
    await wait_until(lambda: holds(two, manifest, some(1)))
    contents = two.node.contents
    for count in (1, 2, 7):
        async with aclosing(two.node.backup(True)) as pieces:
            for _ in range(count):
                await anext(pieces)
            assert contents._readers == 1
        assert contents._readers == 0
    path_of(two, manifest).unlink()
    del contents.files.here[manifest.sha256]
    waits = asyncio.Event()

    async def never(_manifest):
        waits.set()
        await asyncio.Event().wait()

    contents.have = never
    saving = asyncio.ensure_future(save(two, Path(os.devnull)))
    await waits.wait()
    saving.cancel()
    await asyncio.gather(saving, return_exceptions=True)
    assert contents._readers == 0
    del contents.have


async def test_a_recovery_takes_contents_from_whoever_has_them(real_cluster, tmp_path):
    """Recovery takes large contents from all survivors, and those that no survivor has from
    earlier backups; what is nowhere is told."""
    members = one, two, _ = await real_cluster.three()
    datas = [some(n, INLINE_BYTES_MAX + n) for n in range(1, 5)]
    manifests = [await put_content(one, f"f{n}", data) for n, data in enumerate(datas)]
    for member in members:
        for manifest, data in zip(manifests, datas, strict=True):
            await wait_until(lambda m=member, n=manifest, d=data: holds(m, n, d))
    earlier = await save(two, tmp_path / "earlier")
    first, second, third, _ = manifests
    paths = {(m.name, n.sha256): path_of(m, n) for m in members for n in manifests}
    await one.put("last", b"not in the earlier one")
    await stopped(real_cluster)
    left = tmp_path / "node1"
    paths["node1", first.sha256].unlink()
    paths["node1", second.sha256].chmod(0o600)
    paths["node1", second.sha256].write_bytes(datas[1][:-1] + b"?")
    paths["node1", third.sha256].unlink()

    found = plan([left])
    assert found.contents_lacking == 2, "damage is found when they are taken"
    assert any("2 large contents that it names stand in none of" in line for line in lines(found))
    assert plan([left, tmp_path / "node2"]).contents_lacking == 0
    alone = recover([], left, tmp_path / "alone", FOUNDER, tmp_path / "s1", 7)
    assert alone.founded.lacking.contents == 3
    assert sorted(alone.founded.lacking.keys) == ["f0", "f1", "f2"]
    done = recover(
        [], left, tmp_path / "new", FOUNDER, tmp_path / "s2", 7, sources=[earlier]
    )
    assert done.founded.lacking.contents == 0
    for manifest, data in zip(manifests, datas, strict=True):
        assert content_of(tmp_path / "new", manifest.sha256) == data
    assert os.listdir(tmp_path / "new" / DIRECTORY / ARRIVING) == []
    assert verify([tmp_path / "new"]).sound
    assert backup.verify(tmp_path / "s2").lacking == 4, "they are where they were"
