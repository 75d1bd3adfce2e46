//! Changes of the membership and of the leader, made on the leader, each awaited until it holds.
use super::shared::{Leader, Shared};
use super::types::*;
use openraft::ChangeMembers;
use openraft::async_runtime::watch::WatchReceiver;
use openraft::errors::{ChangeMembershipError, ClientWriteError, RaftError};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

const POLL: Duration = Duration::from_millis(20);
/// A transfer that has not worked after this is begun anew, with the then best target.
const TRANSFER_TRY: Duration = Duration::from_millis(1_500);

/// What an operation says when it fails: a sentence for the user.
pub type Told<T> = Result<T, String>;

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

    async fn change(&self, change: ChangeMembers<u64, Member>, retain: bool) -> Told<()> {
        loop {
            let raft = self.leading_raft()?;
            match raft.change_membership(change.clone(), retain).await {
                Ok(_) => return Ok(()),
                // One change at a time: this one waits for the other.
                Err(RaftError::APIError(ClientWriteError::ChangeMembershipError(
                    ChangeMembershipError::InProgress(_)
                    | ChangeMembershipError::UncommittedLeaderLog(_),
                ))) => tokio::time::sleep(POLL).await,
                Err(RaftError::APIError(ClientWriteError::ForwardToLeader(_))) => {
                    return Err(format!("{} is no longer the leader", self.me.name));
                }
                Err(e) => return Err(e.to_string()),
            }
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

    /// Adds a learner, or renews what is known of a member. Idempotent.
    pub async fn add_learner(&self, id: u64, member: Member, limit: Duration) -> Told<()> {
        self.leading_raft()?;
        let same = |m: &&(u64, Member)| m.0 != id && m.1.name == member.name;
        if self.members().iter().find(same).is_some() {
            return Err(format!(
                "{0} is a member already, with another data directory: remove the member {0} \
                 first, then let it join again",
                member.name
            ));
        }
        let change = match self.known(id) {
            Some((known, _)) if known == member => return Ok(()),
            Some(_) => ChangeMembers::SetNodes(BTreeMap::from([(id, member)])),
            None => ChangeMembers::AddNodes(BTreeMap::from([(id, member)])),
        };
        within(limit, "the new member", self.change(change, true)).await
    }

    pub async fn promote(&self, id: u64, limit: Duration) -> Told<()> {
        self.leading_raft()?;
        match self.known(id) {
            None => Err("there is no such member".into()),
            Some((_, true)) => Ok(()),
            Some((_, false)) => {
                let change = ChangeMembers::AddVoterIds(BTreeSet::from([id]));
                within(limit, "the promotion", self.change(change, true)).await
            }
        }
    }

    pub async fn remove(&self, id: u64, limit: Duration) -> Told<()> {
        self.leading_raft()?;
        let ids = BTreeSet::from([id]);
        match self.known(id) {
            None => Ok(()),
            Some((_, false)) => {
                let change = ChangeMembers::RemoveNodes(ids);
                within(limit, "the removal", self.change(change, true)).await
            }
            Some((member, true)) => {
                let others = self.voters().into_iter().filter(|v| *v != id).count();
                if others == 0 {
                    return Err(format!("{} is the only voter", member.name));
                }
                let change = ChangeMembers::RemoveVoters(ids);
                within(limit, "the removal", self.change(change, false)).await
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

    /// The other voter that has the most of the log and has been heard lately.
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
            self.peers
                .contact(*id)
                .heard
                .is_some_and(|t| t.elapsed() < lately)
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
