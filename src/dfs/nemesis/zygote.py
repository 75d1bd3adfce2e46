"""A process that forks nodes: with everything imported they start in hundredths of a second.

Run with LD_PRELOAD, so that its children have the shim. It reads commands from stdin and answers
each with one line, in JSON; it ends with its stdin. It has no threads, so its children are whole.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import os
import runpy
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, NoReturn

from .node import change_limits

POLL_S: Final = 0.002
READY: Final = " is ready: "
"""In the line that a node says when it serves."""
SNAPSHOT: Final = "asked for a snapshot: "
WRITTEN: Final = "it is written"
SMALL: Final = {
    "LOG_FILE_BYTES": 48 << 10, "SNAPSHOT_LOG_BYTES": 32 << 10, "LOG_KEEP_BYTES": 8 << 10,
    "STORE_MEMTABLE_BYTES": 64 << 10, "FLUSH_INTERVAL_MS": 100, "READY_INTERVAL_MS": 5,
}
"""Limits of the nodes: a short life has rotations, purges, flushes and merges in it."""


class Forked:
    """A node that a zygote has started."""

    def __init__(self, zygote: Zygote, pid: int, log: Path) -> None:
        self._zygote, self.pid, self.log = zygote, pid, log
        self.code: int | None = None
        """Exit code once it has ended; minus the number of the signal that ended it."""

    def ended(self) -> bool:
        """It has ended; `code` says how."""
        if self.code is None:
            self.code = self._zygote.ask({"wait": self.pid})
        return self.code is not None

    def wait(self, timeout_s: float) -> bool:
        """Waits for its end; False when it goes on."""
        return self.until(self.ended, timeout_s)

    def ready(self, timeout_s: float) -> bool:
        """Waits until it serves; False when it has ended, or does not come that far."""
        self.until(lambda: READY in self.said() or self.ended(), timeout_s)
        return not self.ended() and READY in self.said()

    def said(self) -> str:
        """Its output."""
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def signal(self, number: int) -> None:
        """Sends a signal, if it has not ended."""
        if not self.ended():
            os.kill(self.pid, number)

    def stop(self, timeout_s: float) -> bool:
        """SIGTERM, and waits; kill -9 and False if that is not enough."""
        self.signal(signal.SIGTERM)
        if self.wait(timeout_s):
            return True
        self.signal(signal.SIGKILL)
        self.wait(timeout_s)
        return False

    def until(self, holds: Callable[[], bool], timeout_s: float) -> bool:
        """Waits until it holds; False when it does not."""
        end_s = time.monotonic() + timeout_s
        while not holds():
            if time.monotonic() > end_s:
                return False
            time.sleep(POLL_S)
        return True


class Zygote:
    """Starts the process, and ends it with the block."""

    def __init__(self, environment: dict[str, str]) -> None:
        """`environment`: added to that of this process."""
        self._environment = environment

    def __enter__(self) -> Zygote:
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", __spec__.name], stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, env=os.environ | self._environment,
        )
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()

    def start(self, log: Path, *arguments: str) -> Forked:
        """A node with these arguments of `dfs serve`, whose output goes to `log`."""
        log.unlink(missing_ok=True)  # what another said
        pid: int = self.ask({"start": arguments, "log": str(log)})
        return Forked(self, pid, log)

    def ask(self, command: dict[str, Any]) -> Any:
        """One command and its answer."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(command).encode() + b"\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise OSError("the process that forks nodes has ended")
        return json.loads(line)


def main() -> None:
    """Serves commands: {"start": arguments, "log": path} → pid; {"wait": pid} → code or null."""
    change_limits(SMALL)
    importlib.import_module("dfs.cli.serve")  # before the first fork
    from .. import serve

    run = serve.run

    async def observed(settings: Any, companion: Any, announce: Any) -> None:
        def ready(running: Any) -> None:
            _snapshot_on_signal(running)
            announce(running)

        await run(settings, companion, ready)

    serve.run = observed  # type: ignore[assignment]
    for line in sys.stdin.buffer:
        asked = json.loads(line)
        if "wait" in asked:
            pid, status = os.waitpid(asked["wait"], os.WNOHANG)
            answer = os.waitstatus_to_exitcode(status) if pid else None
        else:
            answer = os.fork() or _child(asked["log"], asked["start"])
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


def _child(log: str, arguments: list[str]) -> NoReturn:
    """The life of `python -m dfs serve`."""
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o600)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for source, target in ((nothing, 0), (output, 1), (output, 2)):
        os.dup2(source, target)
    code = 1
    sys.argv = ["dfs", "serve", *arguments]
    try:
        runpy.run_module("dfs", run_name="__main__", alter_sys=True)
    except SystemExit as end:
        code = int(end.code or 0)
    except BaseException:  # boundary: what the interpreter would do at its end
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stderr.flush()
        os._exit(code)


def _snapshot_on_signal(running: Any) -> None:
    """SIGUSR2: a snapshot file, as if a member needed one."""

    async def take() -> None:
        try:
            await asyncio.to_thread(running.engine.snapshot, 5_000)
        except Exception as error:  # boundary: said, as the node does when a member asks
            said = f"none: {error}"
        else:
            said = WRITTEN
        sys.stderr.write(f"{SNAPSHOT}{said}\n")
        sys.stderr.flush()

    loop = asyncio.get_running_loop()
    tasks = set()
    loop.add_signal_handler(signal.SIGUSR2, lambda: tasks.add(loop.create_task(take())))


if __name__ == "__main__":
    main()
