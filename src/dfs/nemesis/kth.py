"""Every k-th call to the disk fails: a fixed workload on one node, again and again.

For each kind of fault and each k, on an empty directory: the workload (puts, overwriting,
deletions, a list, a snapshot, a restart) with the fault; then a start without one, after which
everything that was acknowledged must be there with its revision, and nothing else but what had no
clear answer.
A node under a fault either goes on with clean errors or ends with a sentence that says what failed.

    python -m dfs.nemesis.kth            a choice of k, as in CI
    python -m dfs.nemesis.kth --full     each k until the workload has no further call
"""

from __future__ import annotations

import argparse
import errno
import itertools
import re
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, NamedTuple

import grpc

from ..client import faults
from ..errors import DeadlineExceeded, DfsError, OutcomeUnknown, OutOfSpace, Unavailable
from ..identity import LOG, SOCKET
from ..proto import dfs_pb2 as pb
from ..proto import dfs_pb2_grpc
from .ports import free_ports
from .shim import TORN_EXIT, Fault, Kind, Op, Shim
from .waiting import POLL_S, Violation, require
from .zygote import SNAPSHOT, WRITTEN, Forked, Zygote

READY_S: Final = 20.0
END_S: Final = 20.0
CALL_S: Final = 10.0
"""For one call; a node that neither answers nor ends is stuck."""
QUIET_S: Final = 0.3
"""Three times the interval in which the store is flushed."""
UNREACHABLE: Final = OutcomeUnknown, Unavailable, DeadlineExceeded
EXITS: Final = {2: "did not start", 70: "stopped itself", 1: "ended", 0: "went on"}
REFUSED: Final = {
    errno.EIO: "Input/output error|IO error", errno.ENOSPC: "No space left|disk of",
}


class Plan(NamedTuple):
    """One kind of fault."""

    name: str
    kind: Kind
    ops: tuple[Op, ...]
    error: int = 0
    sticky: bool = False
    stride: int = 1
    """In CI every so manieth k."""


PLANS: Final = (
    Plan("sync fails", Kind.ERROR, (Op.SYNC,), errno.EIO, stride=13),
    Plan("write fails", Kind.ERROR, (Op.WRITE,), errno.EIO, stride=31),
    Plan("disk full for a moment", Kind.ERROR, (Op.WRITE, Op.OPEN), errno.ENOSPC, stride=43),
    Plan("disk full", Kind.ERROR, (Op.WRITE, Op.OPEN), errno.ENOSPC, sticky=True, stride=43),
    Plan("disk gone", Kind.ERROR, tuple(Op), errno.EIO, sticky=True, stride=97),
    Plan("short write", Kind.SHORT, (Op.WRITE,), stride=61),
    Plan("torn write", Kind.TORN, (Op.WRITE,), stride=31),
    Plan("ended before a sync", Kind.TORN, (Op.SYNC,), stride=29),
    Plan("open fails", Kind.ERROR, (Op.OPEN,), errno.EIO, stride=13),
    Plan("rename fails", Kind.ERROR, (Op.RENAME,), errno.EIO, stride=7),
    Plan("size fails", Kind.ERROR, (Op.TRUNCATE, Op.ALLOCATE), errno.EIO, stride=3),
    Plan("read fails", Kind.ERROR, (Op.READ,), errno.EIO, stride=37),
)
NO_FAULT: Final = Plan("no fault", Kind.ERROR, (), errno.EIO)


class Found(NamedTuple):
    """What one k has shown."""

    reached: bool
    """The workload has made so many calls."""
    outcome: str
    """How the node under the fault ended."""
    said: str
    """The sentence that it ended with."""
    failed: str
    """The file that the fault was in, below the data directory."""


