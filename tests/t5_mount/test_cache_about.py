"""What `.dfs/` says, over a node and a mount in memory."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import os
import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from dfs.errors import Internal

from .cache_rig import Rig, wait_until
from .mount_rig import fails_with


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    """One agent."""
    async with Rig(tmp_path) as made:
        yield made


async def read(rig: Rig, name: str) -> str:
    """As a reader of `.dfs/name`."""
    return (await asyncio.to_thread(rig.tree.ask, f".dfs/{name}", "content")).decode()


async def stats(rig: Rig) -> dict[str, str]:
    """`.dfs/stats` by name."""
    lines = (await read(rig, "stats")).splitlines()
    return dict(line.split(": ", 1) for line in lines)


async def test_every_file_is_offered_and_can_be_read(rig: Rig) -> None:
    assert rig.tree.offered == [
        "at/README", "conflicts", "members", "pending", "problems", "stats", "sync", "version"
    ]
    for name in rig.tree.offered:
        text = await read(rig, name)
        assert not text or text.endswith("\n")
    assert re.fullmatch(r"\d+\.\d+\.\d+\n", await read(rig, "version"))
    with fails_with(errno.ENODATA):
        await read(rig, "other")


@pytest.mark.allow_logs(r"the stream of changes broke")
async def test_sync_is_a_barrier(rig: Rig) -> None:
    """A read of `.dfs/sync` is a barrier: it gives the newest revision, and whatever was
    acknowledged before it began is shown when it returns. When that does not come to be it ends
    with ETIMEDOUT at its deadline."""
    await rig.node.put("f", b"one")
    assert await read(rig, "sync") == "1\n"
    assert rig.shows("f", b"one")
    await rig.node.set_cut(True)
    await wait_until("the stream broke", lambda: not rig.agent.feeder.live)
    revision = await rig.node.put("f", b"two")
    syncing = asyncio.create_task(read(rig, "sync"))
    assert not (await asyncio.wait({syncing}, timeout=0.1))[0]
    assert not rig.shows("f", b"two")
    await rig.node.set_cut(False)
    assert await syncing == f"{revision}\n"
    assert rig.shows("f", b"two")
    assert rig.agent.questions is not None
    rig.agent.questions.deadline_s = 0.1
    rig.node.away = True
    with fails_with(errno.ETIMEDOUT):
        await read(rig, "sync")


@pytest.mark.allow_logs(r"the stream of changes broke")
async def test_stats_say_since_when_what_is_shown_may_be_old(rig: Rig) -> None:
    """When changes do not arrive any more, what is here stays readable, and `.dfs/stats` says since
    when it may be old."""
    await rig.node.put("f", b"content")
    await rig.shown("f", b"content")
    found = await stats(rig)
    assert (found["live"], found["revision"]) == ("yes", "1")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ, \d+\.\d s ago", found["last_change"])
    await rig.node.set_cut(True)
    await wait_until("the stream broke", lambda: not rig.agent.feeder.live)
    found = await stats(rig)
    assert re.fullmatch(
        r"no \(stale since \d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ, \d+\.\d s ago\)", found["live"]
    )
    assert found["revision"] == "1"
    assert await rig.read("f") == b"content"
    assert "no node answers" in await read(rig, "members")
    await rig.node.set_cut(False)
    await wait_until("the stream is back", lambda: rig.agent.feeder.live)
    assert (await stats(rig))["live"] == "yes"


async def test_without_a_quorum_what_is_here_is_readable_and_said_to_be_stale(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a quorum what is here stays readable, and `.dfs/stats` says within some 10 s since
    when it may be old, also where the node of this machine goes on."""
    monkeypatch.setattr("dfs.cache.agent.SPACE_INTERVAL_MS", 10)
    async with Rig(tmp_path) as rig:
        await rig.node.put("f", b"content")
        await rig.shown("f", b"content")
        feeder = rig.agent.feeder
        rig.node.voters = [True, False, True]
        await wait_until("they were asked", lambda: feeder._answered_s)
        assert (await stats(rig))["live"] == "yes"
        rig.node.voters = [True, False, False]
        await wait_until("it is known", lambda: feeder.stale_s)
        assert feeder.stale_s == feeder._answered_s
        assert re.fullmatch(r"no \(stale since \S+, \d+\.\d s ago\)", (await stats(rig))["live"])
        assert feeder.live
        assert await rig.read("f") == b"content"
        rig.node.voters = [True, True, False]
        await wait_until("it is over", lambda: feeder.stale_s is None)
        assert (await stats(rig))["live"] == "yes"


