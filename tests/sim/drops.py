"""What must be true of drops, by the log: nothing lost, nothing overwritten unseen, kept once."""

from __future__ import annotations

from dfs.cache.conflicts import MARK

from .agents import Agent
from .model import Model, Told, digest
from .world import World


def check(world: World, model: Model, agents: list[Agent]) -> None:
    """Looks at every change that was committed."""
    contents = {digest(data): data for agent in agents for data in agent.written}
    seen = {data: revision for agent in agents for data, revision in agent.written.items()}
    stored: dict[tuple[str, bytes], int] = {}
    copies: dict[bytes, str] = {}
    at: dict[str, Told] = {}
    for change in model.changes:
        before = at.get(change.key)
        at[change.key] = change
        data = contents.get(change.content)
        if change.deleted or data is None:
            continue
        path, mark, _ = change.key.partition(MARK)
        stored[path, data] = change.revision
        if mark:
            world.counts["conflict copies"] += 1
            world.check(
                copies.setdefault(data, change.key) == change.key,
                f"{data!r} is kept twice: {copies[data]}, {change.key}",
            )
        elif change.previous and before is not None and before.content != change.content:
            _check_overwrite(world, change, before, data, contents.get(before.content), seen[data])
    for agent in agents:
        for path, file in agent.files.items():
            world.check(
                (path, file.data) in stored,
                f"{agent.me} has {file.data!r} in {path}, and it was never stored",
            )


def _check_overwrite(
    world: World, change: Told, before: Told, data: bytes, former: bytes | None, seen: int
) -> None:
    mine = former is not None and former.split(b".")[0] == data.split(b".")[0]
    world.check(
        mine or change.previous <= seen,
        f"{data!r} overwrote {former!r} of {change.key} at {change.revision}: revision "
        f"{before.revision} was not known when it was dropped, only {seen}",
    )


def check_known(world: World, model: Model, agent: Agent) -> None:
    """What the agent shows is the tree."""
    found = {key: entry.revision for key, entry in agent.feeder.known.entries()}
    wanted = {key: leaf.revision for key, leaf in model.tree.items() if not leaf.implicit}
    if found != wanted:
        other = sorted(found.items() ^ wanted.items())[:4]
        world.fail(f"{agent.me} shows another tree: {other}")
