"""Transactions through the API and the clients: all as one, or nothing."""

from __future__ import annotations

import asyncio
import os
import threading

import grpc
import pytest

import dfs
from dfs.limits import TRANSACTION_BYTES_MAX, TRANSACTION_OPERATIONS_MAX
from dfs.proto import dfs_pb2 as pb

from .conftest import refused
from .fake_node import Node

Code = grpc.StatusCode


def put_of(key, data=b"", **fields):
    return pb.Operation(put=pb.PutRequest(key=key, data=data, **fields))


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
        large = client.transaction()
        large.put("a", bytes(TRANSACTION_BYTES_MAX))
        with pytest.raises(dfs.TooLarge, match="TRANSACTION_BYTES_MAX"), large:
            pass


def leave_early(client):
    with client.transaction() as changes:
        changes.put("never", b"")
        raise ZeroDivisionError


def ask_too_much(client):
    with client.transaction() as changes:
        changes.delete("moved")
        changes.put("a/b", b"", base_revision=1)


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
        if name == "Transaction" and not lost.is_set():
            lost.set()
            raise dfs.OutcomeUnknown("lost")

    for node in nodes:
        node.lose = lose
    with client.transaction() as changes:
        changes.put("a", b"1")
    ids = [request.request_id for node in nodes for name, request in node.calls
           if name == "Transaction"]
    assert (len(ids), len(set(ids)), changes.revision) == (2, 1, 1)
