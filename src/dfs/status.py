"""Errors as gRPC shows them: code, sentence, and an encoded google.rpc.Status for programs.

The status holds an ErrorInfo (reason, domain "dfs", metadata such as the limit or the leader) and,
where the call may be repeated as it is, a RetryInfo. It travels in the `grpc-status-details-bin`
trailer. Which class has which code and reason stands in errors.py alone.
"""

from typing import Final

from google.protobuf.any_pb2 import Any
from google.protobuf.message import DecodeError
from google.rpc.error_details_pb2 import ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status

from . import errors, limits

Failure = tuple[int, str, bytes]
"""(gRPC code, sentence, encoded google.rpc.Status): how a refusal crosses the Rust boundary."""

TRAILER: Final = "grpc-status-details-bin"
REASONS: Final = {kind.row.reason: kind for kind in reversed(errors.ALL)}
CODES: Final = {kind.row.code: kind for kind in reversed(errors.ALL)}
"""The class for a code that came without a reason: the most general one with that code."""
CODES[8] = errors.Overloaded
CODES[14] = errors.Unavailable


def failure(error: errors.DfsError) -> Failure:
    """What a caller is told of `error`."""
    row = error.row
    status = Status(code=row.code, message=error.text)
    _add(status, ErrorInfo(reason=row.reason, domain=errors.DOMAIN, metadata=error.metadata))
    if row.retry:
        retry = RetryInfo()
        retry.retry_delay.FromMilliseconds(limits.RETRY_DELAY_MS)
        _add(status, retry)
    return row.code, error.text, status.SerializeToString(deterministic=True)


def error(code: int, text: str, details: bytes = b"") -> errors.DfsError:
    """The reverse of `failure`: the class by its reason, else by its code; never raises."""
    kind = CODES.get(code, errors.DfsError)
    metadata: dict[str, str] = {}
    try:
        for part in Status.FromString(details).details:
            info = ErrorInfo()
            if part.Unpack(info) and info.domain == errors.DOMAIN:
                kind = REASONS.get(info.reason, kind)
                metadata = dict(info.metadata)
    except DecodeError:  # details of somebody else's making
        pass
    return kind(text, **metadata)


def _add(status: Status, detail: ErrorInfo | RetryInfo) -> None:
    packed = Any()
    packed.Pack(detail, deterministic=True)
    status.details.append(packed)


# What Rust answers by itself. It appends ": " and particulars where it has some.
_TEXTS: Final[dict[str, errors.DfsError]] = {
    "no_leader": errors.Unavailable("no leader, nothing was done"),
    "outcome_unknown": errors.OutcomeUnknown(
        "the outcome is unknown, the change was made or not; repeat it with the same request id"
    ),
    "overloaded": errors.Overloaded("this node has more work than it accepts, nothing was done"),
    "deadline": errors.DeadlineExceeded(
        "the time was up; a write may still happen: repeat it with the same request id"
    ),
    "too_large": errors.TooLarge(
        f"the message is over MESSAGE_BYTES_MAX ({limits.MESSAGE_BYTES_MAX} bytes), made for values"
        f" up to VALUE_BYTES_MAX ({limits.VALUE_BYTES_MAX}); both stand in dfs/limits.py",
        limit="MESSAGE_BYTES_MAX",
        bytes=str(limits.MESSAGE_BYTES_MAX),
    ),
    "metadata_too_large": errors.TooLarge(
        f"the headers are over METADATA_BYTES_MAX ({limits.METADATA_BYTES_MAX} bytes,"
        " dfs/limits.py)",
        limit="METADATA_BYTES_MAX",
        bytes=str(limits.METADATA_BYTES_MAX),
    ),
    "shutting_down": errors.Unavailable("this node is shutting down, nothing was done"),
    "malformed": errors.InvalidArgument("the request is not a well-formed message"),
    "unimplemented": errors.Unimplemented("no such method"),
    "not_loopback": errors.PermissionDenied(
        "this node answers only callers on its own machine while it has no authentication;"
        " DFS_INSECURE=true opens it to the network"
    ),
    "needs_tls": errors.PermissionDenied(
        "this port speaks TLS only, and you called without; give your client the certificate of"
        " the authority"
    ),
}


def engine_failures() -> dict[str, Failure]:
    """The engine's `failures` table: one row for each kind that Rust can answer by itself."""
    return {kind: failure(error) for kind, error in _TEXTS.items()}


def engine_error(kind: str) -> errors.DfsError:
    """A fresh error of a kind in the engine's table, for the host that is not Rust."""
    found = _TEXTS[kind]
    return type(found)(found.text, **found.metadata)
