//! Proposals on their way into the log: batched by themselves on the leader, forwarded elsewhere.
//!
//! One batch is in flight, and what comes meanwhile is the next: the larger a batch, the less each
//! write costs. Only beside a few entries another batch may begin at once, and beside one that is
//! slow. A proposal that has surely not been written is tried again until its time is up; every
//! other failure is told as unknown. A leader whose store is far behind its log refuses: the log
//! must not grow without end for what nobody applies.
use super::forward::Forwarder;
use super::shared::{Leader, Shared};
use super::types::*;
use crate::call::Reply;
use bytes::{BufMut, Bytes, BytesMut};
use futures::StreamExt;
use openraft::errors::ClientWriteError;
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};
use tokio::sync::{Notify, mpsc};

const BATCH_ENTRIES_MAX: usize = 1_024;
const BATCH_BYTES_MAX: usize = 4 << 20;
/// Beside fewer entries in flight another batch begins: two writers must not wait for each other.
const FEW_ENTRIES: usize = 4;
/// A batch does not keep others back for longer: the network is slow, or there is no quorum.
const SLOW: Duration = Duration::from_millis(20);
/// Before a proposal that met no leader is tried again.
const RETRY_PAUSE: Duration = Duration::from_millis(20);
/// Field 2 of an entry, fixed64: the leader's time.
const STAMP_TAG: u8 = 0x11;
const STAMP_BYTES: usize = 9;

/// What became of a proposal.
#[derive(Debug)]
pub enum Outcome {
    /// Applied; what the leader's state machine says.
    Done(Reply),
    /// Surely not written.
    NotLeader,
    /// Written or not.
    Unknown(String),
    /// Surely not written, and the time is up.
    Late,
}

/// One entry on its way. Dropped without an answer, its caller is told that the outcome is unknown.
pub struct Proposal {
    data: Bytes,
    pub deadline: Instant,
    /// Until when it waits for a leader.
    patience: Instant,
    /// It came from another node, which tries again by itself.
    remote: bool,
    done: Option<Box<dyn FnOnce(Outcome) + Send>>,
}

/// How much of a caller's time may pass before it is told why nothing has happened yet: our answer
/// says more than its own deadline would.
pub fn answer_within(limit: Duration) -> Duration {
    limit * 9 / 10
}

impl Proposal {
    /// `parts` together are the entry without the leader's time.
    pub fn new(
        parts: &[&[u8]],
        deadline: Instant,
        patience: Duration,
        remote: bool,
        done: Box<dyn FnOnce(Outcome) + Send>,
    ) -> Proposal {
        let length = parts.iter().map(|p| p.len()).sum::<usize>();
        let mut data = BytesMut::with_capacity(length + STAMP_BYTES);
        for part in parts {
            data.put_slice(part);
        }
        let now = Instant::now();
        let deadline = now + answer_within(deadline.saturating_duration_since(now));
        let patience = deadline.min(now + patience);
        Proposal {
            data: data.freeze(),
            deadline,
            patience,
            remote,
            done: Some(done),
        }
    }

    pub fn data(&self) -> &[u8] {
        &self.data
    }

    pub fn settle(mut self, outcome: Outcome) {
        if let Some(done) = self.done.take() {
            done(outcome);
        }
    }

    /// Takes the bytes and puts the leader's time behind them; without a copy when they are alone.
    fn stamped(&mut self, now_ns: u64) -> Bytes {
        let plain = std::mem::take(&mut self.data);
        let length = plain.len();
        let mut data = plain.try_into_mut().unwrap_or_else(|shared| {
            let mut own = BytesMut::with_capacity(shared.len() + STAMP_BYTES);
            own.put_slice(&shared);
            own
        });
        data.put_u8(STAMP_TAG);
        data.put_u64_le(now_ns);
        let stamped = data.freeze();
        self.data = stamped.slice(..length); // for another attempt
        stamped
    }
}

impl Drop for Proposal {
    fn drop(&mut self) {
        if let Some(done) = self.done.take() {
            done(Outcome::Unknown("the node stopped".into()));
        }
    }
}

impl Shared {
    /// What the caller of a proposal made here is told.
    pub fn reply_of(&self, outcome: Outcome) -> Reply {
        match outcome {
            Outcome::Done(reply) => reply,
            Outcome::Unknown(why) => Err(self.failure("outcome_unknown").with(why)),
            Outcome::Late | Outcome::NotLeader => {
                Err(self.failure("no_leader").with(self.no_leader()))
            }
        }
    }

