"""Store: the applied state of one node over a key/value port."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from dfs._engine import (
    chain_entries,
    content_answers,
    content_keys,
    get_answers,
    plain_gets,
    plain_puts,
)
from dfs.errors import DataLoss, DfsError, Internal
from dfs.kv import KeyValue
from dfs.limits import (
    FLOOR_PRUNE_ENTRY_BYTES_MIN,
    FLOOR_PRUNE_ENTRY_EVENTS_MIN,
    FLOOR_PRUNE_INTERVAL_ENTRIES,
    LIST_HOT_ITEMS_MAX,
    READ_TOGETHER_BYTES_MAX,
    VALUE_BYTES_MAX,
)
from dfs.store import snapshot
from dfs.store.batch import Batch
from dfs.store.encode import done_answer, get_answer, stat_answer
from dfs.store.layout import META_KEY, STORE_END, Meta, Stored, unpack_meta
from dfs.store.listing import Listing
from dfs.store.operations import put_plain, read, run
from dfs.store.past import PastListing
from dfs.store.read import (
    View,
    check_revision,
    current_file,
    current_record,
    list_range,
    past_event,
    past_file,
)
from dfs.store.tree import Command

if TYPE_CHECKING:
    from dfs._engine import PlainPut

Result = bytes | DfsError | None


def _needs(commands: Sequence[Command | PlainPut | None]) -> list[bytes]:
    """Store keys that applying these will surely look at."""
    needs: list[bytes] = []
    for command in commands:
        if isinstance(command, Command):
            needs += command.needs
        elif command is not None:
            needs.append(command[1])
    return needs


class Store:
    """The tree, its history and what Raft must find again beside them.

    Attributes, as of the last `apply` or `restore`:
        applied      index of the last applied log entry; 0 = none
        log_id       Raft's id of it; opaque
        membership   Raft's membership as of it; opaque
        floor        oldest revision still in history
        state_hash   16 bytes, equal on members that hold the same live records
        chain        16 bytes, equal on members that applied the same entries
        keys         live records, directories included
        bytes        sum of the sizes of the live files
        time_ns      time of the last entry; never goes back
        contents     large contents that events name since the last `apply` (True), or do not name
                     any more since then

    `apply`, `restore` and all that ends in `answer` or `answers` belong to one thread (the hot
    one); `view`, `listing`, `export` and `flush` may be called from any.
    """

    def __init__(self, kv: KeyValue) -> None:
        """Opens the state in `kv`. Raises DataLoss when it is damaged, UnknownEntry when a newer
        version of dfs wrote it."""
        self._kv = kv
        self.contents: dict[bytes, bool] = {}
        self._turn = 0
        """Odd while the state is being replaced, which `flush` on another thread must not miss."""
        self._show(self._load())

    def apply(
        self, entries: list[tuple[int, bytes, bool]], log_id: bytes, membership: bytes
    ) -> tuple[list[Result], list[Stored]]:
        """Applies committed entries, in order, as one atomic write.

        `entries`: (index, payload, wanted), indexes without a gap; b"" for Raft's own entries.
        `membership`: b"" unless it changed within the batch.
        Returns one result an entry (the encoded answer or the refusal where wanted, else None)
        and the events of all changes, in order. Raises only when this node must stop: UnknownEntry
        (a newer version wrote it), DataLoss (the state is damaged), Internal, OutOfSpace, OSError.
        Then nothing was written.
        """
        batch = Batch(self._kv, self._meta.copy())
        plain = plain_puts(entries, VALUE_BYTES_MAX)
        batch.meta.chain = chain_entries(batch.meta.chain, entries)
        commands = [
            put or (read(payload) if payload else None)
            for put, (_, payload, _) in zip(plain, entries, strict=True)
        ]
        batch.load(_needs(commands))
        results = [
            self._step(batch, index, payload, command, wanted)
            for (index, payload, wanted), command in zip(entries, commands, strict=True)
        ]
        batch.settle()
        batch.meta.log_id = log_id
        if membership:
            batch.meta.membership = membership
        batch.changes[META_KEY] = batch.meta.pack()
        self._kv.write(batch.changes)
        self._show(batch.meta)
        self.contents = batch.contents
        return results, batch.events

    def view(self) -> View:
        """The state as of now, frozen; close it."""
        return View(self._kv.snapshot())

    def listing(
        self, key: str, recursive: bool, after: str, limit: int, data_bytes_max: int,
        itself: bool = False, data_after: int = 0,
    ) -> Listing:  # fmt: skip
        """A list of the state as of now; close it. See Listing."""
        source = self._kv.snapshot(list_range(key, recursive, after))
        try:
            revision = View(source).revision
            return Listing(
                source, revision, key, recursive, after, limit, data_bytes_max, itself, data_after
            )
        except BaseException:
            source.close()
            raise

    def past_listing(
        self, key: str, recursive: bool, after: str, limit: int, data_bytes_max: int,
        revision: int, time_ns: int | None = None,
    ) -> PastListing:  # fmt: skip
        """A list as of a past revision, or as of a time; close it. See PastListing."""
        return PastListing(
            self.view(), key, recursive, after, limit, data_bytes_max, revision, time_ns
        )

    def list_answer(
        self, key: str, recursive: bool, after: str, limit: int, data_bytes_max: int
    ) -> bytes | None:
        """The encoded ListResponse of a list that fits into one; None for one that may take longer
        than others should wait, or that has something damaged. Raises as `listing`."""
        source = self._kv.unfrozen(list_range(key, recursive, after))
        try:
            listing = Listing(
                source, self.applied, key, recursive, after, limit, data_bytes_max
            )
            if listing.items_expected > LIST_HOT_ITEMS_MAX:
                return None
            return listing.at_once(LIST_HOT_ITEMS_MAX)
        finally:
            source.close()

    def get_answer(self, key: str, revision: int = 0) -> bytes:
        """The encoded GetResponse of a file. Raises as View.get, LargeContent too."""
        if revision:
            check_revision(revision, self.floor, self.applied)
            return get_answer(*past_file(self._kv, key, revision))
        return get_answer(*current_file(self._kv, key))

    def get_answers(self, requests: list[tuple[int, bytes]]) -> list[tuple[int, bytes]]:
        """(number, encoded GetResponse) for those (number, encoded GetRequest) that want a file of
        READ_TOGETHER_BYTES_MAX at most as it is now and nothing else. What is missing, damaged or
        unusual is left out. Raises DataLoss when something cannot be read."""
        gets = plain_gets(requests)
        if not gets:
            return gets
        values = self._kv.get_many([store_key for _, store_key in gets])
        answers = get_answers(gets, values)
        if len(answers) == len(gets):
            return answers
        larger = content_keys(gets, values, READ_TOGETHER_BYTES_MAX)
        if larger:
            answers += content_answers(larger, self._kv.get_many([key for _, _, key in larger]))
        return answers

    def stat_answer(self, key: str, revision: int = 0) -> bytes:
        """The encoded StatResponse of a key. Raises as View.stat."""
        if revision:
            check_revision(revision, self.floor, self.applied)
            return stat_answer(past_event(self._kv, key, revision).record)
        return stat_answer(current_record(self._kv, key))

    def export(self, view: View, path: str) -> None:
        """Writes the whole state of `view` to a file that appears at `path` complete and on disk.
        Raises DataLoss when the state is damaged, OSError."""
        snapshot.write(view.source, path)

    def restore(self, path: str) -> None:
        """Replaces the whole state by an exported one; a crash leaves the old or the new. Views
        end. Raises DataLoss (the file is damaged), UnknownEntry, OSError: the old state stays."""
        self._turn += 1
        try:
            self._kv.replace(snapshot.read(path))
            self._show(self._load())
        finally:
            self._turn += 1

    def flush(self) -> int:
        """Makes the state durable; returns an index up to which it surely is: 0 when the state was
        replaced meanwhile. Blocks without the interpreter lock."""
        turn, applied = self._turn, self.applied
        self._kv.flush()
        return applied if turn == self._turn and turn % 2 == 0 else 0

    def close(self) -> None:
        """Releases the key/value store."""
        self._kv.close()

    def _step(
        self, batch: Batch, index: int, payload: bytes, command: Command | PlainPut | None,
        wanted: bool,
    ) -> Result:  # fmt: skip
        """Applies one entry."""
        meta = batch.meta
        if index != meta.applied + 1 and (meta.log_id or index):
            raise Internal(f"entry {index} is to be applied behind entry {meta.applied}")
        meta.applied = index
        batch.sub = batch.copied_bytes = 0
        result: Result = None
        before = len(batch.events)
        if command is not None:
            try:
                if isinstance(command, Command):
                    outcome = run(batch, index, command)
                else:
                    outcome = put_plain(batch, index, command, payload)
                if wanted:
                    result = done_answer(*outcome)
            except DataLoss:
                raise
            except DfsError as refusal:
                if len(batch.events) != before:
                    raise Internal(f"entry {index} was refused half done: {refusal}") from refusal
                if wanted:
                    result = refusal.with_traceback(None)
        if index % FLOOR_PRUNE_INTERVAL_ENTRIES == 0:
            batch.prune()
        events = len(batch.events) - before
        if events > FLOOR_PRUNE_ENTRY_EVENTS_MIN:
            batch.prune(events)
        written = len(payload) + batch.copied_bytes
        if written > FLOOR_PRUNE_ENTRY_BYTES_MIN:
            batch.prune(bytes_max=2 * written)
        return result

    def _load(self) -> Meta:
        value = self._kv.get(META_KEY)
        if value is not None:
            return unpack_meta(value)
        if next(self._kv.scan(b"", STORE_END), None) is not None:
            raise DataLoss("the store has records, but not the one that says what they are")
        return Meta()

    def _show(self, meta: Meta) -> None:
        self._meta = meta
        self.applied = meta.applied
        self.log_id = meta.log_id
        self.membership = meta.membership
        self.floor = meta.floor
        self.state_hash = meta.state_hash.to_bytes(16, "little")
        self.chain = meta.chain
        self.keys = meta.keys
        self.bytes = meta.content_bytes
        self.time_ns = meta.time_ns
