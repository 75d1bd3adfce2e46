"""The messages of watches and of history, encoded."""

from collections.abc import Iterable

from ..limits import VALUE_BYTES_MAX
from ..node import Update
from ..proto.dfs_pb2 import FILE, Event, HistoryResponse, WatchResponse
from ..store import Change


def watch_answer(update: Update, data_bytes_max: int) -> bytes:
    """WatchResponse, with content up to so many bytes."""
    return update.items + WatchResponse(
        snapshot_end=update.snapshot_end,
        events=_events(update.changes, data_bytes_max),
        revision=update.revision,
        gap_floor=update.gap_floor,
    ).SerializeToString()


def history_answer(floor: int, changes: Iterable[Change]) -> bytes:
    """HistoryResponse."""
    return HistoryResponse(events=_events(changes, 0), floor=floor).SerializeToString()


def _events(changes: Iterable[Change], data_bytes_max: int) -> list[Event]:
    """With content as wanted, but no more of it in all than fits into an answer beside the records:
    a copy of a large subtree is one revision, so one answer."""
    events = []
    left = VALUE_BYTES_MAX
    for change in changes:
        events.append(event := _event(change, min(data_bytes_max, left)))
        left -= len(event.data)
    return events


def _event(change: Change, data_bytes_max: int) -> Event:
    event = Event(
        type=Event.DELETE if change.deleted else Event.PUT,
        key=change.key,
        revision=change.revision,
        previous_revision=change.previous,
        sub=change.sub,
    )
    event.record.MergeFromString(change.record)
    record, data = event.record, change.data
    is_file = record.kind == FILE and not change.deleted
    if data is not None and is_file and record.size <= data_bytes_max > 0:
        event.data = data
        event.has_data = True
    return event
