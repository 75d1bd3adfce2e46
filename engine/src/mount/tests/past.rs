//! The past, of a kernel that is the other end of a socket.
use super::super::abi::{ROOT, op};
use super::super::change::Upsert;
use super::super::kernel::{Kernel, WAIT, any, word};
use super::super::node::{Kind, NOBODY};
use super::super::session::{Come, Options, Session};
use super::super::table::Table;
use super::*;
use std::ffi::CString;

fn entry(path: &str, kind: Kind, version: u64) -> Upsert {
    Upsert {
        path: path.to_owned(),
        kind,
        size: 5,
        mode: 0o640,
        mtime_ns: 7,
        uid: NOBODY,
        gid: NOBODY,
        version,
        place: (kind == Kind::Link).then(|| CString::new("there").unwrap().into()),
        ..Upsert::default()
    }
}

/// A tree with the directory of revision 7.
fn tree() -> (Tree, u64) {
    let mut tree = Tree::new(1);
    tree.offer(&[], 1);
    let named = tree
        .name_past(top(), &entry("7", Kind::Directory, 7))
        .unwrap();
    (tree, named.id)
}

fn names(tree: &Tree, id: u64) -> Vec<String> {
    let mut names = Vec::new();
    tree.list(id, 2, false, |entry| {
        names.push(String::from_utf8(entry.name.to_vec()).unwrap());
        true
    })
    .unwrap();
    names.sort();
    names
}

#[test]
fn entries_are_asked_for_once_and_in_no_count() {
    let (mut tree, seven) = tree();
    assert!(tree.unlisted(seven).is_some());
    assert!(tree.lookup(seven, b"a").is_err());
    let all = [
        entry("a", Kind::Directory, 3),
        entry("f", Kind::File, 4),
        entry("l", Kind::Link, 5),
    ];
    assert_eq!(tree.fill(seven, &all), 0);
    assert!(tree.unlisted(seven).is_none());
    assert_eq!(names(&tree, seven), ["a", "f", "l"]);
    let file = tree.lookup(seven, b"f").unwrap().unwrap().clone();
    assert_eq!(tree.path(&file).unwrap(), ".dfs/at/7/f");
    assert_eq!((file.version(), file.size), (4, 5));
    assert_eq!(tree.fill(seven, &[]), 0, "they are here");
    assert_eq!(names(&tree, seven), ["a", "f", "l"]);
    assert_eq!((tree.totals().entries, tree.totals().bytes), (0, 0));
    assert_eq!(names(&tree, top()), Vec::<String>::new());
    assert!(tree.unlisted(top()).is_none());
}

#[test]
fn what_the_kernel_forgets_goes_with_all_below_it() {
    let (mut tree, seven) = tree();
    let before = tree.held();
    tree.fill(seven, &[entry("a", Kind::Directory, 3)]);
    let above = tree.lookup(seven, b"a").unwrap().unwrap().id;
    tree.fill(
        above,
        &[entry("a/f", Kind::File, 4), entry("a/g", Kind::File, 4)],
    );
    let file = tree.lookup(above, b"f").unwrap().unwrap().id;
    assert_eq!(tree.listings.entries(), 5);
    assert!(!tree.forget(above, 1), "it is in a listing");
    assert!(tree.forget(seven, 1));
    tree.reap(seven);
    assert_eq!(tree.listings.entries(), 0);
    assert!(tree.get(file).is_some(), "somebody has it open");
    assert_eq!(tree.held(), before);
    assert!(tree.forget(file, 1));
    tree.reap(file);
    assert_eq!(
        tree.held(),
        before - 1,
        "and the directory of revision 7 is gone"
    );
}

