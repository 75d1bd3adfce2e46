"""What a caller is told while its upload spreads."""

from __future__ import annotations

import asyncio

import pytest

from dfs.proto import dfs_pb2 as pb
from dfs.server.news import News


class Stream:
    """Takes one message at a time, slowly."""

    def __init__(self, fails: bool = False) -> None:
        self.told: list[int] = []
        self.go_on = asyncio.Event()
        self._busy, self._fails = False, fails

    async def write(self, message: bytes) -> None:
        assert not self._busy, "grpcio refuses a second message while the first is on its way"
        self._busy = True
        await self.go_on.wait()
        self._busy = False
        if self._fails:
            raise ConnectionError("the caller has gone")
        self.told.append(pb.UploadResponse.FromString(message).held)


async def turns() -> None:
    """Everything that can go on does."""
    for _ in range(5):
        await asyncio.sleep(0)


async def test_news_come_one_by_one_and_the_last_always():
    stream = Stream()
    news = News(stream)
    for held in (1, 2, 3):
        news.tell(pb.UploadResponse(held=held))
        await turns()
    stream.go_on.set()
    await turns()
    assert stream.told == [1, 3]
    news.tell(pb.UploadResponse(held=4))
    await news.end()
    assert stream.told == [1, 3, 4]


async def test_without_news_nothing_is_told():
    stream = Stream()
    await News(stream).end()
    assert stream.told == []


async def test_a_caller_that_has_gone_is_noticed_at_the_end():
    stream = Stream(fails=True)
    news = News(stream)
    news.tell(pb.UploadResponse(held=1))
    stream.go_on.set()
    await turns()
    news.tell(pb.UploadResponse(held=2))
    with pytest.raises(ConnectionError, match="gone"):
        await news.end()
