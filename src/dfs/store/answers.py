"""Answers of recent reads, ready to be sent again until their key changes."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

from dfs.limits import ANSWERS_BYTES_MAX, SMALL_VALUE_BYTES_MAX
from dfs.varint import varint

_ENTRY_BYTES: Final = 200
"""About what an entry takes beside its bytes."""
_ANSWER_BYTES_MAX: Final = 2 * SMALL_VALUE_BYTES_MAX


def plain_request(key: str) -> bytes:
    """GetRequest as it is encoded when it asks for a key and nothing else."""
    encoded = key.encode()
    return b"\x0a" + varint(len(encoded)) + encoded


class Answers:
    """Encoded GetResponses by encoded GetRequest, of small files as they are now.

    A request that is found needs no decoding, no lookup and no checksum: it was all done before.
    Bounded by bytes; the oldest entry goes first. One thread.
    """

    def __init__(self) -> None:
        """Nothing is known yet."""
        self._known: dict[bytes, bytes] = {}
        self._bytes = 0
        self.find: Callable[[bytes], bytes | None] = self._known.get
        """The answer to a request's bytes, or None."""

    def remember(self, request: bytes, key: str, answer: bytes) -> None:
        """Keeps the answer to a request for `key`, if it is small and asks for nothing else."""
        if len(answer) > _ANSWER_BYTES_MAX or request != plain_request(key):
            return
        self._forget(request)
        self._known[request] = answer
        self._bytes += len(request) + len(answer) + _ENTRY_BYTES
        while self._bytes > ANSWERS_BYTES_MAX:
            self._forget(next(iter(self._known)))

    def changed(self, keys: Iterable[str]) -> None:
        """Forgets what is not true any more."""
        if self._known:
            for key in keys:
                self._forget(plain_request(key))

    def clear(self) -> None:
        """Forgets all."""
        self._known.clear()
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._known)

    def _forget(self, request: bytes) -> None:
        answer = self._known.pop(request, None)
        if answer is not None:
            self._bytes -= len(request) + len(answer) + _ENTRY_BYTES
