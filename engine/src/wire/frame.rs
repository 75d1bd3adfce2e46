//! What h2 is given to send: a gRPC message with its five byte head, or forwarded bytes.
use super::peer::{Cost, Peer};
use super::stream::Stream;
use crate::call::Message;
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
    owner: Owner,
    cost: Cost,
}

enum Owner {
    Nobody,
    Peer(Arc<Peer>),
    Stream(Arc<Stream>),
}

impl Owner {
    fn peer(&self) -> Option<&Arc<Peer>> {
        match self {
            Owner::Nobody => None,
            Owner::Peer(peer) => Some(peer),
            Owner::Stream(stream) => Some(stream.peer()),
        }
    }
}

impl Frame {
    /// An uncompressed gRPC message: the answer to a unary call.
    pub fn message(body: Bytes, peer: &Arc<Peer>) -> Frame {
        let cost = Cost::alone(HEAD_BYTES + body.len());
        Frame::counted(body, Owner::Peer(peer.clone()), cost)
    }

    /// The same as a part of a streamed answer.
    pub fn streamed(message: &Message, stream: &Arc<Stream>) -> Frame {
        let cost = Frame::cost_of(message);
        Frame::counted(message.body.clone(), Owner::Stream(stream.clone()), cost)
    }

    /// What a frame with this message costs one of those who get it.
    pub fn cost_of(message: &Message) -> Cost {
        let (own, body) = (size_of::<Frame>(), message.body.len());
        Cost {
            share: own + body / message.receivers.max(1),
            whole: own + body,
            own,
        }
    }

    fn counted(body: Bytes, owner: Owner, cost: Cost) -> Frame {
        let length = u32::try_from(body.len()).expect("an answer is below 4 GiB");
        let mut head = [0; HEAD_BYTES];
        head[1..].copy_from_slice(&length.to_be_bytes());
        match &owner {
            Owner::Nobody => {}
            Owner::Peer(peer) => peer.queued(cost),
            Owner::Stream(stream) => stream.peer().queued_streamed(cost),
        }
        Frame {
            head,
            head_left: HEAD_BYTES,
            body,
            owner,
            cost,
        }
    }

    /// Bytes as they are.
    pub fn raw(body: Bytes) -> Frame {
        Frame {
            head: [0; HEAD_BYTES],
            head_left: 0,
            body,
            owner: Owner::Nobody,
            cost: Cost::default(),
        }
    }

    /// What is left to send.
    pub fn bytes(&self) -> u64 {
        self.remaining() as u64
    }

    fn head_rest(&self) -> &[u8] {
        &self.head[HEAD_BYTES - self.head_left..]
    }

    fn taken(&self, count: usize) {
        if let Owner::Stream(stream) = &self.owner {
            stream.taken(count as u64);
        }
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
        if let Some(peer) = self.owner.peer() {
            peer.sent(count);
        }
        self.taken(count);
    }
}

impl Drop for Frame {
    fn drop(&mut self) {
        match &self.owner {
            Owner::Nobody => {}
            Owner::Peer(peer) => peer.settled(self.cost),
            Owner::Stream(stream) => stream.peer().settled_streamed(self.cost),
        }
        let left = self.remaining();
        if left > 0 {
            self.taken(left);
        }
    }
}
