"""config, version, completion: what there is, without asking a node."""

from __future__ import annotations

import argparse
import platform
from importlib import metadata
from pathlib import Path
from typing import Any

from .. import config as settings_module
from .._version import version as dfs_version
from ..sizes import FreeSpace
from . import output, parsing

_LIBRARIES = ("grpcio", "protobuf", "rocksdict")


def config_flags(parser: argparse.ArgumentParser) -> None:
    """Arguments of `dfs config`."""
    parsing.output_flag(parser)


def config(args: argparse.Namespace) -> None:
    """Each setting, its value and where that comes from."""
    loaded = parsing.settings(args)
    rows = settings_module.rows()
    if args.output == "json":
        output.json({
            row.name: {
                "value": plain(getattr(loaded.settings, row.name)),
                "source": loaded.sources[row.name],
            }
            for row in rows
        })
        return
    output.table(("setting", "value", "from"), [
        (row.name, shown(getattr(loaded.settings, row.name)), loaded.sources[row.name])
        for row in rows
    ])


def plain(value: Any) -> Any:
    """A value as JSON has it."""
    if isinstance(value, tuple):
        return list(value)
    return str(value) if isinstance(value, Path | FreeSpace) else value


def shown(value: Any) -> str:
    """A value the way it is written in dfs.yaml."""
    if value is None:
        return settings_module.OFF
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return ",".join(value)
    return f"{value:g}s" if isinstance(value, float) else str(value)


def version_flags(parser: argparse.ArgumentParser) -> None:
    """Arguments of `dfs version`."""
    parsing.output_flag(parser)


def version(args: argparse.Namespace) -> None:
    """Versions of dfs and of what it stands on."""
    found = {"dfs": dfs_version(), "python": platform.python_version()}
    for library in _LIBRARIES:
        try:
            found[library] = metadata.version(library)
        except metadata.PackageNotFoundError:
            found[library] = "not installed"
    if args.output == "json":
        output.json(found)
    else:
        output.text(f"dfs {found.pop('dfs')}")
        output.note(", ".join(f"{name} {number}" for name, number in found.items()))


def completion_flags(parser: argparse.ArgumentParser) -> None:
    """Arguments of `dfs completion`."""
    parser.add_argument("shell", choices=("bash", "zsh", "tcsh"))


def completion(args: argparse.Namespace) -> None:
    """A script: eval "$(dfs completion bash)"."""
    import shtab

    whole = parsing.Parser(prog="dfs")
    parts = whole.add_subparsers()
    for name, command in parsing.COMMANDS.items():
        built = parsing.build(name)
        # argparse makes the parser of a part itself; ours takes its place.
        parts.add_parser(name, help=command.doc)
        parts.choices[name] = built
    output.text(str(shtab.complete(whole, args.shell)))
