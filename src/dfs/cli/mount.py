"""mount: cache and mount on a machine that is no node.

In the background two processes share the work: the first returns when the mount can be read, or
says why not; the second serves it, with its log in a file of the state directory.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final, NoReturn

from ..config import Loaded
from ..errors import DfsError, Misconfigured, Unavailable
from ..limits import MOUNT_REACH_MS_MAX, MOUNT_SERVED_MS_MAX
from . import agents, output, parsing
from .serve import start_logging

LOG: Final = "mount.log"
"""Below the state directory: of a mount in the background."""
SERVED: Final = b"served"
"""What the second process tells the first when all is well; else it tells why not."""
TOLD_BYTES_MAX: Final = 1 << 16
"""Of one message between the two: what a pipe takes at once."""


def mount_flags(parser: argparse.ArgumentParser) -> None:
    """Arguments of `dfs mount`, besides the settings."""
    parser.add_argument(
        "--servers", dest="endpoint", metavar="HOST:PORT,…", help="The same as -endpoint."
    )
    parser.add_argument(
        "--background", action="store_true",
        help="Return when the mount can be read. `umount DIR` ends it.",
    )


def mount(args: argparse.Namespace) -> None:
    """Serves the directories until SIGTERM, Ctrl-C or umount."""
    loaded = parsing.settings(args)
    start_logging(loaded.settings.log_level)
    plan = agents.plan(loaded)
    for line in plan.notes:
        output.note(line)
    if plan.cache is None and plan.mount is None:
        raise Misconfigured("there is neither a cache nor a mount to serve; name one with -mount")
    if args.background:
        _in_background(loaded, plan)
    else:
        asyncio.run(_run(plan, loaded.settings.endpoint, lambda: None))


async def _run(
    plan: agents.Plan, endpoints: tuple[str, ...], served: Callable[[], None],
    served_s: float | None = None,
) -> None:
    """Calls `served` when the mount can be read. Raises DfsError, also when that takes longer than
    `served_s`."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    await _reach(endpoints)
    places = [str(path) for path in (plan.cache, plan.mount) if path is not None]

    def unmounted() -> None:
        output.note(f"{plan.mount} was unmounted")
        loop.call_soon_threadsafe(stop.set)

    supervisor = agents.supervisor(plan, endpoints, unmounted)
    async with agents.running(plan, endpoints, supervisor):
        if plan.mount is not None and not await _served(plan.mount, stop, served_s):
            return
        output.note(f"serving {' and '.join(places)} from {', '.join(endpoints)}")
        served()
        await stop.wait()


async def _reach(endpoints: tuple[str, ...]) -> None:
    """A wrong address is said at once, before anything is mounted. Raises DfsError."""
    from ..client import AsyncClient

    async with AsyncClient(*endpoints, learn=False) as client:
        try:
            await client.members(timeout=MOUNT_REACH_MS_MAX / 1000)
        except Unavailable as error:
            text = f"none of the servers answers, so nothing is mounted: {error.text}"
            raise Unavailable(text, **error.metadata) from error


async def _served(path: Path, stop: asyncio.Event, timeout_s: float | None) -> bool:
    """Waits until the agent answers the kernel, which is when the tree is here; False when we are
    to stop first. Raises Unavailable."""
    looking = asyncio.create_task(asyncio.to_thread(os.statvfs, path))
    stopping = asyncio.create_task(stop.wait())
    done, _ = await asyncio.wait(
        (looking, stopping), timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED
    )
    stopping.cancel()
    if not done:
        raise Unavailable(
            f"{path} did not show the tree within {timeout_s:g} s; the agent's log says why"
        )
    if looking not in done:
        return False
    try:
        looking.result()
    except OSError as error:
        raise Unavailable(f"{path} is mounted and cannot be read ({error.strerror})") from error
    return True


# ---- in the background ---------------------------------------------------------------------------
def _in_background(loaded: Loaded, plan: agents.Plan) -> None:
    """Returns when the mount can be read; another process serves it from then on. Raises
    Misconfigured with what that one said."""
    log = _log_of(loaded.settings.state)
    reading, writing = os.pipe()
    if os.fork() == 0:  # Nothing has started a thread yet.
        os.close(reading)
        _serve_and_exit(loaded, plan, writing, log)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        told = pipe.read(TOLD_BYTES_MAX)
    if told != SERVED:
        text = told.decode(errors="replace") or "the process that serves it ended"
        raise Misconfigured(f"{text}; its log is {log}")


def _log_of(state: Path) -> Path:
    try:
        state.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise Misconfigured(
            f"the state directory {state} cannot be made ({error.strerror}); choose another with "
            "-state"
        ) from None
    return state.absolute() / LOG


def _serve_and_exit(loaded: Loaded, plan: agents.Plan, told: int, log: Path) -> NoReturn:
    """The second process: a session of its own, standard output and error in the log."""
    code = 1
    try:
        os.setsid()
        nothing = os.open(os.devnull, os.O_RDONLY)
        written = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        for number, own in ((nothing, 0), (written, 1), (written, 2)):
            os.dup2(number, own)

        def served() -> None:
            os.write(told, SERVED)
            os.close(told)

        asyncio.run(_run(
            plan, loaded.settings.endpoint, served, MOUNT_SERVED_MS_MAX / 1000
        ))
        code = 0
    except DfsError as error:
        output.error(error.text)
        with contextlib.suppress(OSError):  # It was served already: nobody listens any more.
            os.write(told, error.text.encode()[:TOLD_BYTES_MAX])
        code = error.row.exit
    except BaseException as error:  # boundary: the last that this process says
        sys.excepthook(type(error), error, error.__traceback__)
    finally:
        sys.stderr.flush()
        os._exit(code)
