//! What has been applied here, and who waits for how much.
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

/// Called once: true = applied, false = the deadline came first.
pub type Then = Box<dyn FnOnce(bool) + Send>;

#[derive(Default)]
struct Waiters {
    by_index: BTreeMap<u64, Vec<(Instant, Then)>>,
}

/// See the module's text.
#[derive(Default)]
pub struct Progress {
    applied: AtomicU64,
    /// Last index that came by a snapshot from elsewhere: durable as soon as it is here.
    installed: AtomicU64,
    installs: AtomicU64,
    waiters: Mutex<Waiters>,
}

impl Progress {
    pub fn applied(&self) -> u64 {
        self.applied.load(Ordering::Acquire)
    }

    pub fn installed_index(&self) -> u64 {
        self.installed.load(Ordering::Acquire)
    }

    pub fn installs(&self) -> u64 {
        self.installs.load(Ordering::Relaxed)
    }

    pub fn installed(&self, index: u64) {
        self.installed.store(index, Ordering::Release);
        self.installs.fetch_add(1, Ordering::Relaxed);
        self.advance(index);
    }

    pub fn advance(&self, index: u64) {
        let ready = {
            // Under the lock, so that nobody can begin to wait for what has just happened.
            let mut waiters = self.waiters.lock();
            self.applied.fetch_max(index, Ordering::AcqRel);
            let later = waiters.by_index.split_off(&(index + 1));
            std::mem::replace(&mut waiters.by_index, later)
        };
        for (_, then) in ready.into_values().flatten() {
            then(true);
        }
    }

    /// Calls `then` when `index` is applied, at once if it is.
    pub fn wait(&self, index: u64, deadline: Instant, then: Then) {
        let mut waiters = self.waiters.lock();
        if self.applied() >= index {
            drop(waiters);
            return then(true);
        }
        waiters
            .by_index
            .entry(index)
            .or_default()
            .push((deadline, then));
    }

    /// Lets those go whose deadline has passed; with `None`, all.
    pub fn expire(&self, now: Option<Instant>) {
        let mut late = Vec::new();
        {
            let mut waiters = self.waiters.lock();
            waiters.by_index.retain(|_, list| {
                late.extend(list.extract_if(.., |w| now.is_none_or(|now| w.0 <= now)));
                !list.is_empty()
            });
        }
        for (_, then) in late {
            then(false);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::time::Duration;

    #[test]
    fn waiters_go_when_their_index_is_applied_or_their_time_is_up() {
        let progress = Progress::default();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let now = Instant::now();
        for (index, deadline) in [(0, now), (5, now), (6, now + Duration::from_secs(9))] {
            let seen = seen.clone();
            progress.wait(
                index,
                deadline,
                Box::new(move |ok| seen.lock().push((index, ok))),
            );
        }
        assert_eq!(*seen.lock(), [(0, true)]);
        progress.advance(4);
        progress.expire(Some(now));
        assert_eq!(*seen.lock(), [(0, true), (5, false)]);
        progress.advance(7);
        assert_eq!(*seen.lock(), [(0, true), (5, false), (6, true)]);
    }
}
