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

/// Nodes that start together try to be elected at different times of a heartbeat interval.
const SLOTS: u64 = 16;
/// Into so many parts a heartbeat interval is divided: in one of them the others, too, find out
/// that the leader is gone.
const NOTICE: u32 = 5;
const DIALS: usize = 5;
const DIAL_LIMIT: Duration = Duration::from_millis(200);

/// When all nodes have been started again, nobody leads, and an election timeout is a wait for
/// nothing.
pub async fn after_start(shared: &Shared, raft: &Raft) {
    let beat = Duration::from_millis(shared.options.heartbeat_ms);
    let slot = (shared.id % SLOTS) as u32;
    sleep(beat + beat * slot / SLOTS as u32).await;
    stand(shared, raft, 2 * beat, || shared.leader() == Leader::Nobody).await;
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
