"""Files of the mount that are made for each open, through the kernel."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from .mount_rig import (
    WAIT_S,
    Background,
    Rig,
    Tree,
    fails_with,
    mounted,
    needs_fuse,
)

pytestmark = needs_fuse


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    """A mount that offers two files."""
    with mounted(tmp_path) as made:
        made.tree.offer(["stats", "sync"])
        yield made


def question(tree: Tree) -> tuple[int, str, int, str]:
    """The next one that nobody has taken."""
    [asked] = tree.next_questions(1, int(WAIT_S * 1000))
    return asked


def answering(
    tree: Tree, answer: Callable[[str], bytes]
) -> contextlib.AbstractContextManager[None]:
    """Somebody who answers at once, until the block ends."""

    def once() -> None:
        for number, path, _, _ in tree.next_questions(16, 20):
            tree.answer(number, answer(path))

    return repeating(once)


@contextlib.contextmanager
def repeating(work: Callable[[], None]) -> Iterator[None]:
    """Does it again and again in another thread."""
    stop = threading.Event()

    def run() -> None:
        while not stop.is_set():
            work()

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def test_what_is_made_is_there_for_who_names_it_and_in_no_copy_of_the_tree(
    rig: Rig, tmp_path: Path
) -> None:
    """At the top of the mount `.dfs/` has files that say how things are, made anew for each open.
    It is there for whoever names it and in no listing of the top, so that copies and searches of
    the tree leave it out."""
    rig.put("d/f", b"content")
    with answering(rig.tree, lambda path: f"{path}\n".encode() * 50_000):
        whole = b".dfs/stats\n" * 50_000
        assert rig.at(".dfs/stats").read_bytes() == whole
        assert subprocess.check_output(["cat", rig.at(".dfs/stats")]) == whole
        assert subprocess.check_output(["tail", "-n1", rig.at(".dfs/sync")]) == b".dfs/sync\n"
    assert sorted(os.listdir(rig.at(".dfs"))) == ["at", "stats", "sync"]
    assert os.listdir(rig.point) == ["d"]
    found = subprocess.check_output(["find", rig.point, "-mindepth", "1", "-printf", "%P "])
    assert found == b"d d/f "
    subprocess.run(["cp", "-r", rig.point, tmp_path / "copy"], check=True)
    assert sorted(p.name for p in (tmp_path / "copy").rglob("*")) == ["d", "f"]
    with fails_with(errno.ENOENT):
        rig.at(".dfs/other").read_bytes()
    with fails_with(errno.EROFS):
        rig.at(".dfs/stats").write_bytes(b"")
    assert rig.tree.stats()["answers"] == 0


def test_each_open_has_an_answer_of_its_own(rig: Rig) -> None:
    opens = [Background(lambda: os.open(rig.at(".dfs/sync"), os.O_RDONLY)) for _ in range(2)]
    numbers = [question(rig.tree)[0] for _ in opens]
    for number in numbers:
        assert rig.tree.answer(number, str(number).encode())
    fds = [int(str(opened.get())) for opened in opens]
    try:
        first = sorted(os.pread(fd, 10, 0) for fd in fds)
        assert first == sorted(str(number).encode() for number in numbers)
        assert sorted(os.pread(fd, 10, 0) for fd in fds) == first
    finally:
        for fd in fds:
            os.close(fd)


def test_nobody_else_waits_for_a_question_and_who_asked_can_be_killed(rig: Rig) -> None:
    rig.put("f", b"content")
    asking = subprocess.Popen(["cat", rig.at(".dfs/sync")], stderr=subprocess.PIPE)
    number = question(rig.tree)[0]
    assert rig.at("f").read_bytes() == b"content"
    assert os.listdir(rig.at(".dfs"))
    os.statvfs(rig.point)
    asking.send_signal(signal.SIGKILL)
    assert asking.wait(WAIT_S) == -signal.SIGKILL
    asking.communicate()
    assert not rig.tree.answer(number, b"too late")
    assert rig.tree.stats()["answers"] == 0


def test_an_errno_is_an_answer_and_silence_ends_at_the_deadline(tmp_path: Path) -> None:
    with mounted(tmp_path, deadline_ms=300) as rig:
        rig.tree.offer(["sync"])
        opening = Background(lambda: rig.at(".dfs/sync").read_bytes())
        rig.tree.answer(question(rig.tree)[0], errno.EHOSTUNREACH)
        with fails_with(errno.EHOSTUNREACH):
            opening.get()
        with fails_with(errno.ETIMEDOUT):
            rig.at(".dfs/sync").read_bytes()


def test_extended_attributes_are_questions_where_they_are_wanted(tmp_path: Path) -> None:
    values = {"user.dfs.revision": b"7", "user.dfs.sha256": b"ab" * 32}
    with mounted(tmp_path, xattr=1) as rig:
        rig.put("d/f", b"content")
        asked = []

        def answer(tree: Tree) -> None:
            for number, path, _, what in tree.next_questions(16, 20):
                asked.append((path, what))
                if what == "xattrs":
                    tree.answer(number, b"".join(n.encode() + b"\0" for n in values))
                else:
                    tree.answer(number, values.get(what.removeprefix("xattr:"), errno.ENODATA))

        with repeating(lambda: answer(rig.tree)):
            assert sorted(os.listxattr(rig.at("d/f"))) == sorted(values)
            for name, value in values.items():
                assert os.getxattr(rig.at("d/f"), name) == value
            for name in ("user.other", "security.selinux", "trusted.x"):
                with fails_with(errno.ENODATA):
                    os.getxattr(rig.at("d/f"), name)
            assert os.listxattr(rig.at("d"))
        assert ("d/f", "xattr:security.selinux") not in asked


def test_the_next_agent_answers_anew_and_never_mixes_up_what_is_open(rig: Rig) -> None:
    opening = Background(lambda: os.open(rig.at(".dfs/stats"), os.O_RDONLY))
    rig.tree.answer(question(rig.tree)[0], b"from the first")
    fd = int(str(opening.get()))
    waiting = Background(lambda: rig.at(".dfs/stats").read_bytes())
    question(rig.tree)
    rig.tree.close()
    with fails_with(errno.ENOTCONN):
        waiting.get()
    rig.tree = Tree({})
    rig.tree.offer(["stats", "sync"])
    rig.tree.adopt(rig.fd)
    try:
        with answering(rig.tree, lambda _: b"from the next"):
            assert rig.at(".dfs/stats").read_bytes() == b"from the next"
            with fails_with(errno.ESTALE):
                os.pread(fd, 10, 0)
    finally:
        os.close(fd)