    /// Why the log may not grow now: too much of it is not applied here.
    fn behind(&self) -> Option<String> {
        let (entries_max, bytes_max) = (
            self.options.apply_lag_entries_max,
            self.options.apply_lag_bytes_max,
        );
        let applied = self.progress.applied();
        let entries = self.log.last_index().saturating_sub(applied);
        // Bytes are known at marks: behind the last applied entry there may be less.
        let bytes = match entries {
            0 => 0,
            _ => self.log.bytes_after(applied),
        };
        (entries > entries_max || bytes > bytes_max).then(|| {
            format!(
                "{entries} log entries of {} MiB are not applied yet, more than {entries_max} \
                 (APPLY_LAG_ENTRIES_MAX) or {} MiB (APPLY_LAG_BYTES_MAX): the leader or the \
                 majority is slow, try again in a moment",
                bytes >> 20,
                bytes_max >> 20
            )
        })
    }

    /// Puts a proposal that has surely not been written back into the queue, a little later.
    pub fn retry(self: &Arc<Self>, proposals: Vec<Proposal>) {
        let shared = self.clone();
        tokio::spawn(async move {
            let mut waiting = proposals;
            loop {
                let now = Instant::now();
                let (late, rest): (Vec<_>, Vec<_>) = waiting
                    .into_iter()
                    .partition(|p| p.remote || p.patience <= now);
                for proposal in late {
                    let outcome = if proposal.remote {
                        Outcome::NotLeader
                    } else {
                        Outcome::Late
                    };
                    proposal.settle(outcome);
                }
                waiting = rest;
                if waiting.is_empty() || shared.stopping() {
                    return;
                }
                tokio::time::sleep(RETRY_PAUSE).await;
                if shared.leader() != Leader::Nobody {
                    break;
                }
            }
            for proposal in waiting {
                let _ = shared.proposals.send(proposal);
            }
        });
    }
}

/// Nanoseconds since 1970 by this node's clock; the state machine makes them monotonic.
fn now_ns() -> u64 {
    SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |d| d.as_nanos() as u64)
}

/// The task that takes proposals from the queue.
pub struct Proposer {
    pub shared: Arc<Shared>,
    pub queue: mpsc::UnboundedReceiver<Proposal>,
    pub forwarder: Arc<Forwarder>,
}

impl Proposer {
    pub async fn run(mut self) {
        let window = Arc::new(Window::default());
        let mut carry = VecDeque::new();
        loop {
            if self.shared.leader() == Leader::Me {
                window.opens().await;
            }
            if !self.fill(&mut carry).await {
                return;
            }
            match self.shared.leader() {
                Leader::Me => {
                    let batch = take_batch(&mut carry);
                    if let Some(why) = self.shared.behind() {
                        let refusal = self.shared.failure("overloaded").with(why);
                        for proposal in batch {
                            proposal.settle(Outcome::Done(Err(refusal.clone())));
                        }
                        continue;
                    }
                    let place = window.enter(batch.len());
                    self.write(batch, place).await;
                }
                Leader::Other(id, member) => {
                    let (remote, local): (Vec<_>, Vec<_>) =
                        carry.drain(..).partition(|p: &Proposal| p.remote);
                    self.shared.retry(remote);
                    self.forwarder
                        .link(id, &member)
                        .propose(local, &self.shared);
                }
                Leader::Nobody => self.shared.retry(carry.drain(..).collect()),
            }
        }
    }

    /// Waits until there is something, then takes what is there. False: the node has closed.
    async fn fill(&mut self, carry: &mut VecDeque<Proposal>) -> bool {
        let mut got = Vec::new();
        if carry.is_empty() {
            if self.queue.recv_many(&mut got, BATCH_ENTRIES_MAX).await == 0 {
                return false;
            }
        } else {
            while carry.len() + got.len() < BATCH_ENTRIES_MAX {
                match self.queue.try_recv() {
                    Ok(proposal) => got.push(proposal),
                    Err(_) => break,
                }
            }
        }
        carry.extend(got);
        true
    }

