"""put, get, cat, rm, mkdir, ln."""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from ..errors import DfsError, InvalidArgument, Misconfigured
from ..limits import INLINE_BYTES_MAX
from . import output, parsing, shared, transfers

if TYPE_CHECKING:
    from ..client import Client, Stat

STANDARD = "-"


# ---- put -----------------------------------------------------------------------------------------
def put_flags(parser: argparse.ArgumentParser) -> None:
    """Arguments of `dfs put`."""
    parser.add_argument("key")
    parser.add_argument("file", nargs="?", default=STANDARD, help="Default: standard input.")
    parser.add_argument("-t", "--text", help="This text instead of a file.")
    parser.add_argument("--mode", type=_mode, help="Permissions, octal. Default: 644.")
    parser.add_argument(
        "-p", "--preserve", action="store_true", help="Keep the file's permissions and time."
    )
    parser.add_argument(
        "--atomic", action="store_true",
        help="FILE is a directory: all that is in it appears below KEY at once, as one revision.",
    )
    parser.add_argument(
        "--delete", action="store_true",
        help="With --atomic: remove what is below KEY and not in the directory, by the same.",
    )
    _base_flag(parser)
    parsing.output_flag(parser)


def put(args: argparse.Namespace) -> None:
    """Stores a file; prints its revision."""
    if args.atomic or args.delete:
        print_revision(args, _atomic(args))
        return
    mode, mtime_ns = args.mode, None
    with contextlib.ExitStack() as stack:
        if args.text is not None:
            source: BinaryIO = io.BytesIO(args.text.encode())
        elif args.file == STANDARD:
            if sys.stdin.isatty():
                output.note("reading the content from the terminal; Ctrl-D ends it")
            source = sys.stdin.buffer
        else:
            source = stack.enter_context(_readable(args.file).open("rb"))
            if args.preserve:
                found = os.fstat(source.fileno())
                mtime_ns = found.st_mtime_ns
                mode = found.st_mode & 0o7777 if mode is None else mode
        client = stack.enter_context(shared.client(args))
        metadata: dict[str, Any] = {
            "mode": mode, "mtime_ns": mtime_ns, "base_revision": args.base_revision
        }
        data = source.read(INLINE_BYTES_MAX + 1)
        if len(data) <= INLINE_BYTES_MAX:
            revision = client.put(args.key, data, **metadata)
        else:
            revision = transfers.upload(client, args.key, data, source, metadata)
    print_revision(args, revision)


def _atomic(args: argparse.Namespace) -> int:
    from .publish import publish  # seldom needed

    if not args.atomic:
        raise InvalidArgument("--delete goes with --atomic; to remove a key: dfs rm")
    if args.text is not None or args.mode is not None or args.base_revision is not None:
        raise InvalidArgument("--text, --mode and --base-revision do not go with --atomic")
    if args.file == STANDARD:
        raise InvalidArgument("--atomic needs a directory: dfs put --atomic KEY DIRECTORY")
    return publish(args)


def _mode(text: str) -> int:
    try:
        return int(text, 8)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not octal, such as 644") from None


def _readable(name: str) -> Path:
    path = Path(name)
    try:
        with path.open("rb"):
            return path
    except OSError as error:
        raise Misconfigured(
            f"{name} cannot be read: {error.strerror} (to store the text itself: -t {name})"
        ) from None


def _base_flag(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--base-revision", type=int, metavar="REVISION",
        help="Only if the key is at this revision; 0: only if there is none.",
    )


def print_revision(args: argparse.Namespace, revision: int) -> None:
    """What a write prints."""
    if args.output == "json":
        output.json({"revision": revision})
    else:
        output.text(str(revision))


# ---- get, cat ------------------------------------------------------------------------------------
def get_flags(parser: argparse.ArgumentParser) -> None:
    """Arguments of `dfs get`."""
    parser.add_argument("key")
    parser.add_argument("file", nargs="?", default=STANDARD, help="Default: standard output.")
    shared.revision_flag(parser)
    shared.local_flag(parser)
    parsing.output_flag(parser)


