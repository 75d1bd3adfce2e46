//! What the public port hands to the node: calls, and how they are answered.
use bytes::{BufMut, Bytes, BytesMut};
use std::sync::Arc;
use std::time::Instant;

/// A refusal as a gRPC client sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    pub code: u32,
    pub message: String,
    /// An encoded google.rpc.Status for the `grpc-status-details-bin` trailer; may be empty.
    pub details: Bytes,
}

impl Failure {
    /// The same refusal with particulars behind its text.
    pub fn with(&self, particulars: impl std::fmt::Display) -> Failure {
        let message = format!("{}: {particulars}", self.message);
        let details = with_message(&self.details, &message);
        Failure {
            code: self.code,
            message,
            details,
        }
    }
}

/// An encoded google.rpc.Status with another message (field 2): many clients show that one and not
/// the `grpc-message`. In protobuf the last value of a field counts, so it is appended.
fn with_message(details: &Bytes, message: &str) -> Bytes {
    const MESSAGE_TAG: u8 = 2 << 3 | 2;
    if details.is_empty() {
        return Bytes::new();
    }
    let mut longer = BytesMut::from(&details[..]);
    longer.put_u8(MESSAGE_TAG);
    let mut length = message.len();
    while length >= 0x80 {
        longer.put_u8(length as u8 | 0x80);
        length >>= 7;
    }
    longer.put_u8(length as u8);
    longer.put_slice(message.as_bytes());
    longer.freeze()
}

pub type Reply = Result<Bytes, Failure>;

/// What the node wants to know of a method.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    pub method: u32,
    /// Its calls may be handed on only after a read barrier.
    pub reads: bool,
    /// They may be answered by any number of messages.
    pub streams: bool,
}

/// One call, whole: the body is the bare protobuf message (without frame head, decompressed).
pub struct Call {
    pub method: u32,
    /// From the routes: the call may be handed on only after a read barrier.
    pub read: bool,
    pub body: Bytes,
    /// For an answer; of a streamed call only for being handed on, after that it has none here.
    pub deadline: Instant,
    /// Answers the caller and ends the call; does nothing when the caller is gone. Any thread,
    /// never blocks. After messages of `outlet`, a success is one more message.
    pub answer: Box<dyn FnOnce(Reply) + Send>,
    /// Only for methods that stream.
    pub outlet: Option<Arc<dyn Outlet>>,
}

/// What became of a message that was sent to a caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sent {
    Taken,
    /// Accepted, but so many bytes have not been taken yet: `Audience` hears when there is room.
    Full(u64),
    /// There is no caller any more.
    Gone,
}

/// A message for so many streams of one port, which counts its bytes until the last copy is gone.
pub struct Message {
    pub body: Bytes,
    pub receivers: usize,
}

/// Where the messages of one streamed answer go. Any thread, never blocks.
pub trait Outlet: Send + Sync {
    /// A message that can be sent here and to others of the same port.
    fn message(&self, body: Bytes, receivers: usize) -> Message;
    /// Sends it. Nothing moves until the bell is rung that may be put into `bells`: once for all
    /// messages to one connection.
    fn send(&self, message: &Message, bells: &mut Vec<Arc<dyn Bell>>) -> Sent;
    /// The last message has been sent. Rings by itself.
    fn finish(&self);
    /// From now on `audience` hears of this answer, under `id`. False: the caller is gone already.
    fn attend(&self, id: u64, audience: Arc<dyn Audience>) -> bool;
}

/// Wakes a connection to which something was sent.
pub trait Bell: Send + Sync {
    fn ring(&self);
}

/// Hears what happens to streamed answers. Must not block: network threads tell, within locks.
pub trait Audience: Send + Sync {
    /// There is room again after `Sent::Full`, or (false, once) the caller is gone.
    fn news(&self, id: u64, room: bool);
}

/// Takes calls from the wire. Must not block: it runs on a network thread.
pub trait Handler: Send + Sync + 'static {
    fn call(&self, call: Call);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn particulars_reach_the_text_and_the_details() {
        let row = Failure {
            code: 8,
            message: "too large".into(),
            details: Bytes::new(),
        };
        let bare = row.with("5 bytes");
        assert_eq!(
            (bare.message.as_str(), bare.details.len()),
            ("too large: 5 bytes", 0)
        );
        let row = Failure {
            details: Bytes::from_static(b"\x08\x08\x12\x01x"),
            ..row
        };
        let long = "y".repeat(300);
        let mut expected = b"\x08\x08\x12\x01x\x12\xb7\x02".to_vec();
        expected.extend(format!("too large: {long}").bytes());
        assert_eq!(row.with(long).details, expected);
    }
}
