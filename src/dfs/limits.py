"""The bounds of the system, each with its reason; nothing elsewhere in Python invents a number.

The engine's own stand in its sources, what callers meet of them in engine/src/wire/limits.rs.
"""

from typing import Final

# ---- keys and values ----------------------------------------------------------------------------
KEY_BYTES_MAX: Final = 1_024
"""Below PATH_MAX (4,096) with room for a mount point in front."""
COMPONENT_BYTES_MAX: Final = 255
"""NAME_MAX of every Linux file system."""
TARGET_BYTES_MAX: Final = 4_095
"""PATH_MAX without its NUL: what symlink(2) takes."""
VALUE_BYTES_MAX: Final = 16 << 20
"""Largest content of one key while all content travels in the log."""
INLINE_BYTES_MAX: Final = 1 << 20
"""Files up to here go through the log; larger ones, but for those that come by Put, are contents of
their own: log and snapshots would carry the bytes several times."""
CHUNK_BYTES_MIN: Final = 4 << 20
"""Of a large content, moved and verified as one."""
CHUNKS_MAX: Final = 16_384
"""Of one content: its digests stay below a megabyte. Above 64 GiB chunks are larger."""
SMALL_VALUE_BYTES_MAX: Final = 2_048
"""Up to here content stands in the current record as well as in history: one lookup per read."""
REQUEST_ID_BYTES: Final = 16
"""A UUID."""
MODE_MAX: Final = 0o7777
"""Permission bits with setuid, setgid and sticky; the kind of a file is not among them."""
OWNER_MAX: Final = (1 << 32) - 2
"""Largest uid and gid; the number behind it means "no change" to the kernel."""
XATTR_BYTES_MAX: Final = 4 << 10
"""Names and values of all extended attributes of a key: they are in its record, which lists and
watches always send. What ext4 holds of them beside an inode."""
XATTR_NAME_BYTES_MAX: Final = 255
"""XATTR_NAME_MAX of Linux."""
DELETE_KEYS_MAX: Final = 10_000
"""Keys that one recursive delete removes: bounds the work of one log entry."""
COPY_KEYS_MAX: Final = 10_000
"""Keys that one move or copy makes: as DELETE_KEYS_MAX."""
COPY_BYTES_MAX: Final = 64 << 20
"""Content that one move or copy writes again: all other writes wait meanwhile, half a second."""
ENTRY_RECORD_BYTES_MAX: Final = VALUE_BYTES_MAX
"""Keys and records of all changes that one move or copy makes: watchers get them in one message."""
TRANSACTION_OPERATIONS_MAX: Final = 10_000
"""Changes that are asked for as one: a directory tree that is published; as DELETE_KEYS_MAX."""
PUT_MANY_OPERATIONS_MAX: Final = 1_000
"""Puts of one PutMany: to apply so many takes some 10 ms, in which all else waits."""
TRANSACTION_BYTES_MAX: Final = VALUE_BYTES_MAX
"""All of them, without large contents: no log entry is larger than the largest Put."""
TRANSACTION_CHANGES_MAX: Final = 2 * COPY_KEYS_MAX
"""Keys that they make, change and remove: no more than the largest move."""

