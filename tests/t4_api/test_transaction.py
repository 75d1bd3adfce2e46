"""Transactions through the API and the clients: all as one, or nothing."""

from __future__ import annotations

import asyncio
import io
import os
import threading
from contextlib import contextmanager

import grpc
import pytest

import dfs
from dfs.limits import (
    CHUNK_BYTES_MIN,
    INLINE_BYTES_MAX,
    LARGE_CALLS_WAITING_MAX,
    PUT_MANY_OPERATIONS_MAX,
    TRANSACTION_BYTES_MAX,
    TRANSACTION_OPERATIONS_MAX,
)
from dfs.proto import dfs_pb2 as pb

from .conftest import refused
from .fake_node import Node

Code = grpc.StatusCode
LARGE = INLINE_BYTES_MAX + 4_321


def put_of(key, data=b"", **fields):
    return pb.Operation(put=pb.PutRequest(key=key, data=data, **fields))


async def test_refused_transactions_take_no_place(api):
    """Neither those that are refused before their contents are held, nor those behind that."""
    content = pb.Operation(put_content=pb.PutContentRequest(key="k"))
    missing = pb.Operation(delete=pb.DeleteRequest(key="gone"))
    for operation in (content, missing):
        for _ in range(LARGE_CALLS_WAITING_MAX + 1):
            call = api.files.Transaction(pb.TransactionRequest(operations=[operation]))
            found = await refused(call)
            assert found.code in (Code.INVALID_ARGUMENT, Code.NOT_FOUND), found
    assert await api.files.Transaction(pb.TransactionRequest(operations=[put_of("k")]))


async def test_a_transaction_is_one_answer_of_a_watch(api):
    await api.files.Put(pb.PutRequest(key="old/x", data=b"0"))
    watch = api.files.Watch(pb.WatchRequest(data_bytes_max=10))
    await watch.read()
    done = await api.files.Transaction(pb.TransactionRequest(operations=[
        put_of("a/b", b"1"),
        pb.Operation(copy=pb.CopyRequest(source="a", target="c", recursive=True)),
        pb.Operation(delete=pb.DeleteRequest(key="old", recursive=True)),
    ]))  # fmt: skip
    told = await watch.read()
    watch.cancel()
    assert (done.revision, told.revision) == (api.applied(), done.revision)
    assert done.changes == len(told.events)
    assert [(e.type, e.key, e.data, e.sub) for e in told.events] == [
        (pb.Event.PUT, "a", b"", 0), (pb.Event.PUT, "a/b", b"1", 1), (pb.Event.PUT, "c", b"", 2),
        (pb.Event.PUT, "c/b", b"1", 3), (pb.Event.DELETE, "old/x", b"", 4),
        (pb.Event.DELETE, "old", b"", 5),
    ]
    assert {event.revision for event in told.events} == {done.revision}


async def test_of_two_changes_of_one_key_the_last_is_read(api):
    """Also where its former content was kept ready as an answer."""
    await api.files.Put(pb.PutRequest(key="k", data=b"0"))
    assert (await api.files.Get(pb.GetRequest(key="k"))).data == b"0"
    await api.files.Transaction(pb.TransactionRequest(operations=[
        put_of("k", b"1"), pb.Operation(delete=pb.DeleteRequest(key="k")), put_of("k", b"2"),
    ]))  # fmt: skip
    got = await api.files.Get(pb.GetRequest(key="k"))
    assert (got.data, got.record.version, got.record.revision) == (b"2", 1, api.applied())
    await api.files.Transaction(pb.TransactionRequest(operations=[
        put_of("k", b"3"), pb.Operation(delete=pb.DeleteRequest(key="k")),
    ]))  # fmt: skip
    assert (await refused(api.files.Get(pb.GetRequest(key="k")))).code == Code.NOT_FOUND


async def test_a_refusal_names_the_operation_and_nothing_is_stored(api):
    before = api.running.store.state_hash
    for bad, code, reason in (
        (put_of("a/b/c"), Code.FAILED_PRECONDITION, "NOT_A_DIRECTORY"),
        (put_of("x", base_revision=7), Code.FAILED_PRECONDITION, "CONFLICT"),
        (pb.Operation(delete=pb.DeleteRequest(key="x")), Code.NOT_FOUND, "NOT_FOUND"),
        (put_of("a//b"), Code.INVALID_ARGUMENT, "INVALID_ARGUMENT"),
    ):
        request = pb.TransactionRequest(operations=[put_of("a/b"), bad], request_id=os.urandom(16))
        found = await refused(api.files.Transaction(request))
        assert (found.code, found.reason, found.metadata["operation"]) == (code, reason, "1")
        assert "nothing was changed, as operation 1" in found.text
    assert api.running.store.state_hash == before


