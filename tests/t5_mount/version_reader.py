"""Reads files at random until its standard input ends; prints what was wrong with them as JSON.

    version_reader.py MOUNT FLOORS SEED

Each file holds one whole version (see `content`). FLOORS is a file of one u32 for each of them: the
version that every later open must at least have.
"""

import hashlib
import json
import mmap
import os
import random
import select
import struct
import sys

FILES = 16


def content(number: int, version: int) -> bytes:
    """What version `version` of file `number` is, all of it."""
    size = 16 + random.Random(number * 100_003 + version).choice([9, 3_000, 60_000, 400_000])
    head = struct.pack("<IIQ", number, version, size)
    return (head + hashlib.sha256(head).digest() * (size // 32 + 1))[:size]


def path(mount: str, number: int) -> str:
    """Where a file is."""
    return f"{mount}/d{number % 3}/f{number}"


def read(file: int, size: int, how: str) -> bytes:
    """The content of an open file, by one of several ways."""
    if how == "map":
        with mmap.mmap(file, 0, prot=mmap.PROT_READ) as view:
            return view[:]
    step = {"whole": size + 1, "chunks": 5_000, "slow": 50_000}[how]
    parts = []
    while part := os.read(file, step):
        parts.append(part)
        if how == "slow":
            select.select([], [], [], 0.001)
    return b"".join(parts)


def problem(mount: str, number: int, floor: int, seen: list[int], how: str) -> str:
    """Reads one file; "" when it was whole and not too old."""
    file = os.open(path(mount, number), os.O_RDONLY)
    try:
        size = os.fstat(file).st_size
        data = read(file, size, how)
    finally:
        os.close(file)
    if len(data) != size:
        return f"{number}: {len(data)} bytes of {size}"
    version = struct.unpack_from("<IIQ", data)[1]
    if data != content(number, version):
        return f"{number}: version {version} is mixed"
    if version < max(floor, seen[number]):
        return f"{number}: version {version} after {floor} was shown, {seen[number]} seen"
    seen[number] = version
    return ""


def main(mount: str, floors: str, seed: str) -> None:
    """Reads until told to stop."""
    chance, seen = random.Random(int(seed)), [0] * FILES
    reads, wrong, errors = 0, [], []
    with open(floors, "rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as shared:
        while not select.select([0], [], [], 0)[0]:
            number = chance.randrange(FILES)
            floor = struct.unpack_from("<I", shared, number * 4)[0]
            how = chance.choice(["map", "whole", "chunks", "slow"])
            try:
                if text := problem(mount, number, floor, seen, how):
                    wrong.append(f"{how} {text}")
            except OSError as error:
                errors.append(f"{how} {error}")
            reads += 1
    sys.stdout.write(json.dumps({"reads": reads, "wrong": wrong[:5], "errors": errors[:5]}))


if __name__ == "__main__":
    main(*sys.argv[1:])