# ---- messages -----------------------------------------------------------------------------------
MESSAGE_BYTES_MAX: Final = VALUE_BYTES_MAX + (64 << 10)
"""A Put of the largest value with its key and metadata."""
METADATA_BYTES_MAX: Final = 8 << 10
"""Headers of a call; gRPC's own default."""
STREAM_CHUNK_BYTES_MAX: Final = 1 << 20
"""Of a list or watch answer; one larger item travels alone."""
DEADLINE_MS_DEFAULT: Final = 10_000
"""For a unary call that names none."""
DEADLINE_MS_MAX: Final = 30_000
"""A unary call that asks for longer gets this: what waits so long is better asked again."""
STREAMS_PER_CONNECTION_MAX: Final = 1_024
"""Calls of one connection at once; callers that want more open another."""
STREAM_BYTES: Final = 1 << 20
"""Of a streamed answer, sent but not yet taken by its caller, before its maker waits: one piece is
on its way while the next is made. Where many callers do not read, each gets less."""
PINNED_WAIT_MS: Final = 60_000
"""For a caller to take something of a list, a history, a backup or the snapshot of a watch. The
state that it shows is frozen meanwhile: what is overwritten stays in memory and on disk. So long a
reader may do something else; a deadline of its own bounds the call as a whole."""
CONNECTIONS_MAX: Final = 256
"""Each costs buffers; with CALL_BYTES_WAITING_MAX it bounds the memory of a node under attack."""
CONNECTIONS_PER_ADDRESS_MAX: Final = 128
"""Half of CONNECTIONS_MAX: no single caller keeps the others out. Many may share an address."""
HANDSHAKE_MS_MAX: Final = 3_000
"""A caller that says nothing after connecting is cut off."""
CALLS_WAITING_MAX: Final = 8_192
"""Unary calls in a node, a PutMany as its puts, and so many streams; more are refused."""
LARGE_CALLS_WAITING_MAX: Final = 16
"""Moves, copies and Transactions inside a node, one proposed at a time: bounds their memory."""
CALL_BYTES_WAITING_MAX: Final = 128 << 20
"""Of the bodies of those calls: eight of the largest puts."""
APPLY_LAG_ENTRIES_MAX: Final = 100_000
"""In the leader's log, not applied by it: some seconds of work. More, and it refuses writes until
it has caught up; else the log would grow for callers who have given up."""
APPLY_LAG_BYTES_MAX: Final = 256 << 20
"""As APPLY_LAG_ENTRIES_MAX, for large content; what two nodes let wait (CALL_BYTES_WAITING_MAX)."""
RETRY_DELAY_MS: Final = 100
"""The hint that goes with "nothing was done, try again": about two heartbeats."""

# ---- watches ------------------------------------------------------------------------------------
WATCHES_MAX: Final = 4_096
"""Those that catch up have a queue each; WATCH_BYTES_MAX each is the worst case."""
WATCH_EVENTS_MAX: Final = 10_000
"""Queued for one watcher that catches up; more is read from history again, never kept in memory."""
WATCH_BYTES_MAX: Final = 8 << 20
"""As WATCH_EVENTS_MAX, for large content, whether it is told or not."""
WATCH_PACE_MS: Final = 5
"""Between two messages of changes to live watchers: what happens meanwhile is one message, and much
cheaper. The first change after a quiet time does not wait."""
WATCH_PROGRESS_MS: Final = 1_000
"""A watcher knows at least so often that it is up to date, and that its stream lives."""
WATCH_PROGRESS_MS_MIN: Final = 10
"""A watcher cannot ask for more marks than this; each is a message."""
WATCH_WAIT_MS_MAX: Final = 5_000
"""For a node that lags to get what is committed, when it lacks where a watch shall go on."""

# ---- the hot loop -------------------------------------------------------------------------------
STEP_ITEMS_MAX: Final = 512
"""Calls and entries in one turn of the hot loop: a turn stays below some milliseconds."""
STEP_WAIT_MS: Final = 200
"""Longest wait of an idle turn; `wake` ends it earlier."""
TURN_ANSWER_BYTES_MAX: Final = 32 << 20
"""Answers of reads held in Python at once: a turn with more leaves the rest to the next. A streamed
call that is left to the event loop counts as STREAM_CHUNK_BYTES_MAX: looking at it took time."""
READ_TOGETHER_BYTES_MAX: Final = 32 << 10
"""Content of files that a turn reads all at once: with STEP_ITEMS_MAX half of what it may hold."""
PLAIN_PUT_BYTES_MAX: Final = 64 << 10
"""Content that network threads hash themselves; for more than that heartbeats should not wait."""
SWITCH_INTERVAL_US: Final = 500
"""For a busy thread to hand the interpreter lock to the hot one; Python's 5 ms is a long pause."""

