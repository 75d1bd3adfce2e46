//! The bounds of the port. What a user may turn is in `Limits` (defaults as in limits.py); the rest
//! follows from it or from HTTP/2 and is a constant here, with its reason.
use std::time::Duration;

/// The bounds that the engine's options set.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Largest message that a hot call may carry, after decompression.
    pub message_bytes: usize,
    /// Largest header list of a call, counted as HTTP/2 does (name + value + 32 each).
    pub metadata_bytes: usize,
    /// For a hot call that names no deadline.
    pub deadline_default: Duration,
    /// The longest a hot call may take, whatever it asks for.
    pub deadline_max: Duration,
    pub streams_per_connection: u32,
    /// Of a streamed answer, accepted but not taken by its caller, before its maker has to wait.
    pub stream_bytes: u64,
    /// On the public port, and as many on the local socket.
    pub connections: usize,
    /// On the public port, of one IPv4 address or of one IPv6 network (the first 64 bits).
    pub connections_per_address: usize,
    /// From the accepted socket to a valid HTTP/2 preface.
    pub handshake: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            message_bytes: (16 << 20) + (64 << 10),
            metadata_bytes: 8 << 10,
            deadline_default: Duration::from_secs(10),
            deadline_max: Duration::from_secs(30),
            streams_per_connection: 1_024,
            stream_bytes: 1 << 20,
            connections: 256,
            connections_per_address: 128,
            handshake: Duration::from_secs(3),
        }
    }
}

/// Header lists up to this multiple of the limit are read, so that they can be refused by a gRPC
/// status; beyond it HTTP/2 refuses (431), far beyond it closes the connection.
pub const METADATA_HARD_FACTOR: usize = 4;
/// What one client stream may send ahead: a large Put over 100 ms of distance stays above 10 MB/s.
pub const STREAM_WINDOW: u32 = 1 << 20;
/// What a connection may send ahead. Hot bodies are taken at once; only forwarded uploads that
/// their server does not read can fill it.
pub const CONNECTION_WINDOW: u32 = 4 << 20;
/// Frames that a client may send: fewer, larger ones for large values.
pub const FRAME_BYTES: u32 = 256 << 10;
/// Of messages to many streams of a connection, gathered for one write: to copy them once more is
/// cheaper than a write each.
pub const GATHERED_BYTES: usize = 64 << 10;
/// Bodies under way, not yet handed to the node (or, forwarded, not yet whole): in all, and of one
/// connection.
pub const INBOUND_BYTES: u64 = 128 << 20;
pub const INBOUND_BYTES_OF_ONE: u64 = 64 << 20;
/// A call that is refused by its headers is answered when its body has ended, or so much of it
/// came, or so much time passed: curl gets lost when an answer meets it still sending.
pub const DISCARD_BYTES: usize = 64 << 10;
pub const DISCARD: Duration = Duration::from_millis(200);
/// Answers that the clients have not taken yet: in all, and of one connection. A message to many
/// streams counts once in all, and in shares on their connections.
pub const OUTBOUND_BYTES: u64 = 256 << 20;
pub const OUTBOUND_BYTES_OF_ONE: u64 = 64 << 20;
/// What a connection may hold also when `OUTBOUND_BYTES` are in use, every message counted whole:
/// few clients that do not read must not shut out those that do. As much as an equal part for each
/// connection of the port; with it no more than 768 MiB can wait (256 connections on each side).
pub const OUTBOUND_PART: u64 = 1 << 20;
/// With this part of it in use streamed answers get no credit: one message at a time.
pub const OUTBOUND_CROWDED: u64 = 4;
/// Compressed messages are expanded by so many threads at once, each into at most one message.
pub const INFLATE_THREADS: usize = 2;

