"""Wrong versions of the product, each with one bug that simulation has to find."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any, Final
from unittest.mock import patch

import dfs.cache.pending
import dfs.cache.storing
import dfs.cache.twin
import dfs.cache.uploader
import dfs.client.aio
import dfs.client.faults
import dfs.client.session
import dfs.client.streams
import dfs.node.watch.group
import dfs.node.watch.watcher
import dfs.node.watch.watches
import dfs.server.hot
import dfs.store.batch
import dfs.store.core
import dfs.store.operations
import dfs.store.read
import dfs.store.tree
from dfs import errors
from dfs.store.layout import META_KEY, revision_of

from .callers import WRITES
from .scenario import kind_of, run

Mutant = Callable[[], AbstractContextManager[Any]]
MUTANTS: Final[dict[str, Mutant]] = {}


def mutant(wrong: Callable[[], AbstractContextManager[Any]]) -> Mutant:
    """Adds one to the list."""
    MUTANTS[wrong.__name__] = wrong
    return wrong


def seeds_needed(name: str, seeds_max: int, first: int = 1) -> int:
    """How many seeds of its kind it takes until something is found to be wrong; 0: more than
    `seeds_max`."""
    kind = "drops" if "drop" in name and "queue" not in name else "calls"
    seeds = (seed for seed in itertools.count(first) if kind_of(seed) == kind)
    with MUTANTS[name]():
        for count, seed in enumerate(itertools.islice(seeds, seeds_max), 1):
            if run(seed).wrong is not None:
                return count
    return 0


def _wrapped(owner: Any, name: str, made: Callable[[Any], Any]) -> AbstractContextManager[Any]:
    return patch.object(owner, name, made(getattr(owner, name)))


# ---- store ---------------------------------------------------------------------------------------
@mutant
def repetitions_are_applied_again() -> AbstractContextManager[Any]:
    return patch.object(dfs.store.operations, "_done_before", lambda *_: None)


@mutant
def ids_older_than_history_are_taken() -> AbstractContextManager[Any]:
    return patch.object(dfs.store.operations, "uuid7_ns", lambda _: 0)


@mutant
def ids_from_clocks_that_are_ahead_are_forgotten() -> AbstractContextManager[Any]:
    return patch.object(dfs.store.batch, "uuid7_ns", lambda _: 0)


@mutant
def conditions_are_not_checked() -> AbstractContextManager[Any]:
    return patch.object(dfs.store.tree, "check_base", lambda *_: None)


@mutant
def refused_transactions_leave_records() -> AbstractContextManager[Any]:
    def made(branch: Any) -> Any:
        def wrong(self: Any) -> Any:
            other = branch(self)
            other.changes, other.seen = self.changes, self.seen
            return other

        return wrong

    return _wrapped(dfs.store.batch.Batch, "branch", made)


@mutant
def the_applied_index_is_written_by_itself() -> AbstractContextManager[Any]:
    def made(apply: Any) -> Any:
        def wrong(self: Any, *arguments: Any) -> Any:
            write = self._kv.write

            def twice(changes: Any) -> None:
                write({k: v for k, v in changes.items() if k != META_KEY})
                write({META_KEY: changes[META_KEY]})

            with patch.object(self._kv, "write", twice):
                return apply(self, *arguments)

        return wrong

    return _wrapped(dfs.store.core.Store, "apply", made)


@mutant
def history_leaves_deletions_out() -> AbstractContextManager[Any]:
    def made(history: Any) -> Any:
        def wrong(*arguments: Any) -> Iterator[Any]:
            return ((c, yes and not c.deleted) for c, yes in history(*arguments))

        return wrong

    return _wrapped(dfs.store.read, "_history", made)


@mutant
def pruning_takes_the_newest_version_too() -> AbstractContextManager[Any]:
    def made(forget: Any) -> Any:
        def wrong(self: Any, store_key: bytes, event: Any) -> None:
            forget(self, store_key, event)
            self.changes[store_key] = None

        return wrong

    return _wrapped(dfs.store.batch.Batch, "_forget", made)


@mutant
def the_floor_passes_watchers_silently() -> AbstractContextManager[Any]:
    return patch.object(
        dfs.store.read.View, "changes",
        lambda self, after: dfs.store.read._changes(self.source, after + 1),
    )


@mutant
def a_list_goes_on_behind_what_lies_below() -> AbstractContextManager[Any]:
    def made(fetched: Any) -> Any:
        def wrong(self: Any, wanted: int) -> Any:
            before = self._records
            found = fetched(self, wanted)
            if self._records is not before and self._records:
                self._begin = self._records[-1][0] + b"\x01"
            return found

        return wrong

    return _wrapped(dfs.store.listing.Listing, "_fetched", made)


@mutant
def answers_that_were_kept_stay_as_they_were() -> AbstractContextManager[Any]:
    return patch.object(dfs.server.hot, "changed_gets", lambda *_: [])


# ---- watches -------------------------------------------------------------------------------------
@mutant
def a_full_queue_drops_a_change() -> AbstractContextManager[Any]:
    def wrong(self: Any, changes: Any) -> None:
        if not self.behind:
            room = dfs.node.watch.watcher.WATCH_EVENTS_MAX - len(self._queue)
            self._queue.put(changes[:room])

    return patch.object(dfs.node.watch.watcher.Watcher, "put", wrong)


@mutant
def a_watch_resumes_one_revision_too_late() -> AbstractContextManager[Any]:
    def made(request: Any) -> Any:
        def wrong(self: Any) -> Any:
            wanted = request(self)
            if wanted.after_revision:
                wanted.after_revision += 1
            return wanted

        return wrong

    return _wrapped(dfs.client.streams.Watching, "request", made)


@mutant
def a_piece_of_history_ends_inside_a_revision() -> AbstractContextManager[Any]:
    def wrong(self: Any, after: int) -> list[Any]:
        found: list[Any] = []
        for change in self._view.events(after):
            if len(found) >= dfs.node.watch.watcher.WATCH_SCAN_MAX:
                self.exhausted, self.read_until = False, revision_of(found[-1])
                break
            found.append(change)
        return list(filter(self._wanted.concerns, found))

    return patch.object(dfs.node.watch.watcher.History, "next_changes", wrong)


@mutant
def a_watcher_that_is_full_goes_on_from_its_queue() -> AbstractContextManager[Any]:
    def wrong(self: Any) -> None:
        self.collect()

    return patch.object(dfs.node.watch.watcher.Watcher, "fall_behind", wrong)


@mutant
def watchers_do_not_hear_of_a_replaced_state() -> AbstractContextManager[Any]:
    return patch.object(dfs.node.watch.watches.Watches, "fall_behind", lambda _: None)


@mutant
def a_group_says_that_all_was_told_too_early() -> AbstractContextManager[Any]:
    def made(send: Any) -> Any:
        def wrong(self: Any, update: Any) -> None:
            send(self, update._replace(revision=max(update.revision, self._complete_until()) + 1))

        return wrong

    return _wrapped(dfs.node.watch.group.Group, "_send", made)


# ---- client --------------------------------------------------------------------------------------
@mutant
def every_attempt_has_an_id_of_its_own() -> AbstractContextManager[Any]:
    def made(method: Any) -> Any:
        def wrong(self: Any, endpoint: str, name: str, *rest: Any) -> Any:
            call = method(self, endpoint, name, *rest)

            def again(request: Any, **options: Any) -> Any:
                if name.rpartition("/")[2] in WRITES:
                    request = type(request).FromString(request.SerializeToString())
                    request.request_id = self._session._new_id()
                return call(request, **options)

            return again

        return wrong

    return _wrapped(dfs.client.aio.AsyncClient, "_method", made)


@mutant
def a_lost_answer_is_called_a_failure() -> AbstractContextManager[Any]:
    def wrong(text: str, endpoint: str, write: bool) -> Any:
        return errors.Unavailable(f"the connection to {endpoint} broke: {text}")

    return patch.object(dfs.client.faults, "_lost", wrong)


@mutant
def a_refusal_hides_that_an_earlier_attempt_was_done() -> AbstractContextManager[Any]:
    return patch.object(dfs.client.faults.Attempts, "_verdict", lambda _, error: error)


@mutant
def what_was_seen_is_not_asked_for() -> AbstractContextManager[Any]:
    return patch.object(dfs.client.session.Session, "least", lambda *_: 0)


@mutant
def a_client_stays_with_a_dead_node() -> AbstractContextManager[Any]:
    return patch.object(dfs.client.session.Session, "failed", lambda *_: None)


# ---- cache ---------------------------------------------------------------------------------------
@mutant
def the_later_drop_wins() -> AbstractContextManager[Any]:
    def made(store: Any) -> Any:
        async def wrong(self: Any, drop: Any, taken: Any) -> Any:
            drop.base = None
            return await store(self, drop, taken)

        return wrong

    return _wrapped(dfs.cache.storing.Storing, "one", made)


@mutant
def drops_that_go_together_replace_whatever_is_there() -> AbstractContextManager[Any]:
    def made(together: Any) -> Any:
        async def wrong(self: Any, wanted: Any) -> Any:
            for drop, _ in wanted:
                drop.base = None
            return await together(self, wanted)

        return wrong

    return _wrapped(dfs.cache.storing.Storing, "together", made)


@mutant
def drops_that_were_refused_together_count_as_stored() -> AbstractContextManager[Any]:
    def made(together: Any) -> Any:
        async def wrong(self: Any, wanted: Any) -> bool:
            if not await together(self, wanted):
                for drop, _ in wanted:
                    self._end(drop)
            return True

        return wrong

    return _wrapped(dfs.cache.uploader.Uploader, "_together", made)


@mutant
def a_drop_keeps_its_id_when_it_changes() -> AbstractContextManager[Any]:
    def wrong(self: Any, request_id: bytes, request: object = None) -> None:
        self.request_id, self.request = self.request_id or request_id, request

    return patch.object(dfs.cache.pending.Drop, "begin_request", wrong)


@mutant
def a_drop_of_unknown_outcome_counts_as_stored() -> AbstractContextManager[Any]:
    return patch.object(dfs.cache.uploader.Uploader, "_later", lambda *_: None)


@mutant
def the_base_of_a_drop_is_what_is_known_at_its_turn() -> AbstractContextManager[Any]:
    def made(done: Any) -> Any:
        def wrong(self: Any, drop: Any) -> None:
            drop.next_base = None
            done(self, drop)

        return wrong

    return _wrapped(dfs.cache.pending.Pending, "done", made)


@mutant
def a_drop_that_lost_is_forgotten() -> AbstractContextManager[Any]:
    async def wrong(*_: Any) -> str:
        return ""

    return patch.object(dfs.cache.uploader.conflicts, "keep", wrong)


@mutant
def drops_are_compared_with_a_tree_that_keeps_what_is_gone() -> AbstractContextManager[Any]:
    return patch.object(dfs.cache.twin.MemoryTree, "_delete", lambda *_: False)


