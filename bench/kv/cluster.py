"""Three nodes of one system, and the load generator that talks to them."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Final

from ..failure import BenchError
from ..machine import ROOT
from . import systems

READY_S_MAX: Final = 120.0
POLL_S: Final = 0.05
FAILED: Final = 3
"""Exit code of the generator when an operation failed or an answer was wrong; it has a result."""
LOG_BYTES_SHOWN: Final = 1_500
CONNECTIONS: Final = 16

Result = dict[str, Any]
"""What the generator printed: bench/kv/kvload/result.go."""


class Cluster:
    """Starts in an empty directory, which goes with it unless something fails."""

    def __init__(self, system: systems.System, work: Path) -> None:
        self.system = system
        self.folder = work / system.name
        shutil.rmtree(self.folder, ignore_errors=True)
        self.places = systems.places(self.folder)
        for place in self.places:
            place.data.mkdir(parents=True)
        self._nodes: list[subprocess.Popen[bytes] | None] = [None] * len(self.places)

    def __enter__(self) -> Cluster:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.kill_all()
        if kind is None:
            shutil.rmtree(self.folder)

    def start(self, number: int) -> None:
        """One node; does not wait until it serves."""
        place = self.places[number]
        # Nothing that is set for nodes or programs of this machine is meant for these: Python with
        # PYTHONDONTWRITEBYTECODE, for one, compiles everything again at each start.
        environment = {
            k: v for k, v in os.environ.items() if not k.startswith(("DFS_", "ETCD_", "PYTHON"))
        }
        environment["PYTHONPATH"] = str(ROOT / "src")
        with self._log(number).open("ab") as log:
            self._nodes[number] = subprocess.Popen(
                self.system.command(place, self.places), cwd=place.data.parent, env=environment,
                stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )

    def start_all(self) -> None:
        """All nodes at once; does not wait until they serve."""
        for number in range(len(self.places)):
            self.start(number)

    def kill(self, number: int) -> None:
        """kill -9; returns when the process is gone."""
        node = self._nodes[number]
        if node:
            node.kill()
            node.wait()
        self._nodes[number] = None

    def kill_all(self) -> None:
        """kill -9 of all nodes at once."""
        for node in filter(None, self._nodes):
            node.kill()
        for number in range(len(self._nodes)):
            self.kill(number)

    def pids(self) -> list[int]:
        """Of the nodes that run."""
        return [node.pid for node in self._nodes if node]

    def _log(self, number: int) -> Path:
        return self.folder / f"{self.places[number].name}.log"

    def _check_nodes(self) -> None:
        for number, node in enumerate(self._nodes):
            if node and node.poll() is not None:
                tail = self._log(number).read_text(errors="replace")[-LOG_BYTES_SHOWN:]
                name = self.places[number].name
                raise BenchError(f"{self.system.name}: {name} ended ({node.returncode}):\n{tail}")

    # ---- the generator ---------------------------------------------------------------------------
    def generator(self, mode: str, **flags: object) -> subprocess.Popen[str]:
        """Starts it; `flags` are those of kvload, without the dashes."""
        argv = [
            str(systems.BIN / "kvload"), "-target", self.system.kind, "-mode", mode,
            "-nodes", ",".join(place.client for place in self.places),
            "-conns", str(CONNECTIONS),
        ]
        for name, value in flags.items():
            argv += [f"-{name}", str(value)]
        return subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def result(self, generator: subprocess.Popen[str]) -> Result:
        """Waits for a generator, and says so when a node ends before it."""
        try:
            while True:
                self._check_nodes()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    out, said = generator.communicate(timeout=POLL_S)
                    break
        finally:
            if generator.poll() is None:
                generator.kill()
                generator.communicate()
        if generator.returncode not in (0, FAILED):
            raise BenchError(f"{said.strip()} (logs of the nodes: {self.folder})")
        result: Result = json.loads(out)
        return result

    def run(self, mode: str, **flags: object) -> Result:
        """One run of the generator. Its `failed` may be more than 0."""
        return self.result(self.generator(mode, **flags))

    def ready(self) -> None:
        """Waits until a leader takes writes and every node has applied the newest."""
        self.run("ready", prefix="probe/", duration=f"{READY_S_MAX}s")

    def leader(self) -> int:
        """The number of the node that leads."""
        return int(self.run("leader", prefix="probe/")["extra"]["leader"])

    def term(self) -> int:
        """Of the leader: each election makes it larger."""
        return int(self.run("leader", prefix="probe/")["extra"]["term"])

    def load(self, keys: int, value: int) -> Result:
        """Writes every key once."""
        result = self.run(
            "load", clients=min(256, keys) if value < 1_024 else 16, value=value, keys=keys,
            prefix=prefix(value), warmup="0s", duration="900s", timeout="60s",
            pids=",".join(map(str, self.pids())),
        )
        if result["failed"]:
            raise BenchError(f"{self.system.name}: loading failed: {errors_of(result)}")
        time.sleep(1.0)  # what was put off until later
        return result


def errors_of(result: Result) -> dict[str, int]:
    """Message → how often."""
    found: dict[str, int] = result.get("errors") or {}
    return found


def prefix(value: int) -> str:
    """The directory of the keys with values of a size."""
    return f"bench/{value}/"
