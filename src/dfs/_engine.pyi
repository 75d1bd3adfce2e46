"""The boundary between Python and Rust: every verb, who may call it, how long it may block.

Only plain values cross: bytes, ints, strings, tuples, lists, dicts. Hot verbs cross once a batch.
A verb that waits releases the interpreter lock while it does. Bytes handed over are copied once.

Rust threads never run Python code; they meet Python only where a Python thread calls a verb.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final, final

# A successful answer is the encoded protobuf message; a failure is (gRPC code, text, encoded
# google.rpc.Status or b""). Failures that arise in Rust are built from Engine's `failures` table.
Failure = tuple[int, str, bytes]
Result = bytes | Failure

# (id, method, body): a call that waits for `propose` or `respond` with that id, or, if its method
# streams, for `respond`, or for `send` and `end`. A call of a read method is handed over only after
# its read barrier has passed. Ids are never reused.
Call = tuple[int, int, bytes]

# (id, room): news of a call whose answer is a stream. True: there is room again for one of which
# `send` said that it is full. False: its caller is gone (cancelled, connection lost, deadline
# passed) and the id is forgotten. Only of calls that were handed over by an earlier `step`.
Flow = tuple[int, bool]

# (method number, is a read, answers by a stream): a read is handed over after its read barrier. One
# that streams has no deadline but the one that its caller names; until it is handed over it has
# that of unary calls.
Route = tuple[int, bool, bool]

# (index, payload, wanted): one committed entry. `payload` is b"" for Raft's own entries (blank and
# membership). `wanted`: a caller of this node waits for the result.
Entry = tuple[int, bytes, bool]

# (seq, entries, log id of the last entry, membership): entries to apply as one atomic batch, in
# order. `membership` is b"" unless it changed within the batch; both are opaque and belong into the
# store in the same write as the applied state. At most one batch is out at a time; it is answered
# by `step(applied=...)`.
Batch = tuple[int, list[Entry], bytes, bytes]

# (ticket, result): the outcome of `submit` or `barrier`.
Done = tuple[int, Result]

# (id, kind, text, data): rare work for Python.
#   WORK_ASK       data = body, text = name of the asking node ("" = not a member yet);
#                  answer with finish(id, Result)
#   WORK_SNAPSHOT  text = path of a file to write; pin a view of the state *now* and call
#                  frozen(id); write the file from another thread; finish(id, b"") or a Failure.
#                  Nothing is applied between this and frozen(id).
#   WORK_INSTALL   text = path of a snapshot file, data = log id + membership (as two
#                  fields, each behind its length as u32, big-endian): replace the state
#                  by it, durably, then finish(id, b""). Nothing is applied meanwhile.
Work = tuple[int, int, str, bytes]
WORK_ASK: Final[int]
WORK_SNAPSHOT: Final[int]
WORK_INSTALL: Final[int]

class EngineError(Exception):
    """The log, a snapshot or the transport is in a state that needs a person; says what to do."""

# (id, name, peer address, public address, has a vote): a member
Row = tuple[int, str, str, str, bool]

# (method, body of a request, its answer now or None if that is not known)
Changed = tuple[int, bytes, bytes | None]

@final
class Engine:
    """One node's Raft member, its log, its peer port and its public gRPC port.

    Life: construct (opens and locks the log) → `recovery` → `start` → `step` in a loop → `close`.
    """

    def __new__(
        cls,
        *,
        data_dir: str,
        name: str,
        node_id: int,
        cluster: bytes,
        raft_addr: str,
        raft_advertise: str,
        grpc_addr: str,
        grpc_advertise: str,
        local: str,
        upstream: str,
        routes: Mapping[str, Route],
        failures: Mapping[str, Failure],
        options: Mapping[str, int],
        tls: tuple[bytes, bytes, bytes] | None = None,
        contents: str = "",
    ) -> Engine:
        """Opens the log below `data_dir`; no sockets yet. Blocks for the replay of the log.

        `node_id` is the incarnation: 63 random bits, made once for each data directory.
        `cluster` is the 16 byte UUID, or b"" for a node that belongs to none yet.
        `grpc_addr` "" = no public port. `local` is the path of a unix socket that is served like
        the public port, with mode 0600; "" = none. `upstream` is the path of the unix socket to
        which all calls that `routes` does not name are forwarded as whole streams; "" = such calls
        are UNIMPLEMENTED.
        `routes`: "/dfs.FileService/Put" → Route.
        `failures`: one row for each kind that Rust can answer by itself; all of: "no_leader",
        "outcome_unknown", "overloaded", "deadline", "too_large", "metadata_too_large",
        "shutting_down", "malformed", "unimplemented", "not_loopback", "needs_tls". The text is a
        prefix: Rust appends ": " and particulars where it has some.
        `options`: see OPTIONS; unknown names raise ValueError, absent ones take the default.
        `tls`: the public port speaks TLS 1.2 or 1.3 and nothing else: (certificates of this node,
        its key, authorities of which callers must have a certificate or b""), the text of PEM
        files each. What does not fit raises ValueError.
        `contents`: a directory; the whole file `ab/<sha256 in hex>` in it, if there is one, is the
        content with that SHA-256, of which other members are given chunks (see `fetch_chunks`).
        Files must come there complete, by rename. It need not exist yet; "" = nothing is given.
        Raises: BlockingIOError (another process has the directory), EngineError (the log is damaged
        beyond its tail), OSError, ValueError.
        """

    def recovery(self) -> dict[str, Any]:
        """What the disk holds, for deciding how to open the store. Does not block.

        {"first": first index in the log (0 = empty), "last": last index, "purged": last purged
        index, "durable": index recorded by `durable`, "snapshot": path or "", "snapshot_log_id":
        bytes, "snapshot_membership": bytes, "snapshot_index": int}
        """

    def lost(self, promised: bytes) -> str:
        """What this log lacks of that which it had on disk once, according to an earlier
        `status`["promised"]; "" = nothing. Then this node must not vote or acknowledge anything
        under its id. Raises EngineError (that is no such thing)."""

    def objection(self, applied: bytes) -> str:
        """Why `start` would not take a store that has applied so much, b"" for an empty one; ""
        when nothing speaks against it. Raises EngineError (the log is damaged)."""

    def fetch_snapshot(self, addr: str, index: int, timeout_ms: int) -> int:
        """Before `start`: fetches the state of the member that listens at the peer address, of
        `index` or a later one, verified by its digest; returns its index. `recovery` shows it as
        the snapshot from then on, and the log is one that may stand behind it. What was there as
        snapshot before is gone. Blocks as long as something moves; `timeout_ms` is for the
        connection. Raises as `ask`, also when that member cannot give it; OSError (no space)."""

    def start(self, applied: bytes, membership: bytes) -> None:
        """Starts Raft from the store's applied log id and membership (b"" = empty store), binds
        both ports, serves. Returns when the ports are bound.

        Raises OSError (EADDRINUSE with the address in the text), EngineError when the store is
        behind the purged log or behind the recorded durable index, or has applied another entry
        than the log has. An empty store is right while nothing was ever purged.
        """

    # ---- the hot loop: one thread ---------------------------------------------------------------

    def step(
        self,
        applied: Sequence[tuple[int, Sequence[Result | None]]],
        propose: Sequence[tuple[int, bytes]],
        respond: Sequence[tuple[int, Result]],
        changed: Sequence[Changed],
        keep: Sequence[tuple[int, bytes]],
        max_items: int,
        timeout_ms: int,
    ) -> tuple[list[Call], list[Batch], list[Done], list[Work], list[Flow]]:
        """Results in, next batch out. Waits at most `timeout_ms` for something to do.

        `applied`: (seq, one result for each entry; None where it was not wanted).
        `propose`: (call id, head): the entry is head + the call's body + the leader's time stamp;
        the caller is answered by Rust with the result that the leader's apply returned. If there
        is no leader the engine waits for one within the call's deadline.
        `respond`: (call id, answer). Ids whose caller is gone are ignored. It ends an answer by a
        stream as well: a message before the end, or the failure.
        `keep`: as `respond`, for reads; and from here on, once its barrier has passed, a call with
        the same method and body gets the same answer without coming here, until its body stands in
        `changed` or all is forgotten. At most option "answers_bytes_max"; the oldest go first.
        `changed`: requests to which there is another answer since the batches of `applied`. Put
        right before the results are told to anybody, and before `keep`.
        Raises EngineError once, when the engine has stopped because of a storage error; the
        process must exit then.
        """

    # ---- from any thread, never blocking ---------------------------------------------------------

    def send(self, calls: Sequence[int], message: bytes) -> list[tuple[int, int]]:
        """Sends one message of their answers to all of these calls; all share its bytes.

        Returns (id, bytes) of those that have more than option "stream_bytes" not yet taken by the
        caller, or anything at all while much waits for slow callers: the message was accepted, but
        wait for room (see Flow) before the next. And (id, -1) of those whose caller is gone, or was
        told "overloaded" as there is no memory for more: the id is forgotten. Messages sent by one
        thread keep their order. The news of room may be in a `step` that returns before this does,
        if another thread steps.
        """

    def end(self, call: int, failure: Failure | None) -> None:
        """Ends an answer by a stream, behind its last message. Forgotten ids are ignored."""

    def submit(self, ticket: int, entry: bytes, timeout_ms: int) -> None:
        """Proposes an entry (the leader appends the time stamp). The result comes back as Done."""

    def barrier(self, ticket: int, min_revision: int, timeout_ms: int) -> None:
        """A read barrier: Done (b"") when everything committed before this call, and
        `min_revision`, has been applied here. With min_revision > 0 no round is made: only that
        index is awaited."""

    def forget_all(self, for_good: bool) -> None:
        """Nothing that was kept is given any more, and answers to calls that were handed over
        before are not kept; `for_good`: no answer at all is. Happens by itself when a WORK_INSTALL
        has been finished."""

    def admit(self, method: int, writer: bytes, data_bytes_max: int) -> None:
        """From now on the engine itself proposes calls of that method which `plain_head` has a head
        for; `writer` empty = all go to `step`, as at first. Any thread."""

    def refuse(self, failure: Failure | None) -> None:
        """Every call that comes from now on is answered with this, until None. Any thread."""

    def wake(self) -> None:
        """Makes a waiting `step` return."""

    def frozen(self, work: int) -> None: ...
    def finish(self, work: int, result: Result) -> None: ...
    def durable(self, index: int) -> None:
        """The store is on disk up to `index`: recorded beside the log; purging may follow."""

    def set_cluster(self, cluster: bytes) -> None:
        """The node now belongs to this cluster: peer connections must name it from here on."""

    def status(self) -> dict[str, Any]:
        """Figures of this moment, without a lock on the Raft core.

        {"id", "term", "leader": id or 0, "role": "leader" | "follower" | "candidate" | "learner" |
        "fresh", "last_log", "committed", "applied", "purged", "snapshot", "durable", "log_bytes",
        "config": index of the entry that says who the members are,
        "snapshots_sent", "snapshots_installed", "elections", "sessions", "dials" (to peers),
        "promised": what the log has on disk for sure, for `lost`; opaque,
        "snapshot" is the index of the newest mark or file: behind it the log may be cut.
        "rounds": of reads as leader, "rounds_by_raft": those that saved votes did not confirm,
        "disk": what is wrong with this node's disk, compared with those of the others, or "",
        "disk_stalled": 1 while that disk does not answer at all,
        "handed_over_for_disk": times that it gave leadership away for that,
        "members": [{"id", "name", "raft", "grpc", "voter": bool, "matched": index (leader only),
        "contact_ms": since it was last heard, on the leader since its last answer (-1 = never),
        "error": last error text}],
        "calls": waiting unary calls, "streams", "connections"}
        """

    # ---- blocking, not from the hot thread (they need it to go on) -------------------------------

    def initialize(self, timeout_ms: int) -> None:
        """Makes this node a cluster of one. No effect when it already is a member of something."""

    def ask(self, addr: str, body: bytes, timeout_ms: int) -> bytes:
        """Sends `body` to whatever node listens at the peer address and returns the answer its
        Python gave to WORK_ASK. Raises ConnectionError / TimeoutError with the address and cause;
        EngineError with the remote's text when it answered with a Failure."""

    def change(self, config: int, members: Sequence[Row], timeout_ms: int) -> int:
        """Leader only: from now on these are all members, if those until now are the ones of log
        entry `config` (see `status`).

        One entry of the log, so it is made or not, never half; therefore at most one vote more or
        less at a time, and addresses of members change with nothing else. Returns the index of that
        entry when it is applied here, or `config` when there was nothing to change. Raises
        EngineError: surely nothing was changed; TimeoutError: the change may yet be committed."""

    def fetch_chunks(
        self,
        addr: str,
        content: bytes,
        size: int,
        chunk_bytes: int,
        wanted: Sequence[tuple[int, bytes]],
        path: str,
        timeout_ms: int,
        unfinished: bool = False,
    ) -> list[int]:
        """Fetches chunks of a content from the member that listens at the peer address, writes each
        at its offset into the existing file at `path`, and returns the numbers of those that are
        there and right, in the order of `wanted`. May be called before `start`.

        `content`: the SHA-256 of all of it, `size` its bytes. Chunk n is the bytes from
        n * `chunk_bytes` on, that many or up to `size`. `wanted`: (number, SHA-256 of the chunk),
        CHUNKS_WANTED_MAX at most; none = nothing is asked. `unfinished`: also of the files
        `uploads/<sha256>` and `arriving/<sha256>`, which are still filled: of those nobody has
        proved that the whole will have that SHA-256, so whoever asks has to.

        A chunk is left out when the member cannot read it, or has other bytes: then its place in
        the file holds anything, and it is to be had from another. Nothing outside of the wanted
        chunks is written; the file is neither made, cut nor synced, but the disk begins to write
        each chunk that has come. What ends the transfer early, on either side or on the way, ends
        it with those that were right until then; it raises only when there is none yet. So call
        again for what is missing, best at another member: each call brings something, is told that
        this member has nothing (an empty list), or says why not.

        Blocks as long as something moves (option "stall_ms_max"); `timeout_ms` is for the
        connection. Many threads may call it at once, also for one file. A member serves
        TRANSFERS_MAX of these at a time; others wait for half of "stall_ms_max", then it refuses.

        Raises ConnectionError / TimeoutError with the address and cause: no connection, broken off,
        nothing moved, or this engine was closed; EngineError: the member refuses, with its sentence
        (it has no such content, or of another size; too busy; another cluster), or speaks nonsense;
        OSError with errno and `path`: the file cannot be opened or written (ENOSPC: full disk);
        ValueError: a number beyond the content, a digest or content that is not 32 bytes.
        """

    def transfer_leader(self, node_id: int, timeout_ms: int) -> None:
        """Leader only; 0 = the voter that has caught up furthest. Returns when another leads."""

    def snapshot(self, timeout_ms: int) -> None:
        """Writes a file of the applied state now; returns when it is in place. Otherwise one is
        written only for a member that needs it; the log is cut behind marks, see `status`."""

    def drain(self, timeout_ms: int) -> None:
        """Stops accepting (GOAWAY), lets calls under way end, hands leadership away if it can."""

    def close(self) -> None:
        """Stops and joins all Rust threads, within 5 s. Idempotent; must be called before exit."""

