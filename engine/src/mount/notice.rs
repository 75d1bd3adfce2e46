//! What the kernel must be told to forget, and the queue from which one thread tells it.
//!
//! The tree is changed first and the notice is written afterwards, by a thread that holds no lock:
//! the kernel makes the writer wait for lookups under way in that directory.
use parking_lot::{Condvar, Mutex};
use std::collections::{HashSet, VecDeque};
use std::time::{Duration, Instant};

/// Names waiting beyond which one epoch change replaces them all.
pub const NOTICES_MAX: usize = 65_536;

/// One message of ours to the kernel.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Notice {
    /// The name means something else now.
    Entry { parent: u64, name: Box<[u8]> },
    /// The file is gone from that name, or replaced there; who watches it hears of it.
    Delete {
        parent: u64,
        child: u64,
        name: Box<[u8]>,
    },
    /// The attributes of the inode are out of date, and so the cached listing of a directory. Of a
    /// file it only asks whether the kernel holds it.
    Attributes(u64),
    /// Every name is out of date.
    Epoch,
    /// Hand out again what a dead server had taken.
    Resend,
}

/// The notices of one batch of changes: names in order, each inode once.
#[derive(Default)]
pub struct Notices {
    pub names: Vec<Notice>,
    pub inodes: HashSet<u64>,
}

impl Notices {
    pub fn count(&self) -> usize {
        self.names.len() + self.inodes.len()
    }
}

#[derive(Default)]
struct State {
    waiting: VecDeque<Notice>,
    /// Of `waiting`, those that name an entry.
    names: usize,
    queued: u64,
    delivered: u64,
    epochs: bool,
    open: bool,
}

/// Filled by any thread, emptied by one.
#[derive(Default)]
pub struct Queue {
    state: Mutex<State>,
    changed: Condvar,
}

impl Queue {
    /// Starts taking notices; before that they are dropped, as no kernel listens.
    pub fn open(&self) {
        self.state.lock().open = true;
    }

    /// The kernel knows INC_EPOCH.
    pub fn allow_epochs(&self) {
        self.state.lock().epochs = true;
    }

    pub fn epochs_allowed(&self) -> bool {
        self.state.lock().epochs
    }

    /// Drops what waits and ends the delivering thread.
    pub fn close(&self) {
        let mut state = self.state.lock();
        state.open = false;
        state.delivered = state.queued;
        state.waiting.clear();
        self.changed.notify_all();
    }

    /// Queues what the kernel must be told; nothing while none listens.
    pub fn push(&self, notices: Notices) {
        let count = notices.count();
        let mut state = self.state.lock();
        if !state.open || count == 0 {
            return;
        }
        state.names += notices.names.len();
        state.queued += count as u64;
        state.waiting.extend(notices.names);
        state
            .waiting
            .extend(notices.inodes.into_iter().map(Notice::Attributes));
        if state.names > NOTICES_MAX && state.epochs {
            state.collapse();
        }
        self.changed.notify_all();
    }

    /// Waits for the next one; None when the queue is closed.
    pub fn next(&self) -> Option<Notice> {
        let mut state = self.state.lock();
        loop {
            if !state.open {
                return None;
            }
            if let Some(notice) = state.waiting.pop_front() {
                state.names -= usize::from(notice.names_an_entry());
                return Some(notice);
            }
            self.changed.wait(&mut state);
        }
    }

    /// The one that `next` returned last has reached the kernel.
    pub fn delivered(&self) {
        let mut state = self.state.lock();
        // When nothing waits, everything is delivered, including what an epoch change replaced.
        state.delivered = if state.waiting.is_empty() {
            state.queued
        } else {
            state.delivered + 1
        };
        self.changed.notify_all();
    }

    /// Waits until everything queued so far has reached the kernel.
    pub fn flush(&self, timeout: Duration) -> bool {
        let end = Instant::now() + timeout;
        let mut state = self.state.lock();
        let wanted = state.queued;
        while state.delivered < wanted {
            if self.changed.wait_until(&mut state, end).timed_out() {
                return state.delivered >= wanted;
            }
        }
        true
    }

    /// (queued, delivered) since the start.
    pub fn counts(&self) -> (u64, u64) {
        let state = self.state.lock();
        (state.queued, state.delivered)
    }
}

impl Notice {
    fn names_an_entry(&self) -> bool {
        matches!(self, Notice::Entry { .. } | Notice::Delete { .. })
    }
}

impl State {
    /// One epoch change instead of all names; inodes stay, each once.
    fn collapse(&mut self) {
        let mut seen = HashSet::new();
        self.waiting.retain(|notice| match notice {
            Notice::Attributes(node) => seen.insert(*node),
            other => !other.names_an_entry() && *other != Notice::Epoch,
        });
        self.waiting.push_front(Notice::Epoch);
        self.names = 0;
    }
}

#[cfg(test)]
#[path = "tests/notice.rs"]
mod tests;
