"""Content that is pinned, fetched ahead, or sent away, on demand."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from dfs.cache.agent import Agent, Options
from dfs.cache.asking import ask
from dfs.cache.keeping import Places
from dfs.cache.twin import MemoryNode
from dfs.errors import FailedPrecondition, InvalidArgument, NotFound, TooLarge
from dfs.limits import AGENT_DATA_BYTES_MAX

from .cache_rig import Rig, wait_until

LARGE = AGENT_DATA_BYTES_MAX + 1


def large(number: int) -> bytes:
    return bytes([number]) * LARGE


async def with_files(rig: Rig, *paths: str) -> None:
    """Large files of somebody else: their content is not here."""
    for number, path in enumerate(paths):
        await rig.node.put(path, large(number))
    await wait_until("they are shown", lambda: paths[-1] in rig.tree.shown)


async def test_what_is_pinned_is_fetched_and_never_evicted(tmp_path: Path) -> None:
    """What is pinned is fetched in the background and is not evicted when room is needed, also
    after a restart; what comes below a pin later is pinned, too."""
    rig = Rig(tmp_path)
    rig.options["cache_bytes_max"] = 4 * LARGE
    async with rig:
        await with_files(rig, "a/1", "a/2", "other/1", "other/2", "other/3", "other/4")
        assert await rig.ask("pin", "a/") == {"files": 2, "bytes": 2 * LARGE}
        await rig.shown("a/1", large(0))
        await rig.shown("a/2", large(1))
        for i in range(1, 5):
            assert await rig.read(f"other/{i}") == large(i + 1)
        assert rig.shows("a/1", large(0))
        assert rig.shows("a/2", large(1))
        await rig.node.put("a/b/new", large(9))
        await rig.shown("a/b/new", large(9))
    await rig.start()
    try:
        listed = await rig.ask("pins")
        assert [p["path"] for p in listed["pins"]] == ["a"]
        assert listed["pinned_bytes"] == 3 * LARGE
        for i in range(1, 5):
            assert await rig.read(f"other/{i}") == large(i + 1)
        assert rig.shows("a/b/new", large(9))
        await rig.ask("unpin", "a")
        assert (await rig.ask("pins"))["pins"] == []
        for i in range(1, 5):
            assert await rig.read(f"other/{i}") == large(i + 1)
        assert rig.tree.shown["a/1"].backing is None, "it went like any other"
    finally:
        await rig.stop()


async def test_a_pin_that_does_not_fit_is_refused_with_the_numbers(tmp_path: Path) -> None:
    """A pin that would not fit below `-cache-size` is refused, with the numbers."""
    rig = Rig(tmp_path)
    rig.options["cache_bytes_max"] = 2 * LARGE
    async with rig:
        await with_files(rig, "a/1", "b/1", "b/2")
        await rig.ask("pin", "a")
        with pytest.raises(TooLarge, match=r"it is 128KiB in 2 files; with what is pinned already "
                           r"\(64KiB\) that makes 192KiB, and the cache may hold 128KiB"):
            await rig.ask("pin", "b")
        assert [p["path"] for p in (await rig.ask("pins"))["pins"]] == ["a"]
        assert (await rig.ask("pin", "b/1"))["files"] == 1


@pytest.mark.allow_logs("of the pinned files are not here yet", "cannot be read here")
async def test_what_outgrows_the_limit_below_a_pin_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dfs.cache.room.ROOM_WAIT_MS", 50)
    rig = Rig(tmp_path)
    rig.options["cache_bytes_max"] = 2 * LARGE
    async with rig:
        await with_files(rig, "a/1", "a/2")
        await rig.ask("pin", "a")
        await rig.shown("a/2", large(1))
        await rig.node.put("a/3", large(3))
        await wait_until("it is said", lambda: "1 of the pinned files" in rig.problems())
        await rig.node.delete("a/3")
        await wait_until("it is over", lambda: "pinned files" not in rig.problems())


async def test_pins_name_what_there_is(tmp_path: Path) -> None:
    async with Rig(tmp_path) as rig:
        await with_files(rig, "a/1")
        with pytest.raises(NotFound, match="nothing at b in the tree"):
            await rig.ask("pin", "a", "b")
        assert (await rig.ask("pins"))["pins"] == []
        with pytest.raises(NotFound, match="a is not pinned"):
            await rig.ask("unpin", "a")
        await rig.ask("pin", "a")
        with pytest.raises(NotFound, match="a/1 is not pinned, but a above it is"):
            await rig.ask("unpin", "a/1")
        with pytest.raises(InvalidArgument, match="no path is named"):
            await rig.ask("pin")


async def test_a_warmup_is_over_when_all_is_here(tmp_path: Path) -> None:
    async with Rig(tmp_path) as rig:
        await with_files(rig, "a/1", "a/2", "a/3", "b")
        assert await rig.read("a/1") == large(0)
        found = await rig.ask("warmup", "a")
        assert (found["files"], found["bytes"], found["here"]) == (2, 2 * LARGE, 1)
        for i in range(1, 4):
            assert rig.shows(f"a/{i}", large(i - 1))
        assert rig.tree.shown["b"].backing is None


async def test_a_warmup_says_what_is_not_to_be_had(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with Rig(tmp_path) as rig:
        await with_files(rig, "a/1", "a/2")
        rig.fetcher_deadline(0.05)
        rig.node.hold = asyncio.Event()
        assert await rig.dfs("warmup", "a") == 1
        said = capsys.readouterr()
        assert "fetched 0 files" in said.out
        assert "a/1: no answer within" in said.err
        rig.node.hold.set()
        rig.options["cache_bytes_max"] = LARGE
        await rig.stop()
        await rig.start()
        with pytest.raises(TooLarge, match="the cache may hold 64KiB"):
            await rig.ask("warmup", "a")


async def test_what_is_evicted_comes_back_when_it_is_read(tmp_path: Path) -> None:
    async with Rig(tmp_path) as rig:
        await with_files(rig, "a/1", "a/2", "a/3")
        await rig.ask("pin", "a/3")
        await rig.ask("warmup", "a")
        with rig.object(large(1)).open("rb"):
            found = await rig.ask("evict", "a")
        assert found == {"files": 1, "bytes": LARGE, "pinned": 1, "open": 1}
        assert rig.tree.shown["a/1"].backing is None
        assert not rig.object(large(0)).exists()
        assert rig.shows("a/2", large(1))
        assert await rig.read("a/1") == large(0)


async def test_the_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rig = Rig(tmp_path)
    async with rig:
        await with_files(rig, "a/1", "a/2")
        assert await rig.dfs("pin", f"{rig.root}/mount/a", "--wait") == 0
        assert "fetched" in capsys.readouterr().out
        assert rig.shows("a/1", large(0))
        assert rig.shows("a/2", large(1))
        assert await rig.dfs("pins") == 0
        out = capsys.readouterr().out
        assert out.splitlines()[1].split() == ["a", "2", "128.0", "KiB", "2", "128.0", "KiB"]
        assert "limit: no limit" in out
        assert await rig.dfs("pins", "-o", "json") == 0
        assert json.loads(capsys.readouterr().out)["pins"][0]["here_files"] == 2
        assert await rig.dfs("evict", "a") == 0
        assert "2 are pinned, and stay" in capsys.readouterr().out
        assert await rig.dfs("unpin", "a") == 0
        assert await rig.dfs("evict", "a") == 0
        assert "evicted 2 files" in capsys.readouterr().out
    assert await rig.dfs("pins") == 5
    assert "no agent answers at" in capsys.readouterr().err


def test_paths_are_keys_or_files_of_the_agents_directories(tmp_path: Path) -> None:
    places = Places(str(tmp_path / "cache"), "/mnt/dfs")
    assert [places.key(p) for p in ("a/b", "a/b/", "./a", ".", "", "/mnt/dfs", "/mnt/dfs/a/../b/")
            ] == ["a/b", "a/b", "a", "", "", "", "b"]
    assert places.key(f"{tmp_path}/cache/x") == "x"
    for bad in ("/etc/passwd", "/mnt/dfs/../x", "/mnt/dfsx/a"):
        with pytest.raises(InvalidArgument, match="lies neither in"):
            places.key(bad)
    with pytest.raises(InvalidArgument, match="bad key"):
        places.key("a//b")


async def test_an_agent_without_a_mount_keeps_nothing(tmp_path: Path) -> None:
    agent = Agent(
        Options(["memory"], str(tmp_path / "state"), str(tmp_path / "cache")), MemoryNode(), None
    )
    running = asyncio.create_task(agent.run())
    try:
        socket = tmp_path / "state" / "agent.sock"
        await wait_until("it listens", socket.exists)
        with pytest.raises(FailedPrecondition, match="start it with -mount"):
            await asyncio.to_thread(ask, str(socket), "pin", None, paths=["a"])
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
