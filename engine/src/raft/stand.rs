//! When a node stands for election without waiting for a timeout.
//!
//! Always by pre-votes, which change nothing: while a leader is heard by others, they refuse.
use super::shared::{Leader, Shared};
use super::types::{Raft, TransferRequest, Vote};
use openraft::async_runtime::watch::WatchReceiver;
use std::io;
use std::time::{Duration, Instant};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

/// Nodes that start together try to be elected at different times of a heartbeat interval, each
/// time at others: so many, which some bits of their ids choose.
const SLOTS: u32 = 16;
const SLOT_BITS: u32 = SLOTS.ilog2();
/// Into so many parts a heartbeat interval is divided: in one of them the others, too, find out
/// that the leader is gone.
const NOTICE: u32 = 5;
const DIALS: usize = 5;
const DIAL_LIMIT: Duration = Duration::from_millis(200);

/// When all nodes have been started again, nobody leads, and an election timeout is a wait for
/// nothing. Where somebody leads, he is heard soon, and until then the others refuse.
pub async fn after_start(shared: &Shared, raft: &Raft) {
    let beat = Duration::from_millis(shared.options.heartbeat_ms);
    let limit = shared.options.election_ms_max + shared.options.election_ms_min; // then Raft does
    let until = Instant::now() + Duration::from_millis(limit);
    for attempt in 0.. {
        sleep(beat * slot(shared.id, attempt) / SLOTS).await;
        if Instant::now() > until || shared.stopping() || shared.leader() != Leader::Nobody {
            return;
        }
        let _ = raft.trigger().elect(true).await; // Raft has stopped: nothing to do here
        sleep(2 * beat).await;
    }
}

fn slot(id: u64, attempt: u32) -> u32 {
    (id.rotate_right(attempt * SLOT_BITS) % u64::from(SLOTS)) as u32
}

/// A leader has ended a session. When its process is gone, nobody has to wait until its lease ends:
/// that is for leaders that cannot be heard and may still be there.
pub async fn after_session(shared: &Shared, raft: &Raft, from: u64) {
    let Leader::Other(leader, member) = shared.leader() else {
        return;
    };
    let others: Vec<u64> = shared.voters().into_iter().filter(|v| *v != from).collect();
    if leader != from || !others.contains(&shared.id) || !is_gone(shared, &member.raft).await {
        return;
    }
    let vote = vote(raft);
    if !vote.is_committed() || vote.leader_id().node_id != leader {
        return; // somebody else has been faster
    }
    // As when it hands leadership to another: ends the lease of this very vote, and no more.
    let ended = TransferRequest::new(vote, leader, None);
    if raft.handle_transfer_leader(ended).await.is_err() {
        return; // Raft has stopped
    }
    // One after the other, in the order of their ids, until one is elected.
    let beat = Duration::from_millis(shared.options.heartbeat_ms);
    let before_me = others.iter().filter(|id| **id < shared.id).count();
    sleep(beat / NOTICE + beat * before_me as u32).await;
    stand(shared, raft, beat * others.len() as u32, || {
        let now = self::vote(raft);
        now == vote || !now.is_committed()
    })
    .await;
}

fn vote(raft: &Raft) -> Vote {
    raft.metrics().borrow_watched().vote
}

/// Nobody listens at its address: its machine is there, its process is not. A process that ends
/// does not close everything at once.
async fn is_gone(shared: &Shared, address: &str) -> bool {
    let beat = Duration::from_millis(shared.options.heartbeat_ms);
    for _ in 0..DIALS {
        match timeout(DIAL_LIMIT, TcpStream::connect(address)).await {
            Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused => return true,
            _ => sleep(beat / NOTICE).await,
        }
    }
    false
}

/// Tries to be elected, every `pause` for as long as an election may take, while it is `wanted`.
async fn stand(shared: &Shared, raft: &Raft, pause: Duration, wanted: impl Fn() -> bool) {
    let until = Instant::now() + Duration::from_millis(shared.options.election_ms_min);
    while Instant::now() < until && !shared.stopping() && wanted() {
        let _ = raft.trigger().elect(true).await; // Raft has stopped: nothing to do here
        sleep(pause).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_that_had_the_same_slot_have_another_some_attempts_later() {
        let (one, two) = (0x0123_4567_89ab_cdef, 0x0123_4567_89ab_c0ef);
        let differ = |attempt| slot(one, attempt) != slot(two, attempt);
        let found: Vec<u32> = (0..17).filter(|attempt| differ(*attempt)).collect();
        assert_eq!(found, [2]);
        assert!((0..40).all(|attempt| slot(u64::MAX, attempt) == SLOTS - 1));
    }
}
