"""Which command was given, its flags, and what to say when there is no such thing.

A command is a row of COMMANDS. Its module has a function of its name that runs it and one with
`_flags` behind that adds its arguments to a parser. Only that module is imported.
"""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any, Final, NamedTuple, NoReturn

from .. import config
from ..config import AGENT, CLIENT, LOCAL, NODE
from ..errors import Misconfigured
from . import output


class Command(NamedTuple):
    """One row of the help."""

    module: str
    users: tuple[str, ...]
    """Whose settings it takes as flags."""
    doc: str


COMMANDS: Final[dict[str, Command]] = {
    "demo": Command("demo", (), "Three nodes on this machine, and a tree that goes through them."),
    "serve": Command("serve", (NODE,), "Run a node; also what `dfs` does without a command."),
    "mount": Command("mount", (AGENT,), "Serve cache and mount on a machine that is no node."),
    "put": Command("files", (CLIENT,), "Store a file."),
    "get": Command("files", (CLIENT,), "Read a file."),
    "cat": Command("files", (CLIENT,), "Print files, also past revisions: KEY@REVISION."),
    "ls": Command("browse", (CLIENT,), "List a directory."),
    "stat": Command("browse", (CLIENT,), "Show what is known of a key."),
    "rm": Command("files", (CLIENT,), "Remove files and directories."),
    "mv": Command("moving", (CLIENT,), "Give a file or a whole directory another key."),
    "cp": Command("moving", (CLIENT,), "Copy a key of the tree to another key of it."),
    "mkdir": Command("files", (CLIENT,), "Make directories that stay when they are empty."),
    "ln": Command("files", (CLIENT,), "Store a symbolic link."),
    "watch": Command("browse", (CLIENT,), "Print changes as they happen."),
    "log": Command("browse", (CLIENT,), "Print past changes, newest first."),
    "status": Command(
        "cluster", (CLIENT, LOCAL), "Show every node; of a PATH, whether it is safe to unplug."
    ),
    "sync": Command("safe", (LOCAL,), "Look for new drops now; --wait until they are stored."),
    "pin": Command("keep", (LOCAL,), "Keep content on this machine: files or whole subtrees."),
    "unpin": Command("keep", (LOCAL,), "Let pinned content go when room is needed."),
    "pins": Command("keep", (LOCAL,), "Show what is pinned, and how much of it is here."),
    "warmup": Command("keep", (LOCAL,), "Fetch content ahead of its use, and wait for it."),
    "evict": Command("keep", (LOCAL,), "Take content from this machine; the cluster keeps it."),
    "member": Command("cluster", (CLIENT,), "Add, promote, remove or replace members."),
    "leader": Command("cluster", (CLIENT,), "Move leadership."),
    "snapshot": Command("backup", (), "Save everything to a file; verify, restore it."),
    "verify": Command("offline", (), "Audit data directories of stopped nodes."),
    "recover": Command("offline", (NODE,), "Make a new cluster of what is left of a lost one."),
    "bench": Command("bench", (CLIENT,), "Measure puts or gets."),
    "nemesis": Command("nemesis", (), "Break a throw-away cluster in every way, and check it."),
    "config": Command("about", (NODE, AGENT, CLIENT), "Show each setting and where it is from."),
    "completion": Command("about", (), "Print a completion script for bash, zsh or tcsh."),
    "version": Command("about", (), "Print versions."),
}
_HELP: Final = ("-h", "-help", "--help", "help")
_VERSION: Final = ("-version", "--version")