async def test_put_many_is_a_transaction_of_few_puts(api):
    """`PutMany` is a transaction of up to 1,000 puts and nothing else."""
    request = pb.TransactionRequest(request_id=os.urandom(16), operations=[
        put_of("a/b", b"1"), put_of("c", b"2", metadata=pb.Metadata(
            mode=0o640, xattrs=[pb.Xattr(name="user.x", value=b"y")])),
    ])  # fmt: skip
    done = await api.files.PutMany(request)
    assert (done.revision, done.changes) == (api.applied(), 3)
    assert await api.files.PutMany(request) == done, "it is done once"
    for key, data in (("a/b", b"1"), ("c", b"2")):
        got = await api.files.Get(pb.GetRequest(key=key))
        assert (got.data, got.record.revision) == (data, done.revision)
    assert got.record.xattrs[0].value == b"y"
    before = api.running.store.state_hash
    delete = pb.Operation(delete=pb.DeleteRequest(key="c"))
    for bad, code, text in (
        ([put_of("d"), delete], Code.INVALID_ARGUMENT, "transaction, delete c, is refused"),
        ([put_of("d"), put_of("a")], Code.FAILED_PRECONDITION, "operation 1 of the transaction"),
        ([put_of("d"), put_of("c", base_revision=1)], Code.FAILED_PRECONDITION, "put c, is"),
        ([put_of("d"), put_of("a//b")], Code.INVALID_ARGUMENT, "operation 1 of the transaction"),
        ([pb.Operation()], Code.INVALID_ARGUMENT, "operation 0 of the transaction is none"),
        ([], Code.INVALID_ARGUMENT, "the transaction has no operation"),
        ([put_of("a", bytes(TRANSACTION_BYTES_MAX))], Code.RESOURCE_EXHAUSTED,
         "TRANSACTION_BYTES_MAX"),
    ):  # fmt: skip
        found = await refused(api.files.PutMany(pb.TransactionRequest(operations=bad)))
        assert (found.code, text in found.text) == (code, True), found
    for kind in (b"1", None):  # regular, and one that has to be decoded
        metadata = None if kind else pb.Metadata(xattrs=[pb.Xattr(name="user.x", value=b"y")])
        many = [put_of(f"k{n}", metadata=metadata) for n in range(PUT_MANY_OPERATIONS_MAX + 1)]
        found = await refused(api.files.PutMany(pb.TransactionRequest(operations=many)))
        assert found.metadata["limit"] == "PUT_MANY_OPERATIONS_MAX"
        assert "make a Transaction of them" in found.text
    found = await refused(api.raw("/dfs.FileService/PutMany", b"\x0a\xff\xff"))
    assert found.text == "the request is not a well-formed message: TransactionRequest"
    assert api.running.store.state_hash == before
    most = [put_of(f"k{n}") for n in range(PUT_MANY_OPERATIONS_MAX)]
    assert (await api.files.PutMany(pb.TransactionRequest(operations=most))).changes == len(most)


async def test_bounds_are_named(api):
    many = [put_of(f"k{n}") for n in range(TRANSACTION_OPERATIONS_MAX + 1)]
    large = [put_of("a", bytes(TRANSACTION_BYTES_MAX))]
    for operations, name in ((many, "OPERATIONS"), (large, "BYTES")):
        call = api.files.Transaction(pb.TransactionRequest(operations=operations))
        found = await refused(call)
        assert (found.code, found.reason) == (Code.RESOURCE_EXHAUSTED, "TOO_LARGE")
        assert found.metadata["limit"] == f"TRANSACTION_{name}_MAX"
    found = await refused(api.files.Transaction(pb.TransactionRequest()))
    assert (found.code, "no operation" in found.text) == (Code.INVALID_ARGUMENT, True)
    body = b"\x0a\xff\xff"
    found = await refused(api.raw("/dfs.FileService/Transaction", body))
    assert found.text == "the request is not a well-formed message: TransactionRequest"


