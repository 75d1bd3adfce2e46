"""Keeps one mount served: starts agents, notices their deaths, hands the connection on."""

from __future__ import annotations

import contextlib
import logging
import os
import select
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping
from typing import Final, NamedTuple

from .._engine import fuse_resend
from ..errors import Misconfigured
from ..limits import (
    AGENT_KILL_MS_MAX,
    AGENT_RESTART_MS_MAX,
    AGENT_RESTART_MS_MIN,
    AGENT_STABLE_MS,
    AGENT_STOP_MS_MAX,
    AGENT_WATCH_MS,
)
from ..privileges import may_administrate
from .making import make_mount, open_device, unmount
from .points import MOUNTINFO, half_dead, identity, mounts, top_mount

log = logging.getLogger(__name__)

TABLE_VARIABLE: Final = "DFS_FUSE_TABLE"
STANDBY_VARIABLE: Final = "DFS_STANDBY"
"""In the environment of an agent that is to load all that it needs and then wait: for a byte on its
standard input, which is its turn, or for the end of it."""


class MountState(NamedTuple):
    """How a mount is doing."""

    mounted: bool
    pid: int
    """Of the agent; 0 while there is none."""
    restarts: int
    last_exit: int | None
    """Of the last agent that ended by itself: its exit code, or minus the signal."""
    problem: str
    """One sentence; "" when all is well."""
    standby: int = 0
    """Of the process that becomes the next agent; 0 while there is none."""


