"""Work on files instead of nodes: data directories of nodes that do not run, and backups.

    restore    a backup becomes a new cluster
"""
