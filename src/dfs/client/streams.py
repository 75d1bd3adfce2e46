"""The streaming calls as values that remember how far they are. Pure, shared by both clients."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterable
from typing import Final

from ..errors import DataLoss, DfsError, InvalidArgument, OutOfRange, Unavailable
from ..limits import CLIENT_CONTACT_MS_MAX, WATCH_PROGRESS_MS, WATCH_SILENCE_MS_MAX
from ..proto import dfs_pb2 as pb
from .calls import CLUSTER, FILES, consistency, text
from .faults import LOST, Fault, backoff_s
from .values import Event, Item, Told, Update, event_of, item_of

WATCH: Final = FILES + "Watch"
LIST: Final = FILES + "List"
HISTORY: Final = FILES + "History"
BACKUP: Final = CLUSTER + "Backup"
WATCH_SILENCE_S: Final = WATCH_SILENCE_MS_MAX / 1000

Lost = Callable[[DfsError], None]
"""Told why a watch lost its node, each time; it goes on by itself."""


def list_request(
    key: str, recursive: bool, data_bytes_max: int, after: str, limit: int, revision: int,
    local: bool, min_revision: int,
) -> pb.ListRequest:
    """Everything below a directory."""
    _not_negative(data_bytes_max=data_bytes_max, limit=limit, revision=revision)
    return pb.ListRequest(
        key=text(key), recursive=recursive, data_bytes_max=data_bytes_max, after=text(after),
        limit=limit, revision=revision or None, consistency=consistency(local),
        min_revision=min_revision,
    )


def time_request(time_ns: int, local: bool, min_revision: int) -> pb.ListRequest:
    """Asks which revision was the last at a time: the answer shows it."""
    _not_negative(time_ns=time_ns)
    return pb.ListRequest(
        limit=1, time_ns=time_ns, consistency=consistency(local), min_revision=min_revision
    )


NEWEST: Final = LIST, pb.ListRequest(limit=1), pb.ListResponse.FromString
"""Asks for as little as possible: what matters is the revision of the answer."""


def revision_of_list(answers: Iterable[pb.ListResponse]) -> int:
    """The revision that a list shows; there is at least one answer."""
    return max(answer.revision for answer in answers)


def history_request(
    key: str, limit: int, before_revision: int, local: bool, min_revision: int
) -> pb.HistoryRequest:
    """Past changes, newest first."""
    _not_negative(limit=limit, before_revision=before_revision)
    return pb.HistoryRequest(
        key=text(key), limit=limit, before_revision=before_revision,
        consistency=consistency(local), min_revision=min_revision,
    )


def backup_request(local: bool, with_contents: bool) -> pb.BackupRequest:
    """Everything, or everything but large contents."""
    return pb.BackupRequest(
        consistency=consistency(local), without_contents=not with_contents
    )


def _not_negative(**numbers: int) -> None:
    for name, number in numbers.items():
        if number < 0:
            raise InvalidArgument(f"{name} is {number}; it cannot be negative")


class Whole:
    """Tells whether all bytes of a backup came, each as it was sent."""

    def __init__(self) -> None:
        self._digest = hashlib.sha256()
        self._ended = False

    def take(self, answer: pb.BackupResponse) -> bytes:
        """The bytes of one answer. Raises DataLoss."""
        self._digest.update(answer.data)
        if answer.sha256:
            self._ended = True
            if answer.sha256 != self._digest.digest():
                raise DataLoss("the backup came otherwise than it was sent: save it again")
        return answer.data

    def end(self) -> None:
        """The stream has ended. Raises Unavailable."""
        if not self._ended:
            raise Unavailable("the node ended the backup before it was whole: save it again")


def items_of(answer: pb.ListResponse) -> list[Item]:
    """The items of one chunk."""
    return [item_of(i) for i in answer.items]


def events_of(answer: pb.HistoryResponse) -> list[Event]:
    """The events of one chunk."""
    return [event_of(e) for e in answer.events]


class Watching:
    """Where one watch is: what to ask next time, and what of an answer is new."""

    def __init__(
        self, key: str, after_revision: int, snapshot: bool, data_bytes_max: int,
        data_after_revision: int, chance: random.Random,
    ) -> None:
        _not_negative(
            after_revision=after_revision, data_bytes_max=data_bytes_max,
            data_after_revision=data_after_revision,
        )
        self._key, self._data_bytes_max = text(key), data_bytes_max
        self._data_after = data_after_revision
        self._after = 0 if snapshot else after_revision
        self._snapshot = snapshot
        self._begin = snapshot
        self._failures = 0
        self._first_failure_s = 0.0
        self._chance = chance

    def request(self) -> pb.WatchRequest:
        """For a new stream. A snapshot that did not come to its end is taken anew."""
        self._begin = self._snapshot
        return pb.WatchRequest(
            key=self._key, after_revision=self._after, snapshot=self._snapshot,
            data_bytes_max=self._data_bytes_max, progress_ms=WATCH_PROGRESS_MS,
            data_after_revision=self._data_after,
        )

    def take(self, answer: pb.WatchResponse) -> Update:
        """The news of an answer. Raises OutOfRange on a gap."""
        told = self.told(answer, b"")
        return Update(
            [item_of(i) for i in answer.items], told.snapshot_end,
            [event_of(e) for e in answer.events if e.revision > told.after], told.revision,
            told.snapshot_begin,
        )

    def told(self, answer: pb.WatchResponse, encoded: bytes) -> Told:
        """What an answer is about, with the answer itself. Raises OutOfRange on a gap."""
        self._failures = 0
        if answer.gap_floor:
            raise OutOfRange(
                f"the changes after revision {self._after} are gone (history begins at "
                f"{answer.gap_floor}): watch again with snapshot=True"
            )
        snapshot, begin, after = self._snapshot, self._begin, self._after
        self._begin = False
        if snapshot and not answer.snapshot_end:
            return Told(encoded, after, 0, True, begin, False, 0)
        self._snapshot, self._data_after = False, 0
        last = answer.events[-1].revision if answer.events else 0
        self._after = max(after, answer.revision, last)
        return Told(
            encoded, after, len(answer.events), snapshot, begin, answer.snapshot_end, self._after
        )

    def failed(self, fault: Fault, contact: bool, now_s: float, endpoints: int) -> float:
        """Seconds until the next stream; raises where that would not help."""
        error = fault.error
        if not isinstance(error, LOST) and not error.row.retry:
            raise error
        if not self._failures:
            self._first_failure_s = now_s
        self._failures += 1
        first_contact_end_s = self._first_failure_s + CLIENT_CONTACT_MS_MAX / 1000
        if not contact and not fault.answered and now_s >= first_contact_end_s:
            raise error
        if self._failures < endpoints:
            return fault.retry_after_s
        return max(fault.retry_after_s, backoff_s(self._failures, self._chance))


def broken(error: DfsError, count: int) -> DfsError:
    """Why a list or history ends in the middle."""
    if isinstance(error, LOST):
        return Unavailable(f"lost the node after {count} parts of the answer: {error.text}")
    return error
