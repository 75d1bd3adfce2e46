//! What h2 is given to send: a gRPC message with its five byte head, or forwarded bytes.
use super::peer::Peer;
use bytes::{Buf, Bytes};
use std::io::IoSlice;
use std::sync::Arc;

pub const HEAD_BYTES: usize = 5;

/// One buffer of an HTTP/2 stream. An answer is counted on its connection until it has been sent or
/// thrown away, so that clients that do not read are seen (and bounded).
pub struct Frame {
    head: [u8; HEAD_BYTES],
    head_left: usize,
    body: Bytes,
    counted: Option<Arc<Peer>>,
}

impl Frame {
    /// An uncompressed gRPC message.
    pub fn message(body: Bytes, peer: &Arc<Peer>) -> Frame {
        let length = u32::try_from(body.len()).expect("an answer is below 4 GiB");
        let mut head = [0; HEAD_BYTES];
        head[1..].copy_from_slice(&length.to_be_bytes());
        peer.queued(HEAD_BYTES + body.len());
        Frame {
            head,
            head_left: HEAD_BYTES,
            body,
            counted: Some(peer.clone()),
        }
    }

    /// Bytes as they are.
    pub fn raw(body: Bytes) -> Frame {
        Frame {
            head: [0; HEAD_BYTES],
            head_left: 0,
            body,
            counted: None,
        }
    }

    fn head_rest(&self) -> &[u8] {
        &self.head[HEAD_BYTES - self.head_left..]
    }
}

impl Buf for Frame {
    fn remaining(&self) -> usize {
        self.head_left + self.body.len()
    }

    fn chunk(&self) -> &[u8] {
        if self.head_left > 0 {
            self.head_rest()
        } else {
            &self.body
        }
    }

    fn chunks_vectored<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        let parts = [self.head_rest(), &self.body[..]];
        let mut filled = 0;
        for part in parts
            .into_iter()
            .filter(|part| !part.is_empty())
            .take(slices.len())
        {
            slices[filled] = IoSlice::new(part);
            filled += 1;
        }
        filled
    }

    fn advance(&mut self, count: usize) {
        let of_head = count.min(self.head_left);
        self.head_left -= of_head;
        self.body.advance(count - of_head);
        if let Some(peer) = &self.counted {
            peer.sent(count);
        }
    }
}

impl Drop for Frame {
    fn drop(&mut self) {
        let left = self.remaining();
        if let Some(peer) = self.counted.take()
            && left > 0
        {
            peer.unsent(left);
        }
    }
}
