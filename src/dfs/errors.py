"""All errors of dfs, and the only place that maps them to numbers.

DfsError
├── InvalidArgument (ValueError)        the call breaks a rule; says which
├── NotFound (FileNotFoundError)        no such key
├── FailedPrecondition                  the state forbids it; says what is in the way
│   ├── Conflict                        the key's revision is not the one the caller expected
│   ├── IsADirectory (IsADirectoryError)
│   ├── NotADirectory (NotADirectoryError)
│   ├── NotEmpty (OSError)
│   ├── RequestTooOld                   its id is older than history: done long ago, or never
│   └── NotAMember                      cluster operations: wrong name, wrong state
├── OutOfRange                          a revision below the floor or in the future
├── TooLarge                            over a limit; names it and its knob
├── Overloaded                          try again later; nothing was done
├── OutOfSpace                          the disk is full
├── Unavailable (ConnectionError)       no leader, no quorum, no node; nothing was done
├── OutcomeUnknown (ConnectionError)    the answer was lost: done or not done
├── DeadlineExceeded (TimeoutError)     a write may still happen
├── PermissionDenied (PermissionError)
├── Cancelled
├── Unimplemented
├── DataLoss                            a checksum does not fit and no good copy is at hand
├── Internal                            a bug
└── Misconfigured                       the command line, dfs.yaml, ports, directories: one sentence
"""

import errno
from dataclasses import dataclass
from typing import ClassVar

DOMAIN = "dfs"


@dataclass(frozen=True)
class Row:
    """What one kind of error is called elsewhere."""

    reason: str
    """google.rpc.ErrorInfo.reason; part of the API."""
    code: int
    """gRPC status code."""
    errno: int
    http: int
    exit: int
    retry: bool
    """The call may be repeated as it is: surely nothing was done."""


class DfsError(Exception):
    """Base of all errors that dfs raises on purpose; its text is one sentence for the user."""

    row: ClassVar[Row] = Row("INTERNAL", 13, errno.EIO, 500, 1, False)

    def __init__(self, text: str, **metadata: str) -> None:
        super().__init__(text)
        self.text = text
        self.metadata = metadata
        """Particulars for programs, such as limit or leader: google.rpc.ErrorInfo.metadata."""

    def __str__(self) -> str:
        return self.text


class InvalidArgument(DfsError, ValueError):
    """The call breaks a rule."""

    row = Row("INVALID_ARGUMENT", 3, errno.EINVAL, 400, 2, False)


class NotFound(DfsError, FileNotFoundError):
    """No such key."""

    row = Row("NOT_FOUND", 5, errno.ENOENT, 404, 3, False)


class FailedPrecondition(DfsError):
    """The present state forbids it."""

    row = Row("FAILED_PRECONDITION", 9, errno.EPERM, 412, 4, False)


class Conflict(FailedPrecondition):
    """The key's revision is not the one that the caller expected."""

    row = Row("CONFLICT", 9, errno.ESTALE, 412, 4, False)


class IsADirectory(FailedPrecondition, IsADirectoryError):
    """A file was asked for or is to be made where a directory is."""

    row = Row("IS_A_DIRECTORY", 9, errno.EISDIR, 409, 4, False)


class NotADirectory(FailedPrecondition, NotADirectoryError):
    """A component of the path is a file."""

    row = Row("NOT_A_DIRECTORY", 9, errno.ENOTDIR, 409, 4, False)


class NotEmpty(FailedPrecondition, OSError):
    """The directory has content."""

    row = Row("NOT_EMPTY", 9, errno.ENOTEMPTY, 409, 4, False)


class RequestTooOld(FailedPrecondition):
    """The request's id is older than the retained history, by which it would be known if it was
    done before."""

    row = Row("REQUEST_TOO_OLD", 9, errno.ESTALE, 412, 4, False)


class NotAMember(FailedPrecondition):
    """A cluster operation names a node that is not, or is already, what it should become."""

    row = Row("NOT_A_MEMBER", 9, errno.ENODEV, 409, 4, False)


class OutOfRange(DfsError):
    """A revision below the floor of history, or one that does not exist yet."""

    row = Row("OUT_OF_RANGE", 11, errno.ERANGE, 416, 4, False)


class TooLarge(DfsError):
    """Over a limit; the text names the limit and the knob."""

    row = Row("TOO_LARGE", 8, errno.EFBIG, 413, 1, False)


class Overloaded(DfsError):
    """More work waits than the node accepts; nothing was done."""

    row = Row("OVERLOADED", 8, errno.EAGAIN, 429, 5, True)


class OutOfSpace(DfsError):
    """The disk is full: reads and deletes go on, writes do not."""

    row = Row("OUT_OF_SPACE", 8, errno.ENOSPC, 507, 1, False)


class Unavailable(DfsError, ConnectionError):
    """No leader, no quorum or no node in reach; nothing was done."""

    row = Row("UNAVAILABLE", 14, errno.EHOSTUNREACH, 503, 5, True)


class OutcomeUnknown(DfsError, ConnectionError):
    """The answer was lost: the change was made or not. Repeat it with the same request id."""

    row = Row("OUTCOME_UNKNOWN", 14, errno.ECONNABORTED, 503, 5, False)


class DeadlineExceeded(DfsError, TimeoutError):
    """The time was up. A write may still happen: repeat it with the same request id."""

    row = Row("DEADLINE_EXCEEDED", 4, errno.ETIMEDOUT, 504, 6, False)


class PermissionDenied(DfsError, PermissionError):
    """The caller may not do that."""

    row = Row("PERMISSION_DENIED", 7, errno.EACCES, 403, 1, False)


class Cancelled(DfsError):
    """The caller gave up."""

    row = Row("CANCELLED", 1, errno.ECANCELED, 499, 1, False)


class Unimplemented(DfsError):
    """No such method here."""

    row = Row("UNIMPLEMENTED", 12, errno.ENOSYS, 501, 1, False)


class DataLoss(DfsError):
    """A checksum does not fit and no good copy is at hand."""

    row = Row("DATA_LOSS", 15, errno.EIO, 500, 1, False)


class Internal(DfsError):
    """A bug of dfs."""

    row = Row("INTERNAL", 13, errno.EIO, 500, 1, False)


class Misconfigured(DfsError):
    """The command line, dfs.yaml, a port or a directory is wrong; the text has the remedy."""

    row = Row("MISCONFIGURED", 9, errno.EINVAL, 400, 2, False)


ALL: tuple[type[DfsError], ...] = (
    InvalidArgument, NotFound, FailedPrecondition, Conflict, IsADirectory, NotADirectory, NotEmpty,
    RequestTooOld, NotAMember, OutOfRange, TooLarge, Overloaded, OutOfSpace, Unavailable,
    OutcomeUnknown, DeadlineExceeded, PermissionDenied, Cancelled, Unimplemented, DataLoss,
    Internal, Misconfigured,
)


def remedy(error: BaseException) -> str:
    """What to do when a disk has caused `error`, to be put behind its text; else ""."""
    text = str(error)
    number = getattr(error, "errno", 0)
    if number == errno.ENOSPC or "No space left" in text:
        return "; make room on that disk, then start the node again"
    if number == errno.EIO or "Input/output error" in text:
        return "; look for errors of that disk in the kernel log, then start the node again"
    return ""
