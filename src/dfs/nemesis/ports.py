"""Free ports of loopback."""

from __future__ import annotations

import contextlib
import itertools
import os
import socket
from typing import Final

from ..config import LOOPBACK
from ..errors import Misconfigured

FIRST: Final = 10_000
LAST: Final = 32_000
"""Below the range from which the kernel takes the ports of outgoing connections: one of those could
come between the choice and the use."""

_candidates = itertools.count(os.getpid() * 61 % (LAST - FIRST))


def free_port() -> int:
    """A port of loopback that nobody listens on and that no other call in this process got."""
    for number in itertools.islice(_candidates, LAST - FIRST):
        port = FIRST + number % (LAST - FIRST)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind((LOOPBACK, port))
            return port
    raise Misconfigured("no free port on loopback")


def free_ports(count: int) -> list[int]:
    """So many different ones."""
    return [free_port() for _ in range(count)]
