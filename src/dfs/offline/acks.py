"""Is every acknowledged write still there: in the log, the history or the state of a majority."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

from ..errors import DataLoss, InvalidArgument
from ..proto.dfs_pb2 import Operation, Record
from ..proto.internal.log_pb2 import Entry
from ..store import UnknownEntry
from ..store.layout import (
    CURRENT,
    history_key,
    path_of,
    unpack_event,
    unpack_version,
)
from ..store.operations import parse
from .places import ENTRY, Stopped

PROBLEMS_MAX = 50
"""Lost writes that are told one by one."""
MOVED = b"moved"
"""Instead of a digest."""


class Ack(NamedTuple):
    """A write that somebody was told is done."""

    revision: int
    key: str
    sha256: bytes
    """Of the content; b"" = the key was deleted."""


@dataclass
class AckReport:
    """What became of them."""

    checked: int
    on_all: int = 0
    """Found on every node."""
    on_majority: int = 0
    """Found on a majority, but not on every node."""
    beyond_history: int = 0
    """Older than what history has; the key was changed later."""
    problems: list[str] = field(default_factory=list)
    untold: int = 0
    """Lost writes beyond those that are told."""


def read_acks(path: Path) -> Iterator[Ack]:
    """One JSON object a line: {"revision": 7, "key": "a/b", "sha256": hex} or {…, "deleted": true}.
    Raises InvalidArgument naming the line."""
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                found = json.loads(line)
                digest = b"" if found.get("deleted") else bytes.fromhex(found["sha256"])
                yield Ack(int(found["revision"]), str(found["key"]), digest)
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise InvalidArgument(
                    f"line {number} of {path} is no acknowledged write ({error!r}): it has to be"
                    ' like {"revision": 7, "key": "a/b", "sha256": "…"} or have "deleted": true'
                ) from None


def check_acks(acks: Sequence[Ack], places: Sequence[Stopped], given: int) -> AckReport:
    """Looks for each on every node. `given`: nodes that were to be looked at, readable or not."""
    report = AckReport(len(acks))
    newest = max(places, key=lambda place: place.committed, default=None)
    if newest is None:
        report.problems.append("no state can be read, so no acknowledged write was found")
        return report
    members = newest.members_at(newest.committed)
    elsewhere = len(members.voters - {place.identity.id for place in places}) if given else 0
    missing = max(elsewhere - max(given - len(places), 0), 0)
    needed = max(members.majority - missing, 1)
    logged = [_logged(place, {ack.revision for ack in acks}) for place in places]
    for ack in acks:
        found = [_found(place, logs, ack) for place, logs in zip(places, logged, strict=True)]
        count = sum(1 for word in found if word)
        if count < needed:
            if len(report.problems) < PROBLEMS_MAX:
                report.problems.append(_lost(ack, places, found, needed))
            else:
                report.untold += 1
        elif "later" in found and "there" not in found:
            report.beyond_history += 1
        elif count == len(places):
            report.on_all += 1
        else:
            report.on_majority += 1
    return report


def _lost(ack: Ack, places: Sequence[Stopped], found: Sequence[str], needed: int) -> str:
    what = f"the deletion of {ack.key}" if not ack.sha256 else ack.key
    have = [place.name for place, word in zip(places, found, strict=True) if word]
    where = f"only {', '.join(have)} has it, and {needed} must" if have else "nobody has it"
    return f"revision {ack.revision}, {what}, was acknowledged, but {where}"


def _logged(place: Stopped, wanted: set[int]) -> dict[int, dict[str, bytes]]:
    """Revision → key → digest or b"", of those writes that are in the log of a node."""
    found = {}
    for entry in place.entries(min(wanted), max(wanted)):
        if entry.kind != ENTRY or entry.id.position not in wanted:
            continue
        try:
            command = parse(entry.payload)
        except UnknownEntry:
            continue  # the audit of the node says so
        kind = command.entry.WhichOneof("operation")
        parts = command.entry.transaction.operations if kind == "transaction" else [command.entry]
        found[entry.id.position] = dict(_written(part) for part in parts)
    return found


def _written(operation: Entry | Operation) -> tuple[str, bytes]:
    """Key and digest of a file that is stored, b"" of what is deleted, MOVED of what a move or a
    copy makes: what that has only the state says."""
    kind = operation.WhichOneof("operation")
    request = getattr(operation, str(kind))
    if kind == "put":
        return request.key, sha256(request.data).digest()
    if kind == "put_content":
        return request.key, request.sha256
    if kind in ("move", "copy"):
        return request.target, MOVED
    return getattr(request, "key", ""), b""


def _found(place: Stopped, logged: dict[int, dict[str, bytes]], ack: Ack) -> str:
    """ "there", "later" (the key was changed since, and history is gone), or ""."""
    try:
        if ack.revision > place.meta.applied:
            said = logged.get(ack.revision, {}).get(ack.key)
            return "there" if said in (ack.sha256, MOVED) else ""
        if _in_history(place, ack):
            return "there"
        return "later" if ack.revision < place.meta.floor and _changed_since(place, ack) else ""
    except DataLoss:
        return ""


def _in_history(place: Stopped, ack: Ack) -> bool:
    path = path_of(ack.key)
    begin, end = history_key(ack.revision, 0), history_key(ack.revision + 1, 0)
    for key, value in place.kv.scan(begin, end):
        event = unpack_event(key, value)
        if event.path == path:
            if event.deleted or not ack.sha256:
                return event.deleted and not ack.sha256
            return Record.FromString(event.record).sha256 == ack.sha256
    return False


def _changed_since(place: Stopped, ack: Ack) -> bool:
    """The key is what a later write made of it, or it is not there."""
    key = CURRENT + path_of(ack.key)
    value = place.kv.get(key)
    if value is None:
        return True
    version = unpack_version(key, value)
    return version.revision > ack.revision
