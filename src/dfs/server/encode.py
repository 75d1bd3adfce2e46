"""The messages of watches and of history, encoded."""

from collections.abc import Sequence

from .._engine import encode_events, encode_stored
from ..limits import VALUE_BYTES_MAX
from ..node import Update
from ..proto.dfs_pb2 import HistoryResponse, WatchResponse
from ..store import Change


def watch_answer(update: Update, data_bytes_max: int) -> bytes:
    """WatchResponse, with content up to so many bytes, but no more of it in all than fits into an
    answer beside the records: a copy of a large subtree is one revision, so one answer."""
    rest = WatchResponse(
        snapshot_end=update.snapshot_end, revision=update.revision, gap_floor=update.gap_floor
    ).SerializeToString()
    if update.items:
        return update.items + rest
    number = WatchResponse.EVENTS_FIELD_NUMBER
    return encode_stored(number, update.changes, data_bytes_max, VALUE_BYTES_MAX, rest)


def history_answer(floor: int, changes: Sequence[Change]) -> bytes:
    """HistoryResponse, without content."""
    events = encode_events(HistoryResponse.EVENTS_FIELD_NUMBER, changes)
    return events + HistoryResponse(floor=floor).SerializeToString()
