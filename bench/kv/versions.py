"""With what it was measured, for the head of the table."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from .. import machine
from . import systems


def describe(wanted: Iterable[systems.System], work: Path) -> list[str]:
    """Lines that say on what and with what it was measured."""
    go = machine.output("go", "version").removeprefix("go version ")
    versions = "; ".join(_version(system) for system in wanted)
    return [*machine.describe(work), f"versions: {versions}; {go}"]


def _version(system: systems.System) -> str:
    if system.kind == "dfs":
        return machine.dfs_version()
    if system.kind == "etcd":
        installed = system.name == "etcd-installed"
        program = systems.INSTALLED_ETCD if installed else str(systems.BIN / "etcd")
        said = machine.output(program, "--version")
        return f"{system.name} " + machine.found(r"etcd Version: (\S+)", said)
    modules = (machine.ROOT / "bench/kv/go.mod").read_text()
    raft, wal = (
        machine.found(rf"hashicorp/{name} v(\S+)", modules) for name in ("raft", "raft-wal")
    )
    return f"hraft: raft {raft}, raft-wal {wal}"
