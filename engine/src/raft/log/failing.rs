//! A disk that fails: the first error is the last word, and a start trusts only what is on disk.
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// The first failure of a write or sync.
pub struct Broken {
    dir: PathBuf,
    why: OnceLock<String>,
}

impl Broken {
    /// Of a log that nothing has happened to.
    pub fn none(dir: &Path) -> Broken {
        Broken {
            dir: dir.into(),
            why: OnceLock::new(),
        }
    }

    pub fn why(&self) -> Option<&str> {
        self.why.get().map(String::as_str)
    }

    pub fn by(&self, error: &io::Error) {
        let dir = self.dir.display();
        let _ = self
            .why
            .set(format!("the log in {dir} cannot be written: {error}"));
    }

    pub fn check(&self) -> io::Result<()> {
        self.why
            .get()
            .map_or(Ok(()), |why| Err(io::Error::other(why.clone())))
    }
}

/// Puts what memory has of the newest files onto the disk and forgets it, so that it is read from
/// there. After a failed sync the kernel shows what was written as if it were on disk; the process
/// ended for that, and the next one must not build on it. Older files were synced before the newest
/// was written.
pub fn settle(dir: &Path) -> io::Result<()> {
    let mut files: Vec<PathBuf> = std::fs::read_dir(dir)?
        .map(|item| Ok(item?.path()))
        .collect::<io::Result<_>>()?;
    files.retain(|path| path.extension().is_some_and(|e| e == "wal"));
    files.sort();
    for path in files.iter().rev().take(2) {
        let file = File::open(path)?;
        file.sync_all()?;
        let (descriptor, forget) = (file.as_raw_fd(), libc::POSIX_FADV_DONTNEED);
        // SAFETY: advice about a descriptor that `file` keeps open; it touches no memory.
        let refused = unsafe { libc::posix_fadvise(descriptor, 0, 0, forget) };
        if refused != 0 {
            return Err(io::Error::from_raw_os_error(refused));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use crate::raft::log::Log;
    use crate::raft::options::Options;
    use crate::raft::types::Vote;
    use openraft::storage::RaftLogStorage;

    #[tokio::test]
    async fn what_failed_once_is_not_tried_again() {
        let dir = tempfile::tempdir().unwrap();
        let (path, away) = (dir.path().join("log"), dir.path().join("away"));
        let options = Options {
            log_file_bytes: 1, // each record wants a file of its own
            ..Options::default()
        };
        let mut log = Log::open(&path, &options).unwrap();
        log.save_vote(&Vote::new(1, 1)).await.unwrap();
        assert_eq!(log.failure(), None);
        std::fs::rename(&path, &away).unwrap();
        let failed = log.save_vote(&Vote::new(2, 1)).await.unwrap_err();
        assert!(failed.to_string().contains(path.to_str().unwrap()));
        std::fs::rename(&away, &path).unwrap();
        let again = log.save_vote(&Vote::new(3, 1)).await.unwrap_err();
        assert_eq!(failed.to_string(), again.to_string());
        assert_eq!(log.failure(), Some(failed.to_string().as_str()));
        log.close();
        let saved = Log::open(&path, &options).unwrap().saved_vote();
        assert!(saved < Some(Vote::new(3, 1)), "{saved:?}");
    }
}
