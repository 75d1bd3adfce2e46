"""The blocking client's watch."""

from __future__ import annotations

import contextlib
import threading
import time
import weakref
from collections.abc import Callable
from typing import Any, Protocol

import grpc

from ..errors import DfsError, Unavailable
from ..proto import dfs_pb2 as pb
from . import streams
from .faults import Fault, fault_of
from .session import Session
from .streams import WATCH_SILENCE_S, Lost, Watching
from .values import Update


class Connections(Protocol):
    """What a watch needs of its client."""

    _session: Session

    def _method(
        self, endpoint: str, name: str, parse: Callable[[bytes], Any], shape: str
    ) -> Any: ...

    def _answered(self, endpoint: str, revision: int) -> None: ...

    def _learn(self, endpoint: str) -> None: ...


class Watch:
    """An iterator of `Update`. Use it in one thread; `close` may be called from any."""

    def __init__(self, client: Connections, watching: Watching, on_lost: Lost | None) -> None:
        self._client, self._watching, self._on_lost = client, watching, on_lost
        self._stream: Any = None
        self._endpoint = ""
        self._heard_s = time.monotonic()
        self._silent = self._waiting = False
        self._end = threading.Event()
        self._guard: threading.Thread | None = None

    def __iter__(self) -> Watch:
        return self

    def __enter__(self) -> Watch:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()

    def close(self) -> None:
        """Ends the watch: a waiting `next` raises StopIteration. Idempotent."""
        self._end.set()
        if (stream := self._stream) is not None:
            stream.cancel()

    def __next__(self) -> Update:
        client = self._client
        while not self._end.is_set():
            if self._stream is None:
                self._open()
            self._heard_s, self._waiting = time.monotonic(), True
            try:
                answer = next(self._stream)
            except StopIteration:
                why = Fault(Unavailable(f"{self._endpoint} ended the watch"), 0.0, True)
            except grpc.RpcError as error:
                why = fault_of(error, self._endpoint, False)
                if self._silent:
                    text = f"nothing heard from {self._endpoint} for {WATCH_SILENCE_S:.0f} s"
                    why = Fault(Unavailable(text), 0.0, False)
            else:
                client._answered(self._endpoint, answer.revision)
                return self._watching.take(answer)
            finally:
                self._waiting = False
            if not self._end.is_set():
                self._lost(why)
        raise StopIteration

    def _open(self) -> None:
        client = self._client
        self._endpoint = client._session.current()
        method = client._method(
            self._endpoint, streams.WATCH, pb.WatchResponse.FromString, "unary_stream"
        )
        self._silent = False
        self._stream = method(self._watching.request())
        if self._end.is_set():
            self._stream.cancel()
        if self._guard is None:
            self._guard = threading.Thread(
                target=_guard, args=(weakref.ref(self), self._end), name="dfs-watch", daemon=True
            )
            self._guard.start()

    def _lost(self, why: Fault) -> None:
        session = self._client._session
        self._stream = None
        if session.failed(self._endpoint, why, time.monotonic()):
            self._client._learn(self._endpoint)
        try:
            wait_s = self._watching.failed(
                why, session.contact, time.monotonic(), len(session.endpoints)
            )
        except DfsError as error:
            raise error from None
        if self._on_lost is not None:
            self._on_lost(why.error)
        self._end.wait(wait_s)

    def _check(self) -> None:
        """Gives a stream up that has been silent for too long while its user waited."""
        stream = self._stream
        silence_s = time.monotonic() - self._heard_s
        if stream is not None and self._waiting and silence_s > WATCH_SILENCE_S:
            self._silent = True
            stream.cancel()


def _guard(watch: weakref.ref[Watch], end: threading.Event) -> None:
    """Looks after one watch; holds no reference to it, so that a forgotten one ends."""
    while not end.wait(WATCH_SILENCE_S / 5):
        if (found := watch()) is None:
            return
        with contextlib.suppress(ValueError):
            found._check()
        del found