async def test_the_blocking_client(api):
    """What a `with` block collects is sent at its end, as one; an exception inside sends
    nothing."""
    await asyncio.to_thread(use_blocking, f"unix:{api.running.upstream.absolute()}")


def use_blocking(endpoint):
    with dfs.connect(endpoint, learn=False) as client:
        first = client.put("old", b"0")
        with client.transaction() as changes:
            changes.put("a/b", b"1", mode=0o600, base_revision=0)
            changes.mkdir("empty")
            changes.symlink("link", "a/b")
            changes.copy("a", "c", recursive=True)
            changes.move("old", "moved", base_revision=first)
            changes.delete("c", recursive=True)
            assert (changes.revision, len(changes)) == (0, 6)
            assert [item.key for item in client.list()] == ["old"]
        assert client.stat("a/b").revision == changes.revision == first + 1
        assert client.stat("a/b").mode == 0o600
        keys = [item.key for item in client.list(recursive=True)]
        assert keys == ["a", "a/b", "empty", "link", "moved"]
        with pytest.raises(ZeroDivisionError):
            leave_early(client)
        with client.transaction() as nothing:
            pass
        assert nothing.revision == 0
        with pytest.raises(dfs.Conflict, match=r"operation 1 .*put a/b") as caught:
            ask_too_much(client)
        assert caught.value.metadata["operation"] == "1"
        assert client.stat("moved").revision == changes.revision
        many = client.transaction()
        for number in range(TRANSACTION_OPERATIONS_MAX + 1):
            many.delete(str(number))
        with pytest.raises(dfs.TooLarge, match="TRANSACTION_OPERATIONS_MAX"), many:
            pass


def leave_early(client):
    with client.transaction() as changes:
        changes.put("never", b"")
        raise ZeroDivisionError


def ask_too_much(client):
    with client.transaction() as changes:
        changes.delete("moved")
        changes.put("a/b", b"", base_revision=1)


async def test_the_blocking_client_puts_files_of_any_size(api, tmp_path):
    """As bytes, from a path, a file that is read from where it stands, or one that cannot be read
    twice; small ones travel along, all others are uploaded before."""
    await asyncio.to_thread(put_files, f"unix:{api.running.upstream.absolute()}", tmp_path)


def put_files(endpoint, tmp_path):
    large, small = os.urandom(LARGE), os.urandom(5_000)
    (tmp_path / "large").write_bytes(b"skipped" + large)
    (tmp_path / "small").write_bytes(small)
    seen = []
    with dfs.connect(endpoint, learn=False) as client:
        before = client.newest()
        with (
            (tmp_path / "large").open("rb") as file, pipe(small) as little, pipe(large) as much,
            client.transaction(progress=seen.append) as changes,
        ):  # fmt: skip
            file.seek(7)
            changes.put("d/file", file, mode=0o600, base_revision=0)
            changes.put("d/bytes", large[1:])
            changes.put("d/path", tmp_path / "large", mtime_ns=7)
            changes.put("d/small", tmp_path / "small")
            changes.put("d/little", little)
            changes.put("d/much", much)
            changes.copy("d/file", "copy")
            file.seek(0)
            assert client.newest() == before
        assert changes.revision == before + 1
        for key, data in (
            ("d/file", large), ("d/bytes", large[1:]), ("d/path", b"skipped" + large),
            ("d/small", small), ("d/little", small), ("d/much", large), ("copy", large),
        ):  # fmt: skip
            assert client.read(key)[0] == data
            assert client.stat(key).revision == changes.revision
        assert (client.stat("d/file").mode, client.stat("d/path").mtime_ns) == (0o600, 7)
        assert any(step.looked_at for step in seen)
        keys = list(dict.fromkeys(step.key for step in seen if not step.looked_at))
        assert keys == ["d/much", "d/path", "d/file", "d/bytes"], "the largest go first"
        assert [s.received for s in seen] == sorted(s.received for s in seen)
        assert seen[-1].received == seen[-1].total == 4 * LARGE + 6 + 2 * len(small)
        assert any(step.held == step.voters == 1 for step in seen)


@contextmanager
def pipe(data):
    """A file that cannot be read twice."""
    reading, writing = os.pipe()

    def write():
        with os.fdopen(writing, "wb") as file:
            file.write(data)

    writer = threading.Thread(target=write)
    writer.start()
    with os.fdopen(reading, "rb") as file:
        yield file
        writer.join()