# ---- Raft ---------------------------------------------------------------------------------------
HEARTBEAT_MS: Final = 50
"""Six of them fit into the shortest election timeout. An answer may take three quarters of
that: where the network needs longer a leader takes no writes."""
ELECTION_MS_MIN: Final = 300
"""A leader that is heard no more is replaced in about a second, one whose process is gone at once;
a busy machine causes no election."""
ELECTION_MS_MAX: Final = 600
"""Twice the minimum: two candidates seldom start together."""
SNAPSHOT_LOG_BYTES: Final = 16 << 20
"""Log written before the applied state is marked as the one that stands for the log before it: one
file of the log. Never less than the size of a state that was written for another member."""
LOG_KEEP_BYTES: Final = 64 << 20
"""Kept behind such a mark so that a member that was away briefly needs no snapshot."""
LOG_FILE_BYTES: Final = 16 << 20
"""Of one file of the log: purging frees whole files, so one at most stays longer than it must."""
DISK_LATE_MS: Final = 25
"""A write of the log is late when most others had it on disk so much earlier: half a heartbeat."""
DISK_LATE_FOR_MS: Final = 2_000
"""A leader whose every write was late for so long hands leadership away; a moment is no reason."""
DISK_STALL_MS_MAX: Final = 1_000
"""So does one of whose writes a majority has had so much longer than its own disk."""
NO_LEADER_MS_MAX: Final = 5_000
"""How long a call waits for a leader: an election takes one second, a restart a few."""
ANSWER_MS_MAX: Final = 1_000
"""A peer that owes an answer longer, with time for the bytes before it, gets a new session."""
PROGRESS_MS_MAX: Final = 5_000
"""A peer that is heard but accepts nothing for so long gets a new session."""
PYTHON_MS_MAX: Final = 1_000
"""A leader whose hot thread has work and takes none for so long hands leadership away."""
STALL_MS_MAX: Final = 10_000
"""A snapshot transfer that moves nothing for so long is broken off and resumed."""

# ---- store --------------------------------------------------------------------------------------
FLUSH_INTERVAL_MS: Final = 2_000
"""What the log keeps for the store after a crash: about so much is replayed."""
HISTORY_AGE_S: Final = 24 * 3_600
"""A day: a watcher that was away over night resumes, a mistake of yesterday can be looked at."""
REQUEST_AHEAD_S_MAX: Final = 60
"""By which the clock of a client may be ahead, so that its request ids are remembered until they
are older than history: so much longer may history take to be pruned. Where HISTORY_REVISIONS_MAX
are written in less time, a repetition from a clock that is worse could be applied again."""
HISTORY_REVISIONS_MAX: Final = 1_000_000
"""Log entries whose changes are kept, and what comes within FLOOR_INTERVAL_MS: bounds the disk
where much is written within HISTORY_AGE_S. One may be many changes (DELETE_KEYS_MAX)."""
FLOOR_PRUNE_EVENTS_MAX: Final = 512
"""History events passed at once: no applied batch becomes long. With the two other steps as many
are passed as are written, so those below the floor do not pile up."""
FLOOR_PRUNE_BYTES_MAX: Final = 32 << 20
"""As FLOOR_PRUNE_EVENTS_MAX, for large content: it is read once more when it is passed."""
FLOOR_PRUNE_INTERVAL_ENTRIES: Final = 256
"""Log entries between two such steps: counted by log index, so that every member prunes alike."""
FLOOR_PRUNE_ENTRY_BYTES_MIN: Final = FLOOR_PRUNE_BYTES_MAX // (2 * FLOOR_PRUNE_INTERVAL_ENTRIES)
"""With a log entry of more goes a step of its own, of twice its bytes: pruning keeps up."""
FLOOR_PRUNE_ENTRY_EVENTS_MIN: Final = FLOOR_PRUNE_EVENTS_MAX // FLOOR_PRUNE_INTERVAL_ENTRIES
"""With a log entry that makes more events goes a step of its own, of as many."""
STORE_MEMTABLE_BYTES: Final = 16 << 20
"""Written to disk when full; two may exist. Larger ones are slower: they miss processor caches."""
STORE_BLOB_BYTES_MIN: Final = 4_096
"""Stored values from here on stand beside the tables, so that merging does not copy them: events of
history, and hardly any current record: few have a very long target or many extended attributes."""
STORE_BLOB_GARBAGE_MAX: Final = 0.5
"""So much garbage in those files, and the oldest are emptied by copying what is left in them."""
STORE_BLOB_GARBAGE_MIN: Final = 0.25
"""Down to here; each percent less costs more copying."""
STORE_FRESH_TABLES_MAX: Final = 8
"""Written tables that wait to be merged with the rest. Fewer cost more merging, more cost reads."""
ANSWERS_BYTES_MAX: Final = 64 << 20
"""Answers to reads of what was read or written lately, kept ready: some 100,000 small values."""
STORE_CACHE_BYTES: Final = 64 << 20
"""Uncompressed blocks of tables; the page cache has the rest."""
STORE_SCAN_RECORDS_MAX: Final = 256
"""Fetched at once by a scan: between two fetches other threads read the same view."""
STORE_SCAN_RECORDS_MIN: Final = 8
"""Fetched first by a scan that may end soon; then twice as many each time."""
STORE_SCAN_BYTES_MAX: Final = 1 << 20
"""As STORE_SCAN_RECORDS_MAX, for large values."""
STORE_LOAD_BYTES: Final = 4 << 20
"""Written at once while a snapshot is loaded."""

