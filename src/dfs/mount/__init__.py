"""The supervisor of a mount: makes it, keeps its descriptor, keeps an agent serving it.

The agent serves, the supervisor only holds: as long as it has the descriptor of /dev/fuse open,
an agent may die at any moment and the mount stays. Readers then wait a moment for the next agent,
which adopts the connection; open files go on.

    supervisor ── opens /dev/fuse, mounts, starts ──► agent (argv_for_fd(fd, adopt=False))
        │                                                │ dies
        ├─ asks the kernel to hand out again what the dead one had taken (RESEND)
        └─ has the next begin ──────────────────────► agent (argv_for_fd(fd, adopt=True))
                                                         which has stood by

What the agent finds: the descriptor under the number in its arguments; in the variable
`DFS_FUSE_TABLE` the number of a second one, the table of open files (for `Tree.serve` and
`Tree.adopt`); as standard input a pipe that ends when the supervisor does. SIGTERM ends it. With a
variable `DFS_STANDBY` it loads what it needs, and does nothing else until a byte is in that pipe.

| file | has |
| --- | --- |
| points.py | what is mounted where, and by whom |
| making.py | mounts and unmounts, by itself or with fusermount3 |
| supervisor.py | keeps one mount served |
"""

from .making import check_device, check_mountpoint, make_mount, open_device, unmount
from .points import (
    KIND,
    Mounted,
    half_dead,
    identity,
    locate,
    mounts,
    owner,
    started,
    top_mount,
    unescape,
)
from .supervisor import (
    STANDBY_VARIABLE,
    TABLE_VARIABLE,
    MountState,
    MountSupervisor,
    describe_exit,
)

__all__ = [
    "KIND", "STANDBY_VARIABLE", "TABLE_VARIABLE", "MountState", "MountSupervisor", "Mounted",
    "check_device", "check_mountpoint", "describe_exit", "half_dead", "identity", "locate",
    "make_mount", "mounts", "open_device", "owner", "started", "top_mount", "unescape", "unmount",
]
