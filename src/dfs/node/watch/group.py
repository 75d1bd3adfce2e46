"""Live watchers that want the same: what they are told is encoded once and sent to all."""

import asyncio
from collections.abc import Callable, Sequence

from ...limits import STREAM_CHUNK_BYTES_MAX, WATCH_PACE_MS
from ...store import Stored, revision_of
from ..ports import Update
from ..streams import Post
from .watcher import Queue, Wanted, Watcher

Encode = Callable[[Update, int], bytes]
"""(what is told, content up to so many bytes) → message."""


class Group:
    """The live watchers of one kind. Asyncio thread only.

    The first change after a quiet time goes out at once; what follows within WATCH_PACE_MS goes out
    in one message behind that time.
    """

    def __init__(
        self,
        wanted: Wanted,
        post: Post,
        encode: Encode,
        complete_until: Callable[[], int],
        check: Callable[[], None],
    ) -> None:
        """`complete_until`: everything up to there has been put. `check`: raises what all watches
        have to end with, if so."""
        self._wanted, self._post, self._encode = wanted, post, encode
        self._complete_until, self._check = complete_until, check
        self._loop = asyncio.get_running_loop()
        self._members: dict[int, Watcher] = {}
        """By call."""
        self._ahead: dict[int, Watcher] = {}
        """Of those, they that were told more than the group when they joined."""
        self._told = 0
        """All changes up to here were sent to all that are not ahead."""
        self._pending = Queue(wanted.data_bytes_max)  # sent once it is STREAM_CHUNK_BYTES_MAX
        self._not_before = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return len(self._members)

    def join(self, watcher: Watcher) -> None:
        """Takes a watcher that was told everything up to `complete_until`, or more."""
        watcher.left.clear()
        self._members[watcher.caller.id] = watcher
        self._ahead[watcher.caller.id] = watcher
        if self._timer is None:
            self._told = self._complete_until()
            self._wake_after(self._wanted.progress_s)

    def leave(self, watcher: Watcher) -> None:
        """Lets a watcher go, who has to find the rest in history. Idempotent."""
        if self._members.pop(watcher.caller.id, None) is None:
            return
        if self._ahead.pop(watcher.caller.id, None) is None:
            watcher.told = self._told
        else:
            watcher.told = max(watcher.told, self._told)
        watcher.fall_behind()
        watcher.left.set()
        if not self._members:
            self._stop()

    def dismiss(self, error: BaseException | None = None) -> None:
        """Lets all go; with an error their watches end."""
        for watcher in list(self._members.values()):
            watcher.error = error
            self.leave(watcher)

    def put(self, changes: Sequence[Stored]) -> None:
        """Sends the changes of a turn, or sees to it that they are sent soon."""
        timed = bool(self._pending)
        self._pending.put(changes)
        pause = self._not_before - self._loop.time()
        if pause <= 0 or self._pending.bytes > STREAM_CHUNK_BYTES_MAX:
            self._send_all()
        elif not timed:
            self._wake_after(pause)

    def _send_all(self) -> None:
        """Sends what is pending, or a mark of progress."""
        if self._pending:
            self._not_before = self._loop.time() + WATCH_PACE_MS / 1000
        try:
            self._check()
            while self._members:
                piece = self._pending.take()
                until = revision_of(piece[-1]) if self._pending else self._complete_until()
                self._send(Update(until, piece))
                if not self._pending:
                    break
        except Exception as error:  # boundary: each of the watches ends with it
            self.dismiss(error)
        self._pending.clear()
        if self._members:
            self._wake_after(self._wanted.progress_s)

    def _send(self, update: Update) -> None:
        first = revision_of(update.changes[0]) if update.changes else update.revision + 1
        apart: dict[int, list[int]] = {}
        for call, watcher in self._ahead.items():
            if watcher.told >= first:
                apart.setdefault(watcher.told, []).append(call)
        self._told = update.revision
        others = {call for calls in apart.values() for call in calls}
        self._tell([call for call in self._members if call not in others], update)
        for told, calls in apart.items():
            # Without a rest it is a mark of progress, for which the timer begins anew.
            rest = [change for change in update.changes if revision_of(change) > told]
            self._tell(calls, Update(max(told, update.revision), rest))
        self._ahead = {c: w for c, w in self._ahead.items() if w.told > update.revision}

    def _tell(self, calls: Sequence[int], update: Update) -> None:
        if not calls:
            return
        message = self._encode(update, self._wanted.data_bytes_max)
        for call, waiting in self._post.send(calls, message):
            watcher = self._members[call]
            if waiting < 0:
                watcher.error = asyncio.CancelledError("nobody waits for this call any more")
            else:
                watcher.caller.full()
            self.leave(watcher)

    def _wake_after(self, pause_s: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_later(pause_s, self._send_all)

    def _stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._pending.clear()
