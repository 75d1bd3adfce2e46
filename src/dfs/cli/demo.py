"""demo: three nodes on this machine, a real tree that goes through them, and how to try more."""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, Final, NamedTuple

from ..client import connect
from ..errors import DfsError, Misconfigured, Unavailable
from ..nemesis.processes import Node
from . import output
from .demo_nodes import TAIL_LINES, Nodes, directory
from .demo_tree import LEFT_BY_BUILDS, NOT_FILES, OnMount, OnNode, Tree, copy, scan

STALLED_S: Final = 60.0
"""No file more in so long: the demo has failed."""
AGENT_S: Final = 20.0
PROBES: Final = 20
PROBE: Final = "demo-probe"
PROBE_BYTES: Final = 1_024
PROBE_S: Final = 10.0
RESTART_S: Final = 3.0
"""A node that the user killed comes back after so long."""


def demo_flags(parser: argparse.ArgumentParser) -> None:
    """Arguments of `dfs demo`."""
    parser.add_argument("--once", action="store_true", help="Verify, stop, exit 0 or 1.")
    parser.add_argument(
        "--tree", type=Path, metavar="DIR", help="What to drop. Default: the files of dfs itself."
    )
    parser.add_argument(
        "--dir", type=Path, default=Path("demo"), metavar="DIR",
        help="Where the nodes have their directories. Default: demo.",
    )
    parser.add_argument(
        "--kill-leader", action="store_true", help="kill -9 the leader halfway, and restart it."
    )


_STOPPING: Final = (signal.SIGINT, signal.SIGTERM)
View = OnMount | OnNode


class Story(NamedTuple):
    """What happened, for the table."""

    leader: str
    dropped_s: float
    identical_s: dict[str, float]
    killed: str
    latencies_s: list[float]


def demo(args: argparse.Namespace) -> int:
    """The whole story."""
    tree = chosen_tree(args)
    for line in tree.left_out:
        output.note(f"left out: {line}")
    with _stoppable(), directory(args.dir) as root:
        why = why_no_mounts(root / "probe" / "mount")
        if why:
            output.note(f"no mounts: {why}. The nodes are compared by their API instead")
        mounts = not why
        nodes = Nodes(root, mounts)
        try:
            _start(nodes)
            story = _play(nodes, tree, args.kill_leader)
            _report(nodes, tree, story)
            if not args.once:
                _suggest(nodes)
                _keep_running(nodes)
            return 0
        except KeyboardInterrupt:
            if args.once:
                raise
            return 0
        except Unavailable as error:
            output.error(error.text)
            return 1
        finally:
            output.note("stopping the nodes")
            # Another Ctrl-C would leave processes and mounts behind.
            for number in _STOPPING:
                signal.signal(number, signal.SIG_IGN)
            nodes.stop()


@contextlib.contextmanager
def _stoppable() -> Iterator[None]:
    """SIGTERM ends the demo as Ctrl-C does: in order. Ctrl-C works in the background as well, where
    shells have it ignored."""

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    before = {number: signal.signal(number, interrupt) for number in _STOPPING}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def chosen_tree(args: argparse.Namespace) -> Tree:
    """The tree of the user, or our own files without what builds and tests leave."""
    if args.tree is not None:
        return scan(args.tree.resolve(), args.dir.resolve(), NOT_FILES)
    return scan(own_files(), args.dir.resolve(), NOT_FILES | LEFT_BY_BUILDS)


def own_files() -> Path:
    """This repository, or the installed package."""
    package = Path(__file__).parents[1]
    repository = package.parents[1]
    return repository if (repository / "pyproject.toml").exists() else package


def why_no_mounts(probe: Path) -> str:
    """"" if this process may mount, which it tries; else one sentence."""
    from .._engine import fuse_unmount
    from ..mount import make_mount

    probe.mkdir(parents=True, exist_ok=True)
    try:
        path, fd = make_mount(str(probe), False)
    except Misconfigured as error:
        return error.text.removesuffix(", or run without a mount: -mount ''")
    os.close(fd)
    fuse_unmount(path, force=True)
    return ""