@final
class StoredLog:
    """The log of a node that does not run. Nothing in its directory is changed."""

    def __new__(cls, data_dir: str) -> StoredLog:
        """Reads all of it, each record with its checksum; keeps nodes out of the directory until
        `close`. Damage is no exception but among the "problems" of `state`. Blocks.
        Raises BlockingIOError (another process has the directory), OSError."""

    def state(self) -> dict[str, Any]:
        """What it says: {"vote": (term, node, committed) or None, "last", "committed", "purged":
        (term, node, index) or None, "durable": index recorded by `Engine.durable`, "entries":
        count, "bytes": on disk, "torn": bytes at the end that are no whole record, as a crash
        leaves them, "problems": a sentence for each}."""

    def entries(self, start: int, bytes_max: int) -> list[tuple[int, int, int, int, bytes]]:
        """(index, term, node, kind, payload) from index `start` on, up to about so many bytes, at
        least one if there is any. Kind: 0 blank, 1 an entry of ours, 2 a membership, in JSON."""

    def close(self) -> None:
        """Lets nodes use the directory again. Idempotent."""

def founding(
    index: int, node_id: int, name: str, raft: str, grpc: str
) -> tuple[bytes, bytes]:
    """(log id, membership) of a store that has applied `index` and is the only member of a new
    cluster, which begins there."""

