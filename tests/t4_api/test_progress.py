"""How far put, get and put --atomic are, on a terminal and elsewhere."""

from __future__ import annotations

import io
import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from dfs.cli import main
from dfs.limits import UPLOAD_PIECE_BYTES

from .cli_rig import Cli, Served
from .test_backup import Terminal
from .test_contents import SIZE, some

LINE = re.compile(r"\r\x1b\[K(\S+) (━*╌*) ([\d,]+)/([\d,]+) \S+ \w+/s(.*?)(?=\r)", re.DOTALL)
"""The line of a transfer as it is written over: key, bar, bytes of bytes, rate, what is done."""
LOOKING = ", looking for what is there already"
HELD = ", on 1 of 1 voters"

Shown = list[tuple[int, int, str]]
"""Bytes that are done, of so many, and what is said of them."""


def shown(text: str, key: str) -> Shown:
    """All that was on the line, which is gone at the end."""
    assert text.startswith("\r\x1b[K")
    assert "/s" not in text.rpartition("\r\x1b[K")[2]
    found = []
    for name, bar, done, total, more in LINE.findall(text):
        assert (name, len(bar)) == (key, 30)
        found.append((at := int(done.replace(",", "")), of := int(total.replace(",", "")), more))
        assert bar.count("━") == round(30 * at / of if of else 30)
    assert len(found) == text.count("/s")
    return found


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Runs a command that a person looks at, who sees each step: what that person is shown."""
    monkeypatch.setattr("dfs.cli.output.PROGRESS_INTERVAL_S", 0)

    def run(*arguments: object) -> str:
        terminal = Terminal()
        with monkeypatch.context() as patch:
            patch.setattr(sys, "stderr", terminal)
            assert main([str(a) for a in arguments]) == 0
        return terminal.text

    return run


def grows(steps: Shown, total: int) -> bool:
    """In many steps, and up to its end."""
    done = [step[0] for step in steps]
    return (
        len(set(done)) > 2 and done == sorted(done) and done[-1] == total
        and {step[1] for step in steps} == {total}
    )  # fmt: skip


def test_a_large_put_and_get_say_how_far_they_are(
    node: Served, told: Callable[..., str], tmp_path: Path
) -> None:
    """First how much was read to find what is there already, then how much has arrived and how
    many voters have all of it; of a get how much has come. Each with the rate."""
    (tmp_path / "large").write_bytes(some(1))
    put = shown(told("put", "d/large", tmp_path / "large"), "d/large")
    looked = [step for step in put if step[2] == LOOKING]
    assert put[: len(looked)] == looked
    assert grows(looked, SIZE)
    sent = put[len(looked) :]
    assert {step[2] for step in sent} == {"", HELD}
    assert sent[0] == (0, SIZE, "")
    assert {step for step in sent if step[2]} == {(SIZE, SIZE, HELD)}
    got = shown(told("get", "d/large", tmp_path / "copy"), "d/large")
    assert grows(got, SIZE)
    assert got[0][0] <= UPLOAD_PIECE_BYTES
    assert {step[2] for step in got} == {""}
    assert (tmp_path / "copy").read_bytes() == some(1)


def test_a_put_of_what_cannot_be_read_twice_says_how_far_it_is(
    node: Served, told: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody knows how much it will be, and nothing of it is looked for."""

    class Pipe(io.BytesIO):
        def seekable(self) -> bool:
            return False

    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(Pipe(some(2))))
    put = shown(told("put", "f"), "f")
    assert {step[2] for step in put} == {"", HELD}
    assert {step for step in put if step[2]} == {(SIZE, SIZE, HELD)}
    assert all(done == total for done, total, _ in put[1:])


def test_a_directory_that_is_published_says_how_far_it_is(
    node: Served, told: Callable[..., str], tmp_path: Path
) -> None:
    """Of all its files together, and which of them is on its way; of one that is there already
    nothing is sent."""
    top = tmp_path / "site"
    top.mkdir()
    for name, content in (("a", some(3)), ("b", some(4, SIZE + 5)), ("small", b"1")):
        (top / name).write_bytes(content)
    total = 2 * SIZE + 6
    text = told("put", "--atomic", "w", top)
    assert "3 files, 16.0 MiB, at w since revision" in text.rpartition("\r\x1b[K")[2]
    put = shown(text, "w")
    looked = [step for step in put if step[2] == LOOKING]
    assert put[: len(looked)] == looked
    assert grows([*looked[:-1], (total, total, LOOKING)], total)
    assert looked[-1] == (total - 1, total, LOOKING), "the small one travels along"
    sent = put[len(looked) :]
    assert list(dict.fromkeys(step for step in sent if step[2].endswith(HELD))) == [
        (SIZE + 6, total, ", w/b" + HELD), (total, total, ", w/a" + HELD)
    ]
    assert {step[2] for step in sent} == {", w/a", ", w/b", ", w/a" + HELD, ", w/b" + HELD}
    again = shown(told("put", "--atomic", "w", top), "w")
    assert {step[2] for step in again} == {LOOKING}


def test_who_is_no_terminal_is_shown_no_line(node: Served, cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "large").write_bytes(some(5))
    assert cli("put", "f", tmp_path / "large").err == ""
    assert cli("get", "f", tmp_path / "copy").err == ""
    (tmp_path / "site").mkdir()
    (tmp_path / "large").rename(tmp_path / "site" / "large")
    assert cli("put", "--atomic", "w", tmp_path / "site").err.count("\n") == 1
