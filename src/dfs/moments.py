"""Points of time as people write them, and what stands for a revision."""

from __future__ import annotations

import re
from datetime import datetime
from typing import Final

FORMS: Final = "2026-11-25, 2026-11-25T10:00Z, 2026-11-25T10:00:00.5Z, 2026-11-25T10:00:00+01:00"
_MOMENT = re.compile(
    r"(?P<date>\d{4}-\d\d-\d\d)"
    r"(?:[T ](?P<time>\d\d:\d\d)(?:(?P<second>:\d\d)(?:\.(?P<part>\d{1,9}))?)?"
    r"(?P<zone>Z|[+-]\d\d:\d\d))?",
    re.ASCII,
)
_TIME_NS_MAX: Final = (1 << 63) - 1
_REVISION = re.compile(r"[1-9]\d{0,18}", re.ASCII)


def time_of(text: str) -> int:
    """Nanoseconds since 1970 of an ISO 8601 time.

    A date, which is its first moment in UTC; or a date, "T" or one space, hours and minutes, if
    wanted seconds and up to nine digits of their fraction, and "Z" or an offset, without which a
    time would be another one on each machine. Raises ValueError.
    """
    match = _MOMENT.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is no time such as {FORMS}")
    clock = (match["time"] or "00:00") + (match["second"] or ":00")
    zone = "+00:00" if match["zone"] in (None, "Z") else match["zone"]
    try:
        whole = datetime.fromisoformat(f"{match['date']}T{clock}{zone}")
    except ValueError as error:
        raise ValueError(f"{text!r} is no time: {error}") from None
    time_ns = round(whole.timestamp()) * 1_000_000_000 + int((match["part"] or "").ljust(9, "0"))
    if not 0 <= time_ns <= _TIME_NS_MAX:
        raise ValueError(f"{text!r} is no time between 1970 and 2262")
    return time_ns


def revision_of(text: str) -> int | None:
    """The revision that digits stand for; None: it is something else, perhaps a time."""
    return int(text) if _REVISION.fullmatch(text) else None
