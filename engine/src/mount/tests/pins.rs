use super::super::change::{Batch, Upsert};
use super::super::node::{Kind, NOBODY};
use super::super::table::Table;
use super::super::tree::Tree;
use super::*;
use crate::contents::seal::seal;
use std::ffi::CString;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixDatagram;
use tempfile::TempDir;

/// A device that refuses passthrough.
fn device() -> Device {
    let (end, _) = UnixDatagram::pair().unwrap();
    Device::duplicate(end.as_raw_fd()).unwrap()
}

/// A node of `size` bytes whose content is said to be in a file that has `content`.
fn node(dir: &TempDir, version: u64, size: u64, content: Option<&[u8]>) -> Arc<Node> {
    let path = dir.path().join(version.to_string());
    let place = content.map(|content| {
        std::fs::write(&path, content).unwrap();
        seal(&File::open(&path).unwrap()).unwrap();
        CString::new(path.to_str().unwrap()).unwrap().into()
    });
    let kind = Kind::File;
    let upsert = Upsert {
        path: "f".to_owned(),
        kind,
        size,
        mode: 0,
        mtime_ns: 0,
        uid: NOBODY,
        gid: NOBODY,
        version,
        place,
        ..Upsert::default()
    };
    let mut tree = Tree::new(0);
    tree.upsert(&upsert, &mut Batch::new(0));
    tree.find("f").unwrap().clone()
}

#[test]
fn an_open_file_is_read_to_the_end_though_its_name_is_gone() {
    let (dir, device, pins) = (tempfile::tempdir().unwrap(), device(), Pins::default());
    let node = node(&dir, 1, 5, Some(b"hello"));
    assert_eq!(pins.open(&node, "f", &device, true), Ok(Opened::Cached));
    std::fs::remove_file(dir.path().join("1")).unwrap();
    *node.place.lock() = None;
    assert_eq!(pins.open(&node, "f", &device, true), Ok(Opened::Cached));
    pins.release(node.id, &device);
    let mut buffer = [0; 9];
    assert_eq!(pins.read(&node, 2, &mut buffer), Ok(3));
    assert_eq!(&buffer[..3], b"llo");
    assert_eq!(pins.read(&node, 5, &mut buffer), Ok(0));
    assert_eq!(pins.read(&node, u64::MAX, &mut buffer), Ok(0));
    pins.release(node.id, &device);
    assert_eq!(pins.read(&node, 0, &mut buffer), Err(Trouble::Absent));
    pins.release(node.id, &device);
    assert_eq!(pins.counts()[0], ("open", 0));
}

#[test]
fn passthrough_is_not_asked_for_again_once_it_is_forbidden() {
    let (dir, device, pins) = (tempfile::tempdir().unwrap(), device(), Pins::default());
    for version in 1..4 {
        let node = node(&dir, version, 1, Some(b"x"));
        pins.open(&node, "f", &device, true).unwrap();
        pins.release(node.id, &device);
    }
    assert_eq!(pins.counts()[3], ("passthrough_refused", 1));
    assert_eq!(pins.counts()[5], ("ready", 0));
}

#[test]
fn a_file_of_the_wrong_size_is_damaged_and_forgotten() {
    for content in [&b"hell"[..], b"hello!", b""] {
        let (dir, device, pins) = (tempfile::tempdir().unwrap(), device(), Pins::default());
        let node = node(&dir, 1, 5, Some(content));
        assert_eq!(pins.open(&node, "f", &device, false), Err(Trouble::Damaged));
        assert_eq!(pins.open(&node, "f", &device, false), Err(Trouble::Absent));
        assert_eq!(pins.counts()[0], ("open", 0));
    }
}

#[test]
fn a_file_that_somebody_wrote_to_is_damaged_and_forgotten() {
    let (dir, device, pins) = (tempfile::tempdir().unwrap(), device(), Pins::default());
    let node = node(&dir, 1, 5, Some(b"hello"));
    std::fs::write(dir.path().join("1"), b"jello").unwrap();
    assert_eq!(pins.open(&node, "f", &device, false), Err(Trouble::Damaged));
    assert_eq!(pins.open(&node, "f", &device, false), Err(Trouble::Absent));
}

