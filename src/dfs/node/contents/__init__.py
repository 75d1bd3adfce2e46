"""Large contents: how a member gets them, keeps them, and lets them go.

A put of a large content is made in this order, so that nothing that is committed lacks its bytes:

    adopt    the node that was called has it on its own disk
    spread   every other member is asked to hold it, and pulls the chunks that it lacks from the
             node that asks; a majority of the voters, the asker included, has it on disk
    propose  the entry that names it

Whoever was not part of that majority goes on pulling. A member that lacks what its state names gets
it in the background from whoever has it: after it was away, wiped, or found damage. What nothing
names goes, after CONTENT_KEEP_S; and only when a read barrier has shown that this node has applied
every entry that could name it, since others may count on what it once said it holds.
"""

from .contents import Contents
from .pulls import check_space
from .scrub import Scrub

__all__ = ["Contents", "Scrub", "check_space"]
