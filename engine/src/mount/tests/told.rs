//! A session that hears of contents and changes.
use super::super::feed::entries;
use super::super::feed::tests::{event, item, record};
use super::super::kernel::{Kernel, any};
use super::*;
use sha2::Digest as _;

fn digest(content: &[u8]) -> Digest {
    sha2::Sha256::digest(content).into()
}

fn file(path: &str, content: &[u8], revision: u64) -> Vec<u8> {
    event(path, &record(0, revision, content), false, revision)
}

fn show(kernel: &Kernel, answer: &[u8], places: Vec<(Digest, Arc<CStr>)>) -> Shown {
    kernel
        .session
        .show(&entries(answer, 0).unwrap(), places, false)
}

fn place(kernel: &Kernel, path: &str) -> Option<Arc<CStr>> {
    let tree = kernel.session.tree.read();
    tree.find(path).unwrap().place.lock().clone()
}

#[test]
fn a_content_is_asked_for_once_and_placed_for_all_who_show_it() {
    let kernel = Kernel::new(any);
    let answer = [
        file("a", b"one", 1),
        file("b", b"one", 2),
        file("c", b"two", 3),
    ]
    .concat();
    let told = entries(&answer, 0).unwrap();
    let found = kernel.session.contents(&told);
    let wanted = [&b"one"[..], b"two"].map(|c| (digest(c), 3, Some(&b"data"[..])));
    assert_eq!(found, wanted);
    show(
        &kernel,
        &answer,
        vec![(digest(b"one"), c"/objects/1".into())],
    );
    assert_eq!(place(&kernel, "a").as_deref(), Some(c"/objects/1"));
    assert_eq!(place(&kernel, "b").as_deref(), Some(c"/objects/1"));
    assert_eq!(place(&kernel, "c"), None);
    let again = kernel.session.contents(&told);
    assert_eq!(
        again,
        [(digest(b"two"), 3, Some(&b"data"[..]))],
        "it came along and is not here"
    );
    let without = item("x", &record(0, 9, b"two"));
    assert_eq!(kernel.session.contents(&entries(&without, 0).unwrap()), []);
    let places = vec![
        (digest(b"two"), Some(c"/objects/2".into())),
        (digest(b"three"), None),
    ];
    assert_eq!(kernel.session.place_contents(places), 1);
    assert_eq!(place(&kernel, "c").as_deref(), Some(c"/objects/2"));
}

#[test]
fn what_is_moved_keeps_its_place_and_what_nobody_shows_is_told() {
    let kernel = Kernel::new(any);
    show(
        &kernel,
        &file("a", b"one", 1),
        vec![(digest(b"one"), c"/objects/1".into())],
    );
    let gone = event("a", &record(0, 1, b"one"), true, 2);
    let moved = show(&kernel, &[gone, file("b", b"one", 2)].concat(), vec![]);
    assert!(moved.deleted && moved.left.is_empty());
    assert_eq!(place(&kernel, "b").as_deref(), Some(c"/objects/1"));
    let replaced = show(&kernel, &file("b", b"two", 3), vec![]);
    assert_eq!(
        (replaced.deleted, replaced.left),
        (false, vec![digest(b"one")])
    );
}

#[test]
fn a_path_that_cannot_be_shown_does_not_take_the_others_with_it() {
    let kernel = Kernel::new(any);
    let answer = [
        file("a", b"x", 1),
        file("b//c", b"x", 2),
        file("d", b"x", 3),
    ]
    .concat();
    let shown = show(&kernel, &answer, vec![]);
    assert_eq!(
        shown.refused,
        [("b//c".to_owned(), "has an empty component")]
    );
    assert_eq!(kernel.session.tree.read().committed(), 2);
}

#[test]
fn the_end_of_a_snapshot_takes_away_what_it_did_not_tell_of() {
    let kernel = Kernel::new(any);
    show(
        &kernel,
        &[file("a", b"one", 1), file("b", b"two", 2)].concat(),
        vec![],
    );
    kernel.session.begin_snapshot();
    let part = item("b", &record(0, 2, b"two"));
    kernel
        .session
        .show(&entries(&part, 0).unwrap(), vec![], true);
    let end = kernel.session.end_snapshot();
    assert_eq!((end.deleted, end.left), (true, vec![digest(b"one")]));
    assert!(kernel.session.tree.read().find("a").is_none());
}

#[test]
fn contents_that_were_opened_are_told_once() {
    let mut kernel = Kernel::new(any);
    let here = kernel.object(1, b"one");
    show(&kernel, &file("a", b"one", 1), vec![(digest(b"one"), here)]);
    let node = kernel.lookup(super::super::abi::ROOT, "a");
    assert_eq!(kernel.ask(super::super::abi::op::OPEN, node, &[0; 8]).0, 0);
    assert_eq!(kernel.read(node, 0, 9), (0, b"one".to_vec()));
    assert_eq!(kernel.session.opened(), [digest(b"one")]);
    assert_eq!(kernel.session.opened(), [] as [Digest; 0]);
}