    /// Hands a batch to Raft; its answers are awaited beside the loop.
    async fn write(&self, batch: Vec<Proposal>, place: Place) {
        let Some(raft) = self.shared.raft() else {
            return self.shared.retry(batch);
        };
        let now = now_ns();
        let (mut pending, mut commands) = (Vec::new(), Vec::new());
        for mut proposal in batch {
            if proposal.deadline <= Instant::now() {
                proposal.settle(Outcome::Late);
                continue;
            }
            commands.push(Command(proposal.stamped(now)));
            pending.push(Some(proposal));
        }
        match raft.client_write_many(commands).await {
            Ok(answers) => {
                let shared = self.shared.clone();
                tokio::spawn(collect(shared, pending, Box::pin(answers), place));
            }
            Err(fatal) => {
                for proposal in pending.into_iter().flatten() {
                    proposal.settle(Outcome::Unknown(fatal.to_string()));
                }
            }
        }
    }
}

/// How many entries are in flight.
#[derive(Default)]
struct Window {
    entries: Mutex<usize>,
    changed: Notify,
}

/// A batch's part of it, given back when dropped.
struct Place {
    window: Arc<Window>,
    entries: usize,
}

impl Window {
    /// Waits until another batch may begin.
    async fn opens(&self) {
        while *self.entries.lock() >= FEW_ENTRIES {
            self.changed.notified().await;
        }
    }

    fn enter(self: &Arc<Self>, entries: usize) -> Place {
        *self.entries.lock() += entries;
        Place {
            window: self.clone(),
            entries,
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        *self.window.entries.lock() -= self.entries;
        self.window.changed.notify_one();
    }
}

/// The front of the queue, bounded by entries and bytes.
fn take_batch(carry: &mut VecDeque<Proposal>) -> Vec<Proposal> {
    let mut batch = Vec::new();
    let mut bytes = 0;
    while let Some(next) = carry.front() {
        let full = batch.len() >= BATCH_ENTRIES_MAX || bytes + next.data.len() > BATCH_BYTES_MAX;
        if full && !batch.is_empty() {
            break;
        }
        bytes += next.data.len();
        batch.extend(carry.pop_front());
    }
    batch
}

type Answer = Result<openraft::raft::WriteResult<Types>, openraft::errors::Fatal<Types>>;

fn outcome(answer: Option<Answer>) -> Outcome {
    match answer {
        Some(Ok(Ok(written))) => {
            Outcome::Done(written.response.0.unwrap_or_else(|| Ok(Bytes::new())))
        }
        Some(Ok(Err(ClientWriteError::ForwardToLeader(_)))) => Outcome::NotLeader,
        Some(Ok(Err(other))) => Outcome::Unknown(other.to_string()),
        Some(Err(fatal)) => Outcome::Unknown(fatal.to_string()),
        None => Outcome::Unknown("Raft has stopped".into()),
    }
}

/// Takes the answers of one batch in order; lets late callers go and the place be used in time.
async fn collect(
    shared: Arc<Shared>,
    mut pending: Vec<Option<Proposal>>,
    mut answers: impl futures::Stream<Item = Answer> + Unpin,
    place: Place,
) {
    let mut place = Some(place);
    let mut free_at = Some(Instant::now() + SLOW);
    let mut again = Vec::new();
    let mut next = 0;
    while next < pending.len() {
        let late = pending[next..].iter().flatten().map(|p| p.deadline).min();
        let Some(wake) = late.into_iter().chain(free_at).min() else {
            return;
        };
        tokio::select! {
            biased;
            answer = answers.next() => {
                let mut answer = Some(answer);
                // Answers of a batch come together: no look at the clock between them.
                while let Some(got) = answer.take() {
                    let ended = got.is_none();
                    match (pending[next].take(), outcome(got)) {
                        (Some(p), Outcome::NotLeader) => again.push(p),
                        (Some(p), outcome) => p.settle(outcome),
                        (None, _) => {}
                    }
                    next += 1;
                    if next < pending.len() && !ended {
                        answer = futures::FutureExt::now_or_never(answers.next());
                    }
                    if ended {
                        next = pending.len(); // the rest is settled as unknown when dropped
                    }
                }
            }
            _ = tokio::time::sleep_until(wake.into()) => {
                let now = Instant::now();
                if free_at.is_some_and(|t| t <= now) {
                    (place, free_at) = (None, None);
                }
                for slot in &mut pending[next..] {
                    if slot.as_ref().is_some_and(|p| p.deadline <= now)
                        && let Some(p) = slot.take()
                    {
                        let why = shared.no_leader();
                        p.settle(Outcome::Unknown(format!("no quorum in time: {why}")));
                    }
                }
            }
        }
    }
    drop(place);
    if !again.is_empty() {
        shared.retry(again);
    }
}
