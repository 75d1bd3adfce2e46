"""News for a caller while it waits."""

from __future__ import annotations

import asyncio

from ..proto.dfs_pb2 import UploadResponse
from .guard import Context


class News:
    """Tells a caller how far its upload is: one message at a time, as a stream takes no more; of
    what comes meanwhile only the last. Make it inside the event loop, and end it."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._latest: UploadResponse | None = None
        self._come = asyncio.Event()
        self._ended = False
        self._telling = asyncio.ensure_future(self._tell())

    def tell(self, news: UploadResponse) -> None:
        """It is on its way when this returns, no more."""
        self._latest = news
        self._come.set()

    async def end(self) -> None:
        """Returns when the last has been told. Raises what the stream has raised."""
        self._ended = True
        self._come.set()
        await self._telling

    async def _tell(self) -> None:
        while not self._ended or self._latest is not None:
            await self._come.wait()
            self._come.clear()
            news, self._latest = self._latest, None
            if news is not None:
                await self._context.write(news.SerializeToString())
