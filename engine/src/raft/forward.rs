//! From a follower to the leader: proposals and read barriers, many at once on one connection.
//!
//! request: id u64, kind u8 (1 propose: time left ms u32, entry; 2 read barrier)
//! answer: id u64, kind u8 (0 result, 1 failure, 2 not the leader, 3 unknown, 4 index u64)
use super::client::pump;
use super::codec::*;
use super::hello::{self, FRAME_BYTES_MAX, Frames, Purpose, frame, read_frame};
use super::propose::{Outcome, Proposal};
use super::shared::Shared;
use super::types::*;
use crate::call::{Failure, Reply};
use bytes::{BufMut, Bytes, BytesMut};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::io::AsyncWriteExt;
use tokio::net::tcp::OwnedWriteHalf;
use tokio::sync::{mpsc, oneshot};

const PROPOSE: u8 = 1;
const BARRIER: u8 = 2;
const DIAL_LIMIT: Duration = Duration::from_millis(500);
const DIAL_PAUSE: Duration = Duration::from_millis(100);
const BURST_MAX: usize = 256;
const TICK: Duration = Duration::from_millis(100);

/// What is asked of the leader.
enum Request {
    Propose(Proposal),
    Barrier(oneshot::Sender<Option<u64>>),
}

impl Request {
    /// It has surely had no effect.
    fn unsent(self, shared: &Arc<Shared>) {
        match self {
            Request::Propose(proposal) => shared.retry(vec![proposal]),
            Request::Barrier(tx) => drop(tx.send(None)),
        }
    }

    fn lost(self, why: &str) {
        match self {
            Request::Propose(proposal) => proposal.settle(Outcome::Unknown(why.into())),
            Request::Barrier(tx) => drop(tx.send(None)),
        }
    }
}

/// The way to one leader.
pub struct Link {
    leader: u64,
    addr: String,
    to: mpsc::UnboundedSender<Request>,
}

impl Link {
    pub fn propose(&self, proposals: Vec<Proposal>, shared: &Arc<Shared>) {
        for proposal in proposals {
            if let Err(unsent) = self.to.send(Request::Propose(proposal)) {
                unsent.0.unsent(shared); // the link has just ended
            }
        }
    }

    /// An index that the leader knew to be committed after this call; `None` = ask again.
    pub async fn barrier(&self, limit: Duration) -> Option<u64> {
        let (tx, rx) = oneshot::channel();
        self.to.send(Request::Barrier(tx)).ok()?;
        tokio::time::timeout(limit, rx).await.ok()?.ok()?
    }
}

/// Keeps the link to the present leader.
pub struct Forwarder {
    shared: Arc<Shared>,
    current: Mutex<Option<Arc<Link>>>,
}

impl Forwarder {
    pub fn new(shared: Arc<Shared>) -> Forwarder {
        Forwarder {
            shared,
            current: Mutex::new(None),
        }
    }

    pub fn link(&self, leader: u64, member: &Member) -> Arc<Link> {
        let mut current = self.current.lock();
        if let Some(link) = &*current
            && link.leader == leader
            && link.addr == member.raft
            && !link.to.is_closed()
        {
            return link.clone();
        }
        // bounded: by the calls that the gate of this node lets in
        let (to, requests) = mpsc::unbounded_channel();
        let link = Arc::new(Link {
            leader,
            addr: member.raft.clone(),
            to,
        });
        tokio::spawn(run(
            self.shared.clone(),
            leader,
            member.raft.clone(),
            requests,
        ));
        *current = Some(link.clone()); // the old one ends when its answers are in
        link
    }
}

/// Requests that have been written and not been answered.
#[derive(Default)]
struct Pending {
    requests: HashMap<u64, Request>,
    next: u64,
}

impl Pending {
    fn encode(&mut self, out: &mut BytesMut, request: Request) {
        self.next += 1;
        let id = self.next;
        frame(out, |b| {
            b.put_u64(id);
            match &request {
                Request::Barrier(_) => b.put_u8(BARRIER),
                Request::Propose(proposal) => {
                    let left = proposal.deadline.saturating_duration_since(Instant::now());
                    b.put_u8(PROPOSE);
                    b.put_u32(left.as_millis().min(u32::MAX as u128) as u32);
                    b.put_slice(proposal.data());
                }
            }
        });
        self.requests.insert(id, request);
    }

