//! The side of a connection that other threads touch: its outbox of answers, and its byte counts.
use super::frame::Frame;
use super::limits::{OUTBOUND_BYTES, OUTBOUND_BYTES_OF_ONE, OUTBOUND_CROWDED, OUTBOUND_PART};
use super::shared::Totals;
use super::stream::{Stream, Way};
use crate::call::{Bell, Outlet, Reply};
use bytes::Bytes;
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::task::Waker;

/// What a connection is told to do; only ever raised.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Command {
    Serve,
    /// Take no new calls, end when the ones under way have.
    Drain,
    Close,
}

/// For the call that waits at `key`; `serial` tells it from others that waited there.
pub struct Answer {
    pub key: usize,
    pub serial: u64,
    pub what: What,
}

impl Answer {
    /// It is one of perhaps many, all of which are sent at once.
    pub fn is_message(&self) -> bool {
        matches!(self.what, What::Message(_))
    }
}

/// What a connection hears of one of its calls.
pub enum What {
    /// Its body is complete: a streamed answer has its own time from here on.
    HandedOn,
    /// The answer; None: whoever had the call has dropped it without one.
    Reply(Option<Reply>),
    /// One message of a streamed answer.
    Message(Frame),
    /// The end of a streamed answer.
    Finish,
    /// Its end, as there is no memory for more.
    Overfull,
    /// Perhaps the caller has ended it.
    Touched,
}

/// Bytes of memory that are counted for a part of an answer.
#[derive(Clone, Copy, Default)]
pub struct Cost {
    /// On its connection.
    pub share: usize,
    /// All that it keeps from being freed.
    pub whole: usize,
    /// In all; what is counted by a `Charged` is not in it.
    pub own: usize,
}

impl Cost {
    /// Of what belongs to nobody else.
    pub fn alone(bytes: usize) -> Cost {
        Cost {
            share: bytes,
            whole: bytes,
            own: bytes,
        }
    }
}

/// Bytes that many parts of answers have together: counted once, until the last one is gone.
struct Charged {
    body: Bytes,
    totals: Arc<Totals>,
}

impl AsRef<[u8]> for Charged {
    fn as_ref(&self) -> &[u8] {
        &self.body
    }
}

impl Drop for Charged {
    fn drop(&mut self) {
        let bytes = self.body.len() as u64;
        self.totals.outbound.fetch_sub(bytes, Relaxed);
    }
}

pub struct Peer {
    mailbox: Mutex<Mailbox>,
    totals: Arc<Totals>,
    inbound: AtomicU64,
    outbound: AtomicU64,
    /// The same with every message counted whole.
    held: AtomicU64,
    /// Of `outbound`, parts of streamed answers.
    streamed: AtomicU64,
    /// Bytes of answers that have left, ever: tells a slow reader from one that stands still.
    progress: AtomicU64,
}

struct Mailbox {
    answers: Vec<Answer>,
    command: Command,
    /// Set while the connection sleeps and nothing has woken it.
    sleeper: Option<Waker>,
    /// Somebody has put something here and will ring.
    ringing: bool,
    /// The connection has ended: nobody will look here again.
    left: bool,
}

impl Peer {
    pub fn new(totals: Arc<Totals>, command: Command) -> Peer {
        let mailbox = Mailbox {
            answers: Vec::new(),
            command,
            sleeper: None,
            ringing: false,
            left: false,
        };
        Peer {
            mailbox: Mutex::new(mailbox),
            totals,
            inbound: AtomicU64::new(0),
            outbound: AtomicU64::new(0),
            held: AtomicU64::new(0),
            streamed: AtomicU64::new(0),
            progress: AtomicU64::new(0),
        }
    }

    /// Any thread. The connection is woken once for all that is posted until it looks.
    pub fn post(&self, answer: Answer) {
        if self.push(answer) {
            self.ring();
        }
    }

    /// The same without waking it. True: the caller has to ring, after all that it has to push.
    pub fn push(&self, answer: Answer) -> bool {
        let mut mailbox = self.mailbox.lock();
        if mailbox.left {
            drop(mailbox);
            return false; // the answer is dropped outside the lock
        }
        mailbox.answers.push(answer);
        let ring = mailbox.sleeper.is_some() && !mailbox.ringing;
        mailbox.ringing |= ring;
        ring
    }

