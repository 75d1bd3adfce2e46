//! Read barriers: one round at a time, shared by all reads that wait when it begins.
use super::confirm::confirmed_index;
use super::forward::Forwarder;
use super::propose::answer_within;
use super::queue::Guest;
use super::shared::{Leader, Shared};
use crate::protobuf::{Value, field};
use bytes::Bytes;
use openraft::ReadPolicy;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;

const ROUND_READS_MAX: usize = 4_096;
const ROUND_LIMIT: Duration = Duration::from_secs(2);
/// How often reads that wait for a slow round are looked at.
const EXPIRE_PERIOD: Duration = Duration::from_millis(50);
const RETRY_PAUSE: Duration = Duration::from_millis(20);

/// How fresh a read wants to be: fields 3 and 4 of every read request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Level {
    /// What is applied here is good enough.
    pub local: bool,
    /// But at least this revision.
    pub min_revision: u64,
}

/// Reads the level out of an encoded request, and how long the request is without it: clients
/// encode these fields last. A malformed one is linearizable and whole: Python refuses it.
pub fn level(body: &[u8]) -> (Level, usize) {
    let strict = Level {
        local: false,
        min_revision: 0,
    };
    let (mut level, mut length) = (strict, 0);
    let mut rest = body;
    while !rest.is_empty() {
        match field(&mut rest) {
            Some((3, Value::Varint(value))) => level.local = value == 1,
            Some((4, Value::Varint(value))) => level.min_revision = value,
            Some(_) => length = body.len() - rest.len(),
            None => return (strict, body.len()),
        }
    }
    (level, length)
}

/// Who waits for a barrier.
pub enum Reader {
    Call(Guest),
    Ticket(u64),
}

/// A read on its way through a barrier.
pub struct Read {
    pub reader: Reader,
    pub deadline: Instant,
    pub since: Instant,
    pub min_revision: u64,
}

impl Shared {
    /// The barrier of these is passed: answers that are known are given, the rest is for Python.
    pub fn pass(&self, readers: impl IntoIterator<Item = Reader>) {
        let mut guests = Vec::new();
        for reader in readers {
            match reader {
                Reader::Call(guest) => guests.push(guest),
                Reader::Ticket(ticket) => self.queue.done(ticket, Ok(Bytes::new())),
            }
        }
        let (known, others) = self
            .queue
            .answers
            .split(guests, |g| (g.call.method, &g.call.body[..]));
        for (guest, answer) in known {
            (guest.call.answer)(Ok(answer));
        }
        if !others.is_empty() {
            self.queue.calls(others);
        }
    }

    fn fail(&self, reader: Reader, kind: &str, particulars: &str) {
        let failure = self.failure(kind).with(particulars);
        match reader {
            Reader::Call(guest) => (guest.call.answer)(Err(failure)),
            Reader::Ticket(ticket) => self.queue.done(ticket, Err(failure)),
        }
    }

    /// Lets reads go on when `index` has been applied here.
    pub fn when_applied(self: &Arc<Self>, index: u64, deadline: Instant, readers: Vec<Reader>) {
        let shared = self.clone();
        let then = move |applied| {
            if applied {
                return shared.pass(readers);
            }
            let kind = if shared.stopping() {
                "shutting_down"
            } else {
                "deadline"
            };
            let text = format!(
                "revision {index} is not applied here yet ({} is)",
                shared.progress.applied()
            );
            for reader in readers {
                shared.fail(reader, kind, &text);
            }
        };
        self.progress.wait(index, deadline, Box::new(then));
    }
}

/// A round of this node as leader: an index committed no earlier than now, or `None`.
pub async fn own_round(shared: &Arc<Shared>) -> Option<u64> {
    let round = async {
        shared.counters.rounds.fetch_add(1, Ordering::Relaxed);
        if let Some(index) = confirmed_index(shared).await {
            return Some(index);
        }
        shared
            .counters
            .rounds_by_raft
            .fetch_add(1, Ordering::Relaxed);
        let linearizer = shared.raft()?.get_read_linearizer(ReadPolicy::ReadIndex);
        Some(linearizer.await.ok()?.read_log_id().index())
    };
    tokio::time::timeout(ROUND_LIMIT, round).await.ok()?
}

