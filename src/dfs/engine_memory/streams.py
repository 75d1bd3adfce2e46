"""Streamed answers of an engine in memory, and their callers as a test holds them."""

from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from threading import Condition

from .network import Failure, Result


class StreamedCall:
    """A caller of a method that answers by a stream. Any thread."""

    def __init__(self, changed: Condition, news: Callable[[bool], None], bytes_max: int) -> None:
        """`news`: hears that there is room again (True), or that the caller is gone (False)."""
        self.ended: Future[Result] = Future()
        """How it ended: b"" or a failure."""
        self.gone = False
        self._changed, self._news, self._bytes_max = changed, news, bytes_max
        self._messages: deque[bytes] = deque()
        self._untaken = 0
        self._full = False

    def take(self, timeout_s: float = 10.0) -> bytes | None:
        """The next message, when it is there; None at the end. Raises TimeoutError."""
        with self._changed:
            if not self._changed.wait_for(self._something, timeout_s):
                raise TimeoutError(f"no message within {timeout_s} s")
            if not self._messages:
                return None
            message = self._messages.popleft()
            self._untaken -= len(message)
            if self._full and self._untaken <= self._bytes_max // 2:
                self._full = False
                self._news(True)
            return message

    def cancel(self) -> None:
        """The caller goes."""
        with self._changed:
            self.gone = True
            self._news(False)

    def put(self, message: bytes) -> int:
        """Bytes that wait if those are too many, 0 if not, -1 if there is no caller."""
        if self.gone:
            return -1
        self._messages.append(message)
        self._untaken += len(message)
        self._full = self._untaken > self._bytes_max
        self._changed.notify_all()
        return self._untaken if self._full else 0

    def end(self, result: Result) -> None:
        """No message follows. A successful result is one itself, if it is not empty."""
        if isinstance(result, bytes):
            if result:
                self.put(result)
            result = b""
        if not self.ended.done():
            self.ended.set_result(result)
        self._changed.notify_all()

    def _something(self) -> bool:
        return bool(self._messages) or self.ended.done()


class Streams:
    """All of one engine, by call id. Its condition is held where none of its own is taken."""

    def __init__(self, changed: Condition, bytes_max: int) -> None:
        self._changed, self._bytes_max = changed, bytes_max
        self._open: dict[int, StreamedCall] = {}
        self._news: list[tuple[int, bool]] = []

    def open(self, call_id: int) -> StreamedCall:
        """A call that is answered under this id."""

        def news(room: bool) -> None:
            self._news.append((call_id, room))
            self._changed.notify_all()

        self._open[call_id] = StreamedCall(self._changed, news, self._bytes_max)
        return self._open[call_id]

    def send(self, calls: Sequence[int], message: bytes) -> list[tuple[int, int]]:
        """See `_engine.Engine.send`."""
        news = []
        for call_id in calls:
            call = self._open.get(call_id)
            waits = call.put(message) if call else -1
            if waits < 0:
                self._open.pop(call_id, None)
            if waits:
                news.append((call_id, waits))
        return news

    def end(self, call_id: int, result: Result) -> None:
        """Ends the answer under this id, if there is one."""
        if call := self._open.pop(call_id, None):
            call.end(result)

    def heard(self) -> list[tuple[int, bool]]:
        """What `step` tells, once."""
        news, self._news = self._news, []
        known = []
        for call_id, room in news:
            if call_id in self._open:
                known.append((call_id, room))
                if not room:
                    del self._open[call_id]
        return known

    def close(self, failure: Failure) -> None:
        """Ends all."""
        for call_id in list(self._open):
            self.end(call_id, failure)
