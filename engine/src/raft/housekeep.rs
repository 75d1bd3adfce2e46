//! What happens by the clock: late callers, snapshots, purge, the watchdogs, the end of Raft.
use super::shared::{Leader, Shared};
use super::snapshot::Snapshot;
use super::types::*;
use openraft::async_runtime::watch::WatchReceiver;
use std::collections::HashMap;
use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

const TICK: Duration = Duration::from_millis(50);
const SLOW_TICK: Duration = Duration::from_millis(500);
/// Between two attempts to hand leadership away.
const HAND_OVER_PAUSE: Duration = Duration::from_secs(5);
/// Between two that a slow disk causes it doubles up to here: when leadership comes back again and
/// again, nobody else does better.
const SLOW_DISK_PAUSE_MAX: Duration = Duration::from_secs(600);
/// Between two attempts to write a snapshot for members when one has failed. Each pins the state
/// and may write the disk full; Raft by itself asks again every few milliseconds.
const BUILD_PAUSE: Duration = Duration::from_secs(30);

/// The task that makes a leader send heartbeats. A member that still owes an answer gets its next
/// one when it has answered.
pub async fn beat(shared: Arc<Shared>) {
    let mut beats =
        tokio::time::interval(Duration::from_millis(shared.options.heartbeat_ms.max(1)));
    beats.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    while !shared.stopping() {
        beats.tick().await;
        if shared.leader() == Leader::Me
            && let Some(raft) = shared.raft()
        {
            let _ = raft.trigger().heartbeat().await; // Raft has stopped: `ended` says so
        }
    }
}

/// The task that does all of it.
pub struct Housekeeper {
    pub shared: Arc<Shared>,
    term: u64,
    purged: u64,
    hand_over_after: Instant,
    /// After the next time that a slow disk makes this node hand leadership away.
    slow_disk_pause: Duration,
    peers: HashMap<u64, Seen>,
}

/// What a peer had accepted when it was last seen to move.
struct Seen {
    matched: Option<LogId>,
    since: Instant,
}

impl Housekeeper {
    pub fn new(shared: Arc<Shared>) -> Housekeeper {
        let now = Instant::now();
        Housekeeper {
            shared,
            term: 0,
            purged: 0,
            hand_over_after: now,
            slow_disk_pause: HAND_OVER_PAUSE,
            peers: HashMap::new(),
        }
    }

    pub async fn run(mut self) {
        let mut slow = Instant::now();
        loop {
            tokio::time::sleep(TICK).await;
            if self.shared.stopping() {
                return;
            }
            self.expire();
            let Some(raft) = self.shared.raft().cloned() else {
                continue;
            };
            if self.ended(&raft) {
                return;
            }
            self.watch_python();
            self.watch_disk();
            if slow <= Instant::now() {
                slow = Instant::now() + SLOW_TICK;
                self.keep_log_short(&raft).await;
                self.watch_peers(&raft).await;
            }
        }
    }

    fn expire(&self) {
        let now = Instant::now();
        self.shared.progress.expire(Some(now));
        for guest in self.shared.queue.expire(now) {
            (guest.call.answer)(Err(self.shared.failure("deadline")));
        }
    }

    /// The log has failed, or Raft has stopped by itself.
    fn ended(&mut self, raft: &Raft) -> bool {
        let (state, term) = {
            let receiver = raft.metrics();
            let metrics = receiver.borrow_watched();
            (metrics.running_state.clone(), metrics.current_term)
        };
        if term != self.term {
            self.term = term;
            self.shared
                .counters
                .elections
                .fetch_add(1, Ordering::Relaxed);
        }
        let why = match (self.shared.log.failure(), state) {
            (Some(why), _) => why.into(),
            (None, Err(fatal)) => format!("Raft has ended: {fatal}"),
            (None, Ok(())) => return false,
        };
        if !self.shared.stopping() {
            self.shared.queue.fatal(format!(
                "{why}. Nothing that was acknowledged is lost. Check the disk (space, errors in \
                 the kernel log), then start the node again"
            ));
        }
        true
    }

    /// A leader whose Python does not take its work hands leadership away.
    fn watch_python(&mut self) {
        let limit = Duration::from_millis(self.shared.options.python_ms_max);
        let stuck = self.shared.queue.stuck().is_some_and(|away| away > limit);
        if stuck && self.may_hand_over() {
            self.hand_over(HAND_OVER_PAUSE);
        }
    }

    /// A leader whose disk is slower than those of a majority hands leadership away.
    fn watch_disk(&mut self) {
        if self.shared.log.trouble().is_none() || !self.may_hand_over() {
            return;
        }
        let count = &self.shared.counters.handed_over_for_disk;
        count.fetch_add(1, Ordering::Relaxed);
        self.hand_over(self.slow_disk_pause);
        self.slow_disk_pause = (2 * self.slow_disk_pause).min(SLOW_DISK_PAUSE_MAX);
    }

    fn may_hand_over(&self) -> bool {
        self.hand_over_after <= Instant::now() && self.shared.leader() == Leader::Me
    }

    /// Begins it, and does not again for so long.
    fn hand_over(&mut self, pause: Duration) {
        self.hand_over_after = Instant::now() + pause;
        let shared = self.shared.clone();
        tokio::spawn(async move { shared.transfer_leader(0, HAND_OVER_PAUSE).await });
    }

