//! One streamed answer as other threads see it: what may be sent, and whether anybody takes it.
//!
//! Messages go into the mailbox of the connection as finished frames, and h2 sends them as the
//! caller gives room. There is no task and no queue of its own for a stream: what bounds it is the
//! count of bytes that have been accepted and not been taken.
use super::frame::Frame;
use super::peer::{Answer, Peer, What};
use crate::call::{Audience, Bell, Message, Outlet, Sent};
use bytes::Bytes;
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::task::Wake;

/// Nobody waits for room.
const NOBODY: u64 = u64::MAX;

pub struct Stream {
    peer: Arc<Peer>,
    key: usize,
    serial: u64,
    /// So many bytes may be untaken before the sender is asked to wait.
    bytes_max: u64,
    untaken: AtomicU64,
    /// The sender waits until no more than this is untaken.
    room_at: AtomicU64,
    gone: AtomicBool,
    audience: Mutex<Option<(u64, Arc<dyn Audience>)>>,
}

impl Stream {
    pub fn new(peer: Arc<Peer>, key: usize, serial: u64, bytes_max: u64) -> Stream {
        Stream {
            peer,
            key,
            serial,
            bytes_max,
            untaken: AtomicU64::new(0),
            room_at: AtomicU64::new(NOBODY),
            gone: AtomicBool::new(false),
            audience: Mutex::new(None),
        }
    }

    pub fn peer(&self) -> &Arc<Peer> {
        &self.peer
    }

    fn to_mailbox(&self, what: What) -> Answer {
        Answer {
            key: self.key,
            serial: self.serial,
            what,
        }
    }

    /// The answer is complete: nobody wants to hear of it any more. False: it was before.
    pub fn complete(&self) -> bool {
        *self.audience.lock() = None;
        !self.gone.swap(true, SeqCst)
    }

    /// The connection has let go of the call.
    fn leave(&self) {
        let audience = {
            let mut audience = self.audience.lock();
            self.gone.store(true, SeqCst);
            audience.take()
        };
        if let Some((id, audience)) = audience {
            audience.news(id, false);
        }
    }

    /// The caller has taken so many bytes, or they have been thrown away.
    pub fn taken(&self, bytes: u64) {
        let left = self.untaken.fetch_sub(bytes, SeqCst) - bytes;
        let room_at = self.room_at.load(SeqCst);
        if room_at != NOBODY && left <= room_at && self.room_at.swap(NOBODY, SeqCst) != NOBODY {
            let audience = self.audience.lock().clone();
            if let Some((id, audience)) = audience {
                audience.news(id, true);
            }
        }
    }

    /// Counts a message; whether its sender may send another at once.
    fn add(&self, bytes: u64) -> Sent {
        let untaken = self.untaken.fetch_add(bytes, SeqCst) + bytes;
        let (most, room_at) = if self.peer.crowded() {
            (0, 0)
        } else {
            (self.bytes_max, self.bytes_max / 2)
        };
        if untaken <= most {
            return Sent::Taken;
        }
        self.room_at.store(room_at, SeqCst);
        Sent::Full(untaken)
    }

    /// Looks again: what was taken before `add` had noted that somebody waits told nobody.
    fn full_still(&self, sent: Sent) -> Sent {
        let room_at = self.room_at.load(SeqCst);
        let free = room_at != NOBODY && self.untaken.load(SeqCst) <= room_at;
        if free && self.room_at.swap(NOBODY, SeqCst) != NOBODY {
            return Sent::Taken;
        }
        sent
    }
}

/// A stream as the node has it.
pub struct Way(pub Arc<Stream>);

impl Outlet for Way {
    fn message(&self, body: Bytes, receivers: usize) -> Message {
        let body = self.0.peer.charge(body);
        Message { body, receivers }
    }

    fn send(&self, message: &Message, bells: &mut Vec<Arc<dyn Bell>>) -> Sent {
        let stream = &self.0;
        if stream.gone.load(SeqCst) {
            return Sent::Gone;
        }
        if !stream.peer.has_room(Frame::cost_of(message)) {
            if stream.complete() {
                stream.peer.post(stream.to_mailbox(What::Overfull));
            }
            return Sent::Gone;
        }
        // From here on it gives back what is added, by being sent or dropped.
        let frame = Frame::streamed(message, stream);
        let sent = stream.add(frame.bytes());
        if stream.peer.push(stream.to_mailbox(What::Message(frame))) {
            bells.push(stream.peer.clone());
        }
        match sent {
            Sent::Full(_) => stream.full_still(sent),
            sent => sent,
        }
    }

