use super::super::node::NOBODY;
use super::*;

fn present() -> Node {
    new((5, Kind::File, 0o644), 1, b"f", 0)
}

fn row(node: u64, backing: u32, opens: u32) -> Row {
    Row {
        node,
        backing,
        opens,
    }
}

/// Without the nodes; all are of the present.
fn heads(left: &[Left]) -> Vec<(u32, Row)> {
    assert!(left.iter().all(|(_, _, node, _)| !node.past));
    left.iter().map(|(slot, row, ..)| (*slot, *row)).collect()
}

#[test]
fn what_one_process_wrote_the_next_one_finds() {
    let file = tempfile::tempfile().unwrap();
    let mut table = Table::begin(file.try_clone().unwrap()).unwrap();
    let first = table.add(row(1 << 61 | 5, 3, 1), &present(), "f");
    let second = table.add(row(7, 0, 2), &present(), "f");
    table.add(row(8, 4, 1), &present(), "f");
    table.set(first, row(1 << 61 | 5, 3, 6));
    table.remove(second);

    let (mut next, rows) = Table::resume(file.try_clone().unwrap()).unwrap();
    assert_eq!(
        heads(&rows),
        [(0, row(1 << 61 | 5, 3, 6)), (2, row(8, 4, 1))]
    );
    assert_eq!(
        next.add(row(9, 0, 1), &present(), "f"),
        1,
        "the free slot is used again"
    );
    assert_eq!(next.add(row(10, 0, 1), &present(), "f"), 3);
    assert_eq!(next.errors, 0);
}

#[test]
fn a_fresh_connection_begins_with_an_empty_table() {
    let file = tempfile::tempfile().unwrap();
    Table::begin(file.try_clone().unwrap())
        .unwrap()
        .add(row(7, 1, 1), &present(), "f");
    Table::begin(file.try_clone().unwrap()).unwrap();
    assert!(Table::resume(file).unwrap().1.is_empty());
}

#[test]
fn a_torn_tail_is_no_row() {
    let file = tempfile::tempfile().unwrap();
    Table::begin(file.try_clone().unwrap())
        .unwrap()
        .add(row(7, 1, 1), &present(), "f");
    file.set_len(ROW as u64).unwrap();
    file.write_all_at(&[1; 500], ROW as u64).unwrap();
    assert_eq!(heads(&Table::resume(file).unwrap().1), [(0, row(7, 1, 1))]);
}

#[test]
fn a_table_that_cannot_be_written_is_counted() {
    let path = tempfile::NamedTempFile::new().unwrap();
    let (mut table, _) = Table::resume(File::open(path.path()).unwrap()).unwrap();
    table.add(row(7, 1, 1), &present(), "f");
    assert_eq!(table.errors, 1);
}

#[test]
fn a_table_grows_and_keeps_its_rows() {
    let file = tempfile::tempfile().unwrap();
    let mut table = Table::begin(file.try_clone().unwrap()).unwrap();
    let rows = (1..=3_000).map(|number| row(number, 0, 1));
    let slots: Vec<u32> = rows
        .clone()
        .map(|row| table.add(row, &present(), "f"))
        .collect();
    assert_eq!((slots[2_999], table.errors), (2_999, 0));
    table.remove(0);
    table.set(2_999, row(3_000, 7, 2));
    let mut wanted: Vec<(u32, Row)> = slots.into_iter().zip(rows).skip(1).collect();
    wanted[2_998].1 = row(3_000, 7, 2);
    assert_eq!(heads(&Table::resume(file).unwrap().1), wanted);
}

/// Each row says its number in all that it has.
fn change_without_end(file: &File) -> ! {
    let table = Table::begin(file.try_clone().unwrap()).unwrap();
    let (table, mut number) = (Mutex::new(table), 0);
    loop {
        number += 1;
        let name = format!("{number}").into_bytes();
        let node = past(&name, &name);
        let at = |opens| row(number, number as u32, opens);
        let slot = table.lock().add(at(number as u32), &node, "p");
        table.lock().set(slot, at(0));
        table.lock().remove(slot);
    }
}

