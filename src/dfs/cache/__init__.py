"""The agent: a cache directory that feeds the tree, and a mount that shows it.

A program of its own (`dfs mount`) and a client like any other, so that it can run on any machine.

    drop ─► watcher ─► uploader ─► take ─► client.put            tree ◄─ feeder ◄─ client.watch
            which files  which one   is it complete?                │      objects: verified content
            changed      when        what is in it?                 └─► fetcher: content on demand

watcher    inotify and scans: which paths changed
pending    what goes when
reader     threads that read drops, in batches
take       one drop: complete, unchanged while it was read, hashed
uploader   what becomes of it
conflicts  two nodes changed one file
journal    what of the cache directory is in the tree already, across restarts
deletes    removals that become deletions in the tree, where that is wished
feeder     follows the committed tree, and tells the engine's
known      what is committed, by path
objects    content on disk by its SHA-256
room       how much of it may be kept; what goes when there is no room
fetcher    content that a reader wants and that is not here
problems   what the user has to know
pins       what stays here for good
keeping    pin, warmup, evict: what people ask of the content here
safety     is it stored: what `dfs status PATH` and `dfs sync` ask
control    the socket at which programs of this machine ask the agent for something
asking     how they ask
ports      what is asked of client and mount
twin       tree and node in memory, for tests
"""
