//! Changes of the tree, and what the kernel must be told of each.
use super::abi::ROOT;
use super::content::{Digest, Place};
use super::node::{Kind, Node, cookie, node_id};
use super::notice::{Notice, Notices};
use super::tree::{Tree, components, directory};
use std::collections::BTreeMap;
use std::ffi::CStr;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

/// What is to be at a path from now on.
#[derive(Clone, Debug, Default)]
pub struct Upsert {
    pub path: String,
    pub kind: Kind,
    pub size: u64,
    pub mode: u32,
    pub mtime_ns: i64,
    /// As in `Node`.
    pub uid: u32,
    pub gid: u32,
    pub version: u64,
    pub place: Option<Arc<CStr>>,
    /// Files: of the content, whose place is known then, or becomes known to all who show it.
    pub digest: Option<Digest>,
    /// As in `Node`; of a directory all of it.
    pub record: Box<[u8]>,
}

/// What a batch of changes did; the caller hands `notices` to the kernel when the lock is dropped.
#[derive(Default)]
pub struct Batch {
    pub notices: Notices,
    /// Upserts that were older than what is shown.
    pub stale: u64,
    /// Entries that could not be shown because two ids were equal.
    pub collisions: u64,
    /// Paths that cannot be shown, and why.
    pub refused: Vec<(String, &'static str)>,
    /// Nodes that are no longer in the tree.
    pub retired: Vec<u64>,
    now_ns: i64,
    /// These are part of a snapshot: what it tells of is marked.
    pub snapshot: bool,
    /// Something was taken away.
    pub deleted: bool,
    /// The directory of the last upsert: neighbours come in a row.
    last: Option<(String, u64)>,
}

impl Batch {
    pub fn new(now_ns: i64) -> Batch {
        Batch {
            now_ns,
            ..Batch::default()
        }
    }
}

impl Tree {
    // ---- changes ------------------------------------------------------------------------------

    /// Shows `upsert` unless something newer is shown there. What stands in its way is older and
    /// goes. The path has been checked.
    pub fn upsert(&mut self, upsert: &Upsert, batch: &mut Batch) {
        let (directory, name) = split(&upsert.path);
        let Some(parent) = self.make_directories(directory, upsert.version, batch) else {
            batch.stale += 1;
            return;
        };
        let there = self.child(parent, name.as_bytes()).cloned();
        if let Some(old) = there.as_ref().filter(|_| batch.snapshot) {
            old.seen.store(true, Relaxed);
        }
        match there {
            None => self.insert(parent, name, upsert, None, batch),
            Some(old) if old.is_directory() && upsert.kind == Kind::Directory => {
                self.update_directory(&old, upsert, batch);
            }
            Some(old) if old.version() > upsert.version => batch.stale += 1,
            Some(old) if old.kind != upsert.kind => {
                self.remove(&old, batch);
                self.insert(parent, name, upsert, None, batch);
            }
            Some(old) if old.version() == upsert.version => {}
            Some(old) => self.insert(parent, name, upsert, Some(&old), batch),
        }
    }

    /// Takes `path` away. A directory that still has children becomes an implicit one. No effect
    /// when there is none.
    pub fn delete(&mut self, path: &str, batch: &mut Batch) {
        let Some(node) = self.find(path).cloned() else {
            return;
        };
        if node.is_directory() && self.has_children(node.id) {
            batch.deleted = true;
            node.explicit.store(false, Relaxed);
            self.forget_record(&node);
            return;
        }
        let parent = node.parent;
        self.remove(&node, batch);
        self.prune(parent, batch);
    }

    /// The kernel's knowledge comes from a process that died: every directory may have changed
    /// since. `open` are the ids of files that are open. Returns what to tell the kernel, besides
    /// that all names are out of date.
    pub fn adopt(&mut self, open: impl Iterator<Item = u64>, now_ns: i64) -> Notices {
        self.tell_all = true;
        for id in open {
            if let Some(node) = self.nodes.get(&id) {
                node.lookups.fetch_add(1, Relaxed);
            }
        }
        let mut notices = Notices::default();
        for id in self.children.keys() {
            self.nodes[id].mtime_ns.store(now_ns, Relaxed);
            notices.inodes.insert(*id);
        }
        notices
    }

    /// Where nobody says what is open: any file may be, since a former process. The kernel counts
    /// as knowing each until it says otherwise, for which it is asked when that is replaced; of
    /// those that were replaced before, by `notices`.
    pub fn assume_known(&self, notices: &mut Notices) {
        for node in self.nodes.values().filter(|node| node.kind == Kind::File) {
            node.assumed.store(true, Relaxed);
            node.lookups.store(1, Relaxed);
            if node.is_orphan() {
                notices.inodes.insert(node.id);
            }
        }
    }

