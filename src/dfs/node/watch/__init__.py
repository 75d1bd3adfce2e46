"""Watches: every change once, in order, whole revisions, from any retained revision on.

A watcher is in one of two states. **Live**: it belongs to a group of watchers that want the same;
the hot thread's changes are picked and encoded once for the group, and one `send` brings the
message to all of them. **Alone**: its changes are read from history, piece by piece, each from a
view pinned for it, while the new ones collect in a queue of its own; then it joins a group.

The seam between both is one index, that up to which all has been told. The queue is emptied and
collects *before* a view is pinned, so whatever the view does not show is in the queue. When the
queue is empty the watcher joins; what it has and the group has not told yet is recognised by its
revision.

A caller that does not take its messages loses nothing but speed: its watcher leaves the group,
waits for room, and goes back to history. Only when the floor has passed what it needs does it get a
gap.
"""

from .watcher import Wanted, Watcher
from .watches import Watches

__all__ = ["Wanted", "Watcher", "Watches"]