# ---- cluster ------------------------------------------------------------------------------------
RAFT_PORT: Final = 12_000
"""Where peers meet by default."""
GRPC_PORT: Final = 13_000
"""Where callers are served by default."""
PROMOTE_LAG_ENTRIES_MAX: Final = 1_000
"""So close behind, a learner that gets its vote does not delay the others."""
STATE_HASH_INTERVAL_MS: Final = 10_000
"""A member that differs is found within this time."""

# ---- large contents -----------------------------------------------------------------------------
CONTENT_PULLS_MAX: Final = 4
"""Contents that a node gets from others at once, or asks others to hold for a transaction."""
CONTENT_PULLS_BEHIND: Final = 2
"""Of those, for which nobody waits: the others do not stand behind them."""
CONTENT_FETCHES: Final = 2
"""Parts of one content on their way at once: one is verified while another arrives."""
CONTENT_FETCH_CHUNKS: Final = 8
"""Chunks of one such part: what a broken connection makes somebody else fetch again at most."""
CONTENT_HOLD_WAIT_MS: Final = 2_000
"""For a member that is asked to hold a content to answer; then it says how far it is."""
CONTENT_ASK_MS_MAX: Final = 300
"""For members to say what they have of an upload: those that are up take a few milliseconds."""
CONTENT_WHOLES_MAX: Final = 4
"""Large contents that are read whole for a Get at once, in memory; others wait."""
CONTENT_STALL_MS: Final = 10_000
"""No member gets any further with a content for so long: its put ends."""
CONTENT_RETRY_MS: Final = 500
"""Before a member that could not get a content is asked again, or tries again."""
CONTENT_RETRY_MS_MAX: Final = 30_000
"""Between attempts of a node to get what it lacks; doubles from one to the other."""
CONTENT_CHECK_MS: Final = 1_000
"""Between two looks at what is lacking and what is left over."""
CONTENT_KEEP_S: Final = 3_600
"""A content that nothing names stays so long: far more than a put takes that a majority holds."""
CONTENT_SCRUB_BYTES: Final = 8 << 20
"""Of contents read again each second, at least one chunk: a terabyte in a day and a half."""
CONTENT_SCRUB_PASS_S_MIN: Final = 24 * 3_600
"""Between the beginnings of two passes over all contents."""
PROGRESS_BYTES: Final = 8 << 20
"""Of an upload, between two answers that say how far it is."""
TRANSFER_STALL_MS: Final = 60_000
"""An upload or download that gets no further for so long, whatever node is asked, is given up."""
UPLOAD_PIECE_BYTES: Final = 1 << 20
"""Of a message of an upload or download."""

