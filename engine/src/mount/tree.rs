//! The tree in memory: what the kernel sees. Pure: no clock, and no descriptors and locks but those
//! of `Kept`. `change.rs` has what alters it.
use super::abi::ROOT;
use super::content::{Contents, Place};
use super::node::{IdHasher, Kind, NOBODY, Node, cookie, node_id};
use super::past::{Kept, Listings, PAST, top};
use super::reply::Totals;
use std::collections::{BTreeMap, HashMap};
use std::hash::BuildHasherDefault;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

pub(super) type IdMap<V> = HashMap<u64, V, BuildHasherDefault<IdHasher>>;

/// No key begins with this component: there is the directory of files that are made.
pub const RESERVED: &str = ".dfs";

const DIRECTORY_MODE: u32 = 0o755;
const MADE_MODE: u32 = 0o444;
/// Cookies of the entries that every directory has.
const DOT: u64 = 1;
const DOT_DOT: u64 = 2;

/// One entry of a listing.
pub struct Listed<'a> {
    pub node: &'a Node,
    pub name: &'a [u8],
    pub cookie: u64,
}

pub struct Tree {
    pub(super) nodes: IdMap<Arc<Node>>,
    /// Of each directory, by cookie.
    pub(super) children: IdMap<BTreeMap<u64, Arc<Node>>>,
    pub(super) totals: Totals,
    pub(super) contents: Contents,
    /// The records of directories that were made, by node.
    pub(super) directories: IdMap<Box<[u8]>>,
    /// Entries that have a record.
    pub(super) committed: u64,
    /// The directory of the files that are made: there for who names it, in no listing and no
    /// count, so that copies and searches of the tree leave it out.
    aside: Option<Arc<Node>>,
    /// Of past directories, whose entries are here.
    pub(super) listings: Listings,
    pub(super) kept: Kept,
    /// The paths of files that are open since a former process: the directories may be gone.
    pub(super) former: IdMap<String>,
    /// The kernel may hold anything: a former process told it things.
    pub(super) tell_all: bool,
}

impl Tree {
    pub fn new(now_ns: i64) -> Tree {
        let mut tree = Tree {
            nodes: IdMap::default(),
            children: IdMap::default(),
            totals: Totals::default(),
            contents: Contents::default(),
            directories: IdMap::default(),
            committed: 0,
            aside: None,
            listings: Listings::default(),
            kept: Kept::default(),
            former: IdMap::default(),
            tell_all: false,
        };
        let root = directory(ROOT, ROOT, b"", now_ns);
        root.explicit.store(true, Relaxed);
        root.lookups.store(1, Relaxed);
        tree.nodes.insert(ROOT, root);
        tree.children.insert(ROOT, BTreeMap::new());
        tree
    }

    // ---- questions of the kernel ------------------------------------------------------------

    pub fn get(&self, id: u64) -> Option<&Arc<Node>> {
        self.nodes.get(&id)
    }

    /// The node under a name, counted as known to the kernel. Err when there is no such directory.
    pub fn lookup(&self, parent: u64, name: &[u8]) -> Result<Option<&Arc<Node>>, NoDirectory> {
        let directory = self.nodes.get(&parent).ok_or(NoDirectory)?;
        if !self.children.contains_key(&parent) {
            return Err(NoDirectory);
        }
        let found = self
            .child(parent, name)
            .or_else(|| self.aside(parent, name));
        match found {
            Some(node) => self.told(node),
            None => directory.denied.store(true, Relaxed),
        }
        Ok(found)
    }

    /// The kernel learns a node, once more.
    pub(super) fn told(&self, node: &Node) {
        node.lookups.fetch_add(1, Relaxed);
        self.kept.note(node);
    }

    /// The kernel drops `count` lookups of an id. True when `reap` should be called for it.
    pub fn forget(&self, id: u64, count: u64) -> bool {
        let Some(node) = self.nodes.get(&id).filter(|node| node.id != ROOT) else {
            return false;
        };
        let less = |lookups: u64| Some(lookups.saturating_sub(count));
        let before = node
            .lookups
            .fetch_update(Relaxed, Relaxed, less)
            .unwrap_or(0);
        if before <= count {
            node.assumed.store(false, Relaxed);
            self.kept.note(node);
        }
        before <= count && node.is_orphan()
    }