@dataclass
class Expected:
    """What must be there: the last acknowledged value of each key, or what had no clear answer."""

    known: dict[str, tuple[bytes, int]] = field(default_factory=dict)
    open: dict[str, list[bytes | None]] = field(default_factory=dict)
    """Of calls behind the last acknowledged one; None: a deletion."""
    refusals: list[DfsError] = field(default_factory=list)

    def done(self, key: str, value: bytes | None, revision: int) -> None:
        """A change was acknowledged."""
        self.open.pop(key, None)
        if value is None:
            self.known.pop(key, None)
        else:
            self.known[key] = value, revision

    def unclear(self, key: str, value: bytes | None) -> None:
        """It may have happened."""
        self.open.setdefault(key, []).append(value)

    def check(self, found: dict[str, tuple[bytes, int]]) -> None:
        """Raises Violation unless the state is one that the calls explain."""
        for key in self.known.keys() | self.open.keys() | found.keys():
            has, known = found.get(key), self.known.get(key)
            if has == known:
                continue
            maybe = self.open.get(key, [])
            require((has[0] if has else None) in maybe, f"{key}: {_short(has)}, not {_short(known)}"
                    f" and none of {len(maybe)} changes without a clear answer")


class Life:
    """Calls of one process of the node. A connection that breaks means that the process ends."""

    def __init__(self, node: Forked, socket: Path, expected: Expected) -> None:
        self._node, self._expected = node, expected
        self._channel = grpc.insecure_channel(
            f"unix:{socket}", [("grpc.default_authority", "localhost")]
        )
        stub: Any = dfs_pb2_grpc.FileServiceStub
        self._files = stub(self._channel)

    def __enter__(self) -> Life:
        return self

    def __exit__(self, *_: object) -> None:
        self._channel.close()

    def put(self, key: str, value: bytes) -> None:
        """Stores a file."""
        self._change(key, value, lambda: self._files.Put(
            pb.PutRequest(key=key, data=value), timeout=CALL_S))

    def delete(self, key: str) -> None:
        """Removes it."""
        self._change(key, None, lambda: self._files.Delete(
            pb.DeleteRequest(key=key), timeout=CALL_S))

    def snapshot(self) -> bool:
        """Has the node write a snapshot file; whether it did."""
        told = self._node.said().count(SNAPSHOT)
        self._node.signal(signal.SIGUSR2)
        self._node.until(
            lambda: self._node.said().count(SNAPSHOT) > told or self._node.ended(), END_S
        )
        return WRITTEN in self._node.said()

    def everything(self) -> dict[str, tuple[bytes, int]]:
        """All files with their revisions. Raises DfsError."""
        found = {}
        try:
            for answer in self._files.List(
                pb.ListRequest(recursive=True, data_bytes_max=1 << 20), timeout=CALL_S
            ):
                for item in answer.items:
                    if item.record.kind == pb.Kind.FILE:
                        got = self._files.Get(pb.GetRequest(key=item.key), timeout=CALL_S)
                        found[item.key] = got.data, got.record.revision
        except grpc.RpcError as error:
            raise self._error(error, False) from None
        return found

    def _change(self, key: str, value: bytes | None, call: Callable[[], Any]) -> None:
        try:
            self._expected.done(key, value, call().revision)
        except grpc.RpcError as raised:
            error = self._error(raised, True)
            self._expected.refusals.append(error)
            if not error.row.retry and not isinstance(error, OutOfSpace):
                self._expected.unclear(key, value)
            if isinstance(error, UNREACHABLE) and self._node.wait(END_S):
                raise Ended from None

    def _error(self, raised: Any, write: bool) -> DfsError:
        fault = faults.fault(
            raised.code().value[0], raised.details() or "", raised.trailing_metadata(),
            "the node", write,
        )
        return fault.error


class Ended(Exception):
    """The process has ended under a call."""


