"""What the kernel tells of a directory."""

import errno
import os
from pathlib import Path

import pytest

from dfs.cache import inotify
from dfs.cache.inotify import Event, Inotify, events_of

MASK = inotify.CREATE | inotify.DELETE


async def test_each_change_is_an_event_in_its_order_whatever_its_name(tmp_path: Path) -> None:
    names = ["a", "b" * 15, "c" * 16, "d" * 255, "\u00fc \n", os.fsdecode(b"\xff\xfe")]
    with Inotify() as watches:
        watch = watches.add(str(tmp_path), MASK)
        for name in names:
            (tmp_path / name).touch()
        (tmp_path / "directory").mkdir()
        found = list(await watches.read())
        assert found[:-1] == [Event(watch, inotify.CREATE, name) for name in names]
        assert found[-1] == (watch, inotify.CREATE | inotify.ISDIR, "directory")
        watches.remove(watch)
        assert list(await watches.read()) == [Event(watch, inotify.IGNORED, "")]


async def test_what_is_too_much_for_one_read_comes_with_the_next(tmp_path: Path) -> None:
    names = [f"{number:0255}" for number in range(100)]
    with Inotify() as watches:
        watches.add(str(tmp_path), MASK)
        for name in names:
            (tmp_path / name).touch()
        found: list[str] = []
        reads = 0
        while len(found) < len(names):
            found += [event.name for event in await watches.read()]
            reads += 1
    assert found == names
    assert reads > 1


async def test_two_directories_are_told_apart(tmp_path: Path) -> None:
    with Inotify() as watches:
        numbers = {}
        for name in ("one", "two"):
            (tmp_path / name).mkdir()
            numbers[watches.add(str(tmp_path / name), MASK)] = name
        (tmp_path / "two" / "x").touch()
        (tmp_path / "one" / "x").touch()
        assert [numbers[event.watch] for event in await watches.read()] == ["two", "one"]


async def test_what_happens_to_a_file_with_nothing_in_between_is_one_event(tmp_path: Path) -> None:
    mask = MASK | inotify.MODIFY | inotify.CLOSE_WRITE | inotify.ATTRIB
    with Inotify() as watches:
        watch = watches.add(str(tmp_path), mask)
        for name in ("a", "b"):
            (tmp_path / name).write_bytes(b"data")
        (tmp_path / "b").chmod(0o600)
        (tmp_path / "b").unlink()
        (tmp_path / "b").write_bytes(b"data")
        (tmp_path / "directory").mkdir()
        (tmp_path / "directory").chmod(0o700)
        written = inotify.CREATE | inotify.MODIFY | inotify.CLOSE_WRITE
        assert list(await watches.read()) == [
            Event(watch, written, "a"),
            Event(watch, written | inotify.ATTRIB, "b"),
            Event(watch, inotify.DELETE, "b"),
            Event(watch, written, "b"),
            Event(watch, inotify.CREATE | inotify.ISDIR, "directory"),
            Event(watch, inotify.ATTRIB | inotify.ISDIR, "directory"),
        ]


def test_an_overflow_has_no_watch_and_no_name() -> None:
    read = inotify._HEAD.pack(-1, inotify.OVERFLOW, 0, 0)
    assert list(events_of(read)) == [Event(-1, inotify.OVERFLOW, "")]


def test_errors_name_the_path(tmp_path: Path) -> None:
    with Inotify() as watches:
        with pytest.raises(OSError, match="No such file") as raised:
            watches.add(str(tmp_path / "none"), MASK)
        assert (raised.value.errno, raised.value.filename) == (errno.ENOENT, f"{tmp_path}/none")
        with pytest.raises(OSError, match="Invalid argument"):
            watches.remove(99)
