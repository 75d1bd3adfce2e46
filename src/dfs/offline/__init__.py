"""Work on files instead of nodes: data directories of nodes that do not run, and backups.

    places     one such directory, opened without changing anything in it
    audit      are logs and states consistent, each in itself and all with each other
    contents   are the large contents whole that the states name
    acks       is everything there that was acknowledged
    gather     large contents from wherever they are
    restore    a backup becomes a new cluster of one node
    recover    what is left of a cluster that lost its majority becomes a new one
"""
