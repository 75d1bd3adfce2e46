"""Answers to reads that an engine in memory may give again."""

from collections.abc import Sequence


class KeptAnswers:
    """By method and body; without a bound. See `_engine.Engine.step`."""

    def __init__(self) -> None:
        self._known: dict[tuple[int, bytes], bytes] = {}
        self._gone = 0

    def find(self, method: int, body: bytes) -> bytes | None:
        """The answer to such a read, if it is known."""
        return self._known.get((method, body))

    def keep(self, call_id: int, method: int, body: bytes, answer: bytes) -> None:
        """Keeps it, unless the call is older than the last `forget_all`."""
        if call_id > self._gone:
            self._known[method, body] = answer

    def forget(self, bodies: Sequence[bytes]) -> None:
        """Forgets the answers to these."""
        gone = set(bodies)
        if gone:
            self._known = {at: known for at, known in self._known.items() if at[1] not in gone}

    def forget_all(self, last: int) -> None:
        """Forgets all; answers to calls with an id up to `last` are not kept any more."""
        self._known, self._gone = {}, last