def is_founding(log_id: bytes) -> bool:
    """It is one that `founding` gave: nothing of the new cluster has been applied since."""

# option → default; see limits.py for the reasons.
OPTIONS: Final[dict[str, int]]

# Of one `Engine.fetch_chunks`: what the largest content has.
CHUNKS_WANTED_MAX: Final[int]
# Other members that are given chunks at once; each costs a thread.
TRANSFERS_MAX: Final[int]

def copy_and_hash(source: int, target: int, chunk_bytes: int) -> tuple[int, bytes, bytes]:
    """Copies a file, from its begin to the end that it has now, into an empty one. Returns (bytes
    copied, SHA-256 of all of them, SHA-256 of each chunk of `chunk_bytes`, one behind the other;
    the last chunk may be shorter, an empty file has none).

    Both are open descriptors, of regular files; they stay open. Holes of the source are not read;
    they, and every aligned 64 KiB of zeros, are holes of the target, which ends up with the same
    size. Where the file system can share blocks between files, and `target` can be read as well, it
    shares those of the source, and nothing is copied. Nothing is synced, but the disk begins to
    write what has been copied. A file that changes meanwhile is copied as it is met: the digests
    are those of what the target has, and who must know compares stat before and after. Afterwards
    the positions of both are anywhere.

    Blocks without the interpreter lock; more than one chunk takes a second thread. Raises OSError
    (ENOSPC: full disk), ValueError (`source` is no file, `target` is not empty, `chunk_bytes` is
    0)."""

