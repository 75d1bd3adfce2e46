//! Changes of the tree, beside a plain model of it and a model of what the kernel remembers.
use super::super::node::NOBODY;
use super::*;
use std::collections::{BTreeMap, HashMap};

fn item(path: &str, kind: Kind, version: u64) -> Upsert {
    Upsert {
        path: path.to_owned(),
        kind,
        size: if kind == Kind::Directory {
            0
        } else {
            version % 7
        },
        mode: 0o644,
        mtime_ns: version as i64,
        uid: NOBODY,
        gid: NOBODY,
        version,
        place: None,
        ..Upsert::default()
    }
}

fn apply(tree: &mut Tree, change: impl FnOnce(&mut Tree, &mut Batch)) -> Batch {
    let mut batch = Batch::new(1_000);
    change(tree, &mut batch);
    batch
}

fn upsert(tree: &mut Tree, path: &str, kind: Kind, version: u64) -> Batch {
    apply(tree, |tree, batch| {
        tree.upsert(&item(path, kind, version), batch)
    })
}

fn delete(tree: &mut Tree, path: &str) -> Batch {
    apply(tree, |tree, batch| tree.delete(path, batch))
}

fn entry(parent: u64, name: &str) -> Notice {
    Notice::Entry {
        parent,
        name: name.as_bytes().into(),
    }
}

#[test]
fn an_unknown_tree_causes_no_notices_but_for_the_root() {
    let mut tree = Tree::new(0);
    let batch = upsert(&mut tree, "a/b/c", Kind::File, 1);
    assert!(batch.notices.names.is_empty());
    assert_eq!(batch.notices.inodes, [ROOT].into());
    assert_eq!(tree.totals().entries, 3);
}

#[test]
fn a_name_that_was_denied_is_announced() {
    let mut tree = Tree::new(0);
    assert!(tree.lookup(ROOT, b"a").unwrap().is_none());
    assert_eq!(
        upsert(&mut tree, "a", Kind::File, 1).notices.names,
        [entry(ROOT, "a")]
    );
}

#[test]
fn of_a_replaced_file_is_told_as_of_a_deleted_one() {
    let mut tree = Tree::new(0);
    let known = |tree: &mut Tree| {
        let child = tree.lookup(ROOT, b"a").unwrap().unwrap().id;
        [Notice::Delete {
            parent: ROOT,
            child,
            name: b"a"[..].into(),
        }]
    };
    upsert(&mut tree, "a", Kind::File, 1);
    let first = known(&mut tree);
    assert_eq!(upsert(&mut tree, "a", Kind::File, 2).notices.names, first);
    let second = known(&mut tree);
    assert_ne!(first, second);
    assert_eq!(delete(&mut tree, "a").notices.names, second);
}

#[test]
fn a_directory_made_again_is_the_same_and_alive() {
    let mut tree = Tree::new(0);
    upsert(&mut tree, "d/a", Kind::File, 1);
    let id = tree.lookup(ROOT, b"d").unwrap().unwrap().id;
    assert_eq!(delete(&mut tree, "d/a").notices.names, [entry(ROOT, "d")]);
    upsert(&mut tree, "d/a", Kind::File, 2);
    let again = tree.find("d").unwrap();
    assert_eq!(
        (again.id, again.is_orphan(), again.known()),
        (id, false, true)
    );
}

#[test]
fn directories_that_were_made_stay_and_others_go_with_their_last_child() {
    let mut tree = Tree::new(0);
    upsert(&mut tree, "kept", Kind::Directory, 1);
    upsert(&mut tree, "kept/below/a", Kind::File, 2);
    delete(&mut tree, "kept/below/a");
    assert!(tree.find("kept").is_some() && tree.find("kept/below").is_none());
    upsert(&mut tree, "kept/a", Kind::File, 3);
    delete(&mut tree, "kept");
    assert!(tree.find("kept").is_some(), "it has a child");
    delete(&mut tree, "kept/a");
    assert!(tree.find("kept").is_none());
}

