"""The key/value port under the store: a protocol, RocksDB, and an in-memory twin.

Keys and values are bytes; keys sort by their bytes. RocksDB runs without its write-ahead log, in
one column family, with atomic flush: after a crash it holds some whole prefix of the batches that
were written, and the Raft log has the rest.
"""

from dfs.kv.memory import MemoryKV
from dfs.kv.port import Closed, KeyValue, Reads, Record, Snapshot, Walk
from dfs.kv.rocks import RocksKV

__all__ = ["Closed", "KeyValue", "MemoryKV", "Reads", "Record", "RocksKV", "Snapshot", "Walk"]
