"""Answers to reads that an engine in memory may give again."""

from collections.abc import Sequence


class KeptAnswers:
    """By method and body; without a bound. See `_engine.Engine.step`."""

    def __init__(self) -> None:
        self._known: dict[tuple[int, bytes], bytes] = {}
        self._gone = 0
        self._closed = False

    def find(self, method: int, body: bytes) -> bytes | None:
        """The answer to such a read, if it is known."""
        return self._known.get((method, body))

    def keep(self, call_id: int, method: int, body: bytes, answer: bytes) -> None:
        """Keeps it, unless the call is older than the last `forget_all`."""
        if call_id > self._gone and not self._closed:
            self._known[method, body] = answer

    def change(self, changed: Sequence[tuple[int, bytes, bytes | None]]) -> None:
        """Puts these (method, body, answer) right."""
        for method, body, answer in changed:
            if answer is None or self._closed:
                self._known.pop((method, body), None)
            else:
                self._known[method, body] = answer

    def forget_all(self, last: int, for_good: bool) -> None:
        """Forgets all; answers to calls with an id up to `last` are not kept any more."""
        self._known, self._gone = {}, last
        self._closed |= for_good
