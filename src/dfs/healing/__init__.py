"""What is damaged on the disk of a node: noticed, put away, and had again from others.

    state       the store: from the log or from another member, under the same name and id
    former      the log, or the vote in it: as somebody else, who takes the place of the former self
    elsewhere   a copy of the data directory, or an old one: what only others know
    parts       what both need: whose a part of the data directory is, and the quarantine
"""

from .elsewhere import Elsewhere
from .former import become_another, check_log
from .parts import LogLost, Quarantine, claim
from .state import Healer

__all__ = ["Elsewhere", "Healer", "LogLost", "Quarantine", "become_another", "check_log", "claim"]
