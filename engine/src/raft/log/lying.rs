//! The log of a node that does not run, read as it lies there.
//!
//! To open a log cuts a torn tail off and may begin a file. Here nothing in the directory is
//! changed, every record is decoded (each has a checksum), and what replaying would refuse, or
//! would not notice, is written down as a problem.
use super::super::types::*;
use super::stored::*;
use raft_log::codeq::Decode;
use raft_log::{RaftLogAction, RaftLogRecord, WALRecord};
use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

type Record = RaftLogRecord<LogTypes>;

const BUFFER_BYTES: usize = 1 << 20;
/// Problems that are told; the first ones say where to look.
const PROBLEMS_MAX: usize = 20;

/// What the records leave behind, one after the other.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Standing {
    pub vote: Option<Vote>,
    pub last: Option<LogId>,
    pub committed: Option<LogId>,
    pub purged: Option<LogId>,
    /// Index up to which the store was on disk when it last said so.
    pub durable: u64,
}

struct Place {
    id: LogId,
    file: usize,
    at: u64,
}

/// The whole log: what it says of itself, and where each entry stands.
#[derive(Default)]
pub struct LyingLog {
    files: Vec<PathBuf>,
    entries: VecDeque<Place>,
    pub standing: Standing,
    pub bytes: u64,
    /// At the end of the last file, no whole record: opening the log cuts them off.
    pub torn: u64,
    pub problems: Vec<String>,
}

/// Counts what has been read.
struct Counted<R> {
    inner: R,
    at: u64,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buffer)?;
        self.at += n as u64;
        Ok(n)
    }
}

