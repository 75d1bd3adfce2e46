"""Lists: one pinned revision, in key order, in pieces."""

import grpc
import pytest

from dfs.errors import InvalidArgument, NotFound
from dfs.limits import LIST_ITEMS_MAX, MESSAGE_BYTES_MAX, STREAM_CHUNK_BYTES_MAX
from dfs.proto import dfs_pb2 as pb
from dfs.server import hot

from .conftest import refused

Code = grpc.StatusCode
TREE = ("a", "b/1", "b/2", "b/c/3", "b.txt", "d")


@pytest.fixture
async def tree(api):
    for key in TREE:
        await api.files.Put(pb.PutRequest(key=key, data=key.encode()))
    return api


async def listed(api, **fields):
    """(keys, revision, answers) of a list."""
    answers = [answer async for answer in api.files.List(pb.ListRequest(**fields))]
    assert len({answer.revision for answer in answers}) == 1
    items = [item for answer in answers for item in answer.items]
    return [item.key for item in items], answers[0].revision, items


async def test_directories_and_subtrees(tree):
    keys, revision, _ = await listed(tree)
    assert keys == ["a", "b", "b.txt", "d"]
    assert revision == tree.applied()
    assert (await listed(tree, recursive=True))[0] == [
        "a", "b", "b/1", "b/2", "b/c", "b/c/3", "b.txt", "d",
    ]
    assert (await listed(tree, key="b"))[0] == ["b/1", "b/2", "b/c"]
    assert (await listed(tree, key="b", recursive=True))[0] == ["b/1", "b/2", "b/c", "b/c/3"]
    assert (await listed(tree, key="b/1"))[0] == ["b/1"]


async def test_an_empty_tree_answers_once_with_its_revision(api):
    keys, revision, _ = await listed(api)
    assert (keys, revision) == ([], api.applied())


async def test_pages(tree):
    keys, after = [], ""
    while page := (await listed(tree, recursive=True, limit=3, after=after))[0]:
        assert len(page) <= 3
        keys += page
        after = page[-1]
    assert keys == (await listed(tree, recursive=True))[0]
    found = await refused(tree.files.List(pb.ListRequest(key="b", after="d")).read())
    assert found.code == Code.INVALID_ARGUMENT


async def test_content_up_to_a_size(tree):
    _, _, items = await listed(tree, key="b", recursive=True, data_bytes_max=3)
    assert {item.key: item.data for item in items if item.has_data} == {
        "b/1": b"b/1", "b/2": b"b/2",
    }
    _, _, items = await listed(tree)
    assert not any(item.has_data for item in items)


@pytest.mark.parametrize("consistency", [pb.LINEARIZABLE, pb.LOCAL])
async def test_a_list_shows_one_revision_while_writes_go_on(api, consistency):
    """A list shows the tree as of one revision, complete and in key order, however long it takes
    and whatever is written meanwhile."""
    for n in range(LIST_ITEMS_MAX + 10):
        await api.running.node.write(1, pb.PutRequest(key=f"k{n:05}").SerializeToString(), 1000)
    request = pb.ListRequest(consistency=consistency)
    call = api.files.List(request)
    first = await call.read()
    assert len(first.items) == LIST_ITEMS_MAX
    await api.files.Delete(pb.DeleteRequest(key=f"k{LIST_ITEMS_MAX + 1:05}"))
    rest = []
    while (answer := await call.read()) is not grpc.aio.EOF:
        rest.append(answer)
    keys = [item.key for answer in (first, *rest) for item in answer.items]
    assert keys == [f"k{n:05}" for n in range(LIST_ITEMS_MAX + 10)]
    assert {answer.revision for answer in (first, *rest)} == {api.applied() - 1}


async def test_a_list_as_of_a_past_revision(tree):
    """A directory or a subtree can be listed as of every past revision that history retains: what
    was there then, with the records and the content of then, also what was removed since. History
    that is gone and revisions that are yet to come are refused as for a Get."""
    before = tree.applied()
    await tree.files.Delete(pb.DeleteRequest(key="b", recursive=True))
    await tree.files.Put(pb.PutRequest(key="a", data=b"changed"))
    await tree.files.Put(pb.PutRequest(key="b", data=b"a file now"))
    keys, revision, items = await listed(tree, revision=before, data_bytes_max=3)
    assert (keys, revision) == (["a", "b", "b.txt", "d"], before)
    assert items[0].data == b"a"
    assert items[1].record.kind == pb.DIRECTORY
    assert (await listed(tree, key="b", recursive=True, revision=before))[0] == [
        "b/1", "b/2", "b/c", "b/c/3",
    ]
    assert (await listed(tree, key="b", revision=tree.applied()))[0] == ["b"]
    page, _, _ = await listed(tree, revision=before, recursive=True, limit=2, after="b/1")
    assert page == ["b/2", "b/c"]
    for wrong in ({"revision": tree.applied() + 1000}, {"key": "b/1", "revision": before + 1}):
        found = await refused(tree.files.List(pb.ListRequest(**wrong)).read())
        asked = await refused(tree.files.Get(pb.GetRequest(**{"key": "a", **wrong})))
        assert (found.code, found.reason) == (asked.code, asked.reason)


async def test_a_list_as_of_a_time(tree):
    """A list as of a time shows the last revision that was not committed after it, and says which
    that is. A time that is yet to come is refused, and so is one before all that history has."""
    record = (await tree.files.Stat(pb.StatRequest(key="b/2"))).record
    keys, revision, _ = await listed(tree, recursive=True, time_ns=record.time_ns)
    assert (keys, revision) == (["a", "b", "b/1", "b/2"], record.revision)
    assert (await listed(tree, time_ns=record.time_ns - 1))[1] < record.revision
    for wrong, text in ((1 << 62, "yet to come"), (0, "nothing was stored yet")):
        found = await refused(tree.files.List(pb.ListRequest(time_ns=wrong)).read())
        assert found.code == Code.OUT_OF_RANGE
        assert text in found.text


async def test_pieces_are_bounded_and_a_large_item_travels_alone(api):
    for n, size in enumerate((600_000, 600_000, 16 << 20, 10)):
        await api.files.Put(pb.PutRequest(key=f"k{n}", data=bytes(size)))
    request = pb.ListRequest(data_bytes_max=16 << 20)
    answers = [answer async for answer in api.files.List(request)]
    assert [len(answer.items) for answer in answers] == [1, 1, 1, 1]
    sizes = [answer.ByteSize() for answer in answers]
    assert max(sizes) <= MESSAGE_BYTES_MAX
    assert sorted(sizes)[-2] <= STREAM_CHUNK_BYTES_MAX


async def test_what_the_hot_thread_answers_at_once_is_what_the_stream_brings(tree):
    store = tree.running.store
    for fields in ({}, {"key": "b"}, {"key": "b", "recursive": True, "data_bytes_max": 9},
                   {"recursive": True, "limit": 3, "after": "b"}, {"key": "b/1"}):  # fmt: skip
        request = pb.ListRequest(**fields)
        [answer] = [answer async for answer in tree.files.List(request)]
        assert hot.list_answer(store, request.SerializeToString()) == answer.SerializeToString()
    for body, error in ((b"\xff", InvalidArgument), (b"\x0a\x03a//", InvalidArgument),
                        (pb.ListRequest(key="no").SerializeToString(), NotFound)):  # fmt: skip
        with pytest.raises(error):
            hot.list_answer(store, body)
