//! What readers wait for, each under a deadline: content that is not here, one fetch per file, then
//! those of its chunks that a read covers, and answers to questions, each asked for itself.
use super::abi::UNIQUE_RESEND;
use super::node::Node;
use super::part::{Chunks, Part};
use parking_lot::{Condvar, Mutex};
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long a failed file fails at once. The kernel does not cache a failed read: without this it
/// asks again page by page and reader by reader, each under a deadline of its own.
pub const FAILURE_MEMORY: Duration = Duration::from_secs(1);
/// Readers waiting in all; more are refused.
pub const WAITERS_MAX: usize = 65_536;

/// What a waiting request wants to do once the file is here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Want {
    Open,
    Read {
        offset: u64,
        size: u32,
    },
    /// An extended attribute, or the list of them.
    Value {
        size: u32,
    },
    /// A name in a past directory whose entries are not here.
    Lookup(Box<[u8]>),
    /// A list of one.
    List {
        after: u64,
        size: u32,
        plus: bool,
    },
    /// A past revision by its name.
    Revision,
}

impl Want {
    /// What becomes of an errno for want of the content of `node`. Who opens what was replaced
    /// since it was looked up is told to look again, as the kernel does unseen: there is a newer.
    pub fn refusal(&self, node: &Node) -> impl Fn(i32) -> i32 + use<> {
        let other = *self == Want::Open && node.is_orphan() && !node.past;
        move |errno| match errno {
            libc::EIO if other => libc::ESTALE,
            _ => errno,
        }
    }
}

/// A request of the kernel that has not been answered.
pub struct Waiter {
    pub unique: u64,
    pub node: Arc<Node>,
    pub want: Want,
    /// The deadline counts from here on, whatever it waits for one after the other.
    pub since: Instant,
}

/// (miss id, path, version, first chunk, behind the last one): its content if there are no chunks,
/// else these of what was begun for that version
pub type Wanted = (u64, String, u64, u64, u64);

/// (question id, path, version, what is asked)
pub type Question = (u64, String, u64, String);

/// What a wait is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Subject {
    /// The content of a node.
    Content(u64),
    /// Chunks of it.
    Chunks(u64, Chunks),
    /// An answer to one request: one that was made for another may be too old.
    Answer(u64),
}

struct Wait {
    id: u64,
    path: String,
    version: u64,
    node: Arc<Node>,
    waiters: Vec<Waiter>,
    due: Instant,
}

#[derive(Default)]
struct State {
    waits: HashMap<Subject, Wait>,
    subjects: HashMap<u64, Subject>,
    /// Miss ids that nobody has taken yet.
    fresh: VecDeque<u64>,
    /// Questions that nobody has taken yet.
    asked: VecDeque<Question>,
    /// Until when it fails at once, and with which errno.
    failed: HashMap<Subject, (Instant, i32)>,
    waiting: usize,
    next: u64,
    closed: bool,
}

pub struct Misses {
    state: Mutex<State>,
    /// Something fresh, or closed.
    arrived: Condvar,
    /// A question, or closed.
    questioned: Condvar,
    /// The earliest deadline may have changed, or closed.
    timed: Condvar,
    deadline: Duration,
}

impl Subject {
    /// Of a file: its content or chunks of it.
    fn is_content(self) -> bool {
        !matches!(self, Subject::Answer(_))
    }
}

impl Misses {
    pub fn new(deadline: Duration) -> Misses {
        Misses {
            state: Mutex::default(),
            arrived: Condvar::new(),
            questioned: Condvar::new(),
            timed: Condvar::new(),
            deadline,
        }
    }

    /// Keeps a request until its file is here. Err: answer it with that errno now. It comes back
    /// when the file has come since its sender looked: whoever brought it has told all who waited.
    pub fn park(&self, waiter: Waiter, path: &str, now: Instant) -> Result<Option<Waiter>, i32> {
        let place = waiter.node.place.clone();
        let come = || place.lock().is_some() || place.part().is_some();
        let wanted = (path, waiter.node.version());
        self.keep(Subject::Content(waiter.node.id), waiter, wanted, now, come)
    }

    /// Keeps a read until chunks of its file are here; as `park`.
    pub fn park_for(
        &self,
        waiter: Waiter,
        part: &Part,
        chunks: Chunks,
        now: Instant,
    ) -> Result<Option<Waiter>, i32> {
        let subject = Subject::Chunks(waiter.node.id, chunks);
        let wanted = (&*part.path, part.version);
        self.keep(subject, waiter, wanted, now, || part.has(chunks))
    }