async def test_more_than_fits_into_a_message_is_uploaded(api, tmp_path):
    """Files that are small by themselves: as many as fit travel along, the largest do not."""
    endpoint = f"unix:{api.running.upstream.absolute()}"
    count = TRANSACTION_BYTES_MAX // INLINE_BYTES_MAX + 2
    for number in range(count):
        (tmp_path / str(number)).write_bytes(os.urandom(INLINE_BYTES_MAX - number))
    async with dfs.AsyncClient(endpoint, learn=False) as client:
        async with client.transaction() as changes:
            for number in range(count):
                changes.put(f"k/{number}", tmp_path / str(number))
        for number in range(count):
            data = await client.get(f"k/{number}")
            assert data == (tmp_path / str(number)).read_bytes()
        listed = [item async for item in client.list("k")]
        assert {item.stat.revision for item in listed} == {changes.revision}
    with api.running.store.view() as view:
        records = [pb.Record.FromString(view.stat(f"k/{n}")) for n in range(count)]
    assert [bool(record.chunk_bytes) for record in records] == [n < 3 for n in range(count)]


async def test_errors_of_large_transactions_name_the_key(api, tmp_path):
    endpoint = f"unix:{api.running.upstream.absolute()}"
    before = api.running.store.state_hash
    async with dfs.AsyncClient(endpoint, learn=False) as client:
        for key, source, error, words in (
            ("d/f", tmp_path / "none", FileNotFoundError, "none"),
            ("d/f", tmp_path, dfs.InvalidArgument, "d/f: .* is no regular file"),
            ("a//b", bytes(LARGE), dfs.InvalidArgument, "a//b"),
            ("d/f", Shrinking(LARGE), dfs.FailedPrecondition, "d/f: of 1,.* bytes 0 could be read"),
        ):
            with pytest.raises(error, match=words):
                await put_one(client, key, source)
        with pytest.raises(dfs.Conflict, match=r"operation 0 .*, put d/f, is refused"):
            await put_one(client, "d/f", bytes(LARGE), base_revision=7)
        for wrong in ("text", 7, None):
            with pytest.raises(TypeError, match="k: content is bytes, a Path or a file, not"):
                client.transaction().put("k", wrong)
    assert api.running.store.state_hash == before


class Shrinking(io.BytesIO):
    """A file that is emptied before it is read."""

    def __init__(self, size):
        super().__init__(bytes(size))

    def read(self, _size=-1):
        return b""


async def put_one(client, key, source, **fields):
    async with client.transaction() as changes:
        changes.put(key, source, **fields)


async def test_who_repeats_a_transaction_goes_on_with_its_uploads(api):
    """Also in another process; the answer is that of the first time."""
    endpoint = f"unix:{api.running.upstream.absolute()}"
    id_, data = os.urandom(16), os.urandom(CHUNK_BYTES_MIN + LARGE)
    async with dfs.AsyncClient(endpoint, learn=False) as client:
        with pytest.raises(dfs.FailedPrecondition, match=r"large: .* bytes are here; upload it ag"):
            await repeat(client, id_, Broken(data))
        seen = []
        first = await repeat(client, id_, data, seen.append)
        assert next(s.received for s in seen if not s.looked_at) == CHUNK_BYTES_MIN
        assert await repeat(client, id_, data) == first
        assert await client.get("large") == data
        with pytest.raises(dfs.InvalidArgument, match="used for another request"):
            await repeat(client, id_, data[1:])


async def test_an_upload_never_goes_on_with_another_content(api):
    """Who repeats a transaction with its id, and has other files by then, stores those."""
    endpoint = f"unix:{api.running.upstream.absolute()}"
    data = os.urandom(CHUNK_BYTES_MIN + LARGE)
    async with dfs.AsyncClient(endpoint, learn=False) as client:
        for other in (data[:-1] + b"!", data[1:]):
            id_ = os.urandom(16)
            with pytest.raises(dfs.FailedPrecondition, match="bytes are here"):
                await repeat(client, id_, Broken(data))
            await repeat(client, id_, other)
            assert await client.get("large") == other


