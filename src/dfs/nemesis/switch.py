"""The network between the nodes: a program that carries each packet, or does not.

Every node has a network namespace with one TUN device, and this process reads and writes all of
them. So each direction of each link can be cut, lose, delay, reorder, repeat and throttle packets
without any help of the kernel's.

    python -m dfs.nemesis.switch CONTROL SEED DESCRIPTOR=ADDRESS …

CONTROL is the descriptor of a socket. It takes one line of JSON at a time, a list of rules
[from, to, {"blocked", "loss", …}] that replaces the one before, and answers each with a line of
counts. The process ends when the socket does.
"""

from __future__ import annotations

import heapq
import json
import logging
import os
import random
import select
import socket
import sys
import time
from dataclasses import asdict, dataclass, fields
from typing import Any, Final

log = logging.getLogger("dfs.nemesis")
PACKET_BYTES_MAX: Final = 65_535
PACKETS_A_TURN: Final = 64
"""Of one node, before the others have theirs."""
SOURCE, DESTINATION = slice(12, 16), slice(16, 20)
"""Of an IPv4 header (RFC 791, 3.1)."""
IPV4: Final = 4
QUEUE_MS_MAX: Final = 2_000.0
"""What would wait longer for its turn on a slow link is dropped, as routers do."""


@dataclass(frozen=True)
class Rule:
    """What one direction of a link does to packets."""

    blocked: bool = False
    loss: float = 0.0
    """Chance of a packet to vanish."""
    repeat: float = 0.0
    """Chance of a packet to arrive twice."""
    delay_ms: float = 0.0
    jitter_ms: float = 0.0
    """Up to so much more, for each packet anew: later ones overtake."""
    bytes_s: float = 0.0
    """Throughput; 0 = no limit."""


@dataclass
class Counts:
    """Of packets, since the start."""

    passed: int = 0
    blocked: int = 0
    lost: int = 0
    repeated: int = 0
    delayed: int = 0
    overflowed: int = 0


Link = tuple[bytes, bytes]


class Fabric:
    """Decides when a packet arrives. Knows neither sockets nor clocks."""

    def __init__(self, seed: int) -> None:
        self._chance = random.Random(seed)
        self._rules: dict[Link, Rule] = {}
        self._free_s: dict[Link, float] = {}
        """When a throttled link has sent all that it was given."""
        self.counts = Counts()

    def rule(self, rules: dict[Link, Rule]) -> None:
        """These rules instead of those before; a link without one just passes packets on."""
        self._rules = rules
        self._free_s.clear()

    def arrivals(self, link: Link, size: int, now_s: float) -> list[float]:
        """When a packet that was sent now arrives: never, once or twice."""
        rule = self._rules.get(link)
        if rule is None:
            self.counts.passed += 1
            return [now_s]
        if rule.blocked:
            self.counts.blocked += 1
            return []
        if self._chance.random() < rule.loss:
            self.counts.lost += 1
            return []
        sent_s = now_s
        if rule.bytes_s:
            sent_s = max(self._free_s.get(link, now_s), now_s)
            if (sent_s - now_s) * 1000 > QUEUE_MS_MAX:
                self.counts.overflowed += 1
                return []
            sent_s += size / rule.bytes_s
            self._free_s[link] = sent_s
        times = 1
        if self._chance.random() < rule.repeat:
            self.counts.repeated += 1
            times = 2
        found = [
            sent_s + (rule.delay_ms + self._chance.random() * rule.jitter_ms) / 1000
            for _ in range(times)
        ]
        self.counts.passed += 1
        self.counts.delayed += found[0] > now_s
        return found


class Switch:
    """Carries packets until its control socket is closed."""

    def __init__(self, control: socket.socket, fabric: Fabric, ports: dict[bytes, int]) -> None:
        self._control, self._fabric, self._ports = control, fabric, ports
        self._addresses = {descriptor: address for address, descriptor in ports.items()}
        self._waiting: list[tuple[float, int, int, bytes]] = []
        self._count = 0
        self._lines = b""

    def run(self) -> None:
        """Returns when nobody controls it any more."""
        poll = select.epoll()
        poll.register(self._control.fileno(), select.EPOLLIN)
        for descriptor in self._addresses:
            os.set_blocking(descriptor, False)
            poll.register(descriptor, select.EPOLLIN)
        while True:
            for descriptor, _ in poll.poll(self._pause_s()):
                if descriptor in self._addresses:
                    self._carry(descriptor)
                elif not self._obey():
                    return
            self._deliver()

    def _pause_s(self) -> float:
        return max(self._waiting[0][0] - time.monotonic(), 0.0) if self._waiting else -1

    def _carry(self, descriptor: int) -> None:
        for _ in range(PACKETS_A_TURN):
            try:
                packet = os.read(descriptor, PACKET_BYTES_MAX)
            except BlockingIOError:
                return
            to = self._ports.get(packet[DESTINATION])
            if packet[0] >> 4 != IPV4 or to is None:
                continue  # the kernel's own: router solicitations and the like
            now_s = time.monotonic()
            link = (packet[SOURCE], packet[DESTINATION])
            for at_s in self._fabric.arrivals(link, len(packet), now_s):
                if at_s <= now_s:
                    _write(to, packet)
                else:
                    self._count += 1  # equal times: first come, first served
                    heapq.heappush(self._waiting, (at_s, self._count, to, packet))

    def _deliver(self) -> None:
        now_s = time.monotonic()
        while self._waiting and self._waiting[0][0] <= now_s:
            _, _, to, packet = heapq.heappop(self._waiting)
            _write(to, packet)

    def _obey(self) -> bool:
        received = self._control.recv(1 << 16)
        self._lines += received
        while b"\n" in self._lines:
            line, self._lines = self._lines.split(b"\n", 1)
            self._fabric.rule(
                {(_bytes(a), _bytes(b)): Rule(**rule) for a, b, rule in json.loads(line)}
            )
            answer = json.dumps(asdict(self._fabric.counts)) + "\n"
            self._control.sendall(answer.encode())
        return bool(received)


def _write(descriptor: int, packet: bytes) -> None:
    try:
        os.write(descriptor, packet)
    except BlockingIOError:
        pass  # its queue is full: networks drop packets then
    except OSError as error:
        # EIO: the device is down because its namespace goes away.
        log.warning("a packet could not be written: %s", error)


def _bytes(address: str) -> bytes:
    return socket.inet_aton(address)


def encode(rules: dict[tuple[str, str], Rule]) -> bytes:
    """The line that sets the rules of links between addresses."""

    def short(rule: Rule) -> dict[str, Any]:
        return {f.name: v for f in fields(rule) if (v := getattr(rule, f.name)) != f.default}

    return json.dumps([[a, b, short(rule)] for (a, b), rule in rules.items()]).encode() + b"\n"


def main(arguments: list[str]) -> None:
    """The program."""
    control, seed, *ports = arguments
    by_address = {}
    for port in ports:
        descriptor, address = port.split("=")
        by_address[_bytes(address)] = int(descriptor)
    with socket.socket(fileno=int(control)) as connection:
        Switch(connection, Fabric(int(seed)), by_address).run()


if __name__ == "__main__":
    main(sys.argv[1:])
