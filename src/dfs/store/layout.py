"""The bytes on disk."""

from typing import NamedTuple


class UnknownEntry(Exception):
    """A log entry or a state that a newer version of dfs wrote: this version must stop."""


class Change(NamedTuple):
    """One change of one key, as history keeps it and watchers see it."""

    revision: int
    sub: int
    """Order inside one revision."""
    deleted: bool
    key: str
    record: bytes
    """Encoded Record: the new one; for a deletion the last one."""
    data: bytes
    """Content of a file; b"" for a deletion."""
    previous: int
    """Revision that it replaced; 0 = the key did not exist."""
