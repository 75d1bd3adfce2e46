"""Protobuf varints by table: the hot path writes several for each put."""

from typing import Final

LOW: Final = 1 << 14
_HIGH: Final = 1 << 28
LAST: Final = tuple(
    bytes((n,)) if n < 0x80 else bytes((n & 0x7F | 0x80, n >> 7)) for n in range(LOW)
)
"""Varints below LOW."""
_MORE: Final = tuple(bytes((n & 0x7F | 0x80, n >> 7 | 0x80)) for n in range(LOW))
"""The low 14 bits of a longer one."""


def varint(number: int) -> bytes:
    """A protobuf varint; not negative."""
    if number < LOW:
        return LAST[number]
    if number < _HIGH:
        return _MORE[number & (LOW - 1)] + LAST[number >> 14]
    return _MORE[number & (LOW - 1)] + varint(number >> 14)
