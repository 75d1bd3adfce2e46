//! The peer port: accepts connections and serves each for its purpose.
use super::client::{APPEND, CONFIRM, Guard, PRE_VOTE, TRANSFER, VOTE, pump};
use super::codec::*;
use super::forward::{self, put_failure};
use super::hello::{self, FRAME_BYTES_MAX, Frames, Hello, Purpose, read_frame};
use super::log::Log;
use super::queue::WorkKind;
use super::shared::Shared;
use super::stand;
use super::types::*;
use bytes::{BufMut, Bytes, BytesMut};
use futures::StreamExt;
use openraft::raft::TransferLeaderError;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

/// Append requests read ahead of Raft; each holds about 2 MiB at most.
const READ_AHEAD: usize = 8;
/// After a failed accept (no descriptors left): not a busy loop.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// A question that Python does not answer.
const ASK_LIMIT: Duration = Duration::from_secs(60);
const ASK_BYTES_MAX: usize = 1 << 20;
const STARTING_LIMIT: Duration = Duration::from_secs(3);

/// Accepts until the runtime ends.
pub async fn run(listener: TcpListener, shared: Arc<Shared>) {
    let places = Arc::new(Semaphore::new(shared.options.connections_max as usize));
    loop {
        let Ok((stream, from)) = listener.accept().await else {
            tokio::time::sleep(ACCEPT_PAUSE).await;
            continue;
        };
        // Beyond the limit a connection is closed without a word: peers dial again.
        let Ok(place) = places.clone().try_acquire_owned() else {
            continue;
        };
        tokio::spawn(connection(shared.clone(), stream, from, place));
    }
}

async fn connection(
    shared: Arc<Shared>,
    stream: TcpStream,
    from: SocketAddr,
    _place: OwnedSemaphorePermit,
) {
    let limit = Duration::from_millis(shared.options.handshake_ms_max);
    let admitted = tokio::time::timeout(limit, admit(&shared, stream, from)).await;
    let Ok(Ok((hello, frames))) = admitted else {
        return;
    };
    let _ = serve(&shared, &hello, frames).await; // both ends notice a broken connection
}

/// Strangers are told why and sent away.
async fn admit(
    shared: &Shared,
    stream: TcpStream,
    from: SocketAddr,
) -> io::Result<(Hello, Frames)> {
    if stranger(from.ip(), shared.options.insecure != 0) {
        return hello::turn_away(stream, STRANGER).await;
    }
    hello::welcome(shared, stream).await
}

const STRANGER: &str = "this node serves peers on its own machine only, because nothing is \
    authenticated yet: start every node with DFS_INSECURE=true to open it to the network";

/// Protected mode: only this machine is let in, unless the user has opened the port.
fn stranger(from: IpAddr, insecure: bool) -> bool {
    !insecure && !from.to_canonical().is_loopback()
}

async fn serve(shared: &Arc<Shared>, hello: &Hello, frames: Frames) -> io::Result<()> {
    match hello.purpose {
        Purpose::Ask => return ask(shared, hello, frames).await,
        Purpose::Content => return super::chunks::give::give(shared, frames).await,
        _ => {}
    }
    let Some(raft) = shared.raft_in(STARTING_LIMIT).await.cloned() else {
        return Ok(());
    };
    match hello.purpose {
        Purpose::Append => {
            let ended = append(shared, raft.clone(), frames).await;
            stand::after_session(shared, &raft, hello.from_id).await;
            ended
        }
        Purpose::Control => control(shared, hello, raft, frames).await,
        Purpose::Forward => forward::serve(shared, frames).await,
        Purpose::Snapshot => super::transfer::receive(shared, frames, &raft).await,
        Purpose::Fetch => super::transfer::give(shared, frames).await,
        Purpose::Ask | Purpose::Content => Ok(()),
    }
}

/// An append session. The leader may end its half after one request (a probe): what is owed is
/// still answered.
async fn append(shared: &Shared, raft: Raft, frames: Frames) -> io::Result<()> {
    let (mut from, to) = frames.stream.into_split();
    let mut buffer = frames.buffer;
    let (requests, mut rx) = mpsc::channel::<AppendRequest>(READ_AHEAD);
    let stream = futures::stream::poll_fn(move |cx| rx.poll_recv(cx));
    let results = raft.stream_append(stream);
    let results = Box::pin(
        results
            .take_while(|r| std::future::ready(r.is_ok()))
            .filter_map(|r| std::future::ready(r.ok())),
    );
    let mut writer = tokio::spawn(pump(results, to, put_append_result));
    let guard = Guard(writer.abort_handle());
    while let Some(mut request) = read_frame(&mut from, &mut buffer, FRAME_BYTES_MAX).await? {
        let request = get_append(&mut request)?;
        shared.hear(&request.vote);
        if requests.send(request).await.is_err() {
            break;
        }
    }
    drop(requests);
    let written = (&mut writer).await;
    drop(guard);
    written.map_err(io::Error::other)?
}

/// Votes, heartbeats, confirmations and leader transfers, one at a time.
async fn control(shared: &Shared, hello: &Hello, raft: Raft, mut frames: Frames) -> io::Result<()> {
    while let Some(request) = frames.read(FRAME_BYTES_MAX).await? {
        shared.peers.heard(hello.from_id);
        let answer = control_answer(shared, &raft, request).await?;
        frames.write(&answer).await?;
    }
    Ok(())
}