impl LyingLog {
    /// Reads the directory of a log; one that does not exist is an empty log.
    pub fn read(dir: &Path) -> io::Result<LyingLog> {
        let mut log = LyingLog::default();
        let mut starts = Vec::new();
        match std::fs::read_dir(dir) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(log),
            items => {
                for item in items? {
                    let path = item?.path();
                    let name = path.file_name().and_then(|n| n.to_str()).unwrap_or("");
                    if let Ok(start) = raft_log::chunked_wal::Config::parse_chunk_file_name(name) {
                        starts.push((start, path));
                    }
                }
            }
        }
        starts.sort();
        let count = starts.len();
        let mut expected = starts.first().map_or(0, |s| s.0);
        for (number, (start, path)) in starts.into_iter().enumerate() {
            if start != expected {
                log.problem(format!(
                    "the log has a gap of {} bytes before {}: a file is missing or was cut",
                    start.abs_diff(expected),
                    path.display()
                ));
            }
            log.files.push(path);
            match log.read_file(number + 1 == count)? {
                Some(size) => expected = start + size,
                None => break, // what is behind the damage says nothing for sure
            }
        }
        log.finish();
        Ok(log)
    }

    fn problem(&mut self, text: String) {
        if self.problems.len() < PROBLEMS_MAX {
            self.problems.push(text);
        }
    }

    /// Reads the file that was named last; its size, or `None` where it is damaged.
    fn read_file(&mut self, is_last: bool) -> io::Result<Option<u64>> {
        let number = self.files.len() - 1;
        let path = self.files[number].clone();
        let file = File::open(&path)?;
        let size = file.metadata()?.len();
        self.bytes += size;
        let mut reader = Counted {
            inner: BufReader::with_capacity(BUFFER_BYTES, file),
            at: 0,
        };
        let mut first = true;
        while reader.at < size {
            let at = reader.at;
            match Record::decode(&mut reader) {
                Ok(record) => self.take(record, number, at, first),
                Err(e) => return self.end_early(&path, at, size, is_last, e),
            }
            first = false;
        }
        if first && !is_last {
            self.problem(format!("{} is empty", path.display()));
        }
        Ok(Some(size))
    }

    /// A record that cannot be decoded: the torn end of the log, or damage.
    fn end_early(
        &mut self,
        path: &Path,
        at: u64,
        size: u64,
        is_last: bool,
        error: io::Error,
    ) -> io::Result<Option<u64>> {
        let mut rest = Vec::new();
        let mut file = File::open(path)?;
        file.seek(SeekFrom::Start(at))?;
        file.read_to_end(&mut rest)?;
        let torn = error.kind() == io::ErrorKind::UnexpectedEof || rest.iter().all(|b| *b == 0);
        if is_last && torn && !holds_a_record(&rest[1..]) {
            self.torn = size - at;
            return Ok(Some(at));
        }
        self.problem(format!(
            "{} is damaged at byte {at} of {size}: {error}; what is behind it was not read",
            path.display()
        ));
        Ok(None)
    }

    fn take(&mut self, record: Record, file: usize, at: u64, first: bool) {
        match record {
            WALRecord::Action(RaftLogAction::SaveVote(vote)) => {
                if self.standing.vote.is_some_and(|old| old > vote.0) {
                    self.problem(format!("the vote goes back to {}", vote.0));
                }
                self.standing.vote = Some(vote.0);
            }
            WALRecord::Action(RaftLogAction::Append(id, _)) => self.append(id.0, file, at),
            WALRecord::Action(RaftLogAction::Commit(id)) => {
                self.standing.committed = Some(id.0);
            }
            WALRecord::Action(RaftLogAction::TruncateAfter(id)) => {
                self.truncate(id.map(|i| i.0));
            }
            WALRecord::Action(RaftLogAction::PurgeUpto(id)) => self.purge(id.0),
            WALRecord::Checkpoint(state) => {
                let said = Standing {
                    vote: state.vote().map(|v| v.0),
                    last: state.last().map(|l| l.0),
                    committed: state.committed().map(|l| l.0),
                    purged: state.purged().map(|l| l.0),
                    durable: state.user_data.unwrap_or(0),
                };
                let known = Standing {
                    durable: said.durable,
                    ..self.standing.clone()
                };
                let begins = file == 0 && first;
                if !begins && (said != known || said.durable < self.standing.durable) {
                    self.problem(format!(
                        "{} says at byte {at} that the log before it ends otherwise than it does: \
                         a file was exchanged",
                        self.files[file].display()
                    ));
                }
                self.standing = said;
            }
        }
    }

    fn append(&mut self, id: LogId, file: usize, at: u64) {
        if let Some(last) = self.standing.last {
            if id.index != last.index + 1 {
                self.problem(format!(
                    "entry {} stands behind entry {}",
                    id.index, last.index
                ));
            }
            if id.leader_id < last.leader_id {
                self.problem(format!(
                    "the term goes back from {} to {} at entry {}",
                    last.leader_id.term, id.leader_id.term, id.index
                ));
            }
        }
        self.standing.last = Some(id);
        self.entries.push_back(Place { id, file, at });
    }

    fn truncate(&mut self, last: Option<LogId>) {
        if last < self.standing.committed {
            self.problem(format!(
                "entries behind {} were taken back, though {} was committed",
                last.map_or(0, |l| l.index),
                self.standing.committed.map_or(0, |l| l.index),
            ));
        }
        while self.entries.back().is_some_and(|e| Some(e.id) > last) {
            self.entries.pop_back();
        }
        if self.standing.last > last {
            self.standing.last = last;
        }
    }

    fn purge(&mut self, upto: LogId) {
        while self
            .entries
            .front()
            .is_some_and(|e| e.id.index <= upto.index)
        {
            self.entries.pop_front();
        }
        if self.standing.purged < Some(upto) {
            self.standing.purged = Some(upto);
        }
        if self.standing.last < Some(upto) {
            self.standing.last = Some(upto);
        }
    }

    /// What must be true at the end.
    fn finish(&mut self) {
        let Standing {
            vote, last, purged, ..
        } = self.standing.clone();
        let begin = purged.map_or(0, |p| p.index + 1);
        let end = last.map_or(0, |l| l.index + 1);
        let first = self.entries.front().map_or(end, |e| e.id.index);
        if begin < first {
            self.problem(format!(
                "the entries {begin} to {} are missing at the log's beginning",
                first - 1
            ));
        }
        let voted = vote.map(|v| v.leader_id);
        if let Some(last) = last.filter(|l| l.leader_id.term > 0 && Some(l.leader_id) > voted) {
            self.problem(format!(
                "the last entry {} is of term {}, but the vote is of term {}: the vote was lost",
                last.index,
                last.leader_id.term,
                voted.map_or(0, |v| v.term),
            ));
        }
    }

    pub fn count(&self) -> usize {
        self.entries.len()
    }

    /// Entries from `start` on, up to about so many bytes, at least one if there is any.
    pub fn entries(&self, start: u64, bytes_max: usize) -> io::Result<Vec<Entry>> {
        let mut found = Vec::new();
        let mut bytes = 0;
        let mut open: Option<(usize, BufReader<File>)> = None;
        let from = self.entries.partition_point(|p| p.id.index < start);
        for place in self.entries.range(from..) {
            let mut reader = match open.take() {
                Some((number, reader)) if number == place.file => reader,
                _ => BufReader::new(File::open(&self.files[place.file])?),
            };
            let there = reader.stream_position()?;
            reader.seek_relative(place.at as i64 - there as i64)?;
            let record = Record::decode(&mut reader)?;
            let WALRecord::Action(RaftLogAction::Append(id, payload)) = record else {
                return Err(io::Error::other("the log was changed while it was read"));
            };
            bytes += size_of(&payload.0);
            found.push(Entry {
                log_id: id.0,
                payload: payload.0,
            });
            if bytes >= bytes_max {
                break;
            }
            open = Some((place.file, reader));
        }
        Ok(found)
    }
}

