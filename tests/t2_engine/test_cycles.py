"""Starting and stopping often leaks nothing."""

import os
import subprocess
import sys
import threading
from pathlib import Path

from dfs import _engine

from .nodes import Node, wait_until

CYCLES = 200


def descriptors() -> int:
    """Open descriptors of this process."""
    return len(os.listdir("/proc/self/fd"))


def threads() -> int:
    """Threads of this process, Rust's included."""
    return len(os.listdir("/proc/self/task"))


def cycle(node: Node, initialize: bool = False) -> None:
    """One start, one put, one stop."""
    node.start()
    if initialize:
        node.engine.initialize(5_000)
    node.put("a", "1")
    node.close()


def test_200_starts_and_stops_leak_nothing(tmp_path: Path) -> None:
    node = Node(tmp_path, "node1")
    cycle(node, initialize=True)
    cycle(node)
    before = (descriptors(), threads(), threading.active_count())
    for _ in range(CYCLES):
        cycle(node)
    assert (descriptors(), threads(), threading.active_count()) == before
    assert node.put.__self__.disk.data == {"a": "1"}  # type: ignore[attr-defined]


def test_close_is_quick_while_python_holds_a_batch(tmp_path: Path) -> None:
    node = Node(tmp_path, "node1").start()
    node.engine.initialize(5_000)
    node.put("a", "1")
    node.going.clear()
    node.begin_put("b", "1")
    node.engine.wake()
    done = threading.Thread(target=node.close)
    done.start()
    done.join(5)
    assert not done.is_alive()


def test_close_lets_threads_go_that_wait_in_the_engine(tmp_path: Path) -> None:
    node = Node(tmp_path, "node1").start()
    node.engine.initialize(5_000)
    node.do = lambda *_: None
    failed: list[BaseException] = []

    def wait() -> None:
        node.going.clear()
        try:
            node.engine.ask(node.addr, b"nobody answers", 30_000)
        except BaseException as error:  # boundary: the thread ends; all are looked at below
            failed.append(error)

    waiting = [threading.Thread(target=wait) for _ in range(4)]
    for thread in waiting:
        thread.start()
    wait_until(lambda: not node.going.is_set())
    node.close()
    for thread in waiting:
        thread.join(5)
    # The node asks itself here: a question that arrived is answered with a refusal at the end.
    assert all(isinstance(e, ConnectionError | _engine.EngineError) for e in failed)
    assert len(failed) == 4


def test_a_process_that_ends_without_close_ends_well(tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from t2_engine.nodes import Node\n"
        "node = Node(Path(sys.argv[1]), 'node1').start()\n"
        "node.engine.initialize(5_000)\n"
        "node.put('a', '1')\n"
        "print('put', flush=True)\n"
    )
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([p for p in sys.path if p])}
    env["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parent.parent), env["PYTHONPATH"]])
    result = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)],
        env=env,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert (result.returncode, result.stdout) == (0, "put\n"), result.stderr
