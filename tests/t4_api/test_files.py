"""Reading and writing single keys."""

import asyncio
import hashlib
import os

import grpc
import pytest

from dfs.errors import DataLoss
from dfs.limits import VALUE_BYTES_MAX
from dfs.proto import dfs_pb2 as pb

from .conftest import refused

Code = grpc.StatusCode


async def test_put_then_get(api):
    """A Put of a key and its data is complete: it returns the revision that holds it, and a Get
    returns these bytes and a record with that revision, their size and their digest."""
    put = await api.files.Put(pb.PutRequest(key="foo", data=b"bar"))
    got = await api.files.Get(pb.GetRequest(key="foo"))
    assert got.data == b"bar"
    assert got.record.revision == put.revision == api.applied()
    assert got.record.sha256 == hashlib.sha256(b"bar").digest()
    assert (got.record.size, got.record.version, got.record.mode) == (3, 1, 0o644)
    assert got.record.node == "node1"
    stat = await api.files.Stat(pb.StatRequest(key="foo"))
    assert stat.record == got.record


async def test_metadata_and_replacement(api):
    meta = pb.Metadata(mode=0o600, mtime_ns=123)
    first = await api.files.Put(pb.PutRequest(key="k", data=b"1", metadata=meta))
    second = await api.files.Put(pb.PutRequest(key="k", data=b"22"))
    record = (await api.files.Stat(pb.StatRequest(key="k"))).record
    assert (record.revision, record.created_revision, record.version) == (
        second.revision, first.revision, 2,
    )
    old = await api.files.Get(pb.GetRequest(key="k", revision=first.revision))
    assert (old.data, old.record.mode, old.record.mtime_ns) == (b"1", 0o600, 123)


async def test_owner_and_attributes(api):
    xattrs = [pb.Xattr(name="user.a", value=b"1"), pb.Xattr(name="user.b", value=b"\0")]
    meta = pb.Metadata(uid=0, gid=1 << 31, xattrs=xattrs)
    await api.files.Put(pb.PutRequest(key="d/k", data=b"1", metadata=meta))
    await api.files.MakeDir(pb.MakeDirRequest(key="d", metadata=meta))
    await api.files.Put(pb.PutRequest(key="d/plain", data=b"2"))
    got = await api.files.Get(pb.GetRequest(key="d/k"))
    assert (got.data, got.record.uid, got.record.gid) == (b"1", 0, 1 << 31)
    assert list(got.record.xattrs) == xattrs
    record = (await api.files.Stat(pb.StatRequest(key="d"))).record
    assert (record.children, list(record.xattrs)) == (2, xattrs)
    record = (await api.files.Stat(pb.StatRequest(key="d/plain"))).record
    assert not record.HasField("uid")
    async for answer in api.files.List(pb.ListRequest(recursive=True, data_bytes_max=9)):
        assert [len(item.record.xattrs) for item in answer.items] == [2, 2, 0]
    meta = pb.Metadata(xattrs=xattrs[::-1])
    found = await refused(api.files.Put(pb.PutRequest(key="d/k", metadata=meta)))
    assert found.code == Code.INVALID_ARGUMENT


@pytest.mark.parametrize("size", [0, 1, 4096, 4097, 1 << 20, VALUE_BYTES_MAX])
async def test_values_of_any_size_come_back_equal(api, size):
    """A value of any size from nothing to 16 MiB comes back byte for byte."""
    data = os.urandom(size)
    await api.files.Put(pb.PutRequest(key="v", data=data))
    assert (await api.files.Get(pb.GetRequest(key="v"))).data == data


async def test_reads_at_revisions(api):
    """A key can be read as of every past revision that history retains, also after it was changed
    or removed; a revision in the future is refused."""
    revisions = [
        (await api.files.Put(pb.PutRequest(key="k", data=b"%d" % n))).revision for n in range(3)
    ]
    for n, revision in enumerate(revisions):
        got = await api.files.Get(pb.GetRequest(key="k", revision=revision))
        assert got.data == b"%d" % n
    await api.files.Delete(pb.DeleteRequest(key="k"))
    assert (await refused(api.files.Get(pb.GetRequest(key="k")))).code == Code.NOT_FOUND
    assert (await api.files.Get(pb.GetRequest(key="k", revision=revisions[2]))).data == b"2"
    found = await refused(api.files.Get(pb.GetRequest(key="k", revision=api.applied() + 1000)))
    assert (found.code, found.reason) == (Code.OUT_OF_RANGE, "OUT_OF_RANGE")


async def test_compare_and_set(api):
    """A write that names the revision which the key must have now is done only if it has it; 0
    means that the key must not exist. Otherwise nothing is changed, and the refusal is a conflict.
    """
    first = await api.files.Put(pb.PutRequest(key="k", data=b"1", base_revision=0))
    found = await refused(api.files.Put(pb.PutRequest(key="k", data=b"2", base_revision=0)))
    assert (found.code, found.reason) == (Code.FAILED_PRECONDITION, "CONFLICT")
    await api.files.Put(pb.PutRequest(key="k", data=b"3", base_revision=first.revision))
    call = api.files.Delete(pb.DeleteRequest(key="k", base_revision=first.revision))
    assert (await refused(call)).reason == "CONFLICT"
    assert (await api.files.Get(pb.GetRequest(key="k"))).data == b"3"


