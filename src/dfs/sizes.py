"""Sizes as people write and read them, and what is to stay free on a disk."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Any, Final

NONE: Final = "none"
"""Said where there is to be no bound."""

_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(?:i?B)?", re.IGNORECASE)


def size_of(value: Any) -> int:
    """"10GiB", "500M", "4096"; "none" is 0. Raises ValueError."""
    if value in (None, False, NONE):
        return 0
    match = _SIZE.fullmatch(str(value).strip())
    if not match:
        raise ValueError(f"{value!r} is no size such as 10GiB, 500MiB or {NONE}")
    return int(float(match[1]) * 1024 ** " KMGT".index((match[2] or " ").upper()))


def size_text(count: int) -> str:
    """A size as people read it, and as `size_of` takes it."""
    number, unit = float(count), "B"
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if number < 1024 or unit == "TiB":
            break
        number /= 1024
    return f"{number:.1f}".removesuffix(".0") + unit


@dataclass(frozen=True)
class FreeSpace:
    """What is to stay free on a disk: bytes, a share of it, or whichever of the two is less."""

    bytes: int | None = None
    share: float | None = None

    @staticmethod
    def of(value: Any) -> FreeSpace:
        """"1GiB", "5%", "1GiB,5%"; "none". Raises ValueError."""
        found = FreeSpace()
        for part in str(value or NONE).split(","):
            if part.strip().endswith("%"):
                number = part.strip()[:-1]
                if not re.fullmatch(r"\d{1,2}(\.\d+)?", number):
                    raise ValueError(f"{part.strip()!r} is no share of a disk, such as 5%")
                found = replace(found, share=float(number) / 100)
            elif str(value) != NONE:
                found = replace(found, bytes=size_of(part))
        return found

    def least(self, total: int) -> int:
        """Bytes, on a disk of so many."""
        given = [self.bytes] if self.bytes is not None else []
        if self.share is not None:
            given.append(int(self.share * total))
        return min(given, default=0)

    def __bool__(self) -> bool:
        return bool(self.bytes or self.share)

    def __str__(self) -> str:
        parts = []
        if self.bytes is not None:
            text = size_text(self.bytes)
            parts.append(text if size_of(text) == self.bytes else str(self.bytes))
        parts += [f"{self.share * 100:g}%"] if self.share is not None else []
        return ",".join(parts) or NONE


NOTHING_FREE: Final = FreeSpace()
"""A disk may be filled to the last byte."""