/// The vote in the request is the one saved here. Not a matter for Raft's core: what it has
/// promised to anybody, it had saved before.
fn holds(log: &Log, request: &mut Bytes) -> io::Result<bool> {
    Ok(log.saved_vote() == Some(get_vote(request)?))
}

async fn control_answer(shared: &Shared, raft: &Raft, mut request: Bytes) -> io::Result<BytesMut> {
    let mut out = BytesMut::new();
    match get_u8(&mut request)? {
        CONFIRM => out.put_u8(holds(&shared.log, &mut request)? as u8),
        APPEND => {
            let request = get_append(&mut request)?;
            shared.hear(&request.vote);
            let response = raft
                .append_entries(request)
                .await
                .map_err(io::Error::other)?;
            put_append_response(&mut out, &response);
        }
        VOTE => {
            let request = get_vote_request(&mut request)?;
            put_vote_response(
                &mut out,
                &raft.vote(request).await.map_err(io::Error::other)?,
            );
        }
        PRE_VOTE => {
            let request = get_vote_request(&mut request)?;
            put_vote_response(
                &mut out,
                &raft.pre_vote(request).await.map_err(io::Error::other)?,
            );
        }
        TRANSFER => {
            let (vote, to) = (get_vote(&mut request)?, get_u64(&mut request)?);
            let request = TransferRequest::new(vote, to, get_opt_log_id(&mut request)?);
            match raft
                .handle_transfer_leader(request)
                .await
                .map_err(io::Error::other)?
            {
                Ok(()) => out.put_u8(0),
                Err(TransferLeaderError::VoteChanged { actual, .. }) => {
                    out.put_u8(1);
                    put_vote(&mut out, &actual);
                }
                Err(TransferLeaderError::LogNotFlushed { actual, .. }) => {
                    out.put_u8(2);
                    put_opt_log_id(&mut out, &actual);
                }
            }
        }
        other => return Err(bad(format!("no control request has the kind {other}"))),
    }
    Ok(out)
}

/// A question to Python and its answer.
async fn ask(shared: &Shared, hello: &Hello, mut frames: Frames) -> io::Result<()> {
    let limit = Duration::from_millis(shared.options.handshake_ms_max);
    let body = tokio::time::timeout(limit, frames.read(ASK_BYTES_MAX)).await??;
    let body = body.ok_or_else(hello::closed)?;
    let member = shared.members().iter().any(|(id, _)| *id == hello.from_id);
    let name = if member {
        hello.from_name.clone()
    } else {
        String::new()
    };
    let work = shared.queue.work(WorkKind::Ask, name, body);
    let mut out = BytesMut::new();
    match tokio::time::timeout(ASK_LIMIT, work.finished).await {
        Ok(Ok(Ok(answer))) => {
            out.put_u8(0);
            out.put_slice(&answer);
        }
        Ok(Ok(Err(failure))) => {
            out.put_u8(1);
            put_failure(&mut out, &failure);
        }
        _ => {
            out.put_u8(1);
            put_failure(&mut out, &shared.failure("shutting_down"));
        }
    }
    frames.write(&out).await
}

#[cfg(test)]
mod tests {
    use super::super::options::Options;
    use super::*;
    use openraft::storage::RaftLogStorage;

    #[tokio::test]
    async fn only_the_vote_that_was_saved_last_is_confirmed() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = Log::open(&dir.path().join("log"), &Options::default()).unwrap();
        let asked = |log: &Log, vote: Vote| {
            let mut request = BytesMut::new();
            put_vote(&mut request, &vote);
            holds(log, &mut request.freeze()).unwrap()
        };
        assert!(!asked(&log, Vote::new_committed(1, 7)), "nothing is saved");
        log.save_vote(&Vote::new(2, 7)).await.unwrap();
        assert!(!asked(&log, Vote::new_committed(2, 7)), "only granted");
        log.save_vote(&Vote::new_committed(2, 7)).await.unwrap();
        assert!(asked(&log, Vote::new_committed(2, 7)));
        for other in [
            Vote::new(2, 7),
            Vote::new_committed(2, 8),
            Vote::new_committed(1, 7),
            Vote::new_committed(3, 7),
        ] {
            assert!(!asked(&log, other), "{other}");
        }
        log.save_vote(&Vote::new(3, 8)).await.unwrap();
        assert!(
            !asked(&log, Vote::new_committed(2, 7)),
            "another was granted"
        );
        log.close();
        assert!(!asked(&log, Vote::new(3, 8)), "a closed log says nothing");
        let log = Log::open(&dir.path().join("log"), &Options::default()).unwrap();
        assert!(asked(&log, Vote::new(3, 8)), "it outlives a restart");
        assert!(holds(&log, &mut Bytes::from_static(b"\0")).is_err());
    }

    #[test]
    fn only_this_machine_is_let_in_unless_opened() {
        for (from, is_stranger) in [
            ("127.0.0.1", false),
            ("127.9.9.9", false),
            ("::1", false),
            ("::ffff:127.0.0.1", false),
            ("10.0.0.1", true),
            ("::ffff:10.0.0.1", true),
            ("fe80::1", true),
        ] {
            assert_eq!(
                stranger(from.parse().unwrap(), false),
                is_stranger,
                "{from}"
            );
            assert!(!stranger(from.parse().unwrap(), true), "{from}");
        }
    }
}
