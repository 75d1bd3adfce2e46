"""The blocking client against nodes that fail in every way."""

from __future__ import annotations

import os
import pickle
import threading
from typing import Any

import pytest

import dfs
from dfs import errors
from dfs.nemesis.ports import free_port

from .fake_node import Node, Tree, failing, never, wait_until


def dead_endpoint() -> str:
    """An address at which nobody listens."""
    return f"127.0.0.1:{free_port()}"


def test_what_is_put_can_be_read(client: dfs.Client) -> None:
    first = client.put("a", b"1")
    second = client.put("a", bytearray(b"2"))
    assert second > first
    assert client.get("a") == b"2"
    data, stat = client.read("a")
    assert (data, stat.revision, stat.size, stat.kind) == (b"2", second, 1, dfs.Kind.FILE)
    assert stat.is_file
    assert client.stat("a") == stat
    assert [(i.key, i.data) for i in client.list(data_bytes_max=9)] == [("a", b"2")]


def test_errors_are_our_classes_and_those_of_python(client: dfs.Client) -> None:
    with pytest.raises(dfs.NotFound, match="no such key: missing"):
        client.get("missing")
    with pytest.raises(FileNotFoundError):
        client.stat("missing")
    client.put("a", b"")
    with pytest.raises(dfs.Conflict):
        client.put("a", b"", base_revision=0)


@pytest.mark.parametrize("kind", errors.ALL)
def test_every_error_class_comes_back_as_itself(
    kind: type[dfs.DfsError], client: dfs.Client, nodes: list[Node]
) -> None:
    """An error that a node raises arrives in the client as the same class, with the same sentence
    and particulars."""
    for node in nodes:
        node.fail = failing("Stat", kind("because", limit="7"), times=99)
    with pytest.raises(dfs.DfsError) as caught:
        client.stat("a", timeout=0.3)
    if kind.row.retry or kind is dfs.OutcomeUnknown:
        assert isinstance(caught.value, kind | dfs.DeadlineExceeded)
    else:
        assert type(caught.value) is kind
        assert (caught.value.text, caught.value.metadata["limit"]) == ("because", "7")


def test_a_key_that_is_no_unicode_is_refused_here(client: dfs.Client) -> None:
    with pytest.raises(dfs.InvalidArgument, match="keys are UTF-8"):
        client.get("\udc80")
    with pytest.raises(dfs.InvalidArgument, match="not 16"):
        client.put("a", b"", request_id=b"short")
    with pytest.raises(TypeError, match="data must be bytes, not str"):
        client.put("a", "text")  # type: ignore[arg-type]


def test_a_write_is_repeated_and_applied_once(
    client: dfs.Client, nodes: list[Node], tree: Tree
) -> None:
    nodes[0].lose = failing("Put", dfs.OutcomeUnknown("lost"))
    nodes[1].fail = failing("Put", dfs.Overloaded("busy"))
    revision = client.put("a", b"1")
    assert nodes[0].count("Put") + nodes[1].count("Put") == 3
    assert (tree.revision, revision) == (1, 1)
    ids = {request.request_id for node in nodes for _, request in node.calls}
    assert len(ids) == 1


def test_a_write_that_may_have_happened_is_said_to_be_unknown(
    client: dfs.Client, nodes: list[Node]
) -> None:
    """When the answer to a write is lost and repeating does not help, the error says that the
    outcome is unknown and carries the request id, with which the write can be repeated later."""
    nodes[1].fail = failing("Put", dfs.Unavailable("no leader"), times=999)
    nodes[0].lose = failing("Put", dfs.OutcomeUnknown("lost"), times=999)
    with pytest.raises(dfs.OutcomeUnknown) as caught:
        client.put("a", b"1", timeout=0.5)
    used = nodes[0].calls[0][1].request_id
    assert caught.value.metadata["request_id"] == used.hex()
    nodes[0].lose = never
    assert client.put("a", b"1", request_id=used) == 1


def test_nothing_was_done_is_only_said_when_it_is_true(
    client: dfs.Client, nodes: list[Node]
) -> None:
    nodes[0].lose = failing("Put", dfs.OutcomeUnknown("lost"))
    for node in nodes:
        node.fail = failing("Put", dfs.Unavailable("no leader"), times=999)
    with pytest.raises(dfs.Unavailable, match="no leader"):
        client.put("a", b"1", timeout=0.4)


def test_what_is_not_safe_to_repeat_is_not_repeated(
    client: dfs.Client, nodes: list[Node]
) -> None:
    nodes[0].lose = failing("TransferLeader", dfs.OutcomeUnknown("lost"))
    with pytest.raises(dfs.OutcomeUnknown):
        client.transfer_leader("node2")
    assert nodes[0].count("TransferLeader") + nodes[1].count("TransferLeader") == 1
    nodes[0].fail = failing("TransferLeader", dfs.Unavailable("no leader"))
    nodes[1].fail = failing("TransferLeader", dfs.Unavailable("no leader"))
    assert client.transfer_leader("node2") == "node2"


