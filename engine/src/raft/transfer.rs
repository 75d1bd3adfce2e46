//! One snapshot over one connection: resumable by offset, under a stall limit, verified by digest.
//!
//! sender: head (vote, snapshot) · receiver: 0 and the offset it has · sender: chunks, then an
//! empty frame · receiver: 0 while it works, then 1 and its vote, or 2 and why not.
use super::codec::*;
use super::hello::{self, Frames, Purpose, closed};
use super::shared::Shared;
use super::snapshot::{self, Snapshot};
use super::types::*;
use bytes::{BufMut, Bytes, BytesMut};
use sha2::{Digest, Sha256};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::fs::{File, OpenOptions};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const CHUNK_BYTES: usize = 256 << 10;
const ANSWER_BYTES_MAX: usize = 4 << 10;
const WORKING_INTERVAL: Duration = Duration::from_secs(1);
const WORKING: u8 = 0;
const DONE: u8 = 1;
const FAILED: u8 = 2;

pub fn stall(shared: &Shared) -> Duration {
    Duration::from_millis(shared.options.stall_ms_max)
}

/// Fails when `work` moves nothing for the stall limit.
pub async fn moving<T>(
    limit: Duration,
    work: impl Future<Output = io::Result<T>>,
) -> io::Result<T> {
    match tokio::time::timeout(limit, work).await {
        Ok(result) => result,
        Err(_) => {
            let text = format!("nothing moved for {} ms", limit.as_millis());
            Err(io::Error::new(io::ErrorKind::TimedOut, text))
        }
    }
}

fn head(vote: &Vote, snapshot: &Snapshot) -> Bytes {
    let mut head = BytesMut::new();
    put_vote(&mut head, vote);
    head.put_slice(&snapshot.encode());
    head.freeze()
}

/// Sends a snapshot from its opened file: the name may be gone by now. Returns the receiver's vote
/// after it has installed it.
pub async fn send(
    shared: &Shared,
    mut frames: Frames,
    vote: Vote,
    snapshot: &Snapshot,
    file: std::fs::File,
) -> io::Result<Vote> {
    let limit = stall(shared);
    let mut answer = moving(limit, frames.exchange(&head(&vote, snapshot))).await?;
    if get_u8(&mut answer)? != WORKING {
        return Err(bad(String::from_utf8_lossy(&answer)));
    }
    let sent = stream(&mut frames, file, get_u64(&mut answer)?, limit).await?;
    if sent != snapshot.sha256 {
        // The receiver keeps what it has for nothing: the next file has another digest.
        let applied = shared.progress.applied();
        shared.snapshots.demote(&snapshot.path, applied)?;
        return Err(bad(
            "the snapshot file was damaged on this disk; a new one is made",
        ));
    }
    moving(limit, frames.write(&[])).await?;
    loop {
        let answer = moving(limit, frames.read(ANSWER_BYTES_MAX)).await?;
        let mut answer = answer.ok_or_else(closed)?;
        match get_u8(&mut answer)? {
            WORKING => {}
            DONE => {
                shared
                    .counters
                    .snapshots_sent
                    .fetch_add(1, Ordering::Relaxed);
                return get_vote(&mut answer);
            }
            _ => return Err(bad(String::from_utf8_lossy(&answer))),
        }
    }
}

/// Sends a file from an offset on. Returns the digest of all of it: what lies on a disk may change.
async fn stream(
    frames: &mut Frames,
    file: std::fs::File,
    offset: u64,
    limit: Duration,
) -> io::Result<[u8; 32]> {
    let mut file = File::from_std(file);
    let mut hasher = Sha256::new();
    let mut chunk = vec![0; CHUNK_BYTES];
    let mut skip = offset;
    loop {
        let n = file.read(&mut chunk).await?;
        if n == 0 {
            return Ok(hasher.finalize().into());
        }
        hasher.update(&chunk[..n]);
        let known = skip.min(n as u64);
        skip -= known;
        if known < n as u64 {
            moving(limit, frames.write(&chunk[known as usize..n])).await?;
        }
    }
}

