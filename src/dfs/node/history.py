"""The history of a key, cut into pieces of a stream."""

import sys

from ..limits import HISTORY_ITEMS_MAX, HISTORY_SCAN_BYTES_MAX, HISTORY_SCAN_MAX
from ..store import Change, View


class Past:
    """Reads history backwards for one answer. Any thread, but one at a time."""

    def __init__(self, view: View, key: str, before: int, limit: int) -> None:
        """As `View.history`; `limit`: at most so many changes, 0 = all."""
        self._walk = view.history_walk(key, before)
        self._left = limit or sys.maxsize
        self.done = False
        """Everything was returned."""

    def next(self) -> list[Change]:
        """The next changes, without content. Blocks, but never long: where history is full of
        changes of other keys the list may be empty before the end, too."""
        piece: list[Change] = []
        looked_at = size = 0
        while (
            len(piece) < HISTORY_ITEMS_MAX
            and looked_at < HISTORY_SCAN_MAX
            and size < HISTORY_SCAN_BYTES_MAX
        ):
            found = next(self._walk, None) if self._left else None
            if found is None:
                self.done = True
                break
            change, concerns = found
            looked_at += 1
            size += len(change.record) + len(change.data or b"")
            if concerns:
                piece.append(change._replace(data=b""))
                self._left -= 1
        self.done = self.done or not self._left
        return piece