    fn answer(&mut self, mut b: Bytes, shared: &Arc<Shared>) -> io::Result<()> {
        let id = get_u64(&mut b)?;
        let Some(request) = self.requests.remove(&id) else {
            return Ok(());
        };
        match (get_answer(b)?, request) {
            (Answer::Outcome(Outcome::NotLeader), request) => request.unsent(shared),
            (Answer::Outcome(outcome), Request::Propose(p)) => p.settle(outcome),
            (Answer::Index(index), Request::Barrier(tx)) => drop(tx.send(Some(index))),
            (_, request) => request.lost("the leader answered something else"),
        }
        Ok(())
    }

    fn expire(&mut self) {
        let now = Instant::now();
        let late: Vec<u64> = self
            .requests
            .iter()
            .filter(|(_, r)| match r {
                Request::Propose(p) => p.deadline <= now,
                Request::Barrier(tx) => tx.is_closed(),
            })
            .map(|(id, _)| *id)
            .collect();
        for id in late {
            if let Some(request) = self.requests.remove(&id) {
                request.lost("the leader has not answered in time");
            }
        }
    }
}

/// Serves one link until the leader, the network or the last answer ends it.
async fn run(
    shared: Arc<Shared>,
    leader: u64,
    addr: String,
    mut requests: mpsc::UnboundedReceiver<Request>,
) {
    let mut pending = Pending::default();
    let dialled = hello::dial(&shared, &addr, leader, Purpose::Forward, DIAL_LIMIT).await;
    let why = match dialled {
        Err(e) => {
            shared.peers.failed(leader, hello::reason(&e));
            tokio::time::sleep(DIAL_PAUSE).await; // whoever waits is tried again at once
            e
        }
        Ok(frames) => match converse(&shared, frames, &mut requests, &mut pending).await {
            Ok(()) => return,
            Err(e) => e,
        },
    };
    for request in pending.requests.into_values() {
        request.lost(&format!(
            "the connection to the leader broke: {}",
            hello::reason(&why)
        ));
    }
    requests.close();
    while let Ok(request) = requests.try_recv() {
        request.unsent(&shared);
    }
}

async fn converse(
    shared: &Arc<Shared>,
    frames: Frames,
    requests: &mut mpsc::UnboundedReceiver<Request>,
    pending: &mut Pending,
) -> io::Result<()> {
    let (mut from, mut to) = frames.stream.into_split();
    let mut buffer = frames.buffer;
    let mut out = BytesMut::new();
    let mut burst = Vec::new();
    let mut tick = tokio::time::interval(TICK);
    let mut open = true;
    loop {
        tokio::select! {
            n = requests.recv_many(&mut burst, BURST_MAX), if open => {
                open = n > 0;
                for request in burst.drain(..) {
                    pending.encode(&mut out, request);
                }
                to.write_all(&out).await?;
                out.clear();
            }
            answer = read_frame(&mut from, &mut buffer, FRAME_BYTES_MAX) => {
                pending.answer(answer?.ok_or_else(hello::closed)?, shared)?;
            }
            _ = tick.tick() => pending.expire(),
        }
        if !open && pending.requests.is_empty() {
            return Ok(());
        }
    }
}

enum Answer {
    Outcome(Outcome),
    Index(u64),
}

pub fn put_failure(out: &mut BytesMut, failure: &Failure) {
    out.put_u32(failure.code);
    put_bytes(out, failure.message.as_bytes());
    put_bytes(out, &failure.details);
}

pub fn get_failure(b: &mut Bytes) -> io::Result<Failure> {
    Ok(Failure {
        code: get_u32(b)?,
        message: get_string(b)?,
        details: get_bytes(b)?,
    })
}