/// Gives the state of here to a node that has lost its own, if it reaches the index that is asked
/// for. asker: index · giver: 0 while it works, then 1, or 2 and why not · then as `send`.
pub async fn give(shared: &Arc<Shared>, mut frames: Frames) -> io::Result<()> {
    let asked = moving(stall(shared), frames.read(ANSWER_BYTES_MAX)).await?;
    let index = get_u64(&mut asked.ok_or_else(closed)?)?;
    let giver = shared.clone();
    let made = working(&mut frames, async move {
        let applied = giver.progress.applied();
        let me = &giver.me.name;
        if giver.queue.condemned() {
            return Err(bad(format!("{me} does not trust its own state")));
        }
        if applied < index {
            let text = format!("{me} has the state of log index {applied}, {index} is needed");
            return Err(bad(text));
        }
        giver.snapshot_file(index).await.map_err(io::Error::other)
    });
    match made.await {
        Ok((snapshot, file)) => {
            frames.write(&[DONE]).await?;
            // It means nothing here: nobody follows anybody yet.
            let vote = shared.log.saved_vote().unwrap_or(Vote::new(0, shared.id));
            send(shared, frames, vote, &snapshot, file).await.map(drop)
        }
        Err(e) => fail(&mut frames, &e.to_string()).await,
    }
}

/// Fetches the state of the node at `addr`, of `index` or later, before Raft has started. Nothing
/// is installed: it becomes the current snapshot, and the log is made to fit to it.
pub async fn fetch(
    shared: &Arc<Shared>,
    addr: &str,
    index: u64,
    limit: Duration,
) -> io::Result<Snapshot> {
    shared.snapshots.clear()?; // whoever asks could not use what is here
    let mut frames = hello::dial(shared, addr, 0, Purpose::Fetch, limit).await?;
    let limit = stall(shared);
    frames.write(&index.to_be_bytes()).await?;
    loop {
        let answer = moving(limit, frames.read(ANSWER_BYTES_MAX)).await?;
        let mut answer = answer.ok_or_else(closed)?;
        match get_u8(&mut answer)? {
            WORKING => {}
            DONE => break,
            _ => return Err(bad(String::from_utf8_lossy(&answer))),
        }
    }
    let head = moving(limit, frames.read(super::hello::FRAME_BYTES_MAX)).await?;
    let mut head = head.ok_or_else(closed)?;
    let vote = get_vote(&mut head)?;
    let mut offered = Snapshot::decode(PathBuf::new(), &mut head)?;
    offered.path = shared.snapshots.part_path(&offered.sha256);
    if offered.index() < index {
        return Err(bad("it gave an older state than was asked for"));
    }
    take_in(shared, &mut frames, &offered, limit).await?;
    let snapshots = shared.snapshots.clone();
    let adopt = async move {
        let adopt = move || {
            verify(&offered.path, &offered)?;
            snapshots.adopt(offered)
        };
        let adopted = tokio::task::spawn_blocking(adopt).await;
        adopted.map_err(io::Error::other)?
    };
    let snapshot = working(&mut frames, adopt).await?;
    if let Some(id) = snapshot.meta.last_log_id {
        shared.log.clone().fit(id).await?;
    }
    let mut answer = BytesMut::new();
    answer.put_u8(DONE);
    put_vote(&mut answer, &vote);
    frames.write(&answer).await?;
    Ok(snapshot)
}

