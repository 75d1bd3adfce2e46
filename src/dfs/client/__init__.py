"""The way in for programs: `dfs.connect` for threads, `dfs.AsyncClient` for asyncio."""

from .aio import AsyncClient
from .streams import Lost
from .sync import Client, Watch, connect
from .transfers import Transferred
from .values import Event, Item, Kind, Stat, Update

__all__ = [
    "AsyncClient", "Client", "Event", "Item", "Kind", "Lost", "Stat", "Transferred",
    "Update", "Watch", "connect",
]
