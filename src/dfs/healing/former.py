"""A log that is damaged, gone or old: the node goes on as somebody else.

Others count on what stood in the log: a vote, and entries that were acknowledged with it. A node
that does not know them any more could help to elect a leader that lacks them. So it never acts
under its id again: log and state are put away, and an empty node with a new id asks the members to
be taken in, in the place of its former self. The leader does that if a majority of the members
agrees without it; until then this node waits.

How it is noticed:

    damaged   the log has a checksum for each record; what does not fit is refused
    short     a last record that is cut, or a missing last file, cannot be told from a torn write.
              So what is on disk for sure is written down beside it every FLUSH_INTERVAL_MS
    another's the log's directory has the id of its node
"""

import logging
from collections.abc import Sequence

from ..errors import Misconfigured
from ..identity import LOG, PROMISES, STORE, Identity
from ..node import Engine
from .parts import LogLost, Quarantine

log = logging.getLogger("dfs.healing")


def check_log(engine: Engine, identity: Identity) -> None:
    """Raises LogLost when the opened log lacks what it had on disk."""
    if lost := engine.lost(identity.promises()):
        raise LogLost(lost)


def become_another(identity: Identity, why: str, peers: Sequence[str]) -> None:
    """Makes this the data directory of an empty node that takes the place of its former self.

    Raises Misconfigured when there is nobody who could take it in, or when it happens too often.
    """
    text = f"the log of {identity.name} cannot be used: {why}"
    if not identity.former:
        if not identity.cluster or not peers:
            raise Misconfigured(
                f"{text}. What it had promised is lost with it, and no other member is known that"
                f" could take {identity.name} in anew: put a good copy of {identity.directory}"
                " back, or restore a backup with `dfs snapshot restore`"
            )
        quarantine = Quarantine(identity.directory)
        quarantine.check(text)
        former = identity.id
        identity.start_over()
        log.warning(
            "%s. Log and state are put away; as a new, empty node (%x) it takes the place of its"
            " former self (%x), as soon as a majority of the other members agrees. If a majority"
            " has lost its logs: dfs recover --plan", text, identity.id, former,
        )  # fmt: skip
    Quarantine(identity.directory).put_away((LOG, STORE, PROMISES), text)
