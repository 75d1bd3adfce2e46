"""A process with an engine that serves, which ends in one of many ways: `exit_child.py WAY DIR`.

Prints the address of its public port; ends when a line comes in. The load comes from outside.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from pathlib import Path

from dfs.nemesis.ports import free_port
from t2_engine.nodes import Node

PUT, GET = 1, 2


def serve(path: Path) -> Node:
    """One node that leads. Put takes its body as entry, Get answers with all it has."""
    node = Node(path, "node1")
    node.grpc = f"127.0.0.1:{free_port()}"
    node.routes = {"/t.S/Put": (PUT, False, False), "/t.S/Get": (GET, True, False)}
    node.method = {PUT: lambda _: None, GET: lambda _: b"x" * 10_000}
    node.start()
    node.engine.initialize(5_000)
    return node


def main(way: str, path: Path) -> None:
    """Serves, then ends."""
    node = serve(path)
    sys.stdout.write(node.grpc + "\n")
    sys.stdout.flush()
    sys.stdin.readline()
    match way:
        case "close":
            node.close()
        case "close in another thread":
            threading.Thread(target=node.close).start()
        case "drain and close":
            node.engine.drain(200)
            node.close()
        case "sys.exit":
            sys.exit(3)
        case "exception":
            raise ZeroDivisionError
        case "SIGTERM":
            os.kill(os.getpid(), signal.SIGTERM)
            threading.Event().wait()
        case "SIGINT":
            # As in a terminal: what a shell starts in the background ignores it from the start.
            signal.signal(signal.SIGINT, signal.default_int_handler)
            signal.raise_signal(signal.SIGINT)
        case "forget":
            del node.engine
        case "return":
            pass
        case _:
            raise ValueError(way)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
