"""Answers what the kernel asks and the tree does not know: files that are made for each open,
extended attributes, and what was there in the past.

The engine hands out questions; a thread brings them to the event loop, where each is a task with a
deadline. A question that takes long holds up nobody but the one who asked.
"""

from __future__ import annotations

import asyncio
import errno
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

from ..errors import DfsError, NotFound
from ..limits import FETCH_MS_MAX
from .past import README, Past, place
from .ports import Tree, Upsert
from .tasks import Serving

log = logging.getLogger(__name__)

FOLDER: Final = ".dfs/"
"""Where the files are that are made; no key begins so."""
CONTENT: Final = "content"
"""What is asked when such a file is opened."""
ATTRIBUTE: Final = "xattr:"
"""The name of an attribute follows."""
ATTRIBUTES: Final = "xattrs"
"""All their names are wanted."""

NAME: Final = "name:"
"""Of a past revision; it follows."""
LIST: Final = "list"
"""What is in a past directory is wanted."""

Maker = Callable[[], Awaitable[bytes]]
"""Makes the content of one file. May raise DfsError, whose errno the reader gets."""
Attributes = Callable[[str, int], Mapping[str, bytes]]
"""(path, version) → the extended attributes."""


class Questions:
    """Serves the questions of one mount."""

    def __init__(
        self, tree: Tree, files: Mapping[str, Maker], attributes: Attributes, past: Past,
        deadline_ms: int = FETCH_MS_MAX,
    ) -> None:
        """`files` by name; they are below `.dfs/` of the mount from now on."""
        self._tree, self._past, self._attributes = tree, past, attributes
        self._files = {**files, README: past.readme}
        self.deadline_s = deadline_ms / 1000
        """How long a reader waits at most."""
        self._serving = Serving("questions", tree.next_questions, self._serve)
        tree.offer(sorted(self._files))

    async def run(self) -> None:
        """Answers for ever."""
        self._serving.start()
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            self._serving.stop()

    async def _serve(self, question: int, path: str, version: int, what: str) -> None:
        try:
            async with asyncio.timeout(self.deadline_s):
                answer = await self._answer(path, version, what)
            if isinstance(answer, list):
                self._tree.fill(question, answer)
                return
        except TimeoutError:
            answer = errno.ETIMEDOUT
        except DfsError as error:
            # Shells and the like look for names that nobody has meant.
            level = logging.DEBUG if isinstance(error, NotFound) else logging.INFO
            log.log(level, "%s cannot be answered: %s", path, error)
            answer = error.row.errno
        except Exception:  # boundary: a bug here must not let the reader wait for the deadline
            log.exception("%s cannot be answered", path)
            answer = errno.EIO
        self._tree.answer(question, answer)

    async def _answer(self, path: str, version: int, what: str) -> bytes | int | list[Upsert]:
        if what == CONTENT:
            maker = self._files.get(path.removeprefix(FOLDER))
            return errno.ENODATA if maker is None else await maker()
        if what.startswith(NAME):
            return await self._past.named(what.removeprefix(NAME))
        past = place(path)
        if past is None:
            found = self._attributes(path, version)
        elif what == LIST:
            return await self._past.listing(*past)
        else:
            found = await self._past.attributes(*past)
        if what == ATTRIBUTES:
            return b"".join(name.encode() + b"\0" for name in found)
        return found.get(what.removeprefix(ATTRIBUTE), errno.ENODATA)
