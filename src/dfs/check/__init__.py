"""Checkers: can what clients did and saw have come from one store that loses nothing?

history   what one call did and saw
linear    linearizability, key by key
order     revisions: unique, in the order of time, one value each
replay    what a watcher was told, against what was written
shown     what a reader of a mount found

All of it is pure: calls in, sentences about what is wrong out. None says that nothing was found.
"""

from .history import NEVER, Call, Kind, Outcome
from .linear import Undecided, not_linearizable
from .order import out_of_order
from .replay import Told, badly_told
from .shown import Shown, badly_shown

__all__ = [
    "NEVER", "Call", "Kind", "Outcome", "Shown", "Told", "Undecided", "badly_shown", "badly_told",
    "not_linearizable", "out_of_order",
]
