"""A network of namespaces that a campaign cuts, and that is gone with its process."""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from typing import Final

from ..config import LOOPBACK
from ..errors import Misconfigured
from ..limits import GRPC_PORT, RAFT_PORT
from .places import Place
from .switch import Counts, Rule, encode

SUBNET: Final = "10.77.0"
DEVICE: Final = "dfs0"
MTU: Final = 60_000
"""Large: the switch carries few packets then."""
CLONE_NEWNET: Final = 0x40000000
TUNSETIFF: Final = 0x400454CA
IFF_TUN: Final = 0x0001
IFF_NO_PI: Final = 0x1000
"""linux/if_tun.h; packets come without another header."""
STOP_S: Final = 10.0
Direction = tuple[int, int]
"""(from, to): numbers of places."""


class Network:
    """So many places, each in a namespace of its own, joined by a switch. Needs root."""

    def __init__(self, count: int, seed: int) -> None:
        self._count, self._seed = count, seed
        self._stack = ExitStack()
        self._control: socket.socket | None = None
        self.places: list[Place] = []
        self.counts = Counts()
        """As of the last rule."""

    def __enter__(self) -> Network:
        try:
            self._open()
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def rule(self, rules: dict[Direction, Rule]) -> None:
        """These rules instead of those before; in force when it returns."""
        if self._control is None:
            raise ValueError("the network is not open")
        named = {(_address(a), _address(b)): rule for (a, b), rule in rules.items()}
        self._control.sendall(encode(named))
        answer = b""
        while not answer.endswith(b"\n"):
            received = self._control.recv(1 << 16)
            if not received:
                raise OSError("the switch has ended")
            answer += received
        self.counts = Counts(**json.loads(answer))

    def cut(self, directions: Iterable[Direction]) -> None:
        """Nothing passes in these directions, all else does."""
        self.rule(dict.fromkeys(directions, Rule(blocked=True)))

    def heal(self) -> None:
        """Everything passes."""
        self.rule({})

    # ---- opening ---------------------------------------------------------------------------------

    def _open(self) -> None:
        ports = []
        for number in range(self._count):
            namespace, tun = _namespace(_address(number))
            self._stack.callback(os.close, namespace)
            self._stack.callback(os.close, tun)
            ports.append(f"{tun}={_address(number)}")
            self.places.append(
                Place(
                    f"{_address(number)}:{RAFT_PORT}", f"{LOOPBACK}:{GRPC_PORT}",
                    ("nsenter", f"--net=/proc/self/fd/{namespace}", "--"), (namespace,),
                    reachable=False, options=("-insecure", "true"),
                )
            )
        mine, its = socket.socketpair()
        with its:
            descriptors = (its.fileno(), *(int(port.split("=")[0]) for port in ports))
            switch = subprocess.Popen(
                [
                    sys.executable, "-P", "-m", "dfs.nemesis.switch", str(its.fileno()),
                    str(self._seed), *ports,
                ],
                pass_fds=descriptors,
            )
        self._stack.callback(_end, switch)
        self._control = self._stack.enter_context(mine)
        self.heal()


def everyone(count: int) -> Iterator[Direction]:
    """All directions of a network."""
    return ((a, b) for a in range(count) for b in range(count) if a != b)


def between(these: Iterable[int], those: Iterable[int]) -> list[Direction]:
    """Both directions of all links between two groups."""
    far = list(those)
    return [link for a in these for b in far for link in ((a, b), (b, a))]


def _address(number: int) -> str:
    return f"{SUBNET}.{number + 1}"


def _namespace(address: str) -> tuple[int, int]:
    """A new network namespace with a TUN device of that address: descriptors of both.

    A thread goes there and ends; nobody else of this process does.
    """
    found: list[int] = []
    failed: list[BaseException] = []

    def make() -> None:
        try:
            found.append(_unshare())
            tun = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC)
            found.append(tun)
            request = struct.pack("16sH22x", DEVICE.encode(), IFF_TUN | IFF_NO_PI)
            fcntl.ioctl(tun, TUNSETIFF, request)
            for command in (
                "link set lo up", f"addr add {address}/24 dev {DEVICE}",
                f"link set {DEVICE} mtu {MTU} up",
            ):
                subprocess.run(["ip", *command.split()], check=True, capture_output=True)
        except BaseException as error:  # boundary: raised by the caller
            failed.append(error)

    thread = threading.Thread(target=make)
    thread.start()
    thread.join()
    if failed:
        for descriptor in found:
            os.close(descriptor)
        raise Misconfigured(
            f"no network namespace can be made: {failed[0]}; this needs root, /dev/net/tun and the"
            " command `ip`"
        ) from failed[0]
    return found[0], found[1]


def _unshare() -> int:
    """Puts the calling thread into a network namespace of its own: a descriptor of that."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)


def _end(switch: subprocess.Popen[bytes]) -> None:
    try:
        switch.wait(STOP_S)
    except subprocess.TimeoutExpired:
        switch.kill()
        switch.wait()
        raise OSError("the switch did not end with its control socket") from None
