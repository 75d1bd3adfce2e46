//! What is committed, asked for by path, beside a plain model of it.
use super::super::change::Batch;
use super::super::feed::entries;
use super::super::feed::tests::{event, item, record};
use super::*;
use std::collections::BTreeMap;

fn take(tree: &mut Tree, answer: &[u8], snapshot: bool) -> Batch {
    let mut batch = Batch::new(1_000);
    batch.snapshot = snapshot;
    tree.take(&entries(answer, 0).unwrap(), &mut batch);
    batch
}

fn walked(tree: &Tree, top: &str, page: usize) -> Vec<(String, u64)> {
    let (mut all, mut after) = (Vec::new(), String::new());
    loop {
        let mut part = Vec::new();
        tree.walk(top, &after, |path, _, revision| {
            part.push((path.to_owned(), revision));
            part.len() < page
        });
        let done = part.len() < page;
        if let Some((last, _)) = part.last() {
            after.clone_from(last);
        }
        all.extend(part);
        if done {
            return all;
        }
    }
}

#[test]
fn records_are_those_that_were_committed() {
    let mut tree = Tree::new(0);
    let (file, directory) = (record(0, 5, b"abc"), record(1, 6, b""));
    take(&mut tree, &item("d/e/f", &file), false);
    take(&mut tree, &item("d", &directory), false);
    assert_eq!(tree.record("d").unwrap(), directory);
    assert_eq!(tree.record("d/e/f").unwrap().len(), file.len());
    for path in ["", "d/e", "x", "d/e/f/g"] {
        assert_eq!(tree.record(path), None, "{path}");
    }
    assert_eq!(tree.committed(), 2);
    let newer = record(1, 7, b"");
    take(&mut tree, &event("d", &newer, false, 7), false);
    assert_eq!(
        (tree.record("d"), tree.committed()),
        (Some(newer.clone()), 2)
    );
    assert!(take(&mut tree, &event("d", &newer, true, 8), false).deleted);
    assert_eq!((tree.record("d"), tree.committed()), (None, 1));
    take(&mut tree, &event("d/e/f", &file, true, 9), false);
    assert_eq!((tree.committed(), tree.totals().entries), (0, 0));
}

#[test]
fn entries_come_in_parts_each_once() {
    let mut tree = Tree::new(0);
    let mut expected = BTreeMap::new();
    for number in 1..200 {
        let path = format!("d{}/e{}/f{number}", number % 7, number % 3);
        take(&mut tree, &item(&path, &record(0, number, b"x")), false);
        expected.insert(path, number);
    }
    take(&mut tree, &item("d1", &record(1, 300, b"")), false);
    expected.insert("d1".to_owned(), 300);
    for page in [1, 2, 3, 50, 1_000] {
        let found = walked(&tree, "", page);
        assert_eq!(found.len(), expected.len());
        assert_eq!(found.into_iter().collect::<BTreeMap<_, _>>(), expected);
        let below: BTreeMap<_, _> = walked(&tree, "d1", page).into_iter().collect();
        assert!(
            below
                .keys()
                .all(|path| path == "d1" || path.starts_with("d1/"))
        );
        let wanted = expected
            .keys()
            .filter(|path| *path == "d1" || path.starts_with("d1/"));
        assert_eq!(below.len(), wanted.count());
    }
    assert_eq!(walked(&tree, "d1/e1/f1", 9), [("d1/e1/f1".to_owned(), 1)]);
    assert_eq!(walked(&tree, "nowhere", 9), []);
}

#[test]
fn a_walk_goes_on_behind_what_is_gone_meanwhile() {
    let mut tree = Tree::new(0);
    for number in 0..50 {
        let path = format!("d{}/f{number}", number % 5);
        take(&mut tree, &item(&path, &record(0, 1, b"x")), false);
    }
    let all = walked(&tree, "", 1_000);
    for (at, (path, _)) in all.iter().enumerate() {
        take(&mut tree, &event(path, &record(0, 2, b"x"), true, 2), false);
        let mut rest = Vec::new();
        tree.walk("", path, |path, _, _| {
            rest.push(path.to_owned());
            true
        });
        let expected: Vec<_> = all[at + 1..].iter().map(|(path, _)| path).collect();
        assert_eq!(rest.iter().collect::<Vec<_>>(), expected);
    }
}

#[test]
fn what_a_snapshot_does_not_tell_of_is_gone_at_its_end() {
    let mut tree = Tree::new(0);
    let known = [
        ("a", 0, 1),
        ("d", 1, 2),
        ("d/f", 0, 3),
        ("e", 1, 4),
        ("g/h", 0, 5),
    ];
    for (path, kind, revision) in known {
        take(&mut tree, &item(path, &record(kind, revision, b"x")), false);
    }
    tree.begin_snapshot();
    let mut gone = tree.unseen();
    gone.sort();
    assert_eq!(gone, ["a", "d", "d/f", "e", "g/h"]);
    let told = [("a", 0, 1), ("d/f", 0, 9), ("e", 1, 4), ("new", 0, 8)];
    for (path, kind, revision) in told {
        take(&mut tree, &item(path, &record(kind, revision, b"x")), true);
    }
    let mut gone = tree.unseen();
    gone.sort();
    assert_eq!(gone, ["d", "g/h"]);
    let mut batch = Batch::new(0);
    gone.iter().for_each(|path| tree.delete(path, &mut batch));
    let found: BTreeMap<_, _> = walked(&tree, "", 9).into_iter().collect();
    let expected = told.map(|(path, _, revision)| (path.to_owned(), revision));
    assert_eq!(found, BTreeMap::from(expected));
}