    /// Drops a node that neither the tree nor the kernel knows any more.
    pub fn reap(&mut self, id: u64) {
        if self
            .nodes
            .get(&id)
            .is_some_and(|node| node.is_orphan() && !node.known())
        {
            self.drop_node(id);
            self.unlist(id);
        }
    }

    /// Nobody can come for it any more.
    pub(super) fn drop_node(&mut self, id: u64) {
        if let Some(node) = self.nodes.remove(&id) {
            self.contents.leave(&node.place);
            self.former.remove(&id);
        }
    }

    /// Calls `take` for each entry behind cookie `after`, until it says no. With `count` the kernel
    /// learns each node that was taken.
    pub fn list(
        &self,
        id: u64,
        after: u64,
        count: bool,
        mut take: impl FnMut(Listed<'_>) -> bool,
    ) -> Result<(), NoDirectory> {
        let directory = self.nodes.get(&id).ok_or(NoDirectory)?;
        let children = self.children.get(&id).ok_or(NoDirectory)?;
        let parent = self.nodes.get(&directory.parent).unwrap_or(directory);
        if after < DOT
            && !take(Listed {
                node: directory,
                name: b".",
                cookie: DOT,
            })
        {
            return Ok(());
        }
        if after < DOT_DOT
            && !take(Listed {
                node: parent,
                name: b"..",
                cookie: DOT_DOT,
            })
        {
            return Ok(());
        }
        let from = after.saturating_add(1).max(DOT_DOT + 1);
        for (cookie, node) in children.range(from..) {
            if !take(Listed {
                node,
                name: &node.name,
                cookie: *cookie,
            }) {
                break;
            }
            if count {
                self.told(node);
            }
        }
        Ok(())
    }

    pub fn totals(&self) -> Totals {
        self.totals
    }

    /// Nodes held, including those that only the kernel still knows.
    pub fn held(&self) -> usize {
        self.nodes.len()
    }

    /// The path of a node that is in the tree.
    pub fn path(&self, node: &Node) -> Option<String> {
        let name = |node: &Node| String::from_utf8_lossy(&node.name).into_owned();
        let (path, stands) = self.names(node, name)?;
        stands.then_some(path)
    }

    /// The path by which others are asked about it: a revision of the past goes by its number,
    /// whatever it was named by.
    pub fn asked(&self, node: &Node) -> Option<String> {
        let (path, stands) = self.asked_by(node)?;
        stands.then_some(path)
    }

    /// The same for its content, be the node in the tree or not: history has it.
    pub fn of_content(&self, node: &Node) -> Option<String> {
        let path = self.asked_by(node).map(|(path, _)| path);
        path.or_else(|| self.former.get(&node.id).cloned())
    }

    fn asked_by(&self, node: &Node) -> Option<(String, bool)> {
        self.names(node, |node| {
            if node.past && node.parent == top() {
                return node.version().to_string();
            }
            String::from_utf8_lossy(&node.name).into_owned()
        })
    }

    /// Its path, and whether all of it stands in the tree. None: what is above it is not known.
    fn names(&self, node: &Node, name: impl Fn(&Node) -> String) -> Option<(String, bool)> {
        let mut names = vec![name(node)];
        let mut above = node.parent;
        let gone = |node: &Node| node.is_orphan() && !node.past;
        let mut orphan = gone(node);
        while above != ROOT {
            let parent = self.nodes.get(&above)?;
            orphan |= gone(parent);
            names.push(name(parent));
            above = parent.parent;
        }
        names.reverse();
        Some((names.join("/"), !orphan))
    }

    pub fn find(&self, path: &str) -> Option<&Arc<Node>> {
        let mut node = self.nodes.get(&ROOT)?;
        for (_, name) in components(path) {
            node = self.child(node.id, name.as_bytes())?;
        }
        (node.id != ROOT).then_some(node)
    }

    /// Offers files whose content is made for each open, once, and the directory of the past; they
    /// are below `RESERVED`. Those whose names begin with `PAST` and a slash are in that directory.
    pub fn offer(&mut self, names: &[String], now_ns: i64) {
        let id = node_id(Kind::Directory, RESERVED, 0);
        let above = directory(id, ROOT, RESERVED.as_bytes(), now_ns);
        let past = past_top(id, now_ns);
        let (mut below, mut below_past) = (vec![past.clone()], Vec::new());
        for name in names {
            match name.rsplit_once('/') {
                Some((_, last)) => below_past.push(made(past.id, name, last, now_ns)),
                None => below.push(made(id, name, name, now_ns)),
            }
        }
        self.nodes.insert(id, above.clone());
        self.aside = Some(above);
        for (id, below) in [(id, below), (past.id, below_past)] {
            let nodes = below.iter().map(|node| (node.id, node.clone()));
            self.nodes.extend(nodes);
            let below = below.into_iter().map(|node| (cookie(&node.name), node));
            self.children.insert(id, below.collect());
        }
    }

    fn aside(&self, parent: u64, name: &[u8]) -> Option<&Arc<Node>> {
        let named = parent == ROOT && name == RESERVED.as_bytes();
        self.aside.as_ref().filter(|_| named)
    }

    pub(super) fn has_children(&self, id: u64) -> bool {
        self.children
            .get(&id)
            .is_some_and(|children| !children.is_empty())
    }

    pub(super) fn child(&self, parent: u64, name: &[u8]) -> Option<&Arc<Node>> {
        let found = self.children.get(&parent)?.get(&cookie(name))?;
        (*found.name == *name).then_some(found)
    }
}

/// The id is none of a directory that exists.
#[derive(Debug, PartialEq, Eq)]
pub struct NoDirectory;

pub(super) fn directory(id: u64, parent: u64, name: &[u8], now_ns: i64) -> Arc<Node> {
    unversioned((id, Kind::Directory, DIRECTORY_MODE), parent, name, now_ns)
}

fn made(parent: u64, path: &str, name: &str, now_ns: i64) -> Arc<Node> {
    let id = node_id(Kind::Made, &format!("{RESERVED}/{path}"), 0);
    unversioned((id, Kind::Made, MADE_MODE), parent, name.as_bytes(), now_ns)
}

/// Names in it are questions; see `past.rs`.
fn past_top(parent: u64, now_ns: i64) -> Arc<Node> {
    let id = node_id(Kind::Directory, &format!("{RESERVED}/{PAST}"), 0);
    let node = new(
        (id, Kind::Directory, DIRECTORY_MODE),
        parent,
        PAST.as_bytes(),
        now_ns,
    );
    Arc::new(Node { past: true, ..node })
}

fn unversioned(head: (u64, Kind, u32), parent: u64, name: &[u8], now_ns: i64) -> Arc<Node> {
    Arc::new(new(head, parent, name, now_ns))
}

pub(super) fn new(
    (id, kind, mode): (u64, Kind, u32),
    parent: u64,
    name: &[u8],
    mtime_ns: i64,
) -> Node {
    Node {
        id,
        parent,
        name: name.into(),
        kind,
        size: 0,
        version: 0.into(),
        mode: mode.into(),
        uid: NOBODY.into(),
        gid: NOBODY.into(),
        mtime_ns: mtime_ns.into(),
        lookups: 0.into(),
        assumed: false.into(),
        orphan: false.into(),
        past: false,
        explicit: false.into(),
        denied: false.into(),
        seen: false.into(),
        place: Place::of_one(None),
        record: Box::default(),
    }
}

/// Each component with the path that ends with it.
pub(super) fn components(path: &str) -> impl Iterator<Item = (&str, &str)> {
    let mut from = 0;
    std::iter::from_fn(move || {
        let rest = path.get(from..).filter(|rest| !rest.is_empty())?;
        let length = rest.find('/').unwrap_or(rest.len());
        let upto = from + length;
        from = upto + 1;
        Some((&path[..upto], &rest[..length]))
    })
}

#[cfg(test)]
#[path = "tests/tree.rs"]
mod tests;
