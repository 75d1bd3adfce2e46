"""The agent's two ports in memory: a tree without a kernel, a node without a cluster. For tests.

`MemoryTree` keeps the rules of `dfs._engine.Tree`; `MemoryNode` those of the store, as far as the
agent can tell. Faults are switched on by attributes.
"""

from .node import MemoryNode
from .tree import MemoryTree, Shown

__all__ = ["MemoryNode", "MemoryTree", "Shown"]
