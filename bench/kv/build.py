"""Builds what is measured and what measures. Does only what changed."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from ..failure import BenchError
from ..machine import ROOT
from . import systems

GO_CODE: Final = Path(__file__).parent
GO_MISSING: Final = (
    "Go 1.26 or later is missing; get it from https://go.dev/dl/ and put its bin directory on PATH"
)


def build(wanted: Sequence[systems.System]) -> None:
    """Executables into bench/.work/bin, by Go and its module proxy; dfs by tools/setup."""
    if shutil.which("go") is None:
        raise BenchError(GO_MISSING)
    systems.BIN.mkdir(parents=True, exist_ok=True)
    for package in ("kvload", *(p for system in wanted for p in system.packages)):
        # etcd is a module of its own.
        own = (GO_CODE / package / "go.mod").exists()
        folder, what = (GO_CODE / package, ".") if own else (GO_CODE, f"./{package}")
        _run(["go", "build", "-o", str(systems.BIN / package), what], folder)
    if any(system.name == "dfs" for system in wanted) and not os.environ.get("PYTHON"):
        _run([str(ROOT / "tools/setup")], ROOT)


def _run(argv: list[str], folder: Path) -> None:
    environment = {**os.environ, "CGO_ENABLED": "0"}
    if subprocess.run(argv, cwd=folder, env=environment, check=False).returncode:
        raise BenchError(f"{' '.join(argv)} failed in {folder} (see above)")