# ---- agent --------------------------------------------------------------------------------------
FETCH_MS_MAX: Final = 30_000
"""For content that a reader waits for; then an errno, never a hang."""
RESCAN_INTERVAL_S: Final = 600
"""inotify may lose events: the cache directory is compared so often."""
DROP_QUIET_MS: Final = 100
"""After a close of a file that is written in place, before it is taken."""
DELETES_MAX: Final = 64
"""Deletions of one agent under way at once: they share log writes."""
UPLOADS_BIG_MAX: Final = 2
"""Drops larger than INLINE_BYTES_MAX at once: each is copied, which keeps a disk busy."""
DROPS_TOGETHER_MAX: Final = 256
"""Drops that go as one log entry: its fixed cost is little then, applying it takes milliseconds."""
DROPS_TOGETHER_BYTES_MAX: Final = 1 << 20
"""Content of such drops, and one more: an entry is hardly longer than those of two large drops."""
DROP_BATCHES: Final = 3
"""Of them, one is read, one is on its way to the node, one is being committed."""
DROP_ATTEMPTS_MAX: Final = 8
"""Former requests by which a version is known as the drop's own: one of unknown outcome may be done
until its deadline. A drop that changes more often by then may be kept beside its own content."""
DROP_QUIET_MS_MAX: Final = 5_000
"""The quiet time doubles up to here for a file that is written again and again."""
DROP_SETTLE_MS: Final = 20
"""After a hint that is no close (a hard link, a truncation): the close usually follows."""
DROP_RECENT_MS: Final = 1_000
"""A file that is written again so soon after it was taken counts as written repeatedly."""
DROP_QUIET_NO_LEASE_MS: Final = 2_000
"""Where the file system has no leases: unchanged so long means complete."""
LEASE_RETRY_MS: Final = 1
"""The kernel reports a close a moment before it counts the writer as gone."""
LEASE_RETRY_MS_MAX: Final = 5_000
"""While a writer holds the file open; its close is reported, this is the second line."""
IGNORE_BYTES_MAX: Final = 64 << 10
"""Of a `.dfsignore`: some thousand patterns, with all of which each name is compared."""
CACHE_RETRY_S: Final = 5
"""Between looks for a cache directory that is gone, and whether a watched one is still in place."""
SIGNATURE_RACY_NS: Final = 20_000_000
"""A change so soon after another may have the same time stamp: such a signature proves nothing."""
AGENT_DATA_BYTES_MAX: Final = 64 << 10
"""Content up to here travels with the change itself; larger content is fetched when wanted."""
AGENT_AHEAD_BYTES_MAX: Final = 32 << 20
"""Content that comes with the first snapshot: files for a second, in which nobody reads."""
AGENT_RETRY_MS: Final = 50
"""First pause of the agent when it does not reach its node."""
AGENT_RETRY_MS_MAX: Final = 2_000
"""Between attempts of the agent to reach its node or a quorum; doubles from one to the other."""
WATCH_SILENCE_MS_MAX: Final = 5_000
"""No progress mark for so long: the stream is dead, whatever the connection says."""
FEED_UPDATES_MAX: Final = 64
"""Parts of the stream that wait to be applied; then the stream waits."""
FEED_ITEMS_MAX: Final = 4_096
"""Changes applied to the tree in one go, or so many and one revision: some ms, or tens of them."""
MISSES_MAX: Final = 64
"""Files that readers wait for, fetched at once."""
MISS_WAIT_MS: Final = 200
"""Longest wait for the next miss: how fast the thread notices that the agent ends."""
ARRIVING_FETCHES: Final = 4
"""Chunks of one content that an agent fetches at once: one is verified while others arrive."""
ARRIVING_LOOK_MS: Final = 1_000
"""A content that nobody has had open for so long comes no further; and when it is tried again."""
WARM_FETCHES_MAX: Final = 8
"""Contents fetched at once in the background: readers and drops come first."""
OBJECT_USED_S: Final = 60
"""How exact the time is at which an object was opened last: its file is not touched more often."""
OBJECT_KEEP_S: Final = 10
"""A cached object stays so long after the last who needed it: what is gone often comes back."""
SPACE_INTERVAL_MS: Final = 10_000
"""How old what `df` shows as free may be: it is asked of all members."""
MEMBERS_MS_MAX: Final = 2_000
"""For a node to name the members for `.dfs/members`; then the file says that none did."""
NOTICES_MS_MAX: Final = 1_000
"""One wait for the kernel to forget what changed: so long a reader who has gone holds a thread."""
PAST_DIRECTORY_MAX: Final = 250_000
"""Entries of one directory below `.dfs/at/`: the engine keeps little more of all of them."""
PAST_NAMES_MAX: Final = 1_024
"""Names in `.dfs/at/` of which the agent remembers which revision they are."""
QUARANTINED_MAX: Final = 3
"""Damaged objects that are kept to be looked at; they are not counted by the limit of the cache."""
REPORT_INTERVAL_MS: Final = 1_000
"""How old the agent's figures in `dfs status` may be."""
PROBLEMS_MAX: Final = 20
"""Sentences in one report; the rest is counted."""
CONFLICT_NAMES_MAX: Final = 100
"""Different losers of one file within one second."""
CACHE_FREE_BYTES_MIN: Final = 1 << 30
"""Left free by an agent on its disk, unless told otherwise: log and store of a node are there."""
CACHE_FREE_PERCENT_MIN: Final = 5
"""Instead of CACHE_FREE_BYTES_MIN where this share of the disk is less."""
FILL_GRACE_MS: Final = 20
"""Content that has come stays so long at least: who waited for it opens it two loop turns later."""
ROOM_LOW_MS: Final = 1_000
"""A disk that is too full for so long is a problem: what is in use now may go in a moment."""
ROOM_WAIT_MS: Final = 2_000
"""A reader waits so long for others to close what is in the way."""
PIN_INTERVAL_S: Final = 1
"""How soon content that comes below a pin is fetched; how often one that failed is tried again."""
SYNC_LOOK_MS: Final = 50
"""Between two looks at what is still on its way, where somebody waits for it."""
SETTLE_MS: Final = 500
"""`dfs status PATH` waits so long for what was dropped just before."""
DELETE_DELAY_S: Final = 60
"""Before what was removed from a cache directory is deleted from the tree: time to notice."""
DELETE_LOOK_S: Final = 0.5
"""Between two looks at what waits to be deleted."""
MASS_DELETE_SHARE: Final = 0.5
"""More of a cache directory than this gone at once is rather an accident: somebody is asked."""
MASS_DELETE_FILES: Final = 1_000
"""As MASS_DELETE_SHARE, in entries."""
REFUSAL_SHOWN_S: Final = 600
"""The status says so long that there was no room for something, or why a reader got an error."""
ROOM_RETRY_MS: Final = 20
"""Between two looks whether they have."""
AGENT_CONNECTIONS_MAX: Final = 32
"""Things asked of one agent at once, by people and their scripts."""
AGENT_LINE_BYTES_MAX: Final = 1 << 20
"""One request to an agent: a thousand of the longest paths."""
AGENT_REQUEST_MS_MAX: Final = 10_000
"""For a caller of the agent to send its request, or to take the next line of the answer."""
AGENT_ALIVE_MS: Final = 1_000
"""An agent that is still at it says so."""
AGENT_SILENCE_MS_MAX: Final = 10_000
"""An agent that said nothing for so long hangs."""

