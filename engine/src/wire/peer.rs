//! The side of a connection that other threads touch: its outbox of answers, and its byte counts.
use super::frame::Frame;
use super::limits::{OUTBOUND_BYTES, OUTBOUND_BYTES_OF_ONE, OUTBOUND_CROWDED};
use super::shared::Totals;
use super::stream::{Stream, Way};
use crate::call::{Bell, Outlet, Reply};
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

pub struct Peer {
    mailbox: Mutex<Mailbox>,
    totals: Arc<Totals>,
    inbound: AtomicU64,
    outbound: AtomicU64,
    /// Of those, parts of streamed answers.
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

    pub fn queued(&self, bytes: usize) {
        self.outbound.fetch_add(bytes as u64, Relaxed);
        self.totals.outbound.fetch_add(bytes as u64, Relaxed);
    }

    /// The same for a part of a streamed answer.
    pub fn queued_streamed(&self, bytes: usize) {
        self.streamed.fetch_add(bytes as u64, Relaxed);
        self.queued(bytes);
    }

    pub fn settled_streamed(&self, bytes: usize) {
        self.streamed.fetch_sub(bytes as u64, Relaxed);
        self.settled(bytes);
    }

    pub fn sent(&self, bytes: usize) {
        self.progress.fetch_add(bytes as u64, Relaxed);
    }

    pub fn settled(&self, bytes: usize) {
        self.outbound.fetch_sub(bytes as u64, Relaxed);
        self.totals.outbound.fetch_sub(bytes as u64, Relaxed);
    }

    /// So much waits for slow readers that each gets the next message only when it has the last.
    pub fn crowded(&self) -> bool {
        self.outbound.load(Relaxed) > OUTBOUND_BYTES_OF_ONE / OUTBOUND_CROWDED
            || self.totals.outbound.load(Relaxed) > OUTBOUND_BYTES / OUTBOUND_CROWDED
    }

    /// There is room for an answer of `bytes` to a client that may not read it.
    pub fn has_room(&self, bytes: usize, most: u64, most_of_one: u64) -> bool {
        let bytes = bytes as u64;
        self.outbound.load(Relaxed) + bytes <= most_of_one
            && self.totals.outbound.load(Relaxed) + bytes <= most
    }

    /// Not even that is enough.
    pub fn overfull(&self) -> bool {
        !self.has_room(0, OUTBOUND_BYTES, OUTBOUND_BYTES_OF_ONE)
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
