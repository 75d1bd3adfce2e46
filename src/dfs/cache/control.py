"""How programs of this machine talk to the agent: a socket, `<state>/agent.sock`.

One request a connection, as one line of JSON, and lines of JSON for an answer:

    {"op": "pin", "paths": ["etc"]}
    {"progress": {…}}                                while it is done; {} says "still at it"
    {"result": {…}}    or    {"error": {"reason": "NOT_FOUND", "text": "…"}}

Only the user of the agent may connect (0600). Whoever hangs up ends what was asked for.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import socket
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, NoReturn

from ..errors import DfsError, Internal, InvalidArgument, Overloaded
from ..limits import (
    AGENT_ALIVE_MS,
    AGENT_CONNECTIONS_MAX,
    AGENT_LINE_BYTES_MAX,
    AGENT_REQUEST_MS_MAX,
)
from .asking import SOCKET, short

log = logging.getLogger(__name__)

Request = Mapping[str, Any]
Tell = Callable[[Mapping[str, Any]], Awaitable[None]]
"""Tells whoever waits how far it is."""
Operation = Callable[[Request, Tell], Awaitable[Mapping[str, Any]]]
"""Does what is asked and returns the result. Raises DfsError."""


def paths_of(request: Request) -> list[str]:
    """The paths that a request names. Raises InvalidArgument."""
    paths = request.get("paths", [])
    if not isinstance(paths, list) or not all(isinstance(path, str) for path in paths):
        raise InvalidArgument("`paths` is no list of texts")
    return paths


class Control:
    """The server of the socket."""

    def __init__(self, state: str, operations: Mapping[str, Operation]) -> None:
        self.path = os.path.join(state, SOCKET)
        self._operations = operations
        self._open: set[asyncio.Task[None]] = set()

    async def run(self) -> NoReturn:
        """Answers for ever. The caller has the state directory locked: a socket that is there is
        that of a dead agent, and is replaced."""
        listening = _listen(self.path)
        server = await asyncio.start_unix_server(
            self._accept, sock=listening, limit=AGENT_LINE_BYTES_MAX
        )
        try:
            await server.serve_forever()
        finally:
            server.close()
            with contextlib.suppress(OSError):
                os.unlink(self.path)
            for task in self._open:
                task.cancel()
            await asyncio.gather(*self._open, return_exceptions=True)
        raise AssertionError("a server ends by being cancelled")

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(self._open) >= 2 * AGENT_CONNECTIONS_MAX:
            writer.close()  # Half of them are being told that they are too many.
            return
        task = asyncio.create_task(self._serve(reader, writer))
        self._open.add(task)
        task.add_done_callback(self._open.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await self._answer(reader, writer)
        except (ConnectionError, TimeoutError):
            log.debug("a caller of %s hung up", self.path)
        finally:
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async def tell(found: Mapping[str, Any]) -> None:
            await _send(writer, {"progress": found})

        try:
            request = await _read(reader)
            if len(self._open) > AGENT_CONNECTIONS_MAX:
                raise Overloaded(f"the agent is asked {AGENT_CONNECTIONS_MAX} things at once; try "
                                 "again when some are done")
            operation = self._operations.get(str(request.get("op")))
            if operation is None:
                raise InvalidArgument(f"the agent cannot do {str(request.get('op'))!r}; is it of "
                                      "another version? Start it again")
            result = await self._do(operation(request, tell), reader, tell)
            await _send(writer, {"result": result})
        except DfsError as error:
            await _send(writer, {"error": {"reason": error.row.reason, "text": error.text}})
        except (ConnectionError, TimeoutError):
            raise
        except Exception as error:  # boundary: a bug in one operation must not end the agent
            log.exception("an operation that was asked for failed")
            text = f"unexpected failure of the agent ({error}); see its log"
            await _send(writer, {"error": {"reason": Internal.row.reason, "text": text}})

    async def _do(
        self, work: Awaitable[Mapping[str, Any]], reader: asyncio.StreamReader, tell: Tell
    ) -> Mapping[str, Any]:
        """Waits for the work, shows that it goes on, and ends it when the caller hangs up."""
        working = asyncio.ensure_future(work)
        leaving = asyncio.ensure_future(reader.read(1))
        try:
            while True:
                await asyncio.wait(
                    {working, leaving}, timeout=AGENT_ALIVE_MS / 1000,
                    return_when=asyncio.FIRST_COMPLETED,
                )
                if working.done():
                    return working.result()
                if leaving.done():
                    raise ConnectionResetError("the caller hung up")
                await tell({})
        finally:
            for task in (working, leaving):
                task.cancel()
            await asyncio.gather(working, leaving, return_exceptions=True)


async def _read(reader: asyncio.StreamReader) -> Request:
    try:
        async with asyncio.timeout(AGENT_REQUEST_MS_MAX / 1000):
            line = await reader.readline()
    except ValueError:
        raise InvalidArgument(
            f"the request has more than {AGENT_LINE_BYTES_MAX:,} bytes; name fewer paths at once"
        ) from None
    if not line:
        raise ConnectionResetError("the caller hung up")
    try:
        request = json.loads(line)
    except ValueError as error:
        raise InvalidArgument(f"the request is no line of JSON: {error}") from None
    if not isinstance(request, dict):
        raise InvalidArgument("the request is no JSON object")
    return request


async def _send(writer: asyncio.StreamWriter, message: Mapping[str, Any]) -> None:
    writer.write(json.dumps(message).encode() + b"\n")
    async with asyncio.timeout(AGENT_REQUEST_MS_MAX / 1000):
        await writer.drain()


# ---- the socket ----------------------------------------------------------------------------------
def _listen(path: str) -> socket.socket:
    """A socket that appears at `path` when it is for its user alone."""
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    fresh = f"{path}.new"
    try:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(fresh)
        with short(fresh) as name:
            listening.bind(name)
        os.chmod(fresh, 0o600)
        listening.listen(AGENT_CONNECTIONS_MAX)
        os.rename(fresh, path)
    except BaseException:
        listening.close()
        raise
    return listening
