//! One node: opened, started, used from any thread, closed.
use super::calls::Plain;
use super::chunks::Contents;
use super::client::Factory;
use super::codec::*;
use super::forward::{Forwarder, get_failure};
use super::hello::{self, Purpose};
use super::housekeep::Housekeeper;
use super::log::{Extent, Log};
use super::machine::Machine;
use super::members::Told;
use super::options::{Options, raft_config};
use super::propose::{Proposal, Proposer};
use super::reads::{Read, Reader, Rounds};
use super::shared::{FAILURES, Parts, Shared};
use super::snapshot::{Snapshot, Snapshots};
use super::stand;
use super::types::*;
use crate::call::Failure;
use bytes::Bytes;
use openraft::async_runtime::watch::WatchReceiver;
use parking_lot::{Mutex, RwLock};
use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use tokio::net::TcpListener;
use tokio::runtime::{Handle, Runtime};
use tokio::sync::{mpsc, watch};

const SHUTDOWN_LIMIT: Duration = Duration::from_secs(3);
const READY_LIMIT: Duration = Duration::from_millis(500);
const BLOCKED_LIMIT: Duration = Duration::from_secs(1);
const RUNTIME_LIMIT: Duration = Duration::from_secs(1);

/// What a node is opened with.
pub struct Setup {
    pub data_dir: PathBuf,
    pub id: u64,
    pub me: Member,
    /// 16 bytes, or empty.
    pub cluster: Bytes,
    /// To listen on.
    pub raft_addr: String,
    pub failures: HashMap<String, Failure>,
    pub options: Options,
    /// Where whole contents are, for other members; empty = nowhere.
    pub contents: PathBuf,
}

/// What the disk holds.
#[derive(Debug)]
pub struct Recovery {
    pub extent: Extent,
    pub snapshot: Option<Snapshot>,
}

struct Queues {
    proposals: mpsc::UnboundedReceiver<Proposal>,
    reads: mpsc::UnboundedReceiver<Read>,
}

/// See the module's text.
pub struct Node {
    pub shared: Arc<Shared>,
    raft_addr: String,
    queues: Mutex<Option<Queues>>,
    runtime: Mutex<Option<Runtime>>,
    handle: Handle,
    lock: Mutex<Option<File>>,
    stop: watch::Sender<bool>,
    /// Read by every thread that waits in `block`.
    blocked: RwLock<()>,
}

/// Takes the directory for this process; another one has it: `WouldBlock`.
fn lock(dir: &Path) -> io::Result<File> {
    std::fs::create_dir_all(dir)?;
    let path = dir.join("lock");
    let file = OpenOptions::new().create(true).append(true).open(&path)?;
    // SAFETY: flock on a descriptor that `file` keeps open; it touches no memory.
    if unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) } == 0 {
        return Ok(file);
    }
    let error = io::Error::last_os_error();
    if error.kind() == io::ErrorKind::WouldBlock {
        let text = format!("another process has the data directory {}", dir.display());
        return Err(io::Error::new(io::ErrorKind::WouldBlock, text));
    }
    Err(error)
}

/// The log id that a store has applied; nothing = it is empty.
pub fn applied_of(bytes: &[u8]) -> io::Result<Option<LogId>> {
    match bytes {
        [] => Ok(None),
        bytes => get_log_id(&mut Bytes::copy_from_slice(bytes)).map(Some),
    }
}

fn workers(options: &Options) -> usize {
    match options.threads {
        0 => std::thread::available_parallelism().map_or(1, |n| (n.get() / 2).clamp(1, 4)),
        n => n as usize,
    }
}

