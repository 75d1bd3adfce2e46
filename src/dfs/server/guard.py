"""What surrounds every method: deadlines, and refusals with code, sentence and details."""

import asyncio
from collections.abc import Awaitable
from typing import Any, Final, NoReturn, TypeVar

import grpc

from .. import status
from ..limits import DEADLINE_MS_DEFAULT, DEADLINE_MS_MAX, MESSAGE_BYTES_MAX
from ..node import Failure
from .hot import failure_of

T = TypeVar("T")
Context = grpc.aio.ServicerContext[Any, Any]
CODES: Final = {code.value[0]: code for code in grpc.StatusCode}
GRACE_S: Final = 0.25
"""Beyond the deadline: the engine knows better why nothing came, so it may answer first."""
_NOBODY: Final = "nobody waits for this call any more"


def timeout_ms(context: Context) -> int:
    """What is left of the caller's deadline, within what this node allows."""
    left: float | None = context.time_remaining()
    if left is None:
        return DEADLINE_MS_DEFAULT
    return max(1, min(int(left * 1000), DEADLINE_MS_MAX))


def check_size(body: bytes) -> None:
    """Refuses a message over the limit as the engine's port does."""
    if len(body) > MESSAGE_BYTES_MAX:
        raise status.engine_error("too_large")


async def guarded(context: Context, work: Awaitable[T], timeout: int = 0) -> T:
    """The outcome of `work`; whatever it raises becomes a refusal that names no internals.

    `timeout`: milliseconds; 0 = none.
    """
    try:
        async with asyncio.timeout(timeout / 1000 + GRACE_S if timeout else None):
            return await work
    except grpc.aio.InternalError as error:  # grpcio's own: it sent to a caller who has gone
        raise asyncio.CancelledError(_NOBODY) from error
    except Exception as error:  # boundary: all that a method raises becomes a refusal
        failure = failure_of(error)
    return await refuse(context, failure)


async def refuse(context: Context, failure: Failure) -> NoReturn:
    """Ends the call with a refusal; never returns."""
    code, text, details = failure
    try:
        await context.abort(CODES[code], text, ((status.TRAILER, details),))
    except grpc.aio.AbortError:
        raise
    except Exception as error:  # boundary: grpcio's own, when the call has ended meanwhile
        raise asyncio.CancelledError(_NOBODY) from error
