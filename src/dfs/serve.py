"""A node from its settings: opened in order, closed in reverse."""

import asyncio
import errno
import faulthandler
import logging
import signal
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Final, NamedTuple, Protocol

from . import limits
from ._version import version
from .contents import DIRECTORY
from .errors import DfsError, Misconfigured, OutOfSpace, remedy
from .healing import Elsewhere, Healer, LogLost, become_another, check_log, claim
from .identity import LOG, SOCKET, UPSTREAM, Identity, open_identity
from .kv import KeyValue, RocksKV
from .limits import ELECTION_MS_MAX, LED_INTERVAL_MS, READY_INTERVAL_MS, SWITCH_INTERVAL_US
from .node import Engine, Myself, Node, StateFault, stop_process
from .node.tasks import in_thread
from .server import Streams, codec, routes
from .status import engine_failures
from .store import Store

log = logging.getLogger("dfs.serve")

ENGINE_OPTIONS: Final = (
    "heartbeat_ms", "election_ms_min", "election_ms_max",
    "calls_waiting_max", "call_bytes_waiting_max", "deadline_ms_default", "deadline_ms_max",
    "message_bytes_max", "metadata_bytes_max", "streams_per_connection_max", "connections_max",
    "connections_per_address_max", "handshake_ms_max", "snapshot_log_bytes", "log_keep_bytes",
    "no_leader_ms_max", "answer_ms_max", "stall_ms_max", "python_ms_max", "progress_ms_max",
    "answers_bytes_max", "stream_bytes", "apply_lag_entries_max", "apply_lag_bytes_max",
    "log_file_bytes", "disk_late_ms", "disk_late_for_ms", "disk_stall_ms_max",
)  # fmt: skip
"""Limits that the engine takes under their own name."""


class Settings(Protocol):
    """What a node needs of the settings; `dfs.config.Settings` has more."""

    @property
    def id(self) -> str:
        """Name of the node."""

    @property
    def data(self) -> Path:
        """Directory for log, store and identity."""

    @property
    def peers(self) -> tuple[str, ...]:
        """Peer addresses of other nodes, perhaps with its own among them."""

    @property
    def insecure(self) -> bool:
        """Serve callers that are not on this machine."""

    @property
    def transfer_rate(self) -> int:
        """Bytes a second that are fetched of contents that nobody waits for; 0 = no bound."""

    @property
    def raft_listen(self) -> str:
        """Address to bind for peers."""

    @property
    def raft_advertise(self) -> str:
        """Address that the other nodes connect to."""

    @property
    def grpc_listen(self) -> str:
        """Address to bind for callers."""

    @property
    def grpc_advertise(self) -> str:
        """Address that clients learn."""


class Backend(NamedTuple):
    """What a node stands on: the real thing, or the twins in memory."""

    engine: Callable[..., Engine]
    engine_error: type[Exception]
    kv: Callable[[Path], KeyValue]


class Running(NamedTuple):
    """A node that serves its socket."""

    node: Node
    identity: Identity
    socket: Path
    """Serves the public API to programs of this machine and user."""
    upstream: Path
    """The stock gRPC server behind it."""
    engine: Engine
    store: Store


Companion = Callable[[Running], AbstractAsyncContextManager[Any]]
"""Something that lives as long as the node does, such as the supervisor of the agent."""


def real_backend() -> Backend:
    """Raft and gRPC in Rust, the state in RocksDB."""
    try:
        from . import _engine
    except ImportError as error:
        raise Misconfigured(f"the engine is not built ({error}): run `make setup`") from None
    return Backend(_engine.Engine, _engine.EngineError, RocksKV)


async def run(
    settings: Settings,
    companion: Companion,
    announce: Callable[[Running], None],
    backend: Backend | None = None,
) -> None:
    """Serves until SIGTERM or SIGINT. `announce` is called when the node is ready: once, and again
    each time that it had to be opened anew because of damage.

    Raises DfsError: Misconfigured where the user has to change something.
    """
    faulthandler.register(signal.SIGUSR1)  # what every thread does, to stderr
    sys.setswitchinterval(SWITCH_INTERVAL_US / 1_000_000)
    stop = _stop_on_signals()
    backend = backend or real_backend()
    async with Beside() as beside:
        while not stop.is_set():
            with suppress(StateFault):  # opened again, it is healed
                await _run_once(settings, companion, announce, backend, stop, beside)
                return


