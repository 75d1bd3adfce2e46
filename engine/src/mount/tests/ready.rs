use super::super::content::Place;
use super::super::node::Kind;
use super::super::table::Row;
use super::super::tree::new;
use super::*;
use crate::contents::seal::seal;
use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;
use std::sync::atomic::Ordering::Relaxed;
use tempfile::NamedTempFile;

fn file(content: &[u8]) -> NamedTempFile {
    let file = NamedTempFile::new().unwrap();
    std::fs::write(&file, content).unwrap();
    seal(file.as_file()).unwrap();
    file
}

/// A node whose content is said to be in that file.
fn node(id: u64, size: u64, past: bool, file: &NamedTempFile) -> Arc<Node> {
    let at = CString::new(file.path().as_os_str().as_bytes()).unwrap();
    Arc::new(Node {
        size,
        past,
        place: Place::of_one(Some(at.into())),
        ..new((id, Kind::File, 0o644), 1, b"f", 0)
    })
}

/// It was open, and is closed.
fn pin(node: &Arc<Node>, file: &NamedTempFile) -> Pin {
    let row = Row {
        node: node.id,
        backing: 1,
        opens: 0,
    };
    let mut pin = Pin::left(0, row);
    pin.local = Local::of(node, file.as_file());
    pin
}

fn of(pin: Option<Pin>) -> Option<u64> {
    pin.map(|pin| pin.local.unwrap().node.id)
}

#[test]
fn beyond_the_bound_the_file_that_was_closed_first_goes() {
    let (file, mut ready) = (file(b"content"), Ready::default());
    let close = |ready: &mut Ready, id| of(ready.put(id, pin(&node(id, 7, false, &file), &file)));
    for id in 1..=READY_MAX as u64 {
        assert_eq!(close(&mut ready, id), None);
    }
    assert_eq!(of(ready.take(1)), Some(1), "it is opened once more");
    assert_eq!(close(&mut ready, 1), None);
    assert_eq!(close(&mut ready, 100_000), Some(2));
    assert_eq!(close(&mut ready, 100_001), Some(3));
    assert_eq!(ready.count(), READY_MAX);
    assert!(ready.take(2).is_none());
    assert_eq!(of(ready.take(1)), Some(1));
    assert_eq!(close(&mut ready, 100_002), None, "one was taken out");
}

#[test]
fn large_files_and_those_of_the_past_do_not_stay_ready() {
    let (file, mut ready) = (file(b"content"), Ready::default());
    for (size, past, stays) in [
        (READY_BYTES_MAX, false, true),
        (READY_BYTES_MAX + 1, false, false),
        (7, true, false),
    ] {
        let pin = pin(&node(5, size, past, &file), &file);
        assert_eq!(ready.put(5, pin).is_none(), stays);
        assert_eq!(ready.take(5).is_some(), stays);
    }
}

#[test]
fn what_is_not_shown_does_not_stay_ready() {
    let (file, mut ready) = (file(b"content"), Ready::default());
    let [shown, hidden, replaced] = [1, 2, 3].map(|id| node(id, 7, false, &file));
    let hide = || {
        *hidden.place.lock() = None;
        replaced.orphan.store(true, Relaxed);
    };
    for node in [&shown, &hidden, &replaced] {
        assert!(ready.put(node.id, pin(node, &file)).is_none());
    }
    hide();
    let mut gone: Vec<_> = ready.take_hidden().into_iter().map(Some).map(of).collect();
    gone.sort_unstable();
    assert_eq!(gone, [Some(2), Some(3)]);
    for node in [&shown, &hidden, &replaced] {
        let gone = ready.put(node.id, pin(node, &file));
        assert_eq!(gone.is_some(), node.id != 1, "{}", node.id);
    }
    assert_eq!(ready.count(), 1);
}

#[test]
fn a_file_is_in_place_while_its_name_leads_to_it() {
    let file = file(b"content");
    let node = node(1, 7, false, &file);
    let local = Local::of(&node, file.as_file()).unwrap();
    assert!(local.is_in_place());
    file.as_file().set_len(6).unwrap();
    seal(file.as_file()).unwrap();
    assert!(!local.is_in_place(), "it was cut");
    file.as_file().set_len(7).unwrap();
    assert!(!local.is_in_place(), "it was written to");
    seal(file.as_file()).unwrap();
    assert!(local.is_in_place());
    let other = self::file(b"another");
    std::fs::rename(other.path(), file.path()).unwrap();
    assert!(!local.is_in_place(), "it gave way to another");
    std::fs::remove_file(file.path()).unwrap();
    assert!(!local.is_in_place());
    *node.place.lock() = None;
    assert!(!local.is_in_place());
}
