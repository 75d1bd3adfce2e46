"""Asks the agent of this machine; see `control`. Blocks: for the command line."""

from __future__ import annotations

import contextlib
import json
import os
import socket
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from ..errors import ALL, Internal, Unavailable
from ..limits import AGENT_SILENCE_MS_MAX

SOCKET: Final = "agent.sock"

Progress = Callable[[Mapping[str, Any]], None]


@contextlib.contextmanager
def short(path: str) -> Iterator[str]:
    """A name for a socket that is short enough for the kernel, however long `path` is."""
    directory = os.open(os.path.dirname(path) or ".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{directory}/{os.path.basename(path)}"
    finally:
        os.close(directory)


def place(path: str) -> str:
    """The socket, where a state directory or the socket itself is named."""
    return os.path.join(path, SOCKET) if os.path.isdir(path) else path


def ask(path: str, op: str, on_progress: Progress | None = None, **arguments: Any) -> Any:
    """Has the agent at the socket `path` do `op`; returns its result. Raises DfsError."""
    try:
        answer = _exchange(path, {"op": op, **arguments}, on_progress or (lambda _: None))
    except TimeoutError:
        raise Unavailable(f"the agent at {path} says nothing; look into its log") from None
    except OSError as error:
        raise Unavailable(
            f"no agent answers at {path} ({error.strerror}). Try: the -state directory of a node "
            "or a `dfs mount` that runs here"
        ) from None
    if answer is None:
        raise Unavailable(f"the agent at {path} ended before it answered; look into its log")
    return _result(answer)


def _exchange(path: str, request: Mapping[str, Any], on_progress: Progress) -> Any:
    """The last line of the answer; None if there is none."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(AGENT_SILENCE_MS_MAX / 1000)
        with short(path) as name:
            connection.connect(name)
        connection.sendall(json.dumps(request).encode() + b"\n")
        with connection.makefile("rb") as answers:
            for line in answers:
                answer = json.loads(line)
                if "progress" not in answer:
                    return answer
                if answer["progress"]:
                    on_progress(answer["progress"])
    return None


def _result(answer: Mapping[str, Any]) -> Any:
    if "result" in answer:
        return answer["result"]
    error = answer["error"]
    kinds = {kind.row.reason: kind for kind in ALL}
    raise kinds.get(error["reason"], Internal)(error["text"])
