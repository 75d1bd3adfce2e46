"""Small files that were closed stay ready for the next open; they are in nobody's way."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from dfs._engine import Tree
from dfs.sealing import seal

from .mount_rig import UNOWNED, Rig, fails_with, mounted, needs_fuse, rows, wait_until
from .telling import digest_of, show

pytestmark = needs_fuse

READY_MAX = 16_384
"""As in `engine/src/mount/ready.rs`."""


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    with mounted(tmp_path, deadline_ms=50) as rig:
        yield rig


def closed(tree: Tree, ready: int) -> None:
    """Waits until nothing is open, and so many files are ready then."""
    wait_until(lambda: tree.stats()["open"] == 0)
    assert tree.stats()["ready"] == ready


def in_use(path: Path) -> bool:
    """Whether anybody has a file open: what the cache goes by when it removes content."""
    with path.open("rb") as file:
        try:
            fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_WRLCK)
        except BlockingIOError:
            return True
        return False


def test_a_file_is_ready_once_however_often_it_is_opened(rig: Rig) -> None:
    rig.put("f", b"content")
    for _ in range(3):
        assert rig.at("f").read_bytes() == b"content"
        closed(rig.tree, ready=1)
    with rig.at("f").open("rb"), rig.at("f").open("rb"):
        stats = rig.tree.stats()
        assert (stats["open"], stats["open_passthrough"], stats["ready"]) == (1, 1, 0)
    closed(rig.tree, ready=1)
    assert rig.tree.stats()["opens"] == 5


def test_files_that_are_ready_take_no_descriptor(rig: Rig) -> None:
    for number in range(100):
        rig.put(f"f{number}", b"x")
    before = os.listdir("/proc/self/fd")
    for number in range(100):
        assert rig.at(f"f{number}").read_bytes() == b"x"
    closed(rig.tree, ready=100)
    assert len(os.listdir("/proc/self/fd")) == len(before)


def test_who_opens_what_it_looks_up_finds_the_next_file_ready(rig: Rig) -> None:
    """And who only looks does not have files made ready for nothing."""
    for number in range(60):
        rig.put(f"f{number}", b"%d" % number)
    for number in range(20):
        assert rig.at(f"f{number}").read_bytes() == b"%d" % number
    closed(rig.tree, ready=20)
    assert rig.at("f20").stat().st_size == 2
    wait_until(lambda: rig.tree.stats()["ready"] == 21)
    version = rig.put("f20", b"another")
    closed(rig.tree, ready=20)
    assert rig.at("f20").read_bytes() == b"another"
    closed(rig.tree, ready=21)
    (rig.objects / str(version)).unlink()
    with fails_with(errno.ETIMEDOUT):
        rig.at("f20").read_bytes()
    for number in range(21, 60):
        assert rig.at(f"f{number}").exists()
    assert rig.tree.stats()["ready"] < 25
    assert rig.tree.stats()["opens"] == 21


@pytest.mark.parametrize("options", [{"passthrough": 0}, {"no_open": 1}], ids=["cached", "no_open"])
def test_none_is_ready_where_the_kernel_does_not_read_by_itself(
    tmp_path: Path, options: dict[str, int]
) -> None:
    with mounted(tmp_path, **options) as rig:
        version = rig.put("f", b"content")
        assert rig.at("f").read_bytes() == b"content"
        closed(rig.tree, ready=0)
        assert not in_use(rig.objects / str(version))


def test_content_that_is_hidden_is_let_go_at_once(rig: Rig) -> None:
    version, other = rig.put("f", b"content"), rig.put("g", b"other")
    place = rig.objects / str(version)
    assert rig.at("f").read_bytes() + rig.at("g").read_bytes() == b"contentother"
    closed(rig.tree, ready=2)
    assert in_use(place)
    rig.tree.place_contents([(digest_of("f", version), None)])
    assert not in_use(place)
    assert in_use(rig.objects / str(other))
    closed(rig.tree, ready=1)
    with fails_with(errno.ETIMEDOUT):
        rig.at("f").read_bytes()


def test_content_that_is_hidden_while_it_is_open_does_not_stay_ready(rig: Rig) -> None:
    version = rig.put("f", b"content")
    with rig.at("f").open("rb") as file:
        rig.tree.place_contents([(digest_of("f", version), None)])
        assert in_use(rig.objects / str(version))
        assert file.read() == b"content"
    closed(rig.tree, ready=0)
    assert not in_use(rig.objects / str(version))


@pytest.mark.parametrize("deleted", [False, True], ids=["replaced", "deleted"])
@pytest.mark.parametrize("known", [False, True], ids=["unknown", "known"])
def test_a_version_that_is_no_longer_shown_is_let_go_at_once(
    rig: Rig, deleted: bool, known: bool
) -> None:
    """Also while the kernel goes on to know it, as somebody refers to it."""
    old = rig.objects / str(rig.put("d/f", b"old"))
    with contextlib.ExitStack() as stack:
        assert rig.at("d/f").read_bytes() == b"old"
        closed(rig.tree, ready=1)
        assert in_use(old)
        if known:
            stack.callback(os.close, held := os.open(rig.at("d/f"), os.O_PATH))
        if deleted:
            rig.delete("d/f")
        else:
            rig.put("d/f", b"new")
        assert not in_use(old)
        if known:
            assert Path(f"/proc/self/fd/{held}").read_bytes() == b"old"
        closed(rig.tree, ready=0)
        assert not in_use(old)


@pytest.mark.parametrize("wrong", [b"short", b"too long a content", b"changed", None])
def test_a_ready_file_that_is_not_as_it_was_is_not_served(rig: Rig, wrong: bytes | None) -> None:
    """What an open finds wrong with a local file it also finds when the file is ready."""
    version = rig.put("f", b"content")
    place = rig.objects / str(version)
    assert rig.at("f").read_bytes() == b"content"
    closed(rig.tree, ready=1)
    if wrong is None:
        place.unlink()
    else:
        place.write_bytes(wrong)
    with fails_with(errno.ETIMEDOUT):
        rig.at("f").read_bytes()
    assert rig.tree.stats()["damaged"] == (wrong is not None)
    closed(rig.tree, ready=0)


def test_a_ready_file_gives_way_to_another_of_its_name(rig: Rig) -> None:
    version = rig.put("f", b"damaged")
    place = rig.objects / str(version)
    assert rig.at("f").read_bytes() == b"damaged"
    closed(rig.tree, ready=1)
    place.rename(rig.objects / "quarantine")
    rig.store(version, b"correct")
    assert rig.at("f").read_bytes() == b"correct"
    closed(rig.tree, ready=1)
    assert not in_use(rig.objects / "quarantine")


def test_what_was_ready_for_one_process_the_next_one_lets_go(rig: Rig) -> None:
    """What was open stays so, as often as it was."""
    table = os.memfd_create("open-files")
    former, latter = Tree({}), Tree({})
    rig.tree.close()
    former.adopt(rig.fd, table)
    paths = [rig.objects / name for name in ("open", "closed")]
    for path in paths:
        path.write_bytes(b"content")
        seal(path)
        item = (path.name, 0, 7, 0o644, 10**18, *UNOWNED, 1, str(path))
        assert not show(former, [item])
        assert not show(latter, [item])
    assert former.flush(10_000)
    with rig.at("open").open("rb", buffering=0) as file:
        with rig.at("open").open("rb"):
            assert rig.at("closed").read_bytes() == b"content"
            wait_until(lambda: former.stats()["ready"] == 1)
            former.close()
            assert rows(table) == 2
            latter.adopt(rig.fd, table)
            assert [in_use(path) for path in paths] == [True, False]
        assert rig.at("closed").read_bytes() == b"content"
        wait_until(lambda: latter.stats()["ready"] == 1)
        assert latter.stats()["open"] == 1
        assert file.read() == b"content"
        with rig.at("open").open("rb") as again:
            assert again.read() == b"content"
    closed(latter, ready=1)
    assert [in_use(path) for path in paths] == [False, True]
    assert rows(table) == 1
    latter.close()
    os.close(table)


def test_beyond_the_bound_the_file_that_was_closed_first_is_let_go(rig: Rig) -> None:
    first, second, place = rig.store(1, b"1"), rig.store(2, b"2"), rig.store(3, b"3")
    places = {"first": first, "second": second}
    names = ["first", "second", *(f"f{number}" for number in range(READY_MAX - 1))]
    rig.apply(
        [(n, 0, 1, 0o644, 10**18, *UNOWNED, 1, places.get(n, place)) for n in names], []
    )
    for name in [*names[:-1], "first"]:
        rig.at(name).read_bytes()
    closed(rig.tree, ready=READY_MAX)
    assert in_use(Path(second))
    rig.at(names[-1]).read_bytes()
    closed(rig.tree, ready=READY_MAX)
    assert [in_use(Path(place)) for place in (first, second)] == [True, False]
