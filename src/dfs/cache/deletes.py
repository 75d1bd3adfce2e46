"""Removals from the cache directory that become deletions in the tree: only where that is wished.

    gone from the directory ─► is it the version of the tree? ─► waits ─► still gone? ─► delete

Nothing is deleted without `-propagate-deletes` and a marker file at the top of the directory, which
an unmounted disk does not have; when it is another marker than before, as an older copy of the disk
has; before the delay is over; when a newer version came from elsewhere (the deletion names the
revision that it removes); nor when so much is gone that it is rather an accident, until the user
says that it is none. What waits is kept in the journal. Runs on the event loop; the directory is
looked at in a thread, but for the marker.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, Final, NoReturn

from ..client.values import Kind, Stat
from ..errors import Conflict, DfsError, NotFound
from ..limits import DELETE_LOOK_S, DELETES_MAX, MASS_DELETE_FILES, MASS_DELETE_SHARE
from .control import Operation, Request, Tell
from .feeder import Feeder
from .ignore import MARKER
from .journal import DELETE, MARKED, Journal, Row
from .ports import Client
from .problems import Problems
from .uploader import LATER

log = logging.getLogger(__name__)

DELETING: Final = ("confirm_deletes", "discard_deletes")
"""The operations."""
Marker = tuple[int, int]
"""What tells one marker from another: inode, time of its last change."""
PROBLEM: Final = "(deletes)"


class Deletes:
    """The removals of one cache directory."""

    def __init__(
        self, root: str, delay_s: float, client: Client, feeder: Feeder, journal: Journal,
        problems: Problems,
    ) -> None:
        self._root, self._delay_s = root, delay_s
        self._client, self._feeder, self._journal = client, feeder, journal
        self._problems = problems
        self._marker = os.path.join(root, MARKER)
        self._strange_s: float | None = None
        """Since when there is another marker than before."""
        self._fresh: dict[str, tuple[float, Row]] = {}
        """Gone since, and not compared with the tree yet."""
        self._due: dict[str, float] = {}
        self._confirmed: set[str] = set()
        self._why = ""
        """The first reason of an outage."""
        journal.forgotten, journal.stored = self._gone, self._back

    def operations(self) -> dict[str, Operation]:
        """By name."""
        return {"confirm_deletes": self._confirm, "discard_deletes": self._discard}

    @property
    def waiting(self) -> Collection[str]:
        """Paths that are gone from the directory, and not deleted from the tree yet."""
        return self._fresh.keys() | self._journal.marks[DELETE].keys()

    def begin(self) -> None:
        """The journal is open, and nobody has looked at the directory yet."""
        found = self._look()
        if found is not None and self._known() is None:
            self._adopt(found)

    # ---- what happens to the directory -----------------------------------------------------------
    def _gone(self, path: str, row: Row) -> None:
        if self._look() == (self._known() or ()):
            self._fresh[path] = asyncio.get_running_loop().time(), row

    def _back(self, path: str) -> None:
        self._fresh.pop(path, None)
        self._drop(path)

    def _drop(self, path: str) -> None:
        self._journal.mark(DELETE, path, None)
        self._due.pop(path, None)
        self._confirmed.discard(path)

    # ---- the marker ------------------------------------------------------------------------------
    def _look(self) -> Marker | None:
        """The marker that is there now."""
        try:
            found = os.lstat(self._marker)
        except OSError:
            return None
        return found.st_ino, found.st_ctime_ns

    def _known(self) -> Marker | None:
        known = self._journal.marks[MARKED]
        return (known["ino"], known["ctime_ns"]) if known else None

    def _adopt(self, found: Marker) -> None:
        self._strange_s = None
        for name, value in zip(("ino", "ctime_ns"), found, strict=True):
            self._journal.mark(MARKED, name, value)

    def _trusted(self, found: Marker) -> bool:
        """It is the one of before, or there was none. Another one is that of another disk, or of an
        older copy: what is missing there was not removed. It is trusted when it stays."""
        now_s = asyncio.get_running_loop().time()
        if found != (self._known() or found):
            self._strange_s = self._strange_s or now_s
            if now_s - self._strange_s < self._delay_s:
                return False
        self._adopt(found)
        return True

    # ---- the user's word -------------------------------------------------------------------------
    async def _confirm(self, request: Request, tell: Tell) -> Mapping[str, Any]:  # noqa: ARG002
        """All that waits now may go; the delay holds."""
        self._confirmed |= set(self.waiting)
        return {"files": len(self._confirmed)}

    async def _discard(self, request: Request, tell: Tell) -> Mapping[str, Any]:  # noqa: ARG002
        """All that waits now stays in the tree."""
        chosen = list(self.waiting)
        for path in chosen:
            self._back(path)
        return {"files": len(chosen)}

    # ---- the task --------------------------------------------------------------------------------
    async def run(self) -> NoReturn:
        """Deletes what is due, for ever."""
        now_s = asyncio.get_running_loop().time()
        self._due = dict.fromkeys(self._journal.marks[DELETE], now_s + self._delay_s)
        while True:
            await asyncio.sleep(min(DELETE_LOOK_S, self._delay_s / 4))
            if self._feeder.ready.is_set() and self._feeder.live:
                self._compare()
                await self._act()

    def _compare(self) -> None:
        """Of what is gone, what the tree has just as it was here is marked; the rest is let be."""
        for path, (since_s, row) in list(self._fresh.items()):
            if row.revision > self._feeder.revision:
                continue  # Stored so lately that its event is still on the way.
            del self._fresh[path]
            seen = self._feeder.known.get(path)
            if seen is not None and _same(seen, row):
                self._journal.mark(DELETE, path, seen.revision)
                self._due[path] = since_s + self._delay_s
            elif seen is not None:
                log.info("%s was removed here, and stays in the tree: revision %d there is another "
                         "version", path, seen.revision)

    async def _act(self) -> None:
        now_s = asyncio.get_running_loop().time()
        due = [path for path, due_s in self._due.items() if due_s <= now_s]
        gone = await asyncio.to_thread(self._still_gone, sorted(due, reverse=True))
        # Looked at last: a disk that is taken out takes the marker with it.
        marker = await asyncio.to_thread(self._look)
        if marker is None:
            self._strange_s = None
            self._problems.set(
                PROBLEM, f"nothing is deleted from the tree, though -propagate-deletes is on: "
                f"{self._marker} is missing; make it where removals are to count (touch it)"
            )
            return
        if not self._trusted(marker):
            return
        for path in set(due).difference(gone):
            self._drop(path)
        problem = self._accident() if gone else ""
        if gone and not problem:
            problem = await self._delete(gone, marker)
        if problem:
            self._problems.set(PROBLEM, problem)
        else:
            self._problems.clear(PROBLEM)

    def _accident(self) -> str:
        """Why what waits looks like one, or "". What was confirmed does not count."""
        waiting = self._due.keys() - self._confirmed
        known = len(self._journal.rows) + len(self._due)
        few = len(waiting) <= min(MASS_DELETE_SHARE * known, MASS_DELETE_FILES)
        if not waiting or (few and self._journal.rows):
            return ""
        return (
            f"{len(waiting):,} of {known:,} entries were removed from the cache directory: nothing "
            "is deleted from the tree until you say so: dfs sync --confirm-deletes; to leave the "
            "tree as it is: dfs sync --discard-deletes"
        )

    async def _delete(self, gone: Sequence[str], marker: Marker) -> str:
        """Children before their directories. Returns why some have to wait, or "": then the others
        are not even tried, as each would wait as long. None is while the marker is another one."""
        known = self._feeder.known
        directories = {
            path for path in gone
            if (seen := known.get(path)) is not None and seen.kind is Kind.DIRECTORY
        }
        files = [path for path in gone if path not in directories]
        parts = [files[i : i + DELETES_MAX] for i in range(0, len(files), DELETES_MAX)]
        parts += [[path] for path in gone if path in directories]
        why = ""
        for part in parts:
            if why or await asyncio.to_thread(self._look) != marker:
                break
            why = next(filter(None, await asyncio.gather(*map(self._one, part))), "")
        self._why = self._why or why if why else ""
        return self._why

    def _still_gone(self, paths: Iterable[str]) -> list[str]:
        """In a thread. What may not be looked at counts as there."""
        gone = []
        for path in paths:
            try:
                os.lstat(os.path.join(self._root, path))
            except (FileNotFoundError, NotADirectoryError):
                gone.append(path)
            except OSError as error:
                log.info("%s is left in the tree: %s", path, error)
        return gone

    async def _one(self, path: str) -> str:
        """Deletes one. Returns why it has to wait, or ""."""
        base = self._journal.marks[DELETE].get(path)
        if base is None:
            return ""  # It came back meanwhile.
        try:
            revision = await self._client.delete(path, base_revision=base)
            log.info("%s was removed here: deleted from the tree, revision %d", path, revision)
        except NotFound:
            log.debug("%s is gone already", path)
        except LATER as error:
            return f"removals wait here and go when the cluster takes them: {error}"
        except Conflict as error:
            log.info("%s was removed here and changed elsewhere: it stays (%s)", path, error)
        except DfsError as error:
            log.info("%s was removed here and stays in the tree: %s", path, error)
        self._drop(path)
        return ""


def _same(seen: Stat, row: Row) -> bool:
    """Whether the tree has the very version that was here. One that lost against another is noted
    with the revision of the winner, but not with its content."""
    return (
        seen.revision == row.revision and seen.kind is row.kind and seen.sha256 == row.sha256
        and seen.target == row.target and (seen.mode == row.mode or seen.kind is Kind.SYMLINK)
    )
