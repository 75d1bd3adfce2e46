"""Work of the engine with whole states: one is written to a file, or replaced by one."""

import logging
import struct
from collections.abc import Callable
from concurrent.futures import Executor

from ..errors import DataLoss, DfsError, Misconfigured, Unavailable
from ..store import Store, View
from .hot import HotLoop
from .keeping import Flusher
from .ports import WORK_INSTALL, WORK_SNAPSHOT, Codec, Engine, Work
from .tasks import in_thread

log = logging.getLogger("dfs.node")


class Snapshots:
    """Takes WORK_SNAPSHOT and WORK_INSTALL; see `_engine` for what is asked."""

    def __init__(
        self, engine: Engine, store: Store, codec: Codec, hot: HotLoop, flusher: Flusher,
        pool: Executor, damaged: Callable[[DataLoss], None], replaced: Callable[[], None],
        begin: Callable[..., None],
    ) -> None:  # fmt: skip
        """`damaged`: told of damage in the state. `replaced`: called when another state is in its
        place. `begin`: begins a coroutine; asyncio thread."""
        self._engine, self._store, self._codec, self._hot = engine, store, codec, hot
        self._flusher, self._pool = flusher, pool
        self._damaged, self._replaced, self._begin = damaged, replaced, begin

    def take(self, work: Work) -> None:
        """Begins it. Hot thread only."""
        number, kind, text, data = work
        if kind == WORK_SNAPSHOT and self._hot.fault is not None:
            self._engine.finish(number, self._codec.failure(self._hot.fault))
        elif kind == WORK_SNAPSHOT:
            view = self._store.view()
            self._engine.frozen(number)
            self._hot.post(self._begin, self._snapshot(number, view, text))
        else:
            assert kind == WORK_INSTALL
            self._hot.leave(Unavailable(
                "this node is replacing its state by a snapshot of the leader's; try again"
            ))
            self._hot.post(self._begin, self._install(number, text, data))

    async def _snapshot(self, number: int, view: View, path: str) -> None:
        with view:
            try:
                await in_thread(self._store.export, view, path, pool=self._pool)
            except (DfsError, OSError) as error:
                log.error("the snapshot %s could not be written: %s", path, error)
                if isinstance(error, DataLoss):
                    self._damaged(error)
                self._fail(number, error)
            else:
                self._engine.finish(number, b"")

    async def _install(self, number: int, path: str, data: bytes) -> None:
        """Replaces the state. Nothing is applied and nothing is read meanwhile."""
        log.info("replacing the state by the snapshot %s", path)
        try:
            await in_thread(self._restore, path, _unpack(data)[0], pool=self._pool)
        except (DfsError, OSError) as error:
            log.error("the snapshot %s could not be installed: %s", path, error)
            self._fail(number, error)
        else:
            self._hot.mark()  # nothing is applied, so the hot thread does not do it now
            self._replaced()
            self._engine.finish(number, b"")
        finally:
            self._hot.come_back()

    def _fail(self, number: int, error: Exception) -> None:
        failed = error if isinstance(error, DfsError) else Unavailable(str(error))
        self._engine.finish(number, self._codec.failure(failed))

    def _restore(self, path: str, log_id: bytes) -> None:
        with self._flusher.lock:
            self._store.restore(path)
        if self._store.log_id != log_id:
            raise Misconfigured(f"the snapshot {path} ends at another log entry than it should")


def _unpack(data: bytes) -> tuple[bytes, bytes]:
    """The two length-prefixed fields of WORK_INSTALL: log id, membership."""
    (size,) = struct.unpack_from(">I", data)
    log_id = data[4 : 4 + size]
    (rest,) = struct.unpack_from(">I", data, 4 + size)
    return log_id, data[8 + size : 8 + size + rest]
