"""A supervisor in a process of its own; prints the process ids of its agent, and of the one that
stands by, and waits.

    supervising_child.py MOUNT OBJECTS
"""

import signal
import sys
from pathlib import Path

from dfs.mount import MountSupervisor


def main(mount: str, objects: str) -> None:
    """Until it is killed."""
    child = str(Path(__file__).parent / "serving_child.py")
    supervisor = MountSupervisor(
        lambda fd, adopt: [
            sys.executable, child, str(fd), "adopt" if adopt else "serve", objects,
        ],
        mount,
    )
    supervisor.start()
    while not (state := supervisor.poll()).standby:
        pass
    sys.stdout.write(f"{state.pid} {state.standby}\n")
    sys.stdout.flush()
    signal.pause()


if __name__ == "__main__":
    main(*sys.argv[1:])
