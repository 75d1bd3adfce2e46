"""status PATH, sync: is what lies in the cache directory stored, and on how many members?"""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Final, NamedTuple

from ..client import Client, connect
from ..config import seconds_of
from ..errors import (
    DeadlineExceeded,
    DfsError,
    InvalidArgument,
    Misconfigured,
    NotADirectory,
    NotFound,
    Unavailable,
)
from ..proto import dfs_pb2 as pb
from . import keep, output, parsing, shared

UNSAFE: Final = 1
"""Exit code."""


class Stored(NamedTuple):
    """How many members have applied a revision, and have all large contents."""

    have: int
    members: int
    error: str = ""
    """Why nobody could be asked."""

    @property
    def safe(self) -> bool:
        """A majority has it, so far as they answer."""
        return 2 * self.have > self.members > 0

    def text(self) -> str:
        """For the summary."""
        if self.error:
            return f"where it is stored is unknown: {self.error}"
        return f"stored on {self.have} of {self.members} members"


def _client(
    args: argparse.Namespace, found: Mapping[str, Any] | None
) -> AbstractContextManager[Client]:
    """To the cluster of the agent that has answered, unless another was named."""
    if found is None or parsing.settings(args).given("endpoint"):
        return shared.client(args)
    return connect(*found["endpoints"])


# ---- status PATH ---------------------------------------------------------------------------------
def status(args: argparse.Namespace) -> int:
    """The answer in the first line; exit code 0 only if it is safe."""
    found: dict[str, Any] | None
    try:
        found, why = keep.ask(args, "look", paths=[args.path]), ""
    except Unavailable as error:
        found, why = None, error.text
    with _client(args, found) as client:
        if found is None:
            found = _of_the_tree(client, args.path, why)
        stored = _stored(client, found["revision"])
    # An agent that does not know the tree yet cannot say what is not in it.
    sure = not why and found["known"]
    if sure and not found["entries"] and not found["drops"] and not _left(found):
        here = os.path.abspath(args.path)
        meant = f"; the file here is {here}" if os.path.lexists(here) else ""
        raise NotFound(f"there is nothing at {args.path}, neither in the tree nor in the cache "
                       f"directory{meant}")
    problems = _problems(found, why)
    safe = not problems and stored.safe
    if args.output == "json":
        output.json({
            "safe": safe, "stored_on": stored.have, "members": stored.members, "problems": problems,
            **found,
        })
        return 0 if safe else UNSAFE
    said = [stored.text(), *problems] if safe else [*problems, stored.text()]
    output.text(f"{'safe' if safe else 'NOT safe'}: {'; '.join(said)}")
    for line in _details(found):
        output.text(f"  {line}")
    return 0 if safe else UNSAFE


def _of_the_tree(client: Client, path: str, why: str) -> dict[str, Any]:
    """What can be said without the agent, which does not answer for the reason `why`. Raises
    Unavailable where that is nothing."""
    unknown = f"what is in the cache directory is unknown: {why}"
    try:
        # As the agent takes it: only what begins with a slash is a file of a mount.
        key = shared.key_of(path) if path.startswith("/") else path.removeprefix("./").rstrip("/")
    except Misconfigured as error:
        raise Unavailable(f"{error.text}; {unknown}") from None
    key = "" if key == "." else key
    revisions: list[int] = []
    try:
        if key:
            revisions.append(client.stat(key, local=True).revision)
        below = client.list(key, recursive=True, local=True)
        revisions += [item.stat.revision for item in below]
    except (NotFound, NotADirectory):
        pass  # A file has nothing below it.
    except Unavailable as error:
        raise Unavailable(f"what is in the tree is unknown: {error.text}; {unknown}") from None
    if not revisions:
        raise Unavailable(f"{path} is not in the tree; {unknown}")
    return {"path": path, "entries": len(revisions), "drops": 0, "revision": max(revisions)}


def _stored(client: Client, revision: int) -> Stored:
    try:
        nodes: Sequence[pb.NodeStatus] = client.status().nodes
    except DfsError as error:
        return Stored(0, 0, error.text)
    whole = [node for node in nodes if node.role and not node.contents_missing]
    have = sum(1 for node in whole if revision and node.applied >= revision)
    return Stored(have, len(nodes))


def _left(found: Mapping[str, Any]) -> int:
    return int(found.get("pending_count", 0)) + int(found.get("refused_count", 0))


