"""The harness: real node processes of a throw-away cluster, faults of every kind, and checkers.

Tests use its parts; `dfs nemesis` runs campaigns of faults with them. It starts what it breaks:
processes, network namespaces and disks of its own, all gone afterwards.
"""
