"""The supervisor: agents come and go, the mount and what is open on it stay."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dfs.errors import Misconfigured
from dfs.mount import MountState, MountSupervisor, locate, top_mount

from .mount_rig import HERE, SRC, Background, needs_fuse, python, unmount_all, wait_until

pytestmark = needs_fuse

DIED = r"(was ended by SIGKILL|was killed and has not ended yet); starting another"
FILES = 50


class Site:
    """A mount point, objects, and the supervisor between them."""

    def __init__(self, folder: Path) -> None:
        self.objects, self.point = folder / "objects", folder / "mount"
        self.objects.mkdir()
        self.point.mkdir()
        for number in range(FILES):
            (self.objects / f"f{number}").write_bytes(bytes([number]) * (1_000 + number))
        path = os.pathsep.join(filter(None, [str(SRC), os.environ.get("PYTHONPATH", "")]))
        self.supervisor = MountSupervisor(
            self.argv, str(self.point), env={**os.environ, "PYTHONPATH": path}
        )

    def argv(self, fd: int, adopt: bool) -> list[str]:
        """The command line of an agent."""
        how = "adopt" if adopt else "serve"
        child = str(HERE / "serving_child.py")
        return [sys.executable, child, str(fd), how, str(self.objects)]

    def read(self, number: int) -> None:
        """Reads one file and checks it."""
        data = (self.point / f"d/f{number}").read_bytes()
        assert data == bytes([number]) * (1_000 + number)

    def fault(self, what: str) -> None:
        """How the next agent misbehaves; "" = not at all."""
        (self.objects / ".fault").write_text(what)

    def kill(self) -> int:
        """Kills the agent; returns its process id."""
        pid = self.state.pid
        os.kill(pid, signal.SIGKILL)
        return pid

    @property
    def state(self) -> MountState:
        """What the supervisor says."""
        return self.supervisor.poll()

    def wait_for_another(self, pid: int) -> None:
        """Until another agent runs."""
        wait_until(lambda: self.state.pid not in (0, pid))


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    site = Site(tmp_path)
    try:
        yield site
    finally:
        site.supervisor.stop()
        unmount_all(site.point)


@pytest.fixture
def stack() -> Iterator[contextlib.ExitStack]:
    with contextlib.ExitStack() as stack:
        yield stack


def mounted(site: Site) -> bool:
    return top_mount(locate(str(site.point))) is not None


def test_a_mount_is_served_and_gone_afterwards(site: Site) -> None:
    site.supervisor.start()
    site.read(7)
    assert site.state.mounted
    assert site.state.problem == ""
    pid = site.state.pid
    site.supervisor.stop()
    site.supervisor.stop()
    assert not mounted(site)
    assert os.listdir(site.point) == []
    assert not os.path.exists(f"/proc/{pid}")
    assert site.state == MountState(False, 0, 0, None, "")


class Looper:
    """Reads over and over; remembers errors and the longest wait."""

    def __init__(self, read: Callable[[], None]) -> None:
        self.errors: list[Exception] = []
        self.count, self.worst = 0, 0.0
        self._read = read
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._stop.is_set():
            begun = time.monotonic()
            try:
                self._read()
            except (OSError, AssertionError) as error:
                self.errors.append(error)
            self.count += 1
            self.worst = max(self.worst, time.monotonic() - begun)

    def go_on(self) -> None:
        """Returns when it has read a few times more."""
        before = self.count
        wait_until(lambda: self.count > before + 9)

    def stop(self) -> None:
        """Ends it."""
        self._stop.set()
        self._thread.join(20)
        assert not self._thread.is_alive(), "it hangs"


@pytest.mark.allow_logs(DIED)
def test_killed_agents_are_not_noticed_by_readers(
    site: Site, stack: contextlib.ExitStack
) -> None:
    """When an agent is killed, open files, readers and whoever waits for content go on with the
    next one, without an error."""
    site.supervisor.start()
    site.read(0)
    paths = [site.point / f"d/f{number}" for number in range(FILES)]
    handles = [stack.enter_context(path.open("rb", buffering=0)) for path in paths]
    numbers = iter(range(10**9))
    loopers = [
        Looper(lambda: site.read(next(numbers) % FILES)),
        Looper(lambda: os.listdir(site.point / "d")),
        Looper(lambda: os.stat(site.point / "d/f3")),
    ]
    late = Background((site.point / "late").read_bytes)
    for _ in range(3):
        site.wait_for_another(site.kill())
        for looper in loopers:
            looper.go_on()
    (site.objects / ".part").write_bytes(b"here I am")
    (site.objects / ".part").rename(site.objects / ".late")
    assert late.get() == b"here I am"
    for looper in loopers:
        looper.stop()
        assert looper.errors == []
        assert looper.worst < 5
    for number, handle in enumerate(handles):
        assert handle.read() == bytes([number]) * (1_000 + number)
        site.read(number)  # Open for passthrough since before: opened once more by another agent.
    assert site.state.restarts == 3
    assert site.state.last_exit in (-signal.SIGKILL, None)  # None: not reaped at once.


@pytest.mark.allow_logs(DIED)
def test_another_agent_serves_within_a_second(site: Site) -> None:
    site.supervisor.start()
    site.read(0)
    took = []
    for number in range(1, 4):
        begun = time.monotonic()
        pid = site.kill()
        site.read(number)  # Not in any cache of the kernel: somebody has to answer.
        took.append(time.monotonic() - begun)
        site.wait_for_another(pid)
    assert min(took) < 1


# ---- the agent that stands by --------------------------------------------------------------------
def standby(site: Site, *not_these: int) -> int:
    """The process that becomes the next agent, and is none of these."""
    wait_until(lambda: site.state.standby not in (0, *not_these))
    return site.state.standby


@pytest.mark.allow_logs(DIED)
def test_the_agent_that_stands_by_is_the_next_one(site: Site) -> None:
    """While 100 readers read: none has an error, and none was served by two."""
    site.supervisor.start()
    site.read(0)
    numbers = iter(range(10**9))
    loopers = [Looper(lambda: site.read(next(numbers) % FILES)) for _ in range(100)]
    used: list[int] = []
    for _ in range(3):
        following = standby(site, *used)
        assert following != site.state.pid
        assert len(thread_states(following)) == 1, "it serves nobody"
        site.wait_for_another(site.kill())
        used.append(site.state.pid)
        assert used[-1] == following
        for looper in loopers[:9]:
            looper.go_on()
    for looper in loopers:
        looper.stop()
        assert looper.errors == []
    assert len(set(used)) == site.state.restarts == 3


@pytest.mark.allow_logs(DIED)
def test_when_both_die_a_fresh_agent_serves(site: Site) -> None:
    site.supervisor.start()
    following, pid = standby(site), site.state.pid
    os.kill(following, signal.SIGKILL)
    site.kill()
    site.wait_for_another(pid)
    site.read(1)
    assert site.state.pid != following


def test_an_agent_that_stood_by_and_died_is_replaced(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dfs.mount.supervisor.AGENT_RESTART_MS_MAX", 50)
    site.supervisor.start()
    following, pid = standby(site), site.state.pid
    os.kill(following, signal.SIGKILL)
    standby(site, following)
    site.read(1)
    assert (site.state.pid, site.state.restarts) == (pid, 0)


def test_who_stands_by_ends_with_the_mount(site: Site) -> None:
    site.supervisor.start()
    pids = [standby(site), site.state.pid]
    site.supervisor.stop()
    assert not any(os.path.exists(f"/proc/{pid}") for pid in pids)
    assert site.state == MountState(False, 0, 0, None, "")


@pytest.mark.allow_logs(r"was unmounted|starting another")
def test_who_stands_by_for_a_mount_that_is_gone_never_serves(site: Site) -> None:
    site.supervisor.start()
    following, pid = standby(site), site.state.pid
    subprocess.run(["umount", "-l", site.point], check=True)
    wait_until(lambda: mounted(site) and site.state.pid not in (0, pid))
    assert site.state.pid != following
    assert not os.path.exists(f"/proc/{following}")
    site.read(2)


@pytest.mark.allow_logs(DIED)
def test_without_passthrough_open_files_outlive_their_agent_too(site: Site) -> None:
    """As without CAP_SYS_ADMIN: the agent reads, and goes on where the dead one had stopped."""
    data = os.urandom(4 << 20)
    (site.objects / "big").write_bytes(data)
    argv = site.supervisor._argv_for_fd
    drop = ["setpriv", "--bounding-set=-sys_admin", "--inh-caps=-sys_admin"]
    site.supervisor._argv_for_fd = lambda fd, adopt: [*drop, *argv(fd, adopt)]
    site.supervisor.start()
    with (site.point / "d/big").open("rb", buffering=0) as file:
        assert file.read(10) == data[:10]
        site.wait_for_another(site.kill())
        assert os.pread(file.fileno(), len(data), 0) == data
        assert (site.point / "d/big").read_bytes() == data
    assert (site.point / "d/big").read_bytes() == data


@pytest.mark.allow_logs(r"cannot be handed over", DIED)
def test_kernels_without_handing_over_get_a_new_mount(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(fd: int) -> None:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))

    monkeypatch.setattr("dfs.mount.supervisor.fuse_resend", refuse)
    site.supervisor.start()
    site.read(1)
    site.wait_for_another(site.kill())
    site.read(2)
    site.supervisor.stop()
    assert not mounted(site)


@pytest.mark.allow_logs(DIED)
def test_what_changed_while_no_agent_lived_is_seen(site: Site) -> None:
    site.supervisor.start()
    listed = os.listdir(site.point / "d")
    site.read(1)
    assert not (site.point / "d/new").exists()
    (site.objects / "new").write_bytes(b"new")
    (site.objects / "f2").unlink()
    (site.objects / "f1").write_bytes(b"changed")
    site.wait_for_another(site.kill())
    wait_until(lambda: (site.point / "d/new").exists())
    wait_until(lambda: set(os.listdir(site.point / "d")) == {*listed, "new"} - {"f2"})
    assert not (site.point / "d/f2").exists()
    assert (site.point / "d/f1").read_bytes() == b"changed"


@pytest.mark.allow_logs(DIED)
def test_an_agent_that_is_stuck_in_the_kernel_is_replaced(site: Site) -> None:
    """Killed while one of its threads waits for a lock whose holder waits for the agent: it cannot
    end before another one answers."""
    site.supervisor.start()
    site.read(1)
    site.fault("wedge")
    pid = site.kill()
    site.wait_for_another(pid)
    wedged = site.state.pid
    reader = Background(lambda: site.read(9))
    wait_until(lambda: "D" in thread_states(wedged))  # It waits for a lock in the kernel.
    site.fault("")
    site.kill()
    site.wait_for_another(wedged)
    reader.get()
    wait_until(lambda: not os.path.exists(f"/proc/{wedged}"))


def thread_states(pid: int) -> list[str]:
    """A letter for each thread of a process, as in /proc."""
    states = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            states.append((task / "stat").read_text().rpartition(")")[2].split()[0])
    return states


@pytest.mark.allow_logs(r"ended with exit code 7; starting another")
def test_agents_that_die_at_once_are_started_ever_less_often(site: Site) -> None:
    site.fault("exit")
    site.supervisor.start()
    reader = Background(lambda: site.read(3))
    begun = time.monotonic()
    wait_until(lambda: site.state.restarts >= 5)
    assert time.monotonic() - begun > 0.1 + 0.2 + 0.4
    assert "exit code 7" in site.state.problem
    site.fault("")
    reader.get()
    wait_until(lambda: site.state.problem == "")


def test_an_agent_that_cannot_be_started_is_said(
    site: Site, allow_logs: Callable[[str], None]
) -> None:
    allow_logs(r"cannot be started")
    site.supervisor._argv_for_fd = lambda fd, adopt: ["/no/such/agent"]  # noqa: ARG005
    site.supervisor.start()
    wait_until(lambda: "cannot be started" in site.state.problem)
    site.supervisor.stop()
    assert not mounted(site)


def test_stopping_does_not_wait_for_a_busy_mount(site: Site) -> None:
    """Stopping takes the mount away within seconds, whoever has files open, stands in it or waits
    for it."""
    site.supervisor.start()
    inside = os.open(site.point / "d", os.O_RDONLY)
    handle = (site.point / "d/f1").open("rb", buffering=0)
    waiting = Background((site.point / "never").read_bytes)
    worker = subprocess.Popen(["sleep", "60"], cwd=site.point / "d")
    try:
        begun = time.monotonic()
        site.supervisor.stop()
        assert time.monotonic() - begun < 4
        assert not mounted(site)
        with pytest.raises(OSError, match="Errno"):
            waiting.get()
        assert handle.read() == bytes([1]) * 1_001  # Passthrough: the kernel has it.
    finally:
        worker.kill()
        worker.wait()
        handle.close()
        os.close(inside)


def test_stopping_does_not_wait_for_an_agent_that_hangs(site: Site) -> None:
    site.supervisor.start()
    site.read(1)
    pid = site.state.pid
    os.kill(pid, signal.SIGSTOP)
    wait_until(lambda: all(state == "T" for state in thread_states(pid)))
    reader = Background(lambda: site.read(2))
    begun = time.monotonic()
    site.supervisor.stop()
    assert time.monotonic() - begun < 8
    assert not mounted(site)
    with pytest.raises(OSError, match="Errno"):
        reader.get()


@pytest.mark.allow_logs(r"was unmounted|starting another")
@pytest.mark.parametrize("busy", [False, True])
def test_a_mount_that_somebody_took_away_comes_back(site: Site, busy: bool) -> None:
    site.supervisor.start()
    site.read(1)
    pid = site.state.pid
    with contextlib.ExitStack() as stack:
        if busy:  # The kernel then keeps the mount out of sight, and its connection alive.
            stack.enter_context((site.point / "d/f2").open("rb"))
        subprocess.run(["umount", "-l", site.point], check=True)
        wait_until(lambda: mounted(site) and site.state.pid not in (0, pid))
        site.read(2)


# ---- mount points --------------------------------------------------------------------------------
ABANDON = """
import os, sys
from dfs.mount import make_mount
path, fd = make_mount(sys.argv[1], True)
if sys.argv[2] == "die":
    os._exit(0)