# ---- mount --------------------------------------------------------------------------------------
AGENT_WATCH_MS: Final = 100
"""Between two looks at the agent; its end is noticed at once, its getting stuck only by looking."""
AGENT_STABLE_MS: Final = 2_000
"""An agent that lived so long is replaced at once, by one that stands by; others after a pause."""
AGENT_RESTART_MS_MIN: Final = 100
"""First pause before an agent that died at once is started again."""
AGENT_RESTART_MS_MAX: Final = 5_000
"""The pause doubles from the one to the other while agents die as soon as they start."""
AGENT_STOP_MS_MAX: Final = 3_000
"""For an agent to end in order; then its mount is ended by force."""
MOUNT_REACH_MS_MAX: Final = 10_000
"""For one of the servers to answer before `dfs mount` mounts anything; else it gives up."""
MOUNT_SERVED_MS_MAX: Final = 80_000
"""For a mount in the background to show the tree: systemd gives up on a mount after 90 s."""
FUSERMOUNT_MS_MAX: Final = 10_000
"""For fusermount3, which does a few system calls; a dead mount in the way may hang it."""
AGENT_KILL_MS_MAX: Final = 2_000
"""For a killed agent to be gone."""
MOUNTS_STACKED_MAX: Final = 16
"""Dead mounts on one directory that a start takes away."""

