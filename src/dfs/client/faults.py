"""From a failed gRPC call back to the classes of errors.py, and whether to try again.

Pure: no clock, no sleeping, no sockets. The clients tell `Attempts` what happened and do what
it says.
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from typing import Any, Final, NamedTuple

from .. import errors
from ..errors import DfsError
from ..limits import (
    CLIENT_ATTEMPT_MS_MIN,
    CLIENT_BACKOFF_MS_MAX,
    CLIENT_BACKOFF_MS_MIN,
    CLIENT_CONTACT_MS_MAX,
    CLIENT_LAST_ATTEMPT_MS_MIN,
)

LOST: Final = (
    errors.Unavailable, errors.OutcomeUnknown, errors.DeadlineExceeded, errors.Cancelled
)
"""What says more of the node or the way to it than of the call: another node may do better."""

_UNKNOWN: Final = (errors.OutcomeUnknown, errors.DeadlineExceeded)
"""Of a write: it was done, or not, or will be."""
_NEVER_POSSIBLE: Final = (errors.InvalidArgument, errors.TooLarge)
"""Refusals that hold for every attempt; all others are of a moment, or of one node."""
_BY_REASON: dict[str, type[DfsError]] = {kind.row.reason: kind for kind in errors.ALL}
_BY_CODE: dict[int, type[DfsError]] = {
    1: errors.Cancelled, 3: errors.InvalidArgument, 4: errors.DeadlineExceeded,
    5: errors.NotFound, 7: errors.PermissionDenied, 8: errors.Overloaded,
    9: errors.FailedPrecondition, 11: errors.OutOfRange, 12: errors.Unimplemented,
    14: errors.Unavailable, 15: errors.DataLoss, 16: errors.PermissionDenied,
}
_CAUSES = (
    ("Connection refused", "connection refused"), ("No such file", "no such socket"),
    ("resolution", "the name cannot be resolved"), ("No route", "no route to it"),
    ("timed out", "no answer"),
)
_DETAILS = "grpc-status-details-bin"


class Fault(NamedTuple):
    """Why one attempt failed."""

    error: DfsError
    retry_after_s: float
    """What the node asks to wait; 0 = nothing said."""
    answered: bool
    """A node said so itself; else it is gRPC that found none or lost it."""


def fault(
    code: int, text: str, metadata: Iterable[tuple[str, Any]] | None, endpoint: str, write: bool
) -> Fault:
    """Makes a fault of what gRPC says of a failed call."""
    for name, value in metadata or ():
        if name == _DETAILS:
            reason, particulars, retry_after_s = _details(value)
            if kind := _BY_REASON.get(reason):
                error = kind(text)
                error.metadata.update(particulars)
                return Fault(error, retry_after_s, True)
    if code == 14:
        return Fault(_lost(text, endpoint, write), 0.0, False)
    if code == 4:
        late = "; the write may still happen" if write else ""
        text = f"no answer from {endpoint} in time{late}"
        return Fault(errors.DeadlineExceeded(text), 0.0, False)
    if code == 8 and "larger than max" in text:
        return Fault(errors.TooLarge(text), 0.0, False)
    return Fault(_BY_CODE.get(code, errors.Internal)(text or f"gRPC code {code}"), 0.0, False)


def fault_of(error: Any, endpoint: str, write: bool) -> Fault:
    """What a failed call of gRPC, of either kind, says."""
    return fault(
        error.code().value[0], error.details() or "", error.trailing_metadata(), endpoint, write
    )


def _details(value: bytes) -> tuple[str, dict[str, str], float]:
    """(reason, metadata, seconds to wait) of an encoded google.rpc.Status."""
    # 35 ms, only on the way to an error.
    from google.protobuf.message import DecodeError
    from google.rpc import error_details_pb2, status_pb2

    reason, retry_after_s = "", 0.0
    particulars: dict[str, str] = {}
    info, retry = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
    try:
        for detail in status_pb2.Status.FromString(value).details:
            if detail.Unpack(info) and info.domain == errors.DOMAIN:
                reason, particulars = info.reason, dict(info.metadata)
            elif detail.Unpack(retry):
                retry_after_s = retry.retry_delay.seconds + retry.retry_delay.nanos / 1e9
    except DecodeError:
        return "", {}, 0.0  # The code and the text remain.
    return reason, particulars, retry_after_s


def _lost(text: str, endpoint: str, write: bool) -> DfsError:
    """No connection, or one that broke. Only where none was made is it sure that nothing was done:
    the words of gRPC are the only thing that tells the two apart."""
    if "ailed to connect" in text or "resolution" in text:
        for words, cause in _CAUSES:
            if words in text:
                return errors.Unavailable(f"no node answers at {endpoint}: {cause}")
        return errors.Unavailable(f"no node answers at {endpoint}")
    if write:
        return errors.OutcomeUnknown(f"the connection to {endpoint} broke before the answer came")
    return errors.Unavailable(f"the connection to {endpoint} broke: {text}")


def backoff_s(failures: int, chance: random.Random) -> float:
    """How long to wait after so many failures in a row: doubling, and never the same for all."""
    ceiling_ms = min(CLIENT_BACKOFF_MS_MAX, CLIENT_BACKOFF_MS_MIN << min(failures, 10))
    return chance.uniform(ceiling_ms / 2, ceiling_ms) / 1000


class Attempts:
    """One call's way through its attempts: how long each may take, whether there is another."""

    def __init__(
        self, now_s: float, timeout_s: float, *, write: bool, repeatable: bool, request_id: bytes,
        chance: random.Random,
    ) -> None:
        self.begin_s, self.end_s = now_s, now_s + timeout_s
        self.write, self.repeatable, self.request_id = write, repeatable, request_id
        self.count = 0
        self._unknown = False
        self._chance = chance

    def timeout_s(self, now_s: float, endpoints: int) -> float:
        """For the attempt that begins now; leaves time for another endpoint where there is one."""
        left = max(self.end_s - now_s, 0.001)
        return left if endpoints < 2 else max(left / 2, min(left, CLIENT_ATTEMPT_MS_MIN / 1000))

    def failed(self, now_s: float, fault: Fault, *, contact: bool, fresh: bool) -> float:
        """Seconds to wait before the next attempt; raises the call's error when there is none.

        `contact`: a node has answered this client at some time. `fresh`: the next attempt goes to
        an endpoint that has not failed in this call yet.
        """
        error = fault.error
        unknown = isinstance(error, _UNKNOWN)
        self._unknown = self._unknown or unknown
        self.count += 1
        wanted = error.row.retry or (
            self.repeatable and (unknown or isinstance(error, errors.Unavailable))
        )
        wait = 0.0 if fresh else backoff_s(self.count, self._chance)
        wait = max(wait, fault.retry_after_s)
        end_s = self.end_s
        if not contact and not fault.answered:
            end_s = min(end_s, self.begin_s + CLIENT_CONTACT_MS_MAX / 1000)
        # A node needs some time to say why it cannot: a shorter attempt would end in silence.
        least_s = CLIENT_LAST_ATTEMPT_MS_MIN / 1000 if fault.answered else 0.0
        if not wanted or now_s + wait + least_s >= end_s:
            raise self._verdict(error)
        return wait

    def _verdict(self, error: DfsError) -> DfsError:
        """The error that is true of the call as a whole."""
        if self.write and self._unknown and not isinstance(error, _UNKNOWN + _NEVER_POSSIBLE):
            # "Nothing was done" holds for the last attempt only. One before may have been, or still
            # be on its way, and find a state and a node that do not forbid it.
            error = errors.OutcomeUnknown(f"{error.text}; an earlier attempt may succeed yet")
        if isinstance(error, _UNKNOWN):
            error.metadata["request_id"] = self.request_id.hex()
        return error
