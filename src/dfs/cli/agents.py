"""The agent of this machine: whether its directories can be used, and the process that uses them.

A directory that somebody asked for must be usable, else nothing is started. The defaults are an
offer: where /mnt/hostfs and /mnt/dfs are not there, one line says how to get them.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from ..config import NUMERIC, Loaded
from ..errors import Misconfigured
from ..limits import (
    AGENT_RESTART_MS_MAX,
    AGENT_RESTART_MS_MIN,
    AGENT_STABLE_MS,
    AGENT_STOP_MS_MAX,
)
from ..sizes import FreeSpace

if TYPE_CHECKING:
    from ..mount import MountSupervisor

log = logging.getLogger("dfs.agent")

MODULE: Final = "dfs.cache.agent"


class Plan(NamedTuple):
    """What an agent can do here."""

    cache: Path | None
    mount: Path | None
    mount_asked: bool
    """It is no default: without it nothing is served."""
    state: Path
    contents: Path | None
    """The directory of large contents of the node on this machine."""
    name: str
    cache_size: int
    cache_free: FreeSpace
    delete_delay: float | None
    """None: what is removed from the cache directory stays in the tree."""
    notes: list[str]
    """One line for each thing that is missing, with its remedy."""
    xattr: bool = False
    no_open: bool = False
    owners: bool = False

    def argv(self, endpoints: Sequence[str], fd: int = -1, adopt: bool = False) -> list[str]:
        """The command line of the agent's process."""
        words = [sys.executable, "-P", "-m", MODULE, "--state", str(self.state.absolute())]
        words += ["--name", self.name]
        if self.contents is not None:
            words += ["--contents", str(self.contents.absolute())]
        for endpoint in endpoints:
            words += ["--endpoint", endpoint]
        words += ["--cache-size", str(self.cache_size), "--cache-free", str(self.cache_free)]
        if self.delete_delay is not None:
            words += ["--propagate-deletes", "--delete-delay", str(self.delete_delay)]
        words += ["--owners"] if self.owners else []
        if self.cache is not None:
            words += ["--cache", str(self.cache.absolute())]
        if self.mount is not None and fd >= 0:
            words += ["--mount", str(self.mount.absolute()), "--fuse-fd", str(fd)]
            words += ["--xattr"] if self.xattr else []
            words += ["--no-open"] if self.no_open else []
        return [*words, "--adopt"] if adopt else words


def plan(loaded: Loaded) -> Plan:
    """Looks at the directories and changes nothing, except that a dead mount is taken away. Raises
    Misconfigured for one that was asked for and cannot be used."""
    settings, notes = loaded.settings, list[str]()
    chosen: dict[str, Path | None] = {}
    for name, check in (("cache", _check_cache), ("mount", _check_mount)):
        path: Path | None = getattr(settings, name)
        chosen[name] = path
        if path is None:
            continue
        asked = loaded.given(name)
        try:
            if asked and _absent(path):
                _check_creatable(path, name)
            else:
                check(path)
        except Misconfigured as error:
            if asked:
                raise
            chosen[name] = None
            notes.append(f"no {name}: {error.text}; or choose another with -{name}")
    return Plan(
        chosen["cache"], chosen["mount"], loaded.given("mount"), settings.state, None, settings.id,
        settings.cache_size, settings.cache_free,
        settings.delete_delay if settings.propagate_deletes else None, notes, settings.xattr,
        settings.no_open, settings.owner == NUMERIC,
    )


def _absent(path: Path) -> bool:
    """Nothing is there. A mount of somebody who died, or who hangs, is not touched to find out."""
    from ..mount import locate, top_mount

    return top_mount(locate(str(path))) is None and not os.path.lexists(path)


def _check_cache(path: Path) -> None:
    if not path.exists():
        raise Misconfigured(f"{path} does not exist; make it (mkdir -p {path})")
    if not path.is_dir():
        raise Misconfigured(f"{path} is no directory")
    if not os.access(path, os.R_OK | os.W_OK | os.X_OK):
        raise Misconfigured(f"{path} may not be used by this user; try: ls -ld {path}")


