"""Are the logs and states of nodes consistent, each in itself and with the others.

One node: every record of its log and store with its checksum; indexes without a gap, terms and
votes that never go back; the log reaches from the state on; contents fit their digests, also those
that are files beside the store; history, index, counts and the state hash fit the records.

Nodes beside each other: one log id is one entry; what one knows to be committed no other has
otherwise; a committed entry is on a majority; applying the log to each state, up to all that is
committed, gives the same state hash and the same hash chain.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from heapq import merge
from itertools import groupby
from pathlib import Path
from typing import Any

from ..errors import DfsError
from ..identity import LOG
from ..proto.internal.log_pb2 import Entry as Decoded
from ..store import Store, UnknownEntry, snapshot
from ..store.operations import parse
from ..store.soundness import StateCheck
from . import contents
from .acks import Ack, AckReport, check_acks
from .places import ENTRY, NOTHING, Entry, LogId, Stopped, opened, rolled

PROBLEMS_MAX = 50
"""That are told of all nodes together; a cluster where more is wrong has one cause for many."""


@dataclass
class NodeReport:
    """What was found in one data directory."""

    directory: str
    name: str
    id: int
    cluster: str
    term: int
    """Of the last entry."""
    last: int
    committed: int
    applied: int
    purged: int
    vote: int
    """Its term."""
    keys: int
    content_bytes: int
    events: int
    requests: int
    log_entries: int
    state_hash: str
    chain: str
    members: str
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    """What is no damage, but good to know."""


@dataclass
class Report:
    """What was found in all of them."""

    nodes: list[NodeReport]
    problems: list[str]
    """Between the nodes."""
    notes: list[str]
    compared_entries: int = 0
    """Log entries that at least two nodes have."""
    acks: AckReport | None = None

    @property
    def sound(self) -> bool:
        """Nothing is wrong."""
        lost = self.acks is not None and bool(self.acks.problems)
        return not (self.problems or lost or any(node.problems for node in self.nodes))

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        return {"sound": self.sound, **asdict(self)}


def verify(directories: Sequence[Path], acks: Iterable[Ack] = ()) -> Report:
    """Audits the data directories of nodes that do not run. Nothing in them is changed.

    `acks`: writes that were acknowledged. Raises Misconfigured: a directory is none of ours, a node
    runs in it, or another version wrote it. Everything else that is wrong stands in the report.
    """
    with ExitStack() as stack:
        places = [stack.enter_context(opened(directory)) for directory in directories]
        on_disk: list[contents.OnDisk] = []
        nodes = [check_node(place, on_disk) for place in places]
        report = Report(nodes, contents.lost(on_disk), [])
        _check_identities(places, report)
        readable = [place for place in places if not place.damage]
        _check_logs(places, report)
        _check_states(readable, report)
        wanted = list(acks)
        if wanted:
            report.acks = check_acks(wanted, readable, len(places))
        return report


# ---- one node ------------------------------------------------------------------------------------


def check_node(place: Stopped, on_disk: list[contents.OnDisk]) -> NodeReport:
    """Audits one of them; `on_disk` gets what it has of large contents."""
    state, meta = StateCheck(place.kv), place.meta
    vote = place.standing["vote"]
    report = NodeReport(
        str(place.directory), place.name, place.identity.id, place.identity.cluster.hex(),
        place.last.term, place.last.position, place.committed, meta.applied,
        place.log_id("purged").position, vote[0] if vote else 0, state.keys, state.bytes,
        state.events, state.requests, place.standing["entries"],
        meta.state_hash.to_bytes(16, "little").hex(), meta.chain.hex(),
        place.members_at(place.committed).shown(),
    )  # fmt: skip
    report.problems += [place.damage] if place.damage else state.problems
    if state.untold:
        report.problems.append(f"{state.untold:,} more problems of the state")
    report.problems += place.standing["problems"]
    found = contents.look(place.directory, state.contents)
    on_disk.append(found)
    report.problems += contents.problems(found)
    report.notes += contents.notes(found)
    whole = _snapshots(place, report)
    _log_and_state(place, whole, report)
    report.problems += _entries(place)
    report.notes += _notes(place)
    return report


def _snapshots(place: Stopped, report: NodeReport) -> int:
    """Reads the snapshots; the highest index of one that is whole, 0 = there is none."""
    highest = 0
    for note in (place.directory / LOG / "snapshots").glob("snapshot-*.meta"):
        path = note.with_name(note.name.removesuffix(".meta"))
        try:
            for _ in snapshot.read(path):
                pass
        except (DfsError, UnknownEntry, OSError) as error:
            report.problems.append(f"the snapshot {path.name} cannot be used: {error}")
        else:
            highest = max(highest, int(path.name.rpartition("-")[2]))
    return highest


def _log_and_state(place: Stopped, snapshot_index: int, report: NodeReport) -> None:
    """What log and store say of each other."""
    applied, meta = place.applied_id, place.meta
    needed = max(place.log_id("purged").position, place.standing["durable"])
    if place.damage:
        return
    if meta.applied < needed <= snapshot_index:
        report.notes.append(
            f"the store has applied {meta.applied}, though {needed} was on disk: a start restores"
            f" it from the snapshot of {snapshot_index}"
        )
    elif meta.applied < needed:
        report.problems.append(
            f"the store has applied {meta.applied}, but {needed} was on disk: it went back, or an"
            " old copy was put there"
        )
    if place.log_id("committed") > place.log_id("last"):
        report.problems.append(
            f"entry {place.log_id('committed').position} is known to be committed, but the log"
            f" ends at {place.log_id('last').position}"
        )
    for entry in place.entries(meta.applied, meta.applied):
        if applied != NOTHING and entry.id != applied:
            report.problems.append(
                f"the store has applied {_shown(applied)}, the log has {_shown(entry.id)} there"
            )


def _entries(place: Stopped) -> Iterator[str]:
    """What is wrong with the entries of a log; each was decoded by the engine already."""
    try:
        for entry in place.entries(0, place.log_id("last").position):
            if entry.kind == ENTRY and (text := _wrong(entry)):
                yield text
    except OSError as error:
        yield f"the log cannot be read: {error}"


def _wrong(entry: Entry) -> str:
    try:
        command = parse(entry.payload)
    except UnknownEntry as error:
        return f"entry {entry.id.position}: {error}"
    if isinstance(command.request, DfsError):
        return f"entry {entry.id.position} is none that any node takes: {command.request}"
    decoded = command.entry
    if decoded.WhichOneof("operation") in ("put", "transaction") and not _fits(decoded):
        return f"entry {entry.id.position}: the content is not that of its digest"
    return ""


def _fits(entry: Decoded) -> bool:
    """The content of a Put, or of those in a transaction, is that of its digest."""
    parts = entry.transaction.operations
    puts = [part.put for part in parts if part.WhichOneof("operation") == "put"]
    if not parts:
        puts = [entry.put]
    return b"".join(sha256(put.data).digest() for put in puts) == entry.sha256


def _notes(place: Stopped) -> Iterator[str]:
    if torn := place.standing["torn"]:
        yield (
            f"the log ends with {torn:,} bytes that are no whole record, as after a crash: a start"
            " cuts them off"
        )
    if place.meta.applied > place.log_id("last").position > 0:
        yield "the store is ahead of the log: a start begins the log anew behind it"
    if place.identity.fault:
        yield f"the node was condemned: {place.identity.fault}"
    if not place.standing["entries"] and not place.meta.applied:
        yield "it holds nothing"


def _shown(log_id: LogId) -> str:
    return f"entry {log_id.position} of term {log_id.term}"


# ---- beside each other ---------------------------------------------------------------------------


def _check_identities(places: Sequence[Stopped], report: Report) -> None:
    clusters = {place.identity.cluster.hex() for place in places if place.identity.cluster}
    if len(clusters) > 1:
        report.problems.append(f"they belong to different clusters: {', '.join(sorted(clusters))}")
    for what in ("name", "id"):
        values = [getattr(place.identity, what) for place in places]
        for value in {v for v in values if values.count(v) > 1}:
            report.problems.append(f"{values.count(value)} directories have the {what} {value}")


def _rows(place: Stopped, number: int) -> Iterator[tuple[int, int, LogId, bytes]]:
    for entry in place.entries(0, place.log_id("last").position):
        digest = sha256(bytes((entry.kind,)) + entry.payload).digest()
        yield entry.id.position, number, entry.id, digest


def _check_logs(places: Sequence[Stopped], report: Report) -> None:
    committed = [place.committed for place in places]
    highest = max(committed, default=0)
    newest = max(places, key=lambda place: place.committed, default=None)
    if newest is None:
        return
    members = newest.members_at(newest.committed)
    elsewhere = len(members.voters - {place.identity.id for place in places})
    needed = max(members.majority - elsewhere, 1)
    voters = [place.identity.id in members.voters for place in places]
    rows = merge(*(_rows(place, number) for number, place in enumerate(places)))
    for index, group in groupby(rows, key=lambda row: row[0]):
        found = list(group)
        report.compared_entries += len(found) > 1
        problem = _differ(index, found, places, committed)
        if not problem and index <= highest:
            sure = [log_id for _, number, log_id, _ in found if committed[number] >= index]
            have = {n for _, n, log_id, _ in found if not sure or log_id == sure[0]}
            have |= {n for n, place in enumerate(places) if place.meta.applied >= index}
            count = sum(voters[number] for number in have)
            if count < needed:
                names = ", ".join(places[number].name for number in sorted(have)) or "none"
                problem = (
                    f"entry {index} is committed, but of these nodes only {names} has it, and"
                    f" {needed} must"
                )
        if problem:
            report.problems.append(problem)
            if len(report.problems) >= PROBLEMS_MAX:
                report.problems.append("there may be more: the comparison ends here")
                return


def _differ(
    index: int,
    found: Sequence[tuple[int, int, LogId, bytes]],
    places: Sequence[Stopped],
    committed: Sequence[int],
) -> str:
    """What is wrong between the entries at one index; "" = nothing."""
    by_id: dict[LogId, tuple[int, bytes]] = {}
    for _, number, log_id, digest in found:
        other, known = by_id.setdefault(log_id, (number, digest))
        if known != digest:
            return (
                f"{_shown(log_id)} has another content on {places[other].name} than on"
                f" {places[number].name}"
            )
    sure = [(log_id, number) for _, number, log_id, _ in found if committed[number] >= index]
    for log_id, number in sure[1:]:
        if log_id != sure[0][0]:
            return (
                f"{places[sure[0][1]].name} has committed {_shown(sure[0][0])},"
                f" {places[number].name} {_shown(log_id)}"
            )
    return ""


def _check_states(places: Sequence[Stopped], report: Report) -> None:
    """Applies the log to each state up to all that is committed, and compares the hashes."""
    newest = max(places, key=lambda place: place.committed, default=None)
    if newest is None or len(places) < 2:
        return
    end = newest.committed
    wanted: tuple[bytes, bytes] | None = None
    for place in sorted(places, key=lambda place: place is not newest):
        start = place.next_index
        try:
            store = _brought(place, newest, end)
        except (UnknownEntry, DfsError, OSError) as error:
            report.problems.append(f"{place.name}: the log cannot be applied to its state: {error}")
            continue
        if store is None:
            report.notes.append(
                f"{place.name} has applied {place.meta.applied}, and no log reaches from there to"
                f" {end}: its state is not compared"
            )
            continue
        found = store.state_hash, store.chain
        wanted = wanted or found
        if found != wanted:
            what = "state hash" if found[0] != wanted[0] else "hash chain"
            report.problems.append(
                f"the {what} of {place.name} at {end} is not that of the others"
                + (f" (the log was applied to its state from {start} on)" if start <= end else "")
            )


def _brought(place: Stopped, newest: Stopped, end: int) -> Store | None:
    """The state of a node at `end`, or None when no log leads there."""
    start = place.next_index
    for source in (newest, place):  # what the first has up to there is committed
        purged = source.log_id("purged")
        begins = purged.position + 1 if purged != NOTHING else 0
        if start > end or (begins <= start and source.log_id("last").position >= end):
            return rolled(place, source.entries(start, end))
    return None