def get(args: argparse.Namespace) -> None:
    """Reads a file, to standard output or into a file that appears complete or not at all."""
    with shared.client(args) as client:
        revision = shared.as_of(client, args)
        if args.file != STANDARD:
            stat = _write(args, client, revision, Path(args.file))
        elif args.output == "json":
            data, stat = client.read(args.key, revision=revision, local=args.local)
        else:
            transfers.to_stdout(client, args.key, revision, args.local)
            return
    if args.output == "json":
        record = {"key": args.key, **shared.stat_json(stat)}
        if args.file == STANDARD:
            import base64

            record["data"] = base64.b64encode(data).decode()
        output.json(record)


def _write(args: argparse.Namespace, client: Client, revision: int, path: Path) -> Stat:
    """Downloads into a file that appears whole."""
    import tempfile  # 5 ms, only here

    wanted = args.key, revision, args.local
    try:
        if path.exists() and not path.is_file():
            with path.open("wb") as file:  # A device or a pipe takes what it is given.
                return transfers.download(client, *wanted, file)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "wb") as file:
                stat = transfers.download(client, *wanted, file)
                os.fchmod(file.fileno(), stat.mode & 0o777)
            Path(temporary).replace(path)
        except BaseException:
            with contextlib.suppress(OSError):
                Path(temporary).unlink()
            raise
    except DfsError:
        raise
    except OSError as error:
        raise Misconfigured(f"{path} cannot be written: {error.strerror}") from None
    return stat


def cat_flags(parser: argparse.ArgumentParser) -> None:
    """Arguments of `dfs cat`."""
    parser.add_argument("key", nargs="+", help="KEY, or KEY@REVISION for a past one.")
    shared.revision_flag(parser, "For all keys, which are then taken as they stand. ")
    shared.local_flag(parser)


def cat(args: argparse.Namespace) -> None:
    """Prints files one after the other."""
    with shared.client(args) as client:
        as_of = shared.as_of(client, args)
        for word in args.key:
            key, revision = (word, as_of) if args.revision else at(word)
            transfers.to_stdout(client, key, revision, args.local)


def at(word: str) -> tuple[str, int]:
    """(key, revision) of KEY@REVISION; (key, 0) of anything else."""
    key, sign, number = word.rpartition("@")
    if sign and key and number.isascii() and number.isdigit():
        return key, int(number)
    return word, 0


# ---- rm, mkdir, ln -------------------------------------------------------------------------------
def rm_flags(parser: argparse.ArgumentParser) -> None:
    """Arguments of `dfs rm`."""
    parser.add_argument("key", nargs="+")
    parser.add_argument("-r", "--recursive", action="store_true", help="With all that is below.")
    parser.add_argument("-n", "--dry-run", action="store_true", help="Only print what would go.")
    _base_flag(parser)


def rm(args: argparse.Namespace) -> None:
    """Removes keys, in all the cluster; history keeps them for a while."""
    if args.base_revision is not None and len(args.key) > 1:
        raise InvalidArgument("--base-revision is of one key: remove them one by one")
    with shared.client(args) as client:
        for key in args.key:
            if not args.dry_run:
                client.delete(key, recursive=args.recursive, base_revision=args.base_revision)
                continue
            client.stat(key)
            output.text(key)
            if args.recursive:
                for item in client.list(key, recursive=True):
                    if item.key != key:
                        output.text(item.key)


def mkdir_flags(parser: argparse.ArgumentParser) -> None:
    """Arguments of `dfs mkdir`."""
    parser.add_argument("key", nargs="+")
    parser.add_argument("--mode", type=_mode, help="Permissions, octal. Default: 755.")


def mkdir(args: argparse.Namespace) -> None:
    """Makes directories."""
    with shared.client(args) as client:
        for key in args.key:
            client.mkdir(key, mode=args.mode)


def ln_flags(parser: argparse.ArgumentParser) -> None:
    """Arguments of `dfs ln`."""
    parser.add_argument("target", help="Kept as given.")
    parser.add_argument("key")
    _base_flag(parser)


def ln(args: argparse.Namespace) -> None:
    """Stores a symbolic link."""
    with shared.client(args) as client:
        client.symlink(args.key, args.target, base_revision=args.base_revision)
