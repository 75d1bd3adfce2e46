//! One entry of the tree, and how it is numbered.
//!
//! A node id is hash(path, version): content under an id never changes, an open file keeps its
//! version, and a restarted process gives the same ids. A directory's id is hash(path) alone.
use super::abi::{S_IFDIR, S_IFLNK, S_IFREG};
use super::content::Place;
use sha2::{Digest, Sha256};
use std::hash::Hasher;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU32, AtomicU64};

/// The number that names no owner and no group, as for the kernel.
pub const NOBODY: u32 = u32::MAX;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Kind {
    #[default]
    File,
    Directory,
    Link,
    /// A file of ours: its content is made anew for each open.
    Made,
}

impl Kind {
    /// The file type bits of a mode.
    pub fn type_bits(self) -> u32 {
        match self {
            Kind::File | Kind::Made => S_IFREG,
            Kind::Directory => S_IFDIR,
            Kind::Link => S_IFLNK,
        }
    }
}

/// A file, directory or symlink at one version. Shared by the tree and by requests under way; what
/// can change is atomic and changes only under the tree's write lock (but for `lookups`, `place`).
pub struct Node {
    pub id: u64,
    pub parent: u64,
    pub name: Box<[u8]>,
    pub kind: Kind,
    pub size: u64,
    /// Of a directory the newest that came to be at or below it.
    pub version: AtomicU64,
    /// Permission bits.
    pub mode: AtomicU32,
    /// `NOBODY`: those of whoever mounts, as for the group.
    pub uid: AtomicU32,
    pub gid: AtomicU32,
    pub mtime_ns: AtomicI64,
    /// How often the kernel has been told this id, less what it has forgotten.
    pub lookups: AtomicU64,
    /// One of `lookups` is for what a former process may have told.
    pub assumed: AtomicBool,
    /// No longer in the tree, or of the past and in no listing that is here; kept while the kernel
    /// knows it.
    pub orphan: AtomicBool,
    /// Below `.dfs/at`: it never changes.
    pub past: bool,
    /// Directories: stays when its last child goes.
    pub explicit: AtomicBool,
    /// Directories: the kernel was told of a name here that it does not exist.
    pub denied: AtomicBool,
    /// Told of by the snapshot that arrives.
    pub seen: AtomicBool,
    /// Files: where the content is, if it is here. Symlinks: the target.
    pub place: Arc<Place>,
    /// Files and symlinks: the record that was committed, as `feed` packs it; empty if none was.
    pub record: Box<[u8]>,
}

impl Node {
    pub fn is_directory(&self) -> bool {
        self.kind == Kind::Directory
    }

    pub fn version(&self) -> u64 {
        self.version.load(Relaxed)
    }

    /// Whether the kernel may hold this id.
    pub fn known(&self) -> bool {
        self.lookups.load(Relaxed) > 0
    }

    pub fn is_orphan(&self) -> bool {
        self.orphan.load(Relaxed)
    }
}

/// Node ids: see the module. Never 0 (none) and 1 (root).
pub fn node_id(kind: Kind, path: &str, version: u64) -> u64 {
    let (domain, version) = match kind {
        Kind::File => (b'f', version),
        Kind::Link => (b'l', version),
        Kind::Directory => (b'd', 0),
        Kind::Made => (b'm', 0),
    };
    digest(domain, version, path.as_bytes())
}

/// Where a name stands in a listing; a listing goes on there even in another process.
pub fn cookie(name: &[u8]) -> u64 {
    digest(b'c', 0, name)
}

/// 61 bits: positive as a file offset, far from the small numbers.
fn digest(domain: u8, version: u64, bytes: &[u8]) -> u64 {
    let mut hash = Sha256::new();
    hash.update([domain]);
    hash.update(version.to_le_bytes());
    hash.update(bytes);
    let first: [u8; 8] = hash.finalize()[..8].try_into().expect("8 of 32 bytes");
    u64::from_le_bytes(first) >> 3 | 1 << 61
}

/// Ids are hashes already.
#[derive(Default)]
pub struct IdHasher(u64);

impl Hasher for IdHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    fn write_u64(&mut self, id: u64) {
        self.0 = id;
    }
}
