//! What was answered to opens of files that are made: kept until they are closed.
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;

/// Answers held in all; further opens are refused.
pub const ANSWERS_MAX: usize = 4_096;

struct State {
    next: u64,
    held: HashMap<u64, Arc<[u8]>>,
}

pub struct Answers(Mutex<State>);

impl Answers {
    /// `first` is the first handle. It must be larger than any that a former process has given: an
    /// open file of that one must not show what was answered to somebody else.
    pub fn new(first: u64) -> Answers {
        Answers(Mutex::new(State {
            next: first.max(1),
            held: HashMap::new(),
        }))
    }

    /// Keeps an answer; returns the handle of the open file, or None when there are too many.
    pub fn keep(&self, bytes: Vec<u8>) -> Option<u64> {
        let mut state = self.0.lock();
        if state.held.len() >= ANSWERS_MAX {
            return None;
        }
        let handle = state.next;
        state.next += 1;
        state.held.insert(handle, bytes.into());
        Some(handle)
    }

    /// The answer of an open file; None when a process that died has given it.
    pub fn get(&self, handle: u64) -> Option<Arc<[u8]>> {
        self.0.lock().held.get(&handle).cloned()
    }

    /// The file is closed.
    pub fn drop(&self, handle: u64) {
        self.0.lock().held.remove(&handle);
    }

    pub fn held(&self) -> usize {
        self.0.lock().held.len()
    }
}

/// At most `size` bytes from `offset` on.
pub fn slice(bytes: &[u8], offset: u64, size: usize) -> &[u8] {
    let from = usize::try_from(offset)
        .unwrap_or(usize::MAX)
        .min(bytes.len());
    let upto = from.saturating_add(size).min(bytes.len());
    &bytes[from..upto]
}

#[cfg(test)]
#[path = "tests/answers.rs"]
mod tests;
