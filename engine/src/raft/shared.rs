//! What all parts of one running node share.
use super::calls::Plain;
use super::chunks::Contents;
use super::housekeep::FailedBuild;
use super::log::Log;
use super::options::Options;
use super::peers::Peers;
use super::progress::Progress;
use super::propose::Proposal;
use super::queue::{Gate, Queue};
use super::reads::Read;
use super::riding::WAIT;
use super::snapshot::Snapshots;
use super::types::*;
use crate::call::Failure;
use crate::ticks::Ticks;
use bytes::Bytes;
use openraft::async_runtime::watch::WatchReceiver;
use parking_lot::RwLock;
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::sync::{mpsc, watch};

/// The kinds of refusal that the raft part gives by itself.
pub const FAILURES: [&str; 5] = [
    "no_leader",
    "outcome_unknown",
    "overloaded",
    "deadline",
    "shutting_down",
];

/// Figures since the start.
#[derive(Default)]
pub struct Counters {
    pub elections: AtomicU64,
    pub snapshots_sent: AtomicU64,
    pub sessions: AtomicU64,
    pub dials: AtomicU64,
    /// Of reads, as leader.
    pub rounds: AtomicU64,
    /// Those of them that peers' saved votes did not settle.
    pub rounds_by_raft: AtomicU64,
    /// Leadership, because of this node's disk.
    pub handed_over_for_disk: AtomicU64,
}

/// Where the leader is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Leader {
    Nobody,
    Me,
    Other(u64, Member),
}

/// See the module's text.
pub struct Shared {
    pub options: Options,
    pub id: u64,
    pub me: Member,
    cluster: RwLock<Bytes>,
    pub failures: HashMap<String, Failure>,
    pub log: Log,
    pub snapshots: Snapshots,
    pub contents: Contents,
    pub queue: Arc<Queue>,
    pub progress: Arc<Progress>,
    pub gate: Arc<Gate>,
    /// Of calls that are answered by streams: they stay long, and must not be in the way.
    pub gate_of_streams: Arc<Gate>,
    pub plain: RwLock<Option<Plain>>,
    /// What every call is answered with, while there is such a reason.
    pub refusal: RwLock<Option<Failure>>,
    pub peers: Peers,
    pub counters: Counters,
    pub ticks: Arc<Ticks>,
    pub proposals: mpsc::UnboundedSender<Proposal>,
    pub reads: mpsc::UnboundedSender<Read>,
    pub stopping: AtomicBool,
    /// Held while a snapshot is received and installed: one at a time.
    pub receiving: Arc<tokio::sync::Mutex<()>>,
    /// Held while a snapshot is made: one at a time. The last attempt, if it failed.
    pub building: tokio::sync::Mutex<Option<FailedBuild>>,
    raft: OnceLock<Raft>,
    ready: watch::Sender<bool>,
    /// The newest vote of a leader that this node has heard.
    heard: RwLock<Option<Vote>>,
}

/// What a node is made from.
pub struct Parts {
    pub options: Options,
    pub id: u64,
    pub me: Member,
    pub cluster: Bytes,
    pub failures: HashMap<String, Failure>,
    pub log: Log,
    pub snapshots: Snapshots,
    pub contents: Contents,
    pub proposals: mpsc::UnboundedSender<Proposal>,
    pub reads: mpsc::UnboundedSender<Read>,
}

impl Shared {
    pub fn new(parts: Parts) -> Shared {
        let gate = || {
            let options = &parts.options;
            Gate::new(options.calls_waiting_max, options.call_bytes_waiting_max)
        };
        let (gate, gate_of_streams) = (gate(), gate());
        let queue = Arc::new(Queue::new(parts.options.answers_bytes_max));
        Shared {
            options: parts.options,
            id: parts.id,
            me: parts.me,
            cluster: RwLock::new(parts.cluster),
            failures: parts.failures,
            log: parts.log,
            snapshots: parts.snapshots,
            contents: parts.contents,
            queue,
            progress: Arc::default(),
            gate,
            gate_of_streams,
            plain: RwLock::default(),
            refusal: RwLock::default(),
            peers: Peers::default(),
            counters: Counters::default(),
            ticks: Ticks::new(WAIT),
            proposals: parts.proposals,
            reads: parts.reads,
            stopping: AtomicBool::new(false),
            receiving: Arc::default(),
            building: tokio::sync::Mutex::default(),
            raft: OnceLock::new(),
            ready: watch::channel(false).0,
            heard: RwLock::default(),
        }
    }

    pub fn cluster(&self) -> Bytes {
        self.cluster.read().clone()
    }

