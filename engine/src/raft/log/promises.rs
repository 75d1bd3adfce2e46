//! What is on disk for sure, so that its loss is noticed: raft-log takes a log that ends early, or
//! whose last file is missing, for one whose last write was torn.
use super::super::codec::*;
use super::super::types::*;
use super::{Log, RaftLog};
use bytes::{BufMut, Bytes, BytesMut};
use std::io;
use std::path::Path;

/// What this log has on disk for sure: others may count on it, so it must never be missing again.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Promises {
    pub vote: Option<Vote>,
    /// Committed entries up to here.
    pub index: u64,
}

impl Promises {
    pub fn encode(&self) -> Bytes {
        let mut out = BytesMut::new();
        out.put_u64(self.index);
        if let Some(vote) = &self.vote {
            put_vote(&mut out, vote);
        }
        out.freeze()
    }

    pub fn decode(b: &mut Bytes) -> io::Result<Promises> {
        let index = get_u64(b)?;
        let vote = match b.is_empty() {
            true => None,
            false => Some(get_vote(b)?),
        };
        Ok(Promises { vote, index })
    }
}

impl Log {
    /// What is on disk for sure.
    pub fn promises(&self) -> Promises {
        *self.promises.lock()
    }

    /// What is missing of that which was on disk once; `None` = nothing.
    pub fn lost(&self, promised: &Promises) -> Option<String> {
        let log = self.inner.read();
        let log = log.as_ref()?;
        let (end, vote) = (end_of(log), log.log_state().vote().map(|v| v.0));
        if end < promised.index {
            let index = promised.index;
            return Some(format!("it ends at entry {end}, and had {index} on disk"));
        }
        let given = promised.vote?;
        let kept = vote.is_some_and(|v| v >= given);
        let now = vote.map_or("none".into(), |v| v.to_string());
        (!kept).then(|| format!("its vote is {now}, and it has given {given}"))
    }
}

/// The last entry that it has or had before a purge.
pub fn end_of(log: &RaftLog) -> u64 {
    let state = log.log_state();
    let last = state.last().map_or(0, |l| l.0.index);
    last.max(state.purged().map_or(0, |l| l.0.index))
}

/// What is read here counts as being on disk. After a kill it may only be in the system's memory,
/// and a power cut now would take it: entries that the leader has been told of, and votes.
pub fn sync_files(dir: &Path) -> io::Result<()> {
    for item in std::fs::read_dir(dir)? {
        let path = item?.path();
        if path.is_file() {
            std::fs::File::open(path)?.sync_all()?;
        }
    }
    std::fs::File::open(dir)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::super::tests::filled;
    use super::*;
    use crate::raft::options::Options;
    use openraft::storage::RaftLogStorage;

    #[tokio::test]
    async fn what_was_on_disk_once_and_is_missing_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = filled(dir.path(), &[1, 1, 1]).await;
        let vote = Vote::new(3, 9);
        log.save_vote(&vote).await.unwrap();
        log.save_durable(2).await.unwrap();
        let promises = log.promises();
        assert_eq!((promises.vote, promises.index), (Some(vote), 2));
        log.save_durable(9).await.unwrap();
        assert_eq!(
            log.promises().index,
            3,
            "a state may reach further than its log"
        );
        let back = Promises::decode(&mut promises.encode()).unwrap();
        assert_eq!(back, promises);
        assert_eq!(log.lost(&promises), None);
        log.close();
        let log = Log::open(&dir.path().join("log"), &Options::default()).unwrap();
        assert_eq!(log.promises().index, 3);
        assert_eq!(log.lost(&promises), None);
        for (index, vote, words) in [
            (4, None, "it ends at entry 3, and had 4 on disk"),
            (0, Some(Vote::new(4, 1)), "and it has given"),
        ] {
            let text = log.lost(&Promises { vote, index }).unwrap();
            assert!(text.contains(words), "{text}");
        }
        let none = Promises::default();
        assert_eq!(Promises::decode(&mut none.encode()).unwrap(), none);
        assert_eq!(log.lost(&none), None);
    }
}
