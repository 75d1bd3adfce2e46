"""What several commands need: a client, values as JSON."""

from __future__ import annotations

import argparse
from typing import Any

from ..client import Client, Event, Item, Kind, Stat, connect
from . import parsing

KINDS = {Kind.FILE: "file", Kind.DIRECTORY: "directory", Kind.SYMLINK: "symlink"}
_LETTERS = {Kind.FILE: "-", Kind.DIRECTORY: "d", Kind.SYMLINK: "l"}


def client(namespace: argparse.Namespace) -> Client:
    """The client that the settings describe."""
    settings = parsing.settings(namespace).settings
    return connect(*settings.endpoint, timeout=settings.timeout)


def local_flag(parser: argparse.ArgumentParser) -> None:
    """Adds `--local`."""
    parser.add_argument(
        "--local", action="store_true",
        help="What the node has applied, which may be behind; also without a quorum.",
    )


def mode_letters(stat: Stat) -> str:
    """Kind and permissions the way ls shows them."""
    bits = "".join(
        letter if stat.mode >> (8 - i) & 1 else "-" for i, letter in enumerate("rwxrwxrwx")
    )
    return _LETTERS[stat.kind] + bits


def stat_json(stat: Stat) -> dict[str, Any]:
    """A record for programs: names as in the API, digests in hex."""
    found: dict[str, Any] = stat._asdict()
    found["kind"] = KINDS[stat.kind]
    for name in ("sha256", "request_id"):
        found[name] = found[name].hex()
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
