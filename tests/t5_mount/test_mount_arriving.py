"""Files of which only some chunks are here, through the kernel; the test is who fetches them."""

from __future__ import annotations

import errno
import mmap
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dfs.sealing import seal

from .mount_rig import (
    WAIT_S,
    Background,
    Rig,
    fails_with,
    mounted,
    needs_fuse,
    unmount_all,
    wait_until,
)
from .telling import digest_of
from .test_mount_supervisor import DIED, Site

pytestmark = needs_fuse

CHUNK = 4 << 20
CHUNKS = 4
DATA = os.urandom((CHUNKS - 1) * CHUNK + 12_345)
MODES = pytest.mark.parametrize(
    "options", [{}, {"passthrough": 0}, {"no_open": 1}], ids=["passthrough", "read", "no-open"]
)


class Coming:
    """A content whose chunks come when the test says so. Misses are answered meanwhile."""

    def __init__(self, rig: Rig, path: str, data: bytes = DATA) -> None:
        self.rig, self.path, self.data = rig, path, data
        self.version = rig.put(path, data, here=False)
        self.file = rig.objects / f"{self.version}.part"
        with self.file.open("wb") as file:
            file.truncate(len(data))
        with self.file.open("rb") as file:
            self.part = rig.tree.part(path, self.version, file.fileno(), len(data), CHUNK)
        self.here: set[int] = set()
        self.waiting: list[tuple[int, int, int]] = []
        """Misses of chunks: (miss, first, behind the last one)."""

    def bring(self, *numbers: int) -> None:
        """These chunks come."""
        for number in numbers:
            with self.file.open("r+b") as file:
                file.seek(number * CHUNK)
                file.write(self.data[number * CHUNK : (number + 1) * CHUNK])
            self.part.mark(number)
            self.here.add(number)

    def serve(self) -> None:
        """Answers the misses that can be answered now."""
        for miss, path, version, first, upto in self.rig.tree.next_misses(9, 10):
            assert (path, version) == (self.path, self.version)
            self.waiting.append((miss, first, upto))
        for miss in [w for w in self.waiting if self.here.issuperset(range(w[1], w[2]))]:
            self.waiting.remove(miss)
            self.rig.tree.fulfil(miss[0], self.part)  # Its deadline may have passed.

    def get(self, call: Callable[[], Any]) -> Any:
        """What a program gets, while misses are answered."""
        running, end = Background(call), time.monotonic() + WAIT_S
        while running._thread.is_alive():
            self.serve()
            assert time.monotonic() < end, f"it hangs, waiting for {self.waiting}"
        return running.get()

    def whole(self) -> None:
        """All of it is here: a file like others."""
        self.bring(*range(CHUNKS))
        seal(self.file)
        place = digest_of(self.path, self.version), str(self.file)
        assert self.rig.tree.place_contents([place]) == 1


def opened(path: Path) -> int:
    return os.open(path, os.O_RDONLY)


def piece(fd: int, offset: int, length: int = 100) -> bytes:
    return os.pread(fd, length, offset)


@MODES
def test_a_read_waits_for_its_own_chunks_only(tmp_path: Path, options: dict[str, int]) -> None:
    """A large file that is not here is open at once, and each read of it waits only for the chunks
    that it covers, whatever else is still on its way."""
    with mounted(tmp_path, **options) as rig:
        coming = Coming(rig, "d/large")
        coming.bring(0)
        fd = coming.get(lambda: opened(rig.at("d/large")))
        assert coming.get(lambda: piece(fd, 0)) == DATA[:100]
        last = Background(lambda: piece(fd, (CHUNKS - 1) * CHUNK + 5))
        wait_until(lambda: coming.serve() or coming.waiting)
        assert coming.waiting[0][1:] == (CHUNKS - 1, CHUNKS), "that one is wanted"
        coming.bring(CHUNKS - 1)
        coming.serve()
        assert last.get() == DATA[(CHUNKS - 1) * CHUNK + 5 :][:100]
        assert coming.here == {0, CHUNKS - 1}
        coming.bring(1, 2)
        assert coming.get(rig.at("d/large").read_bytes) == DATA
        os.close(fd)


