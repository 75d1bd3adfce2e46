"""`dfs serve` as campaigns want it: with other bounds, so that what is rare happens often.

    NEMESIS_LIMITS='{"LOG_KEEP_BYTES": 4096}' python -m dfs.nemesis.node serve …
"""

from __future__ import annotations

import json
import os
import runpy
import sys
from typing import Final

LIMITS: Final = "NEMESIS_LIMITS"


def change_limits(changes: dict[str, int]) -> None:
    """Other values for constants of `dfs.limits`, for modules that are imported after this.

    Raises ValueError when there is no such constant, or somebody has read it already.
    """
    from .. import limits

    for name, value in changes.items():
        if not hasattr(limits, name):
            raise ValueError(f"there is no limit {name}")
        for module in list(sys.modules.values()):
            if module is not limits and module.__name__.startswith("dfs.") and name in vars(module):
                raise ValueError(f"{module.__name__} has read {name} already")
        setattr(limits, name, value)


def main() -> None:
    """The program."""
    change_limits(json.loads(os.environ.get(LIMITS, "{}")))
    runpy.run_module("dfs", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