async def test_members_are_named_and_who_leads(rig: Rig) -> None:
    assert await read(rig, "members") == (
        "revision: 0\nleader: node1\nmember: node1 voter 127.0.0.1:13001\n"
    )


@pytest.mark.allow_logs(r"pipe: is a device, socket or pipe", "is not UTF-8")
async def test_what_is_not_stored_is_listed_with_its_reason(rig: Rig) -> None:
    os.mkfifo(rig.cache / "pipe")
    await wait_until("it is refused", lambda: "pipe" in rig.agent.problems)
    strange = os.fsdecode(b"caf\xe9")
    rig.drop(strange, b"")
    await wait_until("it is refused", lambda: strange in rig.agent.problems)
    rig.node.hold = asyncio.Event()
    rig.drop("small", b"content")
    await wait_until("it is on its way", lambda: ("put", "small") in rig.node.calls)
    text = await read(rig, "pending")
    cafe, pipe, small = text.splitlines()
    assert cafe == r"caf\xe9: the name caf\xe9 is not UTF-8; rename it"
    assert pipe.startswith("pipe: is a device, socket or pipe")
    assert small == "small: it is being stored"
    assert (await read(rig, "problems")).splitlines() == [pipe, cafe]
    rig.node.hold.set()


async def test_conflict_copies_are_listed(rig: Rig) -> None:
    for key in ("d/f.dfs-conflict-20260101T000000Z-node1", "d/f", "a.dfs-conflict-x"):
        await rig.node.put(key, b"")
    await read(rig, "sync")
    assert (await read(rig, "conflicts")).splitlines() == [
        "a.dfs-conflict-x", "d/f.dfs-conflict-20260101T000000Z-node1"
    ]


@pytest.mark.allow_logs(r"breaks cannot be answered")
async def test_a_bug_in_one_file_is_an_error_at_once_and_the_others_go_on(rig: Rig) -> None:
    async def fails() -> bytes:
        raise Internal("a bug")

    async def breaks() -> bytes:
        raise ZeroDivisionError

    assert rig.agent.questions is not None
    files = rig.agent.questions._files
    assert isinstance(files, dict)
    files |= {"fails": fails, "breaks": breaks}
    for name in ("fails", "breaks"):
        with fails_with(errno.EIO):
            await read(rig, name)
    assert await read(rig, "version")


async def test_extended_attributes_tell_what_is_known_of_a_key(rig: Rig) -> None:
    await rig.node.put("f", b"one")
    xattrs = {"user.mine": b"\0", "user.dfs.node": b"somebody"}
    revision = await rig.node.put("f", b"two", xattrs=xattrs)
    await rig.node.mkdir("d")
    await read(rig, "sync")
    names = await asyncio.to_thread(rig.tree.ask, "f", "xattrs")
    found = {
        name: await asyncio.to_thread(rig.tree.ask, "f", f"xattr:{name}")
        for name in names.decode().split("\0")[:-1]
    }
    assert found["user.dfs.revision"] == str(revision).encode()
    assert found["user.dfs.sha256"] == hashlib.sha256(b"two").hexdigest().encode()
    assert found["user.dfs.node"] == b"node1"
    assert found["user.mine"] == b"\0"
    assert int(found["user.dfs.time_ns"]) == rig.node.records["f"].time_ns
    assert b"user.dfs.sha256" not in await asyncio.to_thread(rig.tree.ask, "d", "xattrs")
    with fails_with(errno.ENODATA):
        await asyncio.to_thread(rig.tree.ask, "f", "xattr:user.other")


async def test_free_is_what_the_fullest_member_has_or_else_the_disk_here(rig: Rig) -> None:
    figures = os.statvfs(rig.state)
    await wait_until("it was measured", lambda: rig.tree.free)
    assert rig.tree.free % figures.f_frsize == 0
    assert 0 < rig.tree.free <= figures.f_blocks * figures.f_frsize
    rig.node.disks_free = [5_000, 3_000, 4_000]
    await rig.agent._measure(rig.tree)
    assert rig.tree.free == 3_000
    rig.node.disks_free = [0, 3_000]
    await rig.agent._measure(rig.tree)
    assert rig.tree.free == 0
