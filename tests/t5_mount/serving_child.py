"""An agent for tests of the supervisor: serves `objects` below the mount, without a cluster.

    serving_child.py FD serve|adopt OBJECTS

Every file of OBJECTS is shown in `d/`, its version being its size, plus `never` (content never
comes), `late` (comes when OBJECTS/.late exists), `coming` (OBJECTS/.coming, whose first chunk is
here at once, and the others as `late`; where OBJECTS/.replaced exists an empty file is there now)
and what OBJECTS/.fault asks for: `exit` ends at once, `wedge` answers nothing and gets stuck in the
kernel on the first look-up.
"""

import os
import select
import signal
import struct
import sys
import threading
from pathlib import Path

from telling import show

from dfs._engine import Part, Tree
from dfs.limits import OWNER_MAX
from dfs.mount import STANDBY_VARIABLE, TABLE_VARIABLE
from dfs.sealing import seal

UNOWNED = (OWNER_MAX + 1,) * 2
CHUNK = 1 << 20


def wedge(fd: int) -> None:
    """Takes requests and answers none; a thread of it waits for the lock of a reader that waits for
    us."""
    while True:
        select.select([fd], [], [])
        request = os.read(fd, 1 << 21)
        opcode, _, parent = struct.unpack_from("<IQQ", request, 4)
        if opcode == 1:
            name = request[40:]
            notice = struct.pack("<IiQQII", 32 + len(name), 3, 0, parent, len(name) - 1, 0) + name
            thread = threading.Thread(target=os.write, args=(fd, notice))
            thread.start()


def serve(fd: int, adopt: bool, objects: Path) -> None:
    """Serves until standard input ends or SIGTERM comes."""
    tree = Tree({"deadline_ms": 20_000})
    files = sorted(path for path in objects.iterdir() if path.name[0] != ".")
    for path in files:
        seal(path)
    shown = [
        (f"d/{path.name}", 0, path.stat().st_size, 0o644, 10**18, *UNOWNED,
         path.stat().st_size, str(path))
        for path in files
    ]
    cold = [(name, 0, 9, 0o644, 10**18, *UNOWNED, 1, None) for name in ("never", "late")]
    coming = objects / ".coming"
    size = coming.stat().st_size if coming.exists() else 0
    replaced = (objects / ".replaced").exists()
    now = (0, 3) if replaced else (size, 2)
    cold.append(("coming", 0, now[0], 0o644, 10**18, *UNOWNED, now[1], None))
    show(tree, [*shown, *cold])
    table = int(os.environ[TABLE_VARIABLE])
    (tree.adopt if adopt else tree.serve)(fd, table)
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    late: list[int] = []
    chunks: list[tuple[int, int]] = []
    part = part_of(tree, coming, size) if size else None
    while not stop.is_set() and tree.running():
        for miss, path, _, first, upto in tree.next_misses(9, 20):
            if path == "late":
                late.append(miss)
            elif path == "coming":
                chunks.append((miss, upto if first or upto > 1 else 0))
        if (objects / ".late").exists():
            seal(objects / ".late")
            for miss in late:
                tree.fulfil(miss, str(objects / ".late"))
            late.clear()
            for number in range(1, -(-size // CHUNK)):
                part.mark(number)
        for miss, upto in list(chunks):
            if not upto or (objects / ".late").exists():
                tree.fulfil(miss, part)
                chunks.remove((miss, upto))
        if select.select([0], [], [], 0)[0]:
            break  # Our supervisor is gone.
    tree.close()


def part_of(tree: Tree, path: Path, size: int) -> Part:
    """What is here of it: its first chunk."""
    with path.open("rb") as file:
        part = tree.part("coming", 2, file.fileno(), size, CHUNK)
    part.mark(0)
    return part


def main(fd: str, how: str, objects: str) -> None:
    """Runs until told to stop; a standby first waits for its turn."""
    if STANDBY_VARIABLE in os.environ and not os.read(0, 1):
        return
    fault = Path(objects, ".fault")
    what = fault.read_text() if fault.exists() else ""
    if what == "exit":
        sys.exit(7)
    if what == "wedge":
        wedge(int(fd))
    serve(int(fd), how == "adopt", Path(objects))


if __name__ == "__main__":
    main(*sys.argv[1:])
