//! One snapshot over one connection: resumable by offset, under a stall limit, verified by digest.
//!
//! sender: head (vote, snapshot) · receiver: 0 and the offset it has · sender: chunks, then an
//! empty frame · receiver: 0 while it works, then 1 and its vote, or 2 and why not.
use super::codec::*;
use super::hello::{Frames, closed};
use super::shared::Shared;
use super::snapshot::{self, Snapshot};
use super::types::*;
use bytes::{BufMut, Bytes, BytesMut};
use std::io::{self, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::fs::{File, OpenOptions};
use tokio::io::{AsyncReadExt, AsyncSeekExt, AsyncWriteExt};

const CHUNK_BYTES: usize = 256 << 10;
const ANSWER_BYTES_MAX: usize = 4 << 10;
const WORKING_INTERVAL: Duration = Duration::from_secs(1);
const WORKING: u8 = 0;
const DONE: u8 = 1;
const FAILED: u8 = 2;

fn stall(shared: &Shared) -> Duration {
    Duration::from_millis(shared.options.stall_ms_max)
}

/// Fails when `work` moves nothing for the stall limit.
async fn moving<T>(limit: Duration, work: impl Future<Output = io::Result<T>>) -> io::Result<T> {
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
    let mut file = File::from_std(file);
    file.seek(SeekFrom::Start(get_u64(&mut answer)?)).await?;
    let mut chunk = vec![0; CHUNK_BYTES];
    loop {
        let n = file.read(&mut chunk).await?;
        moving(limit, frames.write(&chunk[..n])).await?;
        if n == 0 {
            break;
        }
    }
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

/// Receives one snapshot and installs it. What has arrived stays for the next attempt.
pub async fn receive(shared: &Arc<Shared>, mut frames: Frames, raft: &Raft) -> io::Result<()> {
    let limit = stall(shared);
    let head = moving(limit, frames.read(super::hello::FRAME_BYTES_MAX)).await?;
    let mut head = head.ok_or_else(closed)?;
    let vote = get_vote(&mut head)?;
    let mut offered = Snapshot::decode(PathBuf::new(), &mut head)?;
    offered.path = shared.snapshots.part_path(&offered.sha256);
    let Ok(_turn) = shared.receiving.try_lock() else {
        return fail(&mut frames, "another snapshot is on its way here").await;
    };
    let result = match take_in(shared, &mut frames, &offered, limit).await {
        Ok(()) => {
            working(
                &mut frames,
                install(shared.clone(), raft.clone(), vote, offered),
            )
            .await
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

/// Verifies the file, makes it the current snapshot and hands it to Raft.
async fn install(
    shared: Arc<Shared>,
    raft: Raft,
    vote: Vote,
    offered: Snapshot,
) -> io::Result<Vote> {
    let meta = offered.meta.clone();
    let current = tokio::task::spawn_blocking(move || {
        verify(&offered.path, &offered)?;
        shared.snapshots.adopt(offered)
    })
    .await
    .map_err(io::Error::other)??;
    if current.meta.last_log_id != meta.last_log_id {
        return Err(bad("a newer snapshot is here already"));
    }
    let snapshot = openraft::Snapshot {
        meta,
        snapshot: current,
    };
    let response = raft
        .install_full_snapshot(vote, snapshot)
        .await
        .map_err(io::Error::other)?;
    Ok(response.vote)
}
