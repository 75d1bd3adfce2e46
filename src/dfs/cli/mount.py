"""mount: cache and mount on a machine that is no node."""

from __future__ import annotations

import argparse
import asyncio
import signal

from ..errors import Misconfigured
from . import agents, output, parsing
from .serve import start_logging


def mount_flags(parser: argparse.ArgumentParser) -> None:
    """Arguments of `dfs mount`: the settings, and nothing else."""


def mount(args: argparse.Namespace) -> None:
    """Serves the directories until SIGTERM or Ctrl-C."""
    loaded = parsing.settings(args)
    start_logging(loaded.settings.log_level)
    plan = agents.plan(loaded)
    for line in plan.notes:
        output.note(line)
    if plan.cache is None and plan.mount is None:
        raise Misconfigured("there is neither a cache nor a mount to serve; name one with -mount")
    asyncio.run(_run(plan, loaded.settings.endpoint))


async def _run(plan: agents.Plan, endpoints: tuple[str, ...]) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with agents.running(plan, endpoints):
        places = [str(path) for path in (plan.cache, plan.mount) if path is not None]
        output.note(f"serving {' and '.join(places)} from {', '.join(endpoints)}")
        await stop.wait()