#[test]
fn a_file_that_shrinks_while_it_is_open_is_damaged_not_short() {
    let (dir, device, pins) = (tempfile::tempdir().unwrap(), device(), Pins::default());
    let node = node(&dir, 1, 5, Some(b"hello"));
    pins.open(&node, "f", &device, false).unwrap();
    std::fs::write(dir.path().join("1"), b"hel").unwrap();
    assert_eq!(pins.read(&node, 0, &mut [0; 5]), Err(Trouble::Damaged));
    assert_eq!(pins.read(&node, 0, &mut [0; 3]), Ok(3));
}

#[test]
fn only_regular_files_are_content() {
    let (dir, device, pins) = (tempfile::tempdir().unwrap(), device(), Pins::default());
    let link = dir.path().join("link");
    std::os::unix::fs::symlink("/etc/passwd", &link).unwrap();
    for place in [link.to_str().unwrap(), dir.path().to_str().unwrap()] {
        let node = node(&dir, 1, 5, None);
        *node.place.lock() = Some(CString::new(place).unwrap().into());
        let opened = pins.open(&node, "f", &device, false);
        assert!(matches!(
            opened,
            Err(Trouble::Failed(libc::ELOOP) | Trouble::Damaged)
        ));
    }
}

#[test]
fn empty_files_need_no_content() {
    let (dir, device, pins) = (tempfile::tempdir().unwrap(), device(), Pins::default());
    let node = node(&dir, 1, 0, None);
    assert_eq!(pins.open(&node, "f", &device, true), Ok(Opened::Cached));
    assert_eq!(pins.read(&node, 0, &mut [0; 9]), Ok(0));
}

#[test]
fn what_is_held_is_counted_once_and_not_beyond_the_bound() {
    let (dir, device, pins) = (tempfile::tempdir().unwrap(), device(), Pins::default());
    let held = node(&dir, 1, 5, Some(b"hello"));
    for _ in 0..2 {
        pins.hold(&held, "f");
    }
    let mut buffer = [0; 5];
    assert_eq!(pins.read(&held, 0, &mut buffer), Ok(5));
    std::fs::remove_file(dir.path().join("1")).unwrap();
    assert_eq!(pins.read(&held, 0, &mut buffer), Ok(5), "it stays open");
    for version in 2..HELD_MAX as u64 + 2 {
        pins.hold(&node(&dir, version, 1, None), "f");
    }
    assert_eq!(pins.counts()[0], ("open", HELD_MAX as u64));
    pins.release(held.id, &device);
    assert_eq!(pins.counts()[0], ("open", HELD_MAX as u64 - 1));
}

#[test]
fn the_next_process_serves_open_files_the_same_way() {
    let (dir, device) = (tempfile::tempdir().unwrap(), device());
    let (cached, direct) = (
        node(&dir, 1, 5, Some(b"hello")),
        node(&dir, 2, 5, Some(b"world")),
    );
    let file = tempfile::tempfile().unwrap();
    let shared = |table| Arc::new(Mutex::new(table));
    let former = Pins::default();
    former.begin(shared(Table::begin(file.try_clone().unwrap()).unwrap()));
    former.open(&cached, "f", &device, false).unwrap();
    former.open(&cached, "f", &device, false).unwrap();
    let mut table = Table::resume(file.try_clone().unwrap()).unwrap().0;
    let row = |opens| Row {
        node: direct.id,
        backing: 3,
        opens,
    };
    table.add(row(1), &direct, "f");

    let (table, left) = Table::resume(file.try_clone().unwrap()).unwrap();
    let pins = Pins::default();
    assert_eq!(pins.resume(shared(table), &left), [cached.id, direct.id]);
    pins.reopen(&cached);
    std::fs::remove_file(dir.path().join("1")).unwrap();
    assert_eq!(
        pins.open(&direct, "f", &device, true),
        Ok(Opened::Passthrough(3))
    );
    assert_eq!(pins.open(&cached, "f", &device, true), Ok(Opened::Cached));
    let mut buffer = [0; 5];
    assert_eq!(
        (pins.read(&cached, 0, &mut buffer), &buffer),
        (Ok(5), b"hello")
    );
    for _ in 0..3 {
        pins.release(cached.id, &device);
    }
    let left = Table::resume(file).unwrap().1;
    assert_eq!((left.len(), left[0].0, left[0].1), (1, 1, row(2)));
}
