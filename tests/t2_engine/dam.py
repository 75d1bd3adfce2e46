"""A connection that lets so many bytes through and no more, until it is told what to do then."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress

TAKEN_BYTES = 1 << 16


class Dam:
    """Stands in front of a node's peer port, and counts what each connection brings from there."""

    def __init__(self, target: str, level: int, flip: int = -1) -> None:
        """`level`: bytes of each connection that pass at once. `flip`: the byte that arrives with
        another value."""
        host, port = target.split(":")
        self.target, self.level, self.flip = (host, int(port)), level, flip
        self.full = threading.Semaphore(0)
        """One is added for each connection that has reached the level."""
        self._opened = threading.Event()
        self._cut = False
        self._threads: list[threading.Thread] = []
        self._listener = socket.socket()
        # Else the kernel takes some MiB in advance.
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, TAKEN_BYTES)
        self._listener.bind(("127.0.0.1", 0))
        self._listener.listen()
        self.addr = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._run(self._accept)

    def open(self) -> None:
        """All that follows passes."""
        self._opened.set()

    def cut(self) -> None:
        """The connections end where they are."""
        self._cut = True
        self._opened.set()

    def close(self) -> None:
        """Ends everything."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self.cut()
        for thread in self._threads:
            thread.join()
        self._listener.close()

    def __enter__(self) -> Dam:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _run(self, work, *args: object) -> None:
        self._threads.append(threading.Thread(target=work, args=args, daemon=True))
        self._threads[-1].start()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            far = socket.socket()
            far.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, TAKEN_BYTES)
            far.connect(self.target)
            self._run(self._there, near, far)
            self._run(self._back, near, far)

    def _there(self, near: socket.socket, far: socket.socket) -> None:
        with suppress(OSError):
            while data := near.recv(TAKEN_BYTES):
                far.sendall(data)
            far.shutdown(socket.SHUT_WR)

    def _back(self, near: socket.socket, far: socket.socket) -> None:
        passed = 0
        with near, far, suppress(OSError):
            while True:
                if passed == self.level:
                    self.full.release()
                    self._opened.wait()
                if self._cut:
                    near.shutdown(socket.SHUT_RDWR)
                    far.shutdown(socket.SHUT_RDWR)
                    return
                left = self.level - passed if passed < self.level else TAKEN_BYTES
                data = bytearray(far.recv(min(left, TAKEN_BYTES)))
                if not data:
                    near.shutdown(socket.SHUT_WR)
                    return
                if passed <= self.flip < passed + len(data):
                    data[self.flip - passed] ^= 0x10
                near.sendall(data)
                passed += len(data)
