"""Deterministic simulation: real code of store, node, client and cache, on one thread, by a seed.

loop      an event loop whose time is a number: it jumps to whatever comes next
world     the seed's chance, the trace of what happened, and what was broken
network   who can reach whom, how fast, and what gets lost
raft      one agreed log, leaders that change, entries that are lost or committed late
engine    the verbs of `_engine.Engine` on it; `node` a member that crashes and comes back
channel   what a client takes for gRPC
model     the tree as SEMANTICS.md has it, in a few lines; every applied entry is compared
clients   callers and watchers, and what they saw, for the checkers of `dfs.check`
agents    cache directories whose users write while everything fails
faults    what goes wrong, when, by the seed; small limits that make rare branches common
scenario  one seed from beginning to end; `__main__` many of them

What is simulated is Raft itself, disks, gRPC and the kernel; everything of Python between them is
the product's. The same seed gives the same trace.
"""