def digest_chunks(
    fd: int, size: int, chunk_bytes: int, numbers: Sequence[int]
) -> list[bytes]:
    """The SHA-256 of each of these chunks of an open file, whose content has `size` bytes. Does not
    move its position. Blocks without the interpreter lock. Raises OSError (damaged disk),
    ValueError (the file ends before one of them does, a number beyond the content, `chunk_bytes`
    is 0)."""

def store_objects(root: str, contents: Sequence[tuple[bytes, bytes]]) -> list[bool]:
    """Makes `<root>/ab/<SHA-256 in hex>` of each (SHA-256, content), as `dfs.cache.objects` has
    them: 0200 until all of it is there, then 0444. Whether it was made, for each: not if the
    content has another SHA-256, or its file is there already or cannot be written; an empty one is
    left then, 0200. Nothing is synced. Blocks without the interpreter lock."""

# (leader's time, key in `n`): an entry that is a plain Put.
PlainPut = tuple[int, bytes]
# (key in `n`, revision to replace, bytes of content, their SHA-256, begin and end of the PutRequest
# in the entry): a regular put of a transaction, which names content, a key as plain as that of a
# plain Put, and at most the revision to replace, mode, mtime and owner.
PartPut = tuple[bytes, int | None, int, bytes, int, int]
# (value in `n`, key in `h`, value, key in `i` or None, to be added to the state hash modulo 2^128,
# to be added to the bytes of content): a new version of a file, as `dfs.store.layout` has it.
PackedFile = tuple[bytes, bytes, bytes, bytes | None, int, int]

