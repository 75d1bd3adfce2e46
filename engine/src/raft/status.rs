//! Figures of this moment, from watched values: nothing here waits for Raft.
use super::log::Trouble;
use super::shared::Shared;
use super::types::*;
use openraft::async_runtime::watch::WatchReceiver;
use openraft::{Instant, ServerState};
use std::sync::atomic::Ordering;

/// One member as this node sees it.
#[derive(Clone, Debug)]
pub struct MemberStatus {
    pub id: u64,
    pub member: Member,
    pub voter: bool,
    /// On the leader: what it has accepted.
    pub matched: u64,
    /// Since it was last heard, on the leader since its last answer; -1 = never.
    pub contact_ms: i64,
    pub error: String,
}

/// One node as it sees itself.
#[derive(Clone, Debug)]
pub struct Status {
    pub id: u64,
    pub term: u64,
    pub leader: u64,
    pub role: &'static str,
    pub last_log: u64,
    pub committed: u64,
    pub applied: u64,
    pub purged: u64,
    pub snapshot: u64,
    pub durable: u64,
    /// Index of the entry that says who the members are.
    pub config: u64,
    pub log_bytes: u64,
    pub snapshots_sent: u64,
    pub snapshots_installed: u64,
    pub elections: u64,
    pub sessions: u64,
    pub dials: u64,
    pub rounds: u64,
    pub rounds_by_raft: u64,
    pub handed_over_for_disk: u64,
    /// What is wrong with this node's disk, compared with those of the others; "" = nothing.
    pub disk: String,
    /// It does not answer at all.
    pub disk_stalled: bool,
    pub members: Vec<MemberStatus>,
    pub calls: u64,
}

fn role(metrics: &openraft::RaftMetrics<Types>) -> &'static str {
    if metrics.membership_config.nodes().next().is_none() {
        return "fresh";
    }
    match metrics.state {
        ServerState::Leader => "leader",
        ServerState::Follower => "follower",
        ServerState::Candidate => "candidate",
        _ => "learner",
    }
}

impl Status {
    /// The plain figures by name.
    pub fn numbers(&self) -> [(&'static str, u64); 21] {
        [
            ("id", self.id),
            ("term", self.term),
            ("leader", self.leader),
            ("last_log", self.last_log),
            ("committed", self.committed),
            ("applied", self.applied),
            ("purged", self.purged),
            ("snapshot", self.snapshot),
            ("durable", self.durable),
            ("config", self.config),
            ("log_bytes", self.log_bytes),
            ("snapshots_sent", self.snapshots_sent),
            ("snapshots_installed", self.snapshots_installed),
            ("elections", self.elections),
            ("sessions", self.sessions),
            ("dials", self.dials),
            ("rounds", self.rounds),
            ("rounds_by_raft", self.rounds_by_raft),
            ("handed_over_for_disk", self.handed_over_for_disk),
            ("disk_stalled", self.disk_stalled as u64),
            ("calls", self.calls),
        ]
    }
}

impl Shared {
    fn member_status(&self, metrics: &openraft::RaftMetrics<Types>) -> Vec<MemberStatus> {
        let membership = &metrics.membership_config;
        let one = |(id, member): (&u64, &Member)| {
            let matched = metrics
                .replication
                .as_ref()
                .and_then(|r| r.get(id).copied().flatten());
            let contact = self.peers.contact(*id);
            // The leader's own measure where there is one: answers to heartbeats and appends.
            let answered = match &metrics.heartbeat {
                Some(all) => all
                    .get(id)
                    .and_then(|t| t.as_deref().copied())
                    .map(|t| t.elapsed()),
                None => contact.heard.map(|t| t.elapsed()),
            };
            let mut contact_ms = answered.map_or(-1, |t| t.as_millis() as i64);
            if *id == self.id {
                contact_ms = 0;
            }
            MemberStatus {
                id: *id,
                member: member.clone(),
                voter: membership.voter_ids().any(|v| v == *id),
                matched: matched.map_or(0, |m| m.index),
                contact_ms,
                error: contact.error.map(|e| e.0).unwrap_or_default(),
            }
        };
        membership.nodes().map(one).collect()
    }

    pub fn status(&self) -> Status {
        let metrics = match self.raft() {
            Some(raft) => raft.metrics().borrow_watched().clone(),
            None => openraft::RaftMetrics::new_initial(self.id),
        };
        let index = |id: Option<LogId>| id.map_or(0, |l| l.index);
        let extent = self.log.extent();
        let count = |c: &std::sync::atomic::AtomicU64| c.load(Ordering::Relaxed);
        let trouble = self.log.trouble();
        let heard = self.heard_beyond(&metrics.vote).map(|v| v.leader_id);
        let followed = self.followed(&metrics.vote, metrics.current_leader);
        // Until Raft has read the log, what is on disk says whether this node is new.
        let follows = heard.is_some() || (self.raft().is_none() && extent.last.is_some());
        Status {
            id: self.id,
            term: heard.map_or(metrics.current_term, |l| l.term),
            leader: followed.unwrap_or(0),
            role: if follows { "follower" } else { role(&metrics) },
            last_log: metrics.last_log_index.unwrap_or(index(extent.last)),
            committed: index(metrics.local_committed),
            applied: self.progress.applied(),
            purged: index(extent.purged),
            snapshot: self.snapshots.current().map_or(0, |s| s.index()),
            durable: extent.durable,
            config: index(*metrics.membership_config.log_id()),
            log_bytes: self.log.bytes(),
            snapshots_sent: count(&self.counters.snapshots_sent),
            snapshots_installed: self.progress.installs(),
            elections: count(&self.counters.elections),
            sessions: count(&self.counters.sessions),
            dials: count(&self.counters.dials),
            rounds: count(&self.counters.rounds),
            rounds_by_raft: count(&self.counters.rounds_by_raft),
            handed_over_for_disk: count(&self.counters.handed_over_for_disk),
            disk: trouble.map_or(String::new(), |t| t.to_string()),
            disk_stalled: matches!(trouble, Some(Trouble::Stalled(_))),
            members: self.member_status(&metrics),
            calls: self.gate.calls(),
        }
    }
}
