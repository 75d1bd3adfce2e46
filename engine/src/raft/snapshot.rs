//! The current snapshot: a mark, or a file named by its log id with a note of what it is beside it.
//!
//! A mark says that the state at a log id has been applied here, so that the log before it can go
//! once the store is on disk. It costs nothing and is not stored: after a restart the opened store
//! is the mark. A file is written when a member needs one, and received from a leader.
//!
//! `<dir>/snapshot-<term>-<node>-<index>` is what Python wrote; `….meta` says log id, membership,
//! size and SHA-256. The note is written last: a snapshot without one does not exist. Everything
//! appears by write, fsync, rename, fsync of the directory.
use super::codec::*;
use super::types::*;
use crate::contents::hex;
use bytes::{BufMut, Bytes, BytesMut};
use parking_lot::{Mutex, MutexGuard};
use sha2::{Digest, Sha256};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

const BUFFER_BYTES: usize = 1 << 20;
const META_SUFFIX: &str = ".meta";
const PART_SUFFIX: &str = ".part";
const BUILDING: &str = "building-";

/// A complete, verified snapshot on disk, or a mark.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// Empty: a mark, of which nothing can be read.
    pub path: PathBuf,
    pub size: u64,
    pub sha256: [u8; 32],
    pub meta: SnapshotMeta,
}

impl Snapshot {
    pub fn index(&self) -> u64 {
        self.meta.last_log_id.map_or(0, |l| l.index)
    }

    fn mark(meta: SnapshotMeta) -> Snapshot {
        Snapshot {
            path: PathBuf::new(),
            size: 0,
            sha256: [0; 32],
            meta,
        }
    }

    pub fn is_file(&self) -> bool {
        !self.path.as_os_str().is_empty()
    }

    /// It can be read, and brings a reader up to `index` at least.
    fn serves(&self, index: u64) -> bool {
        self.is_file() && self.index() >= index
    }

    /// What it is, without its bytes: the note on disk and the head of a transfer.
    pub fn encode(&self) -> Bytes {
        let mut out = BytesMut::new();
        put_opt_log_id(&mut out, &self.meta.last_log_id);
        put_bytes(&mut out, &membership_bytes(&self.meta.last_membership));
        out.put_u64(self.size);
        out.put_slice(&self.sha256);
        out.freeze()
    }

    pub fn decode(path: PathBuf, b: &mut Bytes) -> io::Result<Snapshot> {
        let last_log_id = get_opt_log_id(b)?;
        let last_membership = stored_membership(&get_bytes(b)?)?;
        let size = get_u64(b)?;
        let mut sha256 = [0; 32];
        sha256.copy_from_slice(&take(b, 32)?);
        Ok(Snapshot {
            path,
            size,
            sha256,
            meta: SnapshotMeta {
                last_log_id,
                last_membership,
            },
        })
    }
}

fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

/// Digest and size of a file.
pub fn digest(path: &Path) -> io::Result<([u8; 32], u64)> {
    let mut file = File::open(path)?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; BUFFER_BYTES];
    let mut size = 0;
    loop {
        let n = file.read(&mut buffer)?;
        if n == 0 {
            return Ok((hasher.finalize().into(), size));
        }
        hasher.update(&buffer[..n]);
        size += n as u64;
    }
}

/// The directory of snapshots; clones share it.
#[derive(Clone)]
pub struct Snapshots {
    dir: Arc<PathBuf>,
    current: Arc<Mutex<Option<Snapshot>>>,
}

