//! Readers who come late: what they looked up or opened was replaced since.
use super::super::abi::{ROOT, op};
use super::super::content::Digest;
use super::super::feed::entries;
use super::super::feed::tests::{event, record};
use super::super::kernel::{Kernel, WAIT, any, read_body};
use super::super::session::Come;
use super::tests::part;
use sha2::{Digest as _, Sha256};
use std::thread;

#[test]
fn what_was_looked_up_can_be_opened_however_late() {
    let mut kernel = Kernel::new(any);
    kernel.put("f", 1, b"old", true);
    let old = kernel.lookup(ROOT, "f");
    for version in 2..5 {
        kernel.put("f", version, &[version as u8], true);
    }
    assert!(
        kernel.session.left().is_empty(),
        "the kernel knows the first one; the others went at once"
    );
    assert_eq!(kernel.ask(op::OPEN, old, &[0; 8]).0, 0);
    assert_eq!(kernel.read(old, 0, 100), (0, b"old".to_vec()));
    assert_eq!(kernel.ask(op::RELEASE, old, &[0; 24]).0, 0);
    kernel.send(op::FORGET, old, &1u64.to_le_bytes());
    assert_eq!(kernel.ask(op::STATFS, ROOT, &[]).0, 0);
    assert_eq!(
        kernel.session.left(),
        [Digest::from(Sha256::digest(b"old"))]
    );
    assert!(kernel.session.left().is_empty(), "each is told once");
}

#[test]
fn the_content_of_what_was_replaced_is_asked_for_by_its_version() {
    let mut kernel = Kernel::new(any);
    kernel.put("d/f", 1, b"old", true);
    let directory = kernel.lookup(ROOT, "d");
    let old = kernel.lookup(directory, "f");
    kernel.put("d/f", 2, b"newer", true);
    std::fs::remove_file(kernel.dir.path().join("1")).unwrap();
    let open = kernel.send(op::OPEN, old, &[0; 8]);
    let taken = kernel.session.next_misses(9, WAIT);
    assert_eq!(taken, [(1, "d/f".to_owned(), 1, 0, 0)]);
    let place = kernel.object(1, b"old");
    assert!(kernel.session.fulfil(1, Ok(Come::Whole(place))));
    assert_eq!(kernel.answer_to(open).0, 0);
    assert_eq!(kernel.read(old, 0, 100), (0, b"old".to_vec()));
}

#[test]
fn who_opens_what_is_not_to_be_had_any_more_is_told_to_look_again() {
    let mut kernel = Kernel::new(any);
    kernel.put("f", 1, b"old", false);
    let old = kernel.lookup(ROOT, "f");
    kernel.put("f", 2, b"newer", true);
    let (open, read) = (
        kernel.send(op::OPEN, old, &[0; 8]),
        kernel.send(op::READ, old, &read_body(0, 9)),
    );
    let miss = kernel.miss();
    while kernel.stat("waiting") < 2 {
        thread::yield_now();
    }
    assert!(kernel.session.fulfil(miss, Err(libc::EIO)));
    assert_eq!(kernel.answer_to(open).0, libc::ESTALE);
    assert_eq!(kernel.answer_to(read).0, libc::EIO, "it has it open");
    assert_eq!(
        kernel.ask(op::OPEN, old, &[0; 8]).0,
        libc::ESTALE,
        "remembered"
    );
    assert_eq!(kernel.read(old, 0, 9).0, libc::EIO);
}

#[test]
fn a_directory_that_was_taken_away_has_no_entries() {
    let mut kernel = Kernel::new(any);
    kernel.put("d/f", 1, b"x", true);
    let directory = kernel.lookup(ROOT, "d");
    let gone = event("d/f", &record(0, 1, b"x"), true, 2);
    kernel
        .session
        .show(&entries(&gone, 0).unwrap(), vec![], false);
    let lookup = kernel.ask(op::LOOKUP, directory, b"f\0");
    assert_eq!(lookup.0, libc::ENOENT);
    let list = kernel.ask(op::READDIR, directory, &read_body(0, 4096));
    assert_eq!(list.0, libc::ENOENT);
}

#[test]
fn a_file_that_is_open_is_read_on_by_the_next_process_though_it_and_its_directory_are_gone() {
    let table = tempfile::tempfile().unwrap();
    let copy = || table.try_clone().ok();
    let mut kernel = Kernel::noting(|options| options.passthrough = false, copy());
    kernel.put("d/f", 1, b"abcdefghijkl", false);
    let directory = kernel.lookup(ROOT, "d");
    let file = kernel.lookup(directory, "f");
    let open = kernel.send(op::OPEN, file, &[0; 8]);
    let some = part(&kernel, 1);
    some.mark(0);
    assert!(
        kernel
            .session
            .fulfil(kernel.miss(), Ok(Come::Part(some.clone())))
    );
    assert_eq!(kernel.answer_to(open).0, 0);
    assert_eq!(kernel.read(file, 0, 4), (0, b"abcd".to_vec()));
    kernel.session.close();

    let mut next = kernel.next(copy(), |_| {});
    let read = next.send(op::READ, file, &read_body(4, 4));
    let taken = next.session.next_misses(9, WAIT);
    assert_eq!(taken, [(1, "d/f".to_owned(), 1, 0, 0)]);
    let some = part(&kernel, 1);
    some.mark(1);
    assert!(next.session.fulfil(1, Ok(Come::Part(some.clone()))));
    assert_eq!(next.answer_to(read), (0, b"efgh".to_vec()));
    let read = next.send(op::READ, file, &read_body(0, 4));
    let taken = next.session.next_misses(9, WAIT);
    assert_eq!(taken, [(2, "f".to_owned(), 1, 0, 1)]);
    assert!(next.session.fulfil(2, Err(libc::EIO)));
    assert_eq!(next.answer_to(read).0, libc::EIO);
    next.ask(op::RELEASE, file, &[0; 24]);
    next.send(op::FORGET, file, &1u64.to_le_bytes());
    assert_eq!(next.ask(op::STATFS, ROOT, &[]).0, 0);
    assert!(next.session.tree.read().former.is_empty());
}