    fn finish(&self) {
        if self.0.complete() {
            self.0.peer.post(self.0.to_mailbox(What::Finish));
        }
    }

    fn attend(&self, id: u64, audience: Arc<dyn Audience>) -> bool {
        let mut place = self.0.audience.lock();
        if self.0.gone.load(SeqCst) {
            return false;
        }
        *place = Some((id, audience));
        true
    }
}

/// h2 wakes it when something happened to the stream, such as its end by the caller.
impl Wake for Stream {
    fn wake(self: Arc<Self>) {
        self.peer.post(self.to_mailbox(What::Touched));
    }
}

/// How the connection holds a streamed answer: when it lets go, the caller has gone.
pub struct Lifeline(pub Arc<Stream>);

impl Drop for Lifeline {
    fn drop(&mut self) {
        self.0.leave();
    }
}

#[cfg(test)]
mod tests {
    use super::super::limits::{OUTBOUND_BYTES, OUTBOUND_BYTES_OF_ONE, OUTBOUND_PART};
    use super::super::peer::{Command, Cost};
    use super::super::shared::Totals;
    use super::*;
    use std::sync::atomic::Ordering::Relaxed;

    const BYTES_MAX: u64 = 1 << 20;

    fn way(totals: &Arc<Totals>) -> Way {
        let peer = Arc::new(Peer::new(totals.clone(), Command::Serve));
        Way(Arc::new(Stream::new(peer, 1, 1, BYTES_MAX)))
    }

    fn body(bytes: usize) -> Bytes {
        Bytes::from(vec![0; bytes])
    }

    #[test]
    fn a_message_for_which_there_is_no_room_leaves_no_trace() {
        let totals = Arc::default();
        let way = way(&totals);
        let full = Cost::alone(OUTBOUND_BYTES_OF_ONE as usize);
        way.0.peer.queued(full);
        let message = way.message(body(1_000), 1);
        assert_eq!(way.send(&message, &mut Vec::new()), Sent::Gone);
        assert_eq!(way.0.untaken.load(SeqCst), 0);
        drop(message);
        way.0.peer.settled(full);
        assert_eq!(totals.outbound.load(Relaxed), 0);
    }

    #[test]
    fn a_message_to_many_counts_until_the_last_of_them_has_it() {
        let totals = Arc::default();
        let ways: Vec<Way> = (0..100).map(|_| way(&totals)).collect();
        let message = ways[0].message(body(500_000), ways.len());
        for way in &ways {
            assert_eq!(way.send(&message, &mut Vec::new()), Sent::Taken);
        }
        drop(message);
        let frames = |count: usize| (count * size_of::<Frame>()) as u64;
        let counted = || totals.outbound.load(Relaxed);
        assert_eq!(counted(), 500_000 + frames(100), "once");
        for way in &ways[1..] {
            way.0.peer.leave();
        }
        assert_eq!(counted(), 500_000 + frames(1), "as long as one holds it");
        ways[0].0.peer.leave();
        assert_eq!(counted(), 0);
    }

    #[test]
    fn those_that_stand_still_cannot_hold_more_than_may_wait_by_holding_shares() {
        let totals = Arc::default();
        let stalled: Vec<Way> = (0..10).map(|_| way(&totals)).collect();
        // Each message goes to many, of which one never takes it.
        for n in 0..1_000 {
            let stalled = &stalled[n % stalled.len()];
            let message = stalled.message(body(500_000), 5_000);
            stalled.send(&message, &mut Vec::new());
        }
        let most = OUTBOUND_BYTES + stalled.len() as u64 * OUTBOUND_PART;
        let counted = totals.outbound.load(Relaxed);
        assert!(
            (OUTBOUND_BYTES - (1 << 20)..=most).contains(&counted),
            "{counted}"
        );
    }
}
