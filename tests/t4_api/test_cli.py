"""The command line against a real node whose engine is in memory."""

from __future__ import annotations

import base64
import io
import subprocess
import sys
import threading
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

import dfs
from dfs import Client, FailedPrecondition
from dfs.cli import output
from dfs.cli.cluster import mounted, show_plan
from dfs.cli.shared import troubles
from dfs.proto import dfs_pb2 as pb

from .cli_rig import Cli, Ran, Served


# ---- put, get, cat -------------------------------------------------------------------------------
def test_put_and_get(node: Served, cli: Cli, tmp_path: Path) -> None:
    assert cli("put", "a", "-t", "hello").out.strip().isdigit()
    assert cli("get", "a") == Ran(0, "hello", "")
    assert cli("put", "b", stdin=b"from standard input").code == 0
    assert cli("cat", "a", "b").out == "hellofrom standard input"
    (tmp_path / "file").write_bytes(b"\x00\xff")
    (tmp_path / "file").chmod(0o750)
    assert cli("put", "c", tmp_path / "file", "-p").code == 0
    assert cli("get", "c", tmp_path / "copy").out == ""
    assert (tmp_path / "copy").read_bytes() == b"\x00\xff"
    assert (tmp_path / "copy").stat().st_mode & 0o777 == 0o750
    answer = cli("get", "c", "-o", "json").json
    assert base64.b64decode(answer["data"]) == b"\x00\xff"
    assert answer["mtime_ns"] == (tmp_path / "file").stat().st_mtime_ns


def test_past_revisions(node: Served, cli: Cli) -> None:
    first = cli("put", "a", "-t", "one", "-o", "json").json["revision"]
    cli("put", "a", "-t", "two")
    assert cli("cat", f"a@{first}", "a").out == "onetwo"
    assert cli("cat", "--revision", first, "a").out == "one"
    assert cli("get", "a", "-revision", first).out == "one"
    cli("put", f"a@{first}", "-t", "a name with @")
    assert cli("cat", f"a@{first}", "--revision", 0).out == "a name with @"


