"""Reads large contents again, whatever reads them else."""

import asyncio
import math
from collections import deque

from ...limits import CONTENT_SCRUB_BYTES, CONTENT_SCRUB_PASS_S_MIN
from .contents import Contents


class Scrub:
    """Reads what is here chunk by chunk, whatever reads it else: damage is had again from others
    while they have it. One pass after the other; asyncio thread."""

    def __init__(self, contents: Contents) -> None:
        self._contents = contents
        self._left: deque[bytes] = deque()
        self._at = 0
        """The next chunk of the first of them."""
        self._begun_s = -math.inf

    async def step(self) -> None:
        """Reads the next piece, if it is time. Raises Unavailable when damage cannot be healed."""
        now_s = asyncio.get_running_loop().time()
        if not self._left:
            if now_s - self._begun_s < CONTENT_SCRUB_PASS_S_MIN:
                return
            self._begun_s = now_s
            self._left.extend(self._contents.files.here)
        if not self._left:
            return
        manifest = self._contents.manifest(self._left[0])
        if manifest is None or self._at >= manifest.chunks:  # nothing names it, or all was read
            self._left.popleft()
            self._at = 0
            return
        number, self._at = self._at, self._at + max(1, CONTENT_SCRUB_BYTES // manifest.chunk_bytes)
        for at in range(number, min(self._at, manifest.chunks)):
            await self._contents.read(manifest, at, wanted=False)