#[test]
fn nothing_older_replaces_what_is_shown() {
    let mut tree = Tree::new(0);
    upsert(&mut tree, "a", Kind::File, 5);
    upsert(&mut tree, "d/b", Kind::File, 6);
    for (path, kind, version) in [
        ("a", Kind::File, 4),
        ("a", Kind::Link, 4),
        ("a/x", Kind::File, 4),
        ("d", Kind::File, 5),
    ] {
        assert_eq!(upsert(&mut tree, path, kind, version).stale, 1, "{path}");
    }
    assert_eq!(tree.find("a").unwrap().version(), 5);
    assert_eq!(tree.find("d/b").unwrap().version(), 6);
}

#[test]
fn the_same_version_again_changes_nothing() {
    let mut tree = Tree::new(0);
    upsert(&mut tree, "a", Kind::File, 5);
    let node = tree.find("a").unwrap().clone();
    let again = Upsert {
        size: 99,
        ..item("a", Kind::File, 5)
    };
    let batch = apply(&mut tree, |tree, batch| tree.upsert(&again, batch));
    assert_eq!((batch.notices.count(), batch.stale), (0, 0));
    assert!(Arc::ptr_eq(tree.find("a").unwrap(), &node));
}

#[test]
fn a_directory_the_kernel_knows_gets_a_new_time_with_each_change() {
    let mut tree = Tree::new(0);
    upsert(&mut tree, "d", Kind::Directory, 77);
    let node = tree.find("d").unwrap().clone();
    upsert(&mut tree, "d/a", Kind::File, 78);
    assert_eq!(
        node.mtime_ns.load(Relaxed),
        77,
        "unknown to the kernel: as committed"
    );
    tree.lookup(ROOT, b"d").unwrap();
    let mut times = vec![77];
    for version in 79..82 {
        upsert(&mut tree, "d/a", Kind::File, version);
        times.push(node.mtime_ns.load(Relaxed));
    }
    assert_eq!(times, [77, 1_000, 1_001, 1_002]);
}

#[test]
fn the_kernel_is_told_of_a_directory_with_another_owner() {
    let mut tree = Tree::new(0);
    upsert(&mut tree, "d", Kind::Directory, 77);
    tree.lookup(ROOT, b"d").unwrap();
    let id = tree.find("d").unwrap().id;
    for (uid, gid, told) in [(5, NOBODY, true), (5, 6, true), (5, 6, false)] {
        let mut change = item("d", Kind::Directory, 77);
        (change.uid, change.gid) = (uid, gid);
        change.mtime_ns = tree.find("d").unwrap().mtime_ns.load(Relaxed);
        let batch = apply(&mut tree, |tree, batch| tree.upsert(&change, batch));
        assert_eq!(batch.notices.inodes.contains(&id), told);
    }
}

#[test]
fn after_a_take_over_everything_is_told() {
    let mut tree = Tree::new(0);
    upsert(&mut tree, "d/a", Kind::File, 1);
    let (directory, open) = (tree.find("d").unwrap().id, tree.find("d/a").unwrap().id);
    let notices = tree.adopt([open, 999].into_iter(), 2_000);
    assert_eq!(notices.names, []);
    assert_eq!(notices.inodes, [ROOT, directory].into());
    assert_eq!(
        upsert(&mut tree, "d/new", Kind::File, 2).notices.names,
        [entry(directory, "new")]
    );
    let replaced = Notice::Delete {
        parent: directory,
        child: open,
        name: b"a"[..].into(),
    };
    assert_eq!(
        upsert(&mut tree, "d/a", Kind::File, 3).notices.names,
        [replaced]
    );
    assert!(tree.get(open).is_some(), "an open file stays readable");
}

#[test]
fn what_the_kernel_may_know_since_a_former_process_stays_until_it_says_otherwise() {
    let mut tree = Tree::new(0);
    let names = ["forgotten", "unknown", "known", "told"];
    let ids = names.map(|name| {
        upsert(&mut tree, name, Kind::File, 1);
        tree.find(name).unwrap().id
    });
    let mut notices = Notices::default();
    tree.assume_known(&mut notices);
    assert_eq!(notices.count(), 0, "it is asked when they are replaced");
    let [forgotten, unknown, known, told] = ids;
    assert!(!tree.forget(forgotten, 3), "it is in the tree");
    tree.lookup(ROOT, b"told").unwrap();
    for (name, id, asked) in [
        ("forgotten", forgotten, false),
        ("unknown", unknown, true),
        ("known", known, true),
        ("told", told, true),
    ] {
        let batch = upsert(&mut tree, name, Kind::File, 2);
        assert_eq!(batch.notices.inodes.contains(&id), asked, "{name}");
        assert_eq!(tree.get(id).is_some(), asked, "{name}");
    }
    assert!(tree.unknown(unknown));
    tree.reap(unknown);
    assert!(tree.get(unknown).is_none());
    assert!(!tree.unknown(told), "an answer may be on its way");
    assert!(tree.forget(known, 2) && tree.forget(told, 1));

    let mut notices = Notices::default();
    tree.assume_known(&mut notices);
    assert_eq!(notices.inodes, [known, told].into(), "replaced already");
}

