"""Keys: what a path in the tree may look like. The only place that checks them.

A key is a relative UTF-8 path, "a/b/c". The root is no key: it has no record and cannot be written.
"""

import re
from typing import Final

from dfs.errors import InvalidArgument
from dfs.limits import COMPONENT_BYTES_MAX, KEY_BYTES_MAX, TARGET_BYTES_MAX

RESERVED: Final = ".dfs"
"""First component that belongs to dfs itself."""

_PLAIN = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_. -]*(?:/[A-Za-z0-9_-][A-Za-z0-9_. -]*)*")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_SHOWN_MAX = 80


def check_key(key: str) -> None:
    """Raises InvalidArgument, naming the rule, unless `key` can stand in the tree."""
    if len(key) <= COMPONENT_BYTES_MAX and _PLAIN.fullmatch(key):
        return
    broken = _broken_rule(key)
    if broken:
        raise InvalidArgument(f"bad key {_shown(key)}: {broken}")


def check_target(target: str) -> None:
    """Raises InvalidArgument unless `target` can be what a symbolic link holds."""
    try:
        size = len(target.encode())
    except UnicodeEncodeError:
        raise InvalidArgument("bad symlink target: it is not UTF-8") from None
    if not target:
        raise InvalidArgument("bad symlink target: it is empty")
    if size > TARGET_BYTES_MAX:
        raise InvalidArgument(
            f"bad symlink target: it has {size:,} bytes, the limit is {TARGET_BYTES_MAX:,}"
        )
    if "\0" in target:
        raise InvalidArgument("bad symlink target: it holds a NUL")


def parent(key: str) -> str:
    """The directory that holds `key`; "" = the root."""
    return key.rpartition("/")[0]


def is_below(key: str, directory: str) -> bool:
    """Whether `key` stands in the subtree of `directory` ("" = the root), itself excluded."""
    return not directory or key.startswith(directory + "/")


def _broken_rule(key: str) -> str:
    try:
        encoded = key.encode()
    except UnicodeEncodeError:
        return "it is not UTF-8"
    if not key:
        return "it is empty (the root is no key)"
    if len(encoded) > KEY_BYTES_MAX:
        return f"it has {len(encoded):,} bytes, the limit is {KEY_BYTES_MAX:,}"
    if key.startswith("/"):
        return "it starts with '/': keys are relative"
    if key.endswith("/"):
        return "it ends with '/'"
    if _CONTROL.search(key):
        return "it holds a control character"
    components = key.split("/")
    if components[0] == RESERVED:
        return f"the name {RESERVED!r} at the top is reserved"
    for component in components:
        if not component:
            return "it holds '//': a component is empty"
        if component in (".", ".."):
            return f"the component {component!r} is not allowed"
        size = len(component.encode())
        if size > COMPONENT_BYTES_MAX:
            return f"a component has {size:,} bytes, the limit is {COMPONENT_BYTES_MAX:,}"
    return ""


def _shown(key: str) -> str:
    return repr(key if len(key) <= _SHOWN_MAX else key[:_SHOWN_MAX] + "…")
