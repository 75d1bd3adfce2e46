"""All watches of one node: who wants what, and who is told how."""

from collections.abc import Awaitable, Callable
from contextlib import closing

from ...errors import OutOfRange, Overloaded, Unavailable
from ...limits import WATCHES_MAX
from ...store import Listing, Stored, View, changed_key
from ..ports import Update
from ..streams import Caller, Post
from ..tasks import in_thread
from .group import Encode, Group
from .watcher import History, Wanted, Watcher, above


class Watches:
    """See the text of the package. Asyncio thread only."""

    def __init__(
        self,
        pin: Callable[[], View],
        listing: Callable[[str, int, int], Listing],
        wait_for: Callable[[int], Awaitable[None]],
        on_watched: Callable[[bool], None],
        encode: Encode,
        check: Callable[[], None],
    ) -> None:
        """`pin`: makes a view. `listing`: of a key and all below it, with content up to so many
        bytes, of greater revisions than that. `wait_for`: that a revision is applied here.
        `on_watched`: whether changes are wanted at all. `check`: raises what all watches have to
        end with, if so."""
        self._pin, self._listing = pin, listing
        self._wait_for, self._on_watched = wait_for, on_watched
        self._encode, self._check_node = encode, check
        self._alone: dict[str, set[Watcher]] = {}
        """Those with a queue, by key."""
        self._groups: dict[str, dict[tuple[Wanted, Post], Group]] = {}
        """Those that are live, by key."""
        self._count = 0
        self._complete_until = 0
        self._ending = False

    def deliver(self, turn: tuple[int, list[Stored]]) -> None:
        """Takes the changes of one turn of the hot thread, up to an applied index."""
        self._complete_until, events = turn
        if not self._count:
            return
        for key, changes in self._picked(events).items():
            for watcher in self._alone.get(key, ()):
                watcher.put(changes)
            for group in self._groups.get(key, {}).values():
                group.put(changes)

    def _picked(self, events: list[Stored]) -> dict[str, list[Stored]]:
        """The changes that concern each key that is watched."""
        if not (any(self._alone) or any(self._groups)):  # the whole tree is, and nothing else
            return {"": events} if events else {}
        picked: dict[str, list[Stored]] = {}
        for change in events:
            for key in above(changed_key(change)):
                if key in self._alone or key in self._groups:
                    picked.setdefault(key, []).append(change)
        return picked

    def end(self) -> None:
        """The node stops: every watch ends with Unavailable, and no new one begins."""
        self._ending = True
        self.fall_behind()

    def fall_behind(self) -> None:
        """The state was replaced: what lies between is only in its history."""
        for watchers in self._alone.values():
            for watcher in watchers:
                watcher.fall_behind()
        for groups in self._groups.values():
            for group in groups.values():
                group.dismiss()

    async def follow(
        self, caller: Caller, wanted: Wanted, after: int, snapshot: bool, data_after: int = 0
    ) -> None:
        """Tells a caller all that it wants until it goes, which is a cancellation, or gets a gap.

        `after`: 0 = from now on. With `snapshot`: first all items, with content of those that have
        a greater revision than `data_after`, then the changes since.
        """
        watcher = self._add(Watcher(caller, wanted))
        try:
            if snapshot or not after:
                # A state of revision 0 is shown to nobody: who resumed after 0 would be told only
                # what comes from then on.
                await self._wait_for(1)
            if snapshot:
                await self._tell_snapshot(watcher, data_after)
            elif after:
                await self._wait_for(after)
                watcher.told = after
                watcher.fall_behind()
            else:
                watcher.collect()
                with self._pin() as view:
                    watcher.told = view.revision
                await self._tell(watcher, Update(watcher.told))
            while True:
                self._check()
                if watcher.behind:
                    update = await self._catch_up(watcher)
                    await self._tell(watcher, update)
                    if update.gap_floor:
                        return
                elif watcher.queued:
                    await self._tell(watcher, watcher.take(self._complete_until))
                else:
                    await self._live(watcher)
        finally:
            self._remove(watcher)

    async def _tell(self, watcher: Watcher, update: Update, pinned: bool = False) -> None:
        self._check()
        message = self._encode(update, watcher.wanted.data_bytes_max)
        await watcher.caller.write(message, pinned)

    async def _tell_snapshot(self, watcher: Watcher, data_after: int) -> None:
        wanted = watcher.wanted
        watcher.collect()
        with closing(self._listing(wanted.key, wanted.data_bytes_max, data_after)) as listing:
            watcher.told = listing.revision
            while items := await in_thread(listing.items):
                await self._tell(watcher, Update(listing.revision, items=items), pinned=True)
        await self._tell(watcher, Update(watcher.told, snapshot_end=True))

    async def _catch_up(self, watcher: Watcher) -> Update:
        watcher.collect()
        with self._pin() as view:
            try:
                read = History(view, watcher.wanted)
                changes = await in_thread(read.next_changes, watcher.told)
            except OutOfRange:
                return Update(watcher.told, gap_floor=max(1, view.floor))
            except Unavailable:  # the state was replaced under the view
                watcher.fall_behind()
                return Update(watcher.told)
            if read.exhausted:
                watcher.told = max(watcher.told, view.revision)
            else:
                watcher.told = read.read_until
                watcher.fall_behind()
        return Update(watcher.told, changes)

    async def _live(self, watcher: Watcher) -> None:
        """Until it has to find what follows in history, and there is room for that."""
        watcher.told = max(watcher.told, self._complete_until)
        group = self._group_of(watcher)
        self._queue_no_more(watcher)
        group.join(watcher)
        try:
            await watcher.left.wait()
        finally:
            group.leave(watcher)
            self._queue(watcher)
            if not group:
                self._forget(watcher, group)
        if watcher.error is not None:
            raise watcher.error
        await watcher.caller.room.wait()

    def _check(self) -> None:
        if self._ending:
            raise Unavailable("this node is shutting down: go on with this watch at another one")
        self._check_node()

    def _add(self, watcher: Watcher) -> Watcher:
        self._check()
        if self._count >= WATCHES_MAX:
            raise Overloaded(
                f"this node has {WATCHES_MAX:,} watches (WATCHES_MAX), no more are taken;"
                " watch on another node, or one directory instead of many keys",
                limit="WATCHES_MAX",
            )
        self._count += 1
        self._queue(watcher)
        self._on_watched(True)
        return watcher

    def _remove(self, watcher: Watcher) -> None:
        self._count -= 1
        self._queue_no_more(watcher)
        self._on_watched(self._count > 0)

    def _queue(self, watcher: Watcher) -> None:
        self._alone.setdefault(watcher.wanted.key, set()).add(watcher)

    def _queue_no_more(self, watcher: Watcher) -> None:
        same = self._alone[watcher.wanted.key]
        same.remove(watcher)
        if not same:
            del self._alone[watcher.wanted.key]

    def _group_of(self, watcher: Watcher) -> Group:
        wanted, post = watcher.wanted, watcher.caller.post
        groups = self._groups.setdefault(wanted.key, {})
        if (wanted, post) not in groups:
            groups[wanted, post] = Group(
                wanted, post, self._encode, lambda: self._complete_until, self._check
            )
        return groups[wanted, post]

    def _forget(self, watcher: Watcher, group: Group) -> None:
        """Nobody is in its group any more. Others may have begun a new one meanwhile."""
        wanted, post = watcher.wanted, watcher.caller.post
        groups = self._groups.get(wanted.key, {})
        if groups.get((wanted, post)) is group:
            del groups[wanted, post]
        if not groups:
            self._groups.pop(wanted.key, None)
