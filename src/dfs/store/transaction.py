"""A transaction: several operations as one change, or none of them."""

from __future__ import annotations

from dfs import commands
from dfs.errors import DataLoss, DfsError, TooLarge
from dfs.limits import COPY_BYTES_MAX, ENTRY_RECORD_BYTES_MAX, TRANSACTION_CHANGES_MAX
from dfs.store.batch import Batch
from dfs.store.tree import Command, Outcome


def transaction(batch: Batch, index: int, command: Command) -> Outcome:
    """Does its operations one after the other on a branch, which is adopted when all were done.
    Operations that change nothing have the revision of what is there."""
    branch = batch.branch()
    bounds = _Bounds()
    done = 0
    for number, part in enumerate(command.parts):
        try:
            revision, _ = part.run(branch, index, part)
            bounds.check(branch, part)
        except DataLoss:
            raise
        except DfsError as refusal:
            operation = command.request.operations[number]
            raise commands.refused_in(operation, number, refusal) from None
        done = max(done, revision)
    batch.adopt(branch)
    return done, len(branch.events)


class _Bounds:
    """What one entry may do, however many operations it consists of. Each of them is bounded by
    itself, so no more is done in vain than one of them does."""

    def __init__(self) -> None:
        self._counted = self._told = self._put = 0

    def check(self, branch: Batch, part: Command) -> None:
        """Counts what `part` has done. Raises TooLarge."""
        events = branch.events
        self._told += sum(len(value) for _, value in events[self._counted :])
        self._counted = len(events)
        if part.number == commands.PUT:
            self._put += len(part.request.data)
        records = self._told - self._put - branch.copied_bytes
        for size, limit, name, what in (
            (self._counted, TRANSACTION_CHANGES_MAX, "TRANSACTION_CHANGES_MAX", "changes"),
            (branch.copied_bytes, COPY_BYTES_MAX, "COPY_BYTES_MAX", "bytes of copied content"),
            (records, ENTRY_RECORD_BYTES_MAX, "ENTRY_RECORD_BYTES_MAX", "bytes of metadata"),
        ):
            if size > limit:
                raise TooLarge(
                    f"with it the transaction has {size:,} {what}, the limit is {limit:,} ({name}):"
                    " make several of it",
                    limit=name,
                )
