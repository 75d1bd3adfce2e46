"""Which drop has its turn when."""

import asyncio

from dfs.cache.pending import CLOSED, HINT, Pending
from dfs.limits import DROP_SETTLE_MS

SETTLE_S = DROP_SETTLE_MS / 1000


def now_s() -> float:
    return asyncio.get_running_loop().time()


async def test_a_hint_alone_has_its_turn_after_a_moment() -> None:
    pending, begun_s = Pending(), now_s()
    pending.changed("path", HINT)
    assert [drop.path for drop in await pending.next(9)] == ["path"]
    assert now_s() - begun_s > SETTLE_S * 0.9


async def test_a_close_has_its_turn_at_once_and_the_hint_before_it_none_of_its_own() -> None:
    pending, begun_s = Pending(), now_s()
    pending.changed("path", HINT)
    pending.changed("path", CLOSED)
    pending.changed("later", HINT)
    (drop,) = await pending.next(9)
    assert drop.path == "path"
    assert now_s() - begun_s < SETTLE_S
    pending.later(drop, now_s() + 60)
    assert [drop.path for drop in await pending.next(9)] == ["later"]
    assert drop.due > now_s()


async def test_a_file_that_is_written_again_waits_no_longer_than_its_hint() -> None:
    for together in (False, True):
        pending = Pending()
        pending.changed("path", CLOSED)
        (drop,) = await pending.next(9)
        pending.done(drop)
        begun_s = now_s()
        for why in (HINT | CLOSED,) if together else (HINT, CLOSED):
            pending.changed("path", why)
        assert abs(pending.drops["path"].due - begun_s - SETTLE_S) < SETTLE_S / 2
        assert [drop.path for drop in await pending.next(9)] == ["path"]
