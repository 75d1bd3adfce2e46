"""Whose a part of a data directory is, and where it goes when it is damaged."""

import logging
import re
import shutil
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from ..durable import sync_directory
from ..errors import Misconfigured
from ..identity import QUARANTINE, write_durably
from ..limits import HEAL_WINDOW_S, HEALS_MAX, QUARANTINE_KEPT

log = logging.getLogger("dfs.healing")

OWNER: Final = "owner"
"""In a part's directory: the id of the node that made it. Indexes and votes of another node mean
nothing here, and they would be taken for ours."""
WHY: Final = "why.txt"
STAMP: Final = "%Y%m%dT%H%M%S.%fZ"


class LogLost(Exception):
    """The log, or the vote in it, is damaged, gone or old: this node must not act under its id."""


def claim(part: Path, number: int) -> bool:
    """Whether a directory is that of the node with this id. From now on it is, if it says nothing
    that makes sense."""
    owner = part / OWNER
    content = f"{number:016x}\n"
    found = owner.read_text(errors="replace") if owner.exists() else ""
    if found != content and re.fullmatch("[0-9a-f]{16}\n", found):
        return False
    if found != content:
        part.mkdir(mode=0o700, exist_ok=True)
        write_durably(owner, content)
    return True


class Quarantine:
    """What was put away of a data directory, why, and how often."""

    def __init__(
        self, data: Path, now: Callable[[], datetime] = lambda: datetime.now(UTC)
    ) -> None:
        self._data, self._now = data, now
        self.directory = data / QUARANTINE

    def check(self, why: str) -> None:
        """Raises Misconfigured when something has been put away too often lately."""
        count = len(self._lately()) + 1
        if count > HEALS_MAX:
            raise Misconfigured(
                f"{why}. That is damage number {count} in {self._data} within"
                f" {HEAL_WINDOW_S // 3600} h, so this node does not heal itself any more: check"
                " the disk (kernel log, SMART) and the memory, then start it with its data on"
                f" another disk, or as it is, without {self.directory}"
            )

    def put_away(self, parts: Sequence[str], why: str) -> None:
        """Moves parts of the data directory here, with a note; the oldest ones go.

        Raises Misconfigured as `check`: nothing is moved then.
        """
        self.check(why)
        place = self.directory / self._now().strftime(STAMP)
        place.mkdir(mode=0o700, parents=True)
        (place / WHY).write_text(f"{why}\n", encoding="utf-8")
        for part in parts:
            if (self._data / part).exists():
                (self._data / part).rename(place / part)
        for directory in (place, self.directory, self._data):
            sync_directory(directory)
        log.warning("put away as %s: %s", place, " and ".join(parts))
        self._forget_old()

    def _lately(self) -> list[Path]:
        after = self._now() - timedelta(seconds=HEAL_WINDOW_S)
        return [place for place in self._places() if _time_of(place) > after]

    def _places(self) -> list[Path]:
        return sorted(p for p in self.directory.glob("*") if (p / WHY).exists())

    def _forget_old(self) -> None:
        lately = self._lately()
        for place in self._places()[:-QUARANTINE_KEPT]:
            for path in place.iterdir():
                if path.name != WHY:
                    shutil.rmtree(path) if path.is_dir() else path.unlink()
            if place not in lately:
                shutil.rmtree(place)


def _time_of(place: Path) -> datetime:
    try:
        return datetime.strptime(place.name, STAMP).replace(tzinfo=UTC)
    except ValueError:  # not ours
        return datetime.min.replace(tzinfo=UTC)
