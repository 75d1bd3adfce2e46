"""Objects that were verified, and then were damaged by their disk, or taken away."""

from __future__ import annotations

import asyncio
import hashlib
import io
import os
import shutil
from pathlib import Path

import pytest

from dfs.cache.objects import Objects
from dfs.cache.scrub import Scrub
from dfs.limits import AGENT_DATA_BYTES_MAX, CONTENT_SCRUB_BYTES, INLINE_BYTES_MAX

from .cache_rig import Rig, wait_until


def digest(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()



def damage(path: Path, at: int) -> None:
    """Flips a byte; length and name stay."""
    path.chmod(0o600)
    with path.open("r+b") as file:
        file.seek(at)
        [byte] = file.read(1)
        file.seek(at)
        file.write(bytes([byte ^ 1]))


@pytest.mark.allow_logs("cached object is damaged")
async def test_damage_of_what_is_kept_here_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Content that an agent keeps and that its disk has damaged is found, as all is read again
    little by little, once a day; it is set aside, and had again from the cluster."""
    monkeypatch.setattr("dfs.cache.scrub.CONTENT_SCRUB_PASS_S_MIN", 0)
    monkeypatch.setattr("dfs.cache.scrub._START_S", 0)
    monkeypatch.setattr("dfs.cache.scrub.SCRUB_INTERVAL_MS", 1)
    monkeypatch.setattr("dfs.cache.scrub.CONTENT_SCRUB_BYTES", 10_000)
    async with Rig(tmp_path) as rig:
        contents = {f"f{n}": os.urandom(60_000) for n in range(4)}
        for name, data in contents.items():
            await rig.node.put(name, data)
            await rig.shown(name, data)
        damage(rig.object(contents["f2"]), 59_999)
        await wait_until("it is shown no more", lambda: rig.tree.shown["f2"].backing is None)
        assert await rig.read("f2") == contents["f2"]
        for name, data in contents.items():
            assert rig.shows(name, data)
        assert len(os.listdir(rig.state / "quarantine")) == 1


@pytest.mark.parametrize("what", ["objects/*/*", "objects/*", "objects", "*/*"])
async def test_what_somebody_took_away_comes_back_when_it_is_read(
    tmp_path: Path, what: str
) -> None:
    """When the content that an agent keeps is removed under its hands, each file comes back when
    it is read, without an error and without a restart."""
    async with Rig(tmp_path) as rig:
        contents = {"small": b"small", "more": os.urandom(AGENT_DATA_BYTES_MAX + 1),
                    "large": os.urandom(INLINE_BYTES_MAX + 1)}
        await rig.node.put("small", contents["small"])
        await rig.node.put("more", contents["more"])
        large = contents["large"]
        await rig.node.upload("large", io.BytesIO(large), size=len(large))
        for _ in range(2):
            for name, data in contents.items():
                await wait_until("it is known", lambda name=name: name in rig.tree.shown)
                assert await rig.read(name) == data
                await rig.shown(name, data)
            for path in rig.state.glob(what):
                if path.is_dir():
                    shutil.rmtree(path)
                else:
                    path.unlink()
            assert not rig.object(large).exists()
        for name, data in contents.items():
            assert await rig.read(name) == data
        assert rig.agent.objects is not None
        assert rig.agent.objects.bytes == sum(map(len, contents.values()))


@pytest.mark.allow_logs("cached object is damaged", "cannot be read")
async def test_a_pass_reads_each_to_its_end_and_leaves_alone_what_went(tmp_path: Path) -> None:
    objects = Objects(str(tmp_path))
    objects.open()
    large = bytes(CONTENT_SCRUB_BYTES) + b"end"
    all_data = b"1", large, b"2", b"3", b"4"
    paths = {data: Path(objects.add(digest(data), data)) for data in all_data}
    scrub = Scrub(objects)
    assert not scrub.due, "there is more urgent work at a start"
    paths[b"3"].unlink()
    paths[b"4"].unlink()
    paths[b"4"].mkdir()
    damage(paths[large], len(large) - 1)
    found = set()
    for _ in range(4):
        found |= await asyncio.to_thread(scrub.turn)
    assert found == {digest(large), digest(b"4")}
    assert not scrub.due, "the next pass is far away"
    assert objects.backing(digest(b"1"), 1) is not None
    assert objects.backing(digest(large), len(large)) is None
