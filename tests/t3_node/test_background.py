"""What a node fetches of large contents while nobody waits for it, and what nobody has."""

from __future__ import annotations

import asyncio
import hashlib
from contextlib import suppress

import pytest

from dfs.engine_memory import MemoryEngine
from dfs.errors import Unavailable
from dfs.limits import CHUNK_BYTES_MIN, CONTENT_PULLS_BEHIND
from dfs.node import plans
from dfs.node.contents import Scrub
from dfs.node.contents.rate import Rate

from .conftest import wait_until
from .test_large_contents import hand_over, holds, path_of, put_content, some

RATE = 1 << 30


class Clock:
    """Stands still until it is moved."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.asked = 0
        """How often somebody was told to wait."""

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock(monkeypatch) -> Clock:
    """By which nodes fetch in the background that are started from here on."""
    found = Clock()

    class Asked(Rate):
        def __init__(self, _bytes_s, _clock) -> None:
            super().__init__(RATE, found)

        def wait_s(self, count: int) -> float:
            wait_s = super().wait_s(count)
            found.asked += wait_s > 0
            return wait_s

    monkeypatch.setattr("dfs.node.contents.contents.Rate", Asked)
    return found


@pytest.fixture
def fetched(monkeypatch) -> list[int]:
    """Numbers of the chunks that all nodes fetch."""
    found: list[int] = []
    original = MemoryEngine.fetch_chunks

    def counting(self, addr, content, size, chunk_bytes, wanted, *more):
        found.extend(number for number, _ in wanted)
        return original(self, addr, content, size, chunk_bytes, wanted, *more)

    monkeypatch.setattr(MemoryEngine, "fetch_chunks", counting)
    return found


@pytest.mark.parametrize("piece", [10, 1_000])
def test_a_rate_is_kept_and_used_up(piece):
    clock = Clock()
    rate = Rate(100, clock)
    taken = waited = 0
    while taken < 100_000:
        if wait_s := rate.wait_s(piece):
            clock.now_s += wait_s
            waited += 1
        else:
            taken += piece
        assert taken <= 100 * clock.now_s + piece + 1
    assert waited
    assert clock.now_s == pytest.approx((taken - piece) / 100, abs=0.02)
    clock.now_s += 1_000
    assert not rate.wait_s(piece)
    assert rate.wait_s(piece), "a quiet time is not made up for"


def test_without_a_rate_nobody_waits():
    rate = Rate(0, Clock())
    assert not any(rate.wait_s(1 << 40) for _ in range(9))


async def test_what_nobody_waits_for_comes_at_the_rate(cluster, clock, fetched):
    """With `transfer_rate` a node fetches no more than so much of large contents for which nobody
    waits; one for which somebody waits comes as fast as it goes."""
    one = await cluster.start("node1")
    first, second = await put_content(one, "a", some(1)), await put_content(one, "b", some(2))
    two = await cluster.start("node2", "node1")
    await wait_until(lambda: clock.asked > 9)
    assert len(fetched) == 1
    clock.now_s += CHUNK_BYTES_MIN / RATE
    await wait_until(lambda: len(fetched) == 2)
    await two.node.contents.have(first)
    assert holds(two, first, some(1))
    asked = clock.asked
    await wait_until(lambda: clock.asked > asked + 9)
    assert not holds(two, second, some(2))
    assert two.node.contents.figures()["transfer_rate"] == RATE
    clock.now_s += 1
    assert not two.votes()
    files = two.node.contents.files
    while second.sha256 not in files:
        asked = clock.asked
        await wait_until(lambda n=asked: clock.asked > n or second.sha256 in files)
        clock.now_s += 1
    await wait_until(two.votes)


async def test_puts_do_not_stand_behind_what_nobody_waits_for(cluster, clock):
    """As many contents come in the background as may, and none gets any further."""
    one = await cluster.start("node1")
    for number in range(2 * CONTENT_PULLS_BEHIND):
        await put_content(one, f"k/{number}", some(number))
    two = await cluster.start("node2", "node1")
    await wait_until(lambda: clock.asked > 9)
    path, manifest = hand_over(one, some(9))
    await one.node.contents.adopt(path, manifest)
    answer = await two.node.contents._asked({
        "sha256": manifest.sha256.hex(), "size": manifest.size, "base": "",
        "chunk_bytes": manifest.chunk_bytes, "digests": manifest.digests.hex(), "from": one.raft,
    })  # fmt: skip
    assert answer["here"]
    assert two.node.contents.missing == 2 * CONTENT_PULLS_BEHIND


@pytest.mark.allow_logs("fetched again from other members")
async def test_what_the_scrub_repairs_comes_at_the_rate(cluster, clock, fetched):
    one, two, _ = await cluster.three()
    manifest = await put_content(one, "a", some(3))
    clock.now_s += 1
    await wait_until(lambda: two.node.contents.missing == 0)
    path = path_of(two, manifest)
    path.chmod(0o600)
    path.write_bytes(bytes(manifest.size))
    two.node.contents._rate.wait_s(1)
    fetched.clear()
    asked = clock.asked
    step = asyncio.ensure_future(Scrub(two.node.contents).step())
    await wait_until(lambda: clock.asked > asked + 9)
    assert not fetched
    while not step.done():
        clock.now_s += 1
        asked = clock.asked
        await wait_until(lambda n=asked: clock.asked > n or step.done())
    assert holds(two, manifest, some(3))


def often(monkeypatch) -> None:
    """Nodes look after their contents all the time, one pass of the scrub after the other."""
    monkeypatch.setattr("dfs.node.node.CONTENT_CHECK_MS", 5)
    monkeypatch.setattr("dfs.node.contents.scrub.CONTENT_SCRUB_PASS_S_MIN", 0)


def digest_of(path) -> bytes:
    """b"" while it is not there: a content that is healed goes for a moment."""
    with suppress(FileNotFoundError):
        return hashlib.sha256(path.read_bytes()).digest()
    return b""


def damage(path) -> None:
    """The second chunk begins otherwise."""
    path.chmod(0o600)
    with path.open("r+b") as file:
        file.seek(CHUNK_BYTES_MIN)
        file.write(b"damaged")


@pytest.mark.allow_logs("fetched again from other members")
async def test_a_node_reads_its_contents_again_by_itself(cluster, monkeypatch):
    """What is damaged in its data directory, and nobody asks for, is healed as it runs."""
    often(monkeypatch)
    members = await cluster.three()
    manifest = await put_content(members[0], "f", some(7))
    for member in members:
        await wait_until(lambda m=member: holds(m, manifest, some(7)))
    path = path_of(members[2], manifest)
    damage(path)
    await wait_until(lambda: digest_of(path) == manifest.sha256)
    quarantine = members[2].node.contents.files.root / "quarantine"
    assert [kept.name for kept in quarantine.iterdir()] == [f"{manifest.sha256.hex()}.1"]


@pytest.mark.allow_logs("fetched again from other members")
async def test_damage_that_nobody_can_heal_gets_into_the_status_by_itself(cluster, monkeypatch):
    often(monkeypatch)
    one = await cluster.start("node1")
    manifest = await put_content(one, "f", some(8))
    figures = one.node.contents.figures
    assert figures()["contents_missing"] == 0
    damage(path_of(one, manifest))
    await wait_until(lambda: figures()["contents_missing"] == figures()["contents_lost"] == 1)


@pytest.mark.allow_logs("1 large contents are held by no member")
async def test_a_learner_does_not_wait_for_what_nobody_has(cluster):
    """A learner does not wait for large contents that no member has: it becomes a voter without
    them, and the status of the nodes says how many there are."""
    one = await cluster.start("node1")
    kept, lost = await put_content(one, "kept", some(4)), await put_content(one, "lost", some(5))
    path_of(one, lost).unlink()
    one.node.contents.files.here.pop(lost.sha256)
    one.node.contents.restart()
    two = await cluster.start("node2", "node1")
    await wait_until(two.votes)
    assert holds(two, kept, some(4))
    for member in (one, two):
        await wait_until(lambda m=member: m.node.contents.lost == 1)
        [found] = await member.node.status(local=True)
        assert (found["contents_lost"], found["contents_missing"]) == (1, 1)
    path, again = hand_over(one, some(5))
    await one.node.contents.adopt(path, again)
    await two.node.contents.have(lost)
    for member in (one, two):
        await wait_until(lambda m=member: m.node.contents.missing == 0)
        assert member.node.contents.lost == 0


async def test_who_is_silent_may_have_it(cluster):
    """So nothing is called lost as long as somebody does not answer."""
    one, two, three = await cluster.three()
    manifest = await put_content(one, "f", some(6))
    for member in (one, two, three):
        await wait_until(lambda m=member: holds(m, manifest, some(6)))
    await three.stop()
    for member in (one, two):
        path_of(member, manifest).unlink()
        member.node.contents.files.here.pop(manifest.sha256)
        member.node.contents.restart()
    await wait_until(lambda: manifest.sha256 in one.node.contents._lacking)
    with pytest.raises(Unavailable):
        await one.node.contents.have(manifest)
    await one.node.contents._ask_who_has(manifest.sha256)
    assert one.node.contents.lost == 0
    back = await cluster.start("node3", "node1")
    for member in (one, two):
        await wait_until(lambda m=member: holds(m, manifest, some(6)))
    assert holds(back, manifest, some(6))


def test_a_plan_says_what_a_new_voter_lacks():
    members = plans.Members((
        plans.Member(1, "node1", "a:1", "a:2", True), plans.Member(2, "node2", "b:1", "b:2", False)
    ))  # fmt: skip
    now = plans.Now(1, 1, members)
    assert not any("held by no member" in text for text in plans.promote(now, "node2").warnings)
    said = plans.promote(now, "node2", lost=1_234).warnings
    assert any(text.startswith("1,234 large contents are held by no member") for text in said)
