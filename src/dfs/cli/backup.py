"""snapshot: save the whole state to a file, verify the file, make a new cluster of it."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..config import CLIENT, NODE
from ..contents import DIRECTORY
from ..errors import Cancelled, DfsError, InvalidArgument, Misconfigured
from . import output, parsing, shared

if TYPE_CHECKING:
    from ..client import Client
    from ..offline.restore import Founder
    from ..store.backup import Head

STANDARD = "-"


# ---- snapshot ------------------------------------------------------------------------------------
def snapshot_flags(parser: argparse.ArgumentParser) -> None:
    """Arguments of `dfs snapshot`."""
    parts = parser.add_subparsers(
        dest="operation", metavar="save | verify | restore", required=True
    )
    save = parts.add_parser("save", help="Write everything, as of one revision, to a file.")
    save.add_argument("file", help="It appears when it is whole. -: standard output.")
    shared.local_flag(save)
    parsing.output_flag(save)
    parsing.add_settings(save, (CLIENT,))
    verify = parts.add_parser("verify", help="Read such a file and check every byte of it.")
    verify.add_argument("file")
    parsing.output_flag(verify)
    restore = parts.add_parser("restore", help="Make the data directory of a new cluster of it.")
    restore.add_argument("file")
    ahead_flag(restore, 0)
    parsing.add_settings(restore, (NODE,))


def ahead_flag(parser: argparse.ArgumentParser, default: int) -> None:
    """Adds `--ahead`."""
    parser.add_argument(
        "--ahead", type=int, default=default, metavar="N",
        help="Revisions go on N higher than in the backup: beyond what clients of the old cluster"
             f" may have seen that go on with the new one. Default: {default:,}.",
    )


def snapshot(args: argparse.Namespace) -> None:
    """Saves, verifies or restores."""
    {"save": _save, "verify": _verify, "restore": _restore}[args.operation](args)


def _save(args: argparse.Namespace) -> None:
    if args.file == STANDARD:
        _to_standard_output(args)
        return
    from ..offline.files import appearing

    target = Path(args.file)
    with shared.client(args) as client:
        with appearing(target) as file:
            for piece in client.backup(local=args.local):
                file.write(piece)
        lacking = _not_in_it(client)
    from ..store import backup

    # Not the whole file: it came as it was sent, and the node checked what it sent.
    with backup.opened(target) as (head, _):
        _tell(args, target, head)
    if args.output == "table":
        output.note(f"Try: {output.program()} snapshot verify {target}")
    if lacking:
        output.note(
            f"Not in it: {lacking}. They are the files below {DIRECTORY}/ in the data directory of"
            " each member: save those of one as well, after this."
        )


def _not_in_it(client: Client) -> str:
    """The large contents, which no backup holds; "" = there are none. The backup is whole already,
    so nothing is raised."""
    try:
        node = client.status(local=True).nodes[0]
    except DfsError as error:
        return f"large contents, if there are any, which is unknown ({error.text})"
    size = output.size(node.contents_bytes)
    return f"{node.contents:,} large contents ({size})" if node.contents else ""


def _to_standard_output(args: argparse.Namespace) -> None:
    with shared.client(args) as client:
        for piece in client.backup(local=args.local):
            try:
                output.raw(piece)
            except BrokenPipeError:
                # Nothing may be flushed at exit; and it is no success, as it would be for `head`.
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
                raise Cancelled(
                    "whoever read the backup has ended before it was whole"
                ) from None


def _verify(args: argparse.Namespace) -> None:
    from ..store import backup

    path = readable(args.file)
    _tell(args, path, backup.verify(path))


def _restore(args: argparse.Namespace) -> None:
    from ..offline.restore import restore

    path = readable(args.file)
    directory, founder = founder_of(args)
    check_ahead(args.ahead)
    found = restore(path, directory, founder, args.ahead)
    output.text(
        f"{directory}: node {founder.name} of the new cluster {found.cluster}, revision"
        f" {found.revision:,}, {found.head.keys:,} keys, {output.size(found.head.content_bytes)}"
    )
    if found.contents:
        output.note(
            f"It names {found.contents:,} large contents ({output.size(found.contents_bytes)}),"
            f" which no backup holds: copy them to {directory / DIRECTORY}/ before the start, out"
            f" of what was saved of {DIRECTORY}/ in a data directory; else those files cannot be"
            " read."
        )
    start_hint(directory, founder)


def founder_of(args: argparse.Namespace) -> tuple[Path, Founder]:
    """Data directory and first node of a new cluster, from the settings."""
    from ..offline.restore import Founder

    settings = parsing.settings(args).settings
    return settings.data, Founder(settings.id, settings.raft_advertise, settings.grpc_advertise)


def start_hint(directory: Path, founder: Founder) -> None:
    """What to do with a data directory that was made."""
    output.note("Start it with the settings that were given here, the others with empty data"
                f" directories and -peers {founder.raft}:")
    output.note(f"  {output.program()} serve -id {founder.name} -data {directory} …")


def check_ahead(ahead: int) -> None:
    """Raises InvalidArgument unless revisions can go on so much higher."""
    if not 0 <= ahead < 1 << 62:
        raise InvalidArgument(f"--ahead is {ahead}; it cannot be negative, or that large")


def readable(name: str) -> Path:
    """The path of a file that is there."""
    path = Path(name)
    if not path.is_file():
        raise Misconfigured(f"there is no file {name}")
    return path


def _tell(args: argparse.Namespace, path: Path, head: Head) -> None:
    size = path.stat().st_size
    if args.output == "json":
        output.json({"file": str(path), "file_bytes": size, **head._asdict()})
        return
    rows: list[tuple[str, Any]] = [
        ("file", f"{path}, {output.size(size)}"),
        ("cluster", head.cluster),
        ("saved", f"{output.when(head.saved_ns)} by {head.node} (dfs {head.version})"),
        ("revision", f"{head.revision:,} of {output.when(head.time_ns) or 'no time'}"),
        ("history", f"from revision {head.floor:,} on"),
        ("keys", f"{head.keys:,}"),
        ("content", output.size(head.content_bytes)),
        ("state hash", head.state_hash),
    ]
    for name, value in rows:
        output.text(f"{name:<11} {value}")