    fn keep(
        &self,
        subject: Subject,
        waiter: Waiter,
        wanted: (&str, u64),
        now: Instant,
        come: impl FnOnce() -> bool,
    ) -> Result<Option<Waiter>, i32> {
        let mut state = self.state.lock();
        if let Some((_, errno)) = state.failed.get(&subject).filter(|failed| failed.0 > now) {
            return Err(*errno);
        }
        state.admit()?;
        let Some(waiter) = state.join(subject, waiter) else {
            return Ok(None);
        };
        if come() {
            return Ok(Some(waiter));
        }
        let due = waiter.since + self.deadline;
        let miss = state.begin(subject, waiter, wanted, due);
        state.fresh.push_back(miss);
        drop(state);
        self.arrived.notify_one();
        self.timed.notify_one();
        Ok(None)
    }

    /// Keeps a request until its question is answered. Err: answer it with that errno now.
    pub fn ask(&self, waiter: Waiter, path: &str, what: String, now: Instant) -> Result<(), i32> {
        let mut state = self.state.lock();
        state.admit()?;
        let subject = Subject::Answer(waiter.unique & !UNIQUE_RESEND);
        let Some(waiter) = state.join(subject, waiter) else {
            return Ok(());
        };
        let version = waiter.node.version();
        let question = state.begin(subject, waiter, (path, version), now + self.deadline);
        state
            .asked
            .push_back((question, path.to_owned(), version, what));
        drop(state);
        self.questioned.notify_one();
        self.timed.notify_one();
        Ok(())
    }

    /// Waits for misses that nobody has taken; empty at the timeout or when closed.
    pub fn take(&self, max: usize, timeout: Duration) -> Vec<Wanted> {
        let end = Instant::now() + timeout;
        let mut guard = self.state.lock();
        loop {
            let state = &mut *guard;
            let mut taken = Vec::new();
            while taken.len() < max
                && let Some(id) = state.fresh.pop_front()
            {
                let Some(subject) = state.subjects.get(&id) else {
                    continue; // It has ended.
                };
                let miss = &state.waits[subject];
                let (first, upto) = match subject {
                    Subject::Chunks(_, chunks) => *chunks,
                    _ => (0, 0),
                };
                taken.push((id, miss.path.clone(), miss.version, first, upto));
            }
            if !taken.is_empty() || state.closed {
                return taken;
            }
            if self.arrived.wait_until(&mut guard, end).timed_out() {
                return taken;
            }
        }
    }

    /// Waits for questions that nobody has taken; empty at the timeout or when closed.
    pub fn take_questions(&self, max: usize, timeout: Duration) -> Vec<Question> {
        let end = Instant::now() + timeout;
        let mut state = self.state.lock();
        loop {
            let mut taken = Vec::new();
            while taken.len() < max
                && let Some(question) = state.asked.pop_front()
            {
                if state.wait(question.0).is_some() {
                    taken.push(question);
                }
            }
            if !taken.is_empty() || state.closed {
                return taken;
            }
            if self.questioned.wait_until(&mut state, end).timed_out() {
                return taken;
            }
        }
    }

    /// Ends a miss; returns the waiters to be answered. None when it has ended already.
    /// With an errno the file fails at once for a while.
    pub fn end(&self, miss: u64, failed: Option<i32>, now: Instant) -> Option<Vec<Waiter>> {
        let mut state = self.state.lock();
        let subject = *state.subjects.get(&miss)?;
        let ended = state.end(miss, Subject::is_content)?;
        if let Some(errno) = failed {
            state.failed.insert(subject, (now + FAILURE_MEMORY, errno));
        }
        Some(ended.waiters)
    }

    /// Ends a question; returns who waits to be answered. None when it has ended already.
    pub fn end_question(&self, question: u64) -> Option<Waiter> {
        let mut state = self.state.lock();
        let mut ended = state.end(question, |subject| !subject.is_content())?;
        ended.waiters.pop()
    }

    /// The node that a miss is about.
    pub fn node(&self, miss: u64) -> Option<Arc<Node>> {
        let state = self.state.lock();
        let subject = state.subjects.get(&miss)?;
        subject
            .is_content()
            .then(|| state.waits[subject].node.clone())
    }

