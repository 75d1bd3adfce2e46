"""The key/value port under the store: a protocol, RocksDB, and an in-memory twin.

Keys and values are bytes; keys sort by their bytes.
"""

from dfs.kv.lying import LyingRocks
from dfs.kv.memory import MemoryKV
from dfs.kv.overlay import Overlay
from dfs.kv.port import Closed, KeyValue, Reads, Record, Snapshot, Walk
from dfs.kv.rocks import RocksKV

__all__ = [
    "Closed",
    "KeyValue",
    "LyingRocks",
    "MemoryKV",
    "Overlay",
    "Reads",
    "Record",
    "RocksKV",
    "Snapshot",
    "Walk",
]