impl Node {
    /// Opens and locks the directory and replays the log. Blocks.
    pub fn open(setup: Setup) -> io::Result<Node> {
        if let Some(missing) = FAILURES.iter().find(|f| !setup.failures.contains_key(**f)) {
            let text = format!("no row for the failure \"{missing}\"");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        let lock = lock(&setup.data_dir)?;
        let log = Log::open(&setup.data_dir.join("log"), &setup.options)?;
        let snapshots = Snapshots::open(&setup.data_dir.join("snapshots"))?;
        // bounded: both by the gates of this node and of those that forward to it
        let (proposals, proposals_rx) = mpsc::unbounded_channel();
        // bounded: as above
        let (reads, reads_rx) = mpsc::unbounded_channel();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(workers(&setup.options))
            .thread_name("dfs-engine")
            .enable_all()
            .build()?;
        let handle = runtime.handle().clone();
        let shared = Arc::new(Shared::new(Parts {
            options: setup.options,
            id: setup.id,
            me: setup.me,
            cluster: setup.cluster,
            failures: setup.failures,
            log,
            snapshots,
            contents: Contents::new(setup.contents),
            proposals,
            reads,
        }));
        Ok(Node {
            shared,
            raft_addr: setup.raft_addr,
            queues: Mutex::new(Some(Queues {
                proposals: proposals_rx,
                reads: reads_rx,
            })),
            runtime: Mutex::new(Some(runtime)),
            handle,
            lock: Mutex::new(Some(lock)),
            stop: watch::channel(false).0,
            blocked: RwLock::new(()),
        })
    }

    pub fn recovery(&self) -> Recovery {
        Recovery {
            extent: self.shared.log.extent(),
            snapshot: self.shared.snapshots.current(),
        }
    }

    pub fn handle(&self) -> &Handle {
        &self.handle
    }

    /// What speaks against a store that has applied so much.
    pub fn objection(&self, applied: Option<LogId>) -> io::Result<Option<String>> {
        let extent = self.recovery().extent;
        let purged = extent.purged.map_or(0, |l| l.index);
        let Some(applied) = applied else {
            // An empty store is right where the log has all that there ever was.
            let text = format!("the store is empty, and the log up to {purged} is gone");
            return Ok(extent.purged.map(|_| text));
        };
        let need = purged.max(extent.durable);
        if applied.index < need {
            return Ok(Some(format!(
                "the store has revision {}, but it was safe on disk up to {} and the log up to \
                 {purged} is gone: it was damaged or put back to an old copy",
                applied.index, extent.durable
            )));
        }
        let here = self.shared.log.id_at(applied.index)?;
        Ok(here.filter(|id| *id != applied).map(|id| {
            format!("the store has applied {applied} where the log has {id}: it is another's")
        }))
    }

    /// The same, unless Raft will replace the store by the snapshot file of here.
    fn refusal(&self, applied: Option<LogId>) -> io::Result<Option<String>> {
        let Recovery { extent, snapshot } = self.recovery();
        let healed = snapshot.filter(Snapshot::is_file).map_or(0, |s| s.index());
        let need = extent.purged.map_or(0, |l| l.index).max(extent.durable);
        if applied.map_or(0, |l| l.index) < need && need <= healed {
            return Ok(None);
        }
        self.objection(applied)
    }

    /// Binds the peer port and begins. Raft itself is ready when it has read the log and the store
    /// has applied what was committed, which needs Python's hot loop.
    pub fn start(&self, applied: &[u8], membership: &[u8]) -> Result<(), StartError> {
        let applied = applied_of(applied)?;
        let membership = stored_membership(membership)?;
        if let Some(text) = self.refusal(applied)? {
            return Err(StartError::Store(text));
        }
        let start = applied.map_or(0, |l| l.index);
        if applied.is_some() {
            // What an opened store holds is on disk.
            self.shared.snapshots.mark(SnapshotMeta {
                last_log_id: applied,
                last_membership: membership.clone(),
            })?;
        }
        let listener = std::net::TcpListener::bind(&self.raft_addr).map_err(|e| {
            io::Error::new(
                e.kind(),
                format!("cannot listen on {}: {e}", self.raft_addr),
            )
        })?;
        listener.set_nonblocking(true)?;
        let listener = {
            let _inside = self.handle.enter();
            TcpListener::from_std(listener)?
        };
        let Some(queues) = self.queues.lock().take() else {
            return Err(StartError::Store(
                "the engine has been started already".into(),
            ));
        };
        let config = raft_config(&self.shared.options).validate();
        let config = Arc::new(config.map_err(|e| io::Error::other(e.to_string()))?);
        assert_eq!(
            config.enable_leader_restore,
            Some(false),
            "it loses acknowledged writes"
        );
        assert_eq!(config.enable_pre_vote, Some(true));
        let machine = Machine::new(
            self.shared.queue.clone(),
            self.shared.progress.clone(),
            self.shared.snapshots.clone(),
            applied,
            membership,
        );
        self.spawn_tasks(listener, queues);
        self.handle
            .spawn(build(self.shared.clone(), config, machine));
        // Usually this takes no time. But when entries are to be applied first it takes Python,
        // which may begin only after this call.
        if self.shared.log.committed_index() <= start {
            self.block(self.shared.raft_in(READY_LIMIT));
        }
        Ok(())
    }

    fn spawn_tasks(&self, listener: TcpListener, queues: Queues) {
        let shared = &self.shared;
        let forwarder = Arc::new(Forwarder::new(shared.clone()));
        let proposer = Proposer {
            shared: shared.clone(),
            queue: queues.proposals,
            forwarder: forwarder.clone(),
        };
        let rounds = Rounds {
            shared: shared.clone(),
            queue: queues.reads,
            forwarder,
        };
        self.handle
            .spawn(super::server::run(listener, shared.clone()));
        self.handle.spawn(proposer.run());
        self.handle.spawn(rounds.run());
        self.handle.spawn(shared.ticks.clone().run());
        self.handle.spawn(Housekeeper::new(shared.clone()).run());
        self.handle.spawn(super::housekeep::beat(shared.clone()));
    }

    fn patience(&self) -> Duration {
        Duration::from_millis(self.shared.options.no_leader_ms_max)
    }

    /// Python wants this call's body in the log, behind `head`.
    pub fn propose(&self, id: u64, head: &[u8]) {
        if let Some(guest) = self.shared.queue.take_call(id) {
            self.shared.propose(guest, head);
        }
    }

    /// From now on Puts that `plain` describes go into the log without Python; `None` = all to it.
    pub fn admit(&self, plain: Option<Plain>) {
        *self.shared.plain.write() = plain;
    }

    /// Proposes an entry for a ticket.
    pub fn submit(&self, ticket: u64, entry: &[u8], limit: Duration) {
        let shared = self.shared.clone();
        let done = move |outcome| {
            let reply = shared.reply_of(outcome);
            shared.queue.done(ticket, reply);
        };
        let deadline = Instant::now() + limit;
        let proposal = Proposal::new(&[entry], deadline, self.patience(), false, Box::new(done));
        let _ = self.shared.proposals.send(proposal);
    }

    /// A read barrier for a ticket.
    pub fn barrier(&self, ticket: u64, min_revision: u64, limit: Duration) {
        let since = Instant::now();
        let (deadline, reader) = (since + limit, Reader::Ticket(ticket));
        if min_revision > 0 {
            return self
                .shared
                .when_applied(min_revision, deadline, vec![reader]);
        }
        let _ = self.shared.reads.send(Read {
            reader,
            deadline,
            since,
            min_revision,
        });
    }

    /// Asks whatever node listens at `addr`.
    pub fn ask(&self, addr: &str, body: &[u8], limit: Duration) -> io::Result<crate::call::Reply> {
        let shared = self.shared.clone();
        let work = async move {
            let mut frames = hello::dial(&shared, addr, 0, Purpose::Ask, limit).await?;
            let mut answer = frames.exchange(body).await?;
            match get_u8(&mut answer)? {
                0 => Ok(Ok(answer)),
                _ => Ok(Err(get_failure(&mut answer)?)),
            }
        };
        let result = self.block(async move { tokio::time::timeout(limit, work).await });
        match result {
            None => Err(io::Error::other("the engine is closed")),
            Some(Ok(result)) => result.map_err(|e: io::Error| {
                io::Error::new(e.kind(), format!("{addr}: {}", hello::reason(&e)))
            }),
            Some(Err(_)) => {
                let text = format!("{addr}: no answer within {} ms", limit.as_millis());
                Err(io::Error::new(io::ErrorKind::TimedOut, text))
            }
        }
    }

    /// Fetches the state of the node at `addr` as the snapshot of here; before the start.
    pub fn fetch_snapshot(&self, addr: &str, index: u64, limit: Duration) -> io::Result<u64> {
        let fetched = self.block(super::transfer::fetch(&self.shared, addr, index, limit));
        let fetched = fetched.unwrap_or_else(|| Err(io::Error::other("the engine is closed")));
        match fetched {
            Ok(snapshot) => Ok(snapshot.index()),
            Err(e) => {
                let text = format!("{addr}: {}", hello::reason(&e));
                Err(io::Error::new(e.kind(), text))
            }
        }
    }

    /// Runs blocking work on the calling thread, unless the node is closed or closes meanwhile.
    pub fn block<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        let mut stop = self.stop.subscribe();
        let _held = self.blocked.read();
        if self.shared.stopping() {
            return None;
        }
        self.handle.block_on(async {
            tokio::select! {
                result = work => Some(result),
                _ = stop.wait_for(|s| *s) => None,
            }
        })
    }

