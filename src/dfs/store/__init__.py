"""The state machine: applies log entries to one tree and reads it.

`apply` is a pure function of the state and the entries: no clock, no chance, no I/O but the
key/value port. What it needs of the world (time, writer, request id) stands in the entry.
"""

from dfs.store.core import Store
from dfs.store.layout import (
    Change,
    Content,
    Stored,
    UnknownEntry,
    change_of,
    changed_key,
    revision_of,
    told_bytes,
)
from dfs.store.listing import Listing
from dfs.store.past import PastListing
from dfs.store.read import LargeContent, View

__all__ = [
    "Change",
    "Content",
    "LargeContent",
    "Listing",
    "PastListing",
    "Store",
    "Stored",
    "UnknownEntry",
    "View",
    "change_of",
    "changed_key",
    "revision_of",
    "told_bytes",
]
