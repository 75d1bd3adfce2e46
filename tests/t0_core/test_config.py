"""Settings: where a value comes from, what is refused and how."""

from __future__ import annotations

import socket
from dataclasses import fields
from pathlib import Path

import pytest

from dfs import config
from dfs.cache.agent import options_of
from dfs.cli import agents
from dfs.config import Settings, load, split_address
from dfs.errors import Misconfigured
from dfs.sizes import FreeSpace, size_of, size_text


def test_defaults_are_those_of_the_seed(tmp_path: Path) -> None:
    settings = load({}, {"DFS_ID": "node1"}, tmp_path).settings
    assert settings.id == "node1"
    assert (settings.raft_listen, settings.grpc_listen) == ("0.0.0.0:12000", "0.0.0.0:13000")
    assert (settings.data, settings.state) == (Path("data"), Path("data/agent"))
    assert (settings.cache, settings.mount) == (Path("/mnt/hostfs"), Path("/mnt/dfs"))
    assert (settings.peers, settings.insecure) == ((), False)


def test_flags_beat_variables_beat_file_beat_defaults(tmp_path: Path) -> None:
    (tmp_path / "dfs.yaml").write_text("id: c\nraft: :3\ngrpc: 4\npeers: [x, y:9]\n")
    loaded = load({"id": "a"}, {"DFS_ID": "b", "DFS_RAFT": ":2"}, tmp_path)
    settings, sources = loaded
    assert (settings.id, settings.raft, settings.grpc) == ("a", ":2", ":4")
    assert settings.peers == ("x:12000", "y:9")
    assert sources["id"] == "flag -id"
    assert sources["raft"] == "variable DFS_RAFT"
    assert sources["grpc"] == str(tmp_path / "dfs.yaml")
    assert sources["data"] == "default"
    assert loaded.given("id")
    assert not loaded.given("data")


def test_the_id_is_the_host_name_by_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: "my_host-.example.org")
    assert load({}, {}, tmp_path).settings.id == "my-host"
    monkeypatch.setattr(socket, "gethostname", lambda: "…")
    assert load({}, {}, tmp_path).settings.id == "node"


@pytest.mark.parametrize(("flags", "expected"), [
    ({}, "127.0.0.1:12000"),
    ({"raft": "10.0.0.7:12001"}, "10.0.0.7:12001"),
    ({"raft": "localhost:12001"}, "127.0.0.1:12001"),
    ({"insecure": "true"}, "machine:12000"),
    ({"insecure": "true", "peers": "node1,node2", "id": "node2"}, "node2:12000"),
    ({"insecure": "true", "advertise": "::1"}, "[::1]:12000"),
])
def test_what_others_are_told(
    flags: dict[str, str], expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: "machine")
    assert load(flags, {}, tmp_path).settings.raft_advertise == expected


@pytest.mark.parametrize(("variables", "expected"), [
    ({}, "localhost:13000"), ({"DFS_GRPC": ":13001"}, "localhost:13001"),
    ({"DFS_GRPC": "10.0.0.7"}, "10.0.0.7:13000"),
    ({"DFS_GRPC": "x", "DFS_ENDPOINT": "y"}, "y"),
])
def test_the_node_of_this_machine_is_called(
    variables: dict[str, str], expected: str, tmp_path: Path
) -> None:
    assert load({}, variables, tmp_path).settings.endpoint == (expected,)


@pytest.mark.parametrize(("text", "expected"), [
    ("host", ("host", 7)), ("host:1", ("host", 1)), (":9", ("", 9)), ("[::1]:5", ("::1", 5)),
    ("::1", ("::1", 7)), ("[fe80::1]", ("fe80::1", 7)),
])
def test_addresses(text: str, expected: tuple[str, int]) -> None:
    assert split_address(text, 7) == expected
    assert split_address(config.join_address(*expected), 7) == expected


@pytest.mark.parametrize(("flags", "said"), [
    ({"raft": "host:0"}, "port '0' is not a number from 1 to 65535"),
    ({"raft": "host:99999"}, "port '99999'"),
    ({"grpc": "host:"}, "ends where a port should follow"),
    ({"grpc": "http://host:13000"}, "is not host:port"),
    ({"peers": ":12000"}, "names no host"),
    ({"id": "a/b"}, "is no id"),
    ({"id": "x" * 64}, "at most 63 characters"),
    ({"insecure": "maybe"}, "neither true nor false"),
    ({"owner": "root"}, "'root' is none of ignore, numeric"),
    ({"log_level": "loud"}, "none of debug, info, warning, error"),
    ({"timeout": "soon"}, "no duration"),
    ({"timeout": "0s"}, "no duration"),
    ({"data": ""}, "a directory is needed"),
    ({"endpoint": ","}, "names no endpoint"),
    ({"advertise": "host:1"}, "without a port"),
])
def test_bad_values_are_refused_with_their_source(
    flags: dict[str, str], said: str, tmp_path: Path
) -> None:
    with pytest.raises(Misconfigured, match=r"^\w+ \(flag -[a-z-]+\): ") as caught:
        load(flags, {}, tmp_path)
    assert said in str(caught.value)


@pytest.mark.parametrize("value", ["", "none"])
def test_cache_and_mount_can_be_switched_off(value: str, tmp_path: Path) -> None:
    assert load({"cache": value}, {"DFS_MOUNT": value}, tmp_path).settings.mount is None
    assert load({"cache": value}, {}, tmp_path).settings.cache is None


def test_an_empty_variable_says_nothing(tmp_path: Path) -> None:
    loaded = load({}, {"DFS_ID": "", "DFS_DATA": "", "DFS_PEERS": ""}, tmp_path)
    assert loaded.settings.data == Path("data")
    assert set(loaded.sources.values()) == {"default"}