    /// Runs an operation of `members.rs`.
    pub fn operate<T>(&self, work: impl Future<Output = Told<T>>) -> Told<T> {
        self.block(work)
            .unwrap_or_else(|| Err("the engine is closed".into()))
    }

    pub fn durable(&self, index: u64) {
        let shared = self.shared.clone();
        // A failure ends the log, and Raft with it.
        self.handle
            .spawn(async move { shared.log.save_durable(index).await });
    }

    /// Hands leadership away if this node has it and another can take it.
    pub fn step_aside(&self, limit: Duration) {
        let shared = self.shared.clone();
        let _ = self.block(async move { shared.transfer_leader(0, limit).await });
    }

    /// Answers everybody who waits and takes no more: the first half of `close`.
    pub fn let_go(&self) {
        self.shared.stopping.store(true, Ordering::Relaxed);
        self.stop.send_replace(true);
        for guest in self.shared.queue.close() {
            (guest.call.answer)(Err(self.shared.failure("shutting_down")));
        }
        self.shared.progress.expire(None);
    }

    /// Stops and joins everything. Idempotent.
    pub fn close(&self) {
        // First what waits for Python: Raft's end may wait for it in turn.
        self.let_go();
        let Some(runtime) = self.runtime.lock().take() else {
            return;
        };
        // Threads in `block` must be out of the runtime before it ends.
        let _alone = self.blocked.try_write_for(BLOCKED_LIMIT);
        if let Some(raft) = self.shared.raft() {
            let end = async { tokio::time::timeout(SHUTDOWN_LIMIT, raft.shutdown()).await };
            let _ = runtime.block_on(end);
        }
        runtime.shutdown_timeout(RUNTIME_LIMIT);
        self.shared.peers.clear(); // until then a task may put a connection back
        self.shared.log.close();
        self.lock.lock().take();
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.close();
    }
}

