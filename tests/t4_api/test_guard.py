"""How a call ends with a refusal."""

import asyncio

import grpc
import pytest

from dfs.server import guard

FAILURE = (5, "no such key: k", b"details")


class Context:
    """A call whose `abort` does what grpcio's does."""

    def __init__(self, end: Exception) -> None:
        self.end, self.aborted = end, ()

    async def abort(self, *arguments: object) -> None:
        self.aborted = arguments
        raise self.end


async def test_a_refusal_has_code_sentence_and_details() -> None:
    context = Context(grpc.aio.AbortError())
    with pytest.raises(grpc.aio.AbortError):
        await guard.refuse(context, FAILURE)  # type: ignore[arg-type]
    code, text, trailers = context.aborted
    assert (code, text) == (grpc.StatusCode.NOT_FOUND, "no such key: k")
    assert trailers == (("grpc-status-details-bin", b"details"),)


async def test_a_call_that_has_ended_meanwhile_is_no_error() -> None:
    context = Context(RuntimeError('Failed "execute_batch"'))
    with pytest.raises(asyncio.CancelledError):
        await guard.refuse(context, FAILURE)  # type: ignore[arg-type]


async def test_an_answer_to_a_caller_who_has_gone_is_no_error() -> None:
    """As when who reads a large file closes it: nothing is logged."""
    async def work() -> None:
        raise grpc.aio.InternalError('Failed "execute_batch"')

    context = Context(RuntimeError("the call has ended"))
    with pytest.raises(asyncio.CancelledError):
        await guard.guarded(context, work())  # type: ignore[arg-type]
    assert context.aborted == ()
