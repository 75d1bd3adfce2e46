"""mv, cp and put --atomic: whole trees by the command line."""

from __future__ import annotations

import os
import re
from pathlib import Path

from dfs.limits import INLINE_BYTES_MAX, TRANSACTION_OPERATIONS_MAX, VALUE_BYTES_MAX

from .cli_rig import Cli, Served


def test_mv_and_cp(node: Served, cli: Cli) -> None:
    cli("put", "d/a", "-t", "1")
    cli("put", "d/b", "-t", "2")
    revision = cli("mv", "d", "new/place").out.strip()
    assert cli("stat", "new/place/a", "-o", "json").json["revision"] == int(revision)
    assert cli("ls", "-r").out.split() == ["new/", "new/place/", "new/place/a", "new/place/b"]
    failed = cli("cp", "new/place", "d")
    assert (failed.code, "copy it with recursive" in failed.err) == (4, True)
    assert cli("cp", "-r", "new/place", "d", "-o", "json").json["revision"] > int(revision)
    assert cli("cat", "d/a", "d/b").out == "12"
    failed = cli("mv", "d/a", "d/b")
    assert (failed.code, "d/b: expected it not to exist" in failed.err) == (4, True)
    assert cli("mv", "--replace", "d/a", "d/b").code == 0
    assert cli("cat", "d/b").out == "1"
    assert cli("cp", "d/b", "x", "--base-revision", 1).code == 4
    assert cli("mv", "nowhere", "x").code == 3


def test_a_directory_is_published_at_once(node: Served, cli: Cli, tmp_path: Path) -> None:
    """`dfs put --atomic` makes a directory one revision of the tree: readers see all of it or
    nothing. What was there before and is not in the directory stays, unless `--delete` is given."""
    top = tmp_path / "site"
    (top / "deep" / "er").mkdir(parents=True)
    (top / "empty").mkdir()
    (top / "index").write_bytes(b"1")
    (top / "deep" / "er" / "run").write_bytes(b"2" * 5_000)
    (top / "deep" / "er" / "run").chmod(0o750)
    (top / "link").symlink_to("deep/er/run")
    cli("put", "w/kept", "-t", "old")
    cli("put", "w/empty/was/full", "-t", "old")
    cli("put", "w/deep/er/gone", "-t", "old")
    before = cli("ls", "-r", "-o", "json").lines
    revision = cli("put", "--atomic", "-p", "w", top, "-o", "json").json["revision"]
    items = {item["key"]: item for item in cli("ls", "-r", "-o", "json").lines}
    assert {item["key"] for item in before} < set(items)
    new = {"w/index", "w/link", "w/deep/er/run", "w/empty"}
    assert {key for key, item in items.items() if item["revision"] == revision} == new
    run = items["w/deep/er/run"]
    assert (run["mode"], items["w/link"]["target"]) == (0o750, "deep/er/run")
    assert run["mtime_ns"] == (top / "deep" / "er" / "run").stat().st_mtime_ns
    (top / "index").unlink()
    (top / "index").mkdir()
    (top / "index" / "html").write_bytes(b"3")
    (top / "deep" / "er" / "run").unlink()
    (top / "deep" / "er").rmdir()
    (top / "deep" / "er").write_bytes(b"a file now")
    failed = cli("put", "--atomic", "w", top)
    assert (failed.code, "put w/deep/er, is refused" in failed.err) == (4, True)
    assert cli("cat", "w/index").out == "1"
    assert cli("put", "--atomic", "--delete", "w/", top).code == 0
    assert cli("ls", "-r").out.split() == [
        "w/", "w/deep/", "w/deep/er", "w/empty/", "w/index/", "w/index/html", "w/link",
    ]
    assert len({event["revision"] for event in cli("log", "-n", 8, "-o", "json").lines}) == 1


def test_what_cannot_be_published(node: Served, cli: Cli, tmp_path: Path) -> None:
    top = tmp_path / "site"
    top.mkdir()
    assert cli("put", "--atomic", "w", top).code == 0
    assert cli("stat", "w", "-o", "json").json["implicit"] is False
    os.mkfifo(top / "pipe")
    (top / "a").write_bytes(b"1")
    for arguments, words in (
        (["--atomic", "w", top], "pipe is neither a file"),
        (["--atomic", top, "w"], "w is no directory: .*dfs put --atomic KEY DIRECTORY"),
        (["--atomic", "w"], "--atomic needs a directory"),
        (["--atomic", "w", top, "--mode", "600"], "do not go with --atomic"),
        (["--delete", "w", top / "a"], "--delete goes with --atomic"),
    ):
        failed = cli("put", *arguments)
        assert failed.code == 2
        assert re.search(words, failed.err), failed.err
    assert cli("ls", "w").out == ""


def test_a_directory_of_more_than_a_transaction_takes_is_not_published(
    node: Served, cli: Cli, tmp_path: Path
) -> None:
    """Nothing of it is: the reason names the limit, and how much of it there is."""
    top = tmp_path / "site"
    top.mkdir()
    (top / "large").write_bytes(bytes(INLINE_BYTES_MAX + 1))
    for number in range(TRANSACTION_OPERATIONS_MAX - 1):
        (top / str(number)).symlink_to("large")
    before = cli("put", "w/kept", "-t", "old").out
    failed = cli("put", "--atomic", "--delete", "w", top)
    assert (failed.code, failed.out) == (1, "")
    assert failed.err == (
        "dfs: the transaction has 10,001 changes, the limit is 10,000"
        " (TRANSACTION_OPERATIONS_MAX): make several of it\n"
    )
    assert cli("ls", "-r").out.split() == ["w/", "w/kept"]
    assert cli("log", "-n", 1, "-o", "json").lines[0]["revision"] == int(before)
    published = cli("put", "--atomic", "w", top)
    assert published.code == 0, "as many as it takes"
    assert len(cli("ls", "w", "-o", "json").lines) == TRANSACTION_OPERATIONS_MAX + 1


def test_a_directory_of_any_size_is_published(node: Served, cli: Cli, tmp_path: Path) -> None:
    """Large files are uploaded first; the end says what was stored, and since when."""
    top = tmp_path / "site"
    (top / "images").mkdir(parents=True)
    data = {"index": b"1", "images/disk": os.urandom(VALUE_BYTES_MAX + 1), "big": bytes(3 << 20)}
    for name, content in data.items():
        (top / name).write_bytes(content)
    done = cli("put", "--atomic", "-p", "w", top)
    revision = int(done.out)
    assert f"3 files, 19.0 MiB, at w since revision {revision}" in done.err
    items = {item["key"]: item for item in cli("ls", "-r", "-o", "json").lines}
    assert {item["revision"] for item in items.values()} == {revision}
    for name, content in data.items():
        assert cli("get", f"w/{name}", tmp_path / "copy").code == 0
        assert (tmp_path / "copy").read_bytes() == content
    (top / "images" / "disk").unlink()
    assert cli("cp", "-r", "w", "kept").code == 0
    assert cli("put", "--atomic", "--delete", "w", top).code == 0
    assert cli("stat", "w/images/disk").code == 3
    assert cli("stat", "kept/images/disk", "-o", "json").json["size"] == VALUE_BYTES_MAX + 1