def test_directories_as_they_were(node: Served, cli: Cli) -> None:
    """`dfs ls`, `stat`, `get` and `cat` take a past revision or a time: an ISO 8601 date, or date
    and time with `Z` or an offset."""
    cli("put", "d/gone", "-t", "12345")
    cli("put", "d/a", "-t", "one")
    record = cli("stat", "d/a", "-o", "json").json
    cli("rm", "d/gone")
    cli("put", "d/a", "-t", "two")
    at = datetime.fromtimestamp(record["time_ns"] // 10**9, UTC)
    time = f"{at:%Y-%m-%dT%H:%M:%S}.{record['time_ns'] % 10**9:09}Z"
    for then in (record["revision"], time):
        assert cli("ls", "d", "--revision", then).out.split() == ["d/a", "d/gone"]
        assert cli("ls", "d", "--local", "--revision", then, "-o", "json").lines[1]["size"] == 5
        assert cli("cat", "d/a", "--revision", then).out == "one"
        assert cli("get", "d/gone", "--revision", then).out == "12345"
        assert cli("stat", "d/a", "--revision", then, "-o", "json").json["revision"] == (
            record["revision"]
        )
        below_a_mount = cli("stat", f".dfs/at/{then}/d/a", "-o", "json").json
        assert (below_a_mount["key"], below_a_mount["size"]) == ("d/a", 3)
    assert cli("ls", "d").out.split() == ["d/a"]
    early = cli("ls", "--revision", "2001-01-01")
    assert (early.code, "nothing was stored yet" in early.err) == (4, True)
    wrong = cli("ls", "--revision", "yesterday")
    assert wrong.code == 2
    assert "is no time such as 2026-11-25" in wrong.err


def test_a_file_is_written_whole_or_not_at_all(node: Served, cli: Cli, tmp_path: Path) -> None:
    cli("put", "a", "-t", "new")
    (tmp_path / "there").write_text("old")
    assert cli("get", "missing", tmp_path / "there").code == 3
    assert (tmp_path / "there").read_text() == "old"
    failed = cli("get", "a", tmp_path / "no" / "such" / "directory")
    assert (failed.code, "cannot be written: No such file" in failed.err) == (2, True)
    cli("get", "a", tmp_path / "there")
    assert (tmp_path / "there").read_text() == "new"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["data", "there"]


def test_compare_and_set(node: Served, cli: Cli) -> None:
    assert cli("put", "a", "-t", "x", "--base-revision", 0).code == 0
    failed = cli("put", "a", "-t", "y", "--base-revision", 0)
    assert failed.code == 4
    assert "Try: dfs stat KEY" in failed.err


# ---- ls, stat, rm, mkdir, ln ---------------------------------------------------------------------
def test_directories(node: Served, cli: Cli) -> None:
    cli("put", "d/a", "-t", "12345")
    cli("mkdir", "d/empty", "e", "--mode", "700")
    cli("ln", "../a", "d/link")
    assert cli("ls").out.split() == ["d/", "e/"]
    assert cli("ls", "d").out.split() == ["d/a", "d/empty/", "d/link"]
    assert cli("ls", "-r").out.split() == ["d/", "d/a", "d/empty/", "d/link", "e/"]
    long = cli("ls", "d/", "-l").out.splitlines()
    assert long[0].split() == ["MODE", "SIZE", "CHANGED", "REVISION", "WRITER", "KEY"]
    assert long[1].startswith("-rw-r--r--     5  ")
    assert long[1].endswith("  node1   d/a")
    assert long[3].endswith("d/link -> ../a")
    assert [(i["key"], i["kind"]) for i in cli("ls", "-o", "json").lines] == [
        ("d", "directory"), ("e", "directory"),
    ]


def test_stat(node: Served, cli: Cli) -> None:
    revision = cli("put", "a", "-t", "12345", "-o", "json").json["revision"]
    record = cli("stat", "a", "-o", "json").json
    assert (record["kind"], record["size"], record["revision"]) == ("file", 5, revision)
    assert record["sha256"].startswith("5994471abb01112a")
    shown = dict(line.split(None, 1) for line in cli("stat", "a").out.splitlines())
    assert shown["mode"] == "-rw-r--r-- 0644"
    assert shown["node"] == "node1"
    cli("put", "a", "-t", "more")
    cli("put", "ab", "-t", "another key")
    assert cli("stat", "a", "-o", "json").json["history"] == 2
    failed = cli("stat", "missing")
    assert (failed.code, failed.out) == (3, "")
    assert failed.err.startswith("dfs: ")
    assert "missing" in failed.err


def test_stat_shows_owner_and_attributes(node: Served, cli: Cli) -> None:
    with dfs.connect(node.endpoint, learn=False) as client:
        client.put("a", b"1", uid=0, gid=5, xattrs={"user.b": b"text", "user.a": b"\0\n"})
        client.mkdir("d", uid=7)
        client.symlink("l", "a", gid=8, xattrs={"user.x": b""})
        with client.transaction() as changes:
            changes.put("t", b"1", uid=9, xattrs={"user.y": b"z"})
        stat = client.stat("a")
        assert (stat.uid, stat.gid) == (0, 5)
        assert stat.xattrs == (("user.a", b"\0\n"), ("user.b", b"text"))
        assert client.stat("d")[-3:] == (7, None, ())
        assert client.stat("l")[-3:] == (None, 8, (("user.x", b""),))
        assert client.stat("t")[-3:] == (9, None, (("user.y", b"z"),))
        client.upload("u", b"1", gid=3, xattrs={"user.z": b"y"})
        assert client.stat("u")[-3:] == (None, 3, (("user.z", b"y"),))
        client.mkdir("d", gid=4, xattrs={"user.x": b"1"})
        assert client.stat("d")[-3:] == (7, 4, (("user.x", b"1"),))
        client.mkdir("d", mode=0o700)
        assert client.stat("d")[-3:] == (7, 4, (("user.x", b"1"),))
        with client.transaction() as changes:
            changes.mkdir("d", xattrs={})
        assert client.stat("d")[-3:] == (7, 4, ())
        with pytest.raises(dfs.InvalidArgument, match=r"does not begin with 'user\.'"):
            client.put("b", b"", xattrs={"a": b""})
    shown = dict(line.split(None, 1) for line in cli("stat", "a").out.splitlines())
    assert (shown["uid"], shown["gid"]) == ("0", "5")
    assert (shown["user.a"], shown["user.b"]) == ("0x000a", "text")
    record = cli("stat", "a", "-o", "json").json
    assert record["xattrs"] == {"user.a": "000a", "user.b": "74657874"}
    cli("put", "plain", "-t", "1")
    assert cli("stat", "plain", "-o", "json").json["uid"] is None
    assert "uid" not in cli("stat", "plain").out


def test_rm(node: Served, cli: Cli) -> None:
    for key in ("a", "d/1", "d/2"):
        cli("put", key, "-t", "x")
    assert cli("rm", "d").code == 4
    assert cli("rm", "-r", "-n", "d").out.split() == ["d", "d/1", "d/2"]
    assert cli("rm", "-r", "d", "a") == Ran(0, "", "")
    assert cli("ls").out == ""
    assert cli("rm", "a").code == 3
    assert cli("rm", "a", "b", "--base-revision", 1).code == 2


# ---- watch, log ----------------------------------------------------------------------------------
def test_log_and_watch(node: Served, cli: Cli) -> None:
    first = cli("put", "d/a", "-t", "x", "-o", "json").json["revision"]
    cli("put", "b", "-t", "y")
    cli("rm", "d/a")
    assert [line.split()[1:3] for line in cli("log").out.splitlines()] == [
        ["delete", "d/a"], ["put", "b"], ["put", "d/a"],
    ]
    assert [e["type"] for e in cli("log", "d", "-o", "json").lines] == ["delete", "put"]
    assert len(cli("log", "-n", 1).out.splitlines()) == 1
    assert {e["key"] for e in cli("log", "--all", "-o", "json").lines} == {"b", "d", "d/a"}
    events = cli("watch", "d", "--after", first - 1, "-n", 2, "-o", "json").lines
    assert [(e["type"], e["key"]) for e in events] == [("put", "d/a"), ("delete", "d/a")]
    assert cli("watch", "--after", first - 1, "-n", 1).out.split()[1:3] == ["put", "d/a"]


def test_watch_with_a_snapshot(node: Served, cli: Cli) -> None:
    cli("put", "a", "-t", "x")
    done = threading.Event()

    def change() -> None:
        with dfs.connect(node.endpoint) as client:
            while not done.wait(0.02):
                client.put("b", b"y")

    changing = threading.Thread(target=change)
    changing.start()
    lines = cli("watch", "--snapshot", "-n", 1).out.splitlines()
    done.set()
    changing.join()
    assert lines[0].split()[1:3] == ["have", "a"]
    assert lines[-1].split()[1:3] == ["put", "b"]


# ---- cluster -------------------------------------------------------------------------------------
def test_status(node: Served, cli: Cli) -> None:
    cli("put", "a", "-t", "12345")
    head, row = cli("status").out.splitlines()[:2]
    assert head.split()[:6] == ["NODE", "ROLE", "TERM", "APPLIED", "LAG", "CONTACT"]
    assert row.split()[:2] == ["node1", "leader"]
    answer = cli("status", "-o", "json", "--local").json
    (found,) = answer["nodes"]
    assert (found["role"], found["keys"], found["bytes"]) == ("leader", 1, 5)
    assert isinstance(found["member"]["id"], int)
    assert len(found["state_hash"]) == 32


def test_members(node: Served, cli: Cli) -> None:
    assert cli("member", "remove", "nobody").code == 4
    assert cli("member", "promote", "nobody").code == 4
    assert cli("member", "add", "127.0.0.1:1x").code == 2
    assert cli("member", "replace", "nobody").code == 4
    assert cli("member", "replace", "node1", "a:b").code == 2
    assert cli("leader", "move").code == 4
    ran = cli("member", "promote", "node1", "-endpoint", node.endpoint)
    assert ran == cli("member", "-endpoint", node.endpoint, "promote", "node1")
    assert (ran.code, ran.err) == (0, "nothing to do\n")
    said, columns, now = ran.out.splitlines()
    config = cli("status", "-o", "json").json["config"]
    assert said == f"node1 is a voter already (configuration {config})"
    assert columns.split() == ["WHEN", "MEMBERS", "VOTERS", "TOLERATES", "SPARE"]
    assert now.split() == ["now", "node1", "leads", "1", "0", "0"]
    found = cli("member", "promote", "node1", "--dry-run", "-o", "json").json
    assert (found["done"], found["config"], found["plan"]["config"]) == (False, config, config)
    (voter,) = found["plan"]["stages"][0]["members"]
    assert (voter["name"], voter["leader"], isinstance(voter["id"], int)) == ("node1", True, True)


def test_members_that_change_behind_a_plan(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """A command whose plan is out of date shows a new one and does that; if it is refused for
    another reason, or the configuration was told, that is its end."""
    asked: list[tuple[bool, int | None]] = []
    configs: list[int] = []

    def remove(_: Client, name: str, number: int, *, dry_run: bool, if_config: int | None) -> Any:
        asked.append((dry_run, if_config))
        config = configs.pop(0)
        if if_config not in (None, config):
            raise FailedPrecondition(f"now it is {config}")
        if not dry_run and name == "node1":
            raise FailedPrecondition("it cannot go")
        stage = pb.MembershipStage(when="now", members=[pb.Member(id=1, name="node2")], voters=1)
        plan = pb.MembershipPlan(summary="node2 goes", config=config, stages=[stage, stage])
        return pb.RemoveMemberResponse(plan=plan, config=config + (not dry_run))

    monkeypatch.setattr(Client, "remove_member", remove)
    configs += [5, 7, 7, 7]
    ran = cli("member", "remove", "node2")
    assert asked == [(True, None), (False, 5), (True, None), (False, 7)]
    assert ran.err.splitlines()[0] == (
        "nothing was done yet: the members have changed meanwhile, configuration 5 is 7 now. What"
        " is done instead:"
    )
    assert "done: configuration 8." in ran.err
    assert [line for line in ran.out.splitlines() if line.startswith("node2 goes")] == [
        "node2 goes (configuration 5)", "node2 goes (configuration 7)",
    ]
    configs += [5, 5, 5]
    ran = cli("member", "remove", "node1")
    assert (ran.code, ran.err) == (4, "dfs: it cannot go\n")
    asked.clear()
    configs += [5, 7, 7]
    ran = cli("member", "remove", "node2", "--if-config", "5")
    assert (ran.code, ran.err) == (4, "dfs: now it is 7\n")
    assert asked == [(True, 5), (False, 5), (True, 5)]


def test_a_plan_is_shown_as_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    def row(number: int, **more: Any) -> pb.Member:
        return pb.Member(id=number, name=f"node{number}", **more)

    two = [row(1, voter=True), row(2, voter=True, leader=True)]
    show_plan(pb.MembershipPlan(
        summary="it is done", config=17, warnings=["beware"], leader_moves=True,
        stages=[
            pb.MembershipStage(
                when="now", members=[*two, row(3, voter=True, silent=True)], voters=3, may_fail=1
            ),
            pb.MembershipStage(when="then", members=[*two, row(4)], voters=2),
        ],
    ))
    assert capsys.readouterr().out.splitlines() == [
        "it is done (configuration 17)",
        "it leads: another voter takes over first",
        "WHEN  MEMBERS                            VOTERS  TOLERATES  SPARE",
        "now   node1, node2 leads, node3 silent        3          1      0",
        "then  node1, node2 leads, node4 learner       2          0      0",
        "warning: beware",
    ]


@pytest.mark.parametrize(
    ("mount", "mode", "said"),
    [("/m", "no-open", "/m (no-open)"), ("/m", "off: no root", "-"), ("", "", "-")],
)
def test_the_table_says_how_files_are_read(mount: str, mode: str, said: str) -> None:
    assert mounted(pb.AgentStatus(mount=mount, mount_mode=mode)) == said


def test_what_is_wrong_with_a_cluster_is_said_below_the_table() -> None:
    def node(name: str, role: str, **more: Any) -> pb.NodeStatus:
        return pb.NodeStatus(member=pb.Member(name=name, voter=True), role=role, **more)

    well = [node("a", "leader"), node("b", "follower"), node("c", "follower")]
    assert troubles(well) == []
    away = node("c", "", error="connection refused", last_contact_ms=12_000)
    assert troubles([*well[:2], away]) == ["", "c: silent for 12.0 s, connection refused"]
    agent = pb.AgentStatus(problems=["x is too large"], mount_mode="off: no root", pending_drops=3)
    assert troubles([well[0], well[1], node("c", "follower", agent=agent)])[1:] == [
        "c: x is too large", "c: no mount: no root", "c: 3 files of the cache are on the way",
    ]
    lacking = [pb.NodeStatus(role="follower", contents_lost=n) for n in (0, 1_234)]
    assert any("1,234 large contents are held by no" in line for line in troubles(lacking))
    lost = troubles([well[0], node("b", ""), away])
    assert lost[-1].startswith("1 of 3 voters answer, 2 are needed")
    assert troubles([node("a", "candidate"), *well[1:]])[-1].startswith("no node knows a leader")


# ---- bench ---------------------------------------------------------------------------------------
@pytest.mark.parametrize("what", ["put", "get"])
def test_bench(what: str, node: Served, cli: Cli) -> None:
    ran = cli(
        "bench", what, "-c", 5, "--processes", 2, "--seconds", 0.5, "--keys", 20, "-s", 1000,
        "-o", "json",
    )
    assert ran.code == 0, ran.err
    result = ran.json
    assert result["operations"] > 10
    assert result["errors"] == {}
    assert 0 < result["p50_ms"] <= result["p95_ms"] <= result["p99_ms"] <= result["max_ms"]
    assert result["generator_cpu_us_per_operation"] > 0
    assert cli("ls").out == ""
    assert "generator: 2 processes" in ran.err


# ---- what every command does ---------------------------------------------------------------------
def test_nobody_there(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    ran = cli("get", "a", "-endpoint", "127.0.0.1:1")
    assert ran == Ran(5, "", "dfs: no node answers at 127.0.0.1:1: connection refused. Try: dfs"
                             " status, or the -endpoint of another node\n")


@pytest.mark.parametrize(("arguments", "said"), [
    (["gt", "a"], "there is no command 'gt'; did you mean get?"),
    (["get"], "the following arguments are required: key. Try: dfs get --help"),
    (["get", "a", "--endpont", "x"], "unknown flag --endpont; did you mean --endpoint?"),
    (["get", "a", "-revison", "1"], "unknown flag -revison; did you mean --revision?"),
    (["-pers", "x"], "unknown flag -pers; did you mean --peers?"),
    (["-i", "x"], "unknown flag -i; did you mean --id?"),
    (["get", "a", "b", "c"], "'c' is too much here. Try: dfs get --help"),
    (["member"], "the following arguments are required"),
    (["put", "a", "/no/such/file"], "/no/such/file cannot be read: No such file or directory"),
    (["put", "a", "--mode", "9"], "'9' is not octal"),
    (["get", "a", "-endpoint", "a:b"], "endpoint (flag -endpoint): port 'b' is not a number"),
    (["bench", "put", "-c", "0"], "--clients must be from 1 to 10,000"),
    (["nemesis", "--faults", "kil"], "there is no fault 'kil'. Try: dfs nemesis --list"),
    (["nemesis", "--faults", "halves"], "halves needs 5 nodes at least. Try: --nodes 5"),
    (["nemesis", "--faults", "kill", "--nodes", "9"], "9 nodes: one to seven can be had"),
])
def test_wrong_usage_is_one_sentence(
    arguments: list[str], said: str, cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    ran = cli(*arguments)
    assert (ran.code, ran.out) == (2, "")
    assert ran.err.startswith("dfs: ")
    assert said in ran.err
    assert ran.err.count("\n") == 1


def test_config(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DFS_RAFT", ":1")
    (tmp_path / "dfs.yaml").write_text("grpc: :2\n")
    shown = cli("config", "-id=n7", "-mount", "none", "--insecure").out.splitlines()
    rows = {line.split()[0]: line.split()[1:] for line in shown}
    assert rows["id"] == ["n7", "flag", "-id"]
    assert rows["raft"] == [":1", "variable", "DFS_RAFT"]
    assert rows["grpc"] == [":2", "dfs.yaml"]
    assert rows["mount"] == ["none", "flag", "-mount"]
    assert rows["insecure"] == ["true", "flag", "-insecure"]
    assert rows["peers"] == ["default"]
    raft = cli("config", "-o", "json").json["raft"]
    assert raft == {"value": ":1", "source": "variable DFS_RAFT"}
    monkeypatch.setenv("DFS_RAFFT", ":1")
    assert "did you mean DFS_RAFT?" in cli("config").err


def test_version_and_help(cli: Cli) -> None:
    assert cli("-version").out == cli("version").out == f"dfs {dfs.__version__}\n"
    assert "dfs" in cli("version", "-o", "json").json
    overview = cli("--help").out
    assert overview == cli("help").out
    for command in ("serve", "demo", "put", "status"):
        assert f"\n  {command} " in overview
        assert cli(command, "--help").code == 0
        assert cli("help", command).out.startswith(f"usage: dfs {command}")


@pytest.mark.parametrize("shell", ["bash", "zsh", "tcsh"])
def test_completion(shell: str, cli: Cli) -> None:
    script = cli("completion", shell).out
    assert "member" in script
    assert "base-revision" in script


def test_colour_is_for_people_only(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.delenv("NO_COLOR", raising=False)
    assert output.styled("x", "1", Terminal()) == "\x1b[1mx\x1b[0m"
    assert output.styled("x", "1", io.StringIO()) == "x"
    monkeypatch.setenv("NO_COLOR", "1")
    assert output.styled("x", "1", Terminal()) == "x"


def imported(work: Path, code: str) -> set[str]:
    """Names of all modules that a program has loaded in the end."""
    source = str(Path(dfs.__file__).parents[1])
    ran = subprocess.run(
        [sys.executable, "-c", f"import sys; {code}; print(*sorted(sys.modules))"],
        capture_output=True, text=True, check=True, cwd=work, env={"PYTHONPATH": source},
    )
    return set(ran.stdout.split())


def test_get_imports_little(tmp_path: Path) -> None:
    """What takes long to import belongs to the commands that need it."""
    get = "from dfs.cli import main; main(['get', 'a', '-endpoint', 'unix:none'])"
    loaded = imported(tmp_path, get)
    assert "grpc" in loaded
    heavy = {
        "dfs._engine", "dfs.node", "dfs.server", "dfs.store", "dfs.cache", "rich", "yaml", "shtab",
        "rocksdict", "multiprocessing", "google.rpc", "dfs.cli.bench", "dfs.cli.demo",
    }
    assert not heavy & loaded


def test_a_node_imports_little_before_it_takes_part_in_consensus(tmp_path: Path) -> None:
    """All three start at once when their power comes back, and nobody writes until two run."""
    loaded = imported(tmp_path, "import dfs.cli.serve")
    assert {"dfs._engine", "dfs.node", "google.protobuf", "rocksdict"} <= loaded
    heavy = {
        "grpc", "grpc_health", "importlib.metadata", "dfs.client", "dfs.cache",
        "dfs.offline", "dfs.nemesis", "rich", "yaml", "multiprocessing",
    }
    assert not heavy & loaded
