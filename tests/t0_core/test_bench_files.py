"""bench/run --files: what counts as right, what is compared with what, when an aim is reached."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import pytest

from bench.failure import BenchError
from bench.files import __main__ as bench
from bench.files import content, drops, results
from bench.files.content import MISSING, OK, OLD, PARTIAL, WRONG
from bench.files.helpers import Seen, watch
from bench.files.plan import last, wrongs
from bench.files.results import Aim, Measurement
from bench.files.systems import Ext4


def test_each_way_of_being_wrong_is_told_apart(tmp_path: Path) -> None:
    former = content.write(tmp_path, "f", b"before")
    file = content.write(tmp_path, "f", b"afterwards")
    for data, found in (
        (b"afterwards", OK), (b"before", OLD), (b"afterword?", WRONG), (b"befor!", WRONG),
        (b"after", PARTIAL), (b"", PARTIAL), (b"afterwards and more", PARTIAL),
    ):
        (tmp_path / "f").write_bytes(data)
        assert content.state(tmp_path, file, former) == found
    (tmp_path / "f").write_bytes(b"before")
    assert content.state(tmp_path, file) == PARTIAL
    (tmp_path / "f").unlink()
    assert content.state(tmp_path, file) == MISSING


def test_a_watcher_tells_what_is_not_right(tmp_path: Path) -> None:
    files = content.make_tree(tmp_path, 5, 1)
    assert files == content.make_tree(tmp_path, 5, 1)
    assert watch(tmp_path, files, 60).left == 0
    (tmp_path / files[0].name).write_bytes(bytes(files[0].size))
    (tmp_path / files[1].name).unlink()
    (tmp_path / files[2].name).write_bytes(b"")
    seen = watch(tmp_path, files, 0.01)
    assert seen.done is None
    assert (seen.left, seen.partial > 0, seen.wrong > 0) == (3, True, True)


def test_what_must_not_be_is_an_error(tmp_path: Path) -> None:
    ext4 = Ext4(tmp_path / "floor")
    good, bad = Seen(3.0, 0, 0, 0), Seen(None, 7, 1, 2)
    assert last([good, good._replace(done=5.0)], 1.0) == {"identical": 4.0}
    assert last([good, bad], 1.0) == {}
    assert wrongs(ext4, [good, bad]) == {"files that are not identical in time": 7}
    ext4.whole = True
    assert sorted(wrongs(ext4, [good, bad]).values()) == [1, 2, 7]
    assert wrongs(ext4, [good]) == {}


def test_large_content_is_the_same_as_its_edges(tmp_path: Path) -> None:
    big = content.make_big(tmp_path / "big", 2, 1)
    assert content.state(tmp_path, big.file) == OK
    data = (tmp_path / "big").read_bytes()
    assert [edge[:64] for edge in big.edges] == [data[:64], data[1 << 20 : (1 << 20) + 64]]
    assert big.edges[1][-64:] == data[-64:]


def test_percentiles_are_values_that_occurred() -> None:
    values = [float(n) for n in random.Random(1).sample(range(1, 301), 300)]
    assert [drops.percentile(values, share) for share in (0.5, 0.99, 1.0)] == [150, 297, 300]
    assert drops.percentile([], 0.5) == 0


def test_table_compares_with_ext4_in_the_same_round() -> None:
    row = Measurement("read", "ext4", 0, {"ls -lR": 10.0, "stat": 100.0})
    text = results.table([
        row, replace(row, round=1, figures={"ls -lR": 20.0}),
        replace(row, system="dfs", figures={"ls -lR": 20.0, "stat": 71.0}),
        replace(row, system="dfs", round=1, figures={"ls -lR": 20.0}),
    ])
    cells = [[c.strip() for c in line.strip("|").split("|")] for line in text.splitlines()]
    assert tuple(cells[0]) == results.HEAD
    found = {(c[1], c[2]): c[3:] for c in cells[2:]}
    assert found["ls -lR", "dfs"] == [
        "20.0 ms (20.0..20.0)", "75.0 (50.0..100)", "≥ 80 %", "0.94", "**behind**"
    ]
    assert found["stat", "dfs"] == ["71.0/s", "71.0", "≥ 70 %", "1.01", "reached"]
    assert found["stat", "ext4"] == ["100/s", "", "", "", ""]
    assert len({len(line) for line in text.splitlines()}) == 1


def test_an_aim_is_reached_or_not() -> None:
    assert results.judged(Aim(5), [4.0, 6.0, 5.0], []) == ["≤ 5", "1.00", "reached"]
    assert results.judged(Aim(5), [5.1], []) == ["≤ 5", "1.02", "**behind**"]
    assert results.judged(Aim(0), [0.0], []) == ["≤ 0", "0.00", "reached"]
    assert results.judged(Aim(0), [1.0], [])[-1] == "**behind**"
    assert results.judged(Aim(20, least=True, percent=True), [9.0], []) == ["≥ 20 %", "", ""]


def test_failures_are_named() -> None:
    run = Measurement("big", "dfs", 2, {}, errors={"it is too large": 1})
    assert results.failures([run]) == ["big of dfs, round 2: it is too large (1 times)"]


def test_options_are_checked() -> None:
    def plan(*argv: str) -> object:
        return bench.plan_of(bench.parser().parse_args(argv))

    assert bench.plan_of(bench.parser().parse_args([]))[1] == list(bench.DEFAULT)
    assert bench.chosen("kill, drop") == ["drop", "kill"]
    with pytest.raises(BenchError, match="no row 'dorp'"):
        plan("--rows", "dorp")
    with pytest.raises(BenchError, match="--rounds must be more than 0"):
        plan("--rounds", "0")
