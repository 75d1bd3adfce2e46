"""The requests that store drops: several as one change of the tree, or one by itself.

Each names the revision that it replaces. So a request whose outcome is unknown can be followed by
others for the same drops: whichever comes first is done, and the others are refused.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from ..client.values import Kind, Stat
from .journal import Row
from .large import Large
from .pending import Drop, now_s
from .ports import Client
from .take import Taken

REQUEST_ID_AGE_S: Final = 3_600
"""A retry so late gets a new id: the cluster refuses ids that are older than its history."""
Wanted = list[tuple[Drop, Taken]]
"""Complete drops that are to be stored."""


class Storing:
    """Asks the cluster."""

    def __init__(self, client: Client, large: Large, new_id: Callable[[], bytes]) -> None:
        self._client, self._large, self._new_id = client, large, new_id

    async def together(self, wanted: Wanted) -> int:
        """Stores files and links that are not large, or none of them; the revision. Raises as a
        transaction of `Client`."""
        request_id = self._new_id()
        async with self._client.transaction(request_id=request_id) as changes:
            for drop, taken in wanted:
                drop.begin_request(request_id)
                if taken.kind is Kind.SYMLINK:
                    changes.symlink(
                        drop.path, taken.target, mtime_ns=taken.mtime_ns, uid=taken.uid,
                        gid=taken.gid, base_revision=drop.base,
                    )
                else:
                    changes.put(
                        drop.path, taken.data, mode=taken.mode, mtime_ns=taken.mtime_ns,
                        uid=taken.uid, gid=taken.gid, xattrs=dict(taken.xattrs),
                        base_revision=drop.base,
                    )
        return changes.revision

    async def one(self, drop: Drop, taken: Taken, seen: Stat | Row | None) -> int:
        """Stores one drop in place of what was seen; the revision. Asked again for the same, it is
        the same request. Raises as `put`, `symlink` and `mkdir` of `Client`."""
        path, client = drop.path, self._client
        if taken.kind is Kind.DIRECTORY:
            named = taken.xattrs or (seen is not None and seen.xattrs)
            return await client.mkdir(
                path, mode=taken.mode, uid=taken.uid, gid=taken.gid,
                xattrs=dict(taken.xattrs) if named else None,
            )
        request = (
            taken.kind, taken.sha256, taken.target, taken.mode, taken.mtime_ns, taken.uid,
            taken.gid, taken.xattrs,
        )
        if request != drop.request or now_s() - drop.request_id_s > REQUEST_ID_AGE_S:
            drop.begin_request(self._new_id(), request)
            drop.request_id_s = now_s()
        if taken.kind is Kind.SYMLINK:
            return await client.symlink(
                path, taken.target, mtime_ns=taken.mtime_ns, uid=taken.uid, gid=taken.gid,
                base_revision=drop.base, request_id=drop.request_id,
            )
        return await self.content(path, taken, drop.base, drop.request_id)

    async def content(
        self, key: str, taken: Taken, base: int | None, request_id: bytes | None = None
    ) -> int:
        """Stores the content of a drop under some key."""
        if taken.manifest is not None:
            return await self._large.store(key, taken, base, request_id)
        return await self._client.put(
            key, taken.data, mode=taken.mode, mtime_ns=taken.mtime_ns, uid=taken.uid,
            gid=taken.gid, xattrs=dict(taken.xattrs), base_revision=base, request_id=request_id,
        )
