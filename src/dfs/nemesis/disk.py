"""A disk that can lose its power: an ext4 file system of its own, in a file, which stays when
something went wrong."""

from __future__ import annotations

import fcntl
import os
import struct
import subprocess
from pathlib import Path
from typing import Final

from .waiting import wait_until

DISK_BYTES: Final = 1 << 30
EXT4_IOC_SHUTDOWN: Final = 0x8004587D
"""fs/ext4/ext4.h: from here on every access fails, and nothing more reaches the device."""
NO_LOG_FLUSH: Final = 2
"""EXT4_GOING_FLAGS_NOLOGFLUSH: what was not synced is lost, names too."""


class Disk:
    """Mounted while the block lasts. Needs root and a loop device."""

    def __init__(self, image: Path, mount: Path, size: int = DISK_BYTES) -> None:
        self.image, self.mount, self.size = image, mount, size

    def __enter__(self) -> Disk:
        with self.image.open("wb") as image:
            image.truncate(self.size)
        _run("mkfs.ext4", "-q", "-F", str(self.image))
        self.mount.mkdir()
        self._mount()
        return self

    def __exit__(self, error: object, *_: object) -> None:
        _run("umount", str(self.mount))
        if error is None:
            self.image.unlink()

    def cut(self) -> None:
        """The power is gone."""
        directory = os.open(self.mount, os.O_RDONLY)
        try:
            fcntl.ioctl(directory, EXT4_IOC_SHUTDOWN, struct.pack("I", NO_LOG_FLUSH))
        finally:
            os.close(directory)

    def fill(self, free: int) -> None:
        """Leaves so many bytes free, or gives all of it back that it has taken."""
        ballast = self.mount / "ballast"
        ballast.unlink(missing_ok=True)
        found = os.statvfs(self.mount)
        taken = found.f_bavail * found.f_frsize - free
        if taken > 0:
            with ballast.open("wb") as file:
                os.posix_fallocate(file.fileno(), 0, taken)

    def restore(self) -> None:
        """The power is back: the journal is replayed, as soon as nobody has a file open any
        more."""

        def unmounted() -> bool:
            _run("umount", str(self.mount))
            return True

        wait_until(f"nobody uses {self.mount}", unmounted)
        self._mount()

    def _mount(self) -> None:
        _run("mount", "-o", "loop", str(self.image), str(self.mount))


def _run(*argv: str) -> None:
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise OSError(f"{' '.join(argv)}: {done.stderr.strip()}")