#[test]
fn a_process_that_is_killed_leaves_rows_that_are_whole_or_free() {
    let (mut open, mut closed) = (0, 0);
    for _ in 0..300 {
        let file = tempfile::tempfile().unwrap();
        // SAFETY: the child has this thread only, and uses nothing that another one may have locked
        // but memory, whose locks libc sees to.
        let child = unsafe { libc::fork() };
        if child == 0 {
            change_without_end(&file);
        }
        let begun = |file: &File| file.metadata().unwrap().len() > 0;
        while !begun(&file) {
            std::thread::yield_now();
        }
        // SAFETY: our own child.
        unsafe { libc::kill(child, libc::SIGKILL) };
        // SAFETY: as above; nobody asks how it ended.
        unsafe { libc::waitpid(child, std::ptr::null_mut(), 0) };
        for (slot, row, node, _) in Table::resume(file).unwrap().1 {
            let name = format!("{}", row.node);
            let place = node
                .place
                .lock()
                .as_deref()
                .map(|at| at.to_bytes().to_vec());
            assert_eq!((slot, row.backing), (0, row.node as u32));
            assert_eq!(
                (&*node.name, place),
                (name.as_bytes(), Some(name.clone().into()))
            );
            assert!(row.opens == 0 || row.opens == row.backing);
            *(if row.opens > 0 {
                &mut open
            } else {
                &mut closed
            }) += 1;
        }
    }
    assert!(open > 0 && closed > 0, "{open} open, {closed} closed");
}

fn past(name: &[u8], place: &[u8]) -> Node {
    Node {
        version: 9.into(),
        size: 5,
        uid: 12.into(),
        gid: NOBODY.into(),
        past: true,
        place: Place::of_one(Some(CString::new(place).unwrap().into())),
        ..new((77, Kind::File, 0o640), 3, name, -7)
    }
}

#[test]
fn a_node_is_written_with_its_row() {
    let file = tempfile::tempfile().unwrap();
    let mut table = Table::begin(file.try_clone().unwrap()).unwrap();
    let slot = table.add(row(77, 0, 1), &past(b"name", b"/objects/1"), "d/name");
    table.set(slot, row(77, 0, 2));
    let (mut table, left) = Table::resume(file.try_clone().unwrap()).unwrap();
    let [(0, found, node, path)] = &left[..] else {
        panic!("one row");
    };
    assert_eq!(*found, row(77, 0, 2));
    assert_eq!(path, "d/name");
    let numbers = (node.id, node.parent, node.version(), node.size);
    assert_eq!(numbers, (77, 3, 9, 5));
    let owner = (node.uid.load(Relaxed), node.gid.load(Relaxed));
    assert_eq!(owner, (12, NOBODY));
    let shown = (
        node.kind,
        node.mode.load(Relaxed),
        node.mtime_ns.load(Relaxed),
    );
    assert_eq!(shown, (Kind::File, 0o640, -7));
    assert_eq!(&*node.name, b"name");
    assert_eq!(node.place.lock().as_deref(), Some(c"/objects/1"));
    assert!(node.past && node.is_orphan() && !node.known());
    table.remove(slot);
    assert_eq!(table.add(row(8, 0, 1), &present(), "f"), slot);
    let [(_, _, node, _)] = &Table::resume(file).unwrap().1[..] else {
        panic!("one row");
    };
    let shown = (node.past, &*node.name, node.place.lock().is_none());
    assert_eq!(shown, (false, &b"f"[..], true), "nothing is left of it");
}

#[test]
fn what_does_not_fit_is_left_out_the_path_first() {
    let (file, name) = (tempfile::tempfile().unwrap(), [b'n'; 255]);
    let mut table = Table::begin(file.try_clone().unwrap()).unwrap();
    let room = ROW - FIXED - name.len();
    let path = "d/f";
    for size in [room - 5, room - 4, room, room + 1] {
        table.add(row(77, 0, 1), &past(&name, &vec![b'p'; size]), path);
    }
    let left = Table::resume(file).unwrap().1;
    let found = left.iter().map(|(_, _, node, path)| {
        assert_eq!(*node.name, name);
        let place = node.place.lock();
        (
            place.as_deref().map(|place| place.to_bytes().len()),
            &**path,
        )
    });
    let expected = [
        (Some(room - 5), path),
        (Some(room - 4), ""),
        (Some(room), ""),
        (None, path),
    ];
    assert_eq!(found.collect::<Vec<_>>(), expected);
}

#[test]
fn a_row_of_a_version_that_wrote_no_path_is_read() {
    let file = tempfile::tempfile().unwrap();
    let mut table = Table::begin(file.try_clone().unwrap()).unwrap();
    table.add(row(77, 0, 1), &past(b"name", b"/objects/1"), "");
    let [(0, _, node, path)] = &Table::resume(file).unwrap().1[..] else {
        panic!("one row");
    };
    assert_eq!((&*node.name, &**path), (&b"name"[..], ""));
}
