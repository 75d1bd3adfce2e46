"""A file that somebody writes for longer than the agent waits between its looks."""

from __future__ import annotations

import ctypes
import mmap
import os
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from dfs.cache.pending import Drop, Pending
from dfs.limits import INLINE_BYTES_MAX

from .cache_rig import Rig, wait_until

RETRY_MS = 8
"""Between looks at a file that somebody writes, at most: after three of them."""
PARTS = 8
Write = Callable[[bytes], object]
_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = [
    ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long
]
_libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]


@contextmanager
def holding_it_open(file: Path, size: int) -> Iterator[Write]:
    """What is written is in the file at once."""
    with file.open("wb", buffering=0) as opened:
        yield opened.write


@contextmanager
def mapping_it(file: Path, size: int) -> Iterator[Write]:
    """The file is closed: nothing but the mapping is left. (`mmap.mmap` keeps a descriptor.)"""
    with file.open("w+b") as opened:
        opened.truncate(size)
        access = mmap.PROT_READ | mmap.PROT_WRITE
        at = _libc.mmap(None, size, access, mmap.MAP_SHARED, opened.fileno(), 0)
    assert at != ctypes.c_void_p(-1).value, os.strerror(ctypes.get_errno())
    opened_here = [os.path.realpath(link) for link in Path("/proc/self/fd").iterdir()]
    assert os.path.realpath(file) not in opened_here
    written = 0

    def write(data: bytes) -> None:
        nonlocal written
        ctypes.memmove(at + written, data, len(data))
        written += len(data)

    try:
        yield write
    finally:
        assert _libc.munmap(at, size) == 0


@pytest.fixture
def refused(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each file was not taken because somebody writes it. Scans, and looks at such files,
    are as frequent as in minutes otherwise."""
    monkeypatch.setattr("dfs.cache.watcher.RESCAN_INTERVAL_S", 0.02)
    monkeypatch.setattr("dfs.cache.pending.LEASE_RETRY_MS_MAX", RETRY_MS)
    count, busy = Counter[str](), Pending.busy

    def counting(self: Pending, drop: Drop) -> None:
        count[drop.path] += 1
        busy(self, drop)

    monkeypatch.setattr(Pending, "busy", counting)
    return count


@pytest.mark.parametrize("before", [b"", b"the version before"], ids=["fresh", "replaced"])
@pytest.mark.parametrize("size", [PARTS * 4_096, INLINE_BYTES_MAX + PARTS], ids=["small", "large"])
@pytest.mark.parametrize("writing", [holding_it_open, mapping_it])
async def test_nothing_of_a_file_is_stored_however_long_it_is_being_written(
    tmp_path: Path, refused: Counter[str], before: bytes, size: int,
    writing: Callable[[Path, int], AbstractContextManager[Write]],
) -> None:
    """Scan after scan finds it and look after look is refused, while a writer has it open, or has
    nothing but a mapping of it, and writes it part by part: the tree keeps what it had until the
    writer is done, and has all of it then."""
    data = os.urandom(size)
    parts = [data[i * size // PARTS : (i + 1) * size // PARTS] for i in range(PARTS)]
    async with Rig(tmp_path) as rig:
        watcher = rig.agent.watcher
        assert watcher is not None
        if before:
            rig.drop("slow", before)
            await rig.shown("slow", before)
        with writing(rig.cache / "slow", size) as write:
            for part in parts:
                write(part)
                scans, looks = watcher.scans + 3, refused["slow"] + 8
                await wait_until("it is scanned again", lambda n=scans: watcher.scans >= n)
                await wait_until("it is looked at again", lambda n=looks: refused["slow"] >= n)
                assert rig.versions("slow") == ([before] if before else [])
                assert rig.shows("slow", before) if before else "slow" not in rig.tree.shown
            drop = rig.agent.uploader.pending.drops["slow"]
            assert rig.agent.uploader.why(drop) == "somebody has it open for writing"
        await rig.settled()
        assert await rig.read("slow") == data
        assert len(rig.versions("slow")) == (2 if before else 1)