def test_a_dead_node_is_replaced_by_another(nodes: list[Node]) -> None:
    with dfs.connect(dead_endpoint(), nodes[1].endpoint, learn=False) as client:
        client.put("a", b"1")
        assert client.get("a") == b"1"
    assert nodes[1].count("Put") == 1


def test_a_definite_answer_does_not_change_the_node(
    client: dfs.Client, nodes: list[Node]
) -> None:
    for _ in range(3):
        with pytest.raises(dfs.NotFound):
            client.get("missing")
    assert nodes[1].calls == []


def test_no_node_at_all_is_said_soon_and_in_one_sentence() -> None:
    endpoint = dead_endpoint()
    with (
        dfs.connect(endpoint) as client,
        pytest.raises(dfs.Unavailable, match=f"no node answers at {endpoint}: connection refused"),
    ):
        client.get("a", timeout=60.0)


def test_a_restarted_node_is_waited_for(tree: Tree) -> None:
    node = Node(tree)
    with dfs.connect(node.endpoint, timeout=10.0) as client:
        client.put("a", b"1")
        node.stop()
        result: list[bytes] = []
        thread = threading.Thread(target=lambda: result.append(client.get("a")))
        thread.start()
        again = Node(tree, node.port)
        thread.join()
        assert result == [b"1"]
        again.stop()


def test_a_call_ends_at_its_timeout(client: dfs.Client, nodes: list[Node]) -> None:
    released = threading.Event()
    for node in nodes:
        node.fail = lambda *_: released.wait(20)
    with pytest.raises(dfs.DeadlineExceeded, match="may still happen"):
        client.put("a", b"1", timeout=0.3)
    released.set()


def test_the_members_are_learned(nodes: list[Node], tree: Tree) -> None:
    first, second = nodes
    first.members = [first.endpoint, second.endpoint]
    with dfs.connect(first.endpoint) as client:
        client.put("a", b"1")
        assert first.count("Members") == 0
        client.put("a", b"2")
        wait_until("learned", lambda: second.endpoint in client.endpoints)
        first.stop()
        assert client.get("a") == b"2"
    assert second.count("Get") == 1


def test_local_reads_show_what_this_client_has_seen(
    client: dfs.Client, nodes: list[Node]
) -> None:
    client.put("a", b"1")
    revision = client.put("a", b"2")
    client.get("a", local=True)
    client.get("a")
    client.get("a", local=True, min_revision=0)
    asked = [(r.consistency, r.min_revision) for name, r in nodes[0].calls if name == "Get"]
    assert asked == [(1, revision), (0, 0), (1, 0)]


def test_many_threads_share_a_client(client: dfs.Client, tree: Tree) -> None:
    def work(n: int) -> None:
        for i in range(20):
            client.put(f"{n}/{i}", b"x")

    threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert tree.revision == 160


def test_a_list_that_is_cut_off_says_so(
    client: dfs.Client, nodes: list[Node], tree: Tree
) -> None:
    for key in "abc":
        client.put(key, b"")
    nodes[0].fail = failing("List", dfs.Unavailable("starting"))
    assert [i.key for i in client.list()] == ["a", "b", "c"]
    for node in nodes:
        node.fail = failing("List part", dfs.Unavailable("stopping"))
    with pytest.raises(dfs.Unavailable, match="lost the node after 1 parts"):
        list(client.list())


def test_pickled_and_closed_clients(client: dfs.Client, nodes: list[Node]) -> None:
    client.put("a", b"1")
    with pickle.loads(pickle.dumps(client)) as copy:
        assert copy.get("a") == b"1"
        assert repr(copy) == repr(client)
    with pytest.raises(ValueError, match="closed"):
        copy.get("a")


def test_a_client_of_another_process_is_refused(
    client: dfs.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    client.put("a", b"1")
    with monkeypatch.context() as patch:
        patch.setattr(os, "getpid", lambda: 1)
        with pytest.raises(RuntimeError, match="connect anew after a fork"):
            client.get("a")


def test_both_clients_have_the_same_names_and_parameters() -> None:
    import inspect

    def public(kind: Any) -> dict[str, list[str]]:
        return {
            name: list(inspect.signature(member).parameters)
            for name, member in vars(kind).items()
            if not name.startswith("_") and inspect.isfunction(member)
        }

    asyncio_only = {"watch_encoded"}  # For the agent.
    assert public(dfs.Client) == {
        name: parameters for name, parameters in public(dfs.AsyncClient).items()
        if name not in asyncio_only
    }
    assert all(getattr(dfs.Client, name).__doc__ for name in public(dfs.Client))