@MODES
def test_a_read_across_two_chunks_has_both(tmp_path: Path, options: dict[str, int]) -> None:
    with mounted(tmp_path, **options) as rig:
        coming = Coming(rig, "f")
        fd = coming.get(lambda: opened(rig.at("f")))
        across = Background(lambda: piece(fd, CHUNK - 50))
        wait_until(lambda: coming.serve() or coming.waiting)
        coming.bring(0)
        coming.serve()
        coming.bring(1)
        assert coming.get(across.get) == DATA[CHUNK - 50 :][:100]
        os.close(fd)


def test_when_all_is_here_and_it_was_closed_the_kernel_reads_by_itself(tmp_path: Path) -> None:
    """While it is open from before, later opens are served as that one is: the kernel forbids
    anything else."""
    with mounted(tmp_path) as rig:
        coming = Coming(rig, "f")
        coming.bring(0)
        fd = coming.get(lambda: opened(rig.at("f")))
        assert rig.tree.stats()["open_arriving"] == 1
        coming.whole()
        other = opened(rig.at("f"))
        assert rig.tree.stats()["open_passthrough"] == 0
        assert [piece(at, 2 * CHUNK) for at in (fd, other)] == [DATA[2 * CHUNK :][:100]] * 2
        assert coming.part.used()
        os.close(fd)
        os.close(other)
        wait_until(lambda: rig.tree.stats()["open"] == 0)
        assert not coming.part.used()
        fd = opened(rig.at("f"))
        assert rig.tree.stats()["open_passthrough"] == rig.tree.stats()["passthrough"]
        assert piece(fd, CHUNK) == DATA[CHUNK:][:100]
        os.close(fd)


@MODES
def test_a_version_that_is_replaced_is_read_on(tmp_path: Path, options: dict[str, int]) -> None:
    """Who has a large file open that is still on its way reads on what was opened, though the file
    was replaced or removed meanwhile."""
    with mounted(tmp_path, **options) as rig:
        coming = Coming(rig, "f")
        fd = coming.get(lambda: opened(rig.at("f")))
        coming.bring(0)
        assert coming.get(lambda: piece(fd, 0)) == DATA[:100]
        rig.put("f", b"new")
        assert rig.at("f").read_bytes() == b"new"
        coming.bring(2)
        assert coming.get(lambda: piece(fd, 2 * CHUNK)) == DATA[2 * CHUNK :][:100]
        rig.delete("f")
        coming.bring(1, 3)
        assert coming.get(lambda: b"".join(
            piece(fd, at, 1 << 20) for at in range(0, len(DATA), 1 << 20)
        )) == DATA
        os.close(fd)


@MODES
def test_a_file_that_comes_can_be_mapped(tmp_path: Path, options: dict[str, int]) -> None:
    with mounted(tmp_path, **options) as rig:
        coming = Coming(rig, "f")
        fd = coming.get(lambda: opened(rig.at("f")))
        with mmap.mmap(fd, 0, prot=mmap.PROT_READ) as mapped:
            os.close(fd)
            coming.bring(3)
            # A page fault does not let go of the interpreter: it must be here by then.
            assert coming.get(lambda: os.pread(opened(rig.at("f")), 9, 3 * CHUNK))
            assert mapped[3 * CHUNK :] == DATA[3 * CHUNK :]
            coming.bring(0, 1, 2)
            assert mapped[:] == DATA


@MODES
def test_the_deadline_is_that_of_each_read(tmp_path: Path, options: dict[str, int]) -> None:
    """A read of chunks that do not come ends with ETIMEDOUT at its deadline; the file stays open,
    and what is here of it is read."""
    with mounted(tmp_path, deadline_ms=400, **options) as rig:
        coming = Coming(rig, "f")
        coming.bring(0)
        fd = coming.get(lambda: opened(rig.at("f")))
        assert coming.get(lambda: piece(fd, 0)) == DATA[:100]
        with pytest.raises(TimeoutError):
            coming.get(lambda: piece(fd, 2 * CHUNK))
        assert coming.get(lambda: piece(fd, 1_000)) == DATA[1_000:][:100]
        coming.bring(2)
        assert coming.get(lambda: piece(fd, 2 * CHUNK)) == DATA[2 * CHUNK :][:100]
        os.close(fd)