class Loop:
    """One directory, one zygote, one shim: runs case after case."""

    def __init__(self, root: Path, shim: Shim, zygote: Zygote) -> None:
        self._root, self.shim, self._zygote = root, shim, zygote
        self.data = root / "data"
        self._raft, self._grpc = free_ports(2)
        self.calls: dict[Op, int] = {}
        """Of the workload without a fault, which is run first."""
        self.run(NO_FAULT, 1)

    def run(self, plan: Plan, k: int) -> Found:
        """The workload with the fault at call number k, and the check. Raises Violation."""
        shutil.rmtree(self.data, ignore_errors=True)
        self.data.mkdir()
        expected = Expected()
        self.shim.arm(Fault(plan.kind, k, plan.ops, plan.error, plan.sticky))
        outcome, said = "went on", ""
        for part in (_first, _second):
            outcome, said = self._life(part, expected)
            counts = self.shim.counts()
            if outcome != "went on" or (counts.hits and not plan.sticky):
                break
        if not counts.hits:
            self.calls = counts.calls
        failed = counts.failed.removeprefix(f"{self.data}/")
        try:
            if counts.hits:
                _check_end(plan, outcome, said, failed, counts.again)
            else:
                require(outcome == "went on" and not expected.refusals,
                        f"without a fault: {outcome}, {said}, {expected.refusals}")
            self.shim.reset()
            self.verify(expected)
        except Violation as violation:
            raise Violation(
                f"{plan.name}, k = {k}, {failed}: {outcome}: {violation}"
            ) from None
        return Found(counts.hits > 0, outcome, said, failed)

    def fresh(self) -> Forked:
        """Starts the node on an empty directory."""
        shutil.rmtree(self.data, ignore_errors=True)
        self.data.mkdir()
        return self._start()

    def life(self) -> None:
        """The workload, whatever comes of it."""
        shutil.rmtree(self.data, ignore_errors=True)
        self.data.mkdir()
        for part in (_first, _second):
            self._life(part, Expected())

    def _life(self, part: Callable[[Life], None], expected: Expected) -> tuple[str, str]:
        node = self._start()
        if node.ready(READY_S):
            with Life(node, self.data / SOCKET, expected) as life:
                try:
                    part(life)
                except Ended:
                    pass
                except DfsError as error:
                    expected.refusals.append(error)
        said = node.said()
        require(node.ended() or "is ready" in said, f"neither ready nor ended:\n{said}")
        require(node.stop(END_S), f"it does not stop:\n{node.said()}")
        code = node.code or 0
        outcome = "torn" if code == TORN_EXIT else EXITS.get(code, f"exit code {code}")
        return outcome, node.said()

    def quiet(self) -> None:
        """Waits until the node has put on disk what it wants to."""
        calls, since = self.shim.counts().calls, time.monotonic()
        while time.monotonic() < since + QUIET_S:
            time.sleep(POLL_S)
            if calls != (now := self.shim.counts().calls):
                calls, since = now, time.monotonic()

    def verify(self, expected: Expected) -> None:
        """Starts the node without a fault and compares. Raises Violation."""
        node = self._start()
        if not node.ready(READY_S):
            node.stop(END_S)
            raise Violation(f"it does not start by itself afterwards:\n{node.said()}")
        with Life(node, self.data / SOCKET, Expected()) as life:
            try:
                expected.check(life.everything())
                life.put("afterwards", b"1")
                require(life.everything()["afterwards"][0] == b"1", "no write afterwards")
            finally:
                stopped = node.stop(END_S)
        require(stopped and node.code == 0, f"ended with {node.code}:\n{node.said()}")
        require(not _complaints(node.said()), f"afterwards:\n{node.said()}")

    def _start(self) -> Forked:
        return self._zygote.start(
            self._root / "log", "-id", "node1", "-raft", f"127.0.0.1:{self._raft}",
            "-grpc", f"127.0.0.1:{self._grpc}", "-data", str(self.data), "-cache", "",
            "-mount", "", "-log-level", "warning",
        )