async def test_retry_with_the_same_request_id_is_applied_once(api):
    """A write with a request id is applied once, however often it arrives: the repetition gets the
    answer of the first, also after later changes of the same key."""
    request = pb.PutRequest(key="k", data=b"1", request_id=os.urandom(16))
    first = await api.files.Put(request)
    await api.files.Put(pb.PutRequest(key="k", data=b"2"))
    again = await api.files.Put(request)
    assert again.revision == first.revision
    assert (await api.files.Get(pb.GetRequest(key="k"))).data == b"2"
    gone = pb.DeleteRequest(key="k", request_id=os.urandom(16))
    deleted = await api.files.Delete(gone)
    assert await api.files.Delete(gone) == deleted


async def test_directories_and_symlinks(api):
    await api.files.MakeDir(pb.MakeDirRequest(key="d", metadata=pb.Metadata(mode=0o700)))
    await api.files.MakeDir(pb.MakeDirRequest(key="d"))
    await api.files.Symlink(pb.SymlinkRequest(key="d/link", target="../else where"))
    record = (await api.files.Stat(pb.StatRequest(key="d/link"))).record
    assert (record.kind, record.target) == (pb.SYMLINK, "../else where")
    record = (await api.files.Stat(pb.StatRequest(key="d"))).record
    assert (record.kind, record.mode, record.implicit) == (pb.DIRECTORY, 0o700, False)
    deleted = await api.files.Delete(pb.DeleteRequest(key="d", recursive=True))
    assert deleted.deleted == 2


async def test_min_revision_that_is_applied_here_is_answered_at_once(api):
    put = await api.files.Put(pb.PutRequest(key="k", data=b"1"))
    for consistency in (pb.LINEARIZABLE, pb.LOCAL):
        got = await api.files.Get(
            pb.GetRequest(key="k", min_revision=put.revision, consistency=consistency)
        )
        assert got.data == b"1"


@pytest.mark.parametrize("consistency", [pb.LINEARIZABLE, pb.LOCAL])
async def test_min_revision_waits_until_it_is_applied(api, consistency):
    """A read that names a least revision waits until the node has applied it: whoever carries the
    revision of the last write reads that write on any node."""
    put = await api.files.Put(pb.PutRequest(key="k", data=b"1"))
    later = asyncio.ensure_future(
        api.files.Get(
            pb.GetRequest(key="k", min_revision=put.revision + 2, consistency=consistency)
        )
    )
    await api.files.Put(pb.PutRequest(key="k", data=b"2"))
    await api.files.Put(pb.PutRequest(key="k", data=b"3"))
    assert (await later).data == b"3"


@pytest.mark.allow_logs("there is space on the disk again", "MiB left")
async def test_a_full_disk_refuses_puts_of_every_kind_and_nothing_else(api, monkeypatch):
    """Those that go into the log without a look by Python, too."""
    await api.files.Put(pb.PutRequest(key="k", data=b"1"))
    space = api.running.node._space
    monkeypatch.setattr(space, "_bytes_min", 1 << 62)
    await space.check()
    for put in (pb.PutRequest(key="l"), pb.PutRequest(key="l", request_id=bytes(16))):
        found = await refused(api.files.Put(put))
        assert (found.code, found.reason) == (Code.RESOURCE_EXHAUSTED, "OUT_OF_SPACE")
    assert (await api.files.Get(pb.GetRequest(key="k"))).data == b"1"
    await api.files.Delete(pb.DeleteRequest(key="k"))
    monkeypatch.setattr(space, "_bytes_min", 1)
    await space.check()
    assert (await api.files.Put(pb.PutRequest(key="l"))).revision == api.applied()


async def test_a_node_that_is_condemned_answers_nothing_it_knows(api):
    """Neither puts that it would take without a look, nor answers that it has kept."""
    await api.files.Put(pb.PutRequest(key="k", data=b"1"))
    get = pb.GetRequest(key="k")
    assert (await api.files.Get(get)).data == b"1"
    api.running.node._hot.condemn(DataLoss("this node differs from the others"))
    for call in (api.files.Get(get), api.files.Put(pb.PutRequest(key="k"))):
        found = await refused(call)
        assert (found.code, found.text) == (Code.DATA_LOSS, "this node differs from the others")


async def test_min_revision_that_never_comes_ends_with_the_deadline(api):
    await api.files.Put(pb.PutRequest(key="k", data=b"1"))
    call = api.files.Get(pb.GetRequest(key="k", min_revision=1 << 40), timeout=0.3)
    assert (await refused(call)).code == Code.DEADLINE_EXCEEDED
    call = api.files.List(pb.ListRequest(min_revision=1 << 40), timeout=0.3)
    assert (await refused(call.read())).code == Code.DEADLINE_EXCEEDED
    assert (await api.files.Get(pb.GetRequest(key="k"))).data == b"1"


async def test_many_writers_at_once_get_different_revisions(api):
    calls = [api.files.Put(pb.PutRequest(key=f"k{n}", data=b"%d" % n)) for n in range(200)]
    revisions = [put.revision for put in await asyncio.gather(*calls)]
    assert len(set(revisions)) == 200
    gets = [api.files.Get(pb.GetRequest(key=f"k{n}")) for n in range(200)]
    assert [got.data for got in await asyncio.gather(*gets)] == [b"%d" % n for n in range(200)]
