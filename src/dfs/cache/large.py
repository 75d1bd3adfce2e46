"""Large files: handed over to the node of this machine as files, or sent to one elsewhere.

A large drop is copied once, while it is hashed, into a file that then belongs to the node: no bytes
go through a socket. What the node has is where the mount reads it: no bytes are kept twice. An
agent whose node is elsewhere uploads the copy, and keeps what it downloads among its objects.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from ..client.calls import metadata
from ..contents import ARRIVING, INCOMING, path_in
from ..errors import DeadlineExceeded, Unavailable
from ..limits import CONTENT_HOLD_WAIT_MS, INLINE_BYTES_MAX, UPLOADS_BIG_MAX
from ..manifest import Manifest
from ..proto import dfs_pb2 as pb
from ..sealing import is_sealed
from .pending import Drop
from .ports import Client
from .take import Taken, Unchanged, take_large


class Large:
    """What an agent does with large files."""

    def __init__(self, client: Client, state: str, contents: str, unchanged: Unchanged) -> None:
        """`contents`: the node's directory for them, where that is on this machine; else ""."""
        self._client, self._unchanged = client, unchanged
        self._contents = Path(contents) if contents else None
        self.incoming = (self._contents or Path(state)) / INCOMING
        """Where copies of drops are made."""
        self._pool = ThreadPoolExecutor(UPLOADS_BIG_MAX, "large")

    def open(self) -> None:
        """Removes what an agent that died has left on its way. Blocks."""
        if self._contents is None:  # else it is the node that does
            self.incoming.mkdir(mode=0o700, exist_ok=True)
            for path in self.incoming.iterdir():
                path.unlink()

    def close(self) -> None:
        """Copies nothing more."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    # ---- drops -----------------------------------------------------------------------------------
    async def take(self, root: int, drop: Drop) -> Taken | None:
        """See `take.take`. What was copied for an attempt that had to wait is used again."""
        kept = drop.copied if drop.copied is not None and self._there(drop.copied) else None
        loop = asyncio.get_running_loop()
        target = self.incoming / secrets.token_hex(16)
        descriptor = os.dup(root)
        try:
            taken = await loop.run_in_executor(
                self._pool, take_large, descriptor, drop.path, self._unchanged, target, kept
            )
        except BaseException:
            target.unlink(missing_ok=True)
            raise
        finally:
            os.close(descriptor)
        if taken is not kept:
            self.done(drop)
            drop.copied = taken
        return taken

    def _there(self, taken: Taken) -> bool:
        """Its copy, or what the node has made of it."""
        assert taken.copy is not None
        return taken.copy.exists() or self.backing(taken.sha256, taken.signature.size) is not None

    async def store(
        self, key: str, taken: Taken, base: int | None, request_id: bytes | None
    ) -> int:
        """Stores what was taken under a key; the revision. Raises as `Client.put`."""
        assert taken.copy is not None
        if self._contents is not None:
            return await self._client.put_content(
                _request(key, taken, base, request_id), timeout=None
            )
        with taken.copy.open("rb") as source:
            return await self._client.upload(
                key, source, size=taken.signature.size, mode=taken.mode, mtime_ns=taken.mtime_ns,
                uid=taken.uid, gid=taken.gid, xattrs=dict(taken.xattrs), base_revision=base,
                request_id=request_id,
            )

    def done(self, drop: Drop) -> None:
        """The drop is dealt with, or has to be copied anew: its copy goes, if there is one, unless
        the node has it."""
        taken, drop.copied = drop.copied, None
        if taken is not None and taken.copy is not None:
            with contextlib.suppress(OSError):
                taken.copy.unlink()

    # ---- content ---------------------------------------------------------------------------------
    @property
    def local(self) -> bool:
        """The node's contents are on this machine."""
        return self._contents is not None

    def backing(self, sha256: bytes, size: int) -> str | None:
        """Where the node has a content; None: not, or not yet, or not on this machine, or somebody
        has written to it."""
        if self._contents is None or size <= INLINE_BYTES_MAX:
            return None
        path = path_in(self._contents, sha256)
        try:
            found = path.stat()
        except OSError:
            return None
        return str(path) if found.st_size == size and is_sealed(found) else None

    def open_arriving(self, sha256: bytes) -> int:
        """Opens the file into which the node has a content come; its descriptor. Raises OSError."""
        assert self._contents is not None
        name = sha256.hex()
        try:
            return os.open(self._contents / ARRIVING / name, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:  # All of it has come just now.
            return os.open(path_in(self._contents, sha256), os.O_RDONLY | os.O_CLOEXEC)

    async def have(self, sha256: bytes, size: int, left_s: Callable[[], float]) -> str:
        """Has the node get a content; where it is then. Raises DeadlineExceeded, Unavailable."""
        while True:
            if (path := self.backing(sha256, size)) is not None:
                return path
            if left_s() <= 0:
                raise DeadlineExceeded("this node did not get the content from another in time")
            wait_ms = max(1, min(CONTENT_HOLD_WAIT_MS, int(left_s() * 1000)))
            answer = await self._client.have_content(sha256, wait_ms=wait_ms)
            if answer.here and self.backing(sha256, size) is None:
                raise Unavailable("the node says that it has the content, but it is not there")


def _request(
    key: str, taken: Taken, base: int | None, request_id: bytes | None
) -> pb.PutContentRequest:
    manifest, copy = taken.manifest, taken.copy
    assert isinstance(manifest, Manifest)
    assert copy is not None
    return pb.PutContentRequest(
        key=key, base_revision=base, request_id=request_id or b"", incoming=copy.name,
        metadata=metadata(
            taken.mode, taken.mtime_ns, taken.uid, taken.gid, dict(taken.xattrs)
        ),
        **manifest._asdict(),
    )
