"""Recorded calls as a file: one JSON object a line, for a second look at what a checker said."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ..check import Call, Kind, Outcome, not_linearizable, out_of_order
from ..errors import Misconfigured


def save(calls: Iterable[Call], path: Path) -> None:
    """Writes them."""
    with path.open("w") as file:
        for call in calls:
            file.write(json.dumps(_encode(call)) + "\n")


def load(path: Path) -> list[Call]:
    """Reads them. Raises Misconfigured for what is no such file."""
    try:
        return [_decode(json.loads(line)) for line in path.read_text().splitlines()]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise Misconfigured(f"{path} is no history of calls: {error}") from None


def problems(calls: list[Call]) -> list[str]:
    """What the checkers say of them, without the watcher and the list of keys."""
    return [found for found in (not_linearizable(calls), out_of_order(calls)) if found]


def _encode(call: Call) -> dict[str, Any]:
    value = None if call.value is None else call.value.decode("latin-1")
    return {
        "kind": call.kind.value, "key": call.key, "begin": call.begin, "end": call.end,
        "outcome": call.outcome.value, "value": value, "revision": call.revision,
        "base": call.base,
    }


def _decode(row: dict[str, Any]) -> Call:
    value = None if row["value"] is None else row["value"].encode("latin-1")
    return Call(
        Kind(row["kind"]), row["key"], row["begin"], row["end"], Outcome(row["outcome"]), value,
        row["revision"], row["base"],
    )