# ---- the story -----------------------------------------------------------------------------------
def _start(nodes: Nodes) -> None:
    output.note(f"starting {len(nodes.all)} nodes below {nodes.root}")
    for node in nodes.all:
        nodes.start(node)
    took_s = nodes.wait("three voters and a leader", nodes.complete)
    output.note(f"a cluster of three, led by {nodes.leader()}, after {took_s:.1f} s")
    if nodes.mounts:
        nodes.mounts = _mounted(nodes)


def _mounted(nodes: Nodes) -> bool:
    """Waits for the mounts; says why where there is none."""
    why: list[str] = []

    def settled() -> bool:
        modes = {n.member.name: n.agent.mount_mode for n in nodes.status()}
        why[:] = [f"{name}: {m}" for name, m in modes.items() if m.startswith("off") or not m]
        return not why

    try:
        nodes.wait("mounts on all nodes", settled, AGENT_S)
    except Unavailable as error:
        if not why:
            raise
        output.note(f"no mounts ({'; '.join(why)}); the nodes are asked by their API instead")
        for line in [p for n in nodes.status() for p in n.agent.problems] or [error.text]:
            output.note(f"  {line}")
        return False
    return True


def _play(nodes: Nodes, tree: Tree, kill_leader: bool) -> Story:
    count, begin_s = len(tree.entries), time.monotonic()
    output.note(
        f"dropping {tree.files:,} files, {output.size(tree.bytes)}, from {tree.root} into"
        f" {nodes.all[0].cache}"
    )
    killed = ""
    with output.progress("dropped", count) as shown:

        def before(number: int) -> None:
            nonlocal killed
            shown.update(number)
            if kill_leader and number == count // 2:
                killed = _kill_leader(nodes)

        copy(tree, nodes.all[0].cache, before)
    dropped_s = time.monotonic() - begin_s
    with contextlib.ExitStack() as stack:
        views = [_view(nodes, node, tree, stack) for node in nodes.all[1:]]
        _wait_identical(nodes, views, count)
        identical_s = {view.name: view.complete_s - begin_s for view in views}
    if killed:
        nodes.wait(f"{killed} is back", nodes.complete)
    return Story(nodes.leader(), dropped_s, identical_s, killed, _latencies(nodes))


def _view(nodes: Nodes, node: Node, tree: Tree, stack: contextlib.ExitStack) -> View:
    if nodes.mounts:
        return OnMount(node.name, node.mount, tree)
    client = stack.enter_context(connect(node.endpoint, learn=False))
    return OnNode(node.name, client, tree)


def _kill_leader(nodes: Nodes) -> str:
    """kill -9, wait for another leader, start it again."""
    nodes.wait("a leader to kill", lambda: bool(nodes.leader()))
    victim = nodes.named(nodes.leader())
    victim.kill()
    victim.process = None
    took_s = nodes.wait("another leader", lambda: nodes.leader() not in ("", victim.name))
    nodes.start(victim)
    output.note(f"killed {victim.name}; {nodes.leader()} led {took_s:.1f} s later; restarted it")
    return victim.name


def _wait_identical(nodes: Nodes, views: list[View], count: int) -> None:
    """Until every view shows the tree and nothing else; fails when it does not get further."""
    left, moved_s = 0, time.monotonic()
    waiting = list(views)
    with output.progress("identical", count * len(views)) as shown:
        while waiting:
            waiting = [view for view in waiting if not view.check()]
            now_left = sum(len(view.left) for view in waiting)
            if now_left != left:
                left, moved_s = now_left, time.monotonic()
            shown.update(count * len(views) - left)
            if time.monotonic() - moved_s > STALLED_S:
                raise Unavailable(_why_not(nodes, waiting))
            if waiting:
                _check_alive(nodes)
                time.sleep(0.05)


def _why_not(nodes: Nodes, waiting: list[View]) -> str:
    parts = []
    for view in waiting:
        first = ", ".join(f"{key}: {how}" for key, how in islice(view.left.items(), 3))
        parts.append(f"{view.name} differs in {len(view.left):,} ({first} …)" if first
                     else f"{view.name} shows more than the tree")
    problems = []
    with contextlib.suppress(DfsError):
        problems = [f"{n.member.name}: {p}" for n in nodes.status() for p in n.agent.problems]
    return "; ".join([f"not identical: {', '.join(parts)}", *problems, f"see {nodes.root}/*/log"])


