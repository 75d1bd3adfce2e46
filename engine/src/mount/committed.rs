//! What the tree holds of what is committed, by path, for those who do not ask through the kernel.
use super::abi::ROOT;
use super::change::Batch;
use super::content::Digest;
use super::feed;
use super::node::{Node, cookie};
use super::tree::{Tree, components};
use std::sync::atomic::Ordering::Relaxed;

impl Tree {
    /// How many records there are.
    pub fn committed(&self) -> u64 {
        self.committed
    }

    /// The encoded record under a path. None: there is none, or a directory that nobody made.
    pub fn record(&self, path: &str) -> Option<Vec<u8>> {
        let node = self.find(path)?;
        if node.is_directory() {
            return Some(self.directories.get(&node.id)?.to_vec());
        }
        let mtime_ns = node.mtime_ns.load(Relaxed);
        (!node.record.is_empty()).then(|| match &node.place.digest {
            Some(digest) => feed::unpacked(&node.record, node.size, mtime_ns, digest),
            None => node.record.to_vec(),
        })
    }

    /// The revision of what is committed at a node. None: nothing is.
    pub fn revision(&self, node: &Node) -> Option<u64> {
        if node.is_directory() {
            return Some(feed::revision(self.directories.get(&node.id)?));
        }
        (!node.record.is_empty()).then_some(node.version())
    }

    /// Whether a path shows this content, or the kernel knows a node that had it.
    pub fn shows(&self, digest: &Digest) -> bool {
        self.contents.get(digest).is_some()
    }

    /// Calls `take` for each entry at or below `top` that is committed, until it says no; an order
    /// of their own, in which what comes behind the path `after` is the rest. "" is the root, and
    /// the beginning.
    pub fn walk(&self, top: &str, after: &str, mut take: impl FnMut(&str, &Node, u64) -> bool) {
        let mut offer = |path: &str, node: &Node| match self.revision(node) {
            Some(revision) => take(path, node, revision),
            None => true,
        };
        let root = match top {
            "" => ROOT,
            _ => match self.find(top) {
                None => return,
                Some(node) if after.is_empty() && !offer(top, node) => return,
                Some(node) => node.id,
            },
        };
        let mut stack = self.resume(root, top, after);
        while let Some((id, path, from)) = stack.pop() {
            let Some(children) = self.children.get(&id) else {
                continue;
            };
            for (at, node) in children.range(from..) {
                let below = join(&path, &node.name);
                if !offer(&below, node) {
                    return;
                }
                if node.is_directory() {
                    stack.push((id, path, at + 1));
                    stack.push((node.id, below, 0));
                    break;
                }
            }
        }
    }

    /// Directories to go on with behind `after`, the deepest last, each with its path and the first
    /// cookie of its rest.
    fn resume(&self, root: u64, top: &str, after: &str) -> Vec<(u64, String, u64)> {
        let below = match top {
            "" => after,
            _ => after
                .strip_prefix(top)
                .unwrap_or("")
                .trim_start_matches('/'),
        };
        let mut stack = Vec::new();
        let (mut id, mut path) = (root, top.to_owned());
        for (_, name) in components(below) {
            let child = self.child(id, name.as_bytes()).map(|node| node.id);
            let next = join(&path, name.as_bytes());
            stack.push((id, path, cookie(name.as_bytes()) + 1));
            match child {
                Some(child) => (id, path) = (child, next),
                None => return stack, // Gone meanwhile, with all below it.
            }
        }
        stack.push((id, path, 0));
        stack
    }

    // ---- snapshots ------------------------------------------------------------------------------

    /// A snapshot begins: nothing has been told of yet.
    pub fn begin_snapshot(&self) {
        for node in self.nodes.values() {
            node.seen.store(false, Relaxed);
        }
    }

    /// The snapshot is complete. Returns what is committed here and was not told of: it is gone.
    pub fn unseen(&self) -> Vec<String> {
        let gone = |node: &Node| {
            !node.is_orphan() && !node.seen.load(Relaxed) && self.revision(node).is_some()
        };
        let gone = self.nodes.values().filter(|node| gone(node));
        gone.filter_map(|node| self.path(node)).collect()
    }

    /// Applies what a node has told, in its order.
    pub fn take(&mut self, entries: &[feed::Entry<'_>], batch: &mut Batch) {
        for entry in entries {
            if entry.is_gone() {
                self.delete(entry.path, batch);
                continue;
            }
            match entry.upsert() {
                Ok(upsert) => self.upsert(&upsert, batch),
                Err(why) => batch.refused.push((entry.path.to_owned(), why)),
            }
        }
    }
}

fn join(directory: &str, name: &[u8]) -> String {
    let name = String::from_utf8_lossy(name);
    if directory.is_empty() {
        return name.into_owned();
    }
    [directory, &name].join("/")
}

#[cfg(test)]
#[path = "tests/committed.rs"]
mod tests;
