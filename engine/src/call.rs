//! What the public port hands to the node: unary calls, and how they are answered.
use bytes::{BufMut, Bytes, BytesMut};
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

/// One unary call, whole: the body is the bare protobuf message (without frame head, decompressed).
pub struct Call {
    pub method: u32,
    /// From the routes: the call may be handed on only after a read barrier.
    pub read: bool,
    pub body: Bytes,
    pub deadline: Instant,
    /// Answers the caller; does nothing when the caller is gone. Any thread, never blocks.
    pub answer: Box<dyn FnOnce(Reply) + Send>,
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
