"""The arithmetic of bench/run: medians, ratios, the table, which rows are run."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import pytest

from bench import machine
from bench.failure import BenchError
from bench.kv import __main__ as bench
from bench.kv import measure, recovery, results, rows, systems
from bench.kv.results import Measurement

PUT = "put 100B c1"


def run(system: str, number: int, value: float | None, **more: float) -> Measurement:
    made = Measurement(system, PUT, number, value, others=0.01, failed=0)
    return replace(made, **more)


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_median_with_range() -> None:
    assert results.spread([300.0, 100.4, 250.0]) == "250 (100..300)"
    assert results.spread([1.0, 2.0, 3.0, 40.0], " s") == "2.50 s (1.00..40.0)"
    assert results.spread([12_345.6], "/s") == "12,346/s"
    assert results.spread([]) == "-"


def test_ratios_are_of_the_same_round() -> None:
    mine = [run("dfs", 0, 200), run("dfs", 1, 300), run("dfs", 7, 1)]
    base = [run("etcd", 1, 100), run("etcd", 0, 50)]
    assert results.ratios(mine, base, "value") == [4.0, 3.0]
    assert results.ratios(mine, base, "p99_ms") == []


def test_table_has_one_line_for_each_row_and_system() -> None:
    text = results.table([
        run("etcd", 0, 100, p99_ms=2.0, server_us=170.0, rss_mib=300.0),
        run("dfs", 0, 250, p99_ms=1.0, server_us=34.0, rss_mib=150.0, failed=2),
        run("etcd", 1, 100, p99_ms=4.0, server_us=170.0, rss_mib=300.0),
        run("dfs", 1, 150, p99_ms=4.0, server_us=51.0, rss_mib=150.0, failed=1, others=0.5),
    ])
    head, _, dfs, etcd = map(cells, text.splitlines())
    assert tuple(head) == results.HEAD
    assert dfs == [
        PUT, "dfs", "200/s (150..250)", "2.00 (1.50..2.50)", "-", "2.50 (1.00..4.00)",
        "0.75 (0.50..1.00)", "42.5 (34.0..51.0)", "0.25 (0.20..0.30)", "150 (150..150)",
        "0.50 (0.50..0.50)", "-", "0.50", "3",
    ]
    assert etcd[1:4] == ["etcd", "100/s (100..100)", ""]
    assert len({len(line) for line in text.splitlines()}) == 1


def test_table_without_the_base_has_no_ratios() -> None:
    (line,) = results.table([run("dfs", 0, 250)]).splitlines()[2:]
    assert cells(line)[2:4] == ["250/s", ""]


def test_a_row_without_one_success_has_no_figures() -> None:
    text = results.table([run("dfs", 0, None, failed=9), run("etcd", 0, 100)])
    assert cells(text.splitlines()[2])[1:5] == ["dfs", "-", "-", "-"]


def test_times_have_their_unit() -> None:
    gap = Measurement("dfs", "failover", 0, 0.81, others=0.0, failed=0)
    assert "0.81 s " in results.table([gap])


def test_rows_are_chosen_by_name_or_beginning() -> None:
    assert [row.name for row in rows.chosen(PUT)] == [PUT]
    assert len(rows.chosen("put 100B")) == 5
    assert rows.chosen("") == list(rows.ROWS)
    assert [row.name for row in rows.chosen("failover, mixed")] == [
        "mixed 90:10 100B c64", "failover",
    ]
    with pytest.raises(BenchError, match="no row 'put 200B'"):
        rows.chosen("put,put 200B")


def test_quick_rows_have_enough_keys() -> None:
    for row in map(rows.quick, rows.ROWS):
        assert row.keys >= row.clients, row
        assert row.mode != "list" or row.keys >= row.listed, row


def test_rounds_share_the_kills() -> None:
    plan = measure.Plan([], Path(), 3, 5.0, 1.0, 20, again=True)
    kills = [list(plan.kills_in(number)) for number in range(3)]
    assert list(itertools.chain(*kills)) == list(range(20))
    assert {len(some) for some in kills} == {6, 7}


def test_recovery_is_measured_to_the_end_of_the_time_without_writes_that_a_strike_began() -> None:
    before, struck, later = (1.0, 9.99), (10.02, 10.5), (11.0, 13.0)
    assert recovery.recovered([before, struck, later], 16.0, 10.0) == 0.5
    # The nodes are started a little after the power was cut.
    assert recovery.recovered([(9.8, 10.75)], 16.0, 10.0) == 0.75
    # What the strike began is longer than a pause that was under way.
    assert recovery.recovered([(9.98, 10.01), struck], 16.0, 10.0) == 0.5
    assert recovery.recovered([before, (10.02, 16.0)], 16.0, 10.0) is None
    with pytest.raises(BenchError, match="puts went on"):
        recovery.recovered([before, later], 16.0, 10.0)


def test_recovery_says_what_it_needs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    with pytest.raises(BenchError, match="needs root"):
        bench.plan_of(bench.parser().parse_args(["--rows", "recovery"]))
    # Not asked for by name it is left out, and that is said.
    _, stages = bench.plan_of(bench.parser().parse_args([]))
    assert "failover" in stages
    assert "recovery" not in stages
    assert "left out: recovery needs root" in capsys.readouterr().err


def test_systems_run_what_they_can() -> None:
    hraft = systems.chosen("hraft")[0]
    able = {row.name for row in rows.ROWS if hraft.can(row)}
    assert {row.name for row in rows.ROWS} - able == {
        "get 100B c64 any node", "list 100 keys c16", "list 10000 keys c1", "watch x100",
        "watch x1000", "long put 100B c64",
    }
    with pytest.raises(BenchError, match="no system 'redis'"):
        systems.chosen("dfs,redis")


def test_every_address_is_another(tmp_path: Path) -> None:
    found = systems.places(tmp_path)
    assert len({address for place in found for address in (place.client, place.peer)}) == 6
    for system in systems.SYSTEMS.values():
        command = " ".join(system.command(found[1], found))
        assert str(found[1].data) in command
        assert all(place.peer in command for place in found)


def test_cpu_time_is_read_from_proc() -> None:
    ticks = machine.TICKS_PER_S
    # user nice system idle iowait irq softirq steal guest guest_nice
    line = f"cpu  {4 * ticks} 0 {2 * ticks} 999 999 0 {ticks} {ticks} 777 777\ncpu0 1 1\n"
    assert machine.busy_s(line) == 8.0
    fields = ["S", *["0"] * 10, str(3 * ticks), str(2 * ticks), *["0"] * 20]
    assert machine.process_s(f"42 (odd ) name) {' '.join(fields)}") == 5.0
