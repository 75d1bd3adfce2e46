"""Watches of the blocking client: each change once, in order, whatever happens to the nodes."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Iterator

import pytest

import dfs
from dfs.client import watch as watch_module

from .fake_node import Node, Tree, failing, never, wait_until


def revisions(watch: Iterator[dfs.Update], last: int) -> list[int]:
    """The revisions of all events up to `last`."""
    found: list[int] = []
    for update in watch:
        found += [event.revision for event in update.events]
        if found and found[-1] >= last:
            break
    return found


def test_every_change_once_and_in_order_although_streams_break(
    client: dfs.Client, nodes: list[Node]
) -> None:
    for i in range(5):
        client.put(f"k{i}", b"")
    for node in nodes:
        node.fail = failing("Watch part", dfs.Unavailable("stopping"), times=4)
    lost: list[dfs.DfsError] = []
    with client.watch(after_revision=1, on_lost=lost.append) as watch:
        assert revisions(watch, 5) == [2, 3, 4, 5]
        for i in range(5):
            client.put(f"l{i}", b"")
            assert revisions(watch, 6 + i) == [6 + i]
    assert lost
    assert all(isinstance(error, dfs.Unavailable) for error in lost)


def test_a_watch_goes_on_at_another_node(
    client: dfs.Client, nodes: list[Node]
) -> None:
    """A client's watch goes on at another node when its node is lost, where it was."""
    client.put("a", b"")
    with client.watch(after_revision=0) as watch:
        assert next(watch).revision == 1
        nodes[0].stop()
        client.put("a", b"")
        assert revisions(watch, 2) == [2]
    assert nodes[1].count("Watch") == 1


def test_a_snapshot_that_breaks_is_begun_anew(client: dfs.Client, nodes: list[Node]) -> None:
    for key in "abc":
        client.put(key, b"")
    nodes[0].fail = failing("Watch part", dfs.Unavailable("stopping"))
    seen: list[str] = []
    for update in client.watch(snapshot=True):
        if update.snapshot_begin:
            seen = []
        seen += [item.key for item in update.items]
        if update.snapshot_end:
            assert update.revision == 3
            break
        assert update.revision == 0
    assert seen == ["a", "b", "c"]
    assert nodes[1].count("Watch") == 1


def test_content_of_later_revisions_is_asked_for_with_the_snapshot_alone(
    client: dfs.Client, nodes: list[Node]
) -> None:
    client.put("a", b"")
    nodes[0].fail = failing("Watch part", dfs.Unavailable("stopping"))
    with client.watch(snapshot=True, data_bytes_max=9, data_after_revision=7) as watch:
        while not next(watch).snapshot_end:
            pass
        nodes[1].stop()
        client.put("a", b"")
        assert revisions(watch, 2) == [2]
    asked = [r for node in nodes for name, r in node.calls if name == "Watch"]
    assert [(r.snapshot, r.data_bytes_max, r.data_after_revision) for r in asked if r.snapshot] == [
        (True, 9, 7), (True, 9, 7)
    ]
    assert {r.data_after_revision for r in asked if not r.snapshot} == {0}
    with pytest.raises(dfs.InvalidArgument, match="data_after_revision is -1"):
        client.watch(snapshot=True, data_bytes_max=9, data_after_revision=-1)


def test_a_gap_is_raised(client: dfs.Client, tree: Tree) -> None:
    for _ in range(5):
        client.put("a", b"")
    tree.floor = 3
    with client.watch(after_revision=1) as watch, pytest.raises(
        dfs.OutOfRange, match="history begins at 3"
    ):
        next(watch)


def test_a_silent_node_is_left(
    client: dfs.Client, nodes: list[Node], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch_module, "WATCH_SILENCE_S", 0.5)
    client.put("a", b"")
    nodes[0].silent = True
    lost: list[dfs.DfsError] = []
    with client.watch(after_revision=0, on_lost=lost.append) as watch:
        assert next(watch).revision == 1
    assert [str(error) for error in lost] == [f"nothing heard from {nodes[0].endpoint} for 0 s"]


def test_a_slow_reader_is_no_silent_node(
    client: dfs.Client, nodes: list[Node], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch_module, "WATCH_SILENCE_S", 0.05)
    monkeypatch.setattr(nodes[0], "fail", never)
    client.put("a", b"")
    with client.watch(after_revision=0) as watch:
        next(watch)
        parts = nodes[0].count("Watch part")
        wait_until("progress", lambda: nodes[0].count("Watch part") > parts + 1)
        next(watch)
    assert nodes[0].count("Watch") == 1


def test_close_ends_a_waiting_watch(client: dfs.Client, nodes: list[Node]) -> None:
    nodes[0].silent = True
    watch = client.watch()
    thread = threading.Thread(target=lambda: list(watch))
    thread.start()
    wait_until("the watch waits", lambda: nodes[0].count("Watch") == 1)
    watch.close()
    thread.join(5)
    assert not thread.is_alive()
    assert list(watch) == []


def test_a_forgotten_watch_ends(client: dfs.Client) -> None:
    client.put("a", b"")
    watch = client.watch(after_revision=0)
    next(watch)
    stream, alive = watch._stream, weakref.ref(watch)
    del watch
    gc.collect()
    assert alive() is None
    wait_until("its stream has ended", stream.done)


def test_a_watch_of_nobody_says_so_soon() -> None:
    with dfs.connect("127.0.0.1:1") as client, pytest.raises(dfs.Unavailable, match="refused"):
        next(client.watch())