    /// The kernel does not know this id, but from an answer that it has not seen yet, perhaps. True
    /// when `reap` should be called for it.
    pub fn unknown(&self, id: u64) -> bool {
        let assumed = |node: &&Arc<Node>| node.assumed.swap(false, Relaxed);
        self.nodes.get(&id).filter(assumed).is_some() && self.forget(id, 1)
    }

    fn insert(
        &mut self,
        parent: u64,
        name: &str,
        upsert: &Upsert,
        old: Option<&Arc<Node>>,
        batch: &mut Batch,
    ) {
        let id = node_id(upsert.kind, &upsert.path, upsert.version);
        let node = Node {
            id,
            parent,
            name: name.as_bytes().into(),
            kind: upsert.kind,
            size: upsert.size,
            version: upsert.version.into(),
            mode: (upsert.mode & 0o7777).into(),
            uid: upsert.uid.into(),
            gid: upsert.gid.into(),
            mtime_ns: upsert.mtime_ns.into(),
            lookups: 0.into(),
            assumed: false.into(),
            orphan: false.into(),
            past: false,
            explicit: true.into(),
            denied: false.into(),
            seen: batch.snapshot.into(),
            place: match upsert.digest {
                Some(digest) => self.contents.share(digest),
                None => Place::of_one(upsert.place.clone()),
            },
            record: if upsert.kind == Kind::Directory {
                Box::default()
            } else {
                upsert.record.clone()
            },
        };
        if !self.admit(&node) {
            self.contents.leave(&node.place);
            batch.collisions += 1;
            if let Some(old) = old {
                self.remove(old, batch);
            }
            return;
        }
        self.link(Arc::new(node));
        self.keep_record(id, upsert);
        match old {
            Some(old) => {
                self.uncount(old);
                self.retire(old, batch);
                self.tell_changed(parent, old, batch);
            }
            None => self.tell_new(parent, name.as_bytes(), batch),
        }
    }

    /// Takes over what the kernel counts under an id that existed before. False when the id or the
    /// place in the listing belongs to another path: hashes of 61 bits can meet, and a wrong file
    /// is worse than a missing one.
    fn admit(&self, node: &Node) -> bool {
        let siblings = &self.children[&node.parent];
        if siblings
            .get(&cookie(&node.name))
            .is_some_and(|there| there.name != node.name)
        {
            return false;
        }
        let Some(before) = self.nodes.get(&node.id) else {
            return true;
        };
        if before.parent != node.parent || before.name != node.name {
            return false;
        }
        node.lookups.store(before.lookups.load(Relaxed), Relaxed);
        true
    }

    fn link(&mut self, node: Arc<Node>) {
        self.totals.entries += 1;
        self.totals.bytes += node.size;
        if node.is_directory() {
            self.children.insert(node.id, BTreeMap::new());
        }
        let before = self.nodes.insert(node.id, node.clone());
        if let Some(before) = before {
            self.contents.leave(&before.place);
        }
        let siblings = self
            .children
            .get_mut(&node.parent)
            .expect("the parent is a directory");
        siblings.insert(cookie(&node.name), node);
    }

    fn update_directory(&mut self, node: &Node, upsert: &Upsert, batch: &mut Batch) {
        node.explicit.store(true, Relaxed);
        self.forget_record(node);
        self.keep_record(node.id, upsert);
        let told = [
            (&node.mode, upsert.mode & 0o7777),
            (&node.uid, upsert.uid),
            (&node.gid, upsert.gid),
        ];
        let same = told.map(|(held, new)| held.swap(new, Relaxed) == new);
        if same == [true; 3] && node.mtime_ns.load(Relaxed) == upsert.mtime_ns {
            return;
        }
        if node.known() || self.tell_all {
            // Its mtime must differ from any that the kernel has seen.
            self.touch(node, batch);
        } else {
            node.mtime_ns.store(upsert.mtime_ns, Relaxed);
        }
    }

    /// The id of the directory, made if needed. None when a newer file is in the way.
    fn make_directories(&mut self, path: &str, version: u64, batch: &mut Batch) -> Option<u64> {
        if let Some((last, id)) = &batch.last
            && last == path
        {
            return Some(*id);
        }
        let mut parent = ROOT;
        for (upto, name) in components(path) {
            parent = match self.child(parent, name.as_bytes()).cloned() {
                Some(node) if node.is_directory() => node.id,
                Some(node) if node.version() > version => return None,
                Some(node) => {
                    self.remove(&node, batch);
                    self.make_directory(parent, upto, name, batch)?
                }
                None => self.make_directory(parent, upto, name, batch)?,
            };
            self.nodes[&parent].version.fetch_max(version, Relaxed);
        }
        batch.last = Some((path.to_owned(), parent));
        Some(parent)
    }

