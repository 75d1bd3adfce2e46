"""The agent's socket: what it answers, to whom, and what it does with bad requests."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from dfs.cache.asking import ask, place, short
from dfs.cache.control import Control, Request, Tell
from dfs.errors import InvalidArgument, NotFound, Overloaded, Unavailable
from dfs.limits import AGENT_CONNECTIONS_MAX, AGENT_LINE_BYTES_MAX

from .cache_rig import Rig, wait_until


class Served:
    """A socket with a few operations."""

    def __init__(self, state: Path) -> None:
        self.began, self.ended = 0, 0
        self.go_on = asyncio.Event()
        self.control = Control(str(state), {
            "echo": self._echo, "wait": self._wait, "fail": self._fail, "break": self._break,
        })
        self.path = self.control.path

    async def __aenter__(self) -> Served:
        self._task = asyncio.create_task(self.control.run())
        await wait_until("it listens", lambda: Path(self.path).exists())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def ask(self, op: str, on_progress: Any = None, **arguments: Any) -> Any:
        return await asyncio.to_thread(ask, self.path, op, on_progress, **arguments)

    async def _echo(self, request: Request, tell: Tell) -> Mapping[str, Any]:
        return dict(request)

    async def _wait(self, request: Request, tell: Tell) -> Mapping[str, Any]:
        self.began += 1
        try:
            await tell({"done": 1})
            await self.go_on.wait()
        finally:
            self.ended += 1
        return {}

    async def _fail(self, request: Request, tell: Tell) -> Mapping[str, Any]:
        raise NotFound("there is no such thing")

    async def _break(self, request: Request, tell: Tell) -> Mapping[str, Any]:
        raise KeyError("a bug")


async def raw(path: str, data: bytes) -> dict[str, Any]:
    """The answer to those bytes."""
    with short(path) as name:
        reader, writer = await asyncio.open_unix_connection(name)
    writer.write(data)
    answer = await reader.readline()
    writer.close()
    found: dict[str, Any] = json.loads(answer)
    return found


async def test_a_request_is_answered_with_its_progress(tmp_path: Path) -> None:
    async with Served(tmp_path) as served:
        assert (await served.ask("echo", paths=["ä"]))["paths"] == ["ä"]
        told: list[Mapping[str, Any]] = []
        asked = asyncio.create_task(served.ask("wait", told.append))
        await wait_until("it is told", lambda: told == [{"done": 1}])
        served.go_on.set()
        assert await asked == {}


@pytest.mark.allow_logs("an operation that was asked for failed")
async def test_errors_come_as_they_were_raised(tmp_path: Path) -> None:
    async with Served(tmp_path) as served:
        with pytest.raises(NotFound, match="there is no such thing"):
            await served.ask("fail")
        with pytest.raises(InvalidArgument, match="cannot do 'dance'"):
            await served.ask("dance")
        with pytest.raises(Exception, match="unexpected failure"):
            await served.ask("break")
        assert await served.ask("echo") == {"op": "echo"}


async def test_what_is_no_request_is_refused_and_bounded(tmp_path: Path) -> None:
    async with Served(tmp_path) as served:
        assert "no line of JSON" in (await raw(served.path, b"hello\n"))["error"]["text"]
        assert "no JSON object" in (await raw(served.path, b"[1]\n"))["error"]["text"]
        long = b'{"op": "' + b"x" * (2 * AGENT_LINE_BYTES_MAX) + b'"}\n'
        assert "name fewer paths" in (await raw(served.path, long))["error"]["text"]


async def test_there_are_only_so_many_callers_at_once(tmp_path: Path) -> None:
    async with Served(tmp_path) as served:
        with short(served.path) as name:
            waiting = [
                await asyncio.open_unix_connection(name) for _ in range(AGENT_CONNECTIONS_MAX)
            ]
        for _, writer in waiting:
            writer.write(b'{"op": "wait"}\n')
        await wait_until("all wait", lambda: served.began == AGENT_CONNECTIONS_MAX)
        with pytest.raises(Overloaded):
            await served.ask("echo")
        served.go_on.set()
        for reader, writer in waiting:
            assert (await reader.read()).endswith(b'{"result": {}}\n')
            writer.close()
        assert await served.ask("echo") == {"op": "echo"}


async def test_who_hangs_up_ends_what_was_asked_for(tmp_path: Path) -> None:
    async with Served(tmp_path) as served:
        with short(served.path) as name:
            _, writer = await asyncio.open_unix_connection(name)
        writer.write(b'{"op": "wait"}\n')
        await wait_until("it began", lambda: served.began == 1)
        writer.close()
        await wait_until("it ended", lambda: served.ended == 1)


async def test_the_socket_of_a_dead_agent_is_replaced_by_one_for_its_user_alone(
    tmp_path: Path,
) -> None:
    deep = tmp_path / ("d" * 200)
    deep.mkdir()
    dead = socket.socket(socket.AF_UNIX)
    with short(str(deep / "agent.sock")) as name:
        dead.bind(name)
    dead.close()
    assert place(str(deep)) == str(deep / "agent.sock")
    with pytest.raises(Unavailable, match="no agent answers"):
        await asyncio.to_thread(ask, place(str(deep)), "echo")
    async with Served(deep) as served:
        await wait_until("it is the new one", lambda: stat.S_IMODE(
            os.stat(served.path).st_mode) == 0o600)
        assert await served.ask("echo") == {"op": "echo"}
    assert not Path(served.path).exists()


async def test_an_agent_says_how_it_is_without_a_node(tmp_path: Path) -> None:
    async with Rig(tmp_path) as rig:
        rig.drop("file", b"data")
        await rig.shown("file", b"data")
        found = await asyncio.to_thread(ask, place(str(rig.state)), "report")
        assert found["cache"] == str(rig.cache)
        assert (found["files"], found["problems"]) == (1, [])


@pytest.mark.allow_logs("agent.sock cannot be made")
async def test_an_agent_goes_on_where_there_can_be_no_socket(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    (rig.state / "agent.sock.new").mkdir(parents=True)
    async with rig:
        await wait_until("it is said", lambda: "the like do not work" in rig.problems())
        rig.drop("file", b"data")
        await rig.shown("file", b"data")
