//! openraft's log storage on raft-log: votes, entries and marks in one write-ahead log.
//!
//! An append returns when the entries are in memory and calls back after fdatasync. What failed
//! once is not tried again: the first failure of a write or sync ends the log, and with it the
//! node. What is on disk then is what a start finds.
mod failing;
mod flushes;
pub mod lying;
mod promises;
mod sizes;
mod stored;

use super::options::Options;
use super::types::*;
use failing::{Broken, settle};
use flushes::{Admitted, Bounds, Flushes};
use futures::Stream;
use openraft::storage::{IOFlushed, LogState, RaftLogReader, RaftLogStorage};
use parking_lot::{Mutex, RwLock};
pub use promises::Promises;
use promises::{end_of, sync_files};
use raft_log::api::raft_log_writer::RaftLogWriter;
use sizes::Sizes;
use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};
use stored::{Flushed, LogTypes, StoredLogId, StoredPayload, StoredVote, Told, size_of};

/// Recent entries in memory, for replication and apply.
const CACHE_BYTES_MAX: usize = 16 << 20;
const CACHE_ENTRIES_MAX: usize = 200_000;
const READ_BUFFER_BYTES: usize = 1 << 20;
/// Entries handed to one append request or one apply round.
const READ_BYTES_MAX: usize = 2 << 20;

/// What a log holds, for deciding how to go on with it.
#[derive(Clone, Debug, Default)]
pub struct Extent {
    pub purged: Option<LogId>,
    pub last: Option<LogId>,
    /// Index up to which the store was on disk when it last said so.
    pub durable: u64,
}

pub use flushes::Trouble;

type RaftLog = raft_log::RaftLog<LogTypes>;

fn closed() -> io::Error {
    io::Error::other("the log is closed")
}

/// The log of one node; clones share it.
#[derive(Clone)]
pub struct Log {
    inner: Arc<RwLock<Option<RaftLog>>>,
    sizes: Arc<Mutex<Sizes>>,
    promises: Arc<Mutex<Promises>>,
    flushes: Arc<Flushes<Told>>,
    bounds: Bounds,
    broken: Arc<Broken>,
}

impl Log {
    /// Opens or makes the log in `dir`; replays it. A torn tail is cut, other damage is an error.
    pub fn open(dir: &Path, options: &Options) -> io::Result<Log> {
        std::fs::create_dir_all(dir)?;
        settle(dir)?;
        let mut config = raft_log::Config::new(dir.display());
        config.wal.chunk_max_size = Some(options.log_file_bytes as usize);
        config.wal.read_buffer_size = Some(READ_BUFFER_BYTES);
        // A lone writer would pay any wait in full; openraft gathers what comes together.
        config.wal.flush_batch_wait = Some(Duration::ZERO);
        config.log_cache_capacity = Some(CACHE_BYTES_MAX);
        config.log_cache_max_items = Some(CACHE_ENTRIES_MAX);
        let inner = RaftLog::open(Arc::new(config))?;
        // What its thread has to sync comes first.
        if let Err(error) = inner.wait_worker_idle().and_then(|()| sync_files(dir)) {
            // Closed well it would sync again what has failed. The process is to end anyway.
            std::mem::forget(inner);
            return Err(error);
        }
        let state = inner.log_state();
        let promises = Promises {
            vote: state.vote().map(|v| v.0),
            index: state.user_data.unwrap_or(0).min(end_of(&inner)),
        };
        let stat = inner.stat();
        let start = stat
            .closed_chunks
            .first()
            .unwrap_or(&stat.open_chunk)
            .global_start;
        let mut marks = Vec::new();
        for file in stat.closed_chunks.iter().chain([&stat.open_chunk]) {
            let next = file.log_state.last().map_or(0, |l| l.0.index + 1);
            marks.push((next, file.global_start - start));
        }
        let sizes = Sizes::of(marks, stat.open_chunk.global_end - start);
        Ok(Log {
            inner: Arc::new(RwLock::new(Some(inner))),
            sizes: Arc::new(Mutex::new(sizes)),
            promises: Arc::new(Mutex::new(promises)),
            flushes: Arc::default(),
            bounds: Bounds {
                late: Duration::from_millis(options.disk_late_ms),
                late_for: Duration::from_millis(options.disk_late_for_ms),
                stall: Duration::from_millis(options.disk_stall_ms_max),
            },
            broken: Arc::new(Broken::none(dir)),
        })
    }