// ---- at random, beside two models ---------------------------------------------------------------

struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }

    fn path(&mut self) -> String {
        let depth = 1 + self.below(3);
        let names: Vec<&str> = (0..depth)
            .map(|_| ["a", "b", "c"][self.below(3) as usize])
            .collect();
        names.join("/")
    }
}

/// The tree as it should be: path → (kind, version, explicit).
#[derive(Default)]
struct Model(BTreeMap<String, (Kind, u64, bool)>);

impl Model {
    fn upsert(&mut self, path: &str, kind: Kind, version: u64) {
        for (upto, _) in components(path) {
            let kind = if upto == path { kind } else { Kind::Directory };
            let made = upto == path;
            if self.0.get(upto).is_some_and(|there| there.0 != kind) {
                self.remove(upto);
            }
            let there = self
                .0
                .entry(upto.to_owned())
                .or_insert((kind, version, made));
            if made {
                *there = (kind, version, true);
            }
        }
    }

    fn delete(&mut self, path: &str) {
        let Some(there) = self.0.get_mut(path) else {
            return;
        };
        there.2 = false;
        let mut gone = Some(path);
        while let Some(path) = gone {
            let below = format!("{path}/");
            let (kind, _, explicit) = self.0[path];
            if kind == Kind::Directory && (explicit || self.0.keys().any(|p| p.starts_with(&below)))
            {
                return;
            }
            self.0.remove(path);
            gone = path.rsplit_once('/').map(|(above, _)| above);
        }
    }

    fn remove(&mut self, path: &str) {
        let below = format!("{path}/");
        self.0
            .retain(|there, _| there != path && !there.starts_with(&below));
    }
}

/// What a kernel remembers: names (None = told that there is none), listings, counts of look-ups.
#[derive(Default)]
struct Kernel {
    names: HashMap<(u64, Vec<u8>), Option<u64>>,
    listings: HashMap<u64, (i64, Vec<Vec<u8>>)>,
    counts: HashMap<u64, u64>,
}

impl Kernel {
    fn walk(&mut self, tree: &Tree, path: &str) {
        let mut parent = ROOT;
        for (_, name) in components(path) {
            let key = (parent, name.as_bytes().to_vec());
            let found = match self.names.get(&key) {
                Some(found) => *found,
                None => {
                    let found = tree.lookup(parent, name.as_bytes()).unwrap();
                    let id = found.map(|node| node.id);
                    id.into_iter()
                        .for_each(|id| *self.counts.entry(id).or_default() += 1);
                    self.names.insert(key, id);
                    id
                }
            };
            match found {
                Some(id) if tree.get(id).is_some_and(|node| node.is_directory()) => parent = id,
                _ => return,
            }
        }
        let (mtime, names) = listing(tree, parent);
        self.listings.insert(parent, (mtime, names));
    }

    fn hear(&mut self, tree: &Tree, notices: &Notices) {
        for notice in &notices.names {
            match notice {
                Notice::Entry { parent, name } | Notice::Delete { parent, name, .. } => {
                    self.drop_name(*parent, name);
                }
                other => panic!("unexpected {other:?}"),
            }
        }
        for id in &notices.inodes {
            let time = tree.get(*id).map(|node| node.mtime_ns.load(Relaxed));
            if self
                .listings
                .get(id)
                .is_some_and(|(seen, _)| Some(*seen) != time)
            {
                self.listings.remove(id);
            }
        }
    }