    pub fn command(&self, command: Command) {
        let mut mailbox = self.mailbox.lock();
        mailbox.command = mailbox.command.max(command);
        let sleeper = mailbox.sleeper.take();
        drop(mailbox);
        if let Some(sleeper) = sleeper {
            sleeper.wake();
        }
    }

    /// The connection empties its mailbox into `answers` (which is empty).
    pub fn collect(&self, answers: &mut Vec<Answer>) -> Command {
        debug_assert!(answers.is_empty());
        let mut mailbox = self.mailbox.lock();
        mailbox.sleeper = None;
        mailbox.ringing = false;
        std::mem::swap(&mut mailbox.answers, answers);
        mailbox.command
    }

    /// The connection goes to sleep. False when something came since it looked last.
    pub fn sleep(&self, waker: &Waker, seen: Command) -> bool {
        let mut mailbox = self.mailbox.lock();
        if !mailbox.answers.is_empty() || mailbox.command != seen {
            return false;
        }
        mailbox.sleeper = Some(waker.clone());
        true
    }

    /// The connection has ended.
    pub fn leave(&self) {
        let mut mailbox = self.mailbox.lock();
        mailbox.left = true;
        let answers = std::mem::take(&mut mailbox.answers);
        let sleeper = mailbox.sleeper.take();
        drop(mailbox);
        drop((answers, sleeper));
    }

    /// Takes `bytes` of the room for bodies under way, or says that there is none.
    pub fn receive(self: &Arc<Self>, bytes: usize, most: u64, most_of_one: u64) -> bool {
        let bytes = bytes as u64;
        let one = self.inbound.fetch_add(bytes, Relaxed) + bytes;
        let all = self.totals.inbound.fetch_add(bytes, Relaxed) + bytes;
        if one <= most_of_one && all <= most {
            return true;
        }
        self.received(bytes as usize);
        false
    }

    /// Gives back what `receive` took.
    pub fn received(&self, bytes: usize) {
        self.inbound.fetch_sub(bytes as u64, Relaxed);
        self.totals.inbound.fetch_sub(bytes as u64, Relaxed);
    }

    pub fn queued(&self, cost: Cost) {
        self.outbound.fetch_add(cost.share as u64, Relaxed);
        self.held.fetch_add(cost.whole as u64, Relaxed);
        self.totals.outbound.fetch_add(cost.own as u64, Relaxed);
    }

    /// The same for a part of a streamed answer.
    pub fn queued_streamed(&self, cost: Cost) {
        self.streamed.fetch_add(cost.share as u64, Relaxed);
        self.queued(cost);
    }

    pub fn settled_streamed(&self, cost: Cost) {
        self.streamed.fetch_sub(cost.share as u64, Relaxed);
        self.settled(cost);
    }

    /// Counts what many are going to hold, in all.
    pub fn charge(&self, body: Bytes) -> Bytes {
        let totals = self.totals.clone();
        totals.outbound.fetch_add(body.len() as u64, Relaxed);
        Bytes::from_owner(Charged { body, totals })
    }

    pub fn sent(&self, bytes: usize) {
        self.progress.fetch_add(bytes as u64, Relaxed);
    }

    pub fn settled(&self, cost: Cost) {
        self.outbound.fetch_sub(cost.share as u64, Relaxed);
        self.held.fetch_sub(cost.whole as u64, Relaxed);
        self.totals.outbound.fetch_sub(cost.own as u64, Relaxed);
    }

    /// With `cost` this connection, and all together if it holds more than its part, stay within
    /// one `nth` of what may wait.
    fn within(&self, cost: Cost, nth: u64) -> bool {
        let with = |count: &AtomicU64, more: usize| count.load(Relaxed) + more as u64;
        with(&self.outbound, cost.share) <= OUTBOUND_BYTES_OF_ONE / nth
            && (with(&self.held, cost.whole) <= OUTBOUND_PART
                || with(&self.totals.outbound, cost.own) <= OUTBOUND_BYTES / nth)
    }

