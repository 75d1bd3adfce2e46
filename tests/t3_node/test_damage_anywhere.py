"""Any damage at any place of any file of a data directory, drawn by a seed."""

import os
import random
import shutil
from collections import Counter

import pytest

from dfs import limits
from dfs.errors import DataLoss, Misconfigured, Unavailable
from dfs.identity import open_identity
from dfs.nemesis.damage import anywhere, put_away
from dfs.proto import dfs_pb2 as pb

from .conftest import state, wait_until

CASES = int(os.environ.get("DFS_TEST_DAMAGES", "12"))
SEED = int(os.environ.get("DFS_TEST_SEED", "1"))


@pytest.fixture
def quick(monkeypatch):
    """Short logs, what is on disk is written down at once, and all of it is read all the time."""
    monkeypatch.setattr(limits, "SNAPSHOT_LOG_BYTES", 128 << 10)
    monkeypatch.setattr(limits, "LOG_KEEP_BYTES", 64 << 10)
    monkeypatch.setattr("dfs.node.keeping.FLUSH_INTERVAL_MS", 50)
    monkeypatch.setattr("dfs.node.node.SCRUB_INTERVAL_MS", 5)
    monkeypatch.setattr("dfs.node.scrub.SCRUB_PASS_S_MIN", 0)


async def put_some(member, contents, chance):
    for _ in range(8):
        key = f"d{chance.randrange(5)}/k{chance.randrange(40)}"
        contents[key] = chance.randbytes(chance.choice((10, 900, 20_000)))
        await member.put(key, contents[key])


async def read_all(member, contents):
    """The keys whose read was refused; wrong bytes fail."""
    refused = set()
    for key, data in contents.items():
        body = pb.GetRequest(key=key).SerializeToString()
        found = await member.node.read(2, body, False, 10_000)
        if isinstance(found, bytes):
            assert pb.GetResponse.FromString(found).data == data, key
        else:
            assert found[0] in (DataLoss.row.code, Unavailable.row.code), found
            refused.add(key)
    return refused


async def settled(cluster, member, other):
    """The member once it has the state of the other, has written down that its log has all, and has
    read all that is stored; it is started again when it has found damage."""

    def even(member):
        index = int.from_bytes(member.running.identity.promises()[:8], "big")
        read = member.node._scrub.verified
        return state(member) == state(other) and min(index, read) >= member.store.applied

    while True:
        await wait_until(lambda m=member: m.running.identity.fault or even(m))
        if not member.running.identity.fault:
            return member
        await member.stop()
        member = await cluster.start("node3", "node1", "node2")


@pytest.mark.timeout(120 + 5 * CASES)
@pytest.mark.allow_logs("dfs.healing", "stops serving its state", "this node stops")
async def test_damage_anywhere_is_harmless_or_noticed(real_cluster, quick):
    """Whatever is damaged in the data directory of one node, and wherever: it serves the right
    bytes or refuses, and ends with the state of the others, as itself or in its own place; a
    damaged identity alone needs a person, who is told so."""
    chance = random.Random(SEED)
    one, _, three = await real_cluster.three()
    contents: dict[str, bytes] = {}
    data, spare = real_cluster.root / "node3", real_cluster.root / "spare"
    outcomes: Counter[str] = Counter()
    for number in range(CASES):
        await put_some(one, contents, chance)
        shutil.rmtree(data / "quarantine", ignore_errors=True)
        three = await settled(real_cluster, three, one)
        await three.stop()
        shutil.rmtree(spare, ignore_errors=True)
        shutil.copytree(data, spare)
        damage, file = anywhere(data, chance)
        case = f"seed {SEED}, case {number}: {damage} {file.relative_to(data)}"
        try:
            three = await real_cluster.start("node3", "node1", "node2")
        except Misconfigured:
            if file.name != "identity.json":
                raise
            outcomes["refused"] += 1
            shutil.rmtree(data)
            shutil.copytree(spare, data)
            three = await real_cluster.start("node3", "node1", "node2")
        if await read_all(three, contents):
            assert three.running.identity.fault, case
            await three.stop()
            three = await real_cluster.start("node3", "node1", "node2")
        three = await settled(real_cluster, three, one)
        await wait_until(three.votes)
        assert not await read_all(three, contents), case
        assert not open_identity(data, "node3").fault, case
        away = put_away(data)
        outcomes["another" if "log" in away else "healed" if away else "harmless"] += 1
    print(f"seed {SEED}: {dict(outcomes)}")
    assert outcomes["healed"] + outcomes["another"] > CASES // 6, outcomes