class Parser(argparse.ArgumentParser):
    """argparse whose errors are our errors, with a suggestion."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs.setdefault("allow_abbrev", False)
        kwargs.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        super().__init__(*args, **kwargs)

    def error(self, message: str) -> NoReturn:
        """One sentence, exit code 2."""
        raise Misconfigured(f"{message}. Try: {self.prog} --help")


def run(arguments: list[str]) -> int:
    """Finds the command, parses its flags, runs it."""
    first = arguments[0] if arguments else ""
    if first in _HELP:
        return overview() if len(arguments) == 1 else run([arguments[1], "--help"])
    if first in _VERSION:
        return run(["version", *arguments[1:]])
    if not first or first.startswith("-"):
        arguments = ["serve", *arguments]
    name = arguments[0]
    if name not in COMMANDS:
        raise Misconfigured(
            f"there is no command {name!r}{config.suggest(name, list(COMMANDS))}"
        )
    namespace = parse(build(name), arguments[1:])
    handler: Callable[[argparse.Namespace], int | None] = namespace.handler
    return handler(namespace) or 0


def build(name: str) -> Parser:
    """The parser of one command."""
    command = COMMANDS[name]
    module = import_module(f".{command.module}", __package__)
    parser = Parser(prog=f"dfs {name}", description=command.doc)
    parser.set_defaults(handler=getattr(module, name), parser=parser)
    getattr(module, f"{name}_flags")(parser)
    add_settings(parser, command.users)
    for part in _parts(parser):
        add_settings(part, command.users, default=argparse.SUPPRESS)
    return parser


def _parts(parser: argparse.ArgumentParser) -> list[argparse.ArgumentParser]:
    """The parsers of what stands behind the command, such as `add` behind `member`."""
    actions = [a for a in parser._actions if isinstance(a, argparse._SubParsersAction)]
    return [part for action in actions for part in action.choices.values()]


def add_settings(
    parser: argparse.ArgumentParser, users: Sequence[str], default: str | None = None
) -> None:
    """The flags of the settings that these users have. `default`: of those that are not given."""
    rows = [row for row in config.rows() if set(row.used_by) & set(users)]
    if not rows:
        return
    group = parser.add_argument_group(
        "settings", f"Flags beat variables (DFS_…) beat {config.FILE}. One dash or two."
    )
    for row in rows:
        otherwise = f" Default: {row.default}." if row.default else ""
        words: dict[str, Any] = {"nargs": "?", "const": "true"} if row.boolean else {}
        group.add_argument(
            "-" + row.flag, dest=row.name, metavar=row.name.upper(),
            help=(row.doc + otherwise).replace("%", "%%"), default=default, **words,
        )


def output_flag(parser: argparse.ArgumentParser) -> None:
    """Adds `-o`."""
    parser.add_argument(
        "-o", "--output", choices=("table", "json"), default="table",
        help="For people, or for programs.",
    )


def parse(parser: Parser, arguments: list[str]) -> argparse.Namespace:
    """Go's single dash means two; unknown flags get a suggestion."""
    known = _options(parser)
    namespace, unknown = parser.parse_known_args(_two_dashes(arguments, known))
    if unknown:
        word = unknown[0].split("=")[0]
        if word.startswith("-"):
            raise Misconfigured(f"unknown flag {word}{config.suggest(word, known)}")
        raise Misconfigured(f"{word!r} is too much here. Try: {namespace.parser.prog} --help")
    return namespace


def _options(parser: argparse.ArgumentParser) -> list[str]:
    found = []
    for action in parser._actions:
        found += [word for word in action.option_strings if word.startswith("--")]
    for part in _parts(parser):
        found += _options(part)
    return found


def _two_dashes(arguments: list[str], known: list[str]) -> list[str]:
    done: list[str] = []
    for position, word in enumerate(arguments):
        if word == "--":
            return done + arguments[position:]
        match = re.fullmatch(r"-([A-Za-z][A-Za-z0-9_-]+)(=.*)?", word, re.DOTALL)
        if match and f"--{match[1].replace('_', '-')}" in known:
            word = f"--{match[1].replace('_', '-')}{match[2] or ''}"
        done.append(word)
    return done


def settings(namespace: argparse.Namespace) -> config.Loaded:
    """All settings, with the flags of this command on top."""
    flags = {row.name: getattr(namespace, row.name, None) for row in config.rows()}
    return config.load(flags, os.environ)


def overview() -> int:
    """What `dfs --help` prints."""
    output.text("dfs: one tree of files, agreed on by Raft, on every node.\n")
    output.text("usage: dfs [COMMAND] [FLAGS]    (dfs COMMAND --help explains one)\n")
    for name, command in COMMANDS.items():
        output.text(f"  {name:<11} {command.doc}")
    output.text("\nTry: dfs demo")
    output.text("     DFS_ID=node1 dfs     (a node: Raft on :12000, gRPC on :13000)")
    output.text("     dfs put greeting -t hello; dfs cat greeting; dfs status")
    return 0
