//! Files that readers want and that are not here: one fetch per file, each under a deadline.
use super::abi::UNIQUE_RESEND;
use super::node::Node;
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
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Want {
    Open,
    Read { offset: u64, size: u32 },
}

/// A request of the kernel that has not been answered.
pub struct Waiter {
    pub unique: u64,
    pub node: Arc<Node>,
    pub want: Want,
}

/// (miss id, path, version)
pub type Wanted = (u64, String, u64);

struct Miss {
    id: u64,
    path: String,
    node: Arc<Node>,
    waiters: Vec<Waiter>,
    due: Instant,
}

#[derive(Default)]
struct State {
    by_node: HashMap<u64, Miss>,
    node_of: HashMap<u64, u64>,
    /// Miss ids that nobody has taken yet.
    fresh: VecDeque<u64>,
    /// Node → until when it fails at once, and with which errno.
    failed: HashMap<u64, (Instant, i32)>,
    waiting: usize,
    next: u64,
    closed: bool,
}

pub struct Misses {
    state: Mutex<State>,
    /// Something fresh, or closed.
    arrived: Condvar,
    /// The earliest deadline may have changed, or closed.
    timed: Condvar,
    deadline: Duration,
}

impl Misses {
    pub fn new(deadline: Duration) -> Misses {
        Misses {
            state: Mutex::default(),
            arrived: Condvar::new(),
            timed: Condvar::new(),
            deadline,
        }
    }

    /// Keeps a request until its file is here. Err: answer it with that errno now. It comes back
    /// when the file has come since its sender looked: whoever brought it has told all who waited.
    pub fn park(&self, waiter: Waiter, path: &str, now: Instant) -> Result<Option<Waiter>, i32> {
        let mut guard = self.state.lock();
        let state = &mut *guard;
        if state.closed {
            return Err(libc::ENOTCONN);
        }
        let id = waiter.node.id;
        if let Some((_, errno)) = state.failed.get(&id).filter(|failed| failed.0 > now) {
            return Err(*errno);
        }
        if state.waiting >= WAITERS_MAX {
            return Err(libc::EAGAIN);
        }
        if let Some(miss) = state.by_node.get_mut(&id) {
            match miss
                .waiters
                .iter_mut()
                .find(|there| same(there.unique, waiter.unique))
            {
                // Handed out again: the kernel wants the newer id.
                Some(there) => *there = waiter,
                None => {
                    miss.waiters.push(waiter);
                    state.waiting += 1;
                }
            }
            return Ok(None);
        }
        if waiter.node.place.lock().is_some() {
            return Ok(Some(waiter));
        }
        state.next += 1;
        let (miss, due) = (state.next, now + self.deadline);
        let (path, node) = (path.to_owned(), waiter.node.clone());
        let entry = Miss {
            id: miss,
            path,
            node,
            waiters: vec![waiter],
            due,
        };
        state.by_node.insert(id, entry);
        state.node_of.insert(miss, id);
        state.fresh.push_back(miss);
        state.waiting += 1;
        drop(guard);
        self.arrived.notify_one();
        self.timed.notify_one();
        Ok(None)
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
                let miss = state
                    .node_of
                    .get(&id)
                    .and_then(|node| state.by_node.get(node));
                if let Some(miss) = miss {
                    taken.push((id, miss.path.clone(), miss.node.version));
                }
            }
            if !taken.is_empty() || state.closed {
                return taken;
            }
            if self.arrived.wait_until(&mut guard, end).timed_out() {
                return taken;
            }
        }
    }

    /// Ends a miss; returns the waiters to be answered. None when it has ended already.
    /// With an errno the file fails at once for a while.
    pub fn end(&self, miss: u64, failed: Option<i32>, now: Instant) -> Option<Vec<Waiter>> {
        let mut state = self.state.lock();
        let node = state.node_of.remove(&miss)?;
        let ended = state.by_node.remove(&node)?;
        state.waiting -= ended.waiters.len();
        if let Some(errno) = failed {
            state.failed.insert(node, (now + FAILURE_MEMORY, errno));
        }
        Some(ended.waiters)
    }

    /// The node that a miss is about.
    pub fn node(&self, miss: u64) -> Option<Arc<Node>> {
        let state = self.state.lock();
        let miss = state.by_node.get(state.node_of.get(&miss)?)?;
        Some(miss.node.clone())
    }

    /// Gives up one request, because its caller was interrupted.
    pub fn interrupt(&self, unique: u64) -> Option<Waiter> {
        let mut state = self.state.lock();
        for miss in state.by_node.values_mut() {
            if let Some(at) = miss
                .waiters
                .iter()
                .position(|there| same(there.unique, unique))
            {
                let waiter = miss.waiters.swap_remove(at);
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
            match state.by_node.values().map(|miss| miss.due).min() {
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
        state.node_of.clear();
        let waiters = state
            .by_node
            .drain()
            .flat_map(|(_, miss)| miss.waiters)
            .collect();
        self.arrived.notify_all();
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
    fn expire(&mut self, now: Instant) -> Vec<Waiter> {
        self.failed.retain(|_, failed| failed.0 > now);
        let late = self.by_node.iter().filter(|(_, miss)| miss.due <= now);
        let late: Vec<u64> = late.map(|(node, _)| *node).collect();
        let mut waiters = Vec::new();
        for node in late {
            let Some(miss) = self.by_node.remove(&node) else {
                continue;
            };
            self.node_of.remove(&miss.id);
            self.failed
                .insert(node, (now + FAILURE_MEMORY, libc::ETIMEDOUT));
            self.waiting -= miss.waiters.len();
            waiters.extend(miss.waiters);
        }
        waiters
    }
}

#[cfg(test)]
#[path = "tests/misses.rs"]
mod tests;