fn put_answer(out: &mut BytesMut, answer: &Answer) {
    match answer {
        Answer::Outcome(Outcome::Done(Ok(bytes))) => {
            out.put_u8(0);
            out.put_slice(bytes);
        }
        Answer::Outcome(Outcome::Done(Err(failure))) => {
            out.put_u8(1);
            put_failure(out, failure);
        }
        Answer::Outcome(Outcome::NotLeader | Outcome::Late) => out.put_u8(2),
        Answer::Outcome(Outcome::Unknown(why)) => {
            out.put_u8(3);
            out.put_slice(why.as_bytes());
        }
        Answer::Index(index) => {
            out.put_u8(4);
            out.put_u64(*index);
        }
    }
}

fn get_answer(mut b: Bytes) -> io::Result<Answer> {
    Ok(match get_u8(&mut b)? {
        0 => Answer::Outcome(Outcome::Done(Ok(Bytes::copy_from_slice(&b)))),
        1 => {
            let reply: Reply = Err(get_failure(&mut b)?);
            Answer::Outcome(Outcome::Done(reply))
        }
        2 => Answer::Outcome(Outcome::NotLeader),
        3 => Answer::Outcome(Outcome::Unknown(String::from_utf8_lossy(&b).into())),
        4 => Answer::Index(get_u64(&mut b)?),
        other => return Err(bad(format!("no answer has the kind {other}"))),
    })
}

type Answers = mpsc::UnboundedSender<(u64, Answer)>;

/// The leader's side: takes requests until the follower goes.
pub async fn serve(shared: &Arc<Shared>, frames: Frames) -> io::Result<()> {
    let (mut from, to) = frames.stream.into_split();
    let mut buffer = frames.buffer;
    // bounded: by the calls that the gate of the asking node lets in
    let (answers, rx) = mpsc::unbounded_channel();
    let writer = tokio::spawn(write_answers(rx, to));
    let _guard = super::client::Guard(writer.abort_handle());
    while let Some(request) = read_frame(&mut from, &mut buffer, FRAME_BYTES_MAX).await? {
        take_request(shared, request, &answers)?;
    }
    Ok(())
}

async fn write_answers(
    mut answers: mpsc::UnboundedReceiver<(u64, Answer)>,
    to: OwnedWriteHalf,
) -> io::Result<()> {
    let items = futures::stream::poll_fn(move |cx| answers.poll_recv(cx));
    pump(items, to, |out, (id, answer)| {
        out.put_u64(*id);
        put_answer(out, answer);
    })
    .await
}

fn take_request(shared: &Arc<Shared>, mut b: Bytes, answers: &Answers) -> io::Result<()> {
    let id = get_u64(&mut b)?;
    let answers = answers.clone();
    match get_u8(&mut b)? {
        PROPOSE => {
            let left = Duration::from_millis(get_u32(&mut b)?.into());
            let done = move |outcome| drop(answers.send((id, Answer::Outcome(outcome))));
            let deadline = Instant::now() + left;
            let proposal = Proposal::new(&[&b], deadline, left, true, Box::new(done));
            let _ = shared.proposals.send(proposal);
        }
        BARRIER => {
            let shared = shared.clone();
            tokio::spawn(async move {
                let answer = match super::reads::own_round(&shared).await {
                    Some(index) => Answer::Index(index),
                    None => Answer::Outcome(Outcome::NotLeader),
                };
                let _ = answers.send((id, answer));
            });
        }
        other => return Err(bad(format!("no request has the kind {other}"))),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_come_back_as_they_were_sent() {
        let failure = Failure {
            code: 9,
            message: "no".into(),
            details: Bytes::from_static(b"d"),
        };
        for outcome in [
            Outcome::Done(Ok(Bytes::from_static(b"yes"))),
            Outcome::Done(Err(failure)),
            Outcome::NotLeader,
            Outcome::Unknown("why".into()),
        ] {
            let text = format!("{outcome:?}");
            let mut out = BytesMut::new();
            put_answer(&mut out, &Answer::Outcome(outcome));
            let Answer::Outcome(back) = get_answer(out.freeze()).unwrap() else {
                panic!()
            };
            assert_eq!(text, format!("{back:?}"));
        }
        assert!(get_answer(Bytes::from_static(b"\x09")).is_err());
        assert!(get_answer(Bytes::from_static(b"\x04\x00")).is_err());
    }
}