    /// What is wrong with the disk, compared with those of the others.
    pub fn trouble(&self) -> Option<Trouble> {
        self.flushes.trouble(Instant::now(), &self.bounds)
    }

    /// `told` hears when all that was written before this is on disk; the last of it is `index`,
    /// or 0 for what is no entry. While two flushes are under way, what comes shares the next one:
    /// a slow disk is asked once for all, as often as it can.
    fn flush(&self, log: &mut RaftLog, index: u64, told: Told) -> io::Result<()> {
        self.flushes.begin(Instant::now(), index);
        match self.flushes.admit(told) {
            Admitted::Now(told) => self.flush_now(log, told),
            Admitted::First => {
                let log = self.clone();
                tokio::spawn(async move {
                    log.flushes.room().await;
                    // With the log in hand, so that nobody overtakes. It fails when the flush
                    // thread has ended, of which everybody has heard.
                    log.writing(|inner| log.flush_now(inner, log.flushes.take()))
                });
                Ok(())
            }
            Admitted::Shared => Ok(()),
        }
    }

    fn flush_now(&self, log: &mut RaftLog, told: Vec<Told>) -> io::Result<()> {
        let flushed = Flushed {
            told,
            flushes: self.flushes.clone(),
            bounds: self.bounds,
            broken: self.broken.clone(),
        };
        log.flush(true, Some(flushed))
    }

    /// Ends the flush thread and lets the directory go; later use is an error.
    pub fn close(&self) {
        let log = self.inner.write().take();
        drop(log);
    }

    fn reading<T>(&self, read: impl FnOnce(&RaftLog) -> io::Result<T>) -> io::Result<T> {
        read(self.inner.read().as_ref().ok_or_else(closed)?)
    }

    /// A failure is the last thing that happens: what follows it could stand behind a gap.
    fn writing<T>(&self, write: impl FnOnce(&mut RaftLog) -> io::Result<T>) -> io::Result<T> {
        let mut log = self.inner.write();
        let log = log.as_mut().ok_or_else(closed)?;
        self.broken.check()?;
        write(log).map_err(|error| {
            // That the flush thread has ended says nothing; it knows why.
            let ended = error.to_string().contains("closed channel");
            let cause = ended.then(|| log.wait_worker_idle().err()).flatten();
            self.broken.by(&cause.unwrap_or(error));
            self.broken.check().err().unwrap_or_else(closed)
        })
    }

    /// Why nothing can be written any more.
    pub fn failure(&self) -> Option<&str> {
        self.broken.why()
    }

    pub fn extent(&self) -> Extent {
        let log = self.inner.read();
        let Some(state) = log.as_ref().map(|l| l.log_state()) else {
            return Extent::default();
        };
        Extent {
            purged: state.purged().map(|l| l.0),
            last: state.last().map(|l| l.0),
            durable: state.user_data.unwrap_or(0),
        }
    }

    pub fn last_index(&self) -> u64 {
        self.extent().last.map_or(0, |l| l.index)
    }

    /// The id of an entry that is here.
    pub fn id_at(&self, index: u64) -> io::Result<Option<LogId>> {
        let found = self.read_limited(index, index + 1)?;
        Ok(found.first().map(|e| e.log_id))
    }

    /// What was known to be committed when entries were last written.
    pub fn committed_index(&self) -> u64 {
        let log = self.inner.read();
        let committed = log
            .as_ref()
            .and_then(|l| l.log_state().committed().cloned());
        committed.map_or(0, |l| l.0.index)
    }

    /// The vote that was saved last; `None` before the first. It may be on its way to the disk: a
    /// granted one is there before the candidate hears of it.
    pub fn saved_vote(&self) -> Option<Vote> {
        let log = self.inner.read();
        log.as_ref()?.log_state().vote().map(|v| v.0)
    }

    /// Bytes on disk.
    pub fn bytes(&self) -> u64 {
        self.inner.read().as_ref().map_or(0, |l| l.on_disk_size())
    }

    /// Bytes appended after `index`.
    pub fn bytes_after(&self, index: u64) -> u64 {
        self.sizes.lock().after(index)
    }

    /// The last index that may go when `keep` bytes up to `end` are to stay.
    pub fn keep_point(&self, end: u64, keep: u64) -> Option<u64> {
        self.sizes.lock().before(end, keep)
    }

