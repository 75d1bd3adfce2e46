"""Files that are not here: fetched once, under a deadline, and nobody is made to wait for ever."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from .mount_rig import UNOWNED, Background, Rig, fails_with, mounted, needs_fuse, wait_until
from .telling import digest_of

pytestmark = needs_fuse

DATA = os.urandom(200_000)


@pytest.mark.parametrize("options", [{}, {"passthrough": 0}, {"no_open": 1}])
def test_a_cold_file_is_served_when_it_comes(tmp_path: Path, options: dict[str, int]) -> None:
    with mounted(tmp_path, **options) as rig:
        version = rig.put("d/cold", DATA, here=False)
        readers = [Background(rig.at("d/cold").read_bytes) for _ in range(20)]
        miss, path, wanted = rig.miss()
        assert (path, wanted) == ("d/cold", version)
        assert rig.tree.next_misses(1, 0) == []
        assert rig.tree.fulfil(miss, rig.store(version, DATA))
        assert all(reader.get() == DATA for reader in readers)
        assert rig.at("d/cold").read_bytes() == DATA
        assert not rig.tree.fulfil(miss, errno.EIO)


def test_names_and_attributes_do_not_wait_for_a_cold_file(tmp_path: Path) -> None:
    with mounted(tmp_path) as rig:
        rig.put("d/cold", DATA, here=False)
        rig.put("d/here", b"x")
        waiting = Background(rig.at("d/cold").read_bytes)
        miss, _, version = rig.miss()
        assert sorted(os.listdir(rig.at("d"))) == ["cold", "here"]
        assert rig.at("d/cold").stat().st_size == len(DATA)
        assert rig.at("d/here").read_bytes() == b"x"
        rig.put("d/new", b"y")
        assert rig.at("d/new").read_bytes() == b"y"
        assert rig.tree.fulfil(miss, rig.store(version, DATA))
        assert waiting.get() == DATA


def test_a_file_that_never_comes_ends_at_the_deadline_for_all(tmp_path: Path) -> None:
    """A read of content that cannot be had ends with ETIMEDOUT at its deadline; it never hangs."""
    with mounted(tmp_path, deadline_ms=300) as rig:
        rig.put("never", DATA, here=False)
        begun = time.monotonic()
        readers = [Background(rig.at("never").read_bytes) for _ in range(30)]
        for reader in readers:
            with pytest.raises(TimeoutError):
                reader.get()
        assert time.monotonic() - begun < 3
        assert rig.tree.stats()["timeouts"] >= 1
        assert len(rig.tree.next_misses(100, 0)) <= 1
        with pytest.raises(TimeoutError):
            rig.at("never").read_bytes()  # At once: the failure is remembered.


def test_an_errno_from_the_fetcher_is_what_the_reader_gets(tmp_path: Path) -> None:
    with mounted(tmp_path) as rig:
        rig.put("f", DATA, here=False)
        reader = Background(rig.at("f").read_bytes)
        assert rig.tree.fulfil(rig.miss()[0], errno.EHOSTUNREACH)
        with fails_with(errno.EHOSTUNREACH):
            reader.get()



def test_a_fetched_file_of_the_wrong_size_is_an_error(tmp_path: Path) -> None:
    with mounted(tmp_path) as rig:
        version = rig.put("f", DATA, here=False)
        reader = Background(rig.at("f").read_bytes)
        assert rig.tree.fulfil(rig.miss()[0], rig.store(version, DATA[1:]))
        with fails_with(errno.EIO):
            reader.get()

        assert rig.tree.stats()["damaged"] == 1


@pytest.mark.parametrize("options", [{}, {"no_open": 1}], ids=["open", "read"])
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_a_waiting_reader_can_be_killed(
    tmp_path: Path, options: dict[str, int], number: signal.Signals
) -> None:
    """A reader that waits for content can be interrupted and killed at once."""
    with mounted(tmp_path, **options) as rig:
        rig.put("never", DATA, here=False)
        took = []
        for _ in range(3):  # The best counts: the machine may be busy.
            reader = subprocess.Popen(
                ["cat", rig.at("never")], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
            wait_until(lambda: rig.tree.stats()["waiting"])
            begun = time.monotonic()
            reader.send_signal(number)
            reader.wait(10)
            took.append(time.monotonic() - begun)
        assert min(took) < 0.1
        if not options:  # A read ahead belongs to nobody and waits on.
            wait_until(lambda: rig.tree.stats()["waiting"] == 0)
        rig.put("f", b"x")
        assert rig.at("f").read_bytes() == b"x"


def test_a_file_replaced_while_a_reader_waits(tmp_path: Path) -> None:
    """The waiting reader gets the whole old version, everybody else the new one at once."""
    with mounted(tmp_path) as rig:
        old, new = DATA, DATA[::-1][:1_000]
        version = rig.put("f", old, here=False)
        waiting = Background(rig.at("f").read_bytes)
        miss = rig.miss()[0]
        rig.put("f", new)
        assert rig.at("f").read_bytes() == new
        assert rig.tree.fulfil(miss, rig.store(version, old))
        assert waiting.get() == old
        assert rig.at("f").read_bytes() == new


def test_content_that_arrives_late_brings_no_old_version_back(tmp_path: Path) -> None:
    with mounted(tmp_path) as rig:
        rig.put("f", b"old", here=False)
        rig.put("f", b"newer")
        assert rig.tree.place_contents([(digest_of("f", 1), rig.store(1, b"old"))]) == 0
        rig.apply([("f", 0, 3, 0o644, 0, *UNOWNED, 1, rig.store(1, b"old"))], [])
        assert rig.at("f").read_bytes() == b"newer"
        assert rig.tree.stats()["stale"] == 1


def test_closing_ends_everybody_who_waits(tmp_path: Path) -> None:
    with mounted(tmp_path) as rig:
        rig.put("f", DATA, here=False)
        reader = Background(rig.at("f").read_bytes)
        rig.miss()
        begun = time.monotonic()
        rig.tree.close()
        with fails_with(errno.ENOTCONN):
            reader.get()

        assert time.monotonic() - begun < 2
        assert rig.tree.next_misses(1, 10_000) == []


def test_a_take_and_a_close_meet(tmp_path: Path) -> None:
    rig: Rig
    with mounted(tmp_path) as rig:
        taker = Background(lambda: rig.tree.next_misses(1, 60_000))
        rig.tree.close()
        assert taker.get() == []
