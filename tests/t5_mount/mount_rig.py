"""A real mount for tests: a tree whose objects lie in a directory, served by this process."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dfs.cache.ports import NOBODY
from dfs.mount import identity, locate, top_mount
from dfs.sealing import seal

from .telling import show

try:
    from dfs._engine import Tree, fuse_mount, fuse_open, fuse_unmount
except ImportError:
    WHY_NOT = "the engine is not built with a mount"
else:
    WHY_NOT = ""

WAIT_S = 20.0
HERE = Path(__file__).parent
SRC = HERE.parent.parent / "src"
UNOWNED = (NOBODY, NOBODY)
"""uid and gid of what names none."""
ROW = 512
"""As in `engine/src/mount/table.rs`."""


def why_no_mounts() -> str:
    """Why this machine cannot mount; "" when it can."""
    if WHY_NOT:
        return WHY_NOT
    if not os.path.exists("/dev/fuse"):
        return "no /dev/fuse on this machine"
    return "" if os.geteuid() == 0 else "mounting needs root"


needs_fuse = pytest.mark.skipif(bool(why_no_mounts()), reason=why_no_mounts() or "can mount")


def wait_until(condition: Callable[[], object], timeout: float = WAIT_S) -> None:
    """Fails when the condition does not come true in time."""
    end = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < end, f"not true within {timeout} s"
        time.sleep(0.005)


@contextlib.contextmanager
def fails_with(number: int) -> Iterator[None]:
    """What is inside must fail with that errno."""
    with pytest.raises(OSError, match=r"Errno") as caught:
        yield
    assert caught.value.errno == number, caught.value


class Rig:
    """`put` and `delete` change the tree; `at` is a path on the mount."""

    def __init__(self, folder: Path, table: int = -1, **options: int) -> None:
        self.objects, self.point = folder / "objects", folder / "mount"
        self.objects.mkdir()
        self.point.mkdir()
        self.tree = Tree({"deadline_ms": 20_000, **options})
        self.version = 0
        self.left: set[bytes] = set()
        """Contents that nobody could open any more when they were replaced."""
        self.fd = fuse_open()
        fuse_mount(
            self.fd,
            str(self.point),
            "user_id=0,group_id=0,default_permissions,allow_other,max_read=1048576",
            identity(),
        )
        self.tree.serve(self.fd, table)

    def at(self, path: str) -> Path:
        """Where the mount shows a key."""
        return self.point / path

    def put(
        self, path: str, data: bytes = b"", *, here: bool = True, mode: int = 0o644,
        mtime_ns: int = 10**18, flush: bool = True, owner: tuple[int, int] = UNOWNED,
    ) -> int:
        """A new version of a file; `here`: its content is local. Returns the version."""
        self.version += 1
        place = self.store(self.version, data) if here else None
        change = (path, 0, len(data), mode, mtime_ns, *owner, self.version, place)
        self.apply([change], [], flush=flush)
        return self.version

    def store(self, version: int, data: bytes) -> str:
        """Puts content where objects are; returns its path."""
        path = self.objects / str(version)
        path.write_bytes(data)
        seal(path)
        return str(path)

    def mkdir(
        self, path: str, mode: int = 0o755, mtime_ns: int = 10**18,
        owner: tuple[int, int] = UNOWNED,
    ) -> None:
        """A directory that stays."""
        self.version += 1
        self.apply([(path, 1, 0, mode, mtime_ns, *owner, self.version, None)], [])

    def symlink(self, path: str, target: str) -> None:
        """A symlink."""
        self.version += 1
        self.apply([(path, 2, 0, 0o777, 10**18, *UNOWNED, self.version, target)], [])

    def delete(self, *paths: str) -> None:
        """Takes keys away."""
        self.apply([], paths)

    def apply(self, upserts: list, deletes: tuple | list, flush: bool = True) -> None:
        """Changes the tree; with `flush` later look-ups see it."""
        assert not show(self.tree, upserts, deletes, self.left)
        if flush:
            assert self.tree.flush(10_000)

    def miss(self) -> tuple[int, str, int]:
        """The next miss that nobody has taken: of a file, none of its chunks."""
        [miss] = self.tree.next_misses(1, int(WAIT_S * 1000))
        assert miss[3:] == (0, 0)
        return miss[:3]

    def close(self) -> None:
        """Unmounts and stops."""
        fuse_unmount(str(self.point), force=True)
        self.tree.close()
        os.close(self.fd)


@contextlib.contextmanager
def mounted(folder: Path, **options: int) -> Iterator[Rig]:
    """A rig that is surely unmounted at the end."""
    rig = Rig(folder, **options)
    try:
        yield rig
    finally:
        rig.close()


def rows(table: int) -> int:
    """How many rows of a table of open files are in use."""
    data = os.pread(table, os.fstat(table).st_size, 0)
    return sum(any(data[at : at + 8]) for at in range(0, len(data), ROW))


def unmount_all(point: Path) -> None:
    """Leaves nothing behind, whatever a test has left on a mount point."""
    for _ in range(16):
        if top_mount(locate(str(point))) is None:
            return
        fuse_unmount(str(point), force=True)


class Background:
    """A call in a thread of its own."""

    def __init__(self, call: Callable[[], object]) -> None:
        self.result: object = None
        self.error: BaseException | None = None
        self._call = call
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self.result = self._call()
        except OSError as error:
            self.error = error

    def get(self) -> object:
        """Its result, or raises what it raised."""
        self._thread.join(WAIT_S)
        assert not self._thread.is_alive(), "it hangs"
        if self.error is not None:
            raise self.error
        return self.result


def python(script: str, *args: object, **kwargs: object) -> subprocess.Popen[bytes]:
    """Runs a script of this folder with the package importable."""
    path = os.pathsep.join(filter(None, [str(SRC), os.environ.get("PYTHONPATH", "")]))
    return subprocess.Popen(
        [sys.executable, str(HERE / script), *map(str, args)],
        env={**os.environ, "PYTHONPATH": path},
        **kwargs,  # type: ignore[call-overload]
    )