    /// Records that the store is on disk up to `index`; on disk itself when this returns.
    pub async fn save_durable(&self, index: u64) -> io::Result<()> {
        let moved = self.writing(|log| {
            let forward = log.log_state().user_data.unwrap_or(0) < index;
            if forward {
                log.save_user_data(Some(index))?;
            }
            Ok(forward)
        })?;
        if moved {
            self.sync().await?;
            // After an install the log may have to be cut yet: what it has not is not promised.
            let index = index.min(self.reading(|log| Ok(end_of(log)))?);
            let mut promises = self.promises.lock();
            promises.index = promises.index.max(index);
        }
        Ok(())
    }

    async fn sync(&self) -> io::Result<()> {
        let (tx, rx) = tokio::sync::oneshot::channel();
        self.writing(|log| self.flush(log, 0, Told::Waiter(tx)))?;
        rx.await.map_err(io::Error::other)?
    }

    /// Makes the log one that may stand behind a state of `applied`, which the cluster has agreed
    /// on. An entry of another leader in its place, and all behind that, can never be committed; a
    /// follower that gets the state from its leader forgets them as well. And whoever has an entry
    /// of a leader's term votes for nobody else in that term.
    pub async fn fit(&mut self, applied: LogId) -> io::Result<()> {
        let leader = applied.leader_id;
        let seen = Vote::new_committed(leader.term, leader.node_id);
        if !self.saved_vote().is_some_and(|vote| vote >= seen) {
            self.save_vote(&seen).await?;
        }
        let here = self.id_at(applied.index)?;
        if here.is_some_and(|id| id != applied) {
            self.truncate_at(applied.index).await?;
        }
        Ok(())
    }

    async fn truncate_at(&mut self, index: u64) -> io::Result<()> {
        let cut = self.writing(|log| {
            // raft-log calls it an error to cut behind its end; for openraft it is nothing to do.
            let cut = index <= log.log_state().last().map_or(0, |l| l.0.index + 1);
            if cut {
                log.truncate(index)?;
            }
            Ok(cut)
        })?;
        if cut { self.sync().await } else { Ok(()) }
    }

    fn read_limited(&self, start: u64, end: u64) -> io::Result<Vec<Entry>> {
        self.reading(|log| {
            let mut entries = Vec::new();
            let mut bytes = 0;
            for item in log.read(start, end) {
                let (id, payload) = item?;
                bytes += size_of(&payload.0);
                entries.push(Entry {
                    log_id: id.0,
                    payload: payload.0,
                });
                if bytes >= READ_BYTES_MAX {
                    break;
                }
            }
            Ok(entries)
        })
    }
}

/// A range of indexes as start and end, the end exclusive.
fn bounds(range: &impl RangeBounds<u64>) -> (u64, u64) {
    let start = match range.start_bound() {
        Bound::Included(i) => *i,
        Bound::Excluded(i) => i + 1,
        Bound::Unbounded => 0,
    };
    let end = match range.end_bound() {
        Bound::Included(i) => i + 1,
        Bound::Excluded(i) => *i,
        Bound::Unbounded => u64::MAX,
    };
    (start, end)
}

impl RaftLogReader<Types> for Log {
    async fn try_get_log_entries<R>(&mut self, range: R) -> io::Result<Vec<Entry>>
    where
        R: RangeBounds<u64> + Clone + Debug + openraft::OptionalSend,
    {
        let (start, end) = bounds(&range);
        self.reading(|log| {
            log.read(start, end)
                .map(|item| {
                    item.map(|(id, p)| Entry {
                        log_id: id.0,
                        payload: p.0,
                    })
                })
                .collect()
        })
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> io::Result<Vec<Entry>> {
        self.read_limited(start, end)
    }

    /// In parts: after a restart the range may be the whole log.
    async fn entries_stream<R>(
        &mut self,
        range: R,
    ) -> impl Stream<Item = io::Result<Entry>> + openraft::OptionalSend
    where
        R: RangeBounds<u64> + Clone + Debug + openraft::OptionalSend,
    {
        let (start, end) = bounds(&range);
        let log = self.clone();
        let parts = futures::stream::unfold(Some(start), move |next| {
            let log = log.clone();
            async move {
                let next = next.filter(|n| *n < end)?;
                match log.read_limited(next, end) {
                    Ok(entries) => {
                        let after = entries.last().map(|e| e.log_id.index + 1)?;
                        Some((Ok(entries), Some(after)))
                    }
                    Err(e) => Some((Err(e), None)),
                }
            }
        });
        futures::StreamExt::flat_map(parts, |part| {
            let items: Vec<io::Result<Entry>> = match part {
                Ok(entries) => entries.into_iter().map(Ok).collect(),
                Err(e) => vec![Err(e)],
            };
            futures::stream::iter(items)
        })
    }

    async fn read_vote(&mut self) -> io::Result<Option<Vote>> {
        self.reading(|log| Ok(log.log_state().vote().map(|v| v.0)))
    }
}

impl RaftLogStorage<Types> for Log {
    type LogReader = Log;