def _check_mount(path: Path) -> None:
    from ..mount import check_device, check_mountpoint

    check_mountpoint(str(path))
    check_device()


def _check_creatable(path: Path, name: str) -> None:
    """It will be made later, when the node has started."""
    above = next(p for p in path.absolute().parents if p.exists())
    if not above.is_dir() or not os.access(above, os.W_OK | os.X_OK):
        raise Misconfigured(f"{path} cannot be made in {above}; choose another with -{name}")
    if name == "mount":
        from ..mount import check_device

        check_device()


@asynccontextmanager
async def running(
    plan: Plan, endpoints: Sequence[str], unmounted: Callable[[], None] | None = None
) -> AsyncIterator[None]:
    """An agent for as long as the block lasts. `unmounted`: see MountSupervisor. Raises
    Misconfigured."""
    for path in (plan.cache, plan.mount):
        if path is not None:
            _make(path)
    supervisor = await _mounted(plan, endpoints, unmounted)
    try:
        async with _cache_only(plan if supervisor is None else None, endpoints):
            yield
    finally:
        if supervisor is not None:
            await asyncio.to_thread(supervisor.stop)


async def _mounted(
    plan: Plan, endpoints: Sequence[str], unmounted: Callable[[], None] | None
) -> MountSupervisor | None:
    """Mounts. That it is forbidden may show only now: then only a mount that was asked for is worth
    stopping for."""
    if plan.mount is None:
        return None
    from ..mount import MountSupervisor

    def argv(fd: int, adopt: bool) -> list[str]:
        return plan.argv(endpoints, fd, adopt)

    supervisor = MountSupervisor(
        argv, str(plan.mount), env=environment(), unmounted=unmounted
    )
    try:
        await asyncio.to_thread(supervisor.start)
    except Misconfigured as error:
        if plan.mount_asked:
            raise
        log.warning("no mount: %s", error.text)
        return None
    return supervisor


def _make(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise Misconfigured(f"{path} cannot be made: {error.strerror}") from None


def environment() -> dict[str, str]:
    """For the agent: it finds the same modules as this process."""
    paths = [p for p in sys.path if p and Path(p, "dfs").is_dir()]
    before = os.environ.get("PYTHONPATH")
    found = dict(os.environ)
    if paths:
        found["PYTHONPATH"] = os.pathsep.join(dict.fromkeys(
            [*paths, *(before.split(os.pathsep) if before else [])]
        ))
    return found


@asynccontextmanager
async def _cache_only(plan: Plan | None, endpoints: Sequence[str]) -> AsyncIterator[None]:
    """Without a mount there is no descriptor to keep: the agent is just started again."""
    if plan is None or plan.cache is None:
        yield
        return
    keeper = asyncio.create_task(_keep(lambda: plan.argv(endpoints)))
    try:
        yield
    finally:
        keeper.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await keeper


async def _keep(argv: Callable[[], list[str]]) -> None:
    """Runs the agent, again whenever it ends, until this is cancelled."""
    loop, quick = asyncio.get_running_loop(), 0
    while True:
        begin_s = loop.time()
        agent = await asyncio.create_subprocess_exec(
            *argv(), stdin=asyncio.subprocess.PIPE, env=environment(), process_group=0
        )
        try:
            code = await agent.wait()
        except asyncio.CancelledError:
            await _end(agent)
            raise
        quick = 0 if (loop.time() - begin_s) * 1000 >= AGENT_STABLE_MS else quick + 1
        log.warning("the agent ended with exit code %d; starting another", code)
        wait_ms = min(AGENT_RESTART_MS_MIN << min(quick, 10), AGENT_RESTART_MS_MAX)
        await asyncio.sleep(wait_ms / 1000)


async def _end(agent: asyncio.subprocess.Process) -> None:
    with contextlib.suppress(ProcessLookupError):
        agent.terminate()
    try:
        async with asyncio.timeout(AGENT_STOP_MS_MAX / 1000):
            await agent.wait()
    except TimeoutError:
        with contextlib.suppress(ProcessLookupError):
            agent.kill()
        await agent.wait()
