"""The in-memory twin of `_engine.Engine`: the same verbs, no Rust, no sockets, no disk.

Engines that share a `MemoryNetwork` reach each other by peer address and can form clusters. A
cluster is one shared log; who leads is said by the test (`elect`, `depose`), an engine that is cut
off (`cut`) receives nothing. That is enough to run node and server as they are; it shows nothing
about Raft, which the real engine's own tests are for.
"""

from .engine import MemoryEngine
from .membership import EngineError
from .network import MemoryNetwork

__all__ = ["EngineError", "MemoryEngine", "MemoryNetwork"]
