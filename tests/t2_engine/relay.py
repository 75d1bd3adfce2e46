"""A network between nodes that can hold one of them back: nothing is lost, nothing gets through. It
can also break all connections, though everybody is there."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

HELLO_ID_AT = 4 + 8 + 2 + 1 + 4 + 16
"""Where a hello names its sender: behind length, magic, protocol, purpose and the cluster."""
CHUNK_BYTES = 1 << 16


class Network:
    """All relays of a test."""

    def __init__(self) -> None:
        self.held: int | None = None
        self.sockets: set[socket.socket] = set()
        self.changed = threading.Condition()

    def hold(self, node: int | None) -> None:
        """Keeps back all that comes from or goes to this node; None = lets everything go on."""
        with self.changed:
            self.held = node
            self.changed.notify_all()

    def cut(self) -> None:
        """Ends all connections that there are."""
        with self.changed:
            for end in self.sockets:
                with suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)

    @contextmanager
    def carrying(self, *ends: socket.socket) -> Iterator[None]:
        """While these are one of its connections."""
        with self.changed:
            self.sockets.update(ends)
        try:
            yield
        finally:
            with self.changed:
                self.sockets.difference_update(ends)

    def pass_on(self, ends: set[int], source: socket.socket, target: socket.socket) -> None:
        """Carries one direction of a connection between two nodes until it ends."""
        try:
            while chunk := source.recv(CHUNK_BYTES):
                with self.changed:
                    self.changed.wait_for(lambda: self.held not in ends)
                target.sendall(chunk)
            target.shutdown(socket.SHUT_WR)
        except OSError:
            for end in (source, target):
                with suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)


class Relay:
    """Stands in front of one node's peer port."""

    def __init__(self, network: Network, node: int, target: str) -> None:
        self.network, self.node = network, node
        host, port = target.split(":")
        self.target = (host, int(port))
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.addr = f"127.0.0.1:{self.listener.getsockname()[1]}"
        self.threads: list[threading.Thread] = []
        self.start(self.accept)

    def accept(self) -> None:
        """Takes connections until the relay is closed."""
        with self.listener:
            while True:
                try:
                    taken, _ = self.listener.accept()
                except OSError:
                    return
                self.start(self.serve, taken)

    def serve(self, taken: socket.socket) -> None:
        """Learns from the first bytes who calls, then carries both directions."""
        with taken:
            try:
                hello = taken.recv(CHUNK_BYTES, socket.MSG_PEEK)
                peer = socket.create_connection(self.target)
            except OSError:
                return
            with peer, self.network.carrying(taken, peer):
                caller = int.from_bytes(hello[HELLO_ID_AT : HELLO_ID_AT + 8], "big")
                ends = {caller, self.node}
                back = self.start(self.network.pass_on, ends, peer, taken)
                self.network.pass_on(ends, taken, peer)
                back.join()

    def start(self, work: Callable[..., None], *args: object) -> threading.Thread:
        """Begins a thread that `close` waits for."""
        thread = threading.Thread(target=work, args=args, daemon=True)
        self.threads.append(thread)
        thread.start()
        return thread

    def close(self) -> None:
        """Takes no more connections, and waits for the end of those there are: nodes first."""
        self.listener.shutdown(socket.SHUT_RDWR)
        for thread in self.threads:
            thread.join()
