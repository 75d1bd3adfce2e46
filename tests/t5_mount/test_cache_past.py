"""`.dfs/at/` over a node in memory: what is answered."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from dfs.cache.past import TOP
from dfs.cache.ports import NOBODY
from dfs.cache.questions import ATTRIBUTE, ATTRIBUTES, CONTENT, LIST, NAME
from dfs.client.values import Kind
from dfs.limits import PAST_NAMES_MAX

from .cache_rig import Rig, wait_until
from .mount_rig import fails_with


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    """One agent."""
    async with Rig(tmp_path) as made:
        yield made


async def look(rig: Rig, path: str, what: str) -> list[Any]:
    """As the kernel."""
    return await asyncio.to_thread(rig.tree.look, path, what)


def time_name(rig: Rig, key: str) -> str:
    """When the present version of a key was committed."""
    time_ns = rig.node.records[key].time_ns
    at = datetime.fromtimestamp(time_ns // 10**9, UTC)
    return f"{at:%Y-%m-%dT%H:%M:%S}.{time_ns % 10**9:09}Z"


async def test_a_revision_and_a_time_are_directories(rig: Rig) -> None:
    await rig.node.put("d/f", b"one", mode=0o640, mtime_ns=5)
    await rig.node.symlink("d/link", "there", mtime_ns=6)
    revision = rig.node.revision
    name = time_name(rig, "d/link")
    await rig.node.put("d/f", b"other")
    await rig.shown("d/f", b"other")
    for then in (str(revision), name):
        [found] = await look(rig, TOP, NAME + then)
        assert found[:2] == (then, Kind.DIRECTORY)
        assert found[7] == revision
        assert found[4] == rig.node.events[revision - 1].stat.time_ns, "when it came to be"
    listed = await look(rig, f"{TOP}/{revision}", LIST)
    assert [entry[:2] for entry in listed] == [("d", Kind.DIRECTORY)]
    file, link = await look(rig, f"{TOP}/{revision}/d", LIST)
    assert file[:8] == ("d/f", Kind.FILE, 3, 0o640, 5, NOBODY, NOBODY, 1)
    assert Path(file[8]).read_bytes() == b"one", "its content is here yet"
    assert link[:2] + link[8:] == ("d/link", Kind.SYMLINK, "there")


async def test_what_is_no_revision(rig: Rig) -> None:
    await rig.node.put("f", b"one")
    await rig.shown("f", b"one")
    for name in ("none", "0", "2026-13-01", "2026-11-25T10:00:00", "1 "):
        with fails_with(errno.ENOENT):
            await look(rig, TOP, NAME + name)
    for name in ("77", "1999-01-01"):
        with fails_with(errno.ERANGE):
            await look(rig, TOP, NAME + name)
    name = time_name(rig, "f")
    assert await look(rig, TOP, NAME + name)
    await rig.node.put("f", b"two")
    rig.node.floor = 2
    for gone in ("1", name):
        with fails_with(errno.ERANGE):
            await look(rig, TOP, NAME + gone)
    for what in (LIST, ATTRIBUTES):
        with fails_with(errno.ERANGE):
            await asyncio.to_thread(rig.tree._ask, f"{TOP}/1/f", 1, what)


async def test_what_was_shown_needs_no_quorum_and_a_node_is_waited_for(rig: Rig) -> None:
    await rig.node.put("f", b"one")
    await rig.shown("f", b"one")
    rig.node.away = True
    assert await look(rig, TOP, f"{NAME}1")
    assert await look(rig, f"{TOP}/1", LIST)
    looking = asyncio.create_task(look(rig, TOP, NAME + time_name(rig, "f")))
    assert not (await asyncio.wait({looking}, timeout=0.1))[0]
    rig.node.away = False
    assert (await looking)[0][7] == 1
    assert rig.agent.questions is not None
    rig.agent.questions.deadline_s = 0.1
    rig.node.away = True
    with fails_with(errno.ETIMEDOUT):
        await look(rig, TOP, f"{NAME}2")


@pytest.mark.allow_logs("the stream of changes broke")
async def test_what_was_looked_at_is_there_while_no_node_answers(rig: Rig) -> None:
    for text in (b"one", b"two"):
        await rig.node.put("f", text)
    await rig.shown("f", b"two")
    name = time_name(rig, "f")
    found = [await look(rig, TOP, NAME + then) for then in ("1", name)]
    await rig.node.set_cut(True)
    await wait_until("that is noticed", lambda: not rig.agent.feeder.live)
    assert [await look(rig, TOP, NAME + then) for then in ("1", name)] == found
    assert rig.agent.questions is not None
    rig.agent.questions.deadline_s = 0.1
    with fails_with(errno.ETIMEDOUT):
        await look(rig, TOP, f"{NAME}2")
    await rig.node.set_cut(False)
    await wait_until("it is back", lambda: rig.agent.feeder.live)
    rig.node.floor = 2
    rig.agent.questions.deadline_s = 20.0
    with fails_with(errno.ERANGE):
        await look(rig, TOP, f"{NAME}1")


async def test_a_directory_of_too_many_entries_is_refused(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dfs.cache.past.PAST_DIRECTORY_MAX", 2)
    for name in "abc":
        await rig.node.put(name, b"one")
    with fails_with(errno.EFBIG):
        await look(rig, f"{TOP}/3", LIST)
    assert len(await look(rig, f"{TOP}/2", LIST)) == 2


async def test_the_extended_attributes_are_those_of_then(rig: Rig) -> None:
    first = await rig.node.put("d/f", b"one", xattrs={"user.color": b"red"})
    await rig.node.put("d/f", b"other")
    await rig.shown("d/f", b"other")

    async def ask(path: str, what: str) -> Any:
        return await asyncio.to_thread(rig.tree._ask, path, first, what)

    there = f"{TOP}/{first}/d/f"
    names = (await ask(there, ATTRIBUTES)).split(b"\0")[:-1]
    assert names[0] == b"user.color"
    assert {b"user.dfs.revision", b"user.dfs.sha256"} <= set(names)
    assert await ask(there, f"{ATTRIBUTE}user.color") == b"red"
    assert await ask(there, f"{ATTRIBUTE}user.dfs.revision") == b"%d" % first
    assert rig.node.calls.count(("read", "d/f")) == 1, "once for all of them"
    with fails_with(errno.ENODATA):
        await ask(f"{TOP}/{first + 1}/d/f", f"{ATTRIBUTE}user.color")
    for nothing in (TOP, f"{TOP}/README", f"{TOP}/{first}"):
        assert await ask(nothing, ATTRIBUTES) == b""


@pytest.mark.allow_logs("the stream of changes broke")
async def test_the_readme_says_how_far_history_reaches(rig: Rig) -> None:
    """In `.dfs/at/` one file is listed, `README`: it says how far history reaches, and how to look
    at it. So nobody who walks through `.dfs/` comes into the trees of the past."""
    assert "at/README" in rig.tree.offered
    for number in range(5):
        await rig.node.put("f", b"%d" % number)
    await rig.shown("f", b"4")
    rig.node.floor, rig.node.disks_free = 3, [5_000]

    async def lines() -> list[str]:
        text = await asyncio.to_thread(rig.tree.ask, f"{TOP}/README", CONTENT)
        return text.decode().split("\n")

    newest, oldest, *rest = await lines()
    assert newest == f"newest: 5, of {time_name(rig, 'f')}"
    assert oldest.startswith("oldest: 3, of 20")
    assert f"  .dfs/at/{time_name(rig, 'f')}" in rest
    for name in (newest.split()[1].rstrip(","), newest.split()[-1], oldest.split()[-1]):
        assert await look(rig, TOP, NAME + name), "they are names"
    await rig.node.set_cut(True)
    newest, oldest, *rest = await lines()
    assert newest == "newest: 5"
    assert oldest == "oldest: unknown: no node answers"
    assert "  .dfs/at/5" in rest


async def test_names_are_remembered_within_a_bound(rig: Rig) -> None:
    await rig.node.put("f", b"one")
    assert rig.agent.questions is not None
    past = rig.agent.questions._past
    for second in range(PAST_NAMES_MAX + 5):
        await past.named(f"2200-01-01T{second // 3600:02}:{second // 60 % 60:02}:{second % 60:02}Z")
    assert len(past._known) == PAST_NAMES_MAX


@pytest.mark.allow_logs("is not to be had")
async def test_the_status_says_for_a_while_why_a_reader_got_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has a version open that no history has any more."""
    monkeypatch.setattr("dfs.cache.fetcher.REFUSAL_SHOWN_S", 0.05)
    async with Rig(tmp_path) as rig:
        past = await rig.node.put("file", b"then")
        rig.node.floor = await rig.node.put("file", b"now")
        await rig.shown("file", b"now")
        fetcher, problems = rig.agent.fetcher, rig.agent.problems
        assert fetcher is not None
        told: list[object] = []
        monkeypatch.setattr(rig.tree, "fulfil", lambda _, result: told.append(result))
        await fetcher._serve(1, "file", past, 0, 0)
        assert told == [errno.EIO]
        assert problems.lines() == [
            f"file: content of revision {past} is not to be had: revision {past} of file is gone; "
            f"now it is {rig.node.floor}"
        ]
        await wait_until("it is over", lambda: not problems.lines())