def test_a_chunk_that_is_not_to_be_had_is_an_error_of_its_readers_alone(tmp_path: Path) -> None:
    with mounted(tmp_path) as rig:
        coming = Coming(rig, "f")
        coming.bring(0)
        fd = coming.get(lambda: opened(rig.at("f")))
        reader = Background(lambda: piece(fd, CHUNK))
        wait_until(lambda: coming.serve() or coming.waiting)
        for miss, _, _ in coming.waiting:
            rig.tree.fulfil(miss, errno.EHOSTUNREACH)
        with fails_with(errno.EHOSTUNREACH):
            coming.get(reader.get)
        assert piece(fd, 0) == DATA[:100]
        os.close(fd)


def test_a_part_of_another_size_is_refused(tmp_path: Path) -> None:
    with mounted(tmp_path) as rig:
        coming = Coming(rig, "f")
        other = Coming(rig, "g", DATA[:-1])
        reader = Background(lambda: opened(rig.at("f")))
        assert rig.tree.fulfil(rig.miss()[0], other.part)
        with fails_with(errno.EIO):
            reader.get()
        with pytest.raises(ValueError, match="there is no chunk 4"):
            coming.part.mark(CHUNKS)
        with coming.file.open("rb") as file, pytest.raises(OSError, match="has not the size"):
            rig.tree.part("f", 1, file.fileno(), 9, CHUNK)
        with pytest.raises(OSError, match="Bad file descriptor"):
            rig.tree.part("f", 1, -1, 9, CHUNK)


def on_its_way(tmp_path: Path, request: pytest.FixtureRequest) -> tuple[Site, bytes]:
    """A mount with agents that are replaced, where a file is on its way; and what it will have."""
    site = Site(tmp_path)
    request.addfinalizer(lambda: unmount_all(site.point))
    request.addfinalizer(site.supervisor.stop)
    data = os.urandom(3 << 20)
    (site.objects / ".coming").write_bytes(data)
    site.supervisor.start()
    return site, data


@pytest.mark.allow_logs(DIED)
def test_killed_agents_are_not_noticed_by_who_reads_what_is_on_its_way(
    tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """When an agent is killed, who has a large file open that is not whole yet, or waits for a part
    of it, goes on with the next one, without an error."""
    site, data = on_its_way(tmp_path, request)
    with (site.point / "coming").open("rb", buffering=0) as file:
        assert file.read(100) == data[:100]
        late = Background(lambda: os.pread(file.fileno(), 100, 2 << 20))
        for _ in range(2):
            site.wait_for_another(site.kill())
            assert os.pread(file.fileno(), 100, 900_000) == data[900_000:][:100]
        with (site.point / "coming").open("rb", buffering=0) as other:
            assert other.read(100) == data[:100]
        (site.objects / ".late").touch()
        assert late.get() == data[2 << 20 :][:100]
        assert file.read() == data[100:]


@pytest.mark.allow_logs(DIED)
def test_the_next_agent_goes_on_with_what_was_replaced_on_its_way(
    tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    site, data = on_its_way(tmp_path, request)
    with (site.point / "coming").open("rb", buffering=0) as file:
        assert file.read(100) == data[:100]
        late = Background(lambda: os.pread(file.fileno(), 100, 2 << 20))
        (site.objects / ".replaced").touch()
        for _ in range(2):
            site.wait_for_another(site.kill())
            assert os.pread(file.fileno(), 100, 900_000) == data[900_000:][:100]
        assert (site.point / "coming").read_bytes() == b"", "the new one"
        (site.objects / ".late").touch()
        assert late.get() == data[2 << 20 :][:100]
        assert file.read() == data[100:]