# ---- node ---------------------------------------------------------------------------------------
HASH_MARKS_MAX: Final = 1_024
"""Applied indexes whose hashes a node remembers: some are common to all members, under load too."""
HASH_MARKS_SENT_MAX: Final = 512
"""Of those, in one answer to another member."""
WATCH_SCAN_MAX: Final = 10_000
"""Changes of history looked at for one answer of a watch that catches up; WATCH_BYTES_MAX held."""
HISTORY_ITEMS_MAX: Final = 500
"""Changes in one answer of a history: without content, some 100 KiB."""
HISTORY_SCAN_MAX: Final = 10_000
"""Changes looked at for one answer, most of them of other keys: a thread is back in some 0.1 s."""
HISTORY_SCAN_BYTES_MAX: Final = 32 << 20
"""As HISTORY_SCAN_MAX, for large content, which is read though no answer shows it."""
LIST_ITEMS_MAX: Final = 2_000
"""Items in one answer of a list, however small: bounds the time between two answers."""
LIST_HOT_ITEMS_MAX: Final = 256
"""A list that takes so many records to fetch is answered between puts and gets, which wait 0.1 to
0.3 ms for it: those below children count, too. Any other is left to the event loop."""
SCRUB_INTERVAL_MS: Final = 1_000
"""Between two pieces of what is stored that are read for their checksums."""
SCRUB_RECORDS: Final = 1_000
"""In one piece, if STORE_SCAN_BYTES_MAX are not reached before: some milliseconds. A million small
keys take a quarter of an hour, 100 GB more than a day."""
SCRUB_PASS_S_MIN: Final = 3_600
"""From the begin of one pass to the next: a small store is not read all the time."""
FLOOR_INTERVAL_MS: Final = 60_000
"""How often the leader looks whether history is old enough to go."""
FLOOR_STEP_MIN: Final = 1_000
"""Revisions by which the floor moves at least: a log entry each time."""
FLOOR_PROBE_MAX: Final = 1_000
"""Deletions that one probe for the age of a revision skips, as their records are older."""
DISK_FREE_BYTES_MIN: Final = 128 << 20
"""Below it writes that need space are refused: log and store need two segments and memtables."""
DISK_CHECK_INTERVAL_MS: Final = 1_000
"""A disk fills by less than DISK_FREE_BYTES_MIN in this time."""
DISK_TOLD_MS_MAX: Final = 5 * DISK_CHECK_INTERVAL_MS
"""So long a node believes what the leader last said of the space of all; then it looks itself."""
LED_INTERVAL_MS: Final = 10
"""Between two looks at whether a leader is known, for the few while a node starts."""
READY_INTERVAL_MS: Final = 200
"""Between two looks at whether this node is ready and who leads."""
CONTACT_MS_MAX: Final = 2 * ELECTION_MS_MAX
"""Longer silence, and a leader counts as lost: by then an election should have been held."""
READY_LAG_ENTRIES_MAX: Final = 10_000
"""Committed but not applied here: more, and the node says it is not ready."""
JOIN_RETRY_MS: Final = 500
"""A node that found no cluster asks around again, if it hears nothing before."""
JOINED_LOOK_MS: Final = 10
"""Between two looks of a node that was taken in whether its log has begun to come."""
QUARANTINE_KEPT: Final = 2
"""Damaged states that are kept for people to look at: each takes as much space as a state."""
HEALS_MAX: Final = 3
"""Damaged states within HEAL_WINDOW_S that a node fills again; with one more it stops for good."""
HEAL_WINDOW_S: Final = 24 * 3_600
"""A disk that damages one state in a day may be kept an eye on; three are no accident."""
ALONE_MS_MAX: Final = 300
"""For the answers of others before the start, whether this node runs elsewhere: each start after an
outage waits so long for hosts that are down. Those that are up answer within a few milliseconds."""
HEAL_RETRY_MS: Final = 1_000
"""A node that found no member to get the state from asks around again."""
REMOVAL_CHECK_MS: Final = 2_000
"""Between two questions of a node that hears no leader, whether it was removed."""
LEADER_POLL_MS: Final = 20
"""Between two looks for the new leader while leadership moves."""
VOTE_CHECK_MS: Final = 1_000
"""Between two looks of a voter whether it still is one: it may be removed and added again."""
PROMOTE_RETRY_MS: Final = 250
"""Between two looks whether a learner has caught up."""
ASK_MS_MAX: Final = 2_000
"""For one question to one member."""
CLUSTER_MS_MAX: Final = 10_000
"""For one change of the membership, or of the leader."""
CHANGES_WAITING_MAX: Final = 16
"""Changes of the membership that wait for the one under way: more than anybody means to ask for."""
VOTERS_ADVISED_MAX: Final = 7
"""More voters bear more failures than happen at once, and each write waits for half of them."""
CLUSTER_THREADS_MAX: Final = 16
"""Questions to other nodes under way at once: they block threads."""
DRAIN_MS_MAX: Final = 5_000
"""For calls under way when the node stops."""
NODE_THREADS_MAX: Final = 3
"""A snapshot that is written, one that is installed, the end of calls under way: none waits."""

