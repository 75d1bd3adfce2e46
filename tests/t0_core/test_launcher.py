"""The launcher `./dfs` and tools/setup, with a fake cargo and a package of one line."""

from __future__ import annotations

import os
import shutil
import subprocess
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# What the fake cargo "builds": setup asks whether Python can load it.
ENGINE = ROOT / "src" / "dfs" / "_engine.abi3.so"
CARGO = """#!/usr/bin/env bash
[[ $1 == --version ]] && { cat "$0.version"; exit; }
echo "cargo $*" >>"$0.calls"
[[ -e $0.slow ]] && sleep 0.3
[[ -e $0.broken ]] && { echo "error: does not compile" >&2; exit 101; }
echo '{"reason":"compiler-artifact","filenames":["'"$0.out/libdfs_engine.so"'"]}'
"""


class Clone:
    """A directory that looks like a clone of this repository, with a PATH of its own."""

    def __init__(self, home: Path) -> None:
        self.root = home / "clone"
        self.bin = home / "bin"
        self.cargo = self.bin / "cargo"
        self.environ = {
            "PATH": f"{self.bin}:/usr/bin:/bin", "HOME": str(home), "CARGO_HOME": str(home),
            "PYTHON": sysconfig.get_path("scripts") + "/python3", "LC_ALL": "C.UTF-8",
        }

    def fill(self) -> None:
        """Writes the files."""
        package = self.root / "src" / "dfs"
        for folder in (package, self.root / "tools", self.root / "engine" / "src", self.bin):
            folder.mkdir(parents=True)
        shutil.copy(ROOT / "dfs", self.root)
        shutil.copy(ROOT / "tools" / "setup", self.root / "tools")
        (self.root / "requirements.txt").write_text("# none\n")
        for name in ("Cargo.toml", "Cargo.lock", "src/lib.rs"):
            (self.root / "engine" / name).write_text("// first\n")
        (package / "__init__.py").touch()
        (package / "__main__.py").write_text(
            "import os, sys; print(os.getcwd(), *sys.argv[1:]); sys.exit(7)\n"
        )
        self.cargo.write_text(CARGO.replace("$0", str(self.cargo)))
        self.cargo.chmod(0o755)
        (self.bin / "cargo.version").write_text("cargo 1.95.0 (f2d3ce0bd 2026-03-21)\n")
        (self.bin / "cargo.out").mkdir()
        shutil.copyfile(ENGINE, self.bin / "cargo.out" / "libdfs_engine.so")

    def start(self, *arguments: str, **popen: str) -> subprocess.Popen[str]:
        """Starts `./dfs`, or `program`."""
        return subprocess.Popen(
            [popen.pop("program", str(self.root / "dfs")), *arguments],
            env=self.environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            cwd=popen.pop("cwd", str(self.root)),
        )

    def run(self, *arguments: str, **popen: str) -> tuple[int, str, str]:
        """Exit code, stdout, stderr of `./dfs`."""
        process = self.start(*arguments, **popen)
        out, err = process.communicate(timeout=50)
        return process.returncode, out, err

    def builds(self) -> int:
        """How often cargo was asked to build."""
        calls = self.bin / "cargo.calls"
        return len(calls.read_text().splitlines()) if calls.exists() else 0


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Clone:
    """A clone whose environment is made; tests work on copies of it."""
    if not ENGINE.exists():
        pytest.skip("the engine is not built: tools/setup")
    clone = Clone(tmp_path_factory.mktemp("launcher"))
    clone.fill()
    code, out, err = clone.run("first")
    assert (code, out) == (7, f"{clone.root} first\n"), err
    assert clone.builds() == 1
    return clone


@pytest.fixture
def clone(prepared: Clone, tmp_path: Path) -> Clone:
    """A ready clone at another place: nothing in it may name the place where it was made."""
    shutil.copytree(prepared.root.parent, tmp_path / "home", symlinks=True)
    copy = Clone(tmp_path / "home")
    copy.cargo.write_text(CARGO.replace("$0", str(copy.cargo)))
    return copy


def test_a_later_start_only_runs_python(clone: Clone) -> None:
    shutil.rmtree(clone.root / "tools")
    assert clone.run("get", "a b", "") == (7, f"{clone.root} get a b \n", "")