class Beside(AsyncExitStack):
    """Holds the companion, which ends before the node, but lives on while that is healed."""

    def __init__(self) -> None:
        super().__init__()
        self._begun = False

    async def begin(self, companion: Companion, running: Running) -> None:
        """Has it live from here on, if it does not yet."""
        if not self._begun:
            self._begun = True
            await self.enter_async_context(companion(running))


async def _run_once(
    settings: Settings,
    companion: Companion,
    announce: Callable[[Running], None],
    backend: Backend,
    stop: asyncio.Event,
    beside: Beside,
) -> None:
    async with AsyncExitStack() as stack:
        opening = asyncio.ensure_future(
            stack.enter_async_context(running_node(settings, backend))
        )  # which may take long, where a state has to be had from others
        if await _first(opening, stop, None):
            return
        running = opening.result()
        try:
            await _serve(running, companion, announce, stop, beside)
        except StateFault:
            raise
        except BaseException:
            await beside.aclose()
            raise
        await beside.aclose()
        log.info("stopping: leadership is handed away, calls under way may end")


async def _serve(
    running: Running,
    companion: Companion,
    announce: Callable[[Running], None],
    stop: asyncio.Event,
    beside: Beside,
) -> None:
    node = running.node
    if running.identity.cluster and await _first(_caught_up(node), stop, node.failed):
        return
    await beside.begin(companion, running)
    if await _first(node.become_member(), stop, node.failed):
        return
    if await _first(_ready(node), stop, node.failed):
        return
    announce(running)
    await _first(stop.wait(), stop, node.failed)


@asynccontextmanager
async def running_node(
    settings: Settings, backend: Backend, die: Callable[[str], Any] = stop_process
) -> AsyncIterator[Running]:
    """A node that answers on its socket and ports; it need not be a member of a cluster yet."""
    async with AsyncExitStack() as stack:
        identity = open_identity(settings.data, settings.id)
        stack.callback(identity.abandon)
        engine, store = await _open_data(settings, identity, backend, stack)
        peers = {*settings.peers, *(identity.known_addresses()[1] if identity.former else ())}
        node = Node(
            engine, store, codec(store, identity.name), identity, _myself(settings, identity),
            sorted(peers), time.time_ns, die, settings.transfer_rate,
        )  # fmt: skip
        stack.push_async_callback(node.close)
        node.serve_streams(Streams(node).natively())
        await _start(node, backend)
        if identity.cluster:
            await _led(node)
        serving = await in_thread(_import_serving)
        await stack.enter_async_context(serving(node, settings.data / UPSTREAM))
        stack.push_async_callback(node.drain)
        sockets = settings.data / SOCKET, settings.data / UPSTREAM
        yield Running(node, identity, *sockets, engine, store)


def _import_serving() -> Callable[[Node, Path], AbstractAsyncContextManager[None]]:
    """gRPC for Python takes long to import, and no put or get needs it: that is done when a leader
    is found. Until then the engine's port has calls for it wait."""
    from .server.host import serving

    return serving


