"""The engines behind a node: the real one as its contract says, its twin with the same verbs."""

import inspect

import pytest

from dfs import limits, status
from dfs.engine_memory import MemoryEngine, MemoryNetwork
from dfs.engine_memory import engine as twin
from dfs.node import ports
from dfs.serve import ENGINE_OPTIONS
from dfs.server import METHODS, routes

from .conftest import state, wait_until

VERBS = {
    name for name, value in vars(ports.Engine).items()
    if inspect.isfunction(value) and not name.startswith("_")
}


def test_the_twin_has_the_verbs_and_parameters_of_the_port():
    for verb in VERBS:
        wanted = list(inspect.signature(getattr(ports.Engine, verb)).parameters)
        assert list(inspect.signature(getattr(MemoryEngine, verb)).parameters) == wanted, verb


def test_the_real_engine_has_the_verbs_of_the_port(built):
    assert {verb for verb in VERBS if not hasattr(built.engine, verb)} == set()


def test_kinds_of_work_are_numbered_alike(built):
    from dfs import _engine

    for name in ("WORK_ASK", "WORK_SNAPSHOT", "WORK_INSTALL"):
        numbers = {getattr(module, name) for module in (_engine, ports, twin)}
        assert len(numbers) == 1, name


def test_options_are_known_to_the_engine_and_its_defaults_are_the_limits(built):
    from dfs import _engine

    for name in ENGINE_OPTIONS:
        assert _engine.OPTIONS[name] == getattr(limits, name.upper()), name


def test_every_failure_of_the_engine_has_a_row():
    table = status.engine_failures()
    assert set(table) == {
        "no_leader", "outcome_unknown", "overloaded", "deadline", "too_large",
        "metadata_too_large", "shutting_down", "malformed", "unimplemented", "not_loopback",
        "needs_tls",
    }
    for code, text, details in table.values():
        found = status.error(code, text, details)
        assert found.row.code == code
        assert found.text == text
        assert status.failure(found) == (code, text, details)
    assert "DFS_INSECURE=true" in table["not_loopback"][1]


def test_numbers_of_the_hot_methods_are_fixed():
    assert [m[:3] for m in METHODS] == [
        ("Put", 1, False), ("Get", 2, True), ("Stat", 3, True), ("Delete", 4, False),
        ("MakeDir", 5, False), ("Symlink", 6, False), ("List", 7, True), ("Watch", 8, False),
        ("History", 9, True), ("PutMany", 11, False), ("Move", 20, False), ("Copy", 21, False),
        ("Transaction", 22, False),
    ]
    assert [m.name for m in METHODS if m.large] == ["Move", "Copy", "Transaction"]
    assert "/dfs.FileService/Move" not in routes(), "they wait at the other host"
    assert [m.name for m in METHODS if m.streams] == ["List", "Watch", "History"]
    assert routes()["/dfs.FileService/Get"] == (2, True, False)
    assert routes()["/dfs.FileService/Watch"] == (8, False, True)


@pytest.mark.parametrize("details", [b"", b"\xff\xff", b"\x08\x05"])
def test_a_refusal_without_readable_details_is_known_by_its_code(details):
    found = status.error(5, "gone", details)
    assert (type(found).__name__, found.text) == ("NotFound", "gone")
    assert type(status.error(14, "x")).__name__ == "Unavailable"
    assert type(status.error(8, "x")).__name__ == "Overloaded"
    assert type(status.error(77, "x")).__name__ == "DfsError"


async def test_a_new_member_gets_a_snapshot_from_a_real_engine(real_cluster, monkeypatch):
    monkeypatch.setattr(limits, "LOG_KEEP_BYTES", 0)
    one = await real_cluster.start("node1")
    for n in range(300):
        await one.put(f"k{n}", b"%d" % n * 1_000)
    await one.node._cluster.blocking(one.engine.snapshot, 10_000)
    one.node._flusher.flush()
    last = await one.put("after")
    await wait_until(lambda: one.engine.status()["purged"])
    two = await real_cluster.start("node2", "node1")
    assert await two.get("k7", local=True, min_revision=last) == b"7" * 1_000
    await wait_until(lambda: state(two) == state(one))
    assert two.engine.status()["snapshots_installed"] == 1


def test_networks_are_separate():
    assert MemoryNetwork().engines == {}