def plain_head(body: bytes, writer: bytes, data_bytes_max: int) -> bytes | None:
    """The head of the entry for a PutRequest of nothing but key and content, in the usual form,
    whose key is plain ASCII; None for all others. `writer`: format, node and principal of an Entry,
    encoded. Pure; holds the interpreter lock, as all functions here."""

def plain_puts(entries: list[Entry], data_bytes_max: int) -> list[PlainPut | None]:
    """Decodes those entries that are such a Put; None for all others, which have to be decoded in
    full."""

def count_operations(body: bytes, most: int) -> int:
    """How many operations a TransactionRequest has, up to so many, without decoding them."""

def put_digests(
    body: bytes, data_bytes_max: int, mode_max: int, owner_max: int
) -> bytes | None:
    """The SHA-256 of each content, one behind the other, of a TransactionRequest of nothing but
    regular puts that keep these bounds; None for all others. Hashes without the interpreter lock.
    """

def split_transaction(
    payload: bytes, data_bytes_max: int, mode_max: int, owner_max: int
) -> (
    tuple[int, str, str, bytes, list[PartPut | tuple[bytes, bytes]]] | None
):
    """(leader's time, node, principal, request id, operations) of an entry, whose format is known,
    that is a transaction. What is no regular put, or none that keeps these bounds, is (encoded
    Operation, SHA-256 of its content if it is a put). None: it is another entry, or an unusual one,
    which has to be decoded in full."""