    async fn keep_log_short(&mut self, raft: &Raft) {
        let installed = self.shared.progress.installed_index();
        if installed > self.shared.log.extent().durable {
            // Installing replaced the store durably. A failure ends Raft by itself.
            let _ = self.shared.log.save_durable(installed).await;
        }
        let current = self.shared.snapshots.current();
        let index = current.as_ref().map_or(0, |s| s.index());
        let size = current.as_ref().map_or(0, |s| s.size);
        let grown = self.shared.log.bytes_after(index);
        let due = grown >= self.shared.options.snapshot_log_bytes.max(size);
        let applied = self.shared.progress.applied() > index;
        if due && applied {
            // Not awaited: it waits for Python, and what happens here must not.
            let (shared, raft) = (self.shared.clone(), raft.clone());
            tokio::spawn(async move { shared.mark_snapshot(&raft).await });
        }
        self.purge(raft, index).await;
    }

    /// Purges behind the store's durable index and the snapshot, keeping some for members that
    /// were away briefly.
    async fn purge(&mut self, raft: &Raft, snapshot: u64) {
        let known = raft
            .metrics()
            .borrow_watched()
            .snapshot
            .map_or(0, |s| s.index);
        let end = snapshot.min(known).min(self.shared.log.extent().durable);
        let keep = self.shared.options.log_keep_bytes;
        let Some(upto) = self.shared.log.keep_point(end, keep) else {
            return;
        };
        if upto > self.purged && upto <= end {
            self.purged = upto;
            let _ = raft.trigger().purge_log(upto).await;
        }
    }

    /// A peer that answers heartbeats but accepts nothing gets a new session.
    async fn watch_peers(&mut self, raft: &Raft) {
        let (replication, last) = {
            let receiver = raft.metrics();
            let metrics = receiver.borrow_watched();
            (metrics.replication.clone(), metrics.last_log_index)
        };
        let Some(replication) = replication else {
            return self.peers.clear();
        };
        let now = Instant::now();
        let limit = Duration::from_millis(self.shared.options.progress_ms_max);
        for (id, matched) in replication {
            let seen = self.peers.entry(id).or_insert(Seen {
                matched,
                since: now,
            });
            let complete = matched.map(|m| m.index) >= last;
            if id == self.shared.id || complete || seen.matched != matched {
                *seen = Seen {
                    matched,
                    since: now,
                };
                continue;
            }
            let heard = self
                .shared
                .peers
                .contact(id)
                .heard
                .is_some_and(|t| t.elapsed() < limit);
            if heard && seen.since.elapsed() > limit {
                seen.since = now;
                self.shared.peers.reset_session(id);
                let _ = raft.trigger().reset_backoff([id]).await;
            }
        }
    }
}

/// A snapshot file that could not be written.
pub struct FailedBuild {
    at: Instant,
    why: String,
}

impl FailedBuild {
    fn new(why: String) -> FailedBuild {
        let at = Instant::now();
        FailedBuild { at, why }
    }

    /// Why nothing is written for a member now; `None` when it is time to try again.
    fn holds(&self) -> Option<String> {
        let left = BUILD_PAUSE.checked_sub(self.at.elapsed())?;
        let seconds = left.as_secs() + 1;
        Some(format!("{}; tried again in {seconds} s", self.why))
    }
}

impl Shared {
    /// The log may go up to what is applied now, as soon as the store is on disk. Waits for Python
    /// to apply what it has; one at a time.
    async fn mark_snapshot(&self, raft: &Raft) {
        // A file that is being written is to become the current snapshot.
        let Ok(_turn) = self.building.try_lock() else {
            return;
        };
        let marked = raft
            .with_state_machine(|machine: &mut super::machine::Machine| {
                Box::pin(async { machine.mark() })
            })
            .await;
        // Raft has stopped when it does not take it; `ended` will say so.
        if let Ok(Ok(())) = marked {
            let _ = raft.trigger().snapshot().await;
        }
    }

    /// Why no file is written for a member now, if one could not be written a moment ago.
    pub async fn build_held_back(&self) -> Option<String> {
        self.building.lock().await.as_ref()?.holds()
    }

    /// A file with the state of `index` or a later one, opened; makes one of what is applied now if
    /// there is none. The node goes on meanwhile.
    pub async fn snapshot_file(&self, index: u64) -> Result<(Snapshot, File), String> {
        let mut failed = self.building.lock().await;
        if let Some(opened) = self.snapshots.opened(index).map_err(|e| e.to_string())? {
            return Ok(opened);
        }
        if let Some(why) = failed.as_ref().and_then(FailedBuild::holds) {
            return Err(why);
        }
        self.build(&mut failed).await
    }

    /// A file of what is applied now. Tries also when one has just failed: somebody asks for it.
    pub async fn take_snapshot(&self) -> Result<(), String> {
        let mut failed = self.building.lock().await;
        match self.snapshots.file(self.progress.applied()) {
            Some(_) => Ok(()),
            None => self.build(&mut failed).await.map(drop),
        }
    }

    async fn build(&self, failed: &mut Option<FailedBuild>) -> Result<(Snapshot, File), String> {
        let raft = self.raft().ok_or("the node is still starting")?;
        let made = async {
            let pinned = raft
                .with_state_machine(|machine: &mut super::machine::Machine| Box::pin(machine.pin()))
                .await
                .map_err(|e| e.to_string())?
                .map_err(|e| e.to_string())?;
            pinned.complete().await.map_err(|e| e.to_string())
        };
        let made = made.await;
        *failed = made.as_ref().err().cloned().map(FailedBuild::new);
        let made = made?;
        raft.trigger().snapshot().await.map_err(|e| e.to_string())?;
        let opened = self.snapshots.opened(made.index());
        let late = "a newer state was received meanwhile";
        opened.map_err(|e| e.to_string())?.ok_or(late.into())
    }
}
