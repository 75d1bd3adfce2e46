"""What only others know of a data directory: that it is a copy, or an old one."""

import shutil
from types import SimpleNamespace

import pytest

from dfs.errors import Misconfigured, Unavailable
from dfs.nemesis.damage import put_away
from dfs.node.joining import Joining

from .conftest import state, wait_until


async def test_a_copy_of_the_data_directory_of_a_running_node_is_refused(real_cluster):
    """A second process with a copy of a node's data directory is refused, at another address too,
    and says where the first one runs; the first one goes on."""
    one, two, three = await real_cluster.three()
    no_sockets = shutil.ignore_patterns("*.sock")
    shutil.copytree(
        real_cluster.root / "node3", real_cluster.root / "copy", ignore=no_sockets
    )
    for address in ("copy", "node3"):
        with pytest.raises(Misconfigured, match=f"node3 runs already, at {three.raft}.* is a copy"):
            await real_cluster.start("node3", "node1", data="copy", address=address)
    last = await one.put("k", b"v")
    for member in (two, three):
        assert await member.get("k", min_revision=last) == b"v"


@pytest.mark.allow_logs("dfs.healing")
async def test_an_old_copy_of_a_whole_data_directory_is_noticed_by_the_leader(real_cluster):
    """Nothing in an old copy of a whole data directory can show that it is old. The leader that had
    acknowledgements of later entries from this node does: it does not vote or acknowledge again
    under its id, and comes back as another."""
    one, two, three = await real_cluster.three()
    data, old = real_cluster.root / "node3", real_cluster.root / "old"
    await three.stop()
    shutil.copytree(data, old)
    three = await real_cluster.start("node3", "node1")
    former = three.running.identity.id
    last = await one.put("k", b"v")
    await three.get("k", min_revision=last)
    leader = next(m for m in (one, two, three) if m.role() == "leader")
    await wait_until(
        lambda: all(m["matched"] >= last for m in leader.engine.status()["members"])
    )
    assert leader is not three
    await three.stop()
    shutil.rmtree(data)
    shutil.copytree(old, data)
    three = await real_cluster.start("node3", "node1", "node2")
    await wait_until(three.votes)
    assert three.running.identity.id != former
    assert put_away(data)[0] == "log"
    await wait_until(lambda: state(three) == state(one))
    assert await three.get("k") == b"v"


@pytest.mark.parametrize(("acknowledged", "said"), [(9, "9 was acknowledged"), (5, ""), (0, "")])
async def test_a_leader_that_answers_late_is_listened_to_as_well(acknowledged, said):
    """Entries that the leader had acknowledgements of, of a log that ends before them."""
    members = [{"id": 1, "raft": "a:1"}, {"id": 2, "raft": "b:1"}]
    engine = SimpleNamespace(status=lambda: {"members": members, "leader": 2, "last_log": 5})

    class Talk:
        silent = 2

        def on(self, *_):
            pass

        async def ask(self, address, _question):
            assert address == "b:1"
            if self.silent:
                self.silent -= 1
                raise Unavailable("nobody answers yet")
            return {"leads": True, "matched": {"1": acknowledged}}

    me = SimpleNamespace(id=1, raft="a:1")
    joining = Joining(engine, Talk(), SimpleNamespace(cluster=b"c"), me, [])
    found = await joining.notice_going_back()
    assert said in found
    assert bool(found) == bool(said)


async def test_a_restart_asks_and_goes_on(real_cluster):
    """Nobody knows anything against it: others are down, or know less than the log has."""
    members = await real_cluster.three()
    for member in members:
        await member.put("k")
    identities = {m.name: m.running.identity.id for m in members}
    for member in members:
        await member.stop()
    for name, number in identities.items():
        again = await real_cluster.start(name, "node1")
        assert again.running.identity.id == number
        assert put_away(real_cluster.root / name) == []
