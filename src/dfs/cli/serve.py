"""serve: a node, its agent beside it, and one line when both are ready."""

from __future__ import annotations

import argparse
import asyncio
import logging
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from .. import serve as node
from ..config import EVERYWHERE, Settings, join_address, split_address
from ..contents import DIRECTORY
from ..identity import SOCKET
from ..limits import GRPC_PORT
from . import agents, output, parsing

FORMAT: Final = "%(asctime)s %(levelname)s %(name)s: %(message)s"


def serve_flags(parser: argparse.ArgumentParser) -> None:
    """Arguments of `dfs serve`: the settings, and nothing else."""


def serve(args: argparse.Namespace) -> None:
    """Runs a node until SIGTERM or Ctrl-C."""
    loaded = parsing.settings(args)
    settings = loaded.settings
    start_logging(settings.log_level)
    plan = agents.plan(loaded)._replace(contents=loaded.settings.data / DIRECTORY)
    for line in plan.notes:
        output.note(line)

    endpoints = [f"unix:{(settings.data / SOCKET).absolute()}"]
    supervisor = agents.supervisor(plan, endpoints)

    def report(running: node.Running) -> None:
        if plan.cache is None and plan.mount is None:
            running.node.report_agent({"mount_mode": "off", "problems": plan.notes})

    @asynccontextmanager
    async def companion(running: node.Running) -> AsyncIterator[None]:
        report(running)
        async with agents.running(plan, endpoints, supervisor):
            yield

    def announce(running: node.Running) -> None:
        report(running)  # one that was opened anew does not know it
        ready(settings, plan, running)

    if supervisor is None:
        asyncio.run(node.run(settings, companion, announce))
        return
    supervisor.load()  # Beside all that the node has to do before it can be asked.
    try:
        asyncio.run(node.run(settings, companion, announce))
    finally:
        supervisor.stop()


def start_logging(level: str) -> None:
    """To stderr, one line each."""
    logging.basicConfig(level=level.upper(), stream=sys.stderr, format=FORMAT)


def ready(settings: Settings, plan: agents.Plan, running: node.Running) -> None:
    """One line of what is there, and what to try next."""
    host, port = split_address(settings.grpc, GRPC_PORT)
    endpoint = join_address("localhost" if host in EVERYWHERE else host, port)
    command = output.program()
    where = [f"gRPC {settings.grpc}", f"Raft {settings.raft}", f"data {settings.data}"]
    where += [f"cache {plan.cache}"] if plan.cache else []
    where += [f"mount {plan.mount}"] if plan.mount else []
    output.note(f"{running.identity.name} is ready: {', '.join(where)}. Try:")
    output.note(f"  {command} put greeting -t hello -endpoint {endpoint}")
    output.note(f"  {command} get greeting -endpoint {endpoint}")
    output.note(f"  {command} status -endpoint {endpoint}")
