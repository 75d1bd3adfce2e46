"""mv, cp: between keys of the tree. Files of this machine go in and out with put and get."""

from __future__ import annotations

import argparse

from . import files, parsing, shared


def mv_flags(parser: argparse.ArgumentParser) -> None:
    """Arguments of `dfs mv`."""
    parser.add_argument("source", help="A key; of a directory with all that is below it.")
    parser.add_argument("target", help="The new key, in full. Missing directories are made.")
    _common_flags(parser)


def mv(args: argparse.Namespace) -> None:
    """Gives a key another name, at once and without moving content; prints the revision."""
    with shared.client(args) as client:
        revision = client.move(
            args.source, args.target, replace=args.replace, base_revision=args.base_revision
        )
    files.print_revision(args, revision)


def cp_flags(parser: argparse.ArgumentParser) -> None:
    """Arguments of `dfs cp`."""
    parser.add_argument("source", help="A key. A file of this machine: dfs put KEY FILE.")
    parser.add_argument("target", help="The new key, in full. Missing directories are made.")
    parser.add_argument("-r", "--recursive", action="store_true", help="With all that is below.")
    _common_flags(parser)


def cp(args: argparse.Namespace) -> None:
    """Copies a key inside the tree, at once; prints the revision."""
    with shared.client(args) as client:
        revision = client.copy(
            args.source, args.target, recursive=args.recursive, replace=args.replace,
            base_revision=args.base_revision,
        )
    files.print_revision(args, revision)


def _common_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--replace", action="store_true", help="A file or symlink may stand at the target."
    )
    parser.add_argument(
        "--base-revision", type=int, metavar="REVISION",
        help="Only if the source is at this revision.",
    )
    parsing.output_flag(parser)