/// The answer to a ping waits so long for something to leave with; see gathered.rs.
pub const PONG_WAIT: Duration = Duration::from_millis(5);
/// How often a connection looks at itself for the three rules below.
pub const TICK: Duration = Duration::from_secs(5);
/// A client that takes nothing of its waiting answers for so long is disconnected; streamed ones
/// count where much waits (`OUTBOUND_CROWDED`).
pub const STALL: Duration = Duration::from_secs(30);
/// A connection without streams for so long is asked to go (GOAWAY); gRPC clients dial again.
pub const IDLE: Duration = Duration::from_secs(300);
/// A connection that said nothing is pinged after `PING_AFTER` and closed when `PING_WAIT` passes.
pub const PING_AFTER: Duration = Duration::from_secs(60);
pub const PING_WAIT: Duration = Duration::from_secs(20);

/// What the frames of a client cost and earn, in bytes of content (see meter.rs). A frame of any
/// kind costs this: a pong is half of it, so pings alone do not pay for themselves, while
/// acknowledging an answer of 64 bytes does.
pub const FRAME_COST: i64 = 32;
/// A call may come with four frames that carry nothing: window updates, pings.
pub const HEADERS_EARN: i64 = 5 * FRAME_COST;
/// A call that is cancelled has cost far more than frames.
pub const RESET_COST: i64 = 10 * FRAME_COST;
/// A client that is new, or worked: it may cancel all the calls that a connection can have at once,
/// or send 10,000 pings.
pub const METER_SAVED_MAX: i64 = 10_000 * FRAME_COST;
/// By time alone: 1,000 frames a second, which cost a thousandth of a processor.
pub const METER_EARNED_MS: i64 = FRAME_COST;
/// Streams that were ended here while the client still sends: what comes for them is ignored for so
/// long, as it can wait in the buffers of a busy machine; later it would end the connection.
pub const ENDED_STREAM: Duration = Duration::from_secs(10);

/// Connections beyond the limit, or not on loopback, that are told so at the same time; those
/// beyond are closed without a word.
pub const REFUSED_CONNECTIONS: usize = 32;
/// A refused connection is told within this time or not at all.
pub const REFUSE: Duration = Duration::from_secs(3);
/// What is read of a request in HTTP/1, so that the close does not overtake the answer to it.
pub const HTTP1_BYTES: usize = 64 << 10;
/// Pause after a failed accept (no descriptors left): not a busy loop.
pub const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// Streams on one upstream connection. Its window is this many stream windows, so that streams
/// whose callers do not read can never hold up the others.
pub const LINK_STREAMS: usize = 64;
pub const LINK_STREAM_WINDOW: u32 = 64 << 10;
pub const LINK_WINDOW: u32 = LINK_STREAM_WINDOW * LINK_STREAMS as u32;
/// h2 counts the overhead of small frames that wait; many streams of small messages whose callers
/// do not read must not end the connection of the others. 1 MiB a stream.
pub const LINK_FRAME_BUDGET: usize = LINK_STREAMS << 20;
/// Upstream connections: with the above, 5,120 forwarded streams, such as watches of the health of
/// the node.
pub const LINKS: usize = 80;
/// What is buffered of a forwarded stream towards the caller.
pub const FORWARD_BUFFER: usize = 64 << 10;
/// Header lists of upstream's answers: statuses with details.
pub const LINK_METADATA_BYTES: u32 = 64 << 10;
/// A unix socket answers at once or not; so long calls wait for a server that has yet to start.
pub const DIAL: Duration = Duration::from_secs(3);
/// After the start of the engine. Python's gRPC is imported in a second on a slow machine.
pub const UPSTREAM_STARTS: Duration = Duration::from_secs(10);
pub const UPSTREAM_PAUSE: Duration = Duration::from_millis(10);

/// Time for tasks to say GOAWAY at close, and to end when aborted.
pub const CLOSE_POLITE: Duration = Duration::from_millis(200);
pub const CLOSE_FORCED: Duration = Duration::from_secs(2);

/// Longest grpc-message, percent-encoded, and longest details: with both a refusal stays within the
/// 8 KiB of metadata that clients accept.
pub const STATUS_TEXT_BYTES: usize = 3 << 10;
pub const STATUS_DETAILS_BYTES: usize = 3 << 10;
