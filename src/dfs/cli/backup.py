"""snapshot: save everything to a file, verify the file, make a new cluster of it."""

from __future__ import annotations

import argparse
import os
import sys
from contextlib import closing
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..config import CLIENT, NODE
from ..errors import Cancelled, InvalidArgument, Misconfigured
from . import output, parsing, shared, transfers

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

    from ..offline.gather import Lacking
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
    save.add_argument(
        "--without-contents", action="store_true",
        help="The state alone: large contents, which are files of their own, are not in it.",
    )
    shared.local_flag(save)
    parsing.output_flag(save)
    parsing.add_settings(save, (CLIENT,))
    verify = parts.add_parser("verify", help="Read such a file and check every byte of it.")
    verify.add_argument("file")
    parsing.output_flag(verify)
    restore = parts.add_parser("restore", help="Make the data directory of a new cluster of it.")
    restore.add_argument("file")
    sources_flag(restore)
    ahead_flag(restore, 0)
    parsing.add_settings(restore, (NODE,))


def ahead_flag(parser: argparse.ArgumentParser, default: int) -> None:
    """Adds `--ahead`."""
    parser.add_argument(
        "--ahead", type=int, default=default, metavar="N",
        help="Revisions go on N higher than in the backup: beyond what clients of the old cluster"
             f" may have seen that go on with the new one. Default: {default:,}.",
    )


def sources_flag(parser: argparse.ArgumentParser) -> None:
    """Adds `--contents-from`."""
    parser.add_argument(
        "--contents-from", action="append", default=[], metavar="PLACE",
        help="A data directory, or a backup, that has large contents which are lacking otherwise."
             " May be given more than once.",
    )


def sources_of(args: argparse.Namespace) -> list[Path]:
    """What `--contents-from` names. Raises Misconfigured."""
    for name in args.contents_from:
        if not Path(name).exists():
            raise Misconfigured(f"there is no file or directory {name} to take contents from")
    return [Path(name) for name in args.contents_from]


def snapshot(args: argparse.Namespace) -> None:
    """Saves, verifies or restores."""
    {"save": _save, "verify": _verify, "restore": _restore}[args.operation](args)


def _save(args: argparse.Namespace) -> None:
    with shared.client(args) as client:
        sent = client.backup(local=args.local, with_contents=not args.without_contents)
        with closing(_shown(sent, Path(args.file).name)) as pieces:
            if args.file == STANDARD:
                _to_standard_output(pieces)
            else:
                _to_file(args, pieces)


def _to_file(args: argparse.Namespace, pieces: Iterator[bytes]) -> None:
    from ..offline.files import appearing
    from ..store import backup

    target = Path(args.file)
    with appearing(target) as file:
        for piece in pieces:
            file.write(piece)
    # Not the whole file: it came as it was sent, and the node checked what it sent. But the head of
    # the former format, which an older node sends, says nothing of contents: its records do.
    with backup.opened(target) as saved:
        head = saved.head
    said = head.with_contents or head.contents
    _tell(args, target, head if said else backup.verify(target))
    if args.output == "table":
        output.note(f"Try: {output.program()} snapshot verify {target}")


def _to_standard_output(pieces: Iterator[bytes]) -> None:
    for piece in pieces:
        try:
            output.raw(piece)
        except BrokenPipeError:
            # Nothing may be flushed at exit; and it is no success, as it would be for `head`.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise Cancelled("whoever read the backup has ended before it was whole") from None


def _shown(pieces: Iterator[bytes], what: str) -> Generator[bytes, None, None]:
    """The same pieces, with a line on the terminal that says how far it is."""
    from ..store import backup

    first, done = next(pieces), 0
    with transfers.line(what, backup.expected_bytes(first)) as line:
        for piece in chain([first], pieces):
            done += len(piece)
            line.at(done)
            yield piece


def _verify(args: argparse.Namespace) -> None:
    from ..store import backup

    path = readable(args.file)
    with transfers.line(path.name, path.stat().st_size) as line:
        head = backup.verify(path, line.at)
    _tell(args, path, head)


def _restore(args: argparse.Namespace) -> None:
    from ..offline.restore import restore

    path = readable(args.file)
    directory, founder = founder_of(args)
    check_ahead(args.ahead)
    with transfers.line(path.name, path.stat().st_size) as line:
        found = restore(path, directory, founder, args.ahead, sources_of(args), line.at)
    head = found.head
    output.text(
        f"{directory}: node {founder.name} of the new cluster {found.cluster}, revision"
        f" {found.revision:,}, {head.keys:,} keys, {output.size(head.content_bytes)},"
        f" {head.contents - found.lacking.contents:,} large contents"
    )
    tell_lacking(found.lacking)
    start_hint(directory, founder)


def tell_lacking(lacking: Lacking) -> None:
    """Which large contents a new data directory does not have."""
    if lacking.contents:
        more = ", …" if lacking.contents > len(lacking.keys) else ""
        output.note(
            f"LACKING: {lacking.contents:,} large contents ({output.size(lacking.bytes)}), which"
            f" nothing that was given has: {', '.join(lacking.keys)}{more} cannot be read. A data"
            " directory or a backup that has them is given with --contents-from; make this anew"
            " then, in an empty directory."
        )


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
        said = {**head._asdict(), "lacking": head.lacking}
        output.json({"file": str(path), "file_bytes": size, **said})
        return
    where = "NOT in it" if head.lacking else "all in it"
    rows: list[tuple[str, Any]] = [
        ("file", f"{path}, {output.size(size)}"),
        ("cluster", head.cluster),
        ("saved", f"{output.when(head.saved_ns)} by {head.node} (dfs {head.version})"),
        ("revision", f"{head.revision:,} of {output.when(head.time_ns) or 'no time'}"),
        ("history", f"from revision {head.floor:,} on"),
        ("keys", f"{head.keys:,}"),
        ("content", output.size(head.content_bytes)),
        ("large", f"{head.contents:,} contents, {output.size(head.contents_bytes)}, {where}"),
        ("state hash", head.state_hash),
    ]
    for name, value in rows:
        output.text(f"{name:<11} {value}")
    if head.lacking:
        output.note(
            "Without its large contents it is no whole backup: keep a data directory or a backup"
            f" that has them, for `{output.program()} snapshot restore … --contents-from`."
        )