    /// A name goes with everything below it.
    fn drop_name(&mut self, parent: u64, name: &[u8]) {
        if let Some(Some(id)) = self.names.remove(&(parent, name.to_vec())) {
            let below: Vec<_> = self
                .names
                .keys()
                .filter(|key| key.0 == id)
                .cloned()
                .collect();
            below
                .iter()
                .for_each(|(parent, name)| self.drop_name(*parent, name));
            self.listings.remove(&id);
        }
    }

    /// Gives up an inode that no name leads to.
    fn evict(&mut self, tree: &mut Tree) {
        let named: Vec<u64> = self.names.values().flatten().copied().collect();
        let loose: Vec<u64> = self
            .counts
            .keys()
            .copied()
            .filter(|id| !named.contains(id))
            .collect();
        for id in loose {
            let count = self.counts.remove(&id).unwrap();
            if tree.forget(id, count) {
                tree.reap(id);
            }
        }
    }

    fn check(&self, tree: &Tree) {
        for ((parent, name), remembered) in &self.names {
            let real = tree.child(*parent, name).map(|node| node.id);
            assert_eq!(*remembered, real, "{:?}", String::from_utf8_lossy(name));
        }
        for (id, (_, names)) in &self.listings {
            assert_eq!(*names, listing(tree, *id).1, "listing of {id}");
        }
    }
}

fn listing(tree: &Tree, id: u64) -> (i64, Vec<Vec<u8>>) {
    let mut names = Vec::new();
    let mut time = 0;
    tree.list(id, 0, false, |entry| {
        if entry.name == b"." {
            time = entry.node.mtime_ns.load(Relaxed);
        } else if entry.name != b".." {
            names.push(entry.name.to_vec());
        }
        true
    })
    .unwrap();
    (time, names)
}

fn contents(tree: &Tree, id: u64, above: &str, into: &mut BTreeMap<String, (Kind, u64, bool)>) {
    for name in listing(tree, id).1 {
        let node = tree.child(id, &name).unwrap();
        let path = format!("{above}{}", String::from_utf8(name).unwrap());
        let explicit = node.explicit.load(Relaxed);
        into.insert(path.clone(), (node.kind, node.version(), explicit));
        if node.is_directory() {
            contents(tree, node.id, &format!("{path}/"), into);
        }
    }
}

fn compare(tree: &Tree, model: &Model) {
    let mut shown = BTreeMap::new();
    contents(tree, ROOT, "", &mut shown);
    assert_eq!(tree.totals().entries, shown.len() as u64);
    let plain = |(path, (kind, version, explicit)): (&String, &(Kind, u64, bool))| {
        let directory = *kind == Kind::Directory;
        (
            path.clone(),
            *kind,
            if directory { 0 } else { *version },
            !directory || *explicit,
        )
    };
    let shown: Vec<_> = shown.iter().map(plain).collect();
    let expected: Vec<_> = model.0.iter().map(plain).collect();
    assert_eq!(shown, expected);
}

#[test]
fn random_changes_leave_the_tree_as_the_model_and_no_stale_name_in_the_kernel() {
    for seed in 1..=60 {
        let mut random = Random(0x9e37_79b9_7f4a_7c15 ^ (seed << 17));
        let (mut tree, mut model, mut kernel) = (Tree::new(0), Model::default(), Kernel::default());
        for version in 1..400 {
            let path = random.path();
            let batch = match random.below(8) {
                0..3 => {
                    let kind = [Kind::File, Kind::File, Kind::Directory, Kind::Link];
                    let kind = kind[random.below(4) as usize];
                    model.upsert(&path, kind, version);
                    upsert(&mut tree, &path, kind, version)
                }
                3..5 => {
                    model.delete(&path);
                    delete(&mut tree, &path)
                }
                5 => {
                    kernel.evict(&mut tree);
                    continue;
                }
                _ => {
                    kernel.walk(&tree, &path);
                    continue;
                }
            };
            assert_eq!((batch.stale, batch.collisions), (0, 0));
            kernel.hear(&tree, &batch.notices);
            kernel.check(&tree);
            compare(&tree, &model);
        }
        kernel.names.clear();
        kernel.evict(&mut tree);
        assert_eq!(
            tree.held() as u64,
            tree.totals().entries + 1,
            "nothing leaks"
        );
    }
}
