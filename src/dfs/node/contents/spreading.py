"""One content on its way to a majority: who has it, and who does not get any further."""

import asyncio
from collections.abc import Callable
from contextlib import suppress

from ...errors import DfsError, OutOfSpace, Unavailable
from ...limits import CONTENT_RETRY_MS, CONTENT_STALL_MS
from ...manifest import Manifest
from ..cluster import Answer, voters
from ..ports import Engine


class Spreading:
    """One content on its way to a majority."""

    def __init__(
        self, engine: Engine, manifest: Manifest, told: Callable[[int, int], None]
    ) -> None:
        self.manifest = manifest
        self._engine, self._told = engine, told
        status = engine.status()
        self.me: Answer = next(
            (m for m in status["members"] if m["id"] == status["id"]), {"id": status["id"]}
        )
        self._holders: set[int] = {status["id"]}
        self._progress: dict[int, int] = {}
        self._errors: dict[str, DfsError] = {}
        self._news = asyncio.Event()
        self._moved = asyncio.get_running_loop().time()

    def question(self, base: bytes) -> Answer:
        """Whether another member holds it; see `asked_for`. `base`: see `Contents.spread`."""
        manifest = self.manifest
        return {
            "ask": "hold", "sha256": manifest.sha256.hex(), "size": manifest.size,
            "chunk_bytes": manifest.chunk_bytes, "digests": manifest.digests.hex(),
            "base": base.hex(), "from": self.me["raft"],
        }  # fmt: skip

    def others(self) -> list[Answer]:
        """All members of now but this one."""
        return [m for m in self._engine.status()["members"] if m["id"] != self.me["id"]]

    def done(self) -> bool:
        """A majority of the voters of now has it."""
        asked = voters(self._engine)
        held = len(asked & self._holders)
        self._told(held, len(asked))
        return 2 * held > len(asked)

    def received(self, member: Answer, bytes_there: int, here: bool, waits: bool) -> None:
        """A member says how far it is, or that it waits for other contents."""
        self._errors.pop(member["name"], None)
        if here:
            self._holders.add(member["id"])
        else:
            self._holders.discard(member["id"])
        further = here or waits or bytes_there > self._progress.get(member["id"], -1)
        if further:
            self._progress[member["id"]] = bytes_there
            if member["id"] in voters(self._engine):
                self._moved = asyncio.get_running_loop().time()
        self._news.set()

    def failed(self, member: Answer, error: DfsError) -> None:
        """A member does not answer, or cannot hold it."""
        self._errors[member["name"]] = error
        self._news.set()

    async def news(self) -> None:
        """Returns when something has changed, or it is time to look. Raises Unavailable or
        OutOfSpace when nothing moves any more."""
        self._news.clear()
        with suppress(TimeoutError):
            async with asyncio.timeout(CONTENT_RETRY_MS / 1000):
                await self._news.wait()
        if asyncio.get_running_loop().time() - self._moved < CONTENT_STALL_MS / 1000:
            return
        why = "; ".join(f"{name}: {error}" for name, error in sorted(self._errors.items()))
        full = any(isinstance(error, OutOfSpace) for error in self._errors.values())
        raise (OutOfSpace if full else Unavailable)(
            "the content is not on a majority of the voters, so nothing was stored:"
            f" {why or 'they do not get any further'}"
        )


def asked_for(question: Answer) -> Manifest:
    """Which content another member asks this one to hold."""
    return Manifest(
        bytes.fromhex(question["sha256"]), int(question["size"]), int(question["chunk_bytes"]),
        bytes.fromhex(question["digests"]),
    )  # fmt: skip
