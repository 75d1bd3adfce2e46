"""Makes files fail under a process: the k-th call, with an error, in part, late; and clocks jump.

`shim.c` is built with `cc` when it is wanted and loaded into the process by LD_PRELOAD. Both share
a mapped file, so faults go on and off while the process runs, and it says how many calls there
were.
"""

from __future__ import annotations

import errno
import hashlib
import mmap
import os
import shutil
import struct
import subprocess
import sysconfig
import tempfile
from enum import IntEnum
from pathlib import Path
from typing import Final, NamedTuple

SOURCE: Final = Path(__file__).with_name("shim.c")
TORN_EXIT: Final = 99
"""Exit code of a process whose fault was to end in the middle of a call."""

_MAGIC: Final = 0x46464431
_TEXT: Final = 1024
_HEAD: Final = struct.Struct("=6I6Q7QQIIq")
_BYTES: Final = _HEAD.size + 3 * _TEXT
_ARMED: Final = 4
_FAULT: Final = 8
_DELAY: Final = 32
_CLOCK: Final = _HEAD.size - 8


class Op(IntEnum):
    """Kinds of calls; of opens only those that may make a file."""

    WRITE = 0
    SYNC = 1
    OPEN = 2
    RENAME = 3
    TRUNCATE = 4
    ALLOCATE = 5
    READ = 6


class Kind(IntEnum):
    """What a call gets."""

    ERROR = 1
    SHORT = 2
    """Half of the bytes."""
    TORN = 3
    """Half of the bytes, and then the process has ended."""


class Fault(NamedTuple):
    """Which calls get what."""

    kind: Kind
    at: int
    """Number of the call among those meant, from 1."""
    ops: tuple[Op, ...] = (Op.WRITE, Op.SYNC)
    error: int = errno.EIO
    sticky: bool = False
    """All calls behind that one as well."""
    match: str = ""
    """Only of files with this in their path."""


class Counts(NamedTuple):
    """What the process has done since the last `reset`."""

    seen: int
    """Calls that the fault's `ops` and `match` describe."""
    hits: int
    """Faults given."""
    again: int
    """Writes and syncs of the file that had the first fault, behind it."""
    held: int
    """Syncs that wait because of `slow` at this moment."""
    calls: dict[Op, int]
    """All calls below the directory."""
    failed: str
    """Path of the first fault; "" without one."""
    failed_op: Op


class Shim:
    """Faults for all processes that are started with `environment`, in files below `root`."""

    def __init__(self, root: Path, control: Path) -> None:
        """Makes the file `control`, which must not be below `root`."""
        self._root, self._control = root.resolve(), control.resolve()
        with self._control.open("w+b") as file:
            file.truncate(_BYTES)
            self._map = mmap.mmap(file.fileno(), _BYTES)
        self.reset()

    def __enter__(self) -> Shim:
        return self

    def __exit__(self, *_: object) -> None:
        self._map.close()

    def environment(self) -> dict[str, str]:
        """To be added to that of the process."""
        return {"LD_PRELOAD": str(library()), "FILE_FAULTS": str(self._control)}

    def reset(self) -> None:
        """No fault, no delay, the right time, nothing counted."""
        self._map[:_HEAD.size] = _HEAD.pack(_MAGIC, *[0] * (_HEAD_FIELDS - 1))
        for number, text in enumerate((str(self._root), "", "")):
            self._write_text(number, text)

    def arm(self, fault: Fault) -> None:
        """From now on; counting begins anew, and no delay is left."""
        ahead = self._map[_CLOCK : _CLOCK + 8]
        self.reset()
        self._map[_CLOCK : _CLOCK + 8] = ahead
        ops = sum(1 << op for op in fault.ops)
        self._write_text(1, fault.match)
        struct.pack_into(
            "=4IQ", self._map, _FAULT, ops, fault.kind, fault.error, fault.sticky, fault.at
        )
        struct.pack_into("=I", self._map, _ARMED, 1)

    def disarm(self) -> None:
        """No fault from now on; the counts stay."""
        struct.pack_into("=I", self._map, _ARMED, 0)

    def slow(self, delay_ms: int) -> None:
        """Every sync takes so much longer from now on; 0: none does, those that wait included."""
        struct.pack_into("=Q", self._map, _DELAY, delay_ms)

    def clock(self, ahead_ms: int) -> None:
        """From now on the wall clock of the process is ahead by so much, or behind if negative."""
        struct.pack_into("=q", self._map, _CLOCK, ahead_ms)

    def counts(self) -> Counts:
        """See Counts."""
        found = _HEAD.unpack_from(self._map)
        seen, hits, again, held = found[8:12]
        calls = {op: found[12 + op] for op in Op}
        text = self._map[_HEAD.size + 2 * _TEXT : _BYTES]
        failed = text[: text.index(0)].decode()
        return Counts(seen, hits, again, held, calls, failed, Op(found[-3]))

    def _write_text(self, number: int, text: str) -> None:
        data = text.encode()
        if len(data) >= _TEXT:
            raise ValueError(f"longer than {_TEXT} bytes: {text}")
        at = _HEAD.size + number * _TEXT
        self._map[at : at + _TEXT] = data.ljust(_TEXT, b"\0")


_HEAD_FIELDS: Final = len(_HEAD.unpack(bytes(_HEAD.size)))


def library() -> Path:
    """The built shim, one for each version of its source. Raises OSError without a C compiler."""
    source = SOURCE.read_bytes()
    name = f"dfs-shim-{os.getuid()}-{hashlib.sha256(source).hexdigest()[:16]}.so"
    built = Path(tempfile.gettempdir()) / name
    if built.exists() and built.stat().st_uid == os.getuid():
        return built
    compiler = shutil.which("cc") or (sysconfig.get_config_var("CC") or "").split(" ")[0]
    if not compiler:
        raise OSError("no C compiler: install one, for example by `apt-get install gcc`")
    partial = built.with_suffix(f".{os.getpid()}")
    done = subprocess.run(
        [compiler, "-shared", "-fPIC", "-O1", "-o", str(partial), str(SOURCE), "-ldl"],
        capture_output=True, text=True, check=False,
    )
    if done.returncode:
        raise OSError(f"the shim cannot be built: {done.stderr.strip()}")
    partial.replace(built)
    return built
