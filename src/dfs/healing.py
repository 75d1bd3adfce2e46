"""A state that is damaged, wrong or gone is put away and had again; the log and the vote stay.

    wrong      the store cannot be opened; a checksum in it does not fit; it is behind what the log
               remembers of it, or beside the log; the other members have another state hash
    put away   `store/` goes to `quarantine/`, where the last ones are kept
    had again  from the whole log, as long as nothing of it was purged; else from the snapshot file
               of here; else from another member, by the peer port
    then       Raft starts from it and goes on with the log that was kept behind it

All that this node has promised others, votes and entries, stands in the log, which is not touched:
so it may come back under its old name at once, and a majority of damaged states loses nothing that
one member still has. What is wrong is written into the identity first, so a crash on the way begins
again.
"""

import asyncio
import logging
import shutil
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from .errors import DataLoss, Misconfigured
from .identity import QUARANTINE, STORE, Identity, sync_directory
from .kv import KeyValue
from .limits import ASK_MS_MAX, HEAL_RETRY_MS, HEAL_WINDOW_S, HEALS_MAX, QUARANTINE_KEPT
from .node import Engine
from .node.tasks import SayOnce, in_thread
from .store import Store

log = logging.getLogger("dfs.healing")

OWNER: Final = "owner"
"""In the store's directory: the id of the node that made it. Log indexes of another cluster mean
nothing here, and they would be taken for ours."""
NOTE: Final = ".txt"
STAMP: Final = "%Y%m%dT%H%M%S.%fZ"


class Quarantine:
    """What was put away of a data directory, why, and how often."""

    def __init__(
        self, data: Path, now: Callable[[], datetime] = lambda: datetime.now(UTC)
    ) -> None:
        self._data, self._now = data, now
        self.directory = data / QUARANTINE

    def put_away(self, part: str, why: str) -> None:
        """Moves a part of the data directory here, with a note; the oldest ones go.

        Raises Misconfigured when that has been done too often lately: nothing is moved then.
        """
        self.directory.mkdir(mode=0o700, exist_ok=True)
        now = self._now()
        notes = sorted(self.directory.glob(f"*{NOTE}"))
        window = timedelta(seconds=HEAL_WINDOW_S)
        lately = [n for n in notes if _time_of(n) > now - window]
        if len(lately) >= HEALS_MAX:
            raise Misconfigured(
                f"{why}. That is damage number {len(lately) + 1} in {self._data} within"
                f" {HEAL_WINDOW_S // 3600} h, so this node does not heal itself any more: check"
                " the disk (kernel log, SMART) and the memory, then start it with its data on"
                f" another disk, or as it is, without {self.directory}"
            )
        name = f"{now.strftime(STAMP)}-{part}"
        (self.directory / f"{name}{NOTE}").write_text(f"{why}\n", encoding="utf-8")
        if (self._data / part).exists():
            (self._data / part).rename(self.directory / name)
        sync_directory(self.directory)
        sync_directory(self._data)
        log.warning("%s is put away as %s/%s", part, self.directory, name)
        self._forget_old([n for n in notes if n not in lately])

    def _forget_old(self, notes: list[Path]) -> None:
        kept = sorted(p for p in self.directory.iterdir() if p.suffix != NOTE)
        for path in kept[:-QUARANTINE_KEPT]:
            shutil.rmtree(path, ignore_errors=True)
        for note in notes:
            if not note.with_suffix("").exists():
                note.unlink(missing_ok=True)


def _time_of(note: Path) -> datetime:
    try:
        return datetime.strptime(note.name.split("-")[0], STAMP).replace(tzinfo=UTC)
    except ValueError:  # not ours
        return datetime.min.replace(tzinfo=UTC)


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
        self._owner = b"%x\n" % identity.id
        self._quarantine = Quarantine(identity.directory)
        self._say = SayOnce(logging.WARNING)

    async def open(self) -> Store:
        """The store, sound as far as can be seen. However long it takes until a member gives it.

        Raises Misconfigured when there is nobody who could, or when it happens too often; OSError.
        """
        if not self._identity.fault:
            try:
                store = self._open()
            except DataLoss as error:
                fault = str(error)
            else:
                fault = self._engine.objection(store.log_id)
                if not fault:
                    return store
                store.close()
            self._identity.condemn(f"the state in {self._path} cannot be used: {fault}")
        log.warning("%s", self._identity.fault)
        self._quarantine.put_away(STORE, self._identity.fault)
        store = self._open()
        try:
            await self._fill(store)
            self._identity.pardon()
        except BaseException:
            store.close()
            raise
        return store

    def _open(self) -> Store:
        owner = self._path / OWNER
        if owner.exists() and owner.read_bytes() != self._owner:
            raise DataLoss(f"it is that of another node, or {owner} is damaged")
        kv = self._kv(self._path)
        if not owner.exists() and self._path.exists():
            owner.write_bytes(self._owner)
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
        addresses = sorted({*self._identity.known_peers(), *self._peers})
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