def _problems(found: Mapping[str, Any], why: str) -> list[str]:
    problems = []
    if why:
        problems.append(f"what is in the cache directory is unknown: {why}")
    elif not found["known"]:
        problems.append("the agent does not know the tree yet: no node has answered it")
    if found.get("pending_count"):
        reason = found["pending"][0]["why"]
        problems.append(f"{output.files(found['pending_count'])} pending ({reason})")
    if found.get("refused_count"):
        problems.append(f"{output.files(found['refused_count'])} refused")
    return problems


def _details(found: Mapping[str, Any]) -> list[str]:
    lines = []
    for kind in ("pending", "refused"):
        lines += [f"{kind}: {row['path']}: {row['why']}" for row in found.get(kind, ())]
        more = found.get(f"{kind}_count", 0) - len(found.get(kind, ()))
        lines += [f"{kind}: and {more:,} more"] if more else []
    lines += [f"conflict copy: {path}" for path in found.get("conflicts", ())]
    if found.get("removals"):
        removed = output.files(found["removals"])
        lines.append(f"removed here, not deleted from the tree yet: {removed}")
    if found.get("cache"):
        lines.append(f"cache directory {found['cache']}: {output.files(found['drops'])} stored, "
                     f"newest revision {found['revision']:,}")
    if found.get("mount"):
        pinned = f", {found['pinned_files']:,} pinned" if found["pinned_files"] else ""
        lines.append(
            f"content on this machine: {found['here_files']:,} of {output.files(found['files'])}, "
            f"{output.size(found['here_bytes'])} of {output.size(found['bytes'])}{pinned}"
        )
    return lines


# ---- sync ----------------------------------------------------------------------------------------
def sync_flags(parser: argparse.ArgumentParser) -> None:
    """Arguments of `dfs sync`."""
    parser.add_argument("path", nargs="?", default="", help="Only what is there and below.")
    parser.add_argument(
        "--wait", action="store_true", help="Return when all drops that are there are in the tree."
    )
    parser.add_argument(
        "--within", default="5m", metavar="DURATION", help="Longest wait: 10s, 500ms. Default: 5m."
    )
    deletes = parser.add_mutually_exclusive_group()
    deletes.add_argument(
        "--confirm-deletes", action="store_true",
        help="Delete from the tree what was removed from the cache directory, however much it is.",
    )
    deletes.add_argument(
        "--discard-deletes", action="store_true",
        help="Leave in the tree what was removed from the cache directory until now.",
    )
    keep.agent_flag(parser)
    parsing.output_flag(parser)


def sync(args: argparse.Namespace) -> int:
    """Looks for drops now; with --wait fails unless all of them are stored."""
    if args.confirm_deletes or args.discard_deletes:
        return _deletes(args)
    try:
        within_ms = int(seconds_of(args.within) * 1000)
    except ValueError as error:
        raise InvalidArgument(f"--within: {error}") from None
    with output.progress("storing", 0) as shown:

        def on_progress(told: Mapping[str, Any]) -> None:
            shown.total = told["of"]
            shown.update(told["of"] - told["left"], f"files; {told['path']}: {told['why']}")

        found = keep.ask(
            args, "sync", on_progress, paths=[args.path], wait=args.wait, within_ms=within_ms
        )
    late = args.wait and found["pending_count"]
    if args.output == "json":
        output.json(found)
    else:
        _show(found)
    if late:
        pending = output.files(found["pending_count"])
        raise DeadlineExceeded(f"{pending} not stored within {args.within}")
    return UNSAFE if args.wait and found["refused_count"] else 0


def _deletes(args: argparse.Namespace) -> int:
    op = "confirm_deletes" if args.confirm_deletes else "discard_deletes"
    found = keep.ask(args, op)
    if args.output == "json":
        output.json(found)
    else:
        what = "will be deleted from the tree" if args.confirm_deletes else "stay in the tree"
        output.text(f"{output.files(found['files'])} that were removed here {what}")
    return 0


def _show(found: Mapping[str, Any]) -> None:
    problems = _problems({**found, "known": True}, "")
    done = "all that is in the cache directory is stored"
    output.text(f"{'; '.join(problems) or done}; newest revision {found['revision']:,}")
    for line in _details(found):
        output.text(f"  {line}")
