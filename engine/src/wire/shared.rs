//! What all connections of a port have in common: configuration, figures, who is there.
use super::Counters;
use super::limits::Limits;
use super::peer::{Command, Peer};
use super::upstream::Upstream;
use super::visitors::Visitors;
use crate::call::{Failure, Handler, Route};
use crate::ticks::Ticks;
use parking_lot::{Condvar, Mutex};
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Instant;
use tokio::sync::Semaphore;
use tokio::task::AbortHandle;
use tokio_rustls::TlsAcceptor;

pub struct Shared {
    pub handler: Arc<dyn Handler>,
    pub limits: Limits,
    pub insecure: bool,
    pub tls: Option<TlsAcceptor>,
    /// Until when a pong may wait.
    pub ticks: Arc<Ticks>,
    pub visitors: Arc<Visitors>,
    pub totals: Arc<Totals>,
    /// Connections and their tasks.
    pub census: Arc<Census>,
    pub upstream: Option<Upstream>,
    /// Turns at expanding compressed messages.
    pub inflate: Semaphore,
    routes: HashMap<String, Route>,
    failures: HashMap<String, Failure>,
    registry: Mutex<Registry>,
}

struct Registry {
    /// What connections that come now are told; see `Command`.
    command: Command,
    next: u64,
    entries: HashMap<u64, Entry>,
}

struct Entry {
    peer: Arc<Peer>,
    task: Option<AbortHandle>,
}

/// Figures; the first two are bounded by limits.rs.
#[derive(Default)]
pub struct Totals {
    pub inbound: AtomicU64,
    pub outbound: AtomicU64,
    pub connections: AtomicU64,
    pub refused: AtomicU64,
    pub streams: AtomicU64,
    pub calls: AtomicU64,
    pub bytes_in: AtomicU64,
    pub bytes_out: AtomicU64,
}

impl Shared {
    pub fn new(config: super::Config, handler: Arc<dyn Handler>) -> Shared {
        Shared {
            handler,
            insecure: config.insecure,
            tls: config.tls,
            ticks: Ticks::new(super::limits::PONG_WAIT),
            visitors: Arc::default(),
            totals: Arc::default(),
            census: Arc::default(),
            upstream: config.upstream.map(Upstream::new),
            inflate: Semaphore::new(super::limits::INFLATE_THREADS),
            limits: config.limits,
            routes: config.routes,
            failures: config.failures,
            registry: Mutex::new(Registry {
                command: Command::Serve,
                next: 0,
                entries: HashMap::new(),
            }),
        }
    }

    pub fn route(&self, path: &str) -> Option<Route> {
        self.routes.get(path).copied()
    }

    /// A row of the table; `start` has checked that they are all there.
    pub fn failure(&self, kind: &'static str) -> Failure {
        self.failures[kind].clone()
    }

    /// Enters a new connection; None when the port is closing.
    pub fn register(&self) -> Option<(u64, Arc<Peer>)> {
        let mut registry = self.registry.lock();
        if registry.command == Command::Close {
            return None;
        }
        let id = registry.next;
        registry.next += 1;
        let peer = Arc::new(Peer::new(self.totals.clone(), registry.command));
        registry.entries.insert(
            id,
            Entry {
                peer: peer.clone(),
                task: None,
            },
        );
        Some((id, peer))
    }

    /// Notes the task of a connection, so that it can be ended by force; it may have ended already.
    pub fn attach(&self, id: u64, task: AbortHandle) {
        if let Some(entry) = self.registry.lock().entries.get_mut(&id) {
            entry.task = Some(task);
        }
    }

    pub fn unregister(&self, id: u64) {
        self.registry.lock().entries.remove(&id);
    }

    pub fn command_all(&self, command: Command) {
        let mut registry = self.registry.lock();
        registry.command = registry.command.max(command);
        for entry in registry.entries.values() {
            entry.peer.command(command);
        }
    }

    pub fn abort_all(&self) {
        self.command_all(Command::Close);
        for entry in self.registry.lock().entries.values() {
            if let Some(task) = &entry.task {
                task.abort();
            }
        }
    }

    pub fn upstream_close(&self) {
        if let Some(upstream) = &self.upstream {
            upstream.close();
        }
    }

    pub fn counters(&self) -> Counters {
        Counters {
            connections: self.totals.connections.load(Relaxed),
            streams: self.totals.streams.load(Relaxed),
            calls: self.totals.calls.load(Relaxed),
            bytes_in: self.totals.bytes_in.load(Relaxed),
            bytes_out: self.totals.bytes_out.load(Relaxed),
        }
    }
}

/// Holds a figure one higher while it lives.
pub struct Gauge {
    totals: Arc<Totals>,
    of: fn(&Totals) -> &AtomicU64,
}

impl Gauge {
    pub fn new(totals: &Arc<Totals>, of: fn(&Totals) -> &AtomicU64) -> Gauge {
        of(totals).fetch_add(1, Relaxed);
        Gauge {
            totals: totals.clone(),
            of,
        }
    }
}

impl Drop for Gauge {
    fn drop(&mut self) {
        (self.of)(&self.totals).fetch_sub(1, Relaxed);
    }
}

/// Counts tasks, so that a plain thread can wait for the last one to end.
#[derive(Default)]
pub struct Census {
    present: Mutex<usize>,
    empty: Condvar,
}

/// A task that is counted; ends with it.
pub struct Present(Arc<Census>);

impl Census {
    pub fn enter(self: &Arc<Self>) -> Present {
        *self.present.lock() += 1;
        Present(self.clone())
    }

    /// True when nobody is present, at the latest at `until`.
    pub fn wait(&self, until: Instant) -> bool {
        let mut present = self.present.lock();
        while *present > 0 {
            if self.empty.wait_until(&mut present, until).timed_out() {
                return *present == 0;
            }
        }
        true
    }
}

impl Drop for Present {
    fn drop(&mut self) {
        let mut present = self.0.present.lock();
        *present -= 1;
        if *present == 0 {
            self.0.empty.notify_all();
        }
    }
}