/// Why a node does not start.
#[derive(Debug)]
pub enum StartError {
    Io(io::Error),
    /// A sentence for the user.
    Store(String),
}

impl From<io::Error> for StartError {
    fn from(e: io::Error) -> StartError {
        StartError::Io(e)
    }
}

/// Reads the log, brings the store up to what was committed, begins.
async fn build(shared: Arc<Shared>, config: Arc<openraft::Config>, machine: Machine) {
    let factory = Factory(shared.clone());
    let fresh = shared.log.extent().last.is_none();
    let raft = Raft::new(shared.id, config, factory, shared.log.clone(), machine).await;
    match raft {
        Ok(raft) => {
            let membership = raft
                .server_metrics()
                .borrow_watched()
                .membership_config
                .clone();
            let alone = membership.voter_ids().eq([shared.id]);
            shared.set_raft(raft.clone());
            if alone {
                let _ = raft.trigger().elect(false).await; // nobody else is to be waited for
            } else if !fresh {
                // Who has yet to join will hear of a leader by that.
                stand::after_start(&shared, &raft).await;
            }
        }
        Err(fatal) if !shared.stopping() => {
            let why = shared.log.failure().map(str::to_string);
            let why = why.unwrap_or_else(|| format!("Raft cannot start: {fatal}"));
            shared.queue.fatal(why);
        }
        Err(_) => {}
    }
}
