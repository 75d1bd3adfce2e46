//! openraft's network: requests to one peer.
//!
//! Appends run on a session of their own, pipelined, with a deadline for every owed answer; votes,
//! heartbeats, confirmations for reads and leader transfers are single requests on a control
//! connection, so that neither waits behind entries.
use super::codec::*;
use super::hello::{self, Frames, Purpose, frame, read_frame};
use super::peers::pause;
use super::riding::Riding;
use super::shared::Shared;
use super::snapshot::Snapshot;
use super::types::*;
use bytes::{BufMut, Bytes, BytesMut};
use futures::{FutureExt, Stream, StreamExt};
use openraft::OptionalSend;
use openraft::errors::{NetworkError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::{RPCOption, RaftNetworkFactory, RaftNetworkV2};
use openraft::raft::{SnapshotResponse, TransferLeaderError, TransferLeaderResponse};
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use tokio::io::AsyncWriteExt;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{oneshot, watch};
use tokio::task::AbortHandle;

/// Requests on a control connection.
pub const APPEND: u8 = 1;
pub const VOTE: u8 = 2;
pub const PRE_VOTE: u8 = 3;
pub const TRANSFER: u8 = 4;
pub const CONFIRM: u8 = 5;

const DIAL_LIMIT: Duration = Duration::from_secs(1);
/// Written together at most.
const BURST_BYTES_MAX: usize = 1 << 20;
/// What a peer takes at least: the deadline of an answer grows with the bytes before it.
const BYTES_PER_MS_MIN: u64 = 4 << 10;

/// Makes clients for peers.
pub struct Factory(pub Arc<Shared>);

/// Requests to one peer.
#[derive(Clone)]
pub struct Client {
    shared: Arc<Shared>,
    target: u64,
    member: Member,
    heartbeats: bool,
    failed_dials: u32,
}

impl RaftNetworkFactory<Types> for Factory {
    type Network = Client;

    async fn new_client(&mut self, target: u64, member: &Member) -> Client {
        Client::new(self.0.clone(), target, member.clone(), false)
    }

    async fn new_heartbeat_client(&mut self, target: u64, member: &Member) -> Client {
        Client::new(self.0.clone(), target, member.clone(), true)
    }
}

pub fn unreachable(e: impl ToString) -> RpcError {
    RpcError::Unreachable(Unreachable::from_string(e.to_string()))
}

fn network(e: impl ToString) -> RpcError {
    RpcError::Network(NetworkError::from_string(e.to_string()))
}

/// Aborts its task when dropped.
pub struct Guard(pub AbortHandle);

impl Drop for Guard {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Writes items as frames, as many together as are there.
pub async fn pump<S: Stream + Unpin>(
    items: S,
    mut to: OwnedWriteHalf,
    mut encode: impl FnMut(&mut BytesMut, &S::Item),
) -> io::Result<()> {
    let mut items = items.fuse(); // openraft's streams panic when polled after their end
    let mut out = BytesMut::with_capacity(64 << 10);
    while let Some(item) = items.next().await {
        frame(&mut out, |b| encode(b, &item));
        while out.len() < BURST_BYTES_MAX {
            let Some(Some(item)) = items.next().now_or_never() else {
                break;
            };
            frame(&mut out, |b| encode(b, &item));
        }
        to.write_all(&out).await?;
        out.clear();
    }
    to.shutdown().await
}

/// Requests that have been written and not been answered.
#[derive(Default)]
struct Owed {
    requests: VecDeque<(Instant, u64)>,
    bytes: u64,
    answered: Option<Instant>,
}

impl Owed {
    fn asked(&mut self, bytes: u64) {
        self.requests.push_back((Instant::now(), bytes));
        self.bytes += bytes;
    }

    fn answered(&mut self) {
        if let Some((_, bytes)) = self.requests.pop_front() {
            self.bytes -= bytes;
        }
        self.answered = Some(Instant::now());
    }

    /// The peer has owed an answer for longer than it may.
    fn late(&self, answer_ms_max: u64) -> bool {
        let Some((asked, _)) = self.requests.front() else {
            return false;
        };
        let since = self.answered.map_or(*asked, |a| a.max(*asked));
        let allowed = answer_ms_max + self.bytes / BYTES_PER_MS_MIN;
        since.elapsed() > Duration::from_millis(allowed)
    }
}

/// The answering half of an append session.
struct Session {
    shared: Arc<Shared>,
    target: u64,
    from: OwnedReadHalf,
    buffer: BytesMut,
    owed: Arc<Mutex<Owed>>,
    reset: watch::Receiver<u64>,
    _writer: Guard,
}

impl Session {
    /// The next result; `None` = the peer has ended the session.
    async fn next(&mut self) -> io::Result<Option<AppendResult>> {
        let limit = self.shared.options.answer_ms_max;
        loop {
            let tick = Duration::from_millis((limit / 4).max(1));
            let read = read_frame(&mut self.from, &mut self.buffer, hello::FRAME_BYTES_MAX);
            tokio::select! {
                answer = read => {
                    let Some(mut answer) = answer? else { return Ok(None) };
                    self.owed.lock().answered();
                    self.shared.peers.heard(self.target);
                    return get_append_result(&mut answer).map(Some);
                }
                _ = self.reset.changed() => return Err(io::Error::other("no progress")),
                _ = tokio::time::sleep(tick) => {
                    if self.owed.lock().late(limit) {
                        let text = format!("no answer to an append for over {limit} ms");
                        return Err(io::Error::new(io::ErrorKind::TimedOut, text));
                    }
                }
            }
        }
    }

    /// The results as a stream; an error is its last item.
    fn results(self) -> impl Stream<Item = Result<AppendResult, RpcError>> + Send {
        futures::stream::unfold(Some(self), |session| async move {
            let mut session = session?;
            match session.next().await {
                Ok(None) => None,
                Ok(Some(result)) => Some((Ok(result), Some(session))),
                Err(e) => {
                    session
                        .shared
                        .peers
                        .failed(session.target, hello::reason(&e));
                    Some((Err(network(e)), None))
                }
            }
        })
    }
}

impl Client {
    pub fn new(shared: Arc<Shared>, target: u64, member: Member, heartbeats: bool) -> Client {
        Client {
            shared,
            target,
            member,
            heartbeats,
            failed_dials: 0,
        }
    }

    async fn dial(&self, purpose: Purpose, limit: Duration) -> io::Result<Frames> {
        self.shared.counters.dials.fetch_add(1, Ordering::Relaxed);
        // A member may have moved since openraft made this client.
        let now = self.shared.known(self.target).map(|(member, _)| member);
        let addr = now.map_or_else(|| self.member.raft.clone(), |m| m.raft);
        let result = hello::dial(&self.shared, &addr, self.target, purpose, limit).await;
        if let Err(e) = &result {
            self.shared.peers.failed(self.target, hello::reason(e));
        }
        result
    }

    /// A new control connection. To make one takes longer than to be answered on it: where the
    /// network is slow nobody may wait so long, and it is there for the next request.
    async fn connection(&self) -> io::Result<Frames> {
        let peers = &self.shared.peers;
        if !peers.begin_dial(self.target) {
            return self.dial(Purpose::Control, DIAL_LIMIT).await;
        }
        let (client, (give, take)) = (self.clone(), oneshot::channel());
        tokio::spawn(async move {
            let dialled = client.dial(Purpose::Control, DIAL_LIMIT).await;
            let peers = &client.shared.peers;
            peers.end_dial(client.target);
            if let Err(Ok(frames)) = give.send(dialled) {
                peers.keep_idle(client.target, frames);
            }
        });
        take.await.map_err(io::Error::other)?
    }

    /// One request and its answer on a control connection.
    async fn ask(&self, message: &[u8], limit: Duration) -> Result<Bytes, RpcError> {
        let peers = &self.shared.peers;
        let work = async {
            if let Some(mut frames) = peers.take_idle(self.target) {
                if let Ok(answer) = frames.exchange(message).await {
                    return Ok((answer, frames));
                }
                peers.drop_idle(self.target); // the peer has restarted: its siblings are dead too
            }
            let mut frames = self
                .connection()
                .await
                .map_err(|e| unreachable(hello::reason(&e)))?;
            let answer = frames
                .exchange(message)
                .await
                .map_err(|e| unreachable(hello::reason(&e)))?;
            Ok((answer, frames))
        };
        match tokio::time::timeout(limit, work).await {
            Ok(Ok((answer, frames))) => {
                peers.heard(self.target);
                peers.keep_idle(self.target, frames);
                Ok(answer)
            }
            Ok(Err(e)) => {
                peers.failed(self.target, plain(&e));
                Err(e)
            }
            Err(_) => {
                let text = format!("no answer within {} ms", limit.as_millis());
                peers.failed(self.target, text.clone());
                Err(network(text))
            }
        }
    }

    pub fn shared(&self) -> &Shared {
        &self.shared
    }

    /// Whether the peer's saved vote is this one; see `confirm.rs`.
    pub async fn confirm(&self, vote: &Vote, limit: Duration) -> Result<bool, RpcError> {
        let mut message = BytesMut::with_capacity(1 + VOTE_BYTES);
        message.put_u8(CONFIRM);
        put_vote(&mut message, vote);
        let mut answer = self.ask(&message, limit).await?;
        Ok(get_u8(&mut answer).map_err(network)? == 1)
    }

    async fn ask_vote(
        &self,
        kind: u8,
        request: &VoteRequest,
        limit: Duration,
    ) -> Result<VoteResponse, RpcError> {
        let mut message = BytesMut::new();
        message.put_u8(kind);
        put_vote_request(&mut message, request);
        let mut answer = self.ask(&message, limit).await?;
        get_vote_response(&mut answer).map_err(network)
    }

    async fn session<S>(&mut self, requests: S) -> Result<Session, RpcError>
    where
        S: Stream<Item = AppendRequest> + OptionalSend + Unpin + 'static,
    {
        let voice = self.shared.peers.voice(self.target);
        let heard = voice.notified(); // also while it is dialled
        let frames = match self.dial(Purpose::Append, DIAL_LIMIT).await {
            Ok(frames) => frames,
            Err(e) => {
                // openraft's own backoff sits in `requests`, which has not been polled.
                pause(self.failed_dials, heard).await;
                self.failed_dials += 1;
                return Err(unreachable(e));
            }
        };
        self.failed_dials = 0;
        self.shared
            .counters
            .sessions
            .fetch_add(1, Ordering::Relaxed);
        let (from, to) = frames.stream.into_split();
        let owed = Arc::new(Mutex::new(Owed::default()));
        let noted = owed.clone();
        let requests = Riding::new(requests.fuse(), self.shared.ticks.clone());
        let writer = tokio::spawn(pump(requests, to, move |out, request: &AppendRequest| {
            let before = out.len();
            put_append(out, request);
            noted.lock().asked((out.len() - before) as u64);
        }));
        let mut reset = self.shared.peers.session(self.target);
        reset.mark_unchanged();
        Ok(Session {
            shared: self.shared.clone(),
            target: self.target,
            from,
            buffer: frames.buffer,
            owed,
            reset,
            _writer: Guard(writer.abort_handle()),
        })
    }
}

/// The reason without openraft's words around it.
fn plain(e: &RpcError) -> String {
    let text = e.to_string();
    let text = text.strip_prefix("Unreachable node: ").unwrap_or(&text);
    text.strip_prefix("NetworkError: ")
        .unwrap_or(text)
        .to_string()
}

type Results<'s> = Pin<Box<dyn Stream<Item = Result<AppendResult, RpcError>> + Send + 's>>;

impl RaftNetworkV2<Types> for Client {
    type SnapshotData = Snapshot;

    async fn append_entries(
        &mut self,
        request: AppendRequest,
        option: RPCOption,
    ) -> Result<AppendResponse, RpcError> {
        let mut message = BytesMut::new();
        message.put_u8(APPEND);
        put_append(&mut message, &request);
        let mut answer = self.ask(&message, option.hard_ttl()).await?;
        get_append_response(&mut answer).map_err(network)
    }

    fn stream_append<'s, S>(
        &'s mut self,
        requests: S,
        option: RPCOption,
    ) -> Pin<Box<dyn Future<Output = Result<Results<'s>, RpcError>> + Send + 's>>
    where
        S: Stream<Item = AppendRequest> + OptionalSend + Unpin + 'static,
    {
        if self.heartbeats {
            return openraft::network::stream_append_sequential(self, requests, option);
        }
        Box::pin(async move {
            let session = self.session(requests).await?;
            let results: Results<'s> = Box::pin(session.results());
            Ok(results)
        })
    }

    async fn vote(
        &mut self,
        request: VoteRequest,
        option: RPCOption,
    ) -> Result<VoteResponse, RpcError> {
        self.ask_vote(VOTE, &request, option.hard_ttl()).await
    }

    async fn pre_vote(
        &mut self,
        request: VoteRequest,
        option: RPCOption,
    ) -> Result<VoteResponse, RpcError> {
        self.ask_vote(PRE_VOTE, &request, option.hard_ttl()).await
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: openraft::alias::SnapshotOf<Types, Snapshot>,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<Types>, StreamingError<Types>> {
        let send = async {
            // Raft will believe that the peer has what `snapshot` says; the file may hold more.
            let index = snapshot.snapshot.index();
            let shared = self.shared.clone();
            let limit = Duration::from_millis(shared.options.handshake_ms_max);
            if shared.snapshots.file(index).is_none() {
                if let Some(why) = shared.build_held_back().await {
                    return Err(io::Error::other(why));
                }
                // Nothing is written for a member that is down.
                let frames = self.dial(Purpose::Control, limit).await?;
                shared.peers.keep_idle(self.target, frames);
            }
            // Once begun it is brought to an end: the next attempt finds the file.
            let made = tokio::spawn(async move { shared.snapshot_file(index).await });
            let made = made.await.map_err(io::Error::other)?;
            let (offered, file) = made.map_err(io::Error::other)?;
            let frames = self.dial(Purpose::Snapshot, limit).await?;
            super::transfer::send(&self.shared, frames, vote, &offered, file).await
        };
        tokio::select! {
            closed = cancel => Err(StreamingError::Closed(closed)),
            sent = send => match sent {
                Ok(vote) => Ok(SnapshotResponse::new(vote)),
                Err(e) => {
                    self.shared.peers.failed(self.target, format!("snapshot: {e}"));
                    Err(unreachable(e).into())
                }
            },
        }
    }

    async fn transfer_leader(
        &mut self,
        request: TransferRequest,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<Types>, RpcError> {
        let mut message = BytesMut::new();
        message.put_u8(TRANSFER);
        put_vote(&mut message, request.from_leader());
        message.put_u64(*request.to_node_id());
        put_opt_log_id(&mut message, &request.last_log_id().copied());
        let mut answer = self.ask(&message, option.hard_ttl()).await?;
        let kind = get_u8(&mut answer).map_err(network)?;
        Ok(match kind {
            0 => Ok(()),
            1 => Err(TransferLeaderError::VoteChanged {
                expected: *request.from_leader(),
                actual: get_vote(&mut answer).map_err(network)?,
            }),
            _ => Err(TransferLeaderError::LogNotFlushed {
                expected: request.last_log_id().copied(),
                actual: get_opt_log_id(&mut answer).map_err(network)?,
            }),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::Owed;
    use std::time::{Duration, Instant};

    #[test]
    fn an_answer_is_late_by_its_own_time_and_by_the_bytes_before_it() {
        let mut owed = Owed::default();
        assert!(!owed.late(0), "nothing is owed");
        let Some(before) = Instant::now().checked_sub(Duration::from_secs(2)) else {
            return;
        };
        owed.requests.push_back((before, 0));
        assert!(owed.late(1_000));
        assert!(!owed.late(10_000));
        owed.bytes = 64 << 20;
        assert!(!owed.late(1_000), "64 MiB take their time");
        owed.bytes = 0;
        owed.requests.push_back((before, 0));
        owed.answered();
        assert!(!owed.late(1_000), "an answer has just come");
    }
}
