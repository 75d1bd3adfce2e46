"""The state of a key and what is below it, cut into pieces of a stream."""

from collections.abc import Iterator

from ...errors import NotFound
from ...limits import LIST_ITEMS_MAX, STREAM_CHUNK_BYTES_MAX
from ...store import View
from ..ports import Item


def tree(view: View, key: str, data_bytes_max: int) -> Iterator[Item]:
    """`key` itself and all below it; nothing where there is nothing."""
    if not key:
        yield from view.list("", True, "", data_bytes_max)
        return
    try:
        record = view.stat(key)
    except NotFound:
        return
    items = view.list(key, True, "", data_bytes_max)
    first = next(items, None)
    if first is None or first[0] != key:
        yield key, record, None
    if first is not None:
        yield first
    yield from items


class Pieces:
    """Cuts a stream of items into answers: bounded bytes, one larger item alone."""

    def __init__(self, items: Iterator[Item]) -> None:
        self._items = items
        self._next: Item | None = None

    def next(self) -> list[Item]:
        """The next answer's items; empty at the end. Blocks."""
        piece: list[Item] = []
        size = 0
        while len(piece) < LIST_ITEMS_MAX:
            item = self._next or next(self._items, None)
            self._next = None
            if item is None:
                break
            size += len(item[0].encode()) + len(item[1]) + len(item[2] or b"")
            if piece and size > STREAM_CHUNK_BYTES_MAX:
                self._next = item
                break
            piece.append(item)
        return piece