/// The task that makes rounds.
pub struct Rounds {
    pub shared: Arc<Shared>,
    pub queue: mpsc::UnboundedReceiver<Read>,
    pub forwarder: Arc<Forwarder>,
}

impl Rounds {
    pub async fn run(mut self) {
        let mut waiting = Vec::new();
        loop {
            if waiting.is_empty() && self.queue.recv_many(&mut waiting, ROUND_READS_MAX).await == 0
            {
                return;
            }
            // Connections that have something to read come first: their reads share the round.
            tokio::task::yield_now().await;
            while waiting.len() < ROUND_READS_MAX
                && let Ok(read) = self.queue.try_recv()
            {
                waiting.push(read);
            }
            self.expire(&mut waiting);
            if waiting.is_empty() {
                continue;
            }
            match self.round_for(&mut waiting).await {
                Some(index) => self.passed(index, std::mem::take(&mut waiting)),
                None => tokio::time::sleep(RETRY_PAUSE).await,
            }
        }
    }

    /// Makes a round; reads that get too late meanwhile hear why.
    async fn round_for(&self, waiting: &mut Vec<Read>) -> Option<u64> {
        let mut round = std::pin::pin!(self.round());
        loop {
            tokio::select! {
                index = &mut round => return index,
                _ = tokio::time::sleep(EXPIRE_PERIOD) => self.expire(waiting),
            }
        }
    }

    async fn round(&self) -> Option<u64> {
        match self.shared.leader() {
            Leader::Me => own_round(&self.shared).await,
            Leader::Other(id, member) => {
                self.forwarder.link(id, &member).barrier(ROUND_LIMIT).await
            }
            Leader::Nobody => None,
        }
    }

    fn passed(&self, index: u64, reads: Vec<Read>) {
        let mut together = Vec::new();
        let mut deadline = Instant::now();
        for read in reads {
            if read.min_revision > index {
                let (min, until) = (read.min_revision, read.deadline);
                self.shared.when_applied(min, until, vec![read.reader]);
            } else {
                deadline = deadline.max(read.deadline);
                together.push(read.reader);
            }
        }
        self.shared.when_applied(index, deadline, together);
    }

    fn expire(&self, waiting: &mut Vec<Read>) {
        let now = Instant::now();
        let most = Duration::from_millis(self.shared.options.no_leader_ms_max);
        let late = |r: &mut Read| {
            let limit = r.deadline.saturating_duration_since(r.since);
            r.since + most.min(answer_within(limit)) <= now
        };
        let late: Vec<Read> = waiting.extract_if(.., late).collect();
        if late.is_empty() {
            return;
        }
        let why = self.shared.no_leader();
        for read in late {
            self.shared.fail(read.reader, "no_leader", &why);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_level_is_read_from_fields_3_and_4() {
        let strict = Level {
            local: false,
            min_revision: 0,
        };
        let local = Level {
            local: true,
            ..strict
        };
        assert_eq!(level(b""), (strict, 0));
        assert_eq!(level(b"\x0a\x03foo"), (strict, 5));
        assert_eq!(level(b"\x0a\x03foo\x18\x01"), (local, 5));
        assert_eq!(
            level(b"\x18\x01\x20\xac\x02"),
            (
                Level {
                    local: true,
                    min_revision: 300
                },
                0
            )
        );
        // What stands behind them stays, and they with it.
        assert_eq!(level(b"\x18\x01\x0a\x03foo\x20\x00"), (local, 7));
        // The same bytes inside a string are no fields.
        assert_eq!(level(b"\x0a\x02\x18\x01"), (strict, 4));
        // Fields of another type are others: Python knows what to do with them.
        assert_eq!(level(b"\x1a\x01x\x22\x00"), (strict, 5));
    }

    #[test]
    fn malformed_requests_are_strict_and_whole() {
        for body in [
            &b"\x18"[..],
            b"\x18\x01\x0a\x7f",
            b"\x18\x01\x0b",
            b"\x18\x01\x0a\xff\xff",
        ] {
            let strict = Level {
                local: false,
                min_revision: 0,
            };
            assert_eq!(level(body), (strict, body.len()), "{body:?}");
        }
    }
}
