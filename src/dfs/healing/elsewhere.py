"""What the other members know of this node, asked before Raft starts.

    a copy      somebody runs under this id: two of one voter could elect two leaders
    went back   the leader had acknowledgements of entries that are not in the log here: an old copy
                of the whole data directory, which nothing in that directory can show

Who does not answer within ALONE_MS_MAX is not waited for: after an outage of all there is nobody.
"""

import asyncio
import json
from collections.abc import Sequence
from typing import Any

from ..errors import Misconfigured
from ..identity import Identity
from ..limits import ALONE_MS_MAX
from ..node import Engine
from ..node.tasks import in_thread
from .parts import LogLost

Answer = dict[str, Any]


class Elsewhere:
    """Asks around, by an engine that is opened and not started."""

    def __init__(
        self, engine: Engine, engine_error: type[Exception], identity: Identity, address: str
    ) -> None:
        """`address`: where this node will listen for its peers."""
        self._engine, self._engine_error = engine, engine_error
        self._identity, self._address = identity, address

    async def check(self, peers: Sequence[str]) -> None:
        """Raises Misconfigured when another process runs as this node, LogLost when the log went
        back. `peers`: where other members may be."""
        if not self._identity.cluster:
            return
        me = str(self._identity.id)
        found = self._engine.recovery()
        # A snapshot that was installed right before a crash is acknowledged, and not in the log.
        last = max(found["last"], found["purged"], found["snapshot_index"])
        addresses = {self._address, self._identity.known_addresses()[0]} - {""}
        for answer in await self._ask_all(peers, {"ask": "members"}):
            if answer.get("leads"):
                acknowledged = int(answer.get("matched", {}).get(me, 0))
                if acknowledged > last:
                    raise LogLost(
                        f"it ends at entry {last}, and has acknowledged {acknowledged} to the"
                        " leader: the data directory was put back to an old copy"
                    )
            if there := answer.get("at", {}).get(me):
                addresses.add(there)
        for answer in await self._ask_all(sorted(addresses), {"ask": "discover"}):
            if answer.get("id") == self._identity.id:
                raise Misconfigured(
                    f"{self._identity.name} runs already, at {answer['raft']}:"
                    f" {self._identity.directory} is a copy of its data directory. Start this node"
                    " with an empty one, and a name of its own, or stop the other for good first"
                )

    async def _ask_all(self, addresses: Sequence[str], question: Answer) -> list[Answer]:
        found = await asyncio.gather(*(self._ask(address, question) for address in addresses))
        return [answer for answer in found if answer is not None]

    async def _ask(self, address: str, question: Answer) -> Answer | None:
        body = json.dumps(question).encode()
        try:
            answer = json.loads(await in_thread(self._engine.ask, address, body, ALONE_MS_MAX))
        except (ConnectionError, TimeoutError, ValueError, self._engine_error):
            return None
        found = answer.get("ok")
        return found if isinstance(found, dict) else None
