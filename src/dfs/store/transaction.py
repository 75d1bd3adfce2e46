"""A transaction: several operations as one change, or none of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NoReturn

from dfs import commands
from dfs.errors import DataLoss, DfsError, TooLarge
from dfs.limits import COPY_BYTES_MAX, ENTRY_RECORD_BYTES_MAX, TRANSACTION_CHANGES_MAX
from dfs.proto.dfs_pb2 import PutRequest
from dfs.proto.internal.log_pb2 import Entry
from dfs.store.batch import Batch
from dfs.store.layout import key_of
from dfs.store.tree import FILE_MODE, Command, Outcome, Part, leaf_before, make_parents

if TYPE_CHECKING:
    from dfs._engine import PartPut


def transaction(batch: Batch, index: int, command: Command) -> Outcome:
    """Does its operations one after the other on a branch, which is adopted when all were done.
    Operations that change nothing have the revision of what is there."""
    branch = batch.branch()
    bounds = _Bounds()
    done = 0
    for number, part in enumerate(command.parts):
        try:
            if isinstance(part, Command):
                revision, _ = part.run(branch, index, part)
                content = len(part.request.data) if part.number == commands.PUT else 0
            else:
                revision, content = index, part[2]
                _put(branch, index, command, part)
            bounds.check(branch, content)
        except DataLoss:
            raise
        except DfsError as refusal:
            raise commands.refused_in(*_named(part), number, refusal) from None
        done = max(done, revision)
    batch.adopt(branch)
    return done, len(branch.events)


def _put(branch: Batch, index: int, command: Command, put: PartPut) -> None:
    """What a Put does, for a regular one of the transaction `command`. Its key and its metadata
    break no rule, so only what is there can be in its way."""
    store_key, base = put[:2]
    path = store_key[1:]
    old = branch.value(store_key)
    if old is not None or base:
        leaf_before(branch, key_of(path), path, base)
    if old is None:
        make_parents(branch, index, command.entry, path)
    branch.store_part(
        index, put, command.payload, FILE_MODE, command.entry, command.request.request_id
    )


def _named(part: Part) -> tuple[str, Any]:
    """What `refused_in` is told of an operation."""
    if isinstance(part, Command):
        return Entry.DESCRIPTOR.fields_by_number[part.number].name, part.request
    return "put", PutRequest(key=key_of(part[0][1:]))


class _Bounds:
    """What one entry may do, however many operations it consists of. Each of them is bounded by
    itself, so no more is done in vain than one of them does."""

    def __init__(self) -> None:
        self._counted = self._told = self._put = 0

    def check(self, branch: Batch, content: int) -> None:
        """Counts what an operation has done, which put so many bytes of content. Raises
        TooLarge."""
        for _, event in branch.events[self._counted :]:
            self._told += len(event)
            self._counted += 1
        self._put += content
        records = self._told - self._put - branch.copied_bytes
        if self._counted > TRANSACTION_CHANGES_MAX:
            _refuse(self._counted, "changes", "TRANSACTION_CHANGES_MAX", TRANSACTION_CHANGES_MAX)
        if branch.copied_bytes > COPY_BYTES_MAX:
            _refuse(
                branch.copied_bytes, "bytes of copied content", "COPY_BYTES_MAX", COPY_BYTES_MAX
            )
        if records > ENTRY_RECORD_BYTES_MAX:
            _refuse(records, "bytes of metadata", "ENTRY_RECORD_BYTES_MAX", ENTRY_RECORD_BYTES_MAX)


def _refuse(size: int, what: str, name: str, limit: int) -> NoReturn:
    raise TooLarge(
        f"with it the transaction has {size:,} {what}, the limit is {limit:,} ({name}): make"
        " several of it",
        limit=name,
    )