    fn make_directory(
        &mut self,
        parent: u64,
        path: &str,
        name: &str,
        batch: &mut Batch,
    ) -> Option<u64> {
        let id = node_id(Kind::Directory, path, 0);
        let node = directory(id, parent, name.as_bytes(), batch.now_ns);
        if !self.admit(&node) {
            batch.collisions += 1;
            return None;
        }
        self.link(node);
        self.tell_new(parent, name.as_bytes(), batch);
        Some(id)
    }

    /// Takes a node and all below it out of the tree. The kernel drops a whole subtree with its
    /// topmost name, so only that is told.
    fn remove(&mut self, node: &Arc<Node>, batch: &mut Batch) {
        batch.last = None;
        batch.deleted = true;
        if let Some(siblings) = self.children.get_mut(&node.parent) {
            siblings.remove(&cookie(&node.name));
        }
        let mut doomed = vec![node.clone()];
        while let Some(next) = doomed.pop() {
            if let Some(children) = self.children.remove(&next.id) {
                doomed.extend(children.into_values());
            }
            self.uncount(&next);
            self.retire(&next, batch);
        }
        self.tell_changed(node.parent, node, batch);
    }

    /// Implicit directories go with their last child.
    fn prune(&mut self, mut id: u64, batch: &mut Batch) {
        while let Some(node) = self.nodes.get(&id).cloned() {
            if node.explicit.load(Relaxed) || node.is_orphan() || self.has_children(id) {
                return;
            }
            id = node.parent;
            self.remove(&node, batch);
        }
    }

    fn uncount(&mut self, node: &Node) {
        self.totals.entries -= 1;
        self.totals.bytes -= node.size;
        self.forget_record(node);
    }

    fn keep_record(&mut self, id: u64, upsert: &Upsert) {
        if upsert.record.is_empty() {
            return;
        }
        self.committed += 1;
        if upsert.kind == Kind::Directory {
            self.directories.insert(id, upsert.record.clone());
        }
    }

    fn forget_record(&mut self, node: &Node) {
        let had = if node.is_directory() {
            self.directories.remove(&node.id).is_some()
        } else {
            !node.record.is_empty()
        };
        self.committed -= u64::from(had);
    }

    /// Keeps the node, and what it has, for as long as the kernel knows it: somebody who has looked
    /// it up may only now come to open it.
    fn retire(&mut self, node: &Arc<Node>, batch: &mut Batch) {
        node.orphan.store(true, Relaxed);
        batch.retired.push(node.id);
        if node.assumed.load(Relaxed) {
            batch.notices.inodes.insert(node.id);
        }
        if !node.known()
            && self
                .nodes
                .get(&node.id)
                .is_some_and(|held| Arc::ptr_eq(held, node))
        {
            self.drop_node(node.id);
        }
    }

    // ---- what the kernel must be told -----------------------------------------------------------

    fn tell_new(&self, parent: u64, name: &[u8], batch: &mut Batch) {
        let directory = &self.nodes[&parent];
        if !self.touch(directory, batch) {
            return;
        }
        if directory.denied.load(Relaxed) || self.tell_all {
            batch.notices.names.push(Notice::Entry {
                parent,
                name: name.into(),
            });
        }
    }

    /// The name is gone, or means another version. A file is told of as deleted in both cases, as
    /// a rename over it would delete it: who watches it by inotify hears of it.
    fn tell_changed(&self, parent: u64, old: &Node, batch: &mut Batch) {
        let directory = &self.nodes[&parent];
        if !self.touch(directory, batch) || !(old.known() || self.tell_all) {
            return;
        }
        let name = old.name.clone();
        // A deleted directory is only unnamed: its id serves again when it is made again, and the
        // kernel would keep it dead.
        batch.notices.names.push(if old.is_directory() {
            Notice::Entry { parent, name }
        } else {
            Notice::Delete {
                parent,
                child: old.id,
                name,
            }
        });
    }

    /// A directory's entries or attributes changed: its mtime must move, or the kernel goes on
    /// showing the listing it has. False when the kernel does not know the directory.
    fn touch(&self, directory: &Node, batch: &mut Batch) -> bool {
        if !(directory.known() || self.tell_all) {
            return false;
        }
        let before = directory.mtime_ns.load(Relaxed);
        directory
            .mtime_ns
            .store(batch.now_ns.max(before.saturating_add(1)), Relaxed);
        batch.notices.inodes.insert(directory.id);
        true
    }
}

fn split(path: &str) -> (&str, &str) {
    path.rsplit_once('/').unwrap_or(("", path))
}

#[cfg(test)]
#[path = "tests/change.rs"]
mod tests;
