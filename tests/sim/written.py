"""What the writers of a simulation were told, compared with the log in the end."""

from __future__ import annotations

from .model import Model
from .world import World


class Written:
    """Puts whose outcome has to be true of the log in the end."""

    def __init__(self) -> None:
        self.done: dict[tuple[str, bytes], int] = {}
        """(key, digest) → revision that the caller was told."""
        self.surely_not: dict[tuple[str, bytes], str] = {}
        """Of which the caller was told that nothing was done, and how."""

    def check(self, world: World, model: Model) -> None:
        """Each value is in the log as its writer was told, and never twice."""
        made: dict[tuple[str, bytes], int] = {}
        copied = model.copied
        for change in model.changes:
            if change.deleted or not change.content or (change.revision, change.key) in copied:
                continue
            place = change.key, change.content
            world.check(
                place not in made,
                f"a put of {change.key} was applied twice, at {made.get(place)} and at "
                f"{change.revision}",
            )
            made[place] = change.revision
        for place, revision in self.done.items():
            world.check(
                made.get(place) == revision,
                f"a put of {place[0]} was acknowledged at {revision}, the log has it at "
                f"{made.get(place)}",
            )
        for place, how in self.surely_not.items():
            world.check(
                place not in made,
                f"a put of {place[0]} was applied at {made.get(place)}, its caller was told: {how}",
            )
