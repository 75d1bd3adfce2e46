"""Row `read`: what a mount that was made just now, and then a used one, gives readers."""

from __future__ import annotations

import os
import random
import subprocess
import time
from collections import Counter
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import Final

from .content import BLOCK_BYTES, EDGE_BYTES, OK, SMALL_BYTES_MAX, Big, File, state
from .drops import TREE
from .plan import Meter, Stock
from .results import Measurement
from .systems import Fresh, System

SAMPLE_MAX: Final = 5_000
"""Small files that are read in one pass."""
BIG_MISSING: Final = "the large file is not there: see row big"


def read(
    label: str, system: System, fresh: Fresh, stock: Stock, number: int
) -> Measurement:
    """All figures of one system in one round; each cold one on a fresh mount."""
    chance, errors = random.Random(number), Counter[str]()
    picked = chance.sample(list(stock.files), min(SAMPLE_MAX, len(stock.files)))
    figures: dict[str, float] = {}
    meter = Meter([system], stock)
    with fresh() as top:
        figures["find cold"] = _listed(["find"], top / TREE, stock.files, errors)
    with fresh() as top:
        figures["ls -lR cold"] = _listed(["ls", "-lR"], top / TREE, stock.files, errors)
        figures["ls -lR"] = _listed(["ls", "-lR"], top / TREE, stock.files, errors)
        figures["find"] = _listed(["find"], top / TREE, stock.files, errors)
    with fresh() as top:
        figures["cold small files"] = _small(top / TREE, picked, errors)
        figures["warm small files"] = _small(top / TREE, picked, errors)
        _stats(top / TREE, stock.files)
        figures["stat"] = _stats(top / TREE, stock.files)
    with fresh() as top:
        if (top / stock.big.file.name).exists():
            figures["sequential cold"] = _sequential(top, stock.big, errors)
            figures["sequential warm"] = _sequential(top, stock.big, errors)
            if (got := state(top, stock.big.file)) != OK:
                errors[f"the large file is {got}"] += 1
        else:
            errors[BIG_MISSING] += 1
    return Measurement("read", label, number, figures, meter.others(), dict(errors))


def warm_up(fresh: Fresh, stock: Stock) -> None:
    """Reads everything once, so that an agent's cache has it: fresh mounts come after this."""
    with fresh() as top:
        for file in stock.files:
            state(top / TREE, file)
        state(top, stock.big.file)


def _listed(
    argv: Sequence[str], top: Path, files: Sequence[File], errors: Counter[str]
) -> float:
    """Milliseconds of a command that lists a tree; its output must have every file."""
    begin = time.monotonic()
    done = subprocess.run([*argv, str(top)], capture_output=True, check=False)
    ms = (time.monotonic() - begin) * 1000
    if done.returncode or done.stdout.count(b".bin\n") != len(files):
        errors[f"{argv[0]} listed other files than there are"] += 1
    return ms


def _small(top: Path, files: Sequence[File], errors: Counter[str]) -> float:
    """Files a second, opened, read and closed; they are checked by hash afterwards."""
    paths = [os.fsencode(top / file.name) for file in files]
    data: list[bytes] = []
    begin = time.monotonic()
    for path in paths:
        try:
            fd = os.open(path, os.O_RDONLY)
            data.append(os.read(fd, SMALL_BYTES_MAX + 1))
            os.close(fd)
        except OSError as error:
            errors[f"a small file cannot be read: {error.strerror}"] += 1
            data.append(b"")
    seconds = time.monotonic() - begin
    wrong = sum(
        (len(got), sha256(got).digest()) != file[1:] for got, file in zip(data, files, strict=True)
    )
    if wrong:
        errors["small files read wrong"] += wrong
    return len(files) / seconds


def _stats(top: Path, files: Sequence[File]) -> float:
    """Calls of stat a second."""
    paths = [os.fsencode(top / file.name) for file in files]
    begin = time.monotonic()
    for path in paths:
        os.stat(path)
    return len(files) / (time.monotonic() - begin)


def _sequential(top: Path, big: Big, errors: Counter[str]) -> float:
    """MB/s of one pass through the large file into one buffer; the edges of each block are compared
    on the way, as hashing would be slower than what is measured."""
    buffer = bytearray(BLOCK_BYTES)
    view, total, wrong = memoryview(buffer), 0, 0
    begin = time.monotonic()
    with (top / big.file.name).open("rb", buffering=0) as opened:
        for edges in big.edges:
            at = 0
            while at < BLOCK_BYTES and (got := opened.readinto(view[at:])):
                at += got
            wrong += buffer[:EDGE_BYTES] + buffer[-EDGE_BYTES:] != edges
            total += at
    seconds = time.monotonic() - begin
    if wrong or total != big.file.size:
        errors["blocks of the large file read wrong"] += max(wrong, 1)
    return total / seconds / 1e6