    /// Gives up one request, because its caller was interrupted.
    pub fn interrupt(&self, unique: u64) -> Option<Waiter> {
        let mut guard = self.state.lock();
        let state = &mut *guard;
        let question = Subject::Answer(unique & !UNIQUE_RESEND);
        if let Some(id) = state.waits.get(&question).map(|wait| wait.id) {
            return state.end(id, |_| true)?.waiters.pop(); // Nobody else waits for it.
        }
        for wait in state.waits.values_mut() {
            if let Some(at) = wait
                .waiters
                .iter()
                .position(|there| same(there.unique, unique))
            {
                let waiter = wait.waiters.swap_remove(at);
                state.waiting -= 1;
                return Some(waiter);
            }
        }
        None
    }

    /// Waits for deadlines to pass; returns whom to tell. None when closed.
    pub fn overdue(&self) -> Option<Vec<Waiter>> {
        let mut state = self.state.lock();
        loop {
            if state.closed {
                return None;
            }
            let now = Instant::now();
            let late = state.expire(now);
            if !late.is_empty() {
                return Some(late);
            }
            match state.waits.values().map(|wait| wait.due).min() {
                Some(due) => {
                    self.timed.wait_until(&mut state, due);
                }
                None => self.timed.wait(&mut state),
            }
        }
    }

    /// Takes no more; returns everybody who waits.
    pub fn close(&self) -> Vec<Waiter> {
        let mut state = self.state.lock();
        state.closed = true;
        state.waiting = 0;
        state.subjects.clear();
        let waiters = state
            .waits
            .drain()
            .flat_map(|(_, wait)| wait.waiters)
            .collect();
        self.arrived.notify_all();
        self.questioned.notify_all();
        self.timed.notify_all();
        waiters
    }

    /// Requests that wait now.
    pub fn waiting(&self) -> usize {
        self.state.lock().waiting
    }
}

/// A request that is handed out again differs in one bit.
fn same(one: u64, other: u64) -> bool {
    one & !UNIQUE_RESEND == other & !UNIQUE_RESEND
}

impl State {
    /// Err: one more cannot wait.
    fn admit(&self) -> Result<(), i32> {
        if self.closed {
            return Err(libc::ENOTCONN);
        }
        if self.waiting >= WAITERS_MAX {
            return Err(libc::EAGAIN);
        }
        Ok(())
    }

    /// Lets the waiter wait with those who wait for the same; gives it back when there are none.
    fn join(&mut self, subject: Subject, waiter: Waiter) -> Option<Waiter> {
        let Some(wait) = self.waits.get_mut(&subject) else {
            return Some(waiter);
        };
        match wait
            .waiters
            .iter_mut()
            .find(|there| same(there.unique, waiter.unique))
        {
            // Handed out again: the kernel wants the newer id.
            Some(there) => *there = waiter,
            None => {
                wait.waiters.push(waiter);
                self.waiting += 1;
            }
        }
        None
    }

    /// The first who waits for this; returns the id under which it will end.
    fn begin(
        &mut self,
        subject: Subject,
        waiter: Waiter,
        (path, version): (&str, u64),
        due: Instant,
    ) -> u64 {
        self.next += 1;
        let wait = Wait {
            id: self.next,
            path: path.to_owned(),
            version,
            node: waiter.node.clone(),
            waiters: vec![waiter],
            due,
        };
        self.waits.insert(subject, wait);
        self.subjects.insert(self.next, subject);
        self.waiting += 1;
        self.next
    }

    fn wait(&self, id: u64) -> Option<&Wait> {
        self.waits.get(self.subjects.get(&id)?)
    }

    /// Takes a wait away if it is of the right kind.
    fn end(&mut self, id: u64, fits: impl FnOnce(Subject) -> bool) -> Option<Wait> {
        let subject = *self.subjects.get(&id)?;
        if !fits(subject) {
            return None;
        }
        self.subjects.remove(&id);
        let ended = self.waits.remove(&subject)?;
        self.waiting -= ended.waiters.len();
        Some(ended)
    }

    fn expire(&mut self, now: Instant) -> Vec<Waiter> {
        self.failed.retain(|_, failed| failed.0 > now);
        let late = self.waits.values().filter(|wait| wait.due <= now);
        let late: Vec<u64> = late.map(|wait| wait.id).collect();
        let mut waiters = Vec::new();
        for id in late {
            let subject = self.subjects[&id];
            let Some(wait) = self.end(id, |_| true) else {
                continue;
            };
            if subject.is_content() {
                let until = now + FAILURE_MEMORY;
                self.failed.insert(subject, (until, libc::ETIMEDOUT));
            }
            waiters.extend(wait.waiters);
        }
        waiters
    }
}

#[cfg(test)]
#[path = "tests/misses.rs"]
mod tests;