    async fn get_log_state(&mut self) -> io::Result<LogState<Types>> {
        let extent = self.extent();
        Ok(LogState {
            last_purged_log_id: extent.purged,
            last_log_id: extent.last,
        })
    }

    async fn get_log_reader(&mut self) -> Log {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> io::Result<()> {
        self.writing(|log| log.save_vote(StoredVote(*vote)))?;
        self.sync().await?;
        self.promises.lock().vote = Some(*vote);
        Ok(())
    }

    /// Not synced: it rides on the next append and only saves work after a restart.
    async fn save_committed(&mut self, committed: Option<LogId>) -> io::Result<()> {
        if let Some(id) = committed {
            self.flushes.committed(Instant::now(), id.index);
            self.writing(|log| log.commit(StoredLogId(id)))?;
        }
        Ok(())
    }

    async fn read_committed(&mut self) -> io::Result<Option<LogId>> {
        self.reading(|log| Ok(log.log_state().committed().map(|l| l.0)))
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<Types>) -> io::Result<()>
    where
        I: IntoIterator<Item = Entry> + openraft::OptionalSend,
        I::IntoIter: openraft::OptionalSend,
    {
        self.writing(|log| {
            let mut sizes = self.sizes.lock();
            let mut last = 0;
            log.append(entries.into_iter().map(|e| {
                last = e.log_id.index;
                sizes.append(e.log_id.index, size_of(&e.payload) as u64);
                (StoredLogId(e.log_id), StoredPayload(e.payload))
            }))?;
            self.flush(log, last, Told::Raft(callback))
        })
    }

    async fn truncate_after(&mut self, last: Option<LogId>) -> io::Result<()> {
        self.truncate_at(last.map_or(0, |l| l.index + 1)).await
    }

    async fn purge(&mut self, upto: LogId) -> io::Result<()> {
        self.writing(|log| log.purge(StoredLogId(upto)))?;
        self.sizes.lock().purge(upto.index);
        self.sync().await
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use openraft::storage::RaftLogStorageExt;

    pub fn id(term: u64, index: u64) -> LogId {
        let leader_id = LeaderId { term, node_id: 7 };
        LogId { leader_id, index }
    }

    /// A log of one entry for each term given, from index 1 on.
    pub async fn filled(dir: &Path, terms: &[u64]) -> Log {
        let mut log = Log::open(&dir.join("log"), &Options::default()).unwrap();
        log.purge(id(1, 0)).await.unwrap();
        let entries = (1..).zip(terms).map(|(index, term)| Entry {
            log_id: id(*term, index),
            payload: Payload::Blank,
        });
        log.blocking_append(entries).await.unwrap();
        log
    }

    #[tokio::test]
    async fn what_contradicts_a_state_that_was_agreed_on_is_cut() {
        for (terms, applied, last) in [
            (&[1, 1, 1][..], id(1, 2), id(1, 3)), // nothing does
            (&[1, 1, 1], id(2, 2), id(1, 1)),     // an older leader's
            (&[1, 3, 3], id(2, 2), id(1, 1)),     // one that came later and reached nobody
            (&[1, 1, 1], id(2, 9), id(1, 3)),     // Raft purges what is before
        ] {
            let dir = tempfile::tempdir().unwrap();
            let mut log = filled(dir.path(), terms).await;
            log.fit(applied).await.unwrap();
            assert_eq!(log.extent().last, Some(last), "{terms:?} {applied}");
            log.close();
            let log = Log::open(&dir.path().join("log"), &Options::default()).unwrap();
            assert_eq!(log.extent().last, Some(last), "{terms:?} {applied}");
        }
    }

    #[tokio::test]
    async fn a_state_brings_the_term_of_its_leader_and_takes_no_vote_back() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = filled(dir.path(), &[1]).await;
        log.fit(id(2, 5)).await.unwrap();
        assert_eq!(log.saved_vote(), Some(Vote::new_committed(2, 7)));
        let later = Vote::new(3, 9);
        log.save_vote(&later).await.unwrap();
        log.fit(id(2, 6)).await.unwrap();
        assert_eq!(log.saved_vote(), Some(later));
    }
}
