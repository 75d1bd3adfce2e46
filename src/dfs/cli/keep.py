"""pin, unpin, pins, warmup, evict: what the agent of this machine keeps."""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping
from typing import Any

from ..cache import asking
from . import output, parsing


def agent_flag(parser: argparse.ArgumentParser) -> None:
    """Adds `--agent`."""
    parser.add_argument(
        "--agent", metavar="PATH", default=None,
        help="State directory of the agent, or its socket. Default: the setting state.",
    )


def ask(args: argparse.Namespace, op: str, on_progress: Any = None, **arguments: Any) -> Any:
    """Asks the agent that the flags and settings mean."""
    path = args.agent or str(parsing.settings(args).settings.state)
    return asking.ask(asking.place(path), op, on_progress, **arguments)


def _flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "path", nargs="+",
        help="Keys, whole subtrees; / in front: files of the mount or the cache directory.",
    )
    agent_flag(parser)
    parsing.output_flag(parser)


# ---- pins ----------------------------------------------------------------------------------------
def pin_flags(parser: argparse.ArgumentParser) -> None:
    """Arguments of `dfs pin`."""
    _flags(parser)
    parser.add_argument("--wait", action="store_true", help="Until all of it is here.")


def pin(args: argparse.Namespace) -> int:
    """Has content fetched, and kept here for good."""
    found = ask(args, "pin", paths=args.path)
    if args.wait:
        return warmup(args)
    if args.output == "json":
        output.json(found)
    else:
        size = output.size(found["bytes"])
        output.text(f"pinned {output.files(found['files'])}, {size}; what is not here is fetched "
                    "now")
    return 0


def unpin_flags(parser: argparse.ArgumentParser) -> None:
    """Arguments of `dfs unpin`."""
    _flags(parser)


def unpin(args: argparse.Namespace) -> None:
    """Content may go again when room is needed."""
    found = ask(args, "unpin", paths=args.path)
    if args.output == "json":
        output.json(found)


def pins_flags(parser: argparse.ArgumentParser) -> None:
    """Arguments of `dfs pins`."""
    agent_flag(parser)
    parsing.output_flag(parser)


def pins(args: argparse.Namespace) -> None:
    """What is pinned, and how much of it is here."""
    found = ask(args, "pins")
    if args.output == "json":
        output.json(found)
        return
    rows = [
        (row["path"] or "(all)", f"{row['files']:,}", output.size(row["bytes"]),
         f"{row['here_files']:,}", output.size(row["here_bytes"]))
        for row in found["pins"]
    ]
    output.table(("path", "files", "bytes", "here", "of bytes"), rows,
                 right="files bytes here of bytes")
    size = output.size(found["cache_size"]) if found["cache_size"] else "no limit"
    output.text(f"{output.size(found['pinned_bytes'])} are pinned, "
                f"{output.size(found['cached_bytes'])} kept in all; limit: {size}")


# ---- warmup --------------------------------------------------------------------------------------
def warmup_flags(parser: argparse.ArgumentParser) -> None:
    """Arguments of `dfs warmup`."""
    _flags(parser)


def warmup(args: argparse.Namespace) -> int:
    """Fetches content ahead of its use; returns when it is here."""
    begin_s = time.monotonic()
    with output.progress("fetching", 0) as shown:

        def on_progress(told: Mapping[str, Any]) -> None:
            shown.total = told["of_bytes"]
            rate = output.size(int(told["bytes"] / max(time.monotonic() - begin_s, 1e-3)))
            shown.update(told["bytes"], f"bytes, {rate}/s")

        found = ask(args, "warmup", on_progress, paths=args.path)
    took_s = time.monotonic() - begin_s
    if args.output == "json":
        output.json({**found, "seconds": took_s})
    else:
        rate = output.size(int(found["bytes"] / max(took_s, 1e-3)))
        output.text(f"fetched {output.files(found['files'])}, {output.size(found['bytes'])} in "
                    f"{output.duration(took_s)} ({rate}/s); {found['here']:,} were here")
    for line in found["failures"]:
        output.error(line)
    if found["failed"] > len(found["failures"]):
        output.error(f"and {found['failed'] - len(found['failures']):,} more")
    return 1 if found["failed"] else 0


# ---- evict ---------------------------------------------------------------------------------------
def evict_flags(parser: argparse.ArgumentParser) -> None:
    """Arguments of `dfs evict`."""
    _flags(parser)


def evict(args: argparse.Namespace) -> None:
    """Takes content from this machine; it stays in the cluster, and comes back when it is read."""
    found = ask(args, "evict", paths=args.path)
    if args.output == "json":
        output.json(found)
        return
    stayed = [f"{found[why]:,} are {why}" for why in ("pinned", "open") if found[why]]
    more = f"; {' and '.join(stayed)}, and stay" if stayed else ""
    output.text(f"evicted {output.files(found['files'])}, {output.size(found['bytes'])}{more}")
