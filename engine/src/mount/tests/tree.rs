use super::super::change::{Batch, Upsert};
use super::*;

fn file(path: &str, version: u64) -> Upsert {
    Upsert {
        path: path.to_owned(),
        kind: Kind::File,
        size: version * 10,
        mode: 0o640,
        mtime_ns: 5,
        uid: NOBODY,
        gid: NOBODY,
        version,
        place: None,
    }
}

fn tree(files: &[(&str, u64)]) -> Tree {
    let (mut tree, mut batch) = (Tree::new(0), Batch::new(0));
    for (path, version) in files {
        tree.upsert(&file(path, *version), &mut batch);
    }
    tree
}

fn listed(tree: &Tree, id: u64, after: u64, limit: usize) -> Vec<(String, u64)> {
    let mut names = Vec::new();
    let taken = |entry: Listed<'_>| {
        if names.len() == limit {
            return false;
        }
        names.push((
            String::from_utf8(entry.name.to_vec()).unwrap(),
            entry.cookie,
        ));
        true
    };
    tree.list(id, after, false, taken).unwrap();
    names
}

#[test]
fn a_listing_goes_on_at_its_cookie_in_another_process() {
    let names: Vec<String> = (0..100).map(|number| format!("d/f{number}")).collect();
    let forward: Vec<(&str, u64)> = names.iter().map(|name| (name.as_str(), 1)).collect();
    let backward: Vec<(&str, u64)> = forward.iter().rev().copied().collect();
    let (one, other) = (tree(&forward), tree(&backward));
    let id = one.find("d").unwrap().id;
    assert_eq!(id, other.find("d").unwrap().id);
    let mut all = Vec::new();
    let mut after = 0;
    loop {
        let from = if all.len() % 2 == 0 { &one } else { &other };
        let part = listed(from, id, after, 7);
        let Some((_, last)) = part.last() else { break };
        after = *last;
        all.extend(part.into_iter().map(|(name, _)| name));
    }
    assert_eq!(all[..2], [".", ".."]);
    all.drain(..2);
    all.sort();
    let mut expected: Vec<String> = names.iter().map(|name| name[2..].to_owned()).collect();
    expected.sort();
    assert_eq!(all, expected);
}

#[test]
fn lookups_are_counted_until_they_are_forgotten() {
    let (mut tree, mut batch) = (tree(&[("a", 1)]), Batch::new(0));
    let id = tree.lookup(ROOT, b"a").unwrap().unwrap().id;
    tree.lookup(ROOT, b"a").unwrap();
    tree.upsert(&file("a", 2), &mut batch);
    assert!(
        tree.get(id).unwrap().is_orphan(),
        "an open file keeps its version"
    );
    assert!(!tree.forget(id, 1));
    assert!(tree.forget(id, 1));
    tree.reap(id);
    assert!(tree.get(id).is_none());
    assert!(!tree.forget(id, 1));
    assert!(!tree.forget(ROOT, 1_000));
    assert!(tree.get(ROOT).is_some());
}

#[test]
fn more_forgotten_than_counted_does_no_harm() {
    let tree = tree(&[("a", 1)]);
    let id = tree.lookup(ROOT, b"a").unwrap().unwrap().id;
    assert!(!tree.forget(id, u64::MAX), "it is still in the tree");
    assert_eq!(tree.get(id).unwrap().lookups.load(Relaxed), 0);
}

#[test]
fn only_directories_have_entries() {
    let tree = tree(&[("d/a", 1)]);
    let id = tree.find("d/a").unwrap().id;
    assert_eq!(tree.lookup(id, b"x").err(), Some(NoDirectory));
    assert_eq!(tree.lookup(12_345, b"x").err(), Some(NoDirectory));
    assert_eq!(tree.list(id, 0, false, |_| true), Err(NoDirectory));
    assert!(tree.lookup(ROOT, b"x").unwrap().is_none());
}

#[test]
fn paths_are_found_and_named() {
    let tree = tree(&[("d/e/a", 1), ("b", 2)]);
    for path in ["d", "d/e", "d/e/a", "b"] {
        assert_eq!(tree.path(tree.find(path).unwrap()).as_deref(), Some(path));
    }
    for path in ["", "d/x", "b/a", "d/e/a/x"] {
        assert!(tree.find(path).is_none(), "{path:?}");
    }
}

#[test]
fn what_is_gone_has_no_path() {
    let (mut tree, mut batch) = (tree(&[("d/e/a", 1)]), Batch::new(0));
    let node = tree.find("d/e/a").unwrap().clone();
    for name in [&b"d"[..], b"e", b"a"] {
        let parent = if name == b"d" {
            ROOT
        } else {
            tree.find(if name == b"e" { "d" } else { "d/e" })
                .unwrap()
                .id
        };
        tree.lookup(parent, name).unwrap();
    }
    tree.delete("d/e/a", &mut batch);
    assert_eq!(tree.path(&node), None);
    assert_eq!(tree.totals(), Totals::default());
}

#[test]
fn components_of_a_path() {
    let parts = |path| components(path).collect::<Vec<_>>();
    assert_eq!(
        parts("a/bc/d"),
        [("a", "a"), ("a/bc", "bc"), ("a/bc/d", "d")]
    );
    assert_eq!(parts("a"), [("a", "a")]);
    assert_eq!(parts(""), []);
}

#[test]
fn what_is_offered_is_there_for_who_names_it_and_in_no_listing_or_count() {
    let mut tree = tree(&[("f", 1)]);
    let before = tree.totals();
    tree.offer(&["stats".to_owned(), "sync".to_owned()], 5);
    assert_eq!(tree.totals(), before);
    assert_eq!(listed(&tree, ROOT, 0, 9).len(), 3, "., .. and f");
    let above = tree.lookup(ROOT, b".dfs").unwrap().unwrap().clone();
    assert!(above.is_directory());
    let names: Vec<String> = listed(&tree, above.id, 0, 9)
        .into_iter()
        .map(|(name, _)| name)
        .collect();
    assert_eq!(names.len(), 5, "., .., at and the two");
    assert!(names.contains(&"stats".to_owned()) && names.contains(&"sync".to_owned()));
    let made = tree.lookup(above.id, b"stats").unwrap().unwrap().clone();
    assert_eq!((made.kind, made.size), (Kind::Made, 0));
    assert_eq!(tree.path(&made).as_deref(), Some(".dfs/stats"));
    assert!(tree.lookup(above.id, b"other").unwrap().is_none());
    assert!(tree.lookup(above.id, b".dfs").unwrap().is_none());
    assert!(
        !tree.forget(made.id, 1),
        "it stays when the kernel forgets it"
    );
    // The same in the next process: the kernel holds these ids.
    let mut next = Tree::new(9);
    next.offer(&["sync".to_owned(), "stats".to_owned()], 9);
    assert_eq!(next.lookup(ROOT, b".dfs").unwrap().unwrap().id, above.id);
    assert_eq!(
        next.lookup(above.id, b"stats").unwrap().unwrap().id,
        made.id
    );
}