    pub fn set_cluster(&self, cluster: Bytes) {
        *self.cluster.write() = cluster;
    }

    pub fn stopping(&self) -> bool {
        self.stopping.load(Ordering::Relaxed)
    }

    /// A row of Python's table of failures; the constructor has checked that it is there.
    pub fn failure(&self, kind: &str) -> Failure {
        self.failures[kind].clone()
    }

    pub fn set_raft(&self, raft: Raft) {
        if self.raft.set(raft).is_ok() {
            self.ready.send_replace(true);
        }
    }

    /// Raft, once it has read the log and the store.
    pub fn raft(&self) -> Option<&Raft> {
        self.raft.get()
    }

    /// Waits for it; `None` when it is not there in time.
    pub async fn raft_in(&self, limit: Duration) -> Option<&Raft> {
        let mut ready = self.ready.subscribe();
        let _ = tokio::time::timeout(limit, ready.wait_for(|r| *r)).await;
        self.raft.get()
    }

    /// The members with their ids, as this node knows them.
    pub fn members(&self) -> Vec<(u64, Member)> {
        let Some(raft) = self.raft() else {
            return Vec::new();
        };
        let membership = raft
            .server_metrics()
            .borrow_watched()
            .membership_config
            .clone();
        membership.nodes().map(|(id, m)| (*id, m.clone())).collect()
    }

    /// A leader with this vote has been heard.
    pub fn hear(&self, vote: &Vote) {
        let newer = |heard: &Option<Vote>| heard.as_ref().is_none_or(|h| h < vote);
        if vote.committed && newer(&self.heard.read()) {
            *self.heard.write() = Some(*vote);
        }
    }

    /// The vote of a leader that Raft's core has not taken note of yet: before it does, it saves
    /// the vote, which takes as long as the disk does.
    pub fn heard_beyond(&self, vote: &Vote) -> Option<Vote> {
        self.heard.read().filter(|heard| heard > vote)
    }

    /// The one whom Raft's core follows, unless a newer one has been heard. After a start the core
    /// takes the leader from its log: nobody knows whether that one is there until it is heard.
    pub fn followed(&self, vote: &Vote, leader: Option<u64>) -> Option<u64> {
        let Some(heard) = *self.heard.read() else {
            return leader.filter(|id| *id == self.id);
        };
        match heard > *vote {
            true => Some(heard.leader_id.node_id),
            false => leader,
        }
    }

    pub fn leader(&self) -> Leader {
        let Some(raft) = self.raft() else {
            return Leader::Nobody;
        };
        let (leader, membership) = {
            let receiver = raft.server_metrics();
            let m = receiver.borrow_watched();
            match self.followed(&m.vote, m.current_leader) {
                None => return Leader::Nobody,
                Some(id) if id == self.id => return Leader::Me,
                Some(id) => (id, m.membership_config.clone()),
            }
        };
        match membership.get_node(&leader) {
            Some(member) => Leader::Other(leader, member.clone()),
            None => Leader::Nobody,
        }
    }

    /// Why nothing is decided, as far as this node can see: which voters are silent, since when.
    pub fn no_leader(&self) -> String {
        let voters = self.voters();
        if voters.is_empty() {
            return format!("{} belongs to no cluster yet", self.me.name);
        }
        let others = voters.iter().filter(|id| **id != self.id);
        let silent: Vec<String> = others.filter_map(|id| self.silence(*id)).collect();
        if silent.is_empty() {
            return match self.leader() {
                Leader::Nobody => "an election is under way".into(),
                _ => "all voters are heard, but too few have answered".into(),
            };
        }
        let need = voters.len() / 2 + 1;
        format!(
            "{}; {need} of {} voters are needed",
            silent.join(", "),
            voters.len()
        )
    }

    /// Since when a member has not been heard, and why; `None` = it has been heard lately.
    fn silence(&self, id: u64) -> Option<String> {
        let name = self.known(id)?.0.name;
        let contact = self.peers.contact(id);
        let since = contact.heard.or(contact.error.as_ref().map(|e| e.1));
        let quiet = since.map(|t| t.elapsed());
        match (contact.error, quiet) {
            (Some((error, _)), Some(quiet)) => Some(format!(
                "{name} silent for {:.1} s ({error})",
                quiet.as_secs_f64()
            )),
            (None, Some(quiet)) if quiet.as_millis() <= self.options.election_ms_max.into() => None,
            (_, Some(quiet)) => Some(format!("{name} silent for {:.1} s", quiet.as_secs_f64())),
            (_, None) => Some(format!("{name} not heard yet")),
        }
    }
}
