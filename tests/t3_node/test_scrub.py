"""Everything that is stored is read, little by little, and damage that nobody met is healed."""

import pytest

from dfs.limits import SCRUB_PASS_S_MIN
from dfs.node.scrub import Scrub
from dfs.store import Store

from .conftest import wait_until
from .feed import Feed


@pytest.fixture
def feed():
    made = Feed()
    for n in range(5):
        made.put(f"k{n}")
    return made


def step(scrub: Scrub, store: Store) -> int:
    with store.view() as view:
        scrub.step(view)
    return scrub.verified


def test_a_pass_reads_everything_and_says_as_of_when(feed, monkeypatch):
    """A pass takes many steps and says up to which revision everything was read; the next begins
    when it is time, and at once when the state was replaced."""
    monkeypatch.setattr("dfs.node.scrub.SCRUB_RECORDS", 3)
    now, read = 0.0, []
    scrub = Scrub(lambda: now)
    with feed.store.view() as view:
        source = type(view.source)
    part = source.part

    def noted(*wanted):
        records, ended = part(*wanted)
        read.extend(key for key, _ in records)
        return records, ended

    monkeypatch.setattr(source, "part", noted)
    begun = feed.store.applied
    steps = 1
    while not step(scrub, feed.store):
        if steps == 1:
            feed.put("k0")
        steps += 1
    assert steps > 3
    assert scrub.verified == begun < feed.store.applied
    with feed.store.view() as view:
        stored = [key for key, _ in view.source.scan(b"", b"\xff")]
    assert set(read) <= set(stored)
    assert len(stored) - len(set(read)) <= 2, "but for the put meanwhile"

    read.clear()
    assert step(scrub, feed.store) == begun
    assert not read, "too early"
    now = SCRUB_PASS_S_MIN
    while step(scrub, feed.store) == begun:
        pass
    assert scrub.verified == feed.store.applied
    assert read == sorted(stored)

    read.clear()
    scrub.restart()
    assert not scrub.verified, "nothing of the new state has been read"
    step(scrub, feed.store)
    assert read == sorted(stored)[:3]


@pytest.mark.allow_logs("stops serving its state")
async def test_damage_that_nobody_met_is_found(cluster):
    """A record that is damaged on disk and that nobody reads ends the service of the node, which is
    healed from the others as after any other damage."""
    one, _, three = await cluster.three()
    last = await one.put("unread", b"v" * 100)
    await three.get("unread", min_revision=last)
    stored = three.store._kv._map
    key = next(key for key in stored if b"unread" in key)
    stored[key] = stored[key][:-1] + b"?"
    three.node._scrub.restart()
    await three.node.scrub()
    await wait_until(lambda: three.running.identity.fault)
    assert "checksum" in three.running.identity.fault
    assert one.node._hot.fault is None
