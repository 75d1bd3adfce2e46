"""A backup, cut into pieces of a stream."""

import asyncio
import hashlib
from collections.abc import AsyncGenerator
from contextlib import aclosing

from ..errors import FailedPrecondition, OutOfSpace, Unavailable
from ..limits import STREAM_CHUNK_BYTES_MAX
from ..manifest import Manifest
from ..store import View, backup
from .contents import Contents
from .tasks import in_thread

_KEYS_NAMED_MAX = 3
"""Of a content that cannot be had, in the error."""


class Saving:
    """Reads a frozen state, and the large contents that it names, for one answer. While it goes on
    `Contents.keeping` has to hold."""

    def __init__(
        self, view: View, contents: Contents, with_contents: bool, cluster: bytes, node: str,
        version: str, now_ns: int,
    ) -> None:  # fmt: skip
        """Blocks, but never long. Raises DataLoss when the state is damaged."""
        head = backup.head_of(view, cluster, node, version, now_ns, with_contents)
        self._view, self._contents, self._with_contents = view, contents, with_contents
        self._encoder = backup.Encoder(view, head)
        self._digest = hashlib.sha256()

    @property
    def sha256(self) -> bytes:
        """Digest of all that was yielded."""
        return self._digest.digest()

    async def pieces(self) -> AsyncGenerator[bytes, None]:
        """Yields all of it, STREAM_CHUNK_BYTES_MAX at most at once. Raises DataLoss when the state
        is damaged, FailedPrecondition when a content cannot be had."""
        async with aclosing(self._parts()) as parts:
            async for part in parts:
                for at in range(0, len(part), STREAM_CHUNK_BYTES_MAX):
                    yield await in_thread(self._piece, part, at)

    def _piece(self, part: bytes, at: int) -> bytes:
        piece = part[at : at + STREAM_CHUNK_BYTES_MAX]
        self._digest.update(piece)
        return piece

    async def _parts(self) -> AsyncGenerator[bytes, None]:
        fetching = asyncio.ensure_future(self._fetch())
        try:
            state = self._encoder.state()
            while part := await in_thread(next, state, b""):
                if fetching.done():
                    fetching.result()
                yield part
            await fetching
        finally:
            fetching.cancel()
            await asyncio.gather(fetching, return_exceptions=True)
        named = self._view.contents()
        while self._with_contents and (found := await in_thread(next, named, None)):
            manifest = await in_thread(self._manifest, found[0])
            yield await in_thread(self._encoder.content, manifest.sha256)
            async with aclosing(self._chunks(manifest)) as chunks:
                async for chunk in chunks:
                    yield chunk
        yield self._encoder.end()

    async def _fetch(self) -> None:
        """Gets the contents that are not here at once, while others have them: what history passes
        meanwhile they let go."""
        for sha256 in await in_thread(self._lacking) if self._with_contents else ():
            manifest = await in_thread(self._manifest, sha256)
            try:
                await self._contents.have(manifest)
            except (Unavailable, OutOfSpace, OSError) as error:
                raise await in_thread(self._out_of_reach, sha256, error) from None

    def _manifest(self, sha256: bytes) -> Manifest:
        """Of a content that the frozen state names."""
        found = self._view.manifest(sha256)
        assert found is not None, "it is frozen"
        return found

    def _lacking(self) -> list[bytes]:
        files = self._contents.files
        return [sha256 for sha256, _ in self._view.contents() if sha256 not in files]

    async def _chunks(self, manifest: Manifest) -> AsyncGenerator[bytes, None]:
        numbers = [n for n in range(manifest.chunks) if not manifest.empty(n)]
        try:
            async with aclosing(self._contents.chunks(manifest, numbers)) as chunks:
                async for chunk in chunks:
                    yield chunk
        except (Unavailable, OutOfSpace, OSError) as error:
            raise await in_thread(self._out_of_reach, manifest.sha256, error) from None

    def _out_of_reach(self, sha256: bytes, error: Exception) -> FailedPrecondition:
        keys = ", ".join(self._view.naming({sha256}, _KEYS_NAMED_MAX))
        return FailedPrecondition(
            f"the large content of {keys} cannot be had, so the backup was not made: {error}. Start"
            " the members that have it, or make room here, and save again; or save the state alone,"
            " with --without-contents"
        )
