//! What the public port hands to the node: unary calls, and how they are answered.
use bytes::Bytes;
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
        Failure { message: format!("{}: {particulars}", self.message), ..self.clone() }
    }
}

pub type Reply = Result<Bytes, Failure>;

/// One unary call, whole: the body is the bare protobuf message (frame header removed, decompressed).
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