class MountSupervisor:
    """Keeps one mount served. `start`, `poll` and `stop` may be called from any thread; the work is
    done by a thread of its own."""

    def __init__(
        self,
        argv_for_fd: Callable[[int, bool], list[str]],
        mountpoint: str,
        *,
        allow_other: bool | None = None,
        env: Mapping[str, str] | None = None,
        unmounted: Callable[[], None] | None = None,
    ) -> None:
        """`argv_for_fd(fd, adopt)` is the command line of an agent. `allow_other`: every user sees
        the mount (permission bits hold); None = if we are root, as the kernel wants it. What
        somebody else unmounts is mounted again, but if there is `unmounted`: that is called, from
        another thread, and the mount stays away."""
        self.mountpoint = mountpoint
        self._argv_for_fd = argv_for_fd
        self._allow_other = os.geteuid() == 0 if allow_other is None else allow_other
        self._unmounted = unmounted
        self._env = dict(os.environ if env is None else env)
        self._lock = threading.Lock()
        self._state = MountState(False, 0, 0, None, "")
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self._wake = self._wake_end = self._fd = self._table = -1
        self._agent: subprocess.Popen[bytes] | None = None
        self._standby: subprocess.Popen[bytes] | None = None
        self._standby_due_s = 0.0
        """When the next one may be started."""
        self._leaving: list[subprocess.Popen[bytes]] = []

    # ---- for callers -----------------------------------------------------------------------------
    def load(self) -> None:
        """Has the first agent load its programs, which is most of its start, while what it needs is
        still being made: its turn comes with `start`. Where that cannot be, `start` does it all."""
        if not may_administrate():
            return  # fusermount3 brings a descriptor, when it mounts.
        try:
            self._fd = open_device()
        except Misconfigured:
            return  # `start` says so.
        self._table = _new_table()
        self._stand_by(adopt=False)

    def start(self) -> None:
        """Mounts and starts the first agent. Raises Misconfigured with nothing changed."""
        try:
            self._mount()
        except Misconfigured:
            self._let_go()
            raise
        self._wake, self._wake_end = os.pipe()
        self._thread = threading.Thread(target=self._run, name="dfs-mount", daemon=True)
        self._thread.start()

    def poll(self) -> MountState:
        """How it is doing. Does not block."""
        with self._lock:
            return self._state

    def stop(self) -> None:
        """Ends the agent and unmounts, however busy the mount is. Blocks for seconds at most (in
        asyncio: in a thread). Idempotent."""
        self._stopping.set()
        thread, self._thread = self._thread, None
        if thread is None:
            self._let_go()
            return
        os.close(self._wake_end)
        thread.join(2 * (AGENT_STOP_MS_MAX + AGENT_KILL_MS_MAX) / 1000)
        if thread.is_alive():
            log.error("%s: the supervisor of the mount does not end", self.mountpoint)

    def __enter__(self) -> MountSupervisor:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    # ---- the thread ------------------------------------------------------------------------------
    def _run(self) -> None:
        adopt, quick = False, 0
        try:
            while not self._stopping.is_set():
                begun = time.monotonic()
                if self._start_agent(adopt) and not self._wait_for_death():
                    break
                lived = (time.monotonic() - begun) * 1000
                if self._unmounted is not None and not self._is_mounted():
                    log.info("%s was unmounted", self.mountpoint)
                    break
                quick = 0 if lived >= AGENT_STABLE_MS else quick + 1
                self._pause(quick)
                adopt = not self._stopping.is_set() and self._revive()
        finally:
            self._end()
        if self._unmounted is not None and not self._stopping.is_set():
            self._unmounted()

    def _start_agent(self, adopt: bool) -> bool:
        self._standby_due_s = time.monotonic() + AGENT_STABLE_MS / 1000
        if self._take_standby():
            return True
        self._end_standby()
        try:
            self._agent = self._spawn(adopt, {})
        except OSError as error:
            self._note(problem=f"the agent of {self.mountpoint} cannot be started: {error}")
            log.error("%s", self.poll().problem)
            return False
        self._note(pid=self._agent.pid, problem="")
        return True

    def _spawn(self, adopt: bool, more: Mapping[str, str]) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            self._argv_for_fd(self._fd, adopt),
            stdin=subprocess.PIPE,
            pass_fds=(self._fd, self._table),
            env={**self._env, TABLE_VARIABLE: str(self._table), **more},
            # A Ctrl-C at the terminal is for us; we then stop the agent in order.
            process_group=0,
        )

    # ---- the next agent --------------------------------------------------------------------------
    def _keep_standby(self) -> None:
        """Starts a process that will adopt this connection: most of a start is loading programs."""
        now_s = time.monotonic()
        ended = self._standby is None or self._standby.poll() is not None
        if not ended or now_s < self._standby_due_s:
            return
        self._end_standby()
        self._standby_due_s = now_s + AGENT_RESTART_MS_MAX / 1000
        self._stand_by(adopt=True)

    def _stand_by(self, adopt: bool) -> None:
        try:
            self._standby = self._spawn(adopt, {STANDBY_VARIABLE: "1"})
        except OSError as error:  # The next agent is started when it is needed, and says so aloud.
            log.info("no agent stands by for %s: %s", self.mountpoint, error)
            return
        self._note(standby=self._standby.pid)

    def _take_standby(self) -> bool:
        """Makes it the agent, if there is one."""
        standby = self._standby
        if standby is None or standby.poll() is not None:
            return False
        assert standby.stdin is not None
        try:
            os.write(standby.stdin.fileno(), b"\n")
        except BrokenPipeError:
            return False  # It has just died.
        self._agent, self._standby = standby, None
        self._note(pid=standby.pid, standby=0, problem="")
        return True

    def _end_standby(self) -> None:
        standby, self._standby = self._standby, None
        if standby is None:
            return
        standby.kill()
        wait_for(standby, AGENT_KILL_MS_MAX)
        close_pipe(standby)
        self._note(standby=0)

    def _wait_for_death(self) -> bool:
        """True when the agent has died, False when we are to stop."""
        agent = self._agent
        assert agent is not None
        pidfd = os.pidfd_open(agent.pid)
        table = os.open(MOUNTINFO, os.O_RDONLY | os.O_CLOEXEC)
        try:
            waiting = select.poll()
            waiting.register(pidfd, select.POLLIN)
            waiting.register(self._wake, select.POLLIN)
            waiting.register(table, select.POLLPRI)  # Something was mounted or unmounted.
            while not self._stopping.is_set():
                ready = waiting.poll(AGENT_WATCH_MS)
                if stuck := half_dead(agent.pid):
                    wait_for(agent, AGENT_WATCH_MS)  # Its threads are just ending, most likely.
                if stuck or agent.poll() is not None:
                    self._bury(agent)
                    return True
                if any(fd == table for fd, _ in ready) and not self._is_mounted():
                    agent.terminate()  # It serves what nobody can reach any more.
                self._leaving = [left for left in self._leaving if left.poll() is None]
                self._keep_standby()
        finally:
            os.close(pidfd)
            os.close(table)
        return False

    def _bury(self, agent: subprocess.Popen[bytes]) -> None:
        """Notes the death; what of the process is stuck in the kernel ends once the next agent
        answers."""
        self._agent = None
        close_pipe(agent)
        if agent.returncode is None:
            self._leaving.append(agent)
        how = describe_exit(agent.returncode)
        self._note(pid=0, restarts=self.poll().restarts + 1, last_exit=agent.returncode)
        self._note(problem=f"the agent of {self.mountpoint} {how}; starting another")
        if not self._stopping.is_set():
            log.warning("%s", self.poll().problem)

    def _pause(self, quick: int) -> None:
        """Before the next start: nothing after a long life, ever longer when they die at once."""
        if quick > 1:
            delay = min(AGENT_RESTART_MS_MIN << min(quick - 2, 16), AGENT_RESTART_MS_MAX)
            self._stopping.wait(delay / 1000)

    def _revive(self) -> bool:
        """True when the next agent can adopt the connection; else there is a new one."""
        if not self._is_mounted() or ended(self._fd):
            log.warning("%s was unmounted; mounting it again", self.mountpoint)
        else:
            try:
                fuse_resend(self._fd)
                return True
            except OSError as error:  # Before Linux 6.9.
                log.warning(
                    "%s cannot be handed over (%s); mounting it anew", self.mountpoint, error
                )
        self._close_mount(force=True)
        while not self._stopping.is_set():
            try:
                self._mount()
                return False
            except Misconfigured as error:
                self._note(problem=str(error))
                self._stopping.wait(AGENT_RESTART_MS_MAX / 1000)
        return False

    # ---- parts -----------------------------------------------------------------------------------
    def _is_mounted(self) -> bool:
        return any(m.point == self.mountpoint and m.source == identity() for m in mounts())

    def _mount(self) -> None:
        self.mountpoint, fd = make_mount(self.mountpoint, self._allow_other, self._fd)
        if fd != self._fd:
            self._let_go()
            self._fd, self._table = fd, _new_table()
        self._note(mounted=True)

    def _end(self) -> None:
        """The agent first, so that it can end in order; then the mount, by force if need be."""
        self._end_standby()
        agent = self._agent
        if agent is not None:
            agent.terminate()
            wait_for(agent, AGENT_STOP_MS_MAX)
        stuck = agent is not None and agent.poll() is None
        # Aborts the connection when the agent hangs: it may be waiting for itself in the kernel.
        self._close_mount(force=stuck or bool(self._leaving))
        for process in [*self._leaving, *([agent] if agent is not None else [])]:
            process.kill()
            if not wait_for(process, AGENT_KILL_MS_MAX):
                log.error("agent %d of %s cannot be ended", process.pid, self.mountpoint)
            close_pipe(process)
        self._agent, self._leaving = None, []
        os.close(self._wake)
        self._note(pid=0, problem="")

    def _close_mount(self, force: bool) -> None:
        self._end_standby()  # It has the descriptor of this mount.
        if self._fd < 0:
            return
        try:
            top = top_mount(self.mountpoint)
            if top is not None and top.source == identity():
                unmount(self.mountpoint, force=force)
            elif self._is_mounted():
                log.error("%s cannot be unmounted: something was mounted on it", self.mountpoint)
        except OSError as error:
            log.error("%s cannot be unmounted: %s", self.mountpoint, error.strerror)
        self._let_go()
        self._note(mounted=False)

    def _let_go(self) -> None:
        """Of the descriptors, and of who stands by with them."""
        self._end_standby()
        if self._fd >= 0:
            os.close(self._fd)
            os.close(self._table)
        self._fd = self._table = -1

    def _note(self, **changes: object) -> None:
        with self._lock:
            self._state = self._state._replace(**changes)  # type: ignore[arg-type]


def _new_table() -> int:
    return os.memfd_create("dfs-open-files", os.MFD_CLOEXEC)


def ended(fd: int) -> bool:
    """The kernel has ended the connection: nobody can adopt it."""
    waiting = select.poll()
    waiting.register(fd, select.POLLIN)
    return any(events & select.POLLERR for _, events in waiting.poll(0))


def describe_exit(code: int | None) -> str:
    """For the log: what became of an agent."""
    if code is None:
        return "was killed and has not ended yet"
    if code < 0:
        return f"was ended by {signal.Signals(-code).name}"
    return f"ended with exit code {code}"


def wait_for(process: subprocess.Popen[bytes], timeout_ms: int) -> bool:
    """Whether it ended in time."""
    try:
        process.wait(timeout_ms / 1000)
        return True
    except subprocess.TimeoutExpired:
        return False


def close_pipe(process: subprocess.Popen[bytes]) -> None:
    """Closes our end of its standard input."""
    if process.stdin is not None:
        with contextlib.suppress(OSError):
            process.stdin.close()
