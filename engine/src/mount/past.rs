//! The tree: `.dfs/at/`, past revisions as directories. What is in one of them is asked for when
//! somebody looks. It never changes, so it may be let go and asked for again: ids are the same.
use super::change::Upsert;
use super::content::Place;
use super::node::{Kind, Node, cookie, node_id};
use super::table::{Left, Row, Shared};
use super::tree::{IdMap, RESERVED, Tree, new};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::LazyLock;
use std::sync::atomic::Ordering::Relaxed;

/// The directory whose names are revisions and times, below `RESERVED`.
pub const PAST: &str = "at";

/// Entries of past directories that are kept, each directory counted as one more: some 100 MB.
/// Beyond that go those of the directory that came first, but for what the kernel knows.
pub const PAST_ENTRIES_MAX: usize = 300_000;

/// The id of that directory.
pub fn top() -> u64 {
    static TOP: LazyLock<u64> =
        LazyLock::new(|| node_id(Kind::Directory, &format!("{RESERVED}/{PAST}"), 0));
    *TOP
}

/// Which past directories have their entries here, in the order in which they came.
#[derive(Default)]
pub struct Listings {
    ids: BTreeMap<u64, u64>,
    turns: IdMap<u64>,
    next: u64,
    entries: usize,
}

impl Listings {
    /// Entries that are here, each directory counted as one more.
    pub fn entries(&self) -> usize {
        self.entries
    }

    fn add(&mut self, id: u64, entries: usize) {
        self.next += 1;
        self.ids.insert(self.next, id);
        self.turns.insert(id, self.next);
        self.entries += entries + 1;
    }

    /// False when it is none of them.
    fn remove(&mut self, id: u64) -> bool {
        let turn = self.turns.remove(&id);
        turn.and_then(|turn| self.ids.remove(&turn)).is_some()
    }

    fn first(&self) -> Option<u64> {
        self.ids.values().next().copied()
    }
}

/// The past directories that the kernel knows, each with a row of the table: somebody may stand in
/// one, and the next process has nothing else to find it by.
#[derive(Default)]
pub struct Kept {
    table: Shared,
    /// bounded: by what the kernel keeps in its memory, which is more for each than a row.
    slots: Mutex<IdMap<u32>>,
}

impl Kept {
    /// The kernel has learned a node or forgotten it, perhaps. Goes by what is so under the lock,
    /// as others may call at the same time.
    pub fn note(&self, node: &Node) {
        if !node.past || !node.is_directory() {
            return;
        }
        let mut slots = self.slots.lock();
        let slot = slots.get(&node.id).copied();
        match slot {
            None if node.known() => {
                let row = Row {
                    node: node.id,
                    backing: 0,
                    opens: 0,
                };
                let slot = self.table.lock().add(row, node, "");
                slots.insert(node.id, slot);
            }
            Some(slot) if !node.known() => {
                slots.remove(&node.id);
                self.table.lock().remove(slot);
            }
            _ => {}
        }
    }
}

impl Tree {
    /// From here on the past directories that the kernel knows are written to `table`. Goes on with
    /// what a former process has left there: what is not in the tree is here yet, in no listing.
    pub fn keep(&mut self, table: Shared, left: Vec<Left>) {
        self.kept.table = table;
        for (slot, row, node, path) in left {
            if node.is_directory() {
                node.lookups.store(1, Relaxed);
                self.kept.slots.get_mut().insert(row.node, slot);
            }
            if !path.is_empty() {
                self.former.insert(row.node, path);
            }
            self.nodes.entry(row.node).or_insert_with(|| Arc::new(node));
        }
    }

    /// A past directory whose entries are not here.
    pub fn unlisted(&self, id: u64) -> Option<&Arc<Node>> {
        let node = self.nodes.get(&id)?;
        let unlisted = node.past && node.is_directory() && !self.children.contains_key(&id);
        unlisted.then_some(node)
    }

    /// A past revision: a directory that is in no listing, counted as known to the kernel.
    pub fn name_past(&mut self, top: u64, entry: &Upsert) -> Option<Arc<Node>> {
        let path = format!("{RESERVED}/{PAST}/{}", entry.path);
        let node = self.past_node(top, &entry.path, &path, entry)?;
        self.told(&node);
        Some(node)
    }

    /// Takes the entries of a past directory, by their keys. No effect when they are here, or
    /// nobody knows the directory any more. Returns how many cannot be shown: two ids are equal.
    pub fn fill(&mut self, id: u64, entries: &[Upsert]) -> u64 {
        let Some(path) = self.unlisted(id).and_then(|node| self.path(node)) else {
            return 0;
        };
        let mut below: BTreeMap<u64, Arc<Node>> = BTreeMap::new();
        for entry in entries {
            let name = entry.path.rsplit('/').next().unwrap_or_default();
            let place = cookie(name.as_bytes());
            if !below.contains_key(&place)
                && let Some(node) = self.past_node(id, name, &format!("{path}/{name}"), entry)
            {
                node.orphan.store(false, Relaxed);
                below.insert(place, node);
            }
        }
        let collisions = entries.len() - below.len();
        self.listings.add(id, below.len());
        self.children.insert(id, below);
        while self.listings.entries > PAST_ENTRIES_MAX
            && let Some(first) = self.listings.first().filter(|first| *first != id)
        {
            self.unlist(first);
        }
        collisions as u64
    }

    /// Lets the entries of a past directory go, but for what the kernel knows.
    pub(super) fn unlist(&mut self, id: u64) {
        let mut doomed = vec![id];
        while let Some(id) = doomed.pop() {
            if !self.listings.remove(id) {
                continue;
            }
            let children = self.children.remove(&id).unwrap_or_default();
            self.listings.entries -= children.len() + 1;
            for node in children.into_values() {
                node.orphan.store(true, Relaxed);
                if !node.known() {
                    self.nodes.remove(&node.id);
                    doomed.push(node.id);
                }
            }
        }
    }

    /// The node of an entry: the one that is there, or a new one that is in no listing yet. None
    /// when the id belongs to something else.
    fn past_node(
        &mut self,
        parent: u64,
        name: &str,
        path: &str,
        entry: &Upsert,
    ) -> Option<Arc<Node>> {
        let id = node_id(entry.kind, path, entry.version);
        if let Some(before) = self.nodes.get(&id) {
            if before.parent != parent || *before.name != *name.as_bytes() {
                return None;
            }
            if entry.place.is_some() {
                before.place.lock().clone_from(&entry.place);
            }
            return Some(before.clone());
        }
        let head = (id, entry.kind, entry.mode & 0o7777);
        let node = Arc::new(Node {
            size: entry.size,
            version: entry.version.into(),
            uid: entry.uid.into(),
            gid: entry.gid.into(),
            past: true,
            orphan: true.into(),
            place: Place::of_one(entry.place.clone()),
            ..new(head, parent, name.as_bytes(), entry.mtime_ns)
        });
        self.nodes.insert(id, node.clone());
        Some(node)
    }
}

#[cfg(test)]
#[path = "tests/past.rs"]
mod tests;