impl Snapshots {
    /// Finds the newest whole snapshot and removes what else lies about, except parts of transfers.
    pub fn open(dir: &Path) -> io::Result<Snapshots> {
        fs::create_dir_all(dir)?;
        let mut newest: Option<Snapshot> = None;
        for item in fs::read_dir(dir)? {
            let note = item?.path();
            if note.to_str().is_some_and(|n| n.contains(BUILDING)) {
                fs::remove_file(&note)?; // of a process that ended before it was done
                continue;
            }
            let Some(name) = note.to_str().and_then(|n| n.strip_suffix(META_SUFFIX)) else {
                continue;
            };
            let mut bytes = Bytes::from(fs::read(&note)?);
            // A note that makes no sense is none: the file can be had again.
            let Ok(snapshot) = Snapshot::decode(name.into(), &mut bytes) else {
                continue;
            };
            let whole = fs::metadata(&snapshot.path).is_ok_and(|m| m.len() == snapshot.size);
            let newer = |n: &Snapshot| n.meta.last_log_id < snapshot.meta.last_log_id;
            if whole && newest.as_ref().is_none_or(newer) {
                newest = Some(snapshot);
            }
        }
        let all = Snapshots {
            dir: Arc::new(dir.into()),
            current: Arc::new(Mutex::new(newest)),
        };
        all.sweep(&all.current.lock())?;
        Ok(all)
    }

    pub fn current(&self) -> Option<Snapshot> {
        self.current.lock().clone()
    }

    /// A free path for Python to write to.
    pub fn fresh_path(&self, index: u64) -> PathBuf {
        self.dir.join(format!("{BUILDING}{index}"))
    }

    /// Where a transfer with this digest is kept while it is under way.
    pub fn part_path(&self, sha256: &[u8; 32]) -> PathBuf {
        self.dir.join(hex(sha256) + PART_SUFFIX)
    }

    fn final_path(&self, id: &Option<LogId>) -> PathBuf {
        let (term, node, index) = id.map_or((0, 0, 0), |l| {
            (l.leader_id.term, l.leader_id.node_id, l.index)
        });
        self.dir.join(format!("snapshot-{term}-{node}-{index}"))
    }

    /// The current one, if it is a file and not older than `index`.
    pub fn file(&self, index: u64) -> Option<Snapshot> {
        self.current().filter(|s| s.serves(index))
    }

    /// The same with its file opened, which stays readable when a newer one replaces it.
    pub fn opened(&self, index: u64) -> io::Result<Option<(Snapshot, File)>> {
        let current = self.current.lock(); // so that it is not swept in between
        let Some(found) = current.as_ref().filter(|s| s.serves(index)) else {
            return Ok(None);
        };
        Ok(Some((found.clone(), File::open(&found.path)?)))
    }

    /// Makes a state that the store has applied the current snapshot, unless a newer one is; an
    /// older file goes.
    pub fn mark(&self, meta: SnapshotMeta) -> io::Result<()> {
        let mut current = self.current.lock();
        let newer = |c: &Snapshot| c.meta.last_log_id >= meta.last_log_id;
        if current.as_ref().is_some_and(newer) {
            return Ok(());
        }
        let files = current.as_ref().is_some_and(Snapshot::is_file);
        *current = Some(Snapshot::mark(meta));
        if files { self.sweep(&current) } else { Ok(()) }
    }

    /// Makes the file that Python wrote at `path` the current snapshot, unless a newer one came
    /// meanwhile. Blocks for the digest and the syncs.
    pub fn complete(&self, path: &Path, meta: SnapshotMeta) -> io::Result<Snapshot> {
        OpenOptions::new().write(true).open(path)?.sync_all()?;
        let (sha256, size) = digest(path)?;
        self.adopt(Snapshot {
            path: path.into(),
            size,
            sha256,
            meta,
        })
    }

    /// Removes a file that turned out to be damaged. The state in the store is not: if it has
    /// applied as much, it stays as the mark that it is as well.
    pub fn demote(&self, path: &Path, applied: u64) -> io::Result<()> {
        let mut current = self.current.lock();
        let Some(file) = current.take_if(|c| c.path == path) else {
            return Ok(()); // it has been replaced meanwhile
        };
        *current = (file.index() <= applied).then(|| Snapshot::mark(file.meta));
        self.sweep(&current)
    }