def chain_entries(chain: bytes, entries: list[Entry]) -> bytes:
    """The hash chain behind the entries: XXH3-128 of the chain before, index u64 and payload."""

def pack_put(
    payload: bytes,
    store_key: bytes,
    old: bytes | None,
    revision: int,
    sub: int,
    time_ns: int,
    mode: int,
    inline_bytes_max: int,
) -> PackedFile | None:
    """Packs what a plain Put stores under `store_key`, a key in `n`, in place of the value `old`.
    None: that is damaged or a directory, or the entry is no plain Put."""

def pack_part(
    payload: bytes,
    put: PartPut,
    old: bytes | None,
    revision: int,
    sub: int,
    time_ns: int,
    mode: int,
    node: str,
    principal: str,
    request_id: bytes,
    inline_bytes_max: int,
) -> PackedFile | None:
    """The same for a regular put of the transaction in `payload`. `mode`: if it names none."""

def pack_file(
    store_key: bytes,
    old: bytes | None,
    revision: int,
    sub: int,
    time_ns: int,
    mode: int,
    mtime_ns: int,
    node: str,
    principal: str,
    sha256: bytes,
    request_id: bytes,
    tail: bytes,
    data: bytes,
    inline_bytes_max: int,
) -> PackedFile | None:
    """The same for a file of which everything is given. `request_id`: 16 bytes, or none. `tail`:
    fields of its Record behind the request id, encoded."""

def plain_gets(requests: list[tuple[int, bytes]]) -> list[tuple[int, bytes]]:
    """(number, store key) of those of (number, encoded GetRequest) that name a key and nothing
    else, in the usual form. The others have to be decoded in full."""

def get_answers(
    gets: list[tuple[int, bytes]], values: list[bytes | None]
) -> list[tuple[int, bytes]]:
    """(number, encoded GetResponse) of those of (number, store key) whose value is an undamaged
    record of a file with its content in it."""

def list_items(
    records: list[tuple[bytes, bytes]],
    at: int,
    recursive: bool,
    data_bytes_max: int,
    data_after: int,
    items_max: int,
    bytes_max: int,
    first: bool,
) -> tuple[bytes, int, int, int, bool, bytes | None]:
    """(items as a ListResponse holds them, position of the first record that is not among them,
    count of items, bytes of their keys, records and content, unusual, beyond).

    `records`: of `n` (key, value), in order, looked at from `at` on. It ends where there is no room
    for a record: `items_max`, `bytes_max`, but with `first` one item may be larger. `unusual`: it
    ends at a record that somebody else has to look at, because it is damaged or its content, which
    is wanted, does not stand there. Not `recursive`: what is below an item is passed over; `beyond`
    is where to go on when the records end there. `data_bytes_max`: as in a ListRequest, but
    of revisions greater than `data_after` only."""

def content_keys(
    gets: list[tuple[int, bytes]], values: list[bytes | None], data_bytes_max: int
) -> list[tuple[int, bytes, bytes]]:
    """(number, store key, key in `h` of the content) of those whose value is an undamaged record of
    a file that has its content, so many bytes at most, in history alone."""

def content_answers(
    gets: list[tuple[int, bytes, bytes]], values: list[bytes | None]
) -> list[tuple[int, bytes]]:
    """(number, encoded GetResponse) of those whose value is an undamaged event of that file."""

def changed_gets(
    events: list[tuple[bytes, bytes]], method: int, data_bytes_max: int
) -> list[Changed]:
    """The requests, as `plain_gets` knows them, for the keys that these records of `h` (key, value)
    are about, with their answers if those are files with so little content."""

def encode_stored(
    number: int,
    events: Sequence[tuple[bytes, bytes]],
    data_bytes_max: int,
    bytes_max: int,
    rest: bytes,
) -> bytes:
    """Records of `h` (key, value) as the events of a message, in its field `number`, and the `rest`
    of it behind them. With content of files up to `data_bytes_max` bytes when that is not 0, as
    long as no more than `bytes_max` of it comes along in all. Checksums are not looked at. Raises
    ValueError when a record is cut short."""

def encode_events(
    number: int,
    changes: Sequence[tuple[int, int, bool, str, bytes, bytes | None, int]],
) -> bytes:
    """Changes (`dfs.store.Change`) as the events of a message, in its field `number`, without
    content."""

