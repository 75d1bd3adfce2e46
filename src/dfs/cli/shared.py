"""What several commands need: a client, values as JSON."""

from __future__ import annotations

import argparse
import contextlib
import os
from collections.abc import Iterator
from typing import Any, Final

from ..client import Client, Event, Item, Kind, Stat, connect
from ..errors import DeadlineExceeded, DfsError, Misconfigured, OutcomeUnknown
from ..moments import FORMS, revision_of, time_of
from ..places import real_place
from ..proto import dfs_pb2 as pb
from . import output, parsing

EXPLAIN_S: Final = 2.0
_PAST: Final = ".dfs/at/"
KINDS = {Kind.FILE: "file", Kind.DIRECTORY: "directory", Kind.SYMLINK: "symlink"}
_LETTERS = {Kind.FILE: "-", Kind.DIRECTORY: "d", Kind.SYMLINK: "l"}


@contextlib.contextmanager
def client(namespace: argparse.Namespace) -> Iterator[Client]:
    """The client that the settings describe. When time runs out, says what is wrong with the
    cluster as far as the node can see it."""
    settings = parsing.settings(namespace).settings
    with connect(*settings.endpoint, timeout=settings.timeout) as made:
        try:
            yield made
        except (DeadlineExceeded, OutcomeUnknown) as error:
            _explain(made)
            raise error


def _explain(made: Client) -> None:
    try:
        nodes = made.status(timeout=EXPLAIN_S).nodes
    except DfsError:
        return
    for line in troubles(list(nodes)):
        if line:
            output.note(line)


def troubles(nodes: list[pb.NodeStatus]) -> list[str]:
    """What a person should know: one line each, "" in front of the first."""
    lines = []
    for node in nodes:
        name = node.member.name
        if not node.role:
            why = node.error or "no reason known"
            lines.append(f"{name}: {silence(node.last_contact_ms)}, {why}")
        elif node.error:
            lines.append(f"{name}: {node.error}")
        lines += [f"{name}: {problem}" for problem in node.agent.problems]
        if node.agent.mount_mode.startswith("off:"):
            lines.append(f"{name}: no mount: {node.agent.mount_mode.removeprefix('off:').strip()}")
        if node.agent.pending_drops:
            lines.append(f"{name}: {node.agent.pending_drops:,} files of the cache are on the way")
    if lost := max((node.contents_lost for node in nodes), default=0):
        lines.append(
            f"{lost:,} large contents are held by no member: `dfs snapshot save` names their files;"
            " put those again, or restore a backup that has them (--contents-from)"
        )
    voters = [node for node in nodes if node.member.voter]
    up = sum(1 for node in voters if node.role)
    if 2 * up <= len(voters) and len(nodes) > 1:
        lines.append(
            f"{up} of {len(voters)} voters answer, {len(voters) // 2 + 1} are needed: writes and"
            " linearizable reads wait; `--local` reads what is here"
        )
    elif not any(node.leader or node.role == "leader" for node in nodes):
        lines.append("no node knows a leader at the moment")
    return ["", *lines] if lines else []


def silence(milliseconds: int) -> str:
    """How long a node has not been heard of."""
    return f"silent for {output.duration(milliseconds / 1000)}" if milliseconds else "silent"


def key_of(text: str) -> str:
    """The key that is meant: one is given as it is, or as a path below a mount. No key begins with
    a slash or a dot component, so the two cannot be mixed up. Raises Misconfigured."""
    if not text.startswith(("/", "./", "../")):
        return text
    from ..mount import KIND, mounts  # Only here: it needs the engine.

    path = os.path.abspath(text)
    candidates = path, real_place(path)
    tops = [m.point for m in mounts() if m.kind == KIND]
    for point in sorted(tops, key=len, reverse=True):
        for candidate in candidates:
            if candidate.startswith(point + "/"):
                return candidate[len(point) + 1 :]
    shown = ", ".join(sorted(tops)) or "there is none on this machine"
    raise Misconfigured(f"{text} is not below a mount of dfs ({shown}); give the key instead")


def past_of(key: str) -> tuple[str, str]:
    """The key, and the name of the revision or "", of what may be below `.dfs/at/` of a mount."""
    if not key.startswith(_PAST):
        return key, ""
    revision, _, key = key.removeprefix(_PAST).partition("/")
    return key, revision


def local_flag(parser: argparse.ArgumentParser) -> None:
    """Adds `--local`."""
    parser.add_argument(
        "--local", action="store_true",
        help="What the node has applied, which may be behind; also without a quorum.",
    )


def revision_flag(parser: argparse.ArgumentParser, what: str = "") -> None:
    """Adds `--revision`, for `as_of`."""
    parser.add_argument(
        "--revision", default="", metavar="REVISION|TIME",
        help=f"{what}As it was: a past revision, or the last one at a time ({FORMS}).",
    )


def as_of(client: Client, args: argparse.Namespace) -> int:
    """The revision that `--revision` means; 0 = now. Raises Misconfigured."""
    text: str = args.revision
    if text in ("", "0"):
        return 0
    if (revision := revision_of(text)) is not None:
        return revision
    try:
        time_ns = time_of(text)
    except ValueError as error:
        raise Misconfigured(f"--revision: {error}, and no revision, which is a number") from None
    return client.revision_at(time_ns, local=args.local)


def mode_letters(stat: Stat) -> str:
    """Kind and permissions the way ls shows them."""
    bits = "".join(
        letter if stat.mode >> (8 - i) & 1 else "-" for i, letter in enumerate("rwxrwxrwx")
    )
    return _LETTERS[stat.kind] + bits


def stat_json(stat: Stat) -> dict[str, Any]:
    """A record for programs: names as in the API, digests and values of attributes in hex."""
    found: dict[str, Any] = stat._asdict()
    found["kind"] = KINDS[stat.kind]
    for name in ("sha256", "request_id"):
        found[name] = found[name].hex()
    found["xattrs"] = {name: value.hex() for name, value in stat.xattrs}
    return found


def item_json(item: Item) -> dict[str, Any]:
    """An item for programs."""
    return {"key": item.key, **stat_json(item.stat)}


def event_json(event: Event) -> dict[str, Any]:
    """A change for programs."""
    return {
        "revision": event.revision, "sub": event.sub,
        "type": "delete" if event.deleted else "put", "key": event.key,
        "previous_revision": event.previous_revision, "record": stat_json(event.stat),
    }
