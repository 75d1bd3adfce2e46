"""Ports for the servers of tests."""

from __future__ import annotations

import contextlib
import itertools
import os
import socket

FIRST, LAST = 10_000, 32_000
"""Below the range from which the kernel takes the ports of outgoing connections: one of those could
come between the choice and the use."""

_candidates = itertools.count(os.getpid() * 61 % (LAST - FIRST))


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on and that no other call in this process got."""
    for number in itertools.islice(_candidates, LAST - FIRST):
        port = FIRST + number % (LAST - FIRST)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise AssertionError("no free port")


def free_ports(count: int) -> list[int]:
    """So many different ones."""
    return [free_port() for _ in range(count)]
