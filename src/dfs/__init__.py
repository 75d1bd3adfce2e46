"""dfs: a replicated key/value and file store; one tree, agreed on by Raft, mounted everywhere.

    import dfs

    with dfs.connect("localhost") as client:
        client.put("greeting", b"hello")

`connect` and `Client` are for threads, `AsyncClient` for asyncio; every error is a `DfsError`.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .errors import (
    Cancelled,
    Conflict,
    DataLoss,
    DeadlineExceeded,
    DfsError,
    FailedPrecondition,
    Internal,
    InvalidArgument,
    IsADirectory,
    Misconfigured,
    NotADirectory,
    NotAMember,
    NotEmpty,
    NotFound,
    OutcomeUnknown,
    OutOfRange,
    OutOfSpace,
    Overloaded,
    PermissionDenied,
    RequestTooOld,
    TooLarge,
    Unavailable,
    Unimplemented,
)

if TYPE_CHECKING:
    from .client import (
        AsyncClient,
        AsyncTransaction,
        Client,
        Event,
        Item,
        Kind,
        Lost,
        Stat,
        Transaction,
        Transferred,
        Update,
        Watch,
        connect,
    )

    __version__: str

__all__ = [
    "AsyncClient", "AsyncTransaction", "Cancelled", "Client", "Conflict", "DataLoss",
    "DeadlineExceeded", "DfsError", "Event", "FailedPrecondition", "Internal", "InvalidArgument",
    "IsADirectory", "Item", "Kind", "Lost", "Misconfigured", "NotADirectory", "NotAMember",
    "NotEmpty", "NotFound", "OutOfRange", "OutOfSpace", "OutcomeUnknown", "Overloaded",
    "PermissionDenied", "RequestTooOld", "Stat", "TooLarge", "Transaction", "Transferred",
    "Unavailable", "Unimplemented", "Update", "Watch", "__version__", "connect",
]

_CLIENT = frozenset(
    (
        "AsyncClient", "AsyncTransaction", "Client", "Event", "Item", "Kind", "Lost", "Stat",
        "Transaction", "Transferred", "Update", "Watch", "connect",
    )
)


def __getattr__(name: str) -> Any:
    """The client is imported when it is first used: gRPC takes 90 ms, and not all commands call."""
    if name in _CLIENT:
        value = getattr(import_module(".client", __name__), name)
    elif name == "__version__":
        value = import_module("._version", __name__).version()
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value