#[test]
fn entries_that_went_come_back_under_the_same_ids() {
    let (mut tree, seven) = tree();
    let all = [entry("f", Kind::File, 4), entry("g", Kind::File, 4)];
    tree.fill(seven, &all);
    let known = tree.lookup(seven, b"f").unwrap().unwrap().id;
    let unknown = tree.child(seven, b"g").unwrap().id;
    tree.unlist(seven);
    assert!(tree.unlisted(seven).is_some());
    assert!(tree.get(known).is_some());
    assert!(tree.get(unknown).is_none());
    let path = tree.path(tree.get(known).unwrap());
    assert_eq!(path.as_deref(), Some(".dfs/at/7/f"), "it can be opened yet");
    tree.fill(seven, &all);
    assert_eq!(tree.child(seven, b"f").unwrap().id, known);
    assert_eq!(tree.child(seven, b"g").unwrap().id, unknown);
    assert_eq!(tree.get(known).unwrap().lookups.load(Relaxed), 1);
    assert!(!tree.forget(known, 1));
}

#[test]
fn beyond_the_bound_the_listing_that_came_first_goes() {
    let (mut tree, seven) = tree();
    let eight = tree
        .name_past(top(), &entry("8", Kind::Directory, 8))
        .unwrap();
    let half = PAST_ENTRIES_MAX / 2;
    let many: Vec<Upsert> = (0..half)
        .map(|number| entry(&format!("f{number}"), Kind::File, 4))
        .collect();
    tree.fill(seven, &many);
    assert!(tree.unlisted(seven).is_none());
    tree.fill(eight.id, &many);
    assert!(tree.unlisted(seven).is_some());
    assert!(tree.unlisted(eight.id).is_none());
    assert_eq!(tree.listings.entries(), half + 1);
    assert!(tree.held() < PAST_ENTRIES_MAX);
}

#[test]
fn a_change_of_the_tree_is_none_of_the_past() {
    let (mut tree, seven) = tree();
    tree.fill(seven, &[entry("f", Kind::File, 4)]);
    let mut batch = super::super::change::Batch::new(1);
    tree.upsert(&entry("f", Kind::File, 9), &mut batch);
    tree.delete("f", &mut batch);
    assert_eq!(names(&tree, seven), ["f"]);
}

// ---- through the protocol ----------------------------------------------------------------------

fn offering() -> (Kernel, u64) {
    offered(Kernel::new(any))
}

fn offered(mut kernel: Kernel) -> (Kernel, u64) {
    kernel.session.offer(&[]);
    let above = kernel.lookup(ROOT, ".dfs");
    let top = kernel.lookup(above, "at");
    (kernel, top)
}

fn name(text: &str) -> Vec<u8> {
    CString::new(text).unwrap().into_bytes_with_nul()
}

/// Answers the next question, which must be this one.
fn fill(kernel: &Kernel, path: &str, what: &str, entries: &[Upsert]) {
    let asked = kernel.session.next_questions(1, WAIT);
    assert_eq!((asked[0].1.as_str(), asked[0].3.as_str()), (path, what));
    assert!(kernel.session.fill(asked[0].0, entries));
}

fn seven(kernel: &mut Kernel, top: u64) -> u64 {
    let lookup = kernel.send(op::LOOKUP, top, &name("7"));
    fill(
        kernel,
        ".dfs/at",
        "name:7",
        &[entry("7", Kind::Directory, 7)],
    );
    let (errno, found) = kernel.answer_to(lookup);
    assert_eq!((errno, word(&found, 16)), (0, 1), "for a second");
    word(&found, 0)
}

