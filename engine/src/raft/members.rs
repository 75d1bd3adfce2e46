//! Changes of the membership and of the leader, made on the leader, each awaited until it holds.
use super::shared::{Leader, Shared};
use super::types::*;
use openraft::ChangeMembers;
use openraft::async_runtime::watch::WatchReceiver;
use openraft::entry::RaftPayload;
use openraft::errors::{ChangeMembershipError, ClientWriteError, RaftError};
use openraft::raft::Precondition;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

const POLL: Duration = Duration::from_millis(20);
/// A transfer that has not worked after this is begun anew, with the then best target.
const TRANSFER_TRY: Duration = Duration::from_millis(1_500);

/// What an operation says when it fails: a sentence for the user.
pub type Told<T> = Result<T, String>;

/// Why there are not other members now, for the user.
#[derive(Debug)]
pub enum NotChanged {
    Surely(String),
    MayBe(String),
}

/// The entry that makes a change.
enum Write {
    /// Of members that are known, who stay what they are.
    Addresses(BTreeMap<u64, Member>),
    Members(Membership),
}

/// How to come from what is stored to these members; `None` = they are the same.
fn next(stored: &StoredMembership, members: &[(u64, Member, bool)]) -> Told<Option<Write>> {
    let all = members.iter().map(|(id, member, _)| (*id, member.clone()));
    let all: BTreeMap<u64, Member> = all.collect();
    let voters: BTreeSet<u64> = members.iter().filter(|m| m.2).map(|m| m.0).collect();
    let now: BTreeMap<u64, Member> = stored.nodes().map(|(id, m)| (*id, m.clone())).collect();
    let same_roles = *stored.membership().get_joint_config() == [voters.clone()];
    if same_roles && all == now {
        return Ok(None);
    }
    if same_roles && all.keys().eq(now.keys()) {
        return Ok(Some(Write::Addresses(all)));
    }
    if voters.is_empty() {
        return Err("without a voter there is no cluster".into());
    }
    let names: BTreeSet<&String> = all.values().map(|m| &m.name).collect();
    if names.len() < all.len() {
        return Err("two members would have one name".into());
    }
    let membership = Membership::new(vec![voters], all).map_err(|e| e.to_string())?;
    Ok(Some(Write::Members(membership)))
}

async fn within<T>(limit: Duration, what: &str, work: impl Future<Output = Told<T>>) -> Told<T> {
    match tokio::time::timeout(limit, work).await {
        Ok(result) => result,
        Err(_) => {
            let ms = limit.as_millis();
            Err(format!(
                "{what} has not been committed within {ms} ms; it may still be"
            ))
        }
    }
}

impl Shared {
    fn leading_raft(&self) -> Told<&Raft> {
        let raft = self.raft().ok_or("the node is still starting")?;
        match self.leader() {
            Leader::Me => Ok(raft),
            Leader::Other(_, member) => Err(format!(
                "{} is not the leader, {} is",
                self.me.name, member.name
            )),
            Leader::Nobody => Err(format!("there is no leader: {}", self.no_leader())),
        }
    }

    /// A member, and whether it votes.
    pub fn known(&self, id: u64) -> Option<(Member, bool)> {
        let raft = self.raft()?;
        let membership = raft
            .server_metrics()
            .borrow_watched()
            .membership_config
            .clone();
        let member = membership.get_node(&id)?.clone();
        let voter = membership.voter_ids().any(|v| v == id);
        Some((member, voter))
    }

    /// Makes this node a cluster of one; nothing to do when it belongs to something.
    pub async fn initialize(&self, limit: Duration) -> Told<()> {
        let work = async {
            let raft = self
                .raft_in(limit)
                .await
                .ok_or("the node is still starting")?;
            if !raft.is_initialized().await.map_err(|e| e.to_string())? {
                let alone = BTreeMap::from([(self.id, self.me.clone())]);
                raft.initialize(alone).await.map_err(|e| e.to_string())?;
                // Led, and the first configuration committed: changes are possible from here on.
                while self.leader() != Leader::Me || self.progress.applied() == 0 {
                    tokio::time::sleep(POLL).await;
                }
            }
            Ok(())
        };
        within(limit, "the first configuration", work).await
    }

    /// From now on these are the members, with id and whether they vote, if those until now are the
    /// ones of the entry `config`. Returns the index of the entry that says so, once it is applied.
    ///
    /// It is one entry, so nobody ever finds half a change: at most one vote more or less than now.
    pub async fn change(
        &self,
        config: u64,
        members: Vec<(u64, Member, bool)>,
        limit: Duration,
    ) -> Result<u64, NotChanged> {
        let unknown = |why: String| NotChanged::MayBe(format!("{why}; it may still be"));
        match tokio::time::timeout(limit, self.try_change(config, &members)).await {
            Ok(result) => result,
            Err(_) if self.leader() == Leader::Me => Err(unknown(format!(
                "the change has not been committed within {} ms: {}",
                limit.as_millis(),
                self.no_leader()
            ))),
            Err(_) => Err(unknown(format!(
                "{} is no longer the leader, and the change was not committed before",
                self.me.name
            ))),
        }
    }