async def _open_data(
    settings: Settings, identity: Identity, backend: Backend, stack: AsyncExitStack
) -> tuple[Engine, Store]:
    """Log and state as they were left, or healed."""
    peers = sorted({*settings.peers, *identity.known_addresses()[1]} - {settings.raft_advertise})
    while True:
        async with AsyncExitStack() as opened:
            try:
                if not claim(settings.data / LOG, identity.id):
                    raise LogLost("it is that of another node")
                engine = _open_engine(settings, identity, backend)
                opened.callback(engine.close)
                check_log(engine, identity)
                address = settings.raft_advertise
                elsewhere = Elsewhere(engine, backend.engine_error, identity, address)
                await elsewhere.check(peers)
                healer = Healer(engine, backend.engine_error, identity, backend.kv, peers)
                store = await healer.open()
            except LogLost as lost:
                await opened.aclose()
                become_another(identity, str(lost), peers)
                continue
            except (OSError, OutOfSpace) as error:
                if isinstance(error, DfsError) and not isinstance(error, OutOfSpace):
                    raise
                raise Misconfigured(
                    f"the data directory {settings.data} cannot be used: {error}{remedy(error)}"
                ) from None
            opened.callback(store.close)
            stack.push_async_exit(opened.pop_all())
            return engine, store


def _open_engine(settings: Settings, identity: Identity, backend: Backend) -> Engine:
    directory = settings.data / LOG
    options = {name: int(getattr(limits, name.upper())) for name in ENGINE_OPTIONS}
    try:
        return backend.engine(
            data_dir=str(directory),
            name=identity.name,
            node_id=identity.id,
            cluster=identity.cluster,
            raft_addr=settings.raft_listen,
            raft_advertise=settings.raft_advertise,
            grpc_addr=settings.grpc_listen,
            grpc_advertise=settings.grpc_advertise,
            local=str((settings.data / SOCKET).absolute()),
            upstream=str((settings.data / UPSTREAM).absolute()),
            routes=routes(),
            failures=engine_failures(),
            contents=str(settings.data / DIRECTORY),
            options={**options, "insecure": int(settings.insecure)},
        )
    except BlockingIOError:
        raise Misconfigured(
            f"another process uses the data directory {settings.data}: stop it, or choose another"
            " directory with -data"
        ) from None
    except backend.engine_error as error:
        raise LogLost(str(error)) from None
    except OSError as error:
        raise Misconfigured(
            f"the log in {directory} cannot be opened: {error}{remedy(error)}"
        ) from None


async def _start(node: Node, backend: Backend) -> None:
    try:
        await node.start()
    except OSError as error:
        if isinstance(error, DfsError):
            raise
        choice = "choose another with -raft or -grpc"
        if error.errno == errno.EADDRINUSE:
            choice = f"stop what listens there, or {choice}"
        why = error.strerror or error
        raise Misconfigured(f"a port cannot be opened: {why}; {choice}") from None
    except backend.engine_error as error:
        raise Misconfigured(str(error)) from None


def _myself(settings: Settings, identity: Identity) -> Myself:
    return Myself(
        identity.name, identity.id, settings.raft_advertise, settings.grpc_advertise, version()
    )


def _stop_on_signals() -> asyncio.Event:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    return stop


async def _led(node: Node) -> None:
    """Returns when a leader is known, or should be."""
    with suppress(TimeoutError):
        async with asyncio.timeout(ELECTION_MS_MAX / 1000):
            while not node.led():  # noqa: ASYNC110 - as below
                await asyncio.sleep(LED_INTERVAL_MS / 1000)


async def _caught_up(node: Node) -> None:
    """Returns when a mount would show no less than before a restart, or should not wait for it."""
    with suppress(TimeoutError):
        async with asyncio.timeout(ELECTION_MS_MAX / 1000):
            await _ready(node)


async def _ready(node: Node) -> None:
    while not node.ready():  # noqa: ASYNC110 - figures of the engine, which has no event for it
        await asyncio.sleep(READY_INTERVAL_MS / 1000)


async def _first(
    work: Awaitable[Any], stop: asyncio.Event, failed: "asyncio.Future[None] | None"
) -> bool:
    """Waits for `work`; True when the node shall stop instead. Raises what broke the node."""
    working = asyncio.ensure_future(work)
    stopping = asyncio.ensure_future(stop.wait())
    try:
        waiting = [f for f in (failed, working, stopping) if f is not None]
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        for ended in waiting[:-1]:
            if ended.done():
                ended.result()
        return stop.is_set()
    finally:
        for task in (working, stopping):
            task.cancel()
        await asyncio.gather(working, stopping, return_exceptions=True)
