"""Directories of this machine that somebody may have mounted something on."""

from __future__ import annotations

import os


def real_place(path: str) -> str:
    """The real path of a place, without touching what is mounted there or following a link that it
    is itself: of a mount that nobody serves, whoever looks hangs."""
    return os.path.join(os.path.realpath(os.path.dirname(path)), os.path.basename(path))
