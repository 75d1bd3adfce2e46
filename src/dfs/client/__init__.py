"""The way in for programs: `dfs.connect` for threads, `dfs.AsyncClient` for asyncio."""

from .aio import AsyncClient
from .sending import Transferred
from .streams import Lost
from .sync import Client, connect
from .transaction import AsyncTransaction, Transaction
from .values import Event, Item, Kind, Stat, Update
from .watch import Watch

__all__ = [
    "AsyncClient", "AsyncTransaction", "Client", "Event", "Item", "Kind", "Lost", "Stat",
    "Transaction", "Transferred", "Update", "Watch", "connect",
]