def _check_alive(nodes: Nodes) -> None:
    for node in nodes.all:
        if node.process is not None and not node.alive():
            raise Unavailable(f"{node.name} ended; the end of {node.log}:\n{node.tail(TAIL_LINES)}")


def _latencies(nodes: Nodes) -> list[float]:
    """From the drop of a small file on node1 until node2 shows it, several times."""
    first, second = nodes.all[0], nodes.all[1]
    target = first.cache / PROBE
    target.mkdir(exist_ok=True)
    with connect(second.endpoint, learn=False) as client:

        def visible(name: str) -> bool:
            try:
                if nodes.mounts:
                    return (second.mount / PROBE / name).stat().st_size == PROBE_BYTES
                return client.stat(f"{PROBE}/{name}", local=True).size == PROBE_BYTES
            except (FileNotFoundError, DfsError):
                return False

        found = [_latency(target / f"{number}", visible) for number in range(PROBES)]
    with contextlib.suppress(DfsError):
        nodes.client.delete(PROBE, recursive=True)
    return found


def _latency(path: Path, visible: Callable[[str], bool]) -> float:
    begin_s = time.monotonic()
    path.write_bytes(os.urandom(PROBE_BYTES))
    while not visible(path.name):
        if time.monotonic() - begin_s > PROBE_S:
            raise Unavailable(f"{path} was dropped {PROBE_S:.0f} s ago and is not visible yet")
        time.sleep(0.0005)
    return time.monotonic() - begin_s


# ---- what is said about it -----------------------------------------------------------------------
def _report(nodes: Nodes, tree: Tree, story: Story) -> None:
    where = "mount" if nodes.mounts else "API"
    members = [n.name + (" (leader)" if n.name == story.leader else "") for n in nodes.all]
    latencies = sorted(story.latencies_s)
    rows = [
        ("members", ", ".join(members)),
        ("tree", str(tree.root)),
        ("dropped", f"{tree.files:,} files, {output.size(tree.bytes)}, on node1, in"
                    f" {story.dropped_s:.1f} s"),
        *((f"identical on {name}", f"after {seconds:.1f} s, every byte compared by its {where}")
          for name, seconds in story.identical_s.items()),
        ("drop to visible", f"p50 {output.duration(latencies[len(latencies) // 2])}, max"
                            f" {output.duration(latencies[-1])} ({PROBES} files of 1 KiB)"),
    ]
    if story.killed:
        rows.append(("killed by -9", f"{story.killed}, the leader, halfway; back and up to date"))
    output.table(("what", "result"), rows)


def _suggest(nodes: Nodes) -> None:
    command = output.program()
    first, second, third = nodes.all
    leader = nodes.named(nodes.leader() or first.name)
    pid = leader.process.pid if leader.process is not None else 0
    lines = [
        f"{command} put greeting -t hello -endpoint {first.endpoint}",
        f"{command} get greeting -endpoint {third.endpoint}",
        f"{command} watch -endpoint {second.endpoint}      # in another terminal",
        f"{command} status -endpoint {second.endpoint}",
        f"kill -9 {pid}      # {leader.name}, the leader; it is restarted after"
        f" {RESTART_S:.0f} s",
    ]
    if nodes.mounts:
        lines[:0] = [
            f"ls {_short(second.mount)} {_short(third.mount)}",
            f"echo hello > {_short(first.cache)}/hello; sleep 0.1; cat {_short(third.mount)}/hello",
        ]
    output.text("\nThe nodes keep running. Try, from here:")
    for line in lines:
        output.text(f"  {line}")
    output.text("Ctrl-C stops everything.")
    output.flush()


def _short(path: Path) -> str:
    with contextlib.suppress(ValueError):
        return str(path.relative_to(Path.cwd()))
    return str(path)


def _keep_running(nodes: Nodes) -> None:
    """Until Ctrl-C; what the user kills comes back."""
    while True:
        for node in nodes.all:
            if not node.alive():
                output.note(f"{node.name} has ended; starting it again in {RESTART_S:.0f} s")
                time.sleep(RESTART_S)
                nodes.start(node)
        time.sleep(0.5)