def test_unknown_names_are_errors_with_a_suggestion(tmp_path: Path) -> None:
    with pytest.raises(Misconfigured, match=r"variable DFS_PEER; did you mean DFS_PEERS\?"):
        load({}, {"DFS_PEER": "x"}, tmp_path)
    (tmp_path / "dfs.yaml").write_text("log-level: info\n")
    with pytest.raises(Misconfigured, match=r"key 'log-level'; did you mean log_level\?"):
        load({}, {}, tmp_path)
    (tmp_path / "dfs.yaml").write_text("colour: red\n")
    with pytest.raises(Misconfigured, match=r"key 'colour'; there are advertise, cache"):
        load({}, {}, tmp_path)


def test_variables_that_kubernetes_injects_are_no_settings(tmp_path: Path) -> None:
    injected = {
        "DFS_SERVICE_HOST": "1", "DFS_SERVICE_PORT": "1", "DFS_SERVICE_PORT_GRPC": "1",
        "DFS_PORT": "tcp://1", "DFS_PORT_13000_TCP": "1", "DFS_PORT_13000_TCP_ADDR": "1",
        "DFS_NODES_SERVICE_HOST": "1", "DFS_NODES_PORT_13000_TCP_PROTO": "1",
    }
    assert set(load({}, injected, tmp_path).sources.values()) == {"default"}


@pytest.mark.parametrize(("content", "said"), [
    (b"id: [", "line 1, column 6"), (b"- id\n", "no list of `key: value` lines"),
    (b"\xff\xfe", "not UTF-8"), (b"id: a\n\tb: c\n", "line 2"), (b"{1: 2}", "unknown key 1"),
])
def test_a_broken_file_is_one_sentence(content: bytes, said: str, tmp_path: Path) -> None:
    (tmp_path / "dfs.yaml").write_bytes(content)
    with pytest.raises(Misconfigured) as caught:
        load({}, {}, tmp_path)
    assert said in str(caught.value)
    assert str(tmp_path / "dfs.yaml") in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_a_directory_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "dfs.yaml").mkdir()
    with pytest.raises(Misconfigured, match="cannot be read: Is a directory"):
        load({}, {}, tmp_path)


def test_another_file_must_exist_when_it_is_named(tmp_path: Path) -> None:
    with pytest.raises(Misconfigured, match="which does not exist"):
        load({}, {"DFS_CONFIG": "other.yaml"}, tmp_path)
    (tmp_path / "other.yaml").write_text("id: other\n")
    assert load({}, {"DFS_CONFIG": "other.yaml"}, tmp_path).settings.id == "other"


def test_empty_file_and_empty_values_say_nothing(tmp_path: Path) -> None:
    (tmp_path / "dfs.yaml").write_text("# nothing\n")
    assert load({}, {}, tmp_path).settings.raft == ":12000"
    (tmp_path / "dfs.yaml").write_text("peers:\nmount:\n")
    settings = load({}, {}, tmp_path).settings
    assert (settings.peers, settings.mount) == ((), None)


@pytest.mark.parametrize(
    ("text", "seconds"), [("10", 10), ("500ms", 0.5), ("1m", 60), ("2.5s", 2.5)]
)
def test_durations(text: str, seconds: float, tmp_path: Path) -> None:
    assert load({"timeout": text}, {}, tmp_path).settings.timeout == seconds


def test_every_setting_has_its_row() -> None:
    rows = config.rows()
    assert [row.name for row in rows] == [f.name for f in fields(Settings)]
    for row in rows:
        assert row.flag == "-" + row.name.replace("_", "-")
        assert row.variable == "DFS_" + row.name.upper()
        assert row.doc.endswith(".")
        assert row.used_by


@pytest.mark.parametrize(("text", "expected"), [
    ("none", 0), ("0", 0), ("4096", 4_096), ("10K", 10_240), ("1.5GiB", 3 << 29), ("2 TB", 1 << 41),
])
def test_sizes(text: str, expected: int) -> None:
    assert size_of(text) == expected
    assert size_of(size_text(expected)) == expected


@pytest.mark.parametrize(("text", "on_100_gib", "shown"), [
    ("none", 0, "none"), ("2GiB", 2 << 30, "2GiB"), ("5%", 5 << 30, "5%"),
    ("1GiB,5%", 1 << 30, "1GiB,5%"), ("9GiB, 5%", 5 << 30, "9GiB,5%"), ("1000001", 1_000_001, None),
])
def test_what_stays_free_on_a_disk(text: str, on_100_gib: int, shown: str | None) -> None:
    free = FreeSpace.of(text)
    assert free.least(100 << 30) == on_100_gib
    assert bool(free) is (on_100_gib > 0)
    assert str(free) == (shown or text)
    assert FreeSpace.of(str(free)) == free


@pytest.mark.parametrize("text", ["much", "-1", "1X", "100%", "x%", "1,,"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"size|share"):
        FreeSpace.of(text)


def test_a_node_hands_its_settings_to_its_agent(tmp_path: Path) -> None:
    given = {"cache": "none", "mount": "none", "cache_size": "10GiB", "cache_free": "3%"}
    plan = agents.plan(load(given, {}, tmp_path))
    words = plan.argv(["unix:x"])
    options = options_of(words[words.index(agents.MODULE) + 1 :])
    assert options.cache_bytes_max == 10 << 30
    assert options.cache_free.least(1_000) == 30
    assert not options.propagate_deletes
    given |= {"propagate_deletes": "true", "delete_delay": "1m"}
    words = agents.plan(load(given, {}, tmp_path)).argv(["unix:x"])
    options = options_of(words[words.index(agents.MODULE) + 1 :])
    assert (options.propagate_deletes, options.delete_delay_s) == (True, 60.0)