#[test]
fn names_are_questions_and_so_is_what_is_below_them() {
    let (mut kernel, top) = offering();
    let seven = seven(&mut kernel, top);
    let lookup = kernel.send(op::LOOKUP, seven, &name("f"));
    let all = [entry("f", Kind::File, 4), entry("l", Kind::Link, 5)];
    fill(&kernel, ".dfs/at/7", "list", &all);
    let (errno, found) = kernel.answer_to(lookup);
    assert_eq!((errno, word(&found, 16)), (0, 3_600), "it never changes");
    let link = kernel.lookup(seven, "l");
    assert_eq!(kernel.ask(op::READLINK, link, &[]), (0, b"there".to_vec()));
    assert_eq!(kernel.stat("questions"), 2);
    kernel.session.set_live(false);
    let attributes = kernel.ask(op::GETATTR, link, &[0; 16]).1;
    assert_eq!(
        word(&attributes, 0),
        3_600,
        "also while changes do not arrive"
    );
    let (errno, none) = kernel.ask(op::LOOKUP, seven, &name("none"));
    assert_eq!((errno, word(&none, 0)), (0, 0));
}

#[test]
fn a_listing_waits_for_the_entries() {
    let (mut kernel, top) = offering();
    let seven = seven(&mut kernel, top);
    let mut body = vec![0; 40];
    body[16..20].copy_from_slice(&4_096_u32.to_le_bytes());
    let listing = kernel.send(op::READDIR, seven, &body);
    fill(&kernel, ".dfs/at/7", "list", &[entry("f", Kind::File, 4)]);
    let (errno, listed) = kernel.answer_to(listing);
    assert_eq!(errno, 0);
    assert_eq!(listed.len(), 3 * 32, "., .. and f");
}

#[test]
fn content_of_the_past_is_a_miss_that_names_its_path_and_version() {
    let (mut kernel, top) = offering();
    let seven = seven(&mut kernel, top);
    let lookup = kernel.send(op::LOOKUP, seven, &name("f"));
    fill(&kernel, ".dfs/at/7", "list", &[entry("f", Kind::File, 4)]);
    let file = word(&kernel.answer_to(lookup).1, 0);
    let open = kernel.send(op::OPEN, file, &[0; 8]);
    let [miss] = &kernel.session.next_misses(1, WAIT)[..] else {
        panic!("one miss");
    };
    assert_eq!((miss.1.as_str(), miss.2), (".dfs/at/7/f", 4));
    let place = kernel.object(4, b"hello");
    assert!(kernel.session.fulfil(miss.0, Ok(Come::Whole(place))));
    assert_eq!(kernel.answer_to(open).0, 0);
    assert_eq!(kernel.read(file, 0, 9), (0, b"hello".to_vec()));
}

#[test]
fn what_is_no_revision_and_wrong_answers_are_errors() {
    let (mut kernel, top) = offering();
    let lookup = kernel.send(op::LOOKUP, top, &name("none"));
    let question = kernel.session.next_questions(1, WAIT)[0].0;
    assert!(kernel.session.answer_question(question, Err(libc::ERANGE)));
    assert_eq!(kernel.answer_to(lookup).0, libc::ERANGE);
    let lookup = kernel.send(op::LOOKUP, top, &name("none"));
    fill(&kernel, ".dfs/at", "name:none", &[]);
    assert_eq!(kernel.answer_to(lookup).0, libc::ENOENT);
    let lookup = kernel.send(op::LOOKUP, top, &name("none"));
    let question = kernel.session.next_questions(1, WAIT)[0].0;
    assert!(
        kernel
            .session
            .answer_question(question, Ok(b"bytes".to_vec()))
    );
    assert_eq!(kernel.answer_to(lookup).0, libc::EIO);
    assert_eq!(kernel.ask(op::LOOKUP, top, b"\xff\0").0, libc::ENOENT);
    let seven = seven(&mut kernel, top);
    let forget = 1_u64.to_le_bytes();
    kernel.send(op::FORGET, seven, &forget);
    assert_eq!(kernel.ask(op::LOOKUP, seven, &name("f")).0, libc::ESTALE);
}

