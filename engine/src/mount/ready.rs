//! Small files that were closed, or looked up to be opened next, and that the kernel is ready to
//! read by itself.
//!
//! To get it ready costs more than all else that an open does: a file to open, its backing to
//! register, and later both to close. So what was closed stays ready, until its version is no
//! longer shown, its content is hidden (as it is to be removed, and what is open is not removed),
//! or too many others were closed since.
use super::node::Node;
use super::pins::{Pin, is_as_committed, path_of};
use std::collections::{BTreeMap, HashMap};
use std::fs::{File, Metadata, symlink_metadata};
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;

/// So many files are ready: for each the kernel has an inode, a name and an open file, and the
/// table a row, some 34 MiB in all. They are none of our descriptors, but they count among the open
/// files of the machine: where it has 1 GiB of memory, they are a sixth of what the kernel allows.
pub const READY_MAX: usize = 16_384;
/// What costs with larger files is to read them.
pub const READY_BYTES_MAX: u64 = 128 << 10;

/// The local file that the kernel reads for a node.
pub struct Local {
    node: Arc<Node>,
    inode: (u64, u64),
}

impl Local {
    /// None: not one to stay ready. Nobody tells of content of the past that is to be removed.
    pub fn of(node: &Arc<Node>, file: &File) -> Option<Local> {
        let found = Local::may_stay(node).then(|| file.metadata().ok());
        let found = found.flatten()?;
        Some(Local {
            node: node.clone(),
            inode: inode(&found),
        })
    }

    pub fn may_stay(node: &Node) -> bool {
        node.size <= READY_BYTES_MAX && !node.past
    }

    /// The node is shown, and its content.
    fn is_shown(&self) -> bool {
        !self.node.is_orphan() && self.node.place.lock().is_some()
    }

    /// Its place still names that file, which is as it was committed: what an open goes by.
    pub fn is_in_place(&self) -> bool {
        let place = self.node.place.lock();
        let found = place.as_deref().map(|at| symlink_metadata(path_of(at)));
        let same = |found| inode(found) == self.inode && is_as_committed(&self.node, found);
        matches!(found, Some(Ok(found)) if same(&found))
    }
}

fn inode(of: &Metadata) -> (u64, u64) {
    (of.dev(), of.ino())
}

/// Which files are ready.
#[derive(Default)]
pub struct Ready {
    /// By node, each with its turn.
    files: HashMap<u64, (u64, Pin)>,
    /// Their nodes by turn, in the order in which they came.
    turns: BTreeMap<u64, u64>,
    next: u64,
}

impl Ready {
    pub fn count(&self) -> usize {
        self.files.len()
    }

    pub fn has(&self, id: u64) -> bool {
        self.files.contains_key(&id)
    }

    /// Takes a file that nobody has open. Returns the one that is not to be ready any longer, if
    /// any: the one that came first, or itself.
    pub fn put(&mut self, id: u64, pin: Pin) -> Option<Pin> {
        if !pin.local.as_ref().is_some_and(Local::is_shown) {
            return Some(pin);
        }
        self.next += 1;
        self.turns.insert(self.next, id);
        self.files.insert(id, (self.next, pin));
        let first = self.turns.first_key_value().map(|(_, id)| *id);
        first
            .filter(|_| self.count() > READY_MAX)
            .and_then(|id| self.take(id))
    }

    /// Takes a file out.
    pub fn take(&mut self, id: u64) -> Option<Pin> {
        let (turn, pin) = self.files.remove(&id)?;
        self.turns.remove(&turn);
        Some(pin)
    }

    /// Takes out what is not shown.
    pub fn take_hidden(&mut self) -> Vec<Pin> {
        let hidden = |pin: &Pin| !pin.local.as_ref().is_some_and(Local::is_shown);
        let files = self.files.iter();
        let ids: Vec<u64> = files
            .filter(|(_, (_, pin))| hidden(pin))
            .map(|(id, _)| *id)
            .collect();
        ids.into_iter().filter_map(|id| self.take(id)).collect()
    }
}

#[cfg(test)]
#[path = "tests/ready.rs"]
mod tests;
