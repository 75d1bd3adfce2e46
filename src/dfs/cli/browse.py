"""ls, stat, watch, log: looking at the tree and its changes."""

from __future__ import annotations

import argparse
from itertools import islice

from ..client import Event, Item
from ..errors import DfsError
from . import output, parsing, shared


# ---- ls ------------------------------------------------------------------------------------------
def ls_flags(parser: argparse.ArgumentParser) -> None:
    """Arguments of `dfs ls`."""
    parser.add_argument("key", nargs="?", default="", help="Default: the whole tree.")
    parser.add_argument("-l", "--long", action="store_true", help="With mode, size, time, writer.")
    parser.add_argument("-r", "--recursive", action="store_true", help="With all that is below.")
    shared.revision_flag(parser)
    shared.local_flag(parser)
    parsing.output_flag(parser)


def ls(args: argparse.Namespace) -> None:
    """Lists a directory, all of one revision."""
    with shared.client(args) as client:
        items = client.list(
            args.key.rstrip("/"), recursive=args.recursive, revision=shared.as_of(client, args),
            local=args.local,
        )
        if args.output == "json":
            for item in items:
                output.json(shared.item_json(item), line=True)
        elif args.long:
            rows = [_long(item) for item in items]
            output.table(
                ("mode", "size", "changed", "revision", "writer", "key"), rows,
                right="size revision",
            )
        else:
            for item in items:
                output.text(item.key + ("/" if item.stat.is_directory else ""))


def _long(item: Item) -> tuple[str, ...]:
    stat = item.stat
    name = f"{item.key} -> {stat.target}" if stat.is_symlink else item.key
    return (
        shared.mode_letters(stat), f"{stat.size:,}", output.when(stat.mtime_ns),
        str(stat.revision), stat.node, name + ("/" if stat.is_directory else ""),
    )


# ---- stat ----------------------------------------------------------------------------------------
def stat_flags(parser: argparse.ArgumentParser) -> None:
    """Arguments of `dfs stat`."""
    parser.add_argument("key", metavar="KEY", help="A key, or /a/path below a mount.")
    shared.revision_flag(parser)
    shared.local_flag(parser)
    parsing.output_flag(parser)


def stat(args: argparse.Namespace) -> None:
    """Shows a record, and of how many changes of the key history tells."""
    key, then = shared.past_of(shared.key_of(args.key))
    args.revision = args.revision or then
    with shared.client(args) as client:
        found = client.stat(key, revision=shared.as_of(client, args), local=args.local)
        record = {"key": key, **shared.stat_json(found)}
        if not found.is_directory:  # Its history is that of all that is below.
            changes = client.history(key, local=args.local)
            record["history"] = sum(change.key == key for change in changes)
    if args.output == "json":
        output.json(record)
        return
    record["mode"] = f"{shared.mode_letters(found)} {found.mode:04o}"
    record["size"] = f"{found.size:,}"
    for name, shown in (("mtime_ns", "mtime"), ("time_ns", "committed")):
        record[shown] = output.when(record.pop(name))
    del record["xattrs"]
    record |= {name: _value(value) for name, value in found.xattrs}
    for name in ("uid", "gid"):
        record[name] = "" if record[name] is None else str(record[name])
    output.table(
        ("field", "value"), [(k, v) for k, v in record.items() if v not in ("", False)]
    )


def _value(value: bytes) -> str:
    """Of an extended attribute: as text where it is some."""
    try:
        text = value.decode()
    except UnicodeDecodeError:
        text = ""
    return text if text.isprintable() and text else f"0x{value.hex()}"


# ---- watch, log ----------------------------------------------------------------------------------
def watch_flags(parser: argparse.ArgumentParser) -> None:
    """Arguments of `dfs watch`."""
    parser.add_argument("key", nargs="?", default="", help="Default: the whole tree.")
    parser.add_argument(
        "--after", type=int, default=0, metavar="REVISION",
        help="Changes after this revision. Default: from now on.",
    )
    parser.add_argument(
        "-s", "--snapshot", action="store_true", help="First what is there now."
    )
    parser.add_argument("-n", "--count", type=int, help="End after so many changes.")
    _all_flag(parser)
    parsing.output_flag(parser)


def _all_flag(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "-a", "--all", action="store_true",
        help="Also directories that come and go with what is in them.",
    )


def _worth_a_line(event: Event, everything: bool) -> bool:
    return everything or not event.stat.implicit


def watch(args: argparse.Namespace) -> None:
    """Prints changes until Ctrl-C."""
    left = args.count

    def lost(error: DfsError) -> None:
        output.note(f"{error.text}; going on with another node")

    with shared.client(args) as client, client.watch(
        args.key.rstrip("/"), after_revision=args.after, snapshot=args.snapshot, on_lost=lost
    ) as updates:
        for update in updates:
            for item in update.items:
                if item.stat.implicit and not args.all:
                    continue
                _print_item(item, args.output)
            events = [event for event in update.events if _worth_a_line(event, args.all)]
            for event in events if left is None else events[:left]:
                print_event(event, args.output)
            output.flush()
            if left is not None:
                left = max(left - len(events), 0)
                if left == 0:
                    return


def _print_item(item: Item, form: str) -> None:
    if form == "json":
        output.json({"type": "snapshot", **shared.item_json(item)}, line=True)
    else:
        output.text(f"{item.stat.revision:>10}  have    {item.key}")


def print_event(event: Event, form: str) -> None:
    """One change in one line."""
    if form == "json":
        output.json(shared.event_json(event), line=True)
        return
    stat = event.stat
    what = "delete" if event.deleted else "put" if stat.is_file else shared.KINDS[stat.kind]
    more = ""
    if not event.deleted:
        more = f"  {output.size(stat.size)}" if stat.is_file else ""
        more = f" -> {stat.target}" if stat.is_symlink else more
    output.text(f"{event.revision:>10}  {what:<6}  {event.key}{more}  by {stat.node}")


def log_flags(parser: argparse.ArgumentParser) -> None:
    """Arguments of `dfs log`."""
    parser.add_argument("key", nargs="?", default="", help="Default: the whole tree.")
    parser.add_argument("-n", "--count", type=int, default=0, help="At most so many changes.")
    _all_flag(parser)
    parser.add_argument(
        "--before", type=int, default=0, metavar="REVISION", help="Changes before this revision."
    )
    shared.local_flag(parser)
    parsing.output_flag(parser)


def log(args: argparse.Namespace) -> None:
    """Prints the retained changes of a key and of what is below it, newest first."""
    with shared.client(args) as client:
        events = client.history(
            args.key.rstrip("/"), before_revision=args.before, local=args.local,
            limit=args.count if args.all else 0,
        )
        shown = (event for event in events if _worth_a_line(event, args.all))
        for event in islice(shown, args.count or None):
            print_event(event, args.output)
