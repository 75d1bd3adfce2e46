"""Work on files instead of nodes: data directories of nodes that do not run, and backups.

    places     one such directory, opened without changing anything in it
    state      is a state consistent in itself
    audit      are logs and states consistent with each other; acks: and with what was acknowledged
    restore    a backup becomes a new cluster of one node
    recover    what is left of a cluster that lost its majority becomes a new one
"""
