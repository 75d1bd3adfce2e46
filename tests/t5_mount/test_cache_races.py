"""What is exchanged in the cache directory while an agent looks at it."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dfs.cache import take, watcher
from dfs.client.values import Kind
from dfs.limits import INLINE_BYTES_MAX

from .cache_rig import Rig, wait_until

_AT_FDCWD, _RENAME_EXCHANGE = -100, 2
_libc = ctypes.CDLL(None, use_errno=True)

Make = Callable[[Path, Path], object]
"""Makes something at the first path that leads to the second one, which is outside."""


def exchange(one: Path, other: Path) -> None:
    """Each gets the other's name, at one moment."""
    paths = os.fsencode(one), os.fsencode(other)
    if _libc.renameat2(_AT_FDCWD, paths[0], _AT_FDCWD, paths[1], _RENAME_EXCHANGE):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), str(one))


def before_each_open(monkeypatch: pytest.MonkeyPatch, act: Callable[[str], object]) -> None:
    """`act` is told the path between the look at it and its open."""
    real = take.open_beneath

    def opening(root: int, path: str, flags: int) -> int:
        act(path)
        return real(root, path, flags)

    monkeypatch.setattr(take, "open_beneath", opening)
    monkeypatch.setattr(watcher, "open_beneath", opening)


def link_to(path: Path, outside: Path) -> None:
    path.symlink_to(outside)


def pipe(path: Path, outside: Path) -> None:
    os.mkfifo(path)


@pytest.mark.parametrize("size", [10, INLINE_BYTES_MAX + 10])
@pytest.mark.parametrize("make", [link_to, pipe])
@pytest.mark.parametrize("place", ["f", "d/f"])
@pytest.mark.allow_logs("is a device, socket or pipe", "d is a directory")
async def test_what_is_exchanged_before_it_is_opened_leads_nowhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int, make: Make, place: str
) -> None:
    """Nothing outside the cache directory is read, whatever is exchanged for a symbolic link there
    while it is looked at; and nothing waits for the other end of a pipe."""
    outside = tmp_path / "outside"
    outside.mkdir()
    secret = b"not for you" + bytes(size)
    (outside / "f").write_bytes(secret)
    top = place.partition("/")[0]  # Of two names the directory is exchanged, with all below it.
    with_it = tmp_path / "with-it"
    make(with_it, outside / "f" if place == "f" else outside)
    exchanged: list[str] = []

    def act(path: str) -> None:
        if path == place and not exchanged:
            exchanged.append(path)
            exchange(rig.cache / top, with_it)

    async with Rig(tmp_path) as rig:
        if place != top:
            (rig.cache / top).mkdir()
            await wait_until("it is shown", lambda: top in rig.tree.shown)
        before_each_open(monkeypatch, act)
        rig.drop(place, bytes(size))
        await wait_until("they are exchanged", lambda: exchanged)
        rig.drop("other", b"1")
        await rig.shown("other", b"1")
        await rig.rescan_without_settling()
        if make is pipe:
            await wait_until("it is said", lambda: f"{top}: is a device" in rig.problems())
        elif place == top:
            await wait_until("the link is stored", lambda: _is_link(rig, top))
        else:
            await wait_until("it is said", lambda: f"{top} is a directory" in rig.problems())
        await rig.rescan_without_settling()
        assert secret not in [event.data for event in rig.node.events]
        assert len(secret) not in [stat.size for stat in rig.node.records.values()]


def _is_link(rig: Rig, path: str) -> bool:
    stat = rig.node.records.get(path)
    return stat is not None and stat.kind is Kind.SYMLINK


async def test_a_directory_that_becomes_a_link_while_it_is_scanned_is_not_walked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "elsewhere").write_bytes(b"not for you")
    link = tmp_path / "link"
    link.symlink_to(outside)
    exchanged: list[str] = []

    def act(path: str) -> None:
        if path == "d" and not exchanged:
            exchanged.append(path)
            exchange(rig.cache / "d", link)

    async with Rig(tmp_path) as rig:
        (rig.root / "d").mkdir()
        before_each_open(monkeypatch, act)
        (rig.root / "d").rename(rig.cache / "d")
        await wait_until("the link is stored", lambda: _is_link(rig, "d"))
        await rig.rescan()
        assert exchanged
        assert list(rig.node.records) == ["d"]


async def test_a_hard_link_is_a_file_like_any_other(tmp_path: Path) -> None:
    """Each name is stored by itself; a change by one of them is found under the other by a scan."""
    async with Rig(tmp_path) as rig:
        file = rig.drop("one", b"1")
        os.link(file, rig.cache / "two")
        await rig.shown("one", b"1")
        await rig.shown("two", b"1")
        file.write_bytes(b"22")
        await rig.shown("one", b"22")
        await rig.rescan()
        await rig.shown("two", b"22")


def _directory(path: Path) -> None:
    path.mkdir()


def _fifo(path: Path) -> None:
    os.mkfifo(path)


def _link(path: Path) -> None:
    (path.parent.parent / "patterns").write_bytes(b"*.o\n")
    path.symlink_to("../patterns")


def _no_text(path: Path) -> None:
    path.write_bytes(b"*.o\n\xff\n")


def _too_long(path: Path) -> None:
    path.write_bytes(b"*.o\n" * 20_000)


@pytest.mark.parametrize(("make", "why"), [
    (_directory, "it is no file"), (_fifo, "it is no file"), (_link, "it is a symbolic link"),
    (_no_text, "it is not UTF-8"), (_too_long, "it has more than 65,536 bytes"),
])
@pytest.mark.allow_logs("dfsignore: cannot be read")
async def test_a_dfsignore_that_cannot_be_read_is_reported_and_stops_nothing(
    tmp_path: Path, make: Callable[[Path], Any], why: str
) -> None:
    """The rules of before hold until it is corrected."""
    rig = Rig(tmp_path)
    file = rig.drop(".dfsignore", b"*.x\n")
    rig.drop("a.x", b"ignored")
    async with rig:
        made = rig.root / ".dfsignore"
        make(made)
        exchange(made, file)
        await wait_until("it is said", lambda: f".dfsignore: cannot be read: {why};" in
                         rig.problems())
        rig.drop("b.x", b"ignored")
        rig.drop("c.o", b"3")
        await rig.shown("c.o", b"3")
        await rig.rescan()
        assert list(rig.node.records) == ["c.o"]
        os.rename(file, rig.root / "away")
        await rig.shown("b.x", b"ignored")
        await rig.shown("a.x", b"ignored")
        assert not rig.problems()


@pytest.mark.allow_logs(r"dfsignore: line 2 is no pattern \(bad character range z-a\)")
async def test_a_line_that_is_no_pattern_is_reported_and_the_others_hold(tmp_path: Path) -> None:
    async with Rig(tmp_path) as rig:
        rig.drop(".dfsignore", b"*.x\n[z-a]\n*.y\n")
        await wait_until("it is said", lambda: "line 2 is no pattern" in rig.problems())
        for name in ("a.x", "b.y", "c"):
            rig.drop(name, b"1")
        await rig.shown("c", b"1")
        await rig.rescan()
        assert list(rig.node.records) == ["c"]
        rig.drop(".dfsignore", b"*.x\n")
        await rig.shown("b.y", b"1")
        assert not rig.problems()