@final
class Part:
    """A content that comes chunk by chunk, for `Tree.fulfil`. Made by `Tree.part`."""

    def mark(self, number: int) -> None:
        """That chunk is in the file, verified: it may be read. Raises ValueError."""

    def used(self) -> bool:
        """Somebody has a file of that content open."""

@final
class Tree:
    """The kernel side of the mount: the tree in memory, the FUSE request loop, the misses.

    The tree is served from memory; only content can miss. A node id is hash(path, version): an open
    file keeps its version. Who asks waits for Python only in misses and questions, with deadlines.
    """

    def __new__(cls, options: Mapping[str, int]) -> Tree:
        """Options, all optional: "passthrough" 0|1 (1), "no_open" 0|1 (0), "deadline_ms" (30,000),
        "ttl_ms" (3,600,000), "xattr" 0|1 (0: there are none; 1: questions), "uid", "gid" (0),
        "owners" 0|1 (1: entries belong to whom they name; 0: all to "uid" and "gid")."""

    def contents(
        self, answers: Sequence[tuple[bytes, int]]
    ) -> list[tuple[bytes, int, bytes | None]]:
        """First half of what a watch brought: contents of it that are not known to be here, each
        once, as (SHA-256, bytes, content if it came along).

        An answer is an encoded WatchResponse with the revision up to which its events are old.
        Raises ValueError on what is none.
        """

    def show(
        self, answers: Sequence[tuple[bytes, int]], places: Sequence[tuple[bytes, str]],
        snapshot: bool,
    ) -> tuple[bool, list[bytes], list[tuple[str, str]]]:
        """Second half: shows items and events in their order; up to 25,000 are shown at once, more
        little by little. `places`: where contents of it are, as (SHA-256, path of a verified
        immutable local file). All paths with the same content share its place. `snapshot`: all of
        it is part of one. Any thread; blocks for the tree lock only.

        Parents are made as needed, and implicit directories vanish with their last child. What is
        older than what is shown there is ignored; what is older and in the way goes. The same
        version again changes nothing. A file whose content has no place becomes a miss when it is
        opened. Deleting a directory that still has children makes it an implicit one.

        Returns whether something was deleted, contents that nobody can open any more, and (path,
        reason) of what the mount cannot show. Raises ValueError as `contents`.
        """

    def begin_snapshot(self) -> None:
        """A snapshot begins: what it does not tell of goes with `end_snapshot`."""

    def end_snapshot(self) -> tuple[bool, list[bytes], list[tuple[str, str]]]:
        """The whole snapshot was shown. Takes away what it did not have; returns as `show`."""

    def place_contents(self, places: Sequence[tuple[bytes, str | None]]) -> int:
        """(SHA-256, backing): sets or clears where contents are, of those that `shows`. Returns how
        many were set."""

    def left(self) -> list[bytes]:
        """SHA-256 of contents that nobody can open any more since the last call, or the last
        `show`. What was replaced or deleted is left when the kernel has forgotten it: until then
        who has looked it up may open it, however late."""

    def shows(self, digest: bytes) -> bool:
        """Whether a path shows the content with this SHA-256, or the kernel may still come for
        it."""

    def committed(self) -> int:
        """Entries that `show` has shown: files, symlinks, and directories that somebody made."""

    def record(self, path: str) -> bytes | None:
        """The encoded Record of one of them."""

    def entries(
        self, top: str, after: str, max_items: int, absent: bool
    ) -> list[tuple[str, int, int, int, bytes]]:
        """Those at and below `top` ("" = all), as (path, kind, revision, size of a file, SHA-256),
        in an order of their own; those behind the path `after` of a former call, "" = from the
        beginning. `absent`: only files of which it is not known where the content is."""

    def serve(self, fd: int, table: int = ...) -> None:
        """Starts serving a fresh /dev/fuse descriptor with which something is mounted (else
        `running` turns false). Takes copies of the descriptors. Raises OSError. `table`: of a
        memfd that outlives this process, in which open files and what the kernel knows of the past
        are noted for the one that adopts (its number is in DFS_FUSE_TABLE; see `dfs.mount`)."""

    def adopt(self, fd: int, table: int = ...) -> None:
        """Takes over a live connection whose former server died; asks the kernel to resend. Without
        the former server's `table`, files that are open through passthrough cannot be opened once
        more (EIO) until they are closed; what is of the past, or was replaced, is ESTALE."""

    def next_misses(self, max_items: int, timeout_ms: int) -> list[tuple[int, str, int, int, int]]:
        """Waits for files that a reader wants and that are not here: (miss id, path, version,
        first, upto); the path as in `next_questions`. With first < upto somebody reads these chunks
        of what was begun for that version."""

    def fulfil(self, miss: int, result: str | Part | int) -> bool:
        """A backing path, what is here of the content, or an errno. Of a part that is open each
        read waits for its chunks, which are misses of their own. False when the deadline has
        answered already."""

    @staticmethod
    def part(path: str, version: int, fd: int, size: int, chunk_bytes: int) -> Part:
        """A file of that size, open as `fd`, of which a copy is kept, into which chunks come.
        Raises OSError."""

    def offer(self, names: Sequence[str]) -> None:
        """Files below `.dfs/`, in no listing of the root: each open is a question. And `.dfs/at/`,
        where names, and what is below them, are questions, but for files whose names begin with
        "at/". Once, before anybody looks; no effect with "no_open". Raises ValueError."""

    def next_questions(self, max_items: int, timeout_ms: int) -> list[tuple[int, str, int, str]]:
        """(question, path, version, "content" | "xattr:NAME" | "xattrs" (with NUL behind each) |
        "name:NAME" (is it a past revision?) | "list" (what is in this directory of one?)). In a
        path a past revision stands by its number, the version of what `fill` said it is."""

    def answer(self, question: int, result: bytes | int) -> bool:
        """Bytes, or an errno. False when the deadline or an interrupt has answered already."""

    def fill(
        self,
        question: int,
        entries: Sequence[tuple[str, int, int, int, int, int, int, int, str | None]],
    ) -> bool:
        """Answers "name:…" with the one directory, by its name, or "list" with what is in it, by
        key. They are kept while the kernel knows them, and others up to 300,000 in all: what goes
        is asked for again, and has to be the same. False when the deadline or an interrupt has
        answered already. Raises ValueError on a bad key.

        An entry is (path, kind 0 file 1 directory 2 symlink, size, mode, mtime_ns, uid, gid,
        version, backing): a uid or gid of 2^32 - 1 stands for those of the options; `backing` is
        the path of a verified immutable local file with exactly that content, the target of a
        symlink, or None (not here: opening it becomes a miss)."""

    def set_free(self, free_bytes: int) -> None:
        """What statfs says is free; used is what the files of the tree hold."""

    def flush(self, timeout_ms: int) -> bool:
        """Waits until every later path lookup sees all changes applied so far."""

    def set_live(self, live: bool) -> None:
        """Not live (the stream of changes is broken): kernel caches get a TTL of 0."""

    def opened(self) -> list[bytes]:
        """SHA-256 of what was opened since the last call, for the cache's LRU; bounded, lossy."""

    def stats(self) -> dict[str, int]:
        """entries, bytes, nodes, past (entries kept), live, passthrough (in use), epochs,
        notices_queued, notices_delivered, waiting (readers), requests, lookups, opens, reads,
        misses, questions, answers (held), timeouts, interrupts, damaged (local files without the
        committed size), io_errors, malformed, stale (older than what was shown), collisions
        (entries not shown), open, open_passthrough, open_arriving, passthrough_refused,
        table_errors, ready (small files that are closed, which the kernel can read as before; none
        whose content is hidden or no longer shown)."""

    def running(self) -> bool:
        """False when the kernel has ended the connection (unmounted or aborted)."""

    def close(self) -> None:
        """Stops the threads; does not unmount. Waiting readers get an errno. Never hangs."""

def fuse_open() -> int:
    """Opens /dev/fuse (close-on-exec). Raises OSError."""

def fuse_mount(fd: int, mountpoint: str, options: str, source: str = "dfs") -> None:
    """mount(2) as fuse.dfs: read-only, nosuid, nodev. Raises OSError."""

def fuse_unmount(mountpoint: str, force: bool = False) -> None:
    """Lazy unmount (MNT_DETACH); with `force` the connection is aborted first. Raises OSError."""

def fuse_resend(fd: int) -> None:
    """Asks the kernel to hand out again what the dead server had taken (FUSE_NOTIFY_RESEND).
    Raises OSError when the connection has ended."""
