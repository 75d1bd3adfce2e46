"""Full disks of one and of several members, and what the engine says of slow ones."""

import asyncio

import pytest

from dfs.errors import OutOfSpace
from dfs.node.disk import Disk
from dfs.proto import dfs_pb2 as pb

from .conftest import wait_until

PUT = pb.PutRequest(key="k2").SerializeToString()
ROOMY, FULL = 1, 1 << 62
SAID = "MiB left", "space on the disk", "leadership is handed", "have less than"


async def fill(member, free_bytes_min: int) -> None:
    member.node._space._bytes_min = free_bytes_min
    await member.node._space.check()


async def refused(member) -> bool:
    found = await member.call(1, PUT)
    assert isinstance(found, bytes) or found[0] == OutOfSpace.row.code, found
    return not isinstance(found, bytes)


@pytest.mark.allow_logs(*SAID)
async def test_one_full_disk_moves_the_leader_and_stops_nobody(cluster):
    """Where one disk of three is full leadership goes to a node with space, and writes go on at all
    nodes."""
    one, two, three = await cluster.three()
    await fill(one, FULL)
    await wait_until(lambda: one.role() != "leader")
    for member in (one, two, three):
        await member.node._space.check()
        assert not await refused(member)
    (row,) = await one.node.status(True)
    assert "MiB left" in row["error"]
    assert (await two.node.status(True))[0]["error"] == ""


@pytest.mark.allow_logs(*SAID)
async def test_full_disks_of_a_majority_refuse_writes_at_every_node(cluster):
    """Where a majority has no space writes are refused at every node, with the names of those that
    have none; reads and deletes go on, and so do writes as soon as there is space."""
    one, two, three = await cluster.three()
    last = await one.put("k", b"v")
    await fill(two, FULL)
    await fill(three, FULL)
    for _ in range(2):  # the second time it tells what it has found
        await one.node._space.check()
    for member in (one, two, three):
        found = await member.call(1, PUT)
        assert found[0] == OutOfSpace.row.code
        assert "node2 and node3" in found[1]
        assert "DISK_FREE_BYTES_MIN" in found[1]
        assert await member.get("k", min_revision=last) == b"v"
    delete = pb.DeleteRequest(key="k").SerializeToString()
    assert isinstance(await two.call(4, delete), bytes)
    await fill(three, ROOMY)
    for _ in range(2):
        await one.node._space.check()
    for member in (one, two, three):
        assert not await refused(member)


@pytest.mark.allow_logs(*SAID)
async def test_without_a_leader_a_node_believes_its_own_disk(cluster, monkeypatch):
    """What the last leader said is believed for DISK_TOLD_MS_MAX."""
    one, two, three = await cluster.three()
    for member in (two, three):
        await fill(member, FULL)
    for _ in range(2):
        await one.node._space.check()
    assert await refused(one)
    space = two.node._space
    now_s = space._now_s() + 3_600
    monkeypatch.setattr(space, "_now_s", lambda: now_s)
    await fill(two, ROOMY)
    assert two.node._hot.full is None


class Engine:
    """What Disk looks at."""

    def __init__(self):
        self.said = {"disk": "", "handed_over_for_disk": 0}

    def status(self):
        return self.said


@pytest.mark.allow_logs("is slow", "is handed", "as quick as")
def test_what_the_engine_finds_wrong_is_said_once(caplog):
    engine = Engine()
    disk = Disk(engine)

    def check(text: str, handed_over: int) -> list[str]:
        caplog.clear()
        engine.said = {"disk": text, "handed_over_for_disk": handed_over}
        asyncio.run(disk.check())
        return [record.getMessage() for record in caplog.records]

    assert check("", 0) == []
    assert check("it is slow by 30 ms", 0)[0].startswith("it is slow by 30 ms")
    assert check("it is slow by 40 ms", 0) == []
    assert check("it is slow", 1) == ["leadership is handed to another node: it is slow"]
    assert check("", 1) == ["the disk is as quick as those of the others again"]
    assert check("", 2) == ["leadership is handed to another node: its disk was slow"]