print("mounted", flush=True)
sys.stdin.read()
"""


def other_process(point: Path, what: str) -> subprocess.Popen[bytes]:
    """A process that makes a mount, and dies or stays until its input ends."""
    path = os.pathsep.join(filter(None, [str(SRC), os.environ.get("PYTHONPATH", "")]))
    return subprocess.Popen(
        [sys.executable, "-c", ABANDON, str(point), what],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": path},
    )


@pytest.mark.allow_logs(r"a mount of a process that is gone \(dfs:\d+:\d+\) is replaced")
def test_dead_mounts_are_taken_over(site: Site) -> None:
    """The mount of a process that is gone is replaced at the next start."""
    for _ in range(2):
        with other_process(site.point, "die") as process:
            process.communicate(timeout=20)
        with pytest.raises(OSError, match="not connected"):
            os.listdir(site.point)
    site.supervisor.start()
    site.read(5)
    site.supervisor.stop()
    assert not mounted(site)


def test_a_mount_of_a_living_process_is_left_alone(site: Site) -> None:
    with other_process(site.point, "stay") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"mounted\n"
        with pytest.raises(Misconfigured, match=f"by process {process.pid}, which is alive"):
            site.supervisor.start()
        assert mounted(site)
        process.communicate(timeout=20)


@pytest.mark.parametrize(
    ("name", "make", "says"),
    [
        ("none", lambda _: None, "does not exist; make it"),
        ("file", lambda path: path.write_text(""), "is no directory"),
        ("full", lambda path: (path.mkdir(), (path / "x").write_text("")), "is not empty"),
    ],
)
def test_a_mount_point_that_cannot_be_used_is_said_with_the_remedy(
    tmp_path: Path, name: str, make: Callable[[Path], object], says: str
) -> None:
    make(tmp_path / name)
    with pytest.raises(Misconfigured, match=says):
        MountSupervisor(lambda fd, adopt: [], str(tmp_path / name)).start()  # noqa: ARG005
    assert top_mount(str(tmp_path / name)) is None


def test_an_agent_ends_with_its_supervisor(tmp_path: Path) -> None:
    """A node that is killed leaves no agent behind that would serve and upload for nobody."""
    site = Site(tmp_path)
    with python(
        "supervising_child.py", site.point, site.objects, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        pids = process.stdout.readline().split()
        site.read(1)
        process.kill()
    assert len(pids) == 2
    wait_until(lambda: not any(os.path.exists(f"/proc/{int(pid)}") for pid in pids))
    unmount_all(site.point)
