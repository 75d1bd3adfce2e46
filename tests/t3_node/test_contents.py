"""Chunks of contents between two engines, real ones and those in memory: the same in the same case.

What only a real network and disk do is tested with the engine itself."""

from __future__ import annotations

import hashlib
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from dfs import engine_memory, status
from dfs.engine_memory import MemoryEngine, MemoryNetwork

DATA = bytes(range(256)) * 40
NAME = hashlib.sha256(DATA).digest()
CHUNK_BYTES = 1_000
WANTED = [
    (n, hashlib.sha256(DATA[n * CHUNK_BYTES :][:CHUNK_BYTES]).digest()) for n in range(11)
]
CLUSTER = bytes(range(16))


class Engines:
    """Makes engines of one kind, and starts them."""

    def __init__(self, root: Path, make: Callable[..., Any], error: type[Exception]) -> None:
        self.root, self.make, self.error = root, make, error
        self.stack = ExitStack()

    def start(self, name: str, cluster: bytes = CLUSTER, contents: bool = True) -> Any:
        """An engine and its address."""
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            addr = f"127.0.0.1:{probe.getsockname()[1]}"
        engine = self.make(
            data_dir=str(self.root / name), name=name, node_id=len(name) + 1, cluster=cluster,
            raft_addr=addr, raft_advertise=addr, grpc_addr="", grpc_advertise="", local="",
            upstream="", routes={}, failures=status.engine_failures(), options={},
            contents=str(self.root / name / "contents") if contents else "",
        )
        self.stack.callback(engine.close)
        engine.start(b"", b"")
        return engine, addr

    def file(self, name: str) -> Path:
        """Where an engine has the content."""
        path = self.root / name / "contents" / NAME.hex()[:2] / NAME.hex()
        path.parent.mkdir(parents=True, exist_ok=True)
        return path


@pytest.fixture(params=["memory", "real"])
def engines(request, tmp_path: Path) -> Iterator[Engines]:
    if request.param == "real":
        built = request.getfixturevalue("built")
        made = Engines(tmp_path, built.engine, built.engine_error)
    else:
        network = MemoryNetwork()
        made = Engines(
            tmp_path, lambda **a: MemoryEngine(**a, network=network), engine_memory.EngineError
        )
    with made.stack:
        yield made


@pytest.fixture
def target(tmp_path: Path) -> Path:
    (tmp_path / "target").touch()
    return tmp_path / "target"


def fetch(
    engine: Any, addr: str, target: Path, wanted: list = WANTED, unfinished: bool = False
) -> list[int]:
    asked = NAME, len(DATA), CHUNK_BYTES, wanted, str(target), 2_000, unfinished
    found = engine.fetch_chunks(addr, *asked)
    assert isinstance(found, list)
    return found


def test_what_is_there_and_right_is_fetched(engines: Engines, target: Path) -> None:
    giver, addr = engines.start("giver")
    asker, _ = engines.start("asker")
    engines.file("giver").write_bytes(DATA[:5_000] + b"!" + DATA[5_001:])
    assert fetch(asker, addr, target, []) == []
    assert fetch(asker, addr, target, [WANTED[10], WANTED[2]]) == [10, 2]
    assert target.read_bytes()[:2_000] == bytes(2_000)
    assert fetch(asker, addr, target) == [0, 1, 2, 3, 4, 6, 7, 8, 9, 10]
    engines.file("giver").write_bytes(DATA)
    assert fetch(asker, addr, target, [WANTED[5]]) == [5]
    assert target.read_bytes() == DATA
    giver.close()
    with pytest.raises(ConnectionError, match=f"^{addr}: connection refused$"):
        fetch(asker, addr, target)


def test_refusals_are_the_same(engines: Engines, target: Path) -> None:
    _, addr = engines.start("giver")
    _, without = engines.start("without", contents=False)
    asker, here = engines.start("asker")
    stranger, _ = engines.start("stranger", cluster=bytes(16))
    fresh, _ = engines.start("fresh", cluster=b"")

    def refused(engine: Any, at: str, text: str) -> None:
        with pytest.raises(engines.error, match=f"^{at}: {text}"):
            fetch(engine, at, target)

    refused(asker, addr, f"giver has no content {NAME.hex()}$")
    refused(asker, without, "without keeps no contents$")
    engines.file("giver").write_bytes(DATA + b"!")
    refused(asker, addr, f"giver has 10241 bytes as content {NAME.hex()}, which has 10240$")
    refused(stranger, addr, "giver belongs to cluster .*, the caller to ")
    refused(fresh, addr, "fresh belongs to no cluster yet$")
    engines.file("asker").write_bytes(DATA)
    assert len(fetch(asker, here, target)) == 11, "also from itself"


@pytest.mark.parametrize("where", ["uploads", "arriving"])
def test_what_is_still_filled_is_given_to_who_asks_for_that(
    engines: Engines, target: Path, where: str
) -> None:
    """Nobody else gets it; holes are not given, as nothing is there yet."""
    _, addr = engines.start("giver")
    asker, _ = engines.start("asker")
    whole = engines.file("giver")
    filling = whole.parent.parent / where / whole.name
    filling.parent.mkdir()
    filling.write_bytes(DATA[:5_000])
    os.truncate(filling, len(DATA))
    with pytest.raises(engines.error, match=f"giver has no content {NAME.hex()}$"):
        fetch(asker, addr, target)
    assert fetch(asker, addr, target, unfinished=True) == [0, 1, 2, 3, 4]
    assert target.read_bytes()[:5_000] == DATA[:5_000]
    whole.write_bytes(DATA)
    assert len(fetch(asker, addr, target, unfinished=True)) == 11


def test_what_is_wrong_here_is_raised(engines: Engines, tmp_path: Path) -> None:
    _, addr = engines.start("giver")
    asker, _ = engines.start("asker")
    engines.file("giver").write_bytes(DATA)
    with pytest.raises(FileNotFoundError, match="absent"):
        fetch(asker, addr, tmp_path / "absent")
    with pytest.raises(OSError, match="No space left on device"):
        fetch(asker, addr, Path("/dev/full"))
    for wanted in ([(11, bytes(32))], [(0, bytes(31))], WANTED * 2_000):
        with pytest.raises(ValueError, match="1"):
            fetch(asker, addr, tmp_path, wanted)


def test_an_engine_that_is_cut_off_fetches_nothing(tmp_path: Path, target: Path) -> None:
    network = MemoryNetwork()
    engines = Engines(
        tmp_path, lambda **a: MemoryEngine(**a, network=network), engine_memory.EngineError
    )
    with engines.stack:
        _, addr = engines.start("giver")
        asker, here = engines.start("asker")
        engines.file("giver").write_bytes(DATA)
        for silent in (addr, here):
            network.cut(silent)
            with pytest.raises(TimeoutError, match=f"^{addr}: no connection in time"):
                fetch(asker, addr, target)
            network.cut(silent, False)
        assert len(fetch(asker, addr, target)) == 11