    /// Removes the file that is here, for one from elsewhere.
    pub fn clear(&self) -> io::Result<()> {
        let mut current = self.current.lock();
        *current = None;
        self.sweep(&current)
    }

    /// Makes sure that a snapshot from elsewhere is here; a transfer has put it here already.
    pub fn ensure(&self, snapshot: &Snapshot) -> io::Result<()> {
        if self.file(snapshot.index()).is_some() {
            return Ok(());
        }
        let path = self.fresh_path(snapshot.index());
        fs::copy(&snapshot.path, &path)?;
        self.complete(&path, snapshot.meta.clone()).map(|_| ())
    }

    /// Makes a verified and synced file current; returns the snapshot that is current after it.
    pub fn adopt(&self, mut snapshot: Snapshot) -> io::Result<Snapshot> {
        let mut current = self.current.lock();
        let id = snapshot.meta.last_log_id;
        let newer = |c: &&Snapshot| match c.is_file() {
            true => c.meta.last_log_id >= id,
            false => c.meta.last_log_id > id, // a file of the same state is worth more than a mark
        };
        if let Some(newer) = current.as_ref().filter(newer) {
            fs::remove_file(&snapshot.path)?;
            return Ok(newer.clone());
        }
        let path = self.final_path(&snapshot.meta.last_log_id);
        fs::rename(&snapshot.path, &path)?;
        snapshot.path = path;
        let note = PathBuf::from(format!("{}{META_SUFFIX}", snapshot.path.display()));
        let temporary = note.with_extension("new");
        let mut file = File::create(&temporary)?;
        file.write_all(&snapshot.encode())?;
        file.sync_all()?;
        fs::rename(&temporary, &note)?;
        sync_dir(&self.dir)?;
        *current = Some(snapshot.clone());
        self.sweep(&current)?;
        Ok(snapshot)
    }

    /// Removes everything but the current snapshot and parts of transfers. With the lock held to
    /// the end: otherwise a file that is adopted meanwhile would be taken for an old one.
    fn sweep(&self, current: &MutexGuard<Option<Snapshot>>) -> io::Result<()> {
        let current = current.as_ref().filter(|c| c.is_file());
        let keep = current.map(|c| &c.path);
        for item in fs::read_dir(&*self.dir)? {
            let path = item?.path();
            let name = path.to_str().unwrap_or("");
            let current = keep.is_some_and(|k| {
                path == *k
                    || name
                        .strip_suffix(META_SUFFIX)
                        .is_some_and(|n| Path::new(n) == k)
            });
            if !current && !name.ends_with(PART_SUFFIX) && !name.contains(BUILDING) {
                fs::remove_file(&path)?;
            }
        }
        Ok(())
    }