/// A whole record stands somewhere in there: then what is before it was no torn end.
fn holds_a_record(bytes: &[u8]) -> bool {
    // Before a record's checksum is looked at, its kind must be one that there is.
    let kinds = bytes.windows(4).enumerate();
    let mut starts = kinds.filter(|(_, kind)| kind[..3] == [0; 3] && kind[3] <= 5);
    starts.any(|(at, _)| Record::decode(&bytes[at..]).is_ok())
}

#[cfg(test)]
mod tests {
    use super::super::Log;
    use super::*;
    use crate::raft::options::Options;
    use bytes::Bytes;
    use raft_log::api::raft_log_writer::RaftLogWriter;
    use std::fs::OpenOptions;
    use std::os::unix::fs::FileExt;

    fn id(term: u64, index: u64) -> LogId {
        let leader_id = LeaderId { term, node_id: 7 };
        LogId { leader_id, index }
    }

    fn append(log: &Log, ids: impl IntoIterator<Item = LogId>) {
        let stored = ids.into_iter().map(|id| {
            let text = format!("entry {} {}", id.index, "x".repeat(100));
            let payload = Payload::Normal(Command(Bytes::from(text)));
            (StoredLogId(id), StoredPayload(payload))
        });
        log.writing(|l| l.append(stored)).unwrap();
    }

    /// A log with all that happens to one, closed.
    fn written(dir: &Path) {
        let log = Log::open(dir, &Options::default()).unwrap();
        log.writing(|l| l.save_vote(StoredVote(Vote::new_committed(1, 7))))
            .unwrap();
        append(&log, (0..50).map(|i| id(1, i)));
        log.writing(|l| l.commit(StoredLogId(id(1, 30)))).unwrap();
        log.writing(|l| l.save_user_data(Some(25))).unwrap();
        log.writing(|l| l.purge(StoredLogId(id(1, 9)))).unwrap();
        log.writing(|l| l.truncate(40)).unwrap();
        log.writing(|l| l.save_vote(StoredVote(Vote::new(3, 7))))
            .unwrap();
        append(&log, (40..45).map(|i| id(3, i)));
        log.writing(|l| l.flush(true, None)).unwrap();
        log.close();
    }

    fn only_file(dir: &Path) -> PathBuf {
        let files = std::fs::read_dir(dir).unwrap().map(|f| f.unwrap().path());
        let mut found = files.filter(|f| f.extension().is_some());
        (found.next().unwrap(), assert!(found.next().is_none())).0
    }