/// Receives one snapshot and installs it. What has arrived stays for the next attempt.
pub async fn receive(shared: &Arc<Shared>, mut frames: Frames, raft: &Raft) -> io::Result<()> {
    let limit = stall(shared);
    let head = moving(limit, frames.read(super::hello::FRAME_BYTES_MAX)).await?;
    let mut head = head.ok_or_else(closed)?;
    let vote = get_vote(&mut head)?;
    let mut offered = Snapshot::decode(PathBuf::new(), &mut head)?;
    offered.path = shared.snapshots.part_path(&offered.sha256);
    let Ok(turn) = shared.receiving.clone().try_lock_owned() else {
        return fail(&mut frames, "another snapshot is on its way here").await;
    };
    let result = match take_in(shared, &mut frames, &offered, limit).await {
        Ok(()) => {
            let install = install(shared.clone(), raft.clone(), vote, offered);
            let to_its_end = async move {
                let _turn = turn; // also when the sender has gone: the file is in use until then
                install.await
            };
            working(&mut frames, to_its_end).await
        }
        Err(e) => Err(e),
    };
    match result {
        Ok(vote) => {
            let mut answer = BytesMut::new();
            answer.put_u8(DONE);
            put_vote(&mut answer, &vote);
            frames.write(&answer).await
        }
        Err(e) => fail(&mut frames, &e.to_string()).await,
    }
}

async fn fail(frames: &mut Frames, text: &str) -> io::Result<()> {
    let mut answer = vec![FAILED];
    answer.extend_from_slice(text.as_bytes());
    frames.write(&answer).await
}

/// Receives the bytes into the part file, from where it ends.
async fn take_in(
    shared: &Shared,
    frames: &mut Frames,
    offered: &Snapshot,
    limit: Duration,
) -> io::Result<()> {
    shared.snapshots.sweep_parts(&offered.path)?;
    let mut file = OpenOptions::new()
        .create(true)
        .append(true)
        .open(&offered.path)
        .await?;
    let mut size = file.metadata().await?.len();
    if size > offered.size {
        file.set_len(0).await?;
        size = 0;
    }
    let mut answer = BytesMut::new();
    answer.put_u8(WORKING);
    answer.put_u64(size);
    frames.write(&answer).await?;
    loop {
        let chunk = moving(limit, frames.read(2 * CHUNK_BYTES))
            .await?
            .ok_or_else(closed)?;
        if chunk.is_empty() {
            break;
        }
        size += chunk.len() as u64;
        if size > offered.size {
            return Err(bad("more bytes than announced"));
        }
        file.write_all(&chunk).await?;
    }
    file.flush().await?;
    file.sync_all().await
}

/// Says every second that it is still at it.
async fn working<T: Send + 'static>(
    frames: &mut Frames,
    work: impl Future<Output = io::Result<T>> + Send + 'static,
) -> io::Result<T> {
    let mut work = tokio::spawn(work);
    loop {
        match tokio::time::timeout(WORKING_INTERVAL, &mut work).await {
            Ok(result) => return result.map_err(io::Error::other)?,
            Err(_) => frames.write(&[WORKING]).await?,
        }
    }
}

fn verify(path: &Path, offered: &Snapshot) -> io::Result<()> {
    let (sha256, size) = snapshot::digest(path)?;
    if (sha256, size) != (offered.sha256, offered.size) {
        std::fs::remove_file(path)?;
        return Err(bad("the snapshot arrived damaged; it is sent again"));
    }
    Ok(())
}

/// Verifies the file, makes it the current snapshot and hands that to Raft. It may be another one:
/// a newer file that arrived before its sender ceased to lead, and was not installed. That one is
/// of committed entries as well, and brings this node at least as far.
async fn install(
    shared: Arc<Shared>,
    raft: Raft,
    vote: Vote,
    offered: Snapshot,
) -> io::Result<Vote> {
    let adopt = move || {
        verify(&offered.path, &offered)?;
        shared.snapshots.adopt(offered)
    };
    let adopted = tokio::task::spawn_blocking(adopt).await;
    let current = adopted.map_err(io::Error::other)??;
    let led_by = |id: &LogId| id.leader_id <= vote.leader_id;
    if !current.meta.last_log_id.as_ref().is_none_or(led_by) {
        return Err(bad("the snapshot of a later leader is here"));
    }
    let snapshot = openraft::Snapshot {
        meta: current.meta.clone(),
        snapshot: current,
    };
    let installed = raft.install_full_snapshot(vote, snapshot).await;
    Ok(installed.map_err(io::Error::other)?.vote)
}
