//! Confirms for a round of reads that this node still leads, by the votes that peers have saved.
//!
//! First, in one message to Raft's core: the committed vote V that makes this node leader, the
//! index committed under V, the effective membership. Then a majority of each of its configurations
//! says that the vote it has saved is still V; this node's own part the core has said.
//!
//! Why a write acknowledged before the read began is within that index: a leader up to V
//! acknowledged it, and V's own, having committed an entry of its own, counts it as committed (the
//! core does so before it applies, tells or acknowledges anything). Or a higher one did. Take the
//! lowest above V that was elected before the read began: its log holds all that V ever commits, so
//! its configuration is ours or the one before, and majorities of the two meet. But a grant is on
//! disk before it is answered, a candidate's own too, and saved votes only rise: somebody in our
//! majority would have had a higher vote.
//!
//! Whatever is not as described is left to Raft's own ReadIndex.
use super::client::Client;
use super::shared::Shared;
use super::types::*;
use futures::future::BoxFuture;
use futures::stream::{FuturesUnordered, StreamExt};
use openraft::{RaftState, ServerState};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// So long only as many peers are asked as are needed; an answer takes a fraction of it.
const CONFIRM_HEDGE: Duration = Duration::from_millis(5);
/// Of one question. Heartbeats have gone unanswered meanwhile: Raft is to judge.
const CONFIRM_LIMIT: Duration = Duration::from_millis(200);

/// This node as the leader, at one moment of Raft's core.
struct Standing {
    vote: Vote,
    index: u64,
    membership: Arc<StoredMembership>,
}

fn standing(state: &RaftState<Types>, me: u64) -> Option<Standing> {
    let vote = *state.vote_ref();
    let committed = state.local_committed()?;
    let leads = state.server_state == ServerState::Leader
        && vote.committed
        && vote.leader_id.node_id == me
        && committed.leader_id == vote.leader_id;
    leads.then(|| Standing {
        vote,
        index: committed.index,
        membership: state.membership_state.effective().clone(),
    })
}

/// An index committed no earlier than now, on a leader that a majority still holds to.
pub async fn confirmed_index(shared: &Arc<Shared>) -> Option<u64> {
    let me = shared.id;
    let state = shared.raft()?.with_raft_state(move |s| standing(s, me));
    let standing = state.await.ok()??;
    let mut canvass = Canvass::new(shared, &standing);
    let confirmed = canvass.run().await;
    canvass.part();
    confirmed.then_some(standing.index)
}

/// The voters of a membership: one set, or two while it changes.
type Configs = [BTreeSet<u64>];

/// `ids` are more than half of each configuration.
fn enough(configs: &Configs, ids: &BTreeSet<u64>) -> bool {
    configs.iter().all(|config| most(config, ids))
}

fn most(config: &BTreeSet<u64>, ids: &BTreeSet<u64>) -> bool {
    config.intersection(ids).count() > config.len() / 2
}

/// Adds those of `order` to `ids` that are needed to make them enough; false = there are too few.
fn add_needed(configs: &Configs, ids: &mut BTreeSet<u64>, order: &[u64]) -> bool {
    for id in order {
        let needed = |config: &BTreeSet<u64>| config.contains(id) && !most(config, ids);
        if configs.iter().any(needed) {
            ids.insert(*id);
        }
    }
    enough(configs, ids)
}

/// One question to as many voters as it takes.
struct Canvass<'a> {
    shared: &'a Arc<Shared>,
    vote: Vote,
    membership: &'a Membership,
    /// Not asked yet; the one to ask first stands first.
    left: Vec<u64>,
    /// Asked, without those that have failed or hold another vote. This node is one of them.
    hopes: BTreeSet<u64>,
    /// Those that hold the vote.
    sure: BTreeSet<u64>,
    answers: FuturesUnordered<BoxFuture<'static, (u64, bool)>>,
}