    #[test]
    fn a_log_is_read_as_it_would_be_opened_and_nothing_is_changed() {
        let dir = tempfile::tempdir().unwrap();
        written(dir.path());
        let before = std::fs::read(only_file(dir.path())).unwrap();
        let log = LyingLog::read(dir.path()).unwrap();
        assert_eq!((&log.problems[..], log.torn), (&[][..], 0));
        let expected = Standing {
            vote: Some(Vote::new(3, 7)),
            last: Some(id(3, 44)),
            committed: Some(id(1, 30)),
            purged: Some(id(1, 9)),
            durable: 25,
        };
        assert_eq!(log.standing, expected);
        let entries = log.entries(0, usize::MAX).unwrap();
        let terms: Vec<u64> = entries.iter().map(|e| e.log_id.leader_id.term).collect();
        assert_eq!(terms, [vec![1; 30], vec![3; 5]].concat());
        assert_eq!(entries[0].log_id.index, 10);
        assert_eq!(log.entries(43, 1).unwrap()[0].log_id, id(3, 43));
        assert_eq!(log.entries(45, 1).unwrap().len(), 0);
        assert_eq!(std::fs::read(only_file(dir.path())).unwrap(), before);
    }

    #[test]
    fn a_torn_end_is_no_damage_but_one_with_records_behind_it_is() {
        let dir = tempfile::tempdir().unwrap();
        written(dir.path());
        let file = OpenOptions::new().write(true).open(only_file(dir.path()));
        let file = file.unwrap();
        let size = file.metadata().unwrap().len();
        file.set_len(size - 5).unwrap();
        let log = LyingLog::read(dir.path()).unwrap();
        assert!(log.problems.is_empty(), "{:?}", log.problems);
        assert!(log.torn > 5);
        assert_eq!(log.standing.last, Some(id(3, 43)));
        // The length of an earlier payload, so that it reaches behind the end of the file.
        let bytes = std::fs::read(only_file(dir.path())).unwrap();
        let text = bytes.windows(8).position(|w| w == b"entry 20").unwrap();
        file.write_all_at(&[0xff], text as u64 - 4).unwrap();
        let log = LyingLog::read(dir.path()).unwrap();
        assert_eq!((log.problems.len(), log.torn), (1, 0), "{:?}", log.problems);
        assert!(log.problems[0].contains("is damaged at byte"));
    }

    #[test]
    fn any_flipped_bit_in_a_record_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        written(dir.path());
        let path = only_file(dir.path());
        let file = OpenOptions::new().write(true).open(&path).unwrap();
        let whole = std::fs::read(&path).unwrap();
        for (at, byte) in whole.iter().enumerate().step_by(7) {
            file.write_all_at(&[byte ^ 1 << (at % 8)], at as u64)
                .unwrap();
            let log = LyingLog::read(dir.path()).unwrap();
            let last = log.standing.last;
            // What is taken for a torn end is the last record alone: nothing tells it from one.
            let noticed = !log.problems.is_empty() || (log.torn > 0 && last == Some(id(3, 43)));
            assert!(noticed, "byte {at} of {}", whole.len());
            file.write_all_at(&[*byte], at as u64).unwrap();
        }
    }

    #[test]
    fn a_missing_file_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let log = Log::open(dir.path(), &Options::default()).unwrap();
        log.writing(|l| l.save_vote(StoredVote(Vote::new(1, 7))))
            .unwrap();
        for part in 0..40 {
            let text = "y".repeat(1 << 20);
            let payload = Payload::Normal(Command(Bytes::from(text)));
            let entry = (StoredLogId(id(1, part)), StoredPayload(payload));
            log.writing(|l| l.append([entry])).unwrap();
        }
        log.writing(|l| l.flush(true, None)).unwrap();
        log.close();
        let read = LyingLog::read(dir.path()).unwrap();
        assert_eq!((read.problems.len(), read.count()), (0, 40));
        assert_eq!(read.entries(0, usize::MAX).unwrap().len(), 40);
        let mut files = read.files.clone();
        assert!(files.len() > 2);
        std::fs::remove_file(files.remove(1)).unwrap();
        let read = LyingLog::read(dir.path()).unwrap();
        assert!(read.problems[0].contains("gap"), "{:?}", read.problems);
    }
}
