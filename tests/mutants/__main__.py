"""`make mutants`: puts each bug into a copy of the code and runs the tests that must fail of it.

    python -m mutants [NAME …]

Exit 0: all were caught. The copy, and what the tests printed of each, stay in .build/mutants.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Final

from .table import MUTANTS, Mutant

ROOT: Final = Path(__file__).resolve().parents[2]
WORK: Final = ROOT / ".build" / "mutants"
TREE: Final = WORK / "tree"
ENGINE: Final = "src/dfs/_engine.abi3.so"
FAST: Final = (
    "--config", "profile.release.lto=false", "--config", "profile.release.codegen-units=16",
    "--config", "profile.release.opt-level=1", "--config", "profile.release.debug=false",
)
"""A mutant is built once and run once."""
TESTS_FAILED: Final = 1
"""pytest's exit code; others say that it could not test."""


class Broken(Exception):
    """The mutant itself is no good: it does not apply, or does not build."""


def copy() -> None:
    """A fresh copy of what git would take, and of the built engine."""
    shutil.rmtree(TREE, ignore_errors=True)
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, check=True,
        capture_output=True, text=True,
    )
    for name in [*listed.stdout.splitlines(), ENGINE]:
        if (ROOT / name).is_file():
            (TREE / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, TREE / name)


def environment() -> dict[str, str]:
    """In which Python finds the copy before all else."""
    found = os.environ | {"CARGO_TARGET_DIR": str(WORK / "target")}
    found["PYTHONPATH"] = os.pathsep.join(str(TREE / part) for part in ("src", "tests", "."))
    return found


def run(log: Path, *command: str) -> int:
    """Runs a command in the copy; its exit code."""
    with log.open("ab") as file:
        done = subprocess.run(
            command, cwd=TREE, env=environment(), stdout=file, stderr=file, check=False
        )
    return done.returncode


def cargo(log: Path, verb: str, *more: str) -> int:
    """Builds or tests the engine of the copy."""
    manifest = ("--locked", "--release", "--manifest-path", "engine/Cargo.toml")
    return run(log, "cargo", verb, *manifest, *FAST, *more)


def test(mutant: Mutant, log: Path) -> bool:
    """Whether its tests failed. Raises Broken."""
    if mutant.tests[0] == "rust":
        if cargo(log, "test", "--no-run") != 0:
            raise Broken("it does not build")
        return cargo(log, "test", *mutant.tests[1:]) != 0
    if mutant.file.startswith("engine/"):
        if cargo(log, "build", "--features", "python") != 0:
            raise Broken("it does not build")
        shutil.copy2(WORK / "target" / "release" / "libdfs_engine.so", TREE / ENGINE)
    code = run(log, sys.executable, "-m", "pytest", "-x", "-q", *mutant.tests)
    if code not in (0, TESTS_FAILED):
        raise Broken(f"pytest ended with {code}")
    return code == TESTS_FAILED


def catch(mutant: Mutant) -> bool:
    """Puts it in, tests, takes it out."""
    path = TREE / mutant.file
    original = path.read_text()
    if original.count(mutant.before) != 1:
        raise Broken(f"its place occurs {original.count(mutant.before)} times in {mutant.file}")
    log = WORK / f"{mutant.name}.log"
    log.unlink(missing_ok=True)
    path.write_text(original.replace(mutant.before, mutant.after))
    try:
        return test(mutant, log)
    finally:
        path.write_text(original)
        if mutant.file.startswith("engine/"):
            shutil.copy2(ROOT / ENGINE, TREE / ENGINE)


def main(names: list[str]) -> int:
    """The command."""
    unknown = set(names) - {mutant.name for mutant in MUTANTS}
    if unknown:
        sys.stderr.write(f"there is no mutant {', '.join(sorted(unknown))}\n")
        return 2
    copy()
    missed = 0
    for mutant in MUTANTS:
        if names and mutant.name not in names:
            continue
        begin_s = time.monotonic()
        try:
            verdict = "caught" if catch(mutant) else "SURVIVED"
        except Broken as broken:
            verdict = f"BROKEN: {broken}"
        missed += verdict != "caught"
        sys.stdout.write(f"{mutant.name:32} {time.monotonic() - begin_s:6.1f} s  {verdict}\n")
        sys.stdout.flush()
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