    async fn try_change(
        &self,
        config: u64,
        members: &[(u64, Member, bool)],
    ) -> Result<u64, NotChanged> {
        loop {
            let raft = self.leading_raft().map_err(NotChanged::Surely)?;
            let stored = raft
                .server_metrics()
                .borrow_watched()
                .membership_config
                .clone();
            let now = stored.log_id().map_or(0, |l| l.index);
            if now != config {
                return Err(NotChanged::Surely(format!(
                    "the members are those of entry {now}, not of {config} any more"
                )));
            }
            let Some(write) = next(&stored, members).map_err(NotChanged::Surely)? else {
                return Ok(now);
            };
            let only_if = [Precondition::LastMembershipLogId {
                last_membership_log_id: *stored.log_id(),
            }];
            let written = match write {
                Write::Addresses(nodes) => {
                    let change = ChangeMembers::SetNodes(nodes);
                    raft.change_membership_if(change, true, only_if).await
                }
                Write::Members(membership) => {
                    let blank = Payload::blank();
                    raft.append_membership(membership, blank, only_if).await
                }
            };
            match written {
                Ok(response) => return Ok(response.log_id.index),
                // What a leader has found in the log is committed first.
                Err(RaftError::APIError(ClientWriteError::ChangeMembershipError(
                    ChangeMembershipError::InProgress(_)
                    | ChangeMembershipError::UncommittedLeaderLog(_),
                ))) => tokio::time::sleep(POLL).await,
                Err(RaftError::APIError(ClientWriteError::LogEntryDiscarded(_))) => {
                    return Err(NotChanged::MayBe(format!(
                        "{} was replaced as leader; the change may still be committed",
                        self.me.name
                    )));
                }
                Err(RaftError::APIError(ClientWriteError::ForwardToLeader(_))) => {
                    return Err(NotChanged::Surely(format!(
                        "{} is no longer the leader",
                        self.me.name
                    )));
                }
                Err(RaftError::APIError(error)) => {
                    return Err(NotChanged::Surely(error.to_string()));
                }
                Err(fatal) => return Err(NotChanged::MayBe(fatal.to_string())),
            }
        }
    }

    /// Ids of all voters, as this node knows them.
    pub fn voters(&self) -> Vec<u64> {
        let Some(raft) = self.raft() else {
            return Vec::new();
        };
        raft.server_metrics()
            .borrow_watched()
            .membership_config
            .voter_ids()
            .collect()
    }

    /// The other voter that has the most of the log, has been heard lately and not failed since.
    fn best_voter(&self) -> Option<u64> {
        let replication = self
            .raft()?
            .metrics()
            .borrow_watched()
            .replication
            .clone()?;
        let voters = self.voters();
        let lately = Duration::from_millis(self.options.election_ms_max);
        let alive = |id: &u64| {
            let contact = self.peers.contact(*id);
            contact.error.is_none() && contact.heard.is_some_and(|t| t.elapsed() < lately)
        };
        replication
            .into_iter()
            .filter(|(id, _)| *id != self.id && voters.contains(id) && alive(id))
            .max_by_key(|(_, matched)| *matched)
            .map(|(id, _)| id)
    }

    /// Hands leadership to `to`, or to the best voter for 0; returns when another leads.
    pub async fn transfer_leader(self: &Arc<Self>, to: u64, limit: Duration) -> Told<()> {
        self.leading_raft()?;
        if to == self.id {
            return Ok(());
        }
        if to != 0 && !matches!(self.known(to), Some((_, true))) {
            return Err("only a voter can lead".into());
        }
        let until = Instant::now() + limit;
        while Instant::now() < until {
            let Ok(raft) = self.leading_raft() else { break };
            let Some(target) = Some(to).filter(|t| *t != 0).or_else(|| self.best_voter()) else {
                return Err("there is no other voter in reach to hand leadership to".into());
            };
            raft.trigger()
                .transfer_leader(target)
                .await
                .map_err(|e| e.to_string())?;
            let again = until.min(Instant::now() + TRANSFER_TRY);
            while Instant::now() < again {
                tokio::time::sleep(POLL).await;
                if matches!(self.leader(), Leader::Other(..)) {
                    return Ok(());
                }
                if to == 0 && self.peers.contact(target).error.is_some() {
                    break; // Another may be in reach, or nobody is left.
                }
            }
        }
        match self.leader() {
            Leader::Other(..) => Ok(()),
            _ => Err(format!(
                "no other node leads after {} ms",
                limit.as_millis()
            )),
        }
    }
}