# ---- client -------------------------------------------------------------------------------------
CLIENT_BACKOFF_MS_MIN: Final = 20
"""Before the first repetition of a call; doubled each time. An election takes about a second."""
CLIENT_BACKOFF_MS_MAX: Final = 1_000
"""The pause grows no further: a cluster that is back is noticed within a second."""
CLIENT_CONTACT_MS_MAX: Final = 1_000
"""Nobody has ever answered this client: rather a wrong address than an outage, so it gives up."""
CLIENT_ATTEMPT_MS_MIN: Final = 1_000
"""With several endpoints an attempt takes half of the time that is left, but may take so long."""
CLIENT_LAST_ATTEMPT_MS_MIN: Final = 200
"""With less time left than this a call is not repeated: the last answer says more than silence."""
CLIENT_LEARN_INTERVAL_MS: Final = 30_000
"""How often a client asks who the members are, so that it finds one when its node is gone."""
CLIENT_LEARN_MS_MAX: Final = 2_000
"""For that question; nobody waits for it."""
CLIENT_ANSWER_BYTES_MAX: Final = 2 * MESSAGE_BYTES_MAX
"""All events of one revision come in one answer: more than one message of the largest Put."""
CLIENT_KEEPALIVE_MS: Final = 10_000
"""A connection that says nothing is asked whether it lives so often."""
CLIENT_KEEPALIVE_MS_MAX: Final = 5_000
"""A peer that is gone without a word is noticed after the sum of both, also by a quiet stream."""