    /// Removes parts of other transfers than this one.
    pub fn sweep_parts(&self, keep: &Path) -> io::Result<()> {
        for item in fs::read_dir(&*self.dir)? {
            let path = item?.path();
            if path != keep && path.to_str().is_some_and(|n| n.ends_with(PART_SUFFIX)) {
                fs::remove_file(&path)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn meta(index: u64) -> SnapshotMeta {
        let leader_id = LeaderId {
            term: 1,
            node_id: 7,
        };
        SnapshotMeta {
            last_log_id: Some(LogId { leader_id, index }),
            ..Default::default()
        }
    }

    fn build(all: &Snapshots, index: u64) -> Snapshot {
        let path = all.fresh_path(index);
        fs::write(&path, format!("state at {index}")).unwrap();
        all.complete(&path, meta(index)).unwrap()
    }

    #[test]
    fn the_newest_is_found_again_and_the_rest_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let all = Snapshots::open(dir.path()).unwrap();
        build(&all, 5);
        let newest = build(&all, 9);
        fs::write(dir.path().join("snapshot-1-7-11"), "no note: not whole").unwrap();
        let found = Snapshots::open(dir.path()).unwrap().current().unwrap();
        assert_eq!((found.index(), found.sha256), (9, newest.sha256));
        assert_eq!(fs::read_to_string(&found.path).unwrap(), "state at 9");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2);
    }

    #[test]
    fn a_build_that_ends_late_does_not_replace_a_newer_snapshot() {
        let dir = tempfile::tempdir().unwrap();
        let all = Snapshots::open(dir.path()).unwrap();
        build(&all, 9);
        assert_eq!(build(&all, 5).index(), 9);
        assert_eq!(all.current().unwrap().index(), 9);
    }

    #[test]
    fn a_mark_replaces_an_older_file_and_a_file_the_mark_of_its_state() {
        let dir = tempfile::tempdir().unwrap();
        let all = Snapshots::open(dir.path()).unwrap();
        let files = || fs::read_dir(dir.path()).unwrap().count();
        let old = build(&all, 5);
        all.mark(meta(4)).unwrap();
        all.mark(meta(5)).unwrap();
        assert_eq!(all.file(5).unwrap().sha256, old.sha256, "nothing is newer");
        all.mark(meta(9)).unwrap();
        assert_eq!((all.current().unwrap().index(), files()), (9, 0));
        assert!(all.file(0).is_none());
        assert_eq!(build(&all, 7).index(), 9, "too late");
        assert_eq!(files(), 0);
        assert!(build(&all, 9).is_file());
        assert_eq!(all.file(9).unwrap().index(), 9);
        assert!(all.file(10).is_none(), "it is older");
        let found = Snapshots::open(dir.path()).unwrap();
        assert_eq!(found.current().unwrap().index(), 9);
        found.mark(meta(11)).unwrap();
        let found = Snapshots::open(dir.path()).unwrap();
        assert!(found.current().is_none(), "a mark is not stored");
    }

    #[test]
    fn a_file_that_has_been_opened_for_sending_can_be_read_when_a_mark_has_swept_it() {
        let dir = tempfile::tempdir().unwrap();
        let all = Snapshots::open(dir.path()).unwrap();
        build(&all, 5);
        assert!(all.opened(6).unwrap().is_none(), "it is older");
        let (found, mut file) = all.opened(4).unwrap().unwrap();
        assert_eq!(found.index(), 5);
        all.mark(meta(9)).unwrap();
        assert!(!found.path.exists());
        assert!(all.opened(4).unwrap().is_none());
        let mut text = String::new();
        file.read_to_string(&mut text).unwrap();
        assert_eq!(text, "state at 5");
    }

    #[test]
    fn a_file_that_is_damaged_or_has_a_note_that_is_goes() {
        let dir = tempfile::tempdir().unwrap();
        let all = Snapshots::open(dir.path()).unwrap();
        let old = build(&all, 5);
        all.demote(Path::new("another"), 5).unwrap();
        assert!(all.file(5).is_some());
        all.demote(&old.path, 5).unwrap();
        assert!(all.file(5).is_none());
        assert_eq!(all.current().unwrap().index(), 5);
        let not_installed = build(&all, 6);
        all.demote(&not_installed.path, 5).unwrap();
        assert!(all.current().is_none());
        build(&all, 7);
        all.clear().unwrap();
        assert!(all.current().is_none());
        build(&all, 9);
        let note = dir.path().join("snapshot-1-7-9.meta");
        fs::write(&note, &fs::read(&note).unwrap()[..9]).unwrap();
        assert!(Snapshots::open(dir.path()).unwrap().current().is_none());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_snapshot_of_another_size_than_noted_is_not_used() {
        let dir = tempfile::tempdir().unwrap();
        let all = Snapshots::open(dir.path()).unwrap();
        let snapshot = build(&all, 5);
        fs::write(&snapshot.path, "cut").unwrap();
        assert!(Snapshots::open(dir.path()).unwrap().current().is_none());
    }
}