def test_a_start_runs_no_other_program(clone: Clone) -> None:
    """So it costs a few milliseconds."""
    command = ["bash", str(clone.root / "dfs"), "get"]
    bash = shutil.which("bash")
    done = subprocess.run(
        command, executable=bash, cwd=clone.root, capture_output=True, text=True, check=False,
        env={"PATH": str(clone.root / "empty")},
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (7, f"{clone.root} get\n"), done.stderr


def test_it_works_through_a_symlink_from_another_directory(clone: Clone, tmp_path: Path) -> None:
    elsewhere = tmp_path / "else where"
    elsewhere.mkdir()
    (elsewhere / "dfs").mkdir()
    (elsewhere / "os.py").write_text("raise SystemExit('took os.py of the working directory')")
    link = tmp_path / "link"
    link.symlink_to(os.path.relpath(clone.root / "dfs", tmp_path))
    got = clone.run("x", program=str(link), cwd=str(elsewhere))
    assert got == (7, f"{elsewhere} x\n", "")


def test_same_content_is_not_built_again_but_changed_content_is(clone: Clone) -> None:
    source = clone.root / "engine" / "src" / "lib.rs"
    os.utime(source)
    clone.run()
    assert clone.builds() == 1
    source.write_text("// second\n")
    code, _, err = clone.run()
    assert (code, clone.builds()) == (7, 2)
    assert "building the engine" in err
    clone.run()
    assert clone.builds() == 2


def test_a_failed_build_leaves_the_old_engine_and_is_tried_again(clone: Clone) -> None:
    (clone.root / "engine" / "src" / "more.rs").write_text("// new\n")
    (clone.bin / "cargo.broken").touch()
    engine = clone.root / "src" / "dfs" / "_engine.abi3.so"
    before = engine.read_bytes()
    code, out, err = clone.run()
    assert (code, out) == (2, "")
    assert "error: does not compile" in err
    assert "could not be built (see above)" in err
    assert engine.read_bytes() == before
    assert [p.name for p in engine.parent.glob("_engine*")] == [engine.name]
    (clone.bin / "cargo.broken").unlink()
    assert clone.run()[0] == 7
    assert clone.builds() == 3


def test_an_engine_that_cannot_be_loaded_is_not_put_in_place(clone: Clone) -> None:
    (clone.root / "engine" / "src" / "lib.rs").write_text("// other\n")
    (clone.bin / "cargo.out" / "libdfs_engine.so").write_text("no library")
    code, _, err = clone.run()
    assert code == 2
    assert "cannot be loaded" in err
    assert not list((clone.root / "src" / "dfs").glob("*.new"))


def test_two_starts_at_once_build_once(clone: Clone) -> None:
    (clone.root / "engine" / "src" / "lib.rs").write_text("// third\n")
    (clone.bin / "cargo.slow").touch()
    both = [clone.start(str(n)) for n in range(2)]
    for process in both:
        process.communicate(timeout=50)
    assert [process.returncode for process in both] == [7, 7]
    assert clone.builds() == 2


@pytest.mark.parametrize(
    ("version", "sentence"),
    [
        ("cargo 1.63.0 (fd9c4297c 2022-07-01)", "cargo 1.63.0 is too old, 1.88 or later is needed"),
        ("", "Rust's cargo is missing; get it with: "),
    ],
)
def test_without_a_cargo_that_is_new_enough_it_says_how_to_get_one(
    clone: Clone, version: str, sentence: str
) -> None:
    (clone.root / "src" / "dfs" / "_engine.abi3.so").unlink()
    if version:
        (clone.bin / "cargo.version").write_text(version)
    else:
        clone.cargo.unlink()
    code, out, err = clone.run()
    assert (code, out) == (2, "")
    assert sentence in err
    assert not (clone.root / "src" / "dfs" / "_engine.abi3.so").exists()


def test_without_a_python_that_is_new_enough_it_says_how_to_get_one(clone: Clone) -> None:
    shutil.rmtree(clone.root / ".venv")
    old = "#!/bin/sh\nexit 1\n"
    for name in ("python3", "python3.14", "python3.13", "python3.12", "python3.11"):
        (clone.bin / name).write_text(old)
        (clone.bin / name).chmod(0o755)
    clone.environ.pop("PYTHON")
    code, _, err = clone.run()
    assert code == 2
    assert "Python 3.11 or later with venv is missing; get it with: " in err
    assert not (clone.root / ".venv").exists()