    /// So much waits for slow readers that each gets the next message only when it has the last.
    pub fn crowded(&self) -> bool {
        !self.within(Cost::default(), OUTBOUND_CROWDED)
    }

    /// There is room for a part of an answer to a client that may not read it.
    pub fn has_room(&self, cost: Cost) -> bool {
        self.within(cost, 1)
    }

    /// (bytes of answers that should be taken, bytes that have left). While not much waits, a
    /// stream may be taken as slowly as its caller likes.
    pub fn flow(&self) -> (u64, u64) {
        let mut waiting = self.outbound.load(Relaxed);
        if !self.crowded() {
            waiting = waiting.saturating_sub(self.streamed.load(Relaxed));
        }
        (waiting, self.progress.load(Relaxed))
    }
}

impl Bell for Peer {
    fn ring(&self) {
        let mut mailbox = self.mailbox.lock();
        mailbox.ringing = false;
        let sleeper = mailbox.sleeper.take();
        drop(mailbox);
        if let Some(sleeper) = sleeper {
            sleeper.wake();
        }
    }
}

/// The right to answer one call, once. Dropped without an answer it says so.
pub struct Ticket {
    peer: Arc<Peer>,
    key: usize,
    serial: u64,
    /// Of calls that are answered by a stream.
    stream: Option<Arc<Stream>>,
    answered: bool,
}

impl Ticket {
    pub fn new(peer: Arc<Peer>, key: usize, serial: u64, stream: Option<Arc<Stream>>) -> Ticket {
        Ticket {
            peer,
            key,
            serial,
            stream,
            answered: false,
        }
    }

    pub fn answer(mut self, reply: Reply) {
        self.end(Some(reply));
    }

    pub fn peer(&self) -> &Arc<Peer> {
        &self.peer
    }

    pub fn outlet(&self) -> Option<Arc<dyn Outlet>> {
        let stream = self.stream.clone()?;
        Some(Arc::new(Way(stream)))
    }

    /// Tells the connection that the call goes to the node, if its answer is a stream.
    pub fn handed_on(&self) {
        if self.stream.is_some() {
            self.post(What::HandedOn);
        }
    }

    fn end(&mut self, reply: Option<Reply>) {
        self.answered = true;
        if self.stream.as_ref().is_none_or(|stream| stream.complete()) {
            self.post(What::Reply(reply));
        }
    }

    fn post(&self, what: What) {
        self.peer.post(Answer {
            key: self.key,
            serial: self.serial,
            what,
        });
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if !self.answered {
            self.end(None);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(totals: &Arc<Totals>) -> Peer {
        Peer::new(totals.clone(), Command::Serve)
    }

    #[test]
    fn few_that_do_not_read_leave_a_part_for_each_of_the_others() {
        let totals = Arc::new(Totals::default());
        let unread: Vec<Peer> = (0..4).map(|_| peer(&totals)).collect();
        for one in &unread {
            one.queued(Cost::alone(OUTBOUND_BYTES_OF_ONE as usize));
            assert!(one.has_room(Cost::default()) && one.crowded());
            assert!(!one.has_room(Cost::alone(1)));
        }
        assert_eq!(totals.outbound.load(Relaxed), OUTBOUND_BYTES);
        let others: Vec<Peer> = (0..100).map(|_| peer(&totals)).collect();
        for one in &others {
            assert!(!one.crowded());
            let part = Cost::alone(OUTBOUND_PART as usize);
            assert!(one.has_room(part));
            one.queued(part);
            assert!(!one.has_room(Cost::alone(1)), "its part, and no more");
        }
        let most = OUTBOUND_BYTES + others.len() as u64 * OUTBOUND_PART;
        assert_eq!(totals.outbound.load(Relaxed), most);
        unread[0].settled(Cost::alone(OUTBOUND_BYTES_OF_ONE as usize));
        for one in &unread[1..3] {
            one.settled(Cost::alone(OUTBOUND_BYTES_OF_ONE as usize));
        }
        assert!(others[0].has_room(Cost::alone(1)));
    }
}
