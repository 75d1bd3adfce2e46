"""A state that is damaged, wrong or gone is put away and had again; the log and the vote stay.

    wrong      the store cannot be opened; a checksum in it does not fit; it is behind what the log
               remembers of it, or beside the log; the other members have another state hash
    put away   `store/` goes to `quarantine/`, where the last ones are kept
    had again  from the whole log, as long as nothing of it was purged; else from the snapshot file
               of here; else from another member, by the peer port
    or kept    on a node that knows no other member, if all of it can be read again and is right: a
               disk may fail a read for a moment
    then       Raft starts from it and goes on with the log that was kept behind it

All that this node has promised others, votes and entries, stands in the log, which is not touched:
so it may come back under its old name at once, and a majority of damaged states loses nothing that
one member still has. What is wrong is written into the identity first, so a crash on the way begins
again.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

from .._engine import is_founding
from ..errors import DataLoss, Misconfigured, OutOfSpace, remedy
from ..identity import STORE, UNDECIDED, Identity
from ..kv import KeyValue
from ..limits import ASK_MS_MAX, HEAL_RETRY_MS
from ..node import Engine
from ..node.tasks import SayOnce, in_thread
from ..store import Store
from ..store.soundness import StateCheck
from .parts import LogLost, Quarantine, claim

log = logging.getLogger("dfs.healing")


class Healer:
    """Opens the state of a node, or gets it anew."""

    def __init__(
        self,
        engine: Engine,
        engine_error: type[Exception],
        identity: Identity,
        kv: Callable[[Path], KeyValue],
        peers: Sequence[str],
    ) -> None:
        """`engine` is opened and not started; `peers`: where other members may be."""
        self._engine, self._engine_error, self._peers = engine, engine_error, peers
        self._identity, self._kv = identity, kv
        self._path = identity.directory / STORE
        self._quarantine = Quarantine(identity.directory)
        self._say = SayOnce(logging.WARNING)

    async def open(self) -> Store:
        """The store, sound as far as can be seen. However long it takes until a member gives it.

        Raises Misconfigured when there is nobody who could, or when it happens too often; OSError;
        LogLost when the log turns out to be none.
        """
        begun = bool(self._identity.fault)
        if not begun:
            try:
                store = self._open()
            except DataLoss as error:
                fault = str(error)
            else:
                with ExitStack() as held:
                    held.callback(store.close)
                    fault = self._objection(store)
                    if not fault:
                        held.pop_all()
                        return store
            self._identity.condemn(f"the state in {self._path} cannot be used: {fault}")
        if self._identity.fault_index == UNDECIDED:
            self._ask_a_person()
        log.warning("%s", self._identity.fault)
        if not self._others() and (right := await in_thread(self._read_again)):
            log.warning("all of the state can be read again and is right: it is kept")
            self._identity.pardon()
            return right
        if not (begun and self._is_empty()):
            self._quarantine.put_away((STORE,), self._identity.fault)
        store = self._open()
        try:
            await self._fill(store)
            self._identity.pardon()
        except BaseException:
            store.close()
            raise
        return store

    def _is_empty(self) -> bool:
        """It has been put away already, and the new one has not been filled."""
        try:
            store = self._open()
        except DataLoss:
            return False
        try:
            return not store.log_id
        finally:
            store.close()

    def _others(self) -> list[str]:
        """Addresses of members that may give the state."""
        return sorted({*self._identity.known_addresses()[1], *self._peers})

    def _read_again(self) -> Store | None:
        """The state, unless something is wrong with it. Blocks."""
        if self._identity.fault_index:
            return None
        try:
            kv = self._open_kv()
        except DataLoss:
            return None
        with ExitStack() as held:
            held.callback(kv.close)
            try:
                store = Store(kv)
            except DataLoss:
                return None
            if not store.log_id or StateCheck(kv).problems or self._objection(store):
                return None
            held.pop_all()
            return store

    def _ask_a_person(self) -> None:
        """Returns when somebody has removed this copy."""
        if self._path.exists():
            raise Misconfigured(
                f"{self._identity.fault}. Of two members nobody can say which is right: find out"
                f" (dfs verify). If it is the other one, remove {self._path} and start this node:"
                " it gets the other's state"
            )
        self._identity.condemn(self._identity.fault, 1)

    def _objection(self, store: Store) -> str:
        found = self._engine.recovery()
        empty = not found["last"] and not found["purged"]
        if store.applied and empty and not is_founding(store.log_id):
            raise LogLost(f"it is empty, and the state is that of its entry {store.applied}")
        return self._engine.objection(store.log_id)

    def _open_kv(self) -> KeyValue:
        if not claim(self._path, self._identity.id):
            raise DataLoss("it is that of another node")
        try:
            return self._kv(self._path)
        except (OSError, OutOfSpace) as error:
            raise Misconfigured(
                f"the store in {self._path} cannot be opened: {error}{remedy(error)}"
            ) from None

    def _open(self) -> Store:
        kv = self._open_kv()
        try:
            return Store(kv)
        except BaseException:
            kv.close()
            raise

    async def _fill(self, store: Store) -> None:
        found = self._engine.recovery()
        foreign = self._identity.fault_index
        needed = max(found["purged"], found["durable"], foreign)
        if not foreign and not self._engine.objection(b""):
            log.warning("the state is made again from the log, which has all since the beginning")
            return
        # A file that was written here holds the state that differs.
        if not foreign and found["snapshot"] and found["snapshot_index"] >= needed:
            try:
                await in_thread(store.restore, found["snapshot"])
                log.warning("the state is that of the snapshot %s", found["snapshot"])
                return
            except DataLoss as error:
                log.warning("the snapshot of this node cannot be used either: %s", error)
        await self._fetch(store, needed)

    async def _fetch(self, store: Store, index: int) -> None:
        addresses = self._others()
        if not addresses:
            raise Misconfigured(
                f"{self._identity.fault}. The log alone does not reach back far enough, and no"
                " other member is known that could give the state: name one with -peers, put a"
                f" good copy of {self._identity.directory} back, or restore a backup with"
                " `dfs snapshot restore`"
            )
        while True:
            refused = []
            for address in addresses:
                try:
                    got = await self._fetch_from(address, index)
                    await in_thread(store.restore, self._engine.recovery()["snapshot"])
                except (ConnectionError, TimeoutError, DataLoss, self._engine_error) as error:
                    refused.append(str(error))
                    continue
                log.warning("the state is that of the member at %s, log index %d", address, got)
                return
            self._say(
                f"{self._identity.fault}. Waiting for a member that gives the state of log index"
                f" {index} or later: {'; '.join(refused)}. If there is none, restore a backup with"
                " `dfs snapshot restore`"
            )
            await asyncio.sleep(HEAL_RETRY_MS / 1000)

    async def _fetch_from(self, address: str, index: int) -> int:
        fetch = self._engine.fetch_snapshot
        work = asyncio.ensure_future(in_thread(fetch, address, index, ASK_MS_MAX))
        try:
            return await asyncio.shield(work)
        except asyncio.CancelledError:
            await asyncio.to_thread(self._engine.close)  # ends it
            await asyncio.gather(work, return_exceptions=True)
            raise