impl<'a> Canvass<'a> {
    fn new(shared: &'a Arc<Shared>, standing: &'a Standing) -> Canvass<'a> {
        let membership = standing.membership.membership();
        let others = membership.voter_ids().filter(|id| *id != shared.id);
        let mut left: Vec<u64> = others.collect();
        left.sort_by_cached_key(|id| shared.peers.pace(*id));
        Canvass {
            shared,
            vote: standing.vote,
            membership,
            left,
            hopes: BTreeSet::from([shared.id]),
            sure: BTreeSet::from([shared.id]),
            answers: FuturesUnordered::new(),
        }
    }

    /// Ends within CONFIRM_HEDGE and CONFIRM_LIMIT: after the first everybody has been asked.
    async fn run(&mut self) -> bool {
        let configs = self.membership.get_joint_config();
        let mut hedge = std::pin::pin!(tokio::time::sleep(CONFIRM_HEDGE));
        let mut hedged = false;
        while !enough(configs, &self.sure) {
            let mut wanted = self.hopes.clone();
            if !add_needed(configs, &mut wanted, &self.left) {
                return false;
            }
            self.ask(|id| wanted.contains(id));
            tokio::select! {
                Some((id, same)) = self.answers.next() => {
                    let set = if same { &mut self.sure } else { &mut self.hopes };
                    if same { set.insert(id) } else { set.remove(&id) };
                }
                () = &mut hedge, if !hedged => {
                    hedged = true;
                    for late in self.hopes.difference(&self.sure) {
                        self.shared.peers.set_pace(*late, CONFIRM_HEDGE);
                    }
                    self.ask(|_| true);
                }
            }
        }
        true
    }

    fn ask(&mut self, which: impl Fn(&u64) -> bool) {
        for id in self.left.extract_if(.., |id| which(id)) {
            let Some(member) = self.membership.get_node(&id) else {
                continue; // a voter is a member: openraft takes no other membership
            };
            let client = Client::new(self.shared.clone(), id, member.clone(), false);
            self.hopes.insert(id);
            self.answers.push(Box::pin(answer(client, id, self.vote)));
        }
    }

    /// Late answers are still taken in: to drop a question is to drop its connection.
    fn part(self) {
        if !self.answers.is_empty() {
            tokio::spawn(self.answers.for_each(|_| std::future::ready(())));
        }
    }
}

/// Whether a peer holds the vote; notes how quick it is.
async fn answer(client: Client, id: u64, vote: Vote) -> (u64, bool) {
    let since = Instant::now();
    let same = matches!(client.confirm(&vote, CONFIRM_LIMIT).await, Ok(true));
    let pace = if same { since.elapsed() } else { Duration::MAX };
    client.shared().peers.set_pace(id, pace);
    (id, same)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(ids: &[u64]) -> BTreeSet<u64> {
        ids.iter().copied().collect()
    }

    #[test]
    fn more_than_half_of_every_configuration_are_enough() {
        for (configs, ids, is) in [
            (vec![set(&[1])], set(&[1]), true),
            (vec![set(&[1, 2])], set(&[1]), false),
            (vec![set(&[1, 2, 3])], set(&[1]), false),
            (vec![set(&[1, 2, 3])], set(&[1, 3]), true),
            (vec![set(&[1, 2, 3, 4])], set(&[1, 2]), false),
            (vec![set(&[1, 2, 3])], set(&[1, 9]), false),
            (vec![set(&[1, 2, 3]), set(&[1, 4, 5])], set(&[1, 2]), false),
            (
                vec![set(&[1, 2, 3]), set(&[1, 4, 5])],
                set(&[1, 2, 5]),
                true,
            ),
            // The leader itself has been removed: it counts for nothing.
            (vec![set(&[2, 3])], set(&[1, 2]), false),
        ] {
            assert_eq!(enough(&configs, &ids), is, "{ids:?} of {configs:?}");
        }
    }

    #[test]
    fn no_more_are_asked_than_are_needed() {
        for (configs, order, asked) in [
            (vec![set(&[1, 2, 3])], vec![3, 2], Some(set(&[1, 3]))),
            (
                vec![set(&[1, 2, 3, 4, 5])],
                vec![5, 4, 3, 2],
                Some(set(&[1, 5, 4])),
            ),
            (
                vec![set(&[1, 2, 3]), set(&[1, 4])],
                vec![2, 3, 4],
                Some(set(&[1, 2, 4])),
            ),
            (vec![set(&[1, 2, 3])], vec![], None),
        ] {
            let mut ids = set(&[1]);
            let found = add_needed(&configs, &mut ids, &order);
            assert_eq!(found.then_some(ids), asked, "{order:?} for {configs:?}");
        }
    }
}