#[test]
fn a_revision_that_was_named_by_a_time_is_asked_for_by_its_number() {
    let (mut kernel, top) = offering();
    let lookup = kernel.send(op::LOOKUP, top, &name("2026-11-25"));
    let then = [entry("2026-11-25", Kind::Directory, 7)];
    fill(&kernel, ".dfs/at", "name:2026-11-25", &then);
    let then = word(&kernel.answer_to(lookup).1, 0);
    let lookup = kernel.send(op::LOOKUP, then, &name("f"));
    fill(&kernel, ".dfs/at/7", "list", &[entry("f", Kind::File, 4)]);
    let file = word(&kernel.answer_to(lookup).1, 0);
    assert_ne!(then, seven(&mut kernel, top), "it is another directory");
    kernel.send(op::OPEN, file, &[0; 8]);
    assert_eq!(kernel.session.next_misses(1, WAIT)[0].1, ".dfs/at/7/f");
}

#[test]
fn files_of_ours_may_be_among_the_revisions() {
    let mut kernel = Kernel::new(any);
    kernel
        .session
        .offer(&["stats".to_owned(), "at/README".to_owned()]);
    let above = kernel.lookup(ROOT, ".dfs");
    let top = kernel.lookup(above, "at");
    let file = kernel.lookup(top, "README");
    let open = kernel.send(op::OPEN, file, &[0; 8]);
    let asked = kernel.session.next_questions(1, WAIT);
    assert_eq!((&*asked[0].1, &*asked[0].3), (".dfs/at/README", "content"));
    kernel
        .session
        .answer_question(asked[0].0, Ok(b"text".to_vec()));
    assert_eq!(kernel.answer_to(open).0, 0);
    assert_eq!(names(&kernel.session.tree.read(), top), ["README"]);
}

#[test]
fn the_next_process_goes_on_with_what_is_open_and_where_somebody_stands() {
    let table = tempfile::tempfile().unwrap();
    let copy = || Some(table.try_clone().unwrap());
    let cached = |options: &mut Options| options.passthrough = false;
    let (mut kernel, top) = offered(Kernel::noting(cached, copy()));
    let seven = seven(&mut kernel, top);
    let lookup = kernel.send(op::LOOKUP, seven, &name("a"));
    let all = [entry("a", Kind::Directory, 3), entry("f", Kind::File, 4)];
    fill(&kernel, ".dfs/at/7", "list", &all);
    let above = word(&kernel.answer_to(lookup).1, 0);
    let file = kernel.lookup(seven, "f");
    let open = kernel.send(op::OPEN, file, &[0; 8]);
    let place = kernel.object(4, b"hello");
    assert!(kernel.session.fulfil(kernel.miss(), Ok(Come::Whole(place))));
    assert_eq!(kernel.answer_to(open).0, 0);
    kernel.session.close();

    let mut next = kernel.next(copy(), |session| session.offer(&[]));
    std::fs::remove_file(kernel.dir.path().join("4")).unwrap();
    assert_eq!(next.read(file, 0, 9), (0, b"hello".to_vec()));
    assert_eq!(next.stat("misses"), 0);
    let lookup = next.send(op::LOOKUP, above, &name("g"));
    fill(&next, ".dfs/at/7/a", "list", &[entry("a/g", Kind::File, 4)]);
    assert_ne!(word(&next.answer_to(lookup).1, 0), 0);
    let lookup = next.send(op::LOOKUP, seven, &name("f"));
    fill(&next, ".dfs/at/7", "list", &all);
    assert_eq!(word(&next.answer_to(lookup).1, 0), file);
    for (id, count) in [(above, 1_u64), (seven, 1), (file, 2)] {
        next.send(op::FORGET, id, &count.to_le_bytes());
    }
    let released = next.send(op::RELEASE, file, &[0; 24]);
    next.answer_to(released);
    let held = |session: &Session| session.tree.read().get(above).is_some();
    assert!(!held(&next.session), "what the kernel forgets goes");
    next.session.close();
    let left = Table::resume(copy().unwrap()).unwrap().1;
    let left: Vec<u64> = left.iter().map(|(_, row, ..)| row.node).collect();
    assert_eq!(left, [top]);
}