def _first(life: Life) -> None:
    for n in range(8):
        life.put(f"small/{n}", b"%d" % n)
    for n in range(6):
        life.put(f"large/{n % 3}", bytes([n]) * (20 << 10))
    life.everything()
    life.snapshot()
    for n in range(0, 8, 2):
        life.delete(f"small/{n}")
    life.put("small/1", b"again")


def _second(life: Life) -> None:
    life.everything()
    for n in range(4):
        life.put(f"large/{n}", bytes([n + 100]) * (16 << 10))
    life.delete("large/2")
    life.put("small/0", b"back")


def _check_end(plan: Plan, outcome: str, said: str, failed: str, again: int) -> None:
    """A node under a fault ends with a reason, or goes on; it never tries a sync once more."""
    require(not _complaints(said), f"a fault of the disk looks like a bug:\n{said}")
    require(outcome in (*EXITS.values(), "torn"), f"an end without a reason: {outcome}\n{said}")
    if plan.kind is Kind.ERROR and outcome in ("stopped itself", "did not start"):
        require(re.search(REFUSED[plan.error], said), f"the cause is not named:\n{said}")
        require("/" in said, f"no file or directory is named:\n{said}")
    if plan.kind is Kind.ERROR and not plan.sticky and failed.startswith(f"{LOG}/log/"):
        require(again == 0, f"{failed} was written {again} times after it had failed")


def _complaints(said: str) -> bool:
    return "Traceback" in said or "panicked" in said


def _short(found: tuple[bytes, int] | None) -> str:
    return f"{found[0][:16]!r} of revision {found[1]}" if found else "absent"


# ---- the whole loop ------------------------------------------------------------------------------
def sweep(loop: Loop, plan: Plan, full: bool, first: int = 1) -> Iterator[tuple[int, Found]]:
    """Each k, or a choice, until the workload has no further call."""
    for k in itertools.count(first, 1 if full else plan.stride):
        if not full and k > sum(loop.calls[op] for op in plan.ops):
            return
        found = loop.run(plan, k)
        if not found.reached:
            return
        yield k, found


def main() -> int:
    """Runs it all and prints what was found, in counts."""
    parser = argparse.ArgumentParser(prog="python -m dfs.nemesis.kth", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help="each k")
    parser.add_argument("--plan", default="", help="only kinds with this in their name")
    parser.add_argument("--first", type=int, default=1, help="begin with this k")
    parser.add_argument("--show", action="store_true", help="what the node said, each time")
    args = parser.parse_args()
    bad = 0
    with (
        tempfile.TemporaryDirectory(prefix="dfs-kth-") as root,
        Shim(Path(root) / "data", Path(root) / "faults") as shim,
        Zygote(shim.environment()) as zygote,
    ):
        loop = Loop(Path(root), shim, zygote)
        for plan in PLANS:
            if args.plan in plan.name:
                bad += _report(loop, plan, args)
    return min(bad, 1)


def _report(loop: Loop, plan: Plan, args: argparse.Namespace) -> int:
    outcomes: Counter[str] = Counter()
    started, k, bad = time.monotonic(), args.first, 0
    while True:
        try:
            for k, found in sweep(loop, plan, args.full, k):  # noqa: B020 - it goes on behind k
                outcomes[found.outcome] += 1
                if args.show:
                    _say(f"{plan.name} {k}: {found.outcome}, {found.failed}\n{found.said}")
        except Violation as violation:
            bad += 1
            _say(_brief(str(violation), args.show))
            k = int(str(violation).split("k = ")[1].split(",")[0]) + 1
            continue
        break
    counted = ", ".join(f"{name}: {count}" for name, count in outcomes.most_common())
    took = time.monotonic() - started
    _say(f"{plan.name}: {outcomes.total()} k, {bad} wrong ({counted}), {took:.0f} s")
    return bad


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def _brief(text: str, all_of_it: bool) -> str:
    lines = text.splitlines()
    return text if all_of_it or len(lines) < 6 else "\n".join([*lines[:2], "…", *lines[-3:]])


if __name__ == "__main__":
    sys.exit(main())
