"""What the kernel lets this process do."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Final

CAP_SYS_ADMIN: Final = 21


def may_administrate() -> bool:
    """Whether we have CAP_SYS_ADMIN: to mount, and to name files that the kernel reads itself. True
    when that cannot be told: then the call that needs it finds out."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
            name, _, value = line.partition(":")
            if name == "CapEff":
                return bool(int(value, 16) >> CAP_SYS_ADMIN & 1)
    return True
