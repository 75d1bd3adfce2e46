"""Large contents of a node without a cluster."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections.abc import MutableSequence
from pathlib import Path

from ...client.values import Stat
from ...contents import ARRIVING, path_in
from ...manifest import Manifest, chunk_bytes_of
from ...proto import dfs_pb2 as pb
from ...sealing import seal


class MemoryContents:
    """What a node has of them, and how it gets the rest, called like `dfs.AsyncClient`."""

    def __init__(self) -> None:
        self.calls: MutableSequence[tuple[str, str]] = []
        """(verb, key) of every call that reached the node."""
        self.files: Path | None = None
        """Where it has large contents, if that is on the machine of the agent."""
        self.elsewhere: dict[bytes, bytes] = {}
        """Large contents that others have."""
        self.hold: asyncio.Event | None = None
        """Reads and writes wait for it."""
        self.chunks: list[int] = []
        """The chunks that were asked for."""
        self.gates: dict[int, asyncio.Event] = {}
        """Chunks that wait for it."""
        self.damaged: set[int] = set()
        """Chunks that are given with wrong bytes."""

    async def have_content(
        self, sha256: bytes, *, wait_ms: int, chunk: int | None = None, manifest: bool = False
    ) -> pb.HaveContentResponse:
        """See `dfs.AsyncClient.have_content`: gets what other nodes have."""
        self.calls.append(("have_content", sha256.hex()))
        what = manifest_of(self.elsewhere[sha256])
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(wait_ms / 1000):
                if manifest:
                    if self.files is not None:
                        self._write_at(what, 0, b"")
                    return pb.HaveContentResponse(
                        chunk_bytes=what.chunk_bytes, digests=what.digests
                    )
                self.chunks += [] if chunk is None else [chunk]
                for number in range(what.chunks) if chunk is None else [chunk]:
                    await self._may_give(number)
                if self.files is not None:
                    self._get(what, chunk)
                return pb.HaveContentResponse(here=chunk is None, chunk_here=chunk is not None)
        return pb.HaveContentResponse()

    def _get(self, manifest: Manifest, chunk: int | None) -> None:
        """Has a chunk, or all of it: then it is where those are that are whole."""
        assert self.files is not None
        at = (chunk or 0) * manifest.chunk_bytes
        length = manifest.size if chunk is None else manifest.length(chunk)
        data = self.elsewhere[manifest.sha256]
        arriving = self._write_at(manifest, at, data[at : at + length])
        if chunk is None:
            target = path_in(self.files, manifest.sha256)
            target.parent.mkdir(exist_ok=True)
            seal(arriving)
            arriving.rename(target)

    def _write_at(self, manifest: Manifest, at: int, data: bytes) -> Path:
        assert self.files is not None
        path = self.files / ARRIVING / manifest.sha256.hex()
        path.parent.mkdir(exist_ok=True)
        path.touch()
        with path.open("r+b") as file:
            file.truncate(manifest.size)
            file.seek(at)
            file.write(data)
        return path

    async def given(self, stat: Stat, offset: int) -> bytes:
        """A large content, of which the chunk at `offset` is read."""
        number = offset // stat.chunk_bytes
        self.chunks.append(number)
        await self._may_give(number)
        data = self.elsewhere[stat.sha256]
        return data if number not in self.damaged else bytes(len(data))

    async def _may_give(self, number: int) -> None:
        for gate in (self.hold, self.gates.get(number)):
            if gate is not None:
                await gate.wait()


def manifest_of(data: bytes) -> Manifest:
    """What a content with these bytes must be."""
    chunk_bytes = chunk_bytes_of(len(data))
    parts = [data[at : at + chunk_bytes] for at in range(0, len(data), chunk_bytes)]
    digests = [hashlib.sha256(part).digest() for part in parts]
    return Manifest(hashlib.sha256(data).digest(), len(data), chunk_bytes, b"".join(digests))
