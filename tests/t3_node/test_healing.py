"""A state that is damaged, wrong or gone is had again; the log and the vote stay."""

import asyncio
import shutil
from datetime import UTC, datetime, timedelta

import pytest

from dfs import limits
from dfs.errors import DataLoss, Misconfigured, Unavailable
from dfs.healing import Quarantine
from dfs.identity import open_identity
from dfs.nemesis.damage import DAMAGES, flip, put_away, size
from dfs.proto import dfs_pb2 as pb

from .conftest import state, wait_until

LARGE = 40_000
"""Stands in a blob file."""


@pytest.fixture
def short_logs(monkeypatch):
    """Logs that do not reach back to the beginning."""
    monkeypatch.setattr(limits, "SNAPSHOT_LOG_BYTES", 256 << 10)
    monkeypatch.setattr(limits, "LOG_KEEP_BYTES", 64 << 10)
    monkeypatch.setattr("dfs.node.keeping.FLUSH_INTERVAL_MS", 100)


async def fill(member, count=60):
    """Puts small and large values; their contents by key."""
    contents = {f"d{n % 7}/k{n}": b"%d" % n * (LARGE // 2 if n % 3 else 5) for n in range(count)}
    await asyncio.gather(*(member.put(key, data) for key, data in contents.items()))
    return contents


async def check(member, contents):
    for key, data in contents.items():
        assert await member.get(key) == data, key


async def is_right(member, key, data):
    """The right content, or a refusal; never another content."""
    found = await member.node.read(2, pb.GetRequest(key=key).SerializeToString(), True, 10_000)
    if not isinstance(found, bytes):
        assert found[0] in (DataLoss.row.code, Unavailable.row.code), found
        return False
    assert pb.GetResponse.FromString(found).data == data
    return True


async def purged(*members):
    await wait_until(lambda: all(m.engine.status()["purged"] > 0 for m in members))


FILES = ["*.sst", "*.blob", "MANIFEST-*", "CURRENT", "OPTIONS-*", "../current"]


@pytest.mark.allow_logs("dfs.healing", "stops serving its state")
async def test_any_damage_of_the_state_is_noticed_and_healed(real_cluster, short_logs):
    """Files of the state that have a flipped bit, a block of zeros, a short end, that are missing
    or were exchanged: wrong bytes are never read, and the node gets the state of another member by
    itself."""
    one, two, three = await real_cluster.three()
    contents = await fill(one)
    await purged(one, two, three)
    await wait_until(lambda: state(three) == state(one))
    await three.stop()
    data, master = real_cluster.root / "node3", real_cluster.root / "master"
    shutil.copytree(data, master)
    healed = 0
    for pattern in FILES:
        for damage in DAMAGES:
            shutil.rmtree(data)
            shutil.copytree(master, data)
            found = (data / "store/db-1").glob(pattern)
            damage(max(found, key=size))
            case = f"{pattern} {damage.__name__}"
            three = await real_cluster.start("node3", "node1")
            if not put_away(data):
                right = [await is_right(three, key, value) for key, value in contents.items()]
                lost = not all(right)
                assert lost == bool(three.running.identity.fault), case
                await three.stop()
                three = await real_cluster.start("node3", "node1")
                assert lost == bool(put_away(data)), case
            await wait_until(lambda: state(three) == state(one))  # noqa: B023 - waited for here
            for key, value in contents.items():
                assert await three.get(key, local=True) == value, case
            assert not open_identity(data, "node3").fault
            healed += len(put_away(data))
            await three.stop()
    assert healed > len(FILES) * len(DAMAGES) // 2


@pytest.mark.allow_logs("dfs.healing")
async def test_states_that_are_gone_or_old_are_healed(real_cluster, short_logs):
    """A state that is gone, an old copy of it, or that of another cluster in its place."""
    one, two, three = await real_cluster.three()
    await one.put("first")
    await wait_until(lambda: state(three) == state(one))
    await three.stop()
    data = real_cluster.root / "node3"
    shutil.copytree(data / "store", real_cluster.root / "old")
    other = await real_cluster.start("other")
    for n in range(200):
        await other.put(f"wrong{n}")
    await other.stop()
    shutil.copytree(real_cluster.root / "other/store", real_cluster.root / "foreign")
    three = await real_cluster.start("node3", "node1")
    contents = await fill(one)
    await purged(one, two, three)
    for place in ("old", "foreign", "nothing"):
        await wait_until(lambda: state(three) == state(one))  # noqa: B023 - waited for here
        await three.stop()
        shutil.rmtree(data / "store")
        if place != "nothing":
            shutil.copytree(real_cluster.root / place, data / "store")
        shutil.rmtree(data / "quarantine", ignore_errors=True)
        three = await real_cluster.start("node3", "node1")
        await wait_until(lambda: state(three) == state(one))  # noqa: B023 - waited for here
        await check(three, contents)
        assert (data / "quarantine").exists(), place


@pytest.mark.allow_logs("dfs.healing", "differs from that")
async def test_a_state_hash_that_differs_is_healed_by_the_majority(real_cluster):
    """The member that differs gets the state of another, of the index at which it differed or
    later, even if its own log could make one."""
    one, two, three = await real_cluster.three()
    contents = await fill(one)
    await three.differ()
    last = await one.put("after")
    for member in (two, three):
        await member.get("after", min_revision=last)
    for member in (one, two, three):  # whoever leads by now
        await member.node._hashes.compare()
    await wait_until(lambda: three.running.identity.fault)
    await three.stop()
    three = await real_cluster.start("node3", "node1")
    assert three.store.applied >= three.running.identity.fault_index
    await wait_until(lambda: state(three) == state(one))
    assert three.engine.status()["snapshot"] > 0, "not from the log"
    await check(three, contents)


@pytest.mark.allow_logs("dfs.healing")
async def test_a_cluster_of_one_makes_its_state_again_from_its_log(real_cluster):
    """While the log has everything, nobody else is needed."""
    one = await real_cluster.start("node1")
    contents = await fill(one)
    before = state(one)
    await asyncio.to_thread(one.node._flusher.flush)
    await one.stop()
    shutil.rmtree(real_cluster.root / "node1/store")
    one = await real_cluster.start("node1")
    await check(one, contents)
    assert state(one)[1] == before[1]


@pytest.mark.allow_logs("dfs.healing")
async def test_a_state_that_nobody_can_give_is_refused(real_cluster, short_logs):
    """A damaged state that neither the log nor a member can give again: refused with a sentence
    that says what is wrong and what to do, each time."""
    one = await real_cluster.start("node1")
    await fill(one)
    await purged(one)
    await one.stop()
    data = real_cluster.root / "node1"
    flip(next((data / "store/db-1").glob("MANIFEST-*")))
    for _ in range(limits.HEALS_MAX + 1):
        with pytest.raises(Misconfigured, match=r"Corruption.*no other member is known.*restore"):
            await real_cluster.start("node1")
    assert put_away(data) == ["store"]


@pytest.mark.allow_logs("dfs.healing")
@pytest.mark.parametrize("wrong", ["", "damaged", "of another node"])
async def test_a_read_that_failed_for_a_moment_costs_a_lone_node_nothing(
    real_cluster, short_logs, wrong
):
    """A disk failed a read, and nobody else has the state: all of it is read again. If that is
    right it is kept; if not it is refused."""
    one = await real_cluster.start("node1")
    contents = await fill(one)
    await purged(one)
    before = state(one)
    await asyncio.to_thread(one.node._flusher.flush)
    await one.stop()
    data = real_cluster.root / "node1"
    open_identity(data, "node1").condemn("the store cannot be read: Input/output error")
    if wrong == "damaged":
        flip(max((data / "store/db-1").glob("*.blob"), key=lambda path: path.stat().st_size))
    elif wrong:
        (data / "store/owner").write_text("0123456789abcdef\n")
    if wrong:
        with pytest.raises(Misconfigured, match=r"cannot be read.*no other member is known"):
            await real_cluster.start("node1")
        return
    one = await real_cluster.start("node1")
    await check(one, contents)
    assert state(one)[1] == before[1]
    assert put_away(data) == []


@pytest.mark.allow_logs("dfs.healing", "cannot be used.*Waiting", "not done, tried again later")
async def test_damage_on_a_majority_waits_and_is_healed_by_the_one_that_is_left(
    real_cluster, short_logs, caplog
):
    """Two of three states are damaged: their nodes serve nothing until the third one, which has no
    majority without them, gives them its own. Nothing is lost, as the logs are whole."""
    members = await real_cluster.three()
    contents = await fill(members[0])
    await purged(*members)
    await wait_until(lambda: len({state(m) for m in members}) == 1)
    for member in members:
        await member.stop()
    for name in ("node1", "node2"):
        shutil.rmtree(real_cluster.root / name / "store")
    opening = asyncio.ensure_future(real_cluster.start("node1", "node2", "node3"))
    await wait_until(lambda: "Waiting for a member that gives the state" in caplog.text)
    assert not opening.done()
    three, two, one = await asyncio.gather(
        real_cluster.start("node3", join=False), real_cluster.start("node2", "node3"), opening
    )
    await wait_until(lambda: len({state(m) for m in (one, two, three)}) == 1)
    await check(one, contents)


# ---- what was put away ---------------------------------------------------------------------------


@pytest.mark.allow_logs("put away as")
def test_what_was_put_away_is_kept_for_a_while_and_damage_again_and_again_is_no_accident(tmp_path):
    now = [datetime(2026, 1, 1, tzinfo=UTC)]
    quarantine = Quarantine(tmp_path, lambda: now[0])

    def damage():
        (tmp_path / "store").mkdir(exist_ok=True)
        now[0] += timedelta(seconds=1)
        quarantine.put_away(["store"], "a bit has flipped")

    for _ in range(limits.HEALS_MAX):
        damage()
    assert len(put_away(tmp_path)) == limits.QUARANTINE_KEPT
    notes = sorted(quarantine.directory.glob("*/why.txt"))
    assert [note.read_text() for note in notes] == ["a bit has flipped\n"] * limits.HEALS_MAX
    with pytest.raises(Misconfigured, match=r"flipped\. That is damage number 4 in .*disk"):
        damage()
    assert (tmp_path / "store").exists()
    now[0] += timedelta(seconds=limits.HEAL_WINDOW_S)
    damage()
    assert len(list(quarantine.directory.iterdir())) == limits.QUARANTINE_KEPT
