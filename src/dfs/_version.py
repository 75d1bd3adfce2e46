"""The version of this installation, or of the source tree that runs without one."""

import re
from pathlib import Path
from typing import Final

UNKNOWN: Final = "unknown"


def version() -> str:
    """The version that engine/Cargo.toml states; in a source tree it is read from there."""
    manifest = Path(__file__).parents[2] / "engine" / "Cargo.toml"
    try:
        found = re.search(r'^version = "([^"]+)"', manifest.read_text(encoding="utf-8"), re.M)
    except OSError:
        found = None
    if found:
        return found[1]
    from importlib import metadata  # takes 10 ms, most of them for e-mail headers

    try:
        return metadata.version("dfs")
    except metadata.PackageNotFoundError:
        return UNKNOWN