async def repeat(client, id_, source, progress=None):
    async with client.transaction(request_id=id_, progress=progress) as changes:
        changes.put("large", source)
    return changes.revision


class Broken(io.BytesIO):
    """A file of which the first chunk can be read when it is sent."""

    sends = False

    def read(self, size=-1):
        data = super().read(size)
        if not self.sends:
            self.sends = self.tell() == len(self.getvalue())
            return data
        return data if self.tell() <= CHUNK_BYTES_MIN else b""


async def test_what_was_uploaded_is_held_until_the_transaction_is_sent(api, monkeypatch):
    """Where the others take long, it is asked for again; what the node has lost is sent again."""
    endpoint, contents = f"unix:{api.running.upstream.absolute()}", api.running.node.contents
    monkeypatch.setattr("dfs.client.sources.CONTENT_KEEP_S", -1)
    datas = {f"k/{n}": os.urandom(LARGE + n) for n in range(3)}

    def lose(step):
        if step.key == "k/0" and step.voters:
            for sha256 in list(contents.files.here):
                contents.files.path(sha256).unlink()
                del contents.files.here[sha256]

    async with dfs.AsyncClient(endpoint, learn=False) as client:
        async with client.transaction(progress=lose) as changes:
            for key, data in datas.items():
                changes.put(key, data)
        for key, data in datas.items():
            assert await client.get(key) == data


async def test_the_asyncio_client(api):
    endpoint = f"unix:{api.running.upstream.absolute()}"
    async with dfs.AsyncClient(endpoint, learn=False) as client:
        async with client.transaction() as changes:
            changes.put("a", b"1")
            changes.put("b", b"2")
        assert changes.revision == api.applied()
        assert [item.stat.revision async for item in client.list()] == [changes.revision] * 2
        with pytest.raises(ZeroDivisionError):
            await leave_early_too(client)
        missing = client.transaction()
        missing.delete("never")
        with pytest.raises(dfs.NotFound, match="operation 0"):
            async with missing:
                pass


async def leave_early_too(client):
    async with client.transaction() as changes:
        changes.put("never", b"")
        raise ZeroDivisionError


def test_a_transaction_is_repeated_with_its_id(client: dfs.Client, nodes: list[Node]) -> None:
    """When its answer is lost the client asks again, with the same id."""
    lost = threading.Event()

    def lose(name: str, _request: object) -> None:
        if name == "PutMany" and not lost.is_set():
            lost.set()
            raise dfs.OutcomeUnknown("lost")

    for node in nodes:
        node.lose = lose
    with client.transaction() as changes:
        changes.put("a", b"1")
    ids = [request.request_id for node in nodes for name, request in node.calls
           if name == "PutMany"]
    assert (len(ids), len(set(ids)), changes.revision) == (2, 1, 1)


@pytest.mark.parametrize(("others", "method"), [
    (0, "PutMany"), (PUT_MANY_OPERATIONS_MAX - 1, "PutMany"),
    (PUT_MANY_OPERATIONS_MAX, "Transaction"), ("symlink", "Transaction"),
])  # fmt: skip
def test_few_puts_go_as_such(
    client: dfs.Client, nodes: list[Node], others: int | str, method: str
) -> None:
    with client.transaction() as changes:
        changes.put("a", b"1")
        if others == "symlink":
            changes.symlink("b", "a")
        else:
            for number in range(int(others)):
                changes.put(f"k{number}", b"")
    assert changes.revision
    assert [name for node in nodes for name, _ in node.calls] == [method]


async def test_nodes_of_an_older_version_get_the_general_method(
    client: dfs.Client, nodes: list[Node]
) -> None:
    def fail(name: str, _request: object) -> None:
        if name == "PutMany":
            raise dfs.errors.Unimplemented("Method not found!")

    for node in nodes:
        node.fail = fail

    def blocking() -> int:
        with client.transaction() as changes:
            changes.put("a", b"1")
        return changes.revision

    assert await asyncio.to_thread(blocking) == 1
    async with dfs.AsyncClient(nodes[0].endpoint) as other:
        async with other.transaction() as changes:
            changes.put("b", b"1")
        assert changes.revision == 2
    calls = [(name, request.request_id) for node in nodes for name, request in node.calls]
    assert sorted(name for name, _ in calls) == ["PutMany"] * 2 + ["Transaction"] * 2
    assert len({request_id for _, request_id in calls}) == 2
